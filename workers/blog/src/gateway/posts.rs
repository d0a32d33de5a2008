//! Reading posts.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use shardlane_runtime::gateway::Problem;
use utoipa::ToSchema;

use crate::gateway::negotiation::{etag, has_it, wants_page};
use crate::gateway::{Blog, not_found, pages};
use crate::reads::{MAX_POSTS, Summary};
use crate::shelf::{After, List};
use crate::wire::{Post, Published, check_slug};

/// Posts in an answer, unless the user says how many.
const POSTS_SHOWN: usize = 20;

/// A post.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PostAnswer<'a> {
    slug: &'a str,
    /// Rises by one with every change; the ETag too.
    version: i64,
    title: &'a str,
    /// Plain text.
    content: &'a str,
    /// Milliseconds since 1970.
    published_at: i64,
    /// Milliseconds since 1970; absent if it was never changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    edited_at: Option<i64>,
}

/// A post as it is now, as JSON or as a page.
#[utoipa::path(get, path = "/post/{slug}", params(
    ("slug" = String, Path),
    ("Accept" = Option<String>, Header, description = "`text/html` for a page."),
    ("If-None-Match" = Option<String>, Header, description = "The ETag of what the client has."),
), responses(
    (status = 200, body = PostAnswer), (status = 304, description = "The client has it."),
    (status = 404, description = "There is none, or not yet, or no more."),
    (status = 503, description = "Its partition does not answer now, or too many posts are being read."),
))]
pub(super) async fn post(
    State(blog): State<Arc<Blog>>,
    headers: HeaderMap,
    path: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    let slug = path?.0;
    let page = wants_page(&headers);
    let state = if check_slug(&slug).is_ok() { blog.shelf.read(&slug).await? } else { Arc::default() };
    let Some(Published { version, post: Some(post), .. }) = &*state else {
        let vary = [(header::VARY, "Accept"), (header::CACHE_CONTROL, "no-store")];
        return Ok((vary, if page { pages::missing() } else { not_found().into_response() }).into_response());
    };
    let tag = etag(*version, page);
    // Whoever keeps it asks each time whether it is still that.
    let told = [(header::ETAG, &*tag), (header::VARY, "Accept"), (header::CACHE_CONTROL, "no-cache")];
    if has_it(&headers, &tag) {
        return Ok((StatusCode::NOT_MODIFIED, told).into_response());
    }
    let Post { text, published_at, edited_at } = post;
    let (title, content) = (&*text.title, &*text.content);
    let answer = || PostAnswer {
        slug: &slug,
        version: *version,
        title,
        content,
        published_at: *published_at,
        edited_at: *edited_at,
    };
    Ok((told, if page { pages::post(post) } else { Json(answer()).into_response() }).into_response())
}

#[derive(Debug, Deserialize)]
pub(super) struct ListQuery {
    after: Option<String>,
    limit: Option<usize>,
}

/// Posts, the newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Posts {
    posts: Vec<Summary>,
    /// What to give as `after` for those that come next; absent at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// The newest posts of all partitions.
#[utoipa::path(get, path = "/posts", params(
    ("after" = Option<String>, Query, description = "`next` of the list before."),
    ("limit" = Option<usize>, Query, description = "How many, at most 100; 20 if absent."),
), responses(
    (status = 200, body = Posts), (status = 503, description = "Not all partitions answer now."),
))]
pub(super) async fn list(
    State(blog): State<Arc<Blog>>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<Posts>, Problem> {
    let ListQuery { after, limit } = query?.0;
    let List { posts, next } = (*blog.list(after.as_deref(), limit).await?).clone();
    Ok(Json(Posts { posts, next: next.map(|next| next.to_string()) }))
}

/// The page of the newest posts, with a form for a new one.
pub(super) async fn front(
    State(blog): State<Arc<Blog>>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let ListQuery { after, limit } = query?.0;
    let list = blog.list(after.as_deref(), limit).await?;
    Ok(([(header::CACHE_CONTROL, "no-cache")], pages::front(&list, after.is_some())).into_response())
}

impl Blog {
    async fn list(&self, after: Option<&str>, limit: Option<usize>) -> Result<Arc<List>, Problem> {
        let limit = limit.unwrap_or(POSTS_SHOWN);
        if !(1..=MAX_POSTS).contains(&limit) {
            return Err(Problem::bad_request(format!("limit is 1 to {MAX_POSTS}; this is {limit}")));
        }
        let bad = || Problem::bad_request("after is the `next` of another list, or absent");
        let after = match after {
            None => After::nothing(),
            Some(text) => After::parse(text).filter(|after| check_slug(&after.slug).is_ok()).ok_or_else(bad)?,
        };
        self.shelf.list(&after, limit).await
    }
}
