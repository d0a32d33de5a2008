//! Publishing, editing and deleting posts.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use shardlane_runtime::gateway::{Problem, decided, encoded, idempotency_key, json_body, request_id, responds_async};
use shardlane_runtime::process::now_ms;
use utoipa::ToSchema;

use crate::gateway::negotiation::{etag, expected, is_form, wants_page};
use crate::gateway::{Blog, not_found};
use crate::posts::Reason;
use crate::reads::{self, CHANGE};
use crate::service::NEW_POSTS;
use crate::slugs;
use crate::wire::{PostRecord, Text, What, check_slug, check_text};

/// What whoever posts is told.
const RECEIVED: &str = "We have received your post and it will be published sooner or later.";
/// How long an edit or a deletion waits for its outcome before its user is told where to look.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a browser waits before it is shown a page that may not be there yet.
const BROWSERS_PATIENCE: Duration = Duration::from_secs(2);

/// A post, or what it is to be.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewPost {
    /// 1 to 200 characters, no control characters.
    title: String,
    /// Plain text of at most 100,000 bytes of UTF-8, without NUL.
    content: String,
}

/// A post that was taken.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Received {
    message: &'static str,
    slug: String,
}

/// A change that was made.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Changed {
    slug: String,
    /// The version that it made.
    version: i64,
    request_id: String,
}

/// What became of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum ChangeState {
    /// It was made.
    Done,
    /// It was not.
    Refused,
}

/// A change, or the post itself, and what became of it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Change {
    slug: String,
    request_id: String,
    state: ChangeState,
    /// The version that it made, or that was there when it was refused; 0 for none.
    version: i64,
    /// Why it was refused, for programs.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<Reason>,
    /// Why it was refused, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'static str>,
}

/// Takes a post, as JSON or as a form: it is safe in Kafka when this answers, and will be published.
#[utoipa::path(post, path = "/post", request_body(content(
    (NewPost = "application/json"), (NewPost = "application/x-www-form-urlencoded"),
)), params(
    ("Idempotency-Key" = Option<String>, Header, description = "The same for every retry: then there is one post. Without it, \
                                                               every request is another post."),
), responses(
    (status = 201, body = Received, description = "It is safe; it will be at the Location."),
    (status = 303, description = "The same, for a browser's form."),
    (status = 400, description = "No post, and why."),
    (status = 503, description = "Kafka did not confirm it; try again with the same Idempotency-Key."),
))]
pub(super) async fn publish(
    State(blog): State<Arc<Blog>>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let (text, form) = text_of(&headers, body)?;
    let (slug, request_id) = match idempotency_key(&headers)? {
        // A retry finds the slug again, without anybody having to remember it.
        Some(key) => (slugs::of_key(&text.title, key), key.to_owned()),
        None => (slugs::fresh(&text.title, now_ms()), request_id(None)?),
    };
    blog.ask(&slug, &request_id, &What::Publish(text)).await?;
    let location = format!("/post/{slug}");
    if form && wants_page(&headers) {
        // Seldom takes longer than it takes to look; who is too early sees that it is not there yet.
        blog.outcome(&slug, &request_id, BROWSERS_PATIENCE).await;
        return Ok((StatusCode::SEE_OTHER, [(header::LOCATION, location)]).into_response());
    }
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(Received { message: RECEIVED, slug }))
        .into_response())
}

/// Gives a post another text, if it still has the version that the client has read.
#[utoipa::path(put, path = "/post/{slug}", request_body = NewPost, params(
    ("slug" = String, Path),
    ("If-Match" = String, Header, description = "The ETag of the version that is changed."),
    ("Idempotency-Key" = Option<String>, Header, description = "The same for every retry."),
    ("Prefer" = Option<String>, Header, description = "`respond-async`: answer as soon as it is safe in Kafka."),
), responses(
    (status = 200, body = Changed), (status = 202, description = "It is safe; its outcome will be at the Location."),
    (status = 400, description = "No post, and why."), (status = 404, description = "There is no such post, or no more."),
    (status = 409, description = "The Idempotency-Key was used for something else on this post."),
    (status = 412, description = "The post has another version."), (status = 428, description = "There is no If-Match."),
))]
pub(super) async fn edit(
    State(blog): State<Arc<Blog>>,
    path: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let (slug, expect) = (path?.0, expected(&headers)?);
    let (text, _) = text_of(&headers, body)?;
    blog.change(&headers, slug, &What::Edit { text, expect }).await
}

/// Deletes a post, if it still has the version that the client has read.
#[utoipa::path(delete, path = "/post/{slug}", params(
    ("slug" = String, Path),
    ("If-Match" = String, Header, description = "The ETag of the version that is deleted."),
    ("Idempotency-Key" = Option<String>, Header, description = "The same for every retry."),
    ("Prefer" = Option<String>, Header, description = "`respond-async`: answer as soon as it is safe in Kafka."),
), responses(
    (status = 204, description = "It is deleted."),
    (status = 202, description = "It is safe; its outcome will be at the Location."),
    (status = 404, description = "There is no such post, or no more."),
    (status = 409, description = "The Idempotency-Key was used for something else on this post."),
    (status = 412, description = "The post has another version."), (status = 428, description = "There is no If-Match."),
))]
pub(super) async fn delete(
    State(blog): State<Arc<Blog>>,
    path: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let (slug, expect) = (path?.0, expected(&headers)?);
    blog.change(&headers, slug, &What::Delete { expect }).await
}

/// What became of an edit or a deletion, or of the post itself.
#[utoipa::path(get, path = "/post/{slug}/changes/{request_id}", params(
    ("slug" = String, Path), ("request_id" = String, Path),
), responses(
    (status = 200, body = Change), (status = 404, description = "Nothing is known of it, or not yet."),
))]
pub(super) async fn change(
    State(blog): State<Arc<Blog>>,
    path: Result<Path<(String, String)>, PathRejection>,
) -> Result<Json<Change>, Problem> {
    let (slug, request_id) = path?.0;
    check_slug(&slug).map_err(|_| not_found())?;
    let unknown = || Problem::not_found("nothing is known of this request; if it was accepted, it is still on its way");
    let reads::ChangeState { version, refused, .. } = blog.look(&slug, &request_id).await?.ok_or_else(unknown)?;
    let state = if refused.is_some() { ChangeState::Refused } else { ChangeState::Done };
    Ok(Json(Change { slug, request_id, state, version, reason: refused, detail: refused.map(Reason::text) }))
}

/// A post's text, and whether it came from a form.
fn text_of(headers: &HeaderMap, body: Result<Bytes, BytesRejection>) -> Result<(Text, bool), Problem> {
    let form = body.as_ref().is_ok_and(|body| is_form(headers, body));
    let NewPost { title, content } = match body {
        Ok(body) if form => serde_urlencoded::from_bytes(&body)
            .map_err(|error| Problem::bad_request(format!("the form is not as expected: {error}")))?,
        body => json_body(body)?,
    };
    let text = Text { title, content };
    check_text(&text).map_err(Problem::bad_request)?;
    Ok((text, form))
}

impl Blog {
    /// Takes an instruction for a post.
    async fn ask(&self, slug: &str, request_id: &str, what: &What) -> Result<(), Problem> {
        let value =
            serde_json::to_vec(&PostRecord::of(slug, request_id, what)).map_err(|error| Problem::internal(&error))?;
        let taken = self.gateway.submit(NEW_POSTS, slug.as_bytes(), value).await;
        taken.map_err(|problem| problem.with("slug", slug).with("request_id", request_id))
    }

    /// What became of a request, if that is known.
    async fn look(&self, slug: &str, request_id: &str) -> Result<Option<reads::ChangeState>, Problem> {
        self.gateway.read(slug.as_bytes(), CHANGE, &[("slug", slug), ("request_id", request_id)]).await
    }

    /// Waits for what becomes of a request.
    async fn outcome(&self, slug: &str, request_id: &str, patience: Duration) -> Option<reads::ChangeState> {
        // Whoever owns the post may be away for a moment, but has the instruction in any case.
        decided(patience, || async move { self.look(slug, request_id).await.ok().flatten() }).await
    }

    async fn change(&self, headers: &HeaderMap, slug: String, what: &What) -> Result<Response, Problem> {
        check_slug(&slug).map_err(|_| not_found())?;
        let request_id = request_id(idempotency_key(headers)?.map(str::to_owned))?;
        self.ask(&slug, &request_id, what).await?;
        let outcome = match responds_async(headers) {
            true => None,
            false => self.outcome(&slug, &request_id, PATIENCE).await,
        };
        let Some(reads::ChangeState { asked, version, refused }) = outcome else {
            return Ok(accepted(&slug, &request_id));
        };
        if asked != Some(what.digest()) {
            let detail = "this Idempotency-Key was used for something else on this post; choose another";
            return Err(Problem::new(StatusCode::CONFLICT, detail).with("request_id", request_id));
        }
        if let Some(reason) = refused {
            return Err(told_why(reason, version).with("request_id", request_id));
        }
        // So that whoever is told of it sees it. If it does not work now, the cache manager does it.
        if let Err(problem) = self.shelf.refresh(&slug).await {
            tracing::debug!(?problem, "a post that was changed was not put into the cache");
        }
        Ok(match what {
            What::Delete { .. } => StatusCode::NO_CONTENT.into_response(),
            _ => ([(header::ETAG, etag(version, false))], Json(Changed { slug, version, request_id })).into_response(),
        })
    }
}

fn told_why(reason: Reason, version: i64) -> Problem {
    let status = match reason {
        Reason::NoPost | Reason::Deleted => StatusCode::NOT_FOUND,
        Reason::OtherVersion => StatusCode::PRECONDITION_FAILED,
    };
    Problem::new(status, reason.text()).with("reason", reason.as_str()).with("version", version)
}

/// It is safe, and its outcome will be found.
fn accepted(slug: &str, request_id: &str) -> Response {
    let location = format!("/post/{slug}/changes/{}", encoded(request_id));
    let body = serde_json::json!({ "slug": slug, "request_id": request_id, "status": location });
    (StatusCode::ACCEPTED, [(header::LOCATION, location)], Json(body)).into_response()
}
