//! Slots that move between the shards of plain processes: under load, and whatever dies on the way.

mod deaths;
mod harm;
mod plans;
mod signup;
mod stalls;
mod taken_back;
mod wallet;

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Result;
use shardlane_e2e::direct::Direct;
use shardlane_e2e::movers::{Moves, Point};
use shardlane_e2e::plain::{PlainService, Process};
use shardlane_e2e::same;
use shardlane_e2e::signups::check_shards;

use crate::kills::everything;
use crate::spec;

const DYING: &str = env!("CARGO_BIN_EXE_dying-mover");
const PATIENCE: Duration = Duration::from_secs(60);

/// A sign-up service of which the first partitions own all slots, and all have workers.
async fn signup(name: &str, partitions: u32, shards: u32, slots: u32) -> Result<(PlainService, Vec<Process>)> {
    let service = PlainService::prepare(name, spec(name, partitions, slots)).await?;
    service.grow(shards).await?;
    let workers = service.workers().await?;
    Ok((service, workers))
}

/// Everything that was asked for has its one answer, lies in one shard and nowhere else, and the right one.
async fn holds(service: &PlainService, direct: &Direct<'_>) -> Result<()> {
    direct.check(PATIENCE).await?;
    check_shards(&service.config, &mut service.shards().await?, &direct.outcomes()).await?;
    service.is_well().await.map(drop)
}

/// Every row of every shard, each after its partition.
async fn all_rows(service: &PlainService) -> Result<BTreeSet<String>> {
    let mut all = BTreeSet::new();
    for (mut shard, partition) in service.shards().await?.into_iter().zip(0..) {
        all.extend(everything(&mut shard).await?.iter().map(|row: &String| format!("{partition}: {row}")));
    }
    Ok(all)
}

/// Fails with the rows that only one of two has.
fn same_rows(when: &str, found: &BTreeSet<String>, expected: &BTreeSet<String>) -> Result<()> {
    let (more, less): (Vec<_>, Vec<_>) = (found.difference(expected).collect(), expected.difference(found).collect());
    same(&format!("rows {when}"), more, less)
}

/// Has a mover stop at a point, does something meanwhile, and lets it go on to its end. Gives its exit code.
async fn stopped_at(
    service: &PlainService,
    point: Point,
    moves: &Moves,
    act: impl AsyncFnOnce() -> Result<()>,
) -> Result<Option<i32>> {
    let mut act = Some(act);
    let mut mover = service.dying_mover(DYING, "STOP", std::slice::from_ref(&point), moves)?;
    let code = mover
        .at_each_stop(async |mover| {
            if let Some(act) = act.take() {
                act().await?;
            }
            mover.signal("CONT").await
        })
        .await?;
    mover.has_met(&[point])?;
    Ok(code)
}

/// Has a mover end itself at a point.
async fn killed_at(service: &PlainService, point: Point, moves: &Moves) -> Result<()> {
    let mut mover = service.dying_mover(DYING, "KILL", std::slice::from_ref(&point), moves)?;
    let signal = mover.killed_by(PATIENCE).await?;
    same(&format!("signal that ended the mover at {point}"), signal, Some(9))
}
