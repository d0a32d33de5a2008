//! What gateways ask a shard: each answer is of one snapshot with whether the shard owns the slot.

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use shardlane_runtime::gateway::{Answer, shard_error};
use shardlane_runtime::owned;
use sqlx::postgres::PgRow;
use sqlx::{PgPool, Row};

/// Path of [`Account`]s on a worker.
pub const ACCOUNT: &str = "/internal/account";
/// Path of requests' [`Outcome`]s on a worker.
pub const OUTCOME: &str = "/internal/outcome";

/// An account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Account {
    /// KSUID, made of the time and place of the request that opened it.
    pub id: String,
    /// In canonical form.
    pub username: String,
}

/// What became of a request; `None` while nothing is known of it.
pub type Outcome = Option<bool>;

#[derive(Deserialize)]
struct AccountQuery {
    slot: u32,
    username: String,
}

#[derive(Deserialize)]
struct OutcomeQuery {
    slot: u32,
    username: String,
    request_id: String,
}

type Failed = (StatusCode, String);

/// The routes of a worker.
pub fn routes(shard: PgPool) -> Router {
    Router::new().route(ACCOUNT, get(account)).route(OUTCOME, get(outcome)).with_state(shard)
}

async fn account(
    State(shard): State<PgPool>,
    Query(query): Query<AccountQuery>,
) -> Result<Json<Answer<Option<Account>>>, Failed> {
    let statement =
        owned!("x.id, x.username", "SELECT a.id::text AS id, a.username FROM account a WHERE a.username = $2");
    let asked = sqlx::query(statement).bind(query.slot.cast_signed()).bind(&query.username);
    let row = asked.fetch_optional(&shard).await.map_err(shard_error)?;
    let account = |row: &PgRow| {
        let id: Option<String> = row.get(0);
        Ok(id.map(|id| Account { id, username: row.get(1) }))
    };
    Answer::of(row, account).map(Json).map_err(shard_error)
}

async fn outcome(
    State(shard): State<PgPool>,
    Query(query): Query<OutcomeQuery>,
) -> Result<Json<Answer<Outcome>>, Failed> {
    let statement = owned!(
        "x.won",
        "SELECT true AS won FROM account a WHERE a.username = $2 AND a.request_id = $3
         UNION ALL SELECT false FROM refusal r WHERE r.username = $2 AND r.request_id = $3
         ORDER BY won DESC LIMIT 1"
    );
    let asked = sqlx::query(statement).bind(query.slot.cast_signed()).bind(&query.username).bind(&query.request_id);
    let row = asked.fetch_optional(&shard).await.map_err(shard_error)?;
    Answer::of(row, |row| Ok(row.get(0))).map(Json).map_err(shard_error)
}
