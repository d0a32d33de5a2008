//! The barest HTTP front of posts: asks Redis, answers.

use anyhow::Result;
use axum::Router;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use redis::aio::ConnectionManager;
use shardlane_runtime::process::{self, Shutdown};

use crate::kind::{Kind, REDIS_URI};

/// Serves until it is told to stop.
#[derive(clap::Args)]
pub struct Arguments {
    #[arg(long)]
    port: u16,
    #[arg(long, env = REDIS_URI, hide_env_values = true)]
    redis_uri: String,
}

/// The key under which the answer for a post lies.
pub fn key(slug: &str) -> String {
    format!("bare:{slug}")
}

/// Serves.
pub async fn run(arguments: Arguments) -> Result<()> {
    let redis = redis::Client::open(arguments.redis_uri)?.get_connection_manager().await?;
    let routes = Router::new()
        .route(&format!("{}/{{slug}}", Kind::Blog.path()), get(post))
        .route("/readyz", get(async || "ready"))
        .with_state(redis);
    Ok(process::serve(arguments.port, routes, Shutdown::on_signal()?).await?)
}

async fn post(State(mut redis): State<ConnectionManager>, Path(slug): Path<String>) -> Response {
    match redis::cmd("GET").arg(key(&slug)).query_async::<Option<Vec<u8>>>(&mut redis).await {
        Ok(Some(answer)) => ([(header::CONTENT_TYPE, "application/json")], answer).into_response(),
        Ok(None) => StatusCode::NOT_FOUND.into_response(),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, error.to_string()).into_response(),
    }
}
