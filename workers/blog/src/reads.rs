//! What gateways ask a shard: each answer is of one snapshot with whether the shard owns the slot.

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use shardlane_runtime::gateway::{Answer, Part, shard_error};
use shardlane_runtime::{owned, owned_slots};
use sqlx::postgres::PgRow;
use sqlx::{PgPool, Row};
use utoipa::ToSchema;

use crate::posts::Reason;
use crate::tables::{published, reason};
use crate::wire::Published;

/// Path of posts on a worker.
pub const POST: &str = "/internal/post";
/// Path of what became of requests.
pub const CHANGE: &str = "/internal/change";
/// Path of the newest posts.
pub const NEWEST: &str = "/internal/newest";

/// Most posts in one list. A shard may be asked for one more, to know whether there are more.
pub const MAX_POSTS: usize = 100;
/// Characters of a content that a list shows.
const EXCERPT: i32 = 200;

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeState {
    /// A digest of what was asked for; absent for a new post.
    pub asked: Option<i64>,
    /// The version that it made, or that was there when it was refused.
    pub version: i64,
    /// Why it was refused.
    pub refused: Option<Reason>,
}

/// A post, as a list shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Summary {
    /// Where it is found.
    pub slug: String,
    /// Rises by one with every change.
    pub version: i64,
    /// The title.
    pub title: String,
    /// How its content begins.
    pub excerpt: String,
    /// When it was published, in milliseconds since 1970.
    pub published_at: i64,
    /// When it was changed last, in milliseconds since 1970; absent if never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edited_at: Option<i64>,
}

#[derive(Deserialize)]
struct PostQuery {
    slot: u32,
    slug: String,
}

#[derive(Deserialize)]
struct ChangeQuery {
    slot: u32,
    slug: String,
    request_id: String,
}

/// Posts before this one, newest first.
#[derive(Deserialize)]
struct NewestQuery {
    published_at: i64,
    slug: String,
    limit: i64,
}

type Failed = (StatusCode, String);

/// The routes of a worker.
pub fn routes(shard: PgPool) -> Router {
    Router::new().route(POST, get(post)).route(CHANGE, get(change)).route(NEWEST, get(newest)).with_state(shard)
}

async fn post(
    State(shard): State<PgPool>,
    Query(query): Query<PostQuery>,
) -> Result<Json<Answer<Option<Published>>>, Failed> {
    let statement = owned!(
        "x.slug, x.version, x.deleted, x.title, x.content, x.published_at, x.edited_at",
        "SELECT * FROM post WHERE slug = $2"
    );
    let asked = sqlx::query(statement).bind(query.slot.cast_signed()).bind(&query.slug);
    let row = asked.fetch_optional(&shard).await.map_err(shard_error)?;
    let read = |row: &PgRow| Ok(row.get::<Option<&str>, _>(0).map(|_| published(row)));
    Answer::of(row, read).map(Json).map_err(shard_error)
}

async fn change(
    State(shard): State<PgPool>,
    Query(query): Query<ChangeQuery>,
) -> Result<Json<Answer<Option<ChangeState>>>, Failed> {
    let statement = owned!(
        "x.asked, x.version, x.refused",
        "SELECT asked, version, refused FROM change WHERE slug = $2 AND request_id = $3
         UNION ALL SELECT NULL, 1, NULL FROM post WHERE slug = $2 AND request_id = $3
         LIMIT 1"
    );
    let asked = sqlx::query(statement).bind(query.slot.cast_signed()).bind(&query.slug).bind(&query.request_id);
    let row = asked.fetch_optional(&shard).await.map_err(shard_error)?;
    let read = |row: &PgRow| {
        let Some(version) = row.get(1) else { return Ok(None) };
        Ok(Some(ChangeState { asked: row.get(0), version, refused: reason(row.get(2))? }))
    };
    Answer::of(row, read).map(Json).map_err(shard_error)
}

async fn newest(
    State(shard): State<PgPool>,
    Query(query): Query<NewestQuery>,
) -> Result<Json<Part<Vec<Summary>>>, Failed> {
    // Slots without a post are rows too: they tell which the shard owns.
    let rows = sqlx::query(concat!(
        "WITH s AS (",
        owned_slots!(),
        ") SELECT s.slots, x.* FROM (SELECT ARRAY(SELECT slot FROM s) AS slots) s LEFT JOIN LATERAL (
             SELECT slug, version, title, left(content, $4) AS excerpt, published_at, edited_at FROM post
             WHERE NOT deleted AND (published_at, slug) < ($1, $2 COLLATE \"C\") AND slot = ANY(s.slots)
             ORDER BY published_at DESC, slug DESC LIMIT $3
         ) x ON true ORDER BY x.published_at DESC, x.slug DESC"
    ))
    .bind(query.published_at)
    .bind(&query.slug)
    .bind(query.limit.clamp(1, MAX_POSTS as i64 + 1))
    .bind(EXCERPT)
    .fetch_all(&shard)
    .await
    .map_err(shard_error)?;
    let slots: Vec<i32> = rows.first().map(|row| row.get(0)).unwrap_or_default();
    let answer = rows.iter().filter_map(summary).collect();
    Ok(Json(Part { slots: slots.into_iter().map(i32::unsigned_abs).collect(), answer }))
}

fn summary(row: &PgRow) -> Option<Summary> {
    Some(Summary {
        slug: row.get::<Option<String>, _>(1)?,
        version: row.get(2),
        title: row.get(3),
        excerpt: row.get(4),
        published_at: row.get(5),
        edited_at: row.get(6),
    })
}
