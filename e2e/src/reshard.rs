//! Moves of slots on a cluster: making and watching them, under load whose every answer is minded.

pub mod kinds;
pub mod steady;

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use axum::http::Request;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use shardlane_operator::api::status::ServiceStatus;
use shardlane_operator::kind::ServiceKind;
use shardlane_runtime::config::in_ranges;
use tokio::process::Command;
use tokio::task::JoinHandle;

use crate::cluster::{NAMESPACE, ServiceOf, restarts_of};
use crate::told::is_settled;
use crate::{same, setting, until};

/// How often movers are looked at.
const OFTEN: Duration = Duration::from_millis(200);
/// How long a mover may take to begin.
const PATIENCE: Duration = Duration::from_secs(300);

/// Changes a service's number of partitions as `kubectl scale` and autoscalers do.
pub async fn scale<K: ServiceKind>(client: &Client, name: &str, partitions: u32) -> Result<()> {
    let patch = json!({ "spec": { "replicas": partitions } });
    let services: Api<K> = Api::namespaced(client.clone(), NAMESPACE);
    services.patch_scale(name, &PatchParams::default(), &Patch::Merge(&patch)).await?;
    Ok(())
}

/// Waits until a service has so many partitions, all ready and with even shares of the slots, and nothing moves.
pub async fn resharded<K: ServiceKind>(client: &Client, name: &str, partitions: u32, patience: Duration) -> Result<()> {
    let services: Api<K> = Api::namespaced(client.clone(), NAMESPACE);
    until(patience, async || {
        let service = services.get(name).await?;
        let status = service.status().cloned().unwrap_or_default();
        ensure!(is_settled(&service) && status.reshard.is_none(), "{name} is not settled: {status:?}");
        same("partitions", (status.replicas, status.ready_replicas), (partitions, partitions))?;
        evenly(&status, partitions, service.service().max_partitions)
    })
    .await
}

fn evenly(status: &ServiceStatus, partitions: u32, slots: u32) -> Result<()> {
    let shares: Vec<_> = status.partitions.iter().map(|partition| in_ranges(&partition.slots).len()).collect();
    let (slots, partitions) = (slots as usize, partitions as usize);
    same("partitions that are told", shares.len(), partitions)?;
    let (least, most) = (slots / partitions, slots.div_ceil(partitions));
    let even = shares.iter().all(|share| (least..=most).contains(share));
    ensure!(even && shares.iter().sum::<usize>() == slots, "the slots are not shared evenly: {:?}", status.partitions);
    Ok(())
}

/// Which pod each of the first workers is, and how often its containers were started again.
pub async fn workers<K: ServiceKind>(service: &ServiceOf<K>, partitions: u32) -> Result<Vec<(Option<String>, i32)>> {
    let mut workers = Vec::new();
    for partition in 0..partitions {
        let pod = service.worker(partition).await?;
        workers.push((pod.uid(), restarts_of(&pod)));
    }
    Ok(workers)
}

/// Has `kubectl shardlane verify` look into all shards, and fails unless all is well. Gives how many rows there are.
pub async fn verify(name: &str, partitions: u32) -> Result<u64> {
    let plugin = format!("{}/kubectl-shardlane", setting("SHARDLANE_TEST_PROGRAMS")?);
    let arguments = ["verify", name, "--namespace", NAMESPACE, "-o", "json"];
    let output = Command::new(plugin).args(arguments).stdin(Stdio::null()).output().await?;
    let (said, report) = (String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&output.stdout));
    ensure!(output.status.success(), "verify of {name} ended with {}: {said}{report}", output.status);
    let report: Value = serde_json::from_str(&report).with_context(|| format!("{said}{report}"))?;
    same("whether all is well", &report["ok"], &json!(true))?;
    same("what moves", &report["moving"], &json!([]))?;
    let shards = report["partitions"].as_array().context("no partitions")?;
    same("shards", shards.len(), partitions as usize)?;
    let rows = shards.iter().filter_map(|shard| shard["rows"].as_object());
    Ok(rows.flat_map(|rows| rows.values()).filter_map(Value::as_u64).sum())
}

/// Looks at a service's movers for as long as it lives.
pub struct Moves {
    client: Client,
    labels: String,
    seen: Arc<Mutex<BTreeMap<String, Seen>>>,
    task: JoinHandle<()>,
}

/// A mover, as it was last seen.
struct Seen {
    /// When it was first seen to move something, and when last.
    moving: Option<(Instant, Instant)>,
    told: Value,
}

/// What movers have done.
#[derive(Clone, Copy, Debug, Default)]
pub struct Moved {
    /// Slots that have moved.
    pub slots: u64,
    /// Rows that were copied.
    pub rows: u64,
    /// How long slots were on the move.
    pub moving: Duration,
    /// The longest time for which a group of slots stood still.
    pub longest_pause: Duration,
}

impl Moves {
    /// Begins to look.
    pub fn watch<K: ServiceKind>(client: &Client, service: &ServiceOf<K>) -> Self {
        let (seen, labels) = (Arc::default(), service.part("mover"));
        let (looking, of, noted) = (client.clone(), labels.clone(), Arc::clone(&seen));
        let task = tokio::spawn(async move {
            loop {
                // One that ends while it is asked has told what counts before.
                if let Ok(told) = look(&looking, &of).await {
                    told.into_iter().for_each(|(pod, told)| note(&noted, pod, told));
                }
                tokio::time::sleep(OFTEN).await;
            }
        });
        Self { client: client.clone(), labels, seen, task }
    }

    /// Waits until a mover copies a group. Gives its pod, and the partition that the group leaves.
    pub async fn copies(&self) -> Result<(String, u32)> {
        until(PATIENCE, async || {
            for (pod, told) in look(&self.client, &self.labels).await? {
                let groups = told["groups"].as_array().cloned().unwrap_or_default();
                let copied = groups.iter().find(|group| group["step"] == "copying");
                if let Some(from) = copied.and_then(|group| group["from"].as_u64()) {
                    return Ok((pod, u32::try_from(from)?));
                }
            }
            bail!("no mover copies")
        })
        .await
    }

    /// Waits until no mover is there.
    pub async fn none(&self) -> Result<()> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), NAMESPACE);
        until(PATIENCE, async || {
            let all = pods.list(&ListParams::default().labels(&self.labels)).await?.items;
            let left: Vec<_> = all.iter().filter(|pod| is_there(pod)).map(ResourceExt::name_any).collect();
            same("movers", left, Vec::new())
        })
        .await
    }

    /// Takes a mover away at once, without a word to it, while it copies.
    pub async fn lose(&self) -> Result<()> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), NAMESPACE);
        let (pod, _) = self.copies().await?;
        pods.delete(&pod, &DeleteParams::default().grace_period(0)).await?;
        Ok(())
    }

    /// What was done so far.
    pub fn told(&self) -> Moved {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let number = |told: &Value, name: &str| told[name].as_u64().unwrap_or_default();
        seen.values().fold(Moved::default(), |all, Seen { moving, told }| Moved {
            slots: all.slots + number(told, "slotsMoved"),
            rows: all.rows + number(told, "rows"),
            moving: all.moving + moving.map_or(Duration::ZERO, |(first, last)| last - first + OFTEN),
            longest_pause: all.longest_pause.max(Duration::from_millis(number(told, "longestPauseMs"))),
        })
    }
}

impl Drop for Moves {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl std::fmt::Display for Moved {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { slots, rows, moving, longest_pause } = self;
        #[allow(clippy::cast_precision_loss)]
        let rate = *rows as f64 / moving.as_secs_f64().max(OFTEN.as_secs_f64());
        write!(
            f,
            "{slots} slots and {rows} rows moved, {rate:.0} rows a second; longest pause of any slot {longest_pause:.0?}"
        )
    }
}

fn is_there(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    !matches!(phase, Some("Succeeded" | "Failed"))
}

/// What each mover says of itself, by pod.
async fn look(client: &Client, labels: &str) -> Result<Vec<(String, Value)>> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let mut all = Vec::new();
    for pod in pods.list(&ListParams::default().labels(labels)).await?.items.iter().filter(|pod| is_there(pod)) {
        let path = format!("/api/v1/namespaces/{NAMESPACE}/pods/{}:9090/proxy/status", pod.name_any());
        // It may begin or end just now.
        if let Ok(status) = client.request::<Value>(Request::get(path).body(Vec::new())?).await {
            all.push((pod.name_any(), status["reshard"].clone()));
        }
    }
    Ok(all)
}

fn note(seen: &Mutex<BTreeMap<String, Seen>>, pod: String, told: Value) {
    if !told.is_object() {
        return;
    }
    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    let mover = seen.entry(pod).or_insert_with(|| Seen { moving: None, told: Value::Null });
    if told["phase"] == "moving" {
        let now = Instant::now();
        mover.moving = Some((mover.moving.map_or(now, |(first, _)| first), now));
    }
    // A container that was started again begins to count anew, and what it counts is little.
    let rows = |told: &Value| told["rows"].as_u64().unwrap_or_default();
    if rows(&told) >= rows(&mover.told) {
        mover.told = told;
    }
}
