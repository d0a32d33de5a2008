//! Loops without a shard: at least once, whichever member does it, and never over a hole in silence.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use shardlane_e2e::plain::PlainService;
use shardlane_e2e::topic::{Admin, put};
use shardlane_e2e::{same, setting, topic, until};
use shardlane_runtime::health::Health;
use shardlane_runtime::intake::Keyspace;
use shardlane_runtime::metrics::Metrics;
use shardlane_runtime::process::Shutdown;
use shardlane_runtime::record::Record;
use shardlane_runtime::service::{Accepted, Message, Rejection};
use shardlane_runtime::stateless::{self, CONSUMER, StatelessError, Step};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::spec;

const PATIENCE: Duration = Duration::from_secs(60);

/// Answers each request, and cannot now and then.
#[derive(Default)]
struct Echo(AtomicU32);

impl Step for Echo {
    type Item = String;
    const INPUT: &'static str = "request";

    fn parse(&self, record: &Record<'_>) -> Result<String, Rejection> {
        let value = record.value.unwrap_or_default();
        let request: Value =
            serde_json::from_slice(value).map_err(|error| Rejection::new("malformed", error.to_string()))?;
        Ok(request["id"].to_string())
    }

    async fn feed(&self, items: Vec<Accepted<String>>) -> Result<Vec<Message>, String> {
        if self.0.fetch_add(1, Ordering::Relaxed) % 5 == 3 {
            return Err("what it feeds does not answer".to_owned());
        }
        let message = |item: Accepted<String>| {
            let (key, value) = (item.request.clone().into_bytes(), item.request.into_bytes());
            Message { role: "response", key, value }
        };
        Ok(items.into_iter().map(message).collect())
    }
}

struct Member {
    stop: watch::Sender<bool>,
    health: Health,
    task: JoinHandle<Result<(), StatelessError>>,
}

impl Member {
    fn start(service: &PlainService, instance: &'static str) -> Result<Self> {
        let health = Health::starting(Arc::new(Metrics::new()?), &[CONSUMER]);
        let (stop, shutdown) = Shutdown::by_hand();
        let (config, its_health) = (Arc::new(service.config.clone()), health.clone());
        let run = async move { stateless::run(Echo::default(), config, instance, its_health, shutdown).await };
        Ok(Self { stop, health, task: tokio::spawn(run) })
    }

    async fn stop(self) -> Result<()> {
        let _ = self.stop.send(true);
        Ok(self.task.await??)
    }
}

/// Puts requests `first..end` and as many bad ones into the log.
async fn ask(service: &PlainService, first: usize, end: usize) -> Result<()> {
    let producer = topic::producer(&setting("SHARDLANE_TEST_KAFKA")?)?;
    let request = service.topic("request")?;
    for n in first..end {
        let slot = u32::try_from(n % 4)?;
        let key = key_in(service, slot)?;
        put(&producer, request, slot, Some(key.as_bytes()), Some(format!(r#"{{"id":{n}}}"#).as_bytes())).await?;
        put(&producer, request, slot, Some(key.as_bytes()), Some(format!("bad {n}").as_bytes())).await?;
    }
    Ok(())
}

/// A key that belongs to a slot.
fn key_in(service: &PlainService, slot: u32) -> Result<String> {
    let keyspace = Keyspace::of(&service.config);
    let mut keys = (0..1_000).map(|n| format!("k{n}"));
    keys.find(|key| keyspace.slot_of(key.as_bytes()) == slot).context("no key")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_in_another_slot_than_its_keys_is_a_dead_letter() -> Result<()> {
    let service = PlainService::prepare("strayed", spec("strayed", 1, 4)).await?;
    let (kafka, key) = (setting("SHARDLANE_TEST_KAFKA")?, key_in(&service, 1)?);
    let (request, value) = (service.topic("request")?, br#"{"id":1}"#);
    put(&topic::producer(&kafka)?, request, 2, Some(key.as_bytes()), Some(value)).await?;
    let member = Member::start(&service, "one")?;
    let dead = topic::read_until(&kafka, service.topic("request.dlq")?, PATIENCE, |seen| !seen.is_empty()).await?;
    same("why", dead[0].header("shardlane.reason"), Some("misrouted: key belongs to 1"))?;
    member.stop().await
}

async fn seen(service: &PlainService, role: &str, count: usize) -> Result<()> {
    let mut values = BTreeSet::new();
    let kafka = setting("SHARDLANE_TEST_KAFKA")?;
    let enough = move |seen: &[topic::Seen]| {
        values.extend(seen.iter().filter_map(|record| record.value.clone()));
        values.len() >= count
    };
    topic::read_until(&kafka, service.topic(role)?, PATIENCE, enough).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_record_is_passed_on_whichever_member_does_it_and_a_hole_halts() -> Result<()> {
    let service = PlainService::prepare("stateless", spec("stateless", 1, 4)).await?;
    ask(&service, 0, 50).await?;
    let (one, two) = (Member::start(&service, "one")?, Member::start(&service, "two")?);
    seen(&service, "response", 50).await?;
    seen(&service, "request.dlq", 50).await?;
    // One goes away for good while the other works on; its partitions go over.
    let more = ask(&service, 50, 100);
    let (stopped, asked) = tokio::join!(one.stop(), more);
    stopped?;
    asked?;
    seen(&service, "response", 100).await?;
    seen(&service, "request.dlq", 100).await?;
    two.stop().await?;

    // While nobody is there, records of partition 2 age away unseen.
    ask(&service, 100, 120).await?;
    Admin::at(&setting("SHARDLANE_TEST_KAFKA")?)?.remove_before(service.topic("request")?, 2, 55).await?;
    let two = Member::start(&service, "two")?;
    until(PATIENCE, async || {
        let halted = two.health.halted();
        same("halted partitions", halted.keys().copied().collect::<Vec<_>>(), vec![2])?;
        let reason = halted.get(&2).context("no reason")?;
        anyhow::ensure!(reason.contains("were removed before they were applied"), "{reason}");
        Ok(())
    })
    .await?;
    // The other three partitions went on: 15 of the 20.
    seen(&service, "response", 115).await?;
    two.stop().await
}
