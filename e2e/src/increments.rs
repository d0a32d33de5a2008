//! Increments by several clients at once, and what the counters must be afterwards.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures::{StreamExt, TryStreamExt};
use rand::RngExt;
use serde_json::{Value, json};
use shardlane_runtime::config::ServiceConfig;
use shardlane_runtime::intake::Keyspace;
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use crate::{same, until};

/// How long one request is retried, and how long it may take until the counters show everything.
const PATIENCE: Duration = Duration::from_secs(120);
/// Counters asked for at once.
const ASKED: usize = 500;

/// What was acknowledged, by counter.
pub type Sums = HashMap<Uuid, i64>;

/// A gateway of counters, as its clients use it.
#[derive(Clone, Debug)]
pub struct Pool {
    http: reqwest::Client,
    url: String,
}

/// A load of increments.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// How many requests.
    pub requests: usize,
    /// How many increments each has.
    pub each: usize,
    /// How many clients.
    pub clients: usize,
    /// Every so many requests, one has idempotency keys and is sent twice.
    pub doubled: usize,
}

impl Pool {
    /// At this address.
    pub fn at(url: &str) -> Result<Self> {
        Ok(Self { http: crate::signups::client()?, url: url.to_owned() })
    }

    /// Posts once, with this `Idempotency-Key` if there is one.
    pub async fn post(&self, path: &str, body: &str, id: Option<&str>) -> Result<(u16, Value)> {
        let mut request = self.http.post(format!("{}/{path}", self.url)).body(body.to_owned());
        if let Some(id) = id {
            request = request.header("Idempotency-Key", id);
        }
        let answer = request.send().await?;
        Ok((answer.status().as_u16(), answer.json().await?))
    }

    /// Asks once.
    pub async fn get(&self, path: &str) -> Result<(u16, Value)> {
        let answer = self.http.get(format!("{}/{path}", self.url)).send().await?;
        Ok((answer.status().as_u16(), answer.json().await?))
    }

    /// Raises a counter by one request.
    pub async fn increment(&self, key: Uuid, value: i64, id: Option<&str>) -> Result<()> {
        let (status, answer) = self.post("increment", &json!({ "key": key, "value": value }).to_string(), id).await?;
        same(&format!("the answer {answer}"), status, 200)
    }

    /// Waits until a counter has a value.
    pub async fn shows(&self, key: Uuid, value: i64) -> Result<()> {
        until(PATIENCE, async || {
            let (_, counter) = self.get(&format!("counters/{key}")).await?;
            same("the value", counter["value"].as_i64(), Some(value))
        })
        .await
    }

    /// Raises random counters of these; `done` hears how many increments were acknowledged so far. Gives what was acknowledged.
    pub async fn count(&self, keys: &[Uuid], load: Load, done: &AtomicUsize) -> Result<Sums> {
        let Load { requests, each, clients, doubled } = load;
        let sent = futures::stream::iter(0..requests).map(async |number| {
            let increments: Vec<_> = (0..each)
                .map(|_| (keys[rand::rng().random_range(0..keys.len())], rand::rng().random_range(1..100_i64)))
                .collect();
            if number % doubled == 0 {
                self.insist_twice(&increments).await?;
            } else {
                self.once(&increments).await?;
            }
            done.fetch_add(each, Ordering::Relaxed);
            Ok::<_, anyhow::Error>(increments)
        });
        let mut sums = Sums::new();
        let mut sent = std::pin::pin!(sent.buffer_unordered(clients));
        while let Some(increments) = sent.try_next().await? {
            increments.into_iter().for_each(|(key, value)| *sums.entry(key).or_default() += value);
        }
        Ok(sums)
    }

    /// One without idempotency keys must not fail: nobody would know whether it counts.
    async fn once(&self, increments: &[(Uuid, i64)]) -> Result<()> {
        let increments: Vec<_> = increments.iter().map(|(key, value)| json!({ "key": key, "value": value })).collect();
        let (status, answer) = self.post("increments", &json!({ "increments": increments }).to_string(), None).await?;
        same(&format!("the answer {answer}"), status, 200)
    }

    async fn insist_twice(&self, increments: &[(Uuid, i64)]) -> Result<()> {
        let increment =
            |(key, value): &(Uuid, i64)| json!({ "key": key, "value": value, "idempotency_key": Uuid::new_v4() });
        let increments: Vec<_> = increments.iter().map(increment).collect();
        let body = json!({ "increments": increments }).to_string();
        for _ in 0..2 {
            until(PATIENCE, async || match self.post("increments", &body, None).await? {
                (200, _) => Ok(()),
                (status, answer) => bail!("{status}: {answer}"),
            })
            .await?;
        }
        Ok(())
    }

    /// Waits until the counters are what was acknowledged, exactly.
    pub async fn settle(&self, sums: &Sums) -> Result<()> {
        let exact = |key: Uuid, value: Option<i64>| same(&format!("counter {key}"), value, sums.get(&key).copied());
        self.until_all(sums, exact).await
    }

    /// Waits until the counters are at least what was acknowledged: others may raise them still.
    pub async fn reach(&self, sums: &Sums) -> Result<()> {
        let enough = |key: Uuid, value: Option<i64>| {
            let least = sums.get(&key).copied();
            ensure!(value >= least, "counter {key}: found {value:?}, expected {least:?} at least");
            Ok(())
        };
        self.until_all(sums, enough).await
    }

    async fn until_all(&self, sums: &Sums, check: impl Fn(Uuid, Option<i64>) -> Result<()>) -> Result<()> {
        let keys: Vec<_> = sums.keys().copied().collect();
        for keys in keys.chunks(ASKED) {
            let list: Vec<_> = keys.iter().map(Uuid::to_string).collect();
            let path = format!("counters?keys={}", list.join(","));
            until(PATIENCE, async || {
                let (status, answer) = self.get(&path).await?;
                ensure!(status == 200, "{status}: {answer}");
                for counter in answer["counters"].as_array().context("no counters")? {
                    let key: Uuid = counter["key"].as_str().context("no key")?.parse()?;
                    check(key, counter["value"].as_i64())?;
                }
                Ok(())
            })
            .await?;
        }
        Ok(())
    }
}

/// Checks that the shards hold these counters and no others, each once and in its slot.
pub async fn check_shards(shards: &mut [PgConnection], config: &ServiceConfig, sums: &Sums) -> Result<()> {
    let keyspace = Keyspace::of(config);
    let mut found = Sums::new();
    for shard in shards {
        let rows = sqlx::query("SELECT key::text, slot, value FROM counter").fetch_all(shard).await?;
        for row in rows {
            let (key, slot, value): (String, i32, i64) = (row.get(0), row.get(1), row.get(2));
            same(&format!("slot of {key}"), slot.unsigned_abs(), keyspace.slot_of(key.as_bytes()))?;
            ensure!(found.insert(key.parse()?, value).is_none(), "{key} is in two shards");
        }
    }
    let wrong = sums.iter().find(|(key, value)| found.get(key) != Some(value));
    ensure!(
        wrong.is_none(),
        "{wrong:?} was acknowledged, and the shards have {:?}",
        wrong.map(|(key, _)| found.get(key))
    );
    same("number of counters", found.len(), sums.len())
}
