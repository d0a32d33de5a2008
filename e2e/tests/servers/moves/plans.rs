//! How Postgres finds the rows that move, before it knows that their slot is there.

use anyhow::{Context, Result, ensure};
use shardlane_e2e::plain::{administer, database_uri};
use shardlane_mover::moves::copy::{Since, Table};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

/// As the wallet's entries are: the key begins with the slot. The statistics are of a time when only slot 1 was there.
const TABLE: &str = "
    CREATE TABLE entry (slot int, batch bigint, number bigint, PRIMARY KEY (slot, number));
    CREATE INDEX entry_batch ON entry USING brin (batch) WITH (pages_per_range = 16);
    INSERT INTO entry SELECT 1, n / 100, n FROM generate_series(1, 50000) n;
    SELECT brin_summarize_new_values('entry_batch');
    ANALYZE entry;
    INSERT INTO entry SELECT 6, 500 + n / 100, n FROM generate_series(1, 50000) n;
    SELECT brin_summarize_new_values('entry_batch')";

#[tokio::test]
async fn a_slot_that_the_planner_does_not_know_is_not_read_through_for_each_piece() -> Result<()> {
    administer("DROP DATABASE IF EXISTS plans".to_owned()).await?;
    administer("CREATE DATABASE plans".to_owned()).await?;
    let mut shard = PgConnection::connect(&database_uri("plans")?).await?;
    sqlx::raw_sql(TABLE).execute(&mut shard).await?;
    let table = Table::read(&mut shard, "entry").await?;
    for statement in [table.sum(), table.delete()] {
        let explain = sqlx::query_scalar(AssertSqlSafe(format!("EXPLAIN {statement}")));
        let plan = explain.bind([6]).bind("(300,0)").bind("(320,0)").fetch_all(&mut shard).await?;
        finds_by("Tid Range Scan", &plan, &statement)?;
    }
    copies_by("Tid Range Scan", &mut shard, &table.copy_out(&[6], &(300..320), 900)).await?;
    // As the mover does where there is an index of batches.
    sqlx::raw_sql("SET enable_seqscan = off").execute(&mut shard).await?;
    copies_by("entry_batch", &mut shard, &table.delta_out(&[6], Since { after: 990, last: 1_000 })).await
}

async fn copies_by(way: &str, shard: &mut PgConnection, copy: &str) -> Result<()> {
    let statement = copy.strip_prefix("COPY (").and_then(|rest| rest.split_once(") TO STDOUT"));
    let (statement, _) = statement.context("COPY (...) TO STDOUT")?;
    let plan = sqlx::query_scalar(AssertSqlSafe(format!("EXPLAIN {statement}"))).fetch_all(shard).await?;
    finds_by(way, &plan, statement)
}

fn finds_by(way: &str, plan: &[String], statement: &str) -> Result<()> {
    let plan = plan.join("\n");
    ensure!(plan.contains(way) && !plan.contains("entry_pkey"), "{statement}\nis not found by {way}:\n{plan}");
    Ok(())
}
