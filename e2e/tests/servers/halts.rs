//! Logs that are not the ones that the shard knows: their slots halt and say what to do, and the others go on.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use shardlane_e2e::plain::{PlainService, Process};
use shardlane_e2e::topic::{Admin, put};
use shardlane_e2e::{same, setting, topic, until};
use shardlane_runtime::config::Partitioner;
use shardlane_runtime::partitioner::slot_of;

use crate::spec;

const PATIENCE: Duration = Duration::from_secs(30);

/// A name whose key lies in this slot.
fn name_in(slot: u32, slots: u32, nth: usize) -> String {
    let names = (0..).map(|n| format!("name-{n}"));
    names.filter(|name| slot_of(Partitioner::Murmur2, name.as_bytes(), slots) == slot).nth(nth).unwrap_or_default()
}

/// Asks for a name straight through the log.
async fn ask(service: &PlainService, name: &str) -> Result<()> {
    let slot = slot_of(Partitioner::Murmur2, name.as_bytes(), service.config.max_partitions);
    let producer = topic::producer(&setting("SHARDLANE_TEST_KAFKA")?)?;
    let value = format!(r#"{{"request_id":"r-{name}","username":"{name}"}}"#);
    put(&producer, service.topic("request")?, slot, Some(name.as_bytes()), Some(value.as_bytes())).await
}

/// Waits until all these names are in the shard.
async fn wait_for(service: &PlainService, names: &[String]) -> Result<()> {
    for name in names {
        until(PATIENCE, async || {
            let found: i64 = sqlx::query_scalar("SELECT count(*) FROM account WHERE username = $1")
                .bind(name)
                .fetch_one(&mut service.shard(0).await?)
                .await?;
            if found == 1 { Ok(()) } else { bail!("{name} is not there") }
        })
        .await?;
    }
    Ok(())
}

/// Waits until exactly these slots are halted; gives the first one's reason.
async fn halted(worker: &Process, slots: &[u64]) -> Result<String> {
    until(PATIENCE, async || {
        let status = worker.status().await?;
        let halted = status["halted"].as_array().context("halted")?;
        let found: Vec<_> = halted.iter().filter_map(|halt| halt["slot"].as_u64()).collect();
        same("halted slots", &*found, slots)?;
        same("metric", worker.metric("shardlane_halted_slots").await?, slots.len() as f64)?;
        Ok(halted.first().and_then(|halt| halt["reason"].as_str()).unwrap_or_default().to_owned())
    })
    .await
}

#[tokio::test]
async fn a_hole_in_the_log_halts_its_slot_and_a_person_lets_it_go_on() -> Result<()> {
    let service = PlainService::prepare("hole", spec("hole", 1, 3)).await?;
    let mut worker = service.worker(0).await?;
    let before: Vec<_> = (0..3).map(|slot| name_in(slot, 3, 0)).collect();
    for name in &before {
        ask(&service, name).await?;
    }
    wait_for(&service, &before).await?;
    worker.stop().await?;

    // While it is away, two more requests come to slot 1 and the first of them ages away.
    ask(&service, &name_in(1, 3, 1)).await?;
    ask(&service, &name_in(1, 3, 2)).await?;
    Admin::at(&setting("SHARDLANE_TEST_KAFKA")?)?.remove_before(service.topic("request")?, 1, 2).await?;
    let worker = service.worker(0).await?;
    let reason = halted(&worker, &[1]).await?;
    anyhow::ensure!(reason.contains("records 1 to 1 were removed") && reason.contains("resume --slot=1"), "{reason}");
    // It is ready all the same, and the others go on.
    worker.ready().await?;
    let others = [name_in(0, 3, 1), name_in(2, 3, 1)];
    for name in &others {
        ask(&service, name).await?;
    }
    wait_for(&service, &others).await?;

    service.resume(0, 1).await?;
    halted(&worker, &[]).await?;
    wait_for(&service, &[name_in(1, 3, 2)]).await?;
    let refused = service.resume(0, 1).await.err().context("a healthy slot was moved")?.to_string();
    anyhow::ensure!(refused.contains("slot 1 is not halted"), "{refused}");
    Ok(())
}

#[tokio::test]
async fn a_topic_made_anew_halts_its_slots_until_a_person_decides() -> Result<()> {
    let service = PlainService::prepare("anew", spec("anew", 1, 2)).await?;
    let admin = Admin::at(&setting("SHARDLANE_TEST_KAFKA")?)?;
    let mut worker = service.worker(0).await?;
    let before = [name_in(0, 2, 0), name_in(1, 2, 0)];
    for name in &before {
        ask(&service, name).await?;
    }
    wait_for(&service, &before).await?;
    worker.stop().await?;
    admin.delete(service.topic("request")?).await?;
    admin.make(service.topic("request")?, 2, &[]).await?;
    // As many as before, so that the offsets alone would not tell.
    let after = [name_in(0, 2, 1), name_in(1, 2, 1)];
    for name in &after {
        ask(&service, name).await?;
    }
    let worker = service.worker(0).await?;
    let reason = halted(&worker, &[0, 1]).await?;
    anyhow::ensure!(reason.contains("deleted and made anew"), "{reason}");
    service.resume(0, 0).await?;
    halted(&worker, &[1]).await?;
    service.resume(0, 1).await?;
    halted(&worker, &[]).await?;
    wait_for(&service, &after).await
}

#[tokio::test]
async fn a_topic_that_is_deleted_and_made_anew_under_a_worker_is_not_read_on() -> Result<()> {
    let service = PlainService::prepare("under", spec("under", 1, 1)).await?;
    let admin = Admin::at(&setting("SHARDLANE_TEST_KAFKA")?)?;
    let worker = service.worker(0).await?;
    let before = [name_in(0, 1, 0), name_in(0, 1, 1)];
    for name in &before {
        ask(&service, name).await?;
    }
    wait_for(&service, &before).await?;
    admin.delete(service.topic("request")?).await?;
    admin.make(service.topic("request")?, 1, &[]).await?;
    // At once more than there were: a client that reads on where it stood would miss the first ones.
    let after: Vec<_> = (2..6).map(|nth| name_in(0, 1, nth)).collect();
    for name in &after {
        ask(&service, name).await?;
    }
    let reason = halted(&worker, &[0]).await?;
    anyhow::ensure!(reason.contains("deleted and made anew"), "{reason}");
    service.resume(0, 0).await?;
    wait_for(&service, &after).await
}

#[tokio::test]
async fn records_in_partitions_that_somebody_added_are_dead_letters() -> Result<()> {
    let service = PlainService::prepare("strays", spec("strays", 1, 2)).await?;
    let kafka = setting("SHARDLANE_TEST_KAFKA")?;
    Admin::at(&kafka)?.widen(service.topic("request")?, 4).await?;
    let worker = service.worker(0).await?;
    let name = name_in(1, 2, 0);
    let value = format!(r#"{{"request_id":"r","username":"{name}"}}"#);
    let producer = topic::producer(&kafka)?;
    put(&producer, service.topic("request")?, 3, Some(name.as_bytes()), Some(value.as_bytes())).await?;
    ask(&service, &name).await?;
    let dead = topic::read_until(&kafka, service.topic("request.dlq")?, PATIENCE, |seen| !seen.is_empty()).await?;
    same("reason", dead[0].header("shardlane.reason"), Some("misrouted: key belongs to 1"))?;
    same("partition", dead[0].header("shardlane.partition"), Some("3"))?;
    wait_for(&service, &[name]).await?;
    let status: Value = worker.status().await?;
    let notice = status["notices"][0].as_str().context("no notice")?;
    anyhow::ensure!(notice.contains("has 4 partitions, 2 more than the service has slots"), "{notice}");
    // The mover does not take them for slots.
    service.note_placed()?;
    service.init().await
}
