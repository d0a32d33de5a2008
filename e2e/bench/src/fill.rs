//! Filling a topic with requests before the clock runs.

use std::sync::Arc;

use anyhow::Result;
use rand::distr::Distribution;
use rand::distr::weighted::WeightedIndex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use shardlane_blog::slugs;
use shardlane_counter::wire::{IncrementRecord, canonical};
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

/// Increments of some counters, the same for every run of the program: each by one, so that the counters together hold as much as
/// there were increments.
pub struct Increments {
    chance: StdRng,
    counters: u32,
    /// How often each counter is raised beside the others; all alike if absent.
    popularity: Option<WeightedIndex<f64>>,
}

impl Increments {
    /// Of counters that are raised alike; a series of its own for each seed.
    pub fn uniform(seed: u64, counters: u32) -> Self {
        Self { chance: StdRng::seed_from_u64(seed), counters, popularity: None }
    }

    /// Of counters of which the second is raised half as often as the first, the third a third as often, and so on: Zipf's law
    /// with the exponent 1, as of words in a text or of posts that people like.
    pub fn zipf(seed: u64, counters: u32) -> Result<Self> {
        let popularity = WeightedIndex::new((1..=counters).map(|rank| 1. / f64::from(rank)))?;
        Ok(Self { popularity: Some(popularity), ..Self::uniform(seed, counters) })
    }

    fn next(&mut self) -> usize {
        match &self.popularity {
            None => self.chance.random_range(0..self.counters) as usize,
            Some(popularity) => popularity.sample(&mut self.chance),
        }
    }
}

impl Series for Increments {
    fn ask(&mut self) -> serde_json::Result<Asked> {
        let key = counter(self.next());
        let mut buffer = [0; uuid::fmt::Hyphenated::LENGTH];
        Ok(Asked {
            value: serde_json::to_vec(&IncrementRecord { key, value: 1, idempotency_key: None })?,
            key: canonical(key, &mut buffer).as_bytes().to_vec(),
        })
    }
}

/// The key of a counter. Multiples of an odd number are all different, and those of the golden ratio's are spread evenly.
fn counter(number: usize) -> uuid::Uuid {
    const GOLDEN: u128 = 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835;
    uuid::Uuid::from_u128((number as u128 + 1).wrapping_mul(GOLDEN))
}

/// Slugs of posts that were published as [`Post`]s, to read them in no order.
pub struct Slugs {
    chance: StdRng,
    slugs: Vec<String>,
}

/// A post that is published before it is read.
pub struct Post {
    /// Its title.
    pub title: String,
    /// The key of the request that publishes it.
    pub key: String,
}

impl Post {
    /// One of many.
    pub fn number(number: u32) -> Self {
        Self { title: format!("Post {number}"), key: format!("bench-{number}") }
    }

    /// Where it is read.
    pub fn slug(&self) -> String {
        slugs::of_key(&self.title, &self.key)
    }
}

impl Slugs {
    /// Of so many posts; a series of its own for each seed.
    pub fn new(seed: u64, posts: u32) -> Self {
        let slugs = (0..posts).map(|number| Post::number(number).slug()).collect();
        Self { chance: StdRng::seed_from_u64(seed), slugs }
    }
}

impl Series for Slugs {
    fn ask(&mut self) -> serde_json::Result<Asked> {
        let slug = &self.slugs[self.chance.random_range(0..self.slugs.len())];
        Ok(Asked { key: slug.clone().into_bytes(), value: Vec::new() })
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

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn raised(mut series: Increments, records: u32) -> HashMap<Vec<u8>, u32> {
        let mut raised = HashMap::new();
        for _ in 0..records {
            *raised.entry(series.ask().unwrap().key).or_default() += 1;
        }
        raised
    }

    #[test]
    fn counters_that_are_raised_alike_are_all_raised() {
        let raised = raised(Increments::uniform(1, 100), 100_000);
        assert_eq!(raised.len(), 100, "keys are all different");
        assert!(raised.values().all(|times| (700..1_300).contains(times)), "{raised:?}");
    }

    #[test]
    fn the_second_counter_is_raised_half_as_often_as_the_first() {
        let raised = raised(Increments::zipf(1, 100).unwrap(), 100_000);
        let times = |number| f64::from(raised[counter(number).to_string().as_bytes()]);
        for rank in [2, 5, 10] {
            let part = times(0) / times(rank - 1);
            let expected = f64::from(u32::try_from(rank).unwrap());
            assert!(
                (0.8..1.2).contains(&(part / expected)),
                "the first is raised {part} times as often as number {rank}"
            );
        }
    }

    #[test]
    fn slugs_are_those_that_are_published() {
        let asked = Slugs::new(1, 3).ask().unwrap();
        assert!((0..3).any(|number| Post::number(number).slug().as_bytes() == asked.key));
    }
}
