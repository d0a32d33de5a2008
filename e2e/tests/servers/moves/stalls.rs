//! Movers that stall, and wake when another one has long done their work.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use shardlane_e2e::direct::Direct;
use shardlane_e2e::movers::{Moves, Point};
use shardlane_e2e::plain::PlainService;
use shardlane_e2e::{same, setting, topic};
use shardlane_runtime::hint::Hint;
use sqlx::Row;

use super::{PATIENCE, all_rows, holds, same_rows, signup, stopped_at};

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
    let owners = owners(service).await?;
    let expected = owners.clone();
    let enough = move |seen: &[topic::Seen]| {
        let mut last = BTreeMap::new();
        for record in seen {
            if let Some(Ok(hint)) = record.value.as_deref().map(serde_json::from_slice::<Hint>) {
                last.insert(hint.slot, (hint.partition, hint.epoch));
            }
        }
        last == expected
    };
    topic::read_until(&setting("SHARDLANE_TEST_KAFKA")?, service.topic("slots")?, PATIENCE, enough).await.map(drop)
}

#[tokio::test]
async fn a_mover_that_wakes_after_its_successor_changes_nothing() -> Result<()> {
    let (service, _workers) = signup("drowsy", 2, 3, 6).await?;
    let mut direct = Direct::new(&service, 300)?;
    direct.send(600).await?;
    direct.check(PATIENCE).await?;
    for step in ["leave", "copy", "fence", "hand_over"] {
        // Its successor only finishes; and it also moves the same slots back meanwhile, and there once more.
        for moved in [&[3_u32][..], &[3, 2, 3]] {
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
