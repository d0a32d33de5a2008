//! The HTTP front of a sign-up service.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use shardlane_runtime::cli::GatewayOptions;
use shardlane_runtime::gateway::{
    Door, Gateway, GatewayError, Problem, RESPOND_ASYNC, Replies, encoded, json_body, request_id, responds_async, serve,
};
use shardlane_runtime::health::Health;
use shardlane_runtime::metrics::Metrics;
use shardlane_runtime::process::Shutdown;
use utoipa::{OpenApi, ToSchema};

use crate::reads::{ACCOUNT, Account, OUTCOME, Outcome};
use crate::service::{REQUEST, RESPONSE, SignupSettings};
use crate::username::UsernameRules;
use crate::wire::{SignupRequest, SignupResponse};

/// How long a sign-up waits for its outcome before it is told where to look for it.
const PATIENCE: Duration = Duration::from_secs(5);

struct Signups {
    gateway: Gateway,
    replies: Replies<bool>,
    rules: UsernameRules,
}

/// Runs a gateway until the shutdown.
pub async fn run(options: GatewayOptions, shutdown: Shutdown) -> Result<(), GatewayError> {
    let GatewayOptions { config, door, ports } = options;
    let settings: SignupSettings = config.settings()?;
    let config = Arc::new(config);
    let health = Health::starting(Arc::new(Metrics::new()?), &["replies", "slots"]);
    let replies = Replies::follow(&config, config.topic(RESPONSE)?, &health, |value| {
        let response: SignupResponse<'_> = serde_json::from_slice(value).ok()?;
        Some((response.request_id.into_owned(), response.success))
    })?;
    let gateway = Gateway::start(Arc::clone(&config), &health)?;
    let signups = Arc::new(Signups { gateway, replies, rules: settings.usernames });
    serve(ports, Door::guard(door, routes(signups)), &health, shutdown).await
}

fn routes(signups: Arc<Signups>) -> Router {
    Router::new()
        .route("/api/v1/signups", post(sign_up))
        .route("/api/v1/signups/{request_id}", get(outcome))
        .route("/api/v1/accounts/{username}", get(account))
        .route("/openapi.json", get(async || Json(Api::openapi())))
        .with_state(signups)
}

#[derive(OpenApi)]
#[openapi(
    info(title = "SignupShard", description = "Usernames, unique across shards."),
    paths(sign_up, outcome, account),
    components(schemas(NewSignup, Signup, Account))
)]
struct Api;

/// A sign-up.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewSignup {
    /// The same for every retry; one is made if it is absent.
    request_id: Option<String>,
    /// The name.
    username: String,
}

/// What became of a sign-up.
#[derive(Debug, Serialize, ToSchema)]
struct Signup {
    request_id: String,
    /// In canonical form.
    username: String,
    success: bool,
}

/// Claims a username and waits for the outcome, unless the client says `Prefer: respond-async` (RFC 7240).
#[utoipa::path(post, path = "/api/v1/signups", request_body = NewSignup, params(
    ("Prefer" = Option<String>, Header, description = "`respond-async`: answer as soon as the request is safe in Kafka."),
), responses(
    (status = 201, body = Signup, description = "The name is this request's."),
    (status = 202, description = "It is safe and will be applied; the outcome will be at the Location."),
    (status = 400, description = "No username."),
    (status = 409, description = "Another request has the name."),
    (status = 503, description = "Kafka did not confirm it; try again with the same request_id."),
))]
async fn sign_up(
    State(signups): State<Arc<Signups>>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let NewSignup { request_id: given, username } = json_body(body)?;
    let request_id = request_id(given)?;
    let username = signups.canonical(&username)?;
    let request = SignupRequest { request_id: (&*request_id).into(), username: (&*username).into() };
    let value = serde_json::to_vec(&request).map_err(|error| Problem::internal(&error))?;
    let waiting = (!responds_async(&headers)).then(|| signups.replies.wait_for(username.as_bytes(), &request_id));
    signups
        .gateway
        .submit(REQUEST, username.as_bytes(), value)
        .await
        .map_err(|problem| problem.with("request_id", &*request_id).with("username", &*username))?;
    let Some(waiting) = waiting else {
        let applied = [(HeaderName::from_static("preference-applied"), HeaderValue::from_static(RESPOND_ASYNC))];
        return Ok((applied, accepted(&request_id, &username)).into_response());
    };
    let Some(success) = waiting.outcome(PATIENCE).await else { return Ok(accepted(&request_id, &username)) };
    if success {
        let location = format!("/api/v1/accounts/{}", encoded(&username));
        let signup = Signup { request_id, username, success };
        return Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(signup)).into_response());
    }
    Err(Problem::new(StatusCode::CONFLICT, format!("the username {username:?} is taken; choose another"))
        .with("request_id", request_id)
        .with("username", username)
        .with("success", false))
}

/// The request is safe, and its outcome will be found.
fn accepted(request_id: &str, username: &str) -> Response {
    let status = format!("/api/v1/signups/{}?username={}", encoded(request_id), encoded(username));
    let pending = serde_json::json!({ "request_id": request_id, "username": username, "status": status });
    (StatusCode::ACCEPTED, [(header::LOCATION, status)], Json(pending)).into_response()
}

#[derive(Debug, Deserialize)]
struct OutcomeQuery {
    username: String,
}

/// What became of a sign-up.
#[utoipa::path(get, path = "/api/v1/signups/{request_id}", params(
    ("request_id" = String, Path), ("username" = String, Query),
), responses(
    (status = 200, body = Signup),
    (status = 404, description = "Nothing is known of it, or not yet."),
))]
async fn outcome(
    State(signups): State<Arc<Signups>>,
    path: Result<Path<String>, PathRejection>,
    query: Result<Query<OutcomeQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let (Path(request_id), Query(query)) = (path?, query?);
    let username = signups.canonical(&query.username)?;
    let found: Outcome = signups
        .gateway
        .read(username.as_bytes(), OUTCOME, &[("username", &username), ("request_id", &request_id)])
        .await?;
    let success = found.ok_or_else(|| {
        Problem::not_found("nothing is known of this request; if it was accepted with 202, it is still on its way")
            .header(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))
    })?;
    Ok(Json(Signup { request_id, username, success }).into_response())
}

/// An account.
#[utoipa::path(get, path = "/api/v1/accounts/{username}", params(("username" = String, Path)), responses(
    (status = 200, body = Account),
    (status = 404, description = "There is none of this name."),
))]
async fn account(
    State(signups): State<Arc<Signups>>,
    path: Result<Path<String>, PathRejection>,
) -> Result<Json<Account>, Problem> {
    let username = signups.canonical(&path?.0)?;
    let found: Option<Account> = signups.gateway.read(username.as_bytes(), ACCOUNT, &[("username", &username)]).await?;
    found.map(Json).ok_or_else(|| Problem::not_found(format!("there is no account {username:?}")))
}

impl Signups {
    fn canonical(&self, username: &str) -> Result<String, Problem> {
        self.rules.canonical(username).map_err(|error| Problem::bad_request(error.to_string()))
    }
}
