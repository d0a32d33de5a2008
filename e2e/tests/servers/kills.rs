//! Workers that are killed or stopped, wherever they are: nothing is lost, doubled or answered differently.

use std::time::Duration;

use anyhow::Result;
use shardlane_e2e::direct::Direct;
use shardlane_e2e::plain::{PlainService, Point};
use shardlane_e2e::same;
use sqlx::{PgConnection, Row};

use crate::spec;

const DYING: &str = env!("CARGO_BIN_EXE_dying-worker");
const SIGKILL: i32 = 9;
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_worker_killed_at_each_point_loses_and_doubles_nothing() -> Result<()> {
    let service = PlainService::prepare("points", spec("points", 1, 4)).await?;
    let mut direct = Direct::new(&service, 6_000)?;
    for point in Point::ALL {
        for pass in [1, 2, 3] {
            direct.send(800).await?;
            let mut worker = service.dying_worker(DYING, 0, point, "KILL", pass)?;
            // Every pass of a point takes a batch of its own.
            let mut killed = None;
            while killed.is_none() {
                killed = tokio::select! {
                    killed = worker.killed_by(PATIENCE) => Some(killed?),
                    () = tokio::time::sleep(Duration::from_millis(100)) => None,
                };
                direct.send(20).await?;
            }
            same(&format!("signal that ended the worker at {point:?}"), killed.flatten(), Some(SIGKILL))?;
        }
    }
    let _workers = service.workers().await?;
    direct.check(PATIENCE).await
}

#[tokio::test]
async fn a_worker_killed_200_times_under_load_loses_and_doubles_nothing() -> Result<()> {
    const KILLS: usize = 200;
    let service = PlainService::prepare("answered", spec("answered", 1, 4)).await?;
    let mut direct = Direct::new(&service, 30_000)?;
    direct.send(2_000).await?;
    for _ in 0..KILLS {
        let mut worker = service.worker(0).await?;
        direct.send(200).await?;
        // Anywhere in its work: while it starts, in a batch, between a commit and its relay, in the relay.
        tokio::time::sleep(Duration::from_millis(rand::random_range(20..300))).await;
        worker.kill().await?;
    }
    let _workers = service.workers().await?;
    direct.check(PATIENCE).await
}

#[tokio::test]
async fn of_two_workers_at_work_the_later_one_wins_and_the_earlier_one_stops() -> Result<()> {
    let service = PlainService::prepare("fence", spec("fence", 1, 2)).await?;
    let mut direct = Direct::new(&service, 30_000)?;
    let mut earlier = service.worker(0).await?;
    earlier.ready().await?;
    direct.send(20_000).await?;
    let later = service.second_worker(0).await?;
    direct.send(20_000).await?;
    later.ready().await?;
    same("exit code of the earlier one", earlier.end(Duration::from_secs(10)).await?, Some(1))?;
    direct.check(PATIENCE).await
}

#[tokio::test]
async fn a_stopped_worker_that_wakes_after_its_successor_changes_nothing() -> Result<()> {
    for point in Point::ALL {
        let name = format!("wakes-{}", point.name());
        let service = PlainService::prepare(&name, spec(&name, 1, 4)).await?;
        let mut direct = Direct::new(&service, 1_000)?;
        direct.send(1_500).await?;
        let mut stopped = service.dying_worker(DYING, 0, point, "STOP", 1)?;
        stopped.stopped(PATIENCE).await?;
        // Where the stopped one holds the fence, the server takes it from it after ten seconds.
        let successor = service.worker(0).await?;
        successor.ready().await?;
        direct.check(PATIENCE).await?;
        let before = everything(&mut service.shard(0).await?).await?;
        stopped.signal("CONT").await?;
        same("exit code of the one that woke", stopped.end(PATIENCE).await?, Some(1))?;
        same("what is in the shard", everything(&mut service.shard(0).await?).await?, before)?;
    }
    Ok(())
}

/// Every row of the shard, as text, once all of it is relayed.
pub(crate) async fn everything(shard: &mut PgConnection) -> Result<Vec<String>> {
    while !sqlx::query_scalar("SELECT batch = relayed_batch FROM shard").fetch_one(&mut *shard).await? {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let rows = sqlx::query(
        "SELECT t::text FROM shard t UNION ALL SELECT t::text FROM slot t UNION ALL SELECT t::text FROM account t
         UNION ALL SELECT t::text FROM refusal t UNION ALL SELECT t::text FROM dead_letter t ORDER BY 1",
    )
    .fetch_all(shard)
    .await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}
