//! `init`: what it makes, what it leaves alone, and what it refuses.

use anyhow::{Context, Result};
use shardlane_e2e::plain::PlainService;
use shardlane_e2e::same;
use sqlx::Row;

use crate::spec;

#[tokio::test]
async fn a_second_run_changes_nothing() -> Result<()> {
    let service = PlainService::prepare("twice", spec("twice", 2, 8)).await?;
    let slots = async || {
        let mut all = Vec::new();
        for mut shard in service.shards().await? {
            let rows =
                sqlx::query("SELECT slot, state, next_offset FROM slot ORDER BY slot").fetch_all(&mut shard).await?;
            all.push(rows.iter().map(|row| (row.get::<i32, _>(0), row.get::<String, _>(1))).collect::<Vec<_>>());
        }
        Ok::<_, anyhow::Error>(all)
    };
    let first = slots().await?;
    same("slots of partition 0", first[0].iter().map(|row| row.0).collect::<Vec<_>>(), vec![0, 1, 2, 3])?;
    same("slots of partition 1", first[1].iter().map(|row| row.0).collect::<Vec<_>>(), vec![4, 5, 6, 7])?;
    service.init().await?;
    same("slots after a second run", slots().await?, first)
}

#[tokio::test]
async fn another_services_database_is_refused() -> Result<()> {
    let service = PlainService::prepare("foreign", spec("foreign", 1, 2)).await?;
    sqlx::query("UPDATE shard SET service_id = 'somebody-else'").execute(&mut service.shard(0).await?).await?;
    let error = service.init().await.err().context("init took a foreign database")?.to_string();
    anyhow::ensure!(error.contains("somebody-else") && error.contains("empty database"), "{error}");
    let mut worker = service.worker(0).await?;
    same("exit code of its worker", worker.end(std::time::Duration::from_secs(10)).await?, Some(1))
}

#[tokio::test]
async fn a_topic_with_another_number_of_partitions_is_refused() -> Result<()> {
    let first = PlainService::prepare("width", spec("width", 1, 2)).await?;
    let mut other = spec("width", 1, 4);
    other["topics"]["response"] = "width-other.response".into();
    let error =
        PlainService::prepare("width-other", other).await.err().context("a narrow topic was taken")?.to_string();
    anyhow::ensure!(error.contains("width.request has 2 partitions") && error.contains("exactly 4"), "{error}");
    drop(first);
    Ok(())
}

#[tokio::test]
async fn a_lost_shard_is_not_taken_for_an_empty_one() -> Result<()> {
    let service = PlainService::prepare("lost", spec("lost", 2, 4)).await?;
    service.note_placed()?;
    sqlx::query("DELETE FROM slot").execute(&mut service.shard(1).await?).await?;
    let error = service.init().await.err().context("init filled a lost shard")?.to_string();
    anyhow::ensure!(error.contains("2 of 4 slots") && error.contains("Nothing was written"), "{error}");
    Ok(())
}
