//! The HTTP front of a blog.

mod changes;
mod negotiation;
mod pages;
mod posts;

use std::sync::Arc;

use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post, put};
use axum::{Json, Router};
use shardlane_runtime::cli::GatewayOptions;
use shardlane_runtime::gateway::{Door, Gateway, GatewayError, Problem, serve};
use shardlane_runtime::health::Health;
use shardlane_runtime::metrics::Metrics;
use shardlane_runtime::process::Shutdown;
use utoipa::OpenApi;

use crate::cache::{Cache, RedisAddress};
use crate::metrics::BlogMetrics;
use crate::posts::Reason;
use crate::reads::Summary;
use crate::shelf::Shelf;

/// Largest body of a post, in bytes: every character of a content of the largest size may need six in JSON.
const BODY: usize = 640 * 1024;

struct Blog {
    gateway: Arc<Gateway>,
    shelf: Arc<Shelf>,
}

/// Runs a gateway until the shutdown.
pub async fn run(options: GatewayOptions, redis: &RedisAddress, shutdown: Shutdown) -> Result<(), GatewayError> {
    let GatewayOptions { config, door, ports } = options;
    let (metrics, counts) = (Arc::new(Metrics::new()?), BlogMetrics::new()?);
    counts.register(metrics.registry())?;
    let cache = Cache::for_readers(redis, counts.clone());
    let cache = cache.map_err(|error| GatewayError::Needs(Box::new(error)))?;
    // Redis is no part of its health: posts are read without it too.
    let health = Health::starting(metrics, &["slots"]);
    let gateway = Arc::new(Gateway::start(Arc::new(config), &health)?);
    let shelf = Arc::new(Shelf::new(Arc::clone(&gateway), cache, counts));
    serve(ports, Door::guard(door, routes(Arc::new(Blog { gateway, shelf }))), &health, shutdown).await
}

fn routes(blog: Arc<Blog>) -> Router {
    Router::new()
        .route("/post", post(changes::publish))
        .route("/post/{slug}", put(changes::edit).delete(changes::delete))
        .layer(DefaultBodyLimit::max(BODY))
        .route("/post/{slug}", get(posts::post))
        .route("/post/{slug}/changes/{request_id}", get(changes::change))
        .route("/posts", get(posts::list))
        .route("/", get(posts::front))
        .route(pages::STYLE, get(pages::style))
        .route("/openapi.json", get(async || Json(Api::openapi())))
        .with_state(blog)
}

#[derive(OpenApi)]
#[openapi(
    info(title = "BlogPipeline", description = "Posts: published, edited, deleted and read."),
    paths(changes::publish, changes::edit, changes::delete, changes::change, posts::post, posts::list),
    components(schemas(
        changes::NewPost,
        changes::Received,
        changes::Changed,
        changes::Change,
        changes::ChangeState,
        posts::PostAnswer,
        posts::Posts,
        Summary,
        Reason
    ))
)]
struct Api;

/// The answer for whatever is not there: never was, was deleted, or cannot be.
fn not_found() -> Problem {
    Problem::not_found("not found")
}
