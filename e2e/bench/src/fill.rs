//! Filling a topic with requests before the clock runs.

use std::sync::Arc;

use anyhow::Result;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use shardlane_e2e::plain::PlainService;
use shardlane_runtime::intake::Keyspace;
use shardlane_runtime::kafka;
use shardlane_runtime::producer::{Outgoing, Producer};
use shardlane_signup::service::REQUEST;
use shardlane_signup::wire::SignupRequest;

/// Records handed to the broker at once.
const TOGETHER: u64 = 20_000;

/// Requests, the same for every run of the program.
pub struct Requests {
    chance: StdRng,
    /// How many of the requests are for a name that was asked for before.
    repeats: f64,
    names: Vec<u64>,
}

impl Requests {
    /// A series of its own for each seed.
    pub fn new(seed: u64, repeats: f64) -> Self {
        Self { chance: StdRng::seed_from_u64(seed), repeats, names: Vec::new() }
    }

    /// The next request: its name and its id. Names come in no order, as people's do.
    pub fn next(&mut self) -> (String, String) {
        let name = if !self.names.is_empty() && self.chance.random_bool(self.repeats) {
            self.names[self.chance.random_range(0..self.names.len())]
        } else {
            let name = self.chance.random();
            if self.repeats > 0. {
                self.names.push(name);
            }
            name
        };
        (format!("{name:016x}"), uuid::Uuid::from_u128(self.chance.random()).to_string())
    }
}

/// A request as it lies in a topic.
pub fn value_of(username: &str, request_id: &str) -> serde_json::Result<Vec<u8>> {
    serde_json::to_vec(&SignupRequest { request_id: request_id.into(), username: username.into() })
}

/// Puts this many requests into a service's topic.
pub async fn fill(service: &PlainService, mut requests: Requests, records: u64) -> Result<()> {
    let producer = Producer::new(&kafka::lasting_producer(&service.config.kafka, "bench"))?;
    let (topic, keyspace) = (Arc::<str>::from(service.topic(REQUEST)?), Keyspace::of(&service.config));
    let mut left = records;
    while left > 0 {
        let mut together = Vec::new();
        for _ in 0..left.min(TOGETHER) {
            let (username, request_id) = requests.next();
            together.push(Outgoing {
                topic: Arc::clone(&topic),
                slot: keyspace.slot_of(username.as_bytes()),
                value: Some(value_of(&username, &request_id)?),
                key: Some(username.into_bytes()),
                headers: Vec::new(),
            });
        }
        producer.publish_all(&together).await?;
        left -= together.len() as u64;
    }
    Ok(())
}
