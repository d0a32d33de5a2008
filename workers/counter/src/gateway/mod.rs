//! The HTTP front of counters.

mod taking;
mod tally;
mod values;

use std::sync::Arc;

use axum::routing::{get, post};
use axum::{Json, Router};
use shardlane_runtime::cli::GatewayOptions;
use shardlane_runtime::gateway::{Door, Gateway, GatewayError, serve};
use shardlane_runtime::health::Health;
use shardlane_runtime::metrics::Metrics;
use shardlane_runtime::process::Shutdown;
use utoipa::OpenApi;

use crate::gateway::tally::Tally;

struct Counters {
    gateway: Gateway,
    tally: Arc<Tally>,
}

/// Runs a gateway until the shutdown.
pub async fn run(options: GatewayOptions, shutdown: Shutdown) -> Result<(), GatewayError> {
    let GatewayOptions { config, door, ports } = options;
    let metrics = Arc::new(Metrics::new()?);
    let tally = Arc::new(Tally::new(metrics.registry())?);
    let health = Health::starting(metrics, &["slots"]);
    let gateway = Gateway::start(Arc::new(config), &health)?;
    let counters = Arc::new(Counters { gateway, tally: Arc::clone(&tally) });
    serve(ports, tally::counted(tally, Door::guard(door, routes(counters))), &health, shutdown).await
}

fn routes(counters: Arc<Counters>) -> Router {
    Router::new()
        .route("/increment", post(taking::increment))
        .route("/increments", post(taking::increments))
        .route("/counters", get(values::counters))
        .route("/counters/{key}", get(values::counter))
        .route("/openapi.json", get(async || Json(Api::openapi())))
        .with_state(counters)
}

#[derive(OpenApi)]
#[openapi(
    info(title = "CounterPool", description = "Fast counters, some seconds behind at most."),
    paths(taking::increment, taking::increments, values::counter, values::counters),
    components(schemas(
        taking::Increment,
        taking::ManyIncrements,
        taking::OneOfMany,
        taking::Taken,
        values::Counter,
        values::KeyAndValue,
        values::Counters
    ))
)]
struct Api;
