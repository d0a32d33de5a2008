//! The barest HTTP front: parses the request, awaits the same producer, answers.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use shardlane_runtime::config::ServiceConfig;
use shardlane_runtime::intake::Keyspace;
use shardlane_runtime::kafka;
use shardlane_runtime::process::{self, Shutdown};
use shardlane_runtime::producer::{Outgoing, Producer};

use crate::fill::Asked;
use crate::kind::Kind;

/// Serves until it is told to stop.
#[derive(clap::Args)]
pub struct Arguments {
    #[arg(long)]
    config: PathBuf,
    #[arg(long)]
    port: u16,
    #[arg(long)]
    kind: Kind,
}

struct Front {
    kind: Kind,
    producer: Producer,
    keyspace: Keyspace,
    topic: Arc<str>,
}

type Failed = (StatusCode, String);

/// Serves.
pub async fn run(arguments: Arguments) -> Result<()> {
    let config = ServiceConfig::load(&arguments.config)?;
    let producer = kafka::prompt_producer(&config.kafka, "bare-gateway", Duration::from_secs(10));
    let kind = arguments.kind;
    let front = Front {
        kind,
        producer: Producer::new(&producer)?,
        keyspace: Keyspace::of(&config),
        topic: config.topic(kind.requests())?.name.as_str().into(),
    };
    let routes = Router::new()
        .route(kind.path(), post(take))
        .route("/readyz", get(async || "ready"))
        .with_state(Arc::new(front));
    Ok(process::serve(arguments.port, routes, Shutdown::on_signal()?).await?)
}

async fn take(State(front): State<Arc<Front>>, body: Bytes) -> Result<StatusCode, Failed> {
    let bad = |error: serde_json::Error| (StatusCode::BAD_REQUEST, error.to_string());
    let Asked { key, value } = front.kind.understand(&body).map_err(bad)?;
    let record = Outgoing {
        topic: Arc::clone(&front.topic),
        slot: front.keyspace.slot_of(&key),
        key: Some(key),
        value: Some(value),
        headers: Vec::new(),
    };
    let refused = |error: rdkafka::error::KafkaError| (StatusCode::SERVICE_UNAVAILABLE, error.to_string());
    front.producer.publish(&record).await.map_err(refused)?;
    Ok(front.kind.taken())
}
