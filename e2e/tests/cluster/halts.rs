//! A slot whose log is not what it was halts, and no other does.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kube::Client;
use shardlane_e2e::cluster::{ClusterService, FORWARDED_KAFKA, kafka, services};
use shardlane_e2e::faults::signal_worker;
use shardlane_e2e::signups::{requests, send_all};
use shardlane_e2e::told::says;
use shardlane_e2e::{same, topic};
use shardlane_runtime::config::initial_owner;
use shardlane_runtime::intake::Keyspace;
use sqlx::Row;

use crate::services::{cloud_native_pg, spec, unique};

const PARTITIONS: u32 = 2;
const SLOTS: u32 = 4;
/// How long everything may take to come back.
const PATIENCE: Duration = Duration::from_secs(180);

#[tokio::test(flavor = "multi_thread")]
async fn a_hole_in_the_log_halts_its_slot_and_no_other() -> Result<()> {
    let _shared = crate::SHARED.read().await;
    let client = Client::try_default().await?;
    let name = unique("hole");
    let mut service =
        ClusterService::start(&client, &name, spec(&name, PARTITIONS, SLOTS, cloud_native_pg(1)?)).await?;
    let url = service.gateway().await?;
    send_all(&url, requests("before", 100, 100), 16).await?;

    // A slot of partition 0, and names that lie in it.
    let config = service.config.clone();
    let keyspace = Keyspace::of(&config);
    let slot_of = |name: &str| keyspace.slot_of(name.as_bytes());
    let halted = (0..SLOTS).find(|slot| initial_owner(*slot, PARTITIONS, SLOTS) == 0).context("no slot")?;
    let lost: Vec<_> = (0..1_000).map(|n| format!("lost-{n}")).filter(|n| slot_of(n) == halted).collect();
    let mut shard = service.shard(0).await?;
    let next = sqlx::query("SELECT next_offset FROM slot WHERE slot = $1").bind(halted.cast_signed());
    let next: i64 = next.fetch_one(&mut shard).await?.get(0);

    // Stopped, not killed: the kubelet would start it again at once. It must not read what is about to be lost.
    let worker = service.worker(0).await?;
    signal_worker(&worker, "STOP").await?;
    let _forward = kafka().await?;
    let producer = topic::producer(FORWARDED_KAFKA)?;
    let request = &config.topic("request")?.name;
    for name in &lost[..20] {
        let value = format!(r#"{{"request_id":"{name}","username":"{name}"}}"#);
        topic::put(&producer, request, halted, Some(name.as_bytes()), Some(value.as_bytes())).await?;
    }
    topic::Admin::at(FORWARDED_KAFKA)?.remove_before(request, halted, next + 10).await?;
    signal_worker(&worker, "KILL").await?;

    let began = Instant::now();
    let message =
        says(&services(&client), &name, "Degraded", "SlotHalted", &[&format!("partition 0, slot {halted}: ")]).await?;
    println!("a hole in slot {halted}: said after {:.1?}: {message}", began.elapsed());
    ensure!(message.starts_with(&format!("partition 0, slot {halted}: ")), "{message}");

    // All other slots are answered, also those of the same worker, and the service counts as ready.
    service.whole(PATIENCE).await?;
    let others = requests("after", 400, 400).into_iter().filter(|(_, name)| slot_of(name) != halted);
    let others: Vec<_> = others.collect();
    let (asked, answered) = (others.len(), send_all(&url, others, 16).await?);
    same("names that others have", answered.values().filter(|told| told.success).count(), asked)?;
    let stands: i64 = sqlx::query("SELECT next_offset FROM slot WHERE slot = $1")
        .bind(halted.cast_signed())
        .fetch_one(&mut shard)
        .await?
        .get(0);
    same("the halted slot's next offset", stands, next)?;
    drop(shard);

    // A topic that is deleted and made anew while a worker cannot see it.
    let worker = service.worker(0).await?;
    signal_worker(&worker, "STOP").await?;
    let admin = topic::Admin::at(FORWARDED_KAFKA)?;
    admin.delete(request).await?;
    admin.make(request, SLOTS.try_into()?, &[]).await?;
    signal_worker(&worker, "KILL").await?;
    let began = Instant::now();
    let message = says(&services(&client), &name, "Degraded", "SlotHalted", &["deleted and made anew"]).await?;
    println!("a topic made anew: said after {:.1?}: {message}", began.elapsed());
    service.remove().await
}
