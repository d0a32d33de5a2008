//! Sign-ups by several clients at once, and what must be true of them afterwards.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::StreamExt;
use rand::seq::SliceRandom;
use serde_json::{Value, json};
use shardlane_runtime::config::ServiceConfig;
use shardlane_runtime::intake::Keyspace;
use sqlx::{PgConnection, Row};

use crate::same;

/// How long one request is retried before the test gives up on the service.
const PATIENCE: Duration = Duration::from_secs(120);

/// What a client was told of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// The name.
    pub username: String,
    /// Whether it won.
    pub success: bool,
}

/// Outcomes by request id.
pub type Outcomes = HashMap<String, Told>;

/// Requests of `names` distinct names and `requests` requests, shuffled: some names are asked for more than once.
pub fn requests(prefix: &str, names: usize, requests: usize) -> Vec<(String, String)> {
    let mut all: Vec<_> =
        (0..requests).map(|n| (format!("{prefix}-request-{n}"), format!("{prefix}-name-{}", n % names))).collect();
    all.shuffle(&mut rand::rng());
    all
}

/// Sends all requests through gateways, `clients` at a time, each retried with its id until it is answered.
pub async fn send_all(url: &str, requests: Vec<(String, String)>, clients: usize) -> Result<Outcomes> {
    let http = client()?;
    let sent = futures::stream::iter(requests).map(|(id, name)| {
        let (http, url) = (http.clone(), format!("{url}/api/v1/signups"));
        async move {
            let told = send(&http, &url, &id, &name).await.with_context(|| format!("{id} {name}"))?;
            Ok((id, told))
        }
    });
    sent.buffer_unordered(clients).collect::<Vec<_>>().await.into_iter().collect()
}

/// What clients send with.
pub(crate) fn client() -> reqwest::Result<reqwest::Client> {
    reqwest::Client::builder().timeout(Duration::from_secs(20)).build()
}

/// Sends one request, again with its id until it is answered.
pub(crate) async fn send(http: &reqwest::Client, url: &str, id: &str, name: &str) -> Result<Told> {
    let body = json!({ "request_id": id, "username": name }).to_string();
    crate::until(PATIENCE, async || {
        let answer = http.post(url).body(body.clone()).send().await?;
        let (status, told): (_, Value) = (answer.status().as_u16(), answer.json().await?);
        match status {
            201 | 409 => {}
            // 202 and 503 both mean: ask again with the same id.
            _ => bail!("{status}: {told}"),
        }
        same("echoed request_id", &told["request_id"], &json!(id))?;
        same("success", &told["success"], &json!(status == 201))?;
        Ok(Told { username: name.to_owned(), success: status == 201 })
    })
    .await
}

/// Fails unless two rounds of the same requests were told the same.
pub fn told_the_same(first: &Outcomes, again: &Outcomes) -> Result<()> {
    for (id, told) in again {
        same(&format!("the answer to a retry of {id}"), told, first.get(id).context("never asked")?)?;
    }
    Ok(())
}

/// Checks all shards: each name once, each winner its row, each row where its slot says.
pub async fn check_shards(config: &ServiceConfig, shards: &mut [PgConnection], outcomes: &Outcomes) -> Result<()> {
    let keyspace = Keyspace::of(config);
    let mut owners = BTreeMap::new();
    let mut rows = BTreeMap::new();
    for (partition, shard) in shards.iter_mut().enumerate() {
        for row in sqlx::query("SELECT slot FROM slot WHERE state = 'active'").fetch_all(&mut *shard).await? {
            let slot = row.get::<i32, _>(0).unsigned_abs();
            if let Some(other) = owners.insert(slot, partition) {
                bail!("slot {slot} is active in the shards of {other} and {partition}");
            }
        }
        for row in sqlx::query("SELECT username, request_id, slot FROM account").fetch_all(&mut *shard).await? {
            let (name, id, slot): (String, String, i32) = (row.get(0), row.get(1), row.get(2));
            same(&format!("slot of {name}"), slot.unsigned_abs(), keyspace.slot_of(name.as_bytes()))?;
            if rows.insert(name.clone(), (partition, id)).is_some() {
                bail!("{name} has an account in two shards");
            }
        }
    }
    same("slots with an owner", owners.len(), config.max_partitions as usize)?;
    for (name, (partition, _)) in &rows {
        let slot = keyspace.slot_of(name.as_bytes());
        same(&format!("shard of {name} (slot {slot})"), Some(partition), owners.get(&slot))?;
    }
    let asked: BTreeSet<_> = outcomes.values().map(|told| told.username.as_str()).collect();
    let mut winners = BTreeMap::new();
    for (id, told) in outcomes.iter().filter(|(_, told)| told.success) {
        if let Some(other) = winners.insert(told.username.as_str(), id) {
            bail!("both {other} and {id} were told that they have {}", told.username);
        }
    }
    same("names that were asked for and have a winner", winners.len(), asked.len())?;
    for (name, id) in winners {
        let row = rows.get(name).with_context(|| format!("{name} was won and has no account"))?;
        same(&format!("the account of {name}"), &row.1, id)?;
    }
    Ok(())
}
