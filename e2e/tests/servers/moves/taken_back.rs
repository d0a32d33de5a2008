//! What comes after a move: a shard that was taken back to a time before it, and rows that grow old where they came to.

use anyhow::{Context, Result, bail, ensure};
use shardlane_e2e::direct::Direct;
use shardlane_e2e::movers::Moves;
use shardlane_e2e::{same, until};
use sqlx::AssertSqlSafe;

use super::{PATIENCE, holds, signup};

#[tokio::test]
async fn a_shard_that_was_taken_back_refuses_what_has_moved() -> Result<()> {
    refuses("restored", "SELECT * FROM slot").await
}

#[tokio::test]
async fn a_shard_that_was_taken_back_under_the_fence_undoes_it_and_refuses_what_has_moved() -> Result<()> {
    let fenced = "SELECT (jsonb_populate_record(s, jsonb_build_object(
                      'state', 'fenced', 'epoch', epoch + 1, 'attempt', 'lost', 'fence_until', now()))).* FROM slot s";
    refuses("halfway", fenced).await
}

/// Takes a shard back, after slots have moved away, to slot rows that were so before.
async fn refuses(name: &str, before: &'static str) -> Result<()> {
    let (service, mut workers) = signup(name, 1, 2, 4).await?;
    let mut direct = Direct::new(&service, 300)?;
    direct.send(600).await?;
    direct.check(PATIENCE).await?;
    let mut source = service.shard(0).await?;
    sqlx::raw_sql(AssertSqlSafe(format!("CREATE TABLE old_slot AS {before}"))).execute(&mut source).await?;
    service.reshard(&Moves::to(2)).await?;

    workers[0].kill().await?;
    let moved: Vec<i32> = sqlx::query_scalar(
        "INSERT INTO slot SELECT * FROM old_slot WHERE slot NOT IN (SELECT slot FROM slot) RETURNING slot",
    )
    .fetch_all(&mut source)
    .await?;
    same("slots that have moved", moved.len(), 2)?;
    workers[0] = service.worker(0).await?;
    until(PATIENCE, async || {
        let status = workers[0].status().await?;
        let halted = status["halted"].as_array().context("halted")?;
        same("halted slots", halted.len(), 2)?;
        for (halt, slot) in halted.iter().zip(&moved) {
            same("halted slot", halt["slot"].as_i64(), Some(i64::from(*slot)))?;
            let reason = halt["reason"].as_str().context("no reason")?;
            ensure!(reason.contains("has moved to partition 1") && reason.contains("taken back"), "{reason}");
        }
        Ok(())
    })
    .await?;
    let (code, report) = service.verify().await?;
    same("exit code of verify", code, Some(3))?;
    let problems = report["problems"].to_string();
    for slot in &moved {
        ensure!(problems.contains(&format!("slot {slot} is owned by the partitions [0, 1]")), "{problems}");
    }
    // Whoever has them serves them, and the shard's other ones are served.
    direct.send(600).await?;
    direct.check(PATIENCE).await?;
    // Nothing is moved before a person has decided.
    let mut mover = service.mover(&Moves::to(1))?;
    until(PATIENCE, async || {
        let status = mover.status().await?;
        let waits = status["waitingFor"].as_str().context("waits for nothing")?;
        ensure!(waits.contains("is owned by the shards of partitions 0 and 1"), "{waits}");
        Ok(())
    })
    .await?;
    sqlx::query("DELETE FROM slot WHERE slot = ANY($1)").bind(&moved).execute(&mut source).await?;
    same("exit code of the mover", mover.end(PATIENCE).await?, Some(0))?;
    holds(&service, &direct).await
}

#[tokio::test]
async fn outcomes_that_came_from_another_shard_go_once_they_are_old_here() -> Result<()> {
    let (mut service, mut workers) = signup("aged", 1, 2, 4).await?;
    let mut direct = Direct::new(&service, 500)?;
    direct.send(2_000).await?;
    direct.check(PATIENCE).await?;
    drop(direct);
    service.reshard(&Moves::to(2)).await?;
    let mut target = service.shard(1).await?;
    let count = async |target: &mut sqlx::PgConnection, of: &str| {
        let statement = AssertSqlSafe(format!("SELECT count(*) FROM {of}"));
        Ok::<i64, anyhow::Error>(sqlx::query_scalar(statement).fetch_one(target).await?)
    };
    let accounts = count(&mut target, "account").await?;
    same("rows that have not come", count(&mut target, "refusal WHERE batch > 0").await?, 0)?;
    // One of the slots is taken for having come an hour later.
    let young: i32 = sqlx::query_scalar(
        "UPDATE slot SET came_at = came_at + interval '1 hour' WHERE slot = (SELECT min(slot) FROM slot) RETURNING slot",
    )
    .fetch_one(&mut target)
    .await?;
    let kept = count(&mut target, &format!("refusal WHERE slot = {young}")).await?;
    ensure!(kept > 0 && count(&mut target, "refusal").await? > kept, "both slots have refusals");

    workers[1].stop().await?;
    service.config.outcome_retention_ms = Some(2_000);
    service.write_config()?;
    workers[1] = service.worker(1).await?;
    until(PATIENCE, async || {
        match count(&mut service.shard(1).await?, &format!("refusal WHERE slot <> {young}")).await? {
            0 => Ok(()),
            left => bail!("{left} refusals are left"),
        }
    })
    .await?;
    same("refusals of the young slot", count(&mut target, "refusal").await?, kept)?;
    same("accounts", count(&mut target, "account").await?, accounts)
}
