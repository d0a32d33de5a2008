//! Workers and databases that are lost at every step of a move, and rows that are not what they were.

use anyhow::{Context, Result, ensure};
use shardlane_e2e::direct::Direct;
use shardlane_e2e::movers::{Moves, Point};
use shardlane_e2e::plain::{PlainService, Process};
use shardlane_e2e::{same, until};
use shardlane_operator::api::signup_shard::SignupShard;
use shardlane_operator::controller::workers::WorkerStatus;
use sqlx::{AssertSqlSafe, Connection};

use super::{DYING, PATIENCE, holds, signup, stopped_at};
use crate::spec;

/// What happens at every step.
#[derive(Clone, Copy, Debug)]
enum Harm {
    /// The partition's worker is killed, and another one started.
    Worker(u32),
    /// Its database's server is killed and, once the mover may have found out, started again.
    Database(u32),
}

/// Moves slots from 0 to 1 and back, once with each of the two workers and databases lost at every step: each is the source once,
/// and the target once.
pub(super) async fn there_and_back_in_spite_of_all(service: &PlainService, workers: &mut [Process]) -> Result<()> {
    for harm in [Harm::Worker(0), Harm::Worker(1), Harm::Database(0), Harm::Database(1)] {
        for partitions in [2, 1] {
            let moves = Moves::to(partitions);
            let moved = move_in_spite_of(service, workers, &moves, harm).await;
            moved.with_context(|| format!("{harm:?}, to {partitions}"))?;
        }
    }
    for worker in workers {
        worker.ready().await?;
    }
    Ok(())
}

/// Moves slots, with some harm done at every step.
async fn move_in_spite_of(service: &PlainService, workers: &mut [Process], moves: &Moves, harm: Harm) -> Result<()> {
    let points = Point::all();
    let mut mover = service.dying_mover(DYING, "STOP", &points, moves)?;
    let ended = mover
        .at_each_stop(async |mover| match harm {
            Harm::Worker(partition) => {
                let worker = &mut workers[partition as usize];
                worker.kill().await?;
                *worker = service.worker(partition).await?;
                mover.signal("CONT").await
            }
            Harm::Database(partition) => {
                let server = service.server(partition)?;
                server.kill().await?;
                // It finds out, and may try again in vain.
                mover.signal("CONT").await?;
                server.start_again().await
            }
        })
        .await;
    same("exit code of the mover", ended?, Some(0)).with_context(|| mover.log().unwrap_or_default())?;
    mover.has_met(&points)?;
    service.is_well().await.map(drop)
}

#[tokio::test]
async fn workers_and_databases_of_both_sides_may_be_lost_at_every_step() -> Result<()> {
    let service = PlainService::prepare_apart::<SignupShard>("harmed", spec("harmed", 1, 4), 2).await?;
    service.grow(2).await?;
    let mut workers = service.workers().await?;
    let mut direct = Direct::changing(&service, 50, 3)?;
    direct.send(2_000).await?;
    direct.meanwhile(Box::pin(there_and_back_in_spite_of_all(&service, &mut workers))).await?;
    holds(&service, &direct).await
}

/// One more row, one less, and one that is another.
const ALTERATIONS: [&str; 3] = [
    "UPDATE account SET request_id = 'forged' WHERE username = (SELECT min(username) FROM account WHERE batch = 0)",
    "DELETE FROM refusal WHERE request_id = (SELECT min(request_id) FROM refusal WHERE batch = 0)",
    "INSERT INTO account SELECT slot, 0, record_offset, 'nobody', id, 'forged' FROM account WHERE batch = 0 LIMIT 1",
];

/// Waits until a mover says to the operator, which has a condition say it, that a group was undone for what it found.
async fn undone(mover: &Process) -> Result<String> {
    until(PATIENCE, async || {
        let status = mover.status().await?;
        same("reason", status["reshard"]["problem"]["reason"].as_str(), Some("MoveUndone"))?;
        same("undone", mover.metric(r#"shardlane_mover_undone_total{reason="differs"}"#).await?, 1.0)?;
        let heard: WorkerStatus = serde_json::from_value(status)?;
        Ok(heard.reshard.and_then(|report| report.problem).context("the operator hears of no problem")?.message)
    })
    .await
}

#[tokio::test]
async fn a_copy_that_is_not_what_the_source_has_is_undone_and_made_again() -> Result<()> {
    let (service, _workers) = signup("altered", 1, 2, 4).await?;
    let mut direct = Direct::new(&service, 500)?;
    direct.send(1_000).await?;
    direct.check(PATIENCE).await?;
    for (alteration, partitions) in ALTERATIONS.into_iter().zip([2, 1].into_iter().cycle()) {
        let target = if partitions == 2 { 1 } else { 0 };
        let moves = Moves::to(partitions);
        let mut mover = service.dying_mover(DYING, "STOP", &[Point::after("copy")], &moves)?;
        mover.stopped(PATIENCE).await?;
        let mut shard = service.shard(target).await?;
        let altered = sqlx::query(AssertSqlSafe(alteration)).execute(&mut shard).await?;
        same(alteration, altered.rows_affected(), 1)?;
        // What was copied cannot be deleted yet: so it stays undone for as long as somebody looks.
        let mut looking = shard.begin().await?;
        sqlx::raw_sql("LOCK TABLE account, refusal IN SHARE MODE").execute(&mut *looking).await?;
        mover.signal("CONT").await?;
        let said = undone(&mover).await?;
        ensure!(said.contains("nothing is lost, and it is tried again"), "{said}");
        looking.rollback().await?;
        same("exit code of the mover", mover.end(PATIENCE).await?, Some(0))?;
        holds(&service, &direct).await.with_context(|| alteration)?;
    }
    Ok(())
}

/// What a server does that does not keep what it is given.
const FORGES: &str = "
    CREATE FUNCTION forge() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN NEW.request_id = 'forged'; RETURN NEW; END $$;
    CREATE TRIGGER forges BEFORE INSERT ON account FOR EACH ROW EXECUTE FUNCTION forge()";

#[tokio::test]
async fn what_follows_the_copy_is_compared_too() -> Result<()> {
    let (service, _workers) = signup("forged-later", 1, 2, 4).await?;
    let mut direct = Direct::changing(&service, 50, 3)?;
    direct.send(300).await?;
    direct.check(PATIENCE).await?;
    let mut mover = service.dying_mover(DYING, "STOP", &[Point::after("compare")], &Moves::to(2))?;
    mover.stopped(PATIENCE).await?;
    let mut target = service.shard(1).await?;
    sqlx::raw_sql(FORGES).execute(&mut target).await?;
    // What was copied can have company, and cannot be deleted: so it stays undone for as long as somebody looks.
    let mut looking = target.begin().await?;
    let held = "SELECT username FROM account WHERE batch = 0 FOR UPDATE";
    ensure!(!sqlx::query(held).fetch_all(&mut *looking).await?.is_empty(), "nothing was copied");
    direct.send(300).await?;
    direct.check(PATIENCE).await?;
    mover.signal("CONT").await?;
    let said = undone(&mover).await?;
    ensure!(said.contains("account"), "{said}");
    looking.rollback().await?;
    sqlx::raw_sql("DROP TRIGGER forges ON account").execute(&mut target).await?;
    same("exit code of the mover", mover.end(PATIENCE).await?, Some(0))?;
    holds(&service, &direct).await
}

/// More than are one piece of work where nothing else goes on.
const MANY: &str = "
    INSERT INTO account (slot, batch, record_offset, username, id, request_id)
    SELECT n % 6, 0, n, 'user' || n, lpad(n::text, 27, '0'), 'request' || n FROM generate_series(1, 90000) n";

#[tokio::test]
async fn a_table_that_is_written_anew_while_it_is_cleaned_is_cleaned_to_the_last_row() -> Result<()> {
    let (service, _workers) = signup("rewritten", 1, 3, 6).await?;
    sqlx::raw_sql(MANY).execute(&mut service.shard(0).await?).await?;
    // Slots have gone to two other shards, and their rows lie between each other. Dead letters are cleaned first: there are none.
    let code = stopped_at(&service, Point::after("clean").pass(2), &Moves::to(3), async || {
        let mut shard = service.shard(0).await?;
        let left = "SELECT count(*) FROM account WHERE slot IN (SELECT slot FROM slot WHERE state = 'moved')";
        let left = sqlx::query_scalar::<_, i64>(left).fetch_one(&mut shard).await?;
        ensure!((1..60_000).contains(&left), "{left} of 60000 rows are left");
        // Pages that have been looked through get other rows.
        sqlx::raw_sql("VACUUM FULL account").execute(&mut shard).await?;
        Ok(())
    })
    .await?;
    same("exit code of the mover", code, Some(0))?;
    service.is_well().await?;
    for mut shard in service.shards().await? {
        let rows = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM account").fetch_one(&mut shard).await?;
        same("rows of a shard", rows, 30_000)?;
    }
    Ok(())
}
