//! What every gateway needs: taking requests to Kafka, waiting for their outcomes, reading from workers, and guarding
//! the door.

mod decided;
mod door;
mod problem;
mod reads;
mod replies;
mod slots;
mod tail;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::HeaderMap;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rdkafka::error::KafkaError;
use serde::de::DeserializeOwned;
use shardlane_config::ServiceConfig;

pub use decided::decided;
pub use door::{Door, DoorOptions};
pub use problem::{Problem, json_body};
pub use reads::{Answer, Part, Reads, shard_error};
pub use replies::{Replies, Waiting};
pub use slots::{SLOTS, SlotMap};
pub use tail::{Follower, Start, tail};

use crate::health::Health;
use crate::intake::Keyspace;
use crate::kafka;
use crate::process::{self, Ports, Shutdown};
use crate::producer::{Outgoing, Producer};
use crate::record::{check_id, check_request_id};

/// How long a record may take to be acknowledged before the user hears 503.
const KAFKA_PATIENCE: Duration = Duration::from_secs(10);

/// A gateway's way into Kafka and its way to the workers.
pub struct Gateway {
    /// The service.
    pub config: Arc<ServiceConfig>,
    /// How its keys are spread.
    pub keyspace: Keyspace,
    /// Reads from workers.
    pub reads: Reads,
    producer: Producer,
}

impl Gateway {
    /// A gateway of a service; it is ready once it knows which partition owns which slot.
    pub fn start(config: Arc<ServiceConfig>, health: &Health) -> Result<Self, GatewayError> {
        let keyspace = Keyspace::of(&config);
        let name = format!("{}-gateway", config.name);
        let producer = Producer::new(&kafka::prompt_producer(&config.kafka, &name, KAFKA_PATIENCE))?;
        let slots = SlotMap::follow(&config, health)?;
        let reads = Reads::new(Arc::clone(&config), slots)?;
        Ok(Self { config, keyspace, reads, producer })
    }

    /// Asks the worker that owns a key. The slot goes with the query.
    pub async fn read<T: DeserializeOwned>(
        &self,
        key: &[u8],
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<T, Problem> {
        let slot = self.keyspace.slot_of(key);
        let number = slot.to_string();
        let query: Vec<_> = query.iter().copied().chain([("slot", &*number)]).collect();
        self.reads.get(slot, path, &query).await
    }

    /// Takes a request: it is in Kafka, on all its replicas, when this returns.
    pub async fn submit(&self, role: &str, key: &[u8], value: Vec<u8>) -> Result<(), Problem> {
        let topic = self.config.topic(role).map_err(|error| Problem::internal(&error))?;
        let record = Outgoing {
            topic: topic.name.as_str().into(),
            slot: self.keyspace.slot_of(key),
            key: Some(key.to_vec()),
            value: Some(value),
            headers: Vec::new(),
        };
        self.producer.publish(&record).await.map(|_| ()).map_err(|error| {
            tracing::warn!(%error, "Kafka did not take a record");
            Problem::unavailable(
                "Kafka did not confirm the request, which may yet be applied; try again with the same id",
            )
        })
    }
}

/// Serves users behind their door, and probes, until the shutdown.
pub async fn serve(ports: Ports, guarded: Router, health: &Health, shutdown: Shutdown) -> Result<(), GatewayError> {
    let users = process::serve(ports.http, guarded.merge(health.probes()), shutdown.clone());
    tokio::try_join!(users, process::serve(ports.metrics, health.routes(), shutdown))?;
    Ok(())
}

/// A text as a part of a path or a query.
pub fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

/// The header by which a client gives its request an id, the same for every retry (draft-ietf-httpapi-idempotency-key-header).
const IDEMPOTENCY_KEY: &str = "Idempotency-Key";

/// The id that a client has given its request, if it has.
pub fn idempotency_key(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let Some(value) = headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
    let id = std::str::from_utf8(value.as_bytes())
        .map_err(|_| Problem::bad_request(format!("{IDEMPOTENCY_KEY} must be UTF-8")))?;
    check_id(IDEMPOTENCY_KEY, id).map_err(Problem::bad_request)?;
    Ok(Some(id))
}

/// The id that a client has given its request, or a new one.
pub fn request_id(given: Option<String>) -> Result<String, Problem> {
    let id = given.unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
    check_request_id(&id).map_err(Problem::bad_request)?;
    Ok(id)
}

/// The preference of a client that does not wait for the outcome (RFC 7240).
pub const RESPOND_ASYNC: &str = "respond-async";

/// Whether a client does not wait for the outcome.
pub fn responds_async(headers: &HeaderMap) -> bool {
    let said = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
    said.flat_map(|value| value.split(','))
        .any(|preference| preference.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(RESPOND_ASYNC))
}

/// Why a gateway cannot start.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// Its configuration is wrong.
    #[error(transparent)]
    Config(#[from] shardlane_config::ConfigError),
    /// A Kafka client could not be made.
    #[error("cannot make a Kafka client: {0}")]
    Kafka(#[from] KafkaError),
    /// An HTTP client could not be made.
    #[error("cannot make an HTTP client: {0}")]
    Http(#[from] reqwest::Error),
    /// Its metrics could not be made.
    #[error("cannot make metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// It cannot serve.
    #[error(transparent)]
    Serve(#[from] std::io::Error),
    /// What its kind of service alone needs is missing or wrong.
    #[error(transparent)]
    Needs(Box<dyn std::error::Error + Send + Sync>),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_may_prefer_not_to_wait() {
        let prefers = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("prefer", value.parse().unwrap());
            responds_async(&headers)
        };
        assert!(prefers("respond-async") && prefers("wait=10, Respond-Async; x=1"));
        assert!(!prefers("return=minimal") && !responds_async(&HeaderMap::new()));
    }
}
