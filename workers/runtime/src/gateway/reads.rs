//! Reading from shards through their workers: a gateway holds no database's credentials.

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use futures::future::join_all;
use serde::de::DeserializeOwned;
use shardlane_config::ServiceConfig;
use sqlx::postgres::PgRow;

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

/// The slots that a shard can be asked of, as SQL.
#[macro_export]
macro_rules! owned_slots {
    () => {
        "SELECT slot FROM slot WHERE state IN ('active', 'leaving', 'fenced')"
    };
}

/// A statement that gives `columns` of the row `x` that another one finds, if the shard owns the slot, its first parameter; with
/// nothing in them if there is no such row. [`Answer::of`] tells the two from no row at all.
#[macro_export]
macro_rules! owned {
    ($columns:literal, $join:literal) => {
        concat!(
            "SELECT ",
            $columns,
            " FROM (",
            $crate::owned_slots!(),
            ") s LEFT JOIN LATERAL (",
            $join,
            ") x ON true WHERE s.slot = $1"
        )
    };
}

impl<T> Answer<T> {
    /// What the one row of a statement made by [`owned!`](crate::owned) says.
    pub fn of(row: Option<PgRow>, read: impl FnOnce(&PgRow) -> sqlx::Result<T>) -> sqlx::Result<Self> {
        Ok(row.map(|row| read(&row)).transpose()?.map_or(Self::Elsewhere, Self::Owned))
    }
}

/// What a worker says of all its slots at once, and which they are, of one snapshot.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Part<T> {
    /// The slots that the shard owns.
    pub slots: Vec<u32>,
    /// What it says of them.
    pub answer: T,
}

/// Whether the parts are the whole: each slot once, though slots may have moved while they were asked for.
fn complete<T>(parts: &[Part<T>], slots: u32) -> bool {
    let mut found: Vec<u32> = parts.iter().flat_map(|part| part.slots.iter().copied()).collect();
    found.sort_unstable();
    found.into_iter().eq(0..slots)
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
            match self.ask(partition, path, query).await {
                Some(Answer::Owned(answer)) => return Ok(answer),
                // The slot is on its way: its new owner is in the hint before it serves.
                Some(Answer::Elsewhere) => tokio::time::sleep(Duration::from_millis(50 << attempt)).await,
                None => break,
            }
        }
        Err(Problem::unavailable("the partition that owns this key does not answer now; try again soon"))
    }

    /// Asks the workers of all slots. Each slot is in one of the parts, and in no other.
    pub async fn all<T: DeserializeOwned>(&self, path: &str, query: &[(&str, &str)]) -> Result<Vec<Part<T>>, Problem> {
        for attempt in 0..ATTEMPTS {
            let asked = self.slots.owners().into_iter().map(|partition| self.ask::<Part<T>>(partition, path, query));
            let Some(parts) = join_all(asked).await.into_iter().collect::<Option<Vec<_>>>() else { break };
            if complete(&parts, self.config.max_partitions) {
                return Ok(parts);
            }
            tokio::time::sleep(Duration::from_millis(50 << attempt)).await;
        }
        Err(Problem::unavailable("not all partitions answer now; try again soon"))
    }

    /// Asks one worker.
    async fn ask<T: DeserializeOwned>(&self, partition: u32, path: &str, query: &[(&str, &str)]) -> Option<T> {
        let url = format!("{}{path}", self.config.worker_url(partition));
        let asked = async {
            let answer = self.client.get(&url).query(query).send().await?.error_for_status()?;
            answer.json::<T>().await
        };
        let told = |error: &reqwest::Error| {
            tracing::warn!(partition, error = with_causes(error), "a worker did not answer a read");
        };
        asked.await.inspect_err(told).ok()
    }
}

/// What a worker answers when its shard did not.
#[allow(clippy::needless_pass_by_value)]
pub fn shard_error(error: sqlx::Error) -> (StatusCode, String) {
    tracing::warn!(error = with_causes(&error), "a read failed");
    (StatusCode::SERVICE_UNAVAILABLE, "the shard did not answer\n".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_slot_must_be_in_one_part() {
        let parts = |slots: &[&[u32]]| -> Vec<Part<()>> {
            slots.iter().map(|slots| Part { slots: slots.to_vec(), answer: () }).collect()
        };
        assert!(complete(&parts(&[&[2, 0], &[1]]), 3));
        assert!(!complete(&parts(&[&[0], &[1]]), 3), "one is missing");
        assert!(!complete(&parts(&[&[0, 1, 2], &[1]]), 3), "one was on its way and is there twice");
    }
}
