//! Sign-up while its slots move: a plain client, who knows nothing of it, notices nothing.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use shardlane_e2e::direct::Direct;
use shardlane_e2e::movers::{Moves, Point};
use shardlane_e2e::plain::{PlainService, Process};
use shardlane_e2e::same;

use super::{DYING, PATIENCE, holds, same_rows, signup};
use crate::spec;

/// Slots of each partition, by a report of `verify`.
fn shares(report: &Value) -> Vec<usize> {
    let slots = |partition: &Value| {
        let ranges = partition["slots"].as_str().unwrap_or_default().split(',').filter(|range| !range.is_empty());
        let size = |range: &str| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            last.parse::<usize>().unwrap_or_default() + 1 - first.parse::<usize>().unwrap_or_default()
        };
        ranges.map(size).sum()
    };
    report["partitions"].as_array().map(|all| all.iter().map(slots).collect()).unwrap_or_default()
}

/// As the operator does: workers that are new are up before slots move, those that are left without slots go afterwards.
async fn reshard(service: &PlainService, workers: &mut Vec<Process>, partitions: usize) -> Result<()> {
    service.grow(service.shard_count().max(u32::try_from(partitions)?)).await?;
    while workers.len() < partitions {
        let worker = service.worker(u32::try_from(workers.len())?).await?;
        worker.ready().await?;
        workers.push(worker);
    }
    let moves = Moves { groups_at_once: 2, ..Moves::to(u32::try_from(partitions)?) };
    let report = service.reshard(&moves).await?;
    let mut expected: Vec<_> = (0..partitions).map(|at| 12 / partitions + usize::from(at < 12 % partitions)).collect();
    let mut found = shares(&report);
    ensure!(found[partitions..].iter().all(|share| *share == 0), "{report}");
    found.truncate(partitions);
    expected.sort_unstable();
    found.sort_unstable();
    same("shares of the slots", found, expected)?;
    for mut worker in workers.drain(partitions..) {
        same("exit code of a worker without slots", worker.stop().await?, Some(0))?;
    }
    Ok(())
}

#[tokio::test]
async fn a_plain_client_loses_nothing_while_slots_move_up_and_down() -> Result<()> {
    let service = PlainService::prepare("moved", spec("moved", 2, 12)).await?;
    let mut workers = service.workers().await?;
    let mut direct = Direct::changing(&service, 50, 3)?;
    direct.send(2_000).await?;
    for partitions in [3, 5, 1, 4] {
        direct
            .meanwhile(reshard(&service, &mut workers, partitions))
            .await
            .with_context(|| format!("to {partitions}"))?;
    }
    holds(&service, &direct).await?;
    // What was answered before is answered the same by whoever has its slot now; what is new comes after it.
    direct.send_again().await?;
    direct.send(600).await?;
    holds(&service, &direct).await?;
    for mut worker in workers {
        same("exit code", worker.stop().await?, Some(0))?;
    }
    Ok(())
}

#[tokio::test]
async fn a_move_that_is_taken_back_half_way_leaves_everything_as_it_was() -> Result<()> {
    let (service, _workers) = signup("retaken", 2, 3, 6).await?;
    let mut direct = Direct::new(&service, 500)?;
    direct.send(1_000).await?;
    direct.check(PATIENCE).await?;
    let before = told_by(&service).await?;
    for point in [Point::during_copy(), Point::before("copy"), Point::after("fence"), Point::before("hand_over")] {
        let mut mover = service.dying_mover(DYING, "TERM", std::slice::from_ref(&point), &Moves::to(3))?;
        same(&format!("exit code of a mover that is to stop at {point}"), mover.end(PATIENCE).await?, Some(1))?;
        mover.has_met(std::slice::from_ref(&point))?;
        ensure!(mover.log()?.contains("stopped before it was done"), "{}", mover.log()?);
        service.reshard(&Moves::to(2)).await?;
        same_rows(&format!("after a mover stopped at {point}"), &told_by(&service).await?, &before)?;
    }
    direct.send(500).await?;
    holds(&service, &direct).await
}

/// Accounts and refusals of each partition with their slots, and where the slots stand.
async fn told_by(service: &PlainService) -> Result<BTreeSet<String>> {
    let mut all = BTreeSet::new();
    for (mut shard, partition) in service.shards().await?.into_iter().zip(0..) {
        let rows = sqlx::query_scalar(
            "SELECT concat_ws(' ', slot, record_offset, username, id, request_id) FROM account
             UNION ALL SELECT concat_ws(' ', slot, record_offset, username, request_id) FROM refusal
             UNION ALL SELECT concat_ws(' ', slot, state, next_offset) FROM slot ORDER BY 1",
        );
        let rows: Vec<String> = rows.fetch_all(&mut shard).await?;
        all.extend(rows.iter().map(|row| format!("{partition}: {row}")));
    }
    Ok(all)
}
