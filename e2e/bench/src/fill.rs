//! Filling a topic with requests before the clock runs.

use std::sync::Arc;

use anyhow::Result;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use shardlane_e2e::plain::PlainService;
use shardlane_runtime::intake::Keyspace;
use shardlane_runtime::kafka;
use shardlane_runtime::producer::{Outgoing, Producer};
use shardlane_signup::wire::SignupRequest;
use shardlane_wallet::money::Minor;
use shardlane_wallet::wire::TransferRequest;

use crate::bank::account;
use crate::kind::Kind;

/// Records handed to the broker at once.
const TOGETHER: u64 = 20_000;
/// Most that one transfer moves, in minor units.
pub const LARGEST: i64 = 100;

/// A request as it lies in a topic.
pub struct Asked {
    /// The record's key.
    pub key: Vec<u8>,
    /// Its value, which users send as well.
    pub value: Vec<u8>,
}

/// What users ask for, one thing after another.
pub trait Series: Send {
    /// The next request.
    fn ask(&mut self) -> serde_json::Result<Asked>;
}

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
        (format!("{name:016x}"), request_id(&mut self.chance))
    }
}

impl Series for Requests {
    fn ask(&mut self) -> serde_json::Result<Asked> {
        let (username, request_id) = self.next();
        Ok(Asked { value: value_of(&username, &request_id)?, key: username.into_bytes() })
    }
}

/// A request as it lies in a topic.
pub fn value_of(username: &str, request_id: &str) -> serde_json::Result<Vec<u8>> {
    serde_json::to_vec(&SignupRequest { request_id: request_id.into(), username: username.into() })
}

/// Transfers between any two of some accounts, the same for every run of the program.
pub struct Transfers {
    chance: StdRng,
    accounts: u32,
}

impl Transfers {
    /// A series of its own for each seed.
    pub fn new(seed: u64, accounts: u32) -> Self {
        Self { chance: StdRng::seed_from_u64(seed), accounts }
    }
}

impl Series for Transfers {
    fn ask(&mut self) -> serde_json::Result<Asked> {
        let from = self.chance.random_range(0..self.accounts);
        // Any other one.
        let to = (from + self.chance.random_range(1..self.accounts)) % self.accounts;
        let request_id = request_id(&mut self.chance);
        let value = serde_json::to_vec(&TransferRequest {
            request_id: request_id.as_str().into(),
            from: account(from).into(),
            amount: Minor(self.chance.random_range(1..=LARGEST)).to_string().into(),
            to: account(to).into(),
            currency: None,
        })?;
        Ok(Asked { key: request_id.into_bytes(), value })
    }
}

fn request_id(chance: &mut StdRng) -> String {
    uuid::Uuid::from_u128(chance.random()).to_string()
}

/// Puts this many requests into the topic of a service of this kind.
pub async fn fill(service: &PlainService, kind: Kind, mut series: impl Series, records: u64) -> Result<()> {
    let producer = Producer::new(&kafka::lasting_producer(&service.config.kafka, "bench"))?;
    let (topic, keyspace) = (Arc::<str>::from(service.topic(kind.requests())?), Keyspace::of(&service.config));
    let mut left = records;
    while left > 0 {
        let mut together = Vec::new();
        for _ in 0..left.min(TOGETHER) {
            let Asked { key, value } = series.ask()?;
            together.push(Outgoing {
                topic: Arc::clone(&topic),
                slot: keyspace.slot_of(&key),
                key: Some(key),
                value: Some(value),
                headers: Vec::new(),
            });
        }
        producer.publish_all(&together).await?;
        left -= together.len() as u64;
    }
    Ok(())
}
