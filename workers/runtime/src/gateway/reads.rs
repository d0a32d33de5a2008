//! Reading from shards through their workers: a gateway holds no database's credentials.

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use serde::de::DeserializeOwned;
use shardlane_config::ServiceConfig;

use crate::gateway::problem::Problem;
use crate::gateway::slots::SlotMap;
use crate::process::with_causes;

/// How long a worker may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often a slot's owner is looked up again when a shard says that it is not the owner.
const ATTEMPTS: u32 = 5;

/// Reads by slot.
#[derive(Clone, Debug)]
pub struct Reads {
    config: Arc<ServiceConfig>,
    slots: SlotMap,
    client: reqwest::Client,
}

/// A worker's answer: `slot` is whether the shard owns the slot, seen in the same snapshot as the rest.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "slot", content = "answer", rename_all = "lowercase")]
pub enum Answer<T> {
    /// The shard owns the slot, so this is the truth.
    Owned(T),
    /// It does not; somebody else has the truth.
    Elsewhere,
}

impl Reads {
    /// Reads of a service.
    pub fn new(config: Arc<ServiceConfig>, slots: SlotMap) -> Result<Self, reqwest::Error> {
        let client = reqwest::Client::builder().timeout(PATIENCE).build()?;
        Ok(Self { config, slots, client })
    }

    /// Asks the worker that owns a slot.
    pub async fn get<T: DeserializeOwned>(&self, slot: u32, path: &str, query: &[(&str, &str)]) -> Result<T, Problem> {
        for attempt in 0..ATTEMPTS {
            let Some(partition) = self.slots.owner(slot) else { break };
            let url = format!("{}{path}", self.config.worker_url(partition));
            let asked = async {
                let answer = self.client.get(&url).query(query).send().await?.error_for_status()?;
                answer.json::<Answer<T>>().await
            };
            match asked.await {
                Ok(Answer::Owned(answer)) => return Ok(answer),
                // The slot is on its way: its new owner is in the hint before it serves.
                Ok(Answer::Elsewhere) => tokio::time::sleep(Duration::from_millis(50 << attempt)).await,
                Err(error) => {
                    tracing::warn!(partition, error = with_causes(&error), "a worker did not answer a read");
                    break;
                }
            }
        }
        Err(Problem::unavailable("the partition that owns this key does not answer now; try again soon"))
    }
}

/// What a worker answers when its shard did not.
#[allow(clippy::needless_pass_by_value)]
pub fn shard_error(error: sqlx::Error) -> (StatusCode, String) {
    tracing::warn!(error = with_causes(&error), "a read failed");
    (StatusCode::SERVICE_UNAVAILABLE, "the shard did not answer\n".to_owned())
}
