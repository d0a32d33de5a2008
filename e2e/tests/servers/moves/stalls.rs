//! Movers that stall, and wake when another one has long done their work.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use shardlane_e2e::direct::Direct;
use shardlane_e2e::movers::{Moves, Point};
use shardlane_e2e::plain::PlainService;
use shardlane_e2e::{same, setting, topic};
use shardlane_runtime::hint::Hint;
use sqlx::Row;

use super::{DYING, PATIENCE, all_rows, holds, same_rows, signup, stopped_at};

/// Who owns which slot, by the shards, with epochs.
async fn owners(service: &PlainService) -> Result<BTreeMap<u32, (u32, i64)>> {
    let mut owners = BTreeMap::new();
    for (mut shard, partition) in service.shards().await?.into_iter().zip(0..) {
        for row in sqlx::query("SELECT slot, epoch FROM slot WHERE state = 'active'").fetch_all(&mut shard).await? {
            owners.insert(row.get::<i32, _>(0).unsigned_abs(), (partition, row.get(1)));
        }
    }
    Ok(owners)
}

/// Fails unless what the hint topic last says of each slot is true: whoever reads it once it is compacted sees nothing else.
async fn last_hints_are_true(service: &PlainService) -> Result<()> {
    let (kafka, hints) = (setting("SHARDLANE_TEST_KAFKA")?, service.topic("slots")?);
    let records = topic::length(&kafka, hints).await?;
    let seen = topic::read_until(&kafka, hints, PATIENCE, move |seen| seen.len() >= records).await?;
    let mut last = BTreeMap::new();
    for record in &seen {
        let hint: Hint = serde_json::from_slice(record.value.as_deref().context("no value")?)?;
        last.insert(hint.slot, (hint.partition, hint.epoch));
    }
    same("last hints", last, owners(service).await?)
}

#[tokio::test]
async fn a_mover_that_wakes_after_its_successor_changes_nothing() -> Result<()> {
    let (service, _workers) = signup("drowsy", 2, 3, 6).await?;
    let mut direct = Direct::changing(&service, 50, 3)?;
    direct.send(600).await?;
    direct.check(PATIENCE).await?;
    let there_and_back = &[3_u32, 2, 3][..];
    let stalls = ["leave", "copy", "fence", "hand_over"].map(|step| (step, there_and_back));
    // Its successor does just what it was about to do; or moves the same slots back meanwhile, and there once more.
    for (step, moved) in stalls.into_iter().chain([("hand_over", &[3_u32][..])]) {
        let mut before = BTreeSet::new();
        let ended = stopped_at(&service, Point::after(step), &Moves::to(3), async || {
            service.let_another_mover_in().await?;
            for partitions in moved {
                service.reshard(&Moves::to(*partitions)).await?;
            }
            before = all_rows(&service).await?;
            Ok(())
        })
        .await?;
        same("exit code of the one that woke", ended, Some(0))?;
        let when = format!("after a mover woke that stalled after {step}, slots moved to {moved:?}");
        same_rows(&when, &all_rows(&service).await?, &before)?;
        last_hints_are_true(&service).await.with_context(|| when)?;
        direct.meanwhile(service.reshard(&Moves::to(2))).await?;
        direct.check(PATIENCE).await?;
    }
    holds(&service, &direct).await
}

/// The highest epoch that any shard has of each slot.
async fn epochs(service: &PlainService) -> Result<BTreeMap<u32, i64>> {
    let mut epochs = BTreeMap::new();
    for mut shard in service.shards().await? {
        for row in sqlx::query("SELECT slot, epoch FROM slot").fetch_all(&mut shard).await? {
            let epoch: &mut i64 = epochs.entry(row.get::<i32, _>(0).unsigned_abs()).or_default();
            *epoch = row.get::<i64, _>(1).max(*epoch);
        }
    }
    Ok(epochs)
}

/// Has a mover stall at a point, and another one, that has taken over, at another point; then the first wakes and runs to its end,
/// and then the second.
async fn contest(service: &PlainService, first: Point, second: Point) -> Result<()> {
    let mut one = service.dying_mover(DYING, "STOP", &[first], &Moves::to(3))?;
    one.stopped(PATIENCE).await?;
    service.let_another_mover_in().await?;
    let mut other = service.dying_mover(DYING, "STOP", &[second], &Moves::to(3))?;
    other.stopped(PATIENCE).await?;
    let before = epochs(service).await?;
    for mover in [&mut one, &mut other] {
        mover.signal("CONT").await?;
        same("exit code", mover.end(PATIENCE).await?, Some(0)).with_context(|| mover.log().unwrap_or_default())?;
    }
    // Who hands over what another one has fenced takes a slot back to an epoch, and to a place in its log, of its own time.
    for (slot, (_, epoch)) in owners(service).await? {
        let known = before.get(&slot).copied().unwrap_or_default();
        ensure!(epoch >= known, "slot {slot} has the epoch {epoch}, after {known}");
    }
    last_hints_are_true(service).await
}

#[tokio::test]
async fn movers_that_wake_in_each_others_work_only_cost_time() -> Result<()> {
    let (service, _workers) = signup("contested", 2, 3, 6).await?;
    let mut direct = Direct::changing(&service, 50, 3)?;
    direct.send(600).await?;
    for (first, second) in [
        (Point::after("leave"), Point::after("copy")),
        (Point::after("copy"), Point::after("purge")),
        (Point::before("hand_over"), Point::after("fence")),
        (Point::after("hand_over"), Point::after("catch_up")),
    ] {
        let when = format!("{first} and {second}");
        direct.meanwhile(Box::pin(contest(&service, first, second))).await.with_context(|| when)?;
        direct.meanwhile(service.reshard(&Moves::to(2))).await?;
    }
    holds(&service, &direct).await
}

#[tokio::test]
async fn a_second_mover_waits_for_the_first_one() -> Result<()> {
    let (service, _workers) = signup("queued", 1, 2, 4).await?;
    let mut second = None;
    let first = stopped_at(&service, Point::before("fence"), &Moves::to(2), async || {
        let mut waiting = service.mover(&Moves::to(1))?;
        shardlane_e2e::until(PATIENCE, async || {
            let waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 7362515 AND NOT granted";
            let waits: i64 = sqlx::query_scalar(waits).fetch_one(&mut service.shard(0).await?).await?;
            same("movers that wait", waits, 1)
        })
        .await?;
        same("whether it has ended", waiting.stopped_or_ended(std::time::Duration::ZERO).await.is_err(), true)?;
        second = Some(waiting);
        Ok(())
    })
    .await?;
    same("exit code of the first", first, Some(0))?;
    if let Some(mut second) = second {
        same("exit code of the second", second.end(PATIENCE).await?, Some(0))?;
    }
    let partitions: Vec<_> = owners(&service).await?.into_values().map(|(partition, _)| partition).collect();
    same("owners at last", partitions, vec![0; 4])?;
    service.is_well().await.map(drop)
}
