//! Removing outcomes and dead letters that are older than the service keeps them, a few rows at a time, beside the loop and
//! never in its way.
//!
//! Rows carry the number of the batch that last wrote them, not a time. So the shard notes now and then how far it had come
//! when; that clock decides what is removed and nothing else. A retry makes its outcome young again.

use std::convert::Infallible;
use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::database::{ShardAddress, within};
use crate::postgres::Session;

/// Most rows removed by one statement: holds what it locks for some milliseconds.
const ROWS: i64 = 1_000;
/// Between two statements, so that the loop has the database nearly to itself.
const BREATH: Duration = Duration::from_millis(50);
/// Longest time between two looks.
const LOOK: Duration = Duration::from_secs(60);

/// Removes what is old from one shard.
pub struct Retention {
    session: Session,
    owner: String,
    tables: Vec<&'static str>,
    kept: Option<Duration>,
}

impl Retention {
    /// Removes rows of these tables once they are older than `kept`; `None` keeps them for ever.
    pub fn new(address: ShardAddress, owner: &str, tables: &[&'static str], kept: Option<Duration>) -> Self {
        Self { session: Session::new(address, ""), owner: owner.to_owned(), tables: tables.to_vec(), kept }
    }

    /// Goes on until the process ends. Trouble only means that it is done later.
    pub async fn run(&mut self) -> Infallible {
        let Some(kept) = self.kept else { return std::future::pending().await };
        loop {
            tokio::time::sleep(LOOK.min(kept / 4)).await;
            match self.look(kept).await {
                Ok(0) => {}
                Ok(rows) => tracing::info!(rows, "old outcomes removed"),
                Err(error) => {
                    tracing::debug!(%error, "old outcomes are removed later");
                    self.session.close();
                }
            }
        }
    }

    /// Removes what is old now. Gives the number of rows.
    async fn look(&mut self, kept: Duration) -> sqlx::Result<u64> {
        let shard = self.session.get().await?;
        let horizon = within(horizon(shard, &self.owner, kept)).await?.unwrap_or(0);
        let mut removed = 0;
        for table in &self.tables {
            loop {
                let rows = within(remove(shard, table, &self.owner, horizon, kept)).await?;
                removed += rows;
                if rows < ROWS.unsigned_abs() {
                    break;
                }
                tokio::time::sleep(BREATH).await;
            }
        }
        Ok(removed)
    }
}

/// Notes how far the shard has come, and finds how far it had come this long ago.
async fn horizon(shard: &mut PgConnection, owner: &str, kept: Duration) -> sqlx::Result<Option<i64>> {
    sqlx::query("INSERT INTO batch_age (batch) SELECT batch FROM shard WHERE owner = $1 ON CONFLICT DO NOTHING")
        .bind(owner)
        .execute(&mut *shard)
        .await?;
    let horizon: Option<i64> =
        sqlx::query_scalar("SELECT max(batch) FROM batch_age WHERE noted_at < now() - make_interval(secs => $1)")
            .bind(kept.as_secs_f64())
            .fetch_one(&mut *shard)
            .await?;
    sqlx::query("DELETE FROM batch_age WHERE batch < $1").bind(horizon).execute(shard).await?;
    Ok(horizon)
}

/// Removes some rows. Never one that is not yet published, nor of a slot that is on its way to another shard, for a row that is
/// gone does not show in what is copied after it; the slots' rows are locked against the mover, and not against the loop. One
/// that a retry has just made young again is another version of the row, so it stays. Batch 0 is of rows that came from another
/// shard: they are at least as old as their slot has been here.
async fn remove(shard: &mut PgConnection, table: &str, owner: &str, horizon: i64, kept: Duration) -> sqlx::Result<u64> {
    let mut tx = shard.begin().await?;
    let slots: Vec<(i32, Option<bool>)> = sqlx::query_as(
        "SELECT slot, came_at < now() - make_interval(secs => $1) FROM slot WHERE state = 'active' FOR KEY SHARE",
    )
    .bind(kept.as_secs_f64())
    .fetch_all(&mut *tx)
    .await?;
    let active: Vec<i32> = slots.iter().map(|(slot, _)| *slot).collect();
    let aged: Vec<i32> = slots.iter().filter(|(_, aged)| *aged == Some(true)).map(|(slot, _)| *slot).collect();
    let statement = format!(
        "DELETE FROM {table} WHERE ctid = ANY(ARRAY(
             SELECT t.ctid FROM {table} t, shard s
             WHERE s.owner = $1 AND (
                 t.batch > 0 AND t.batch <= $2 AND t.batch <= s.relayed_batch AND t.slot = ANY($4)
                 OR t.batch = 0 AND t.slot = ANY($5))
             LIMIT $3))"
    );
    // The name is one of the service's own tables.
    let delete = sqlx::query(AssertSqlSafe(statement)).bind(owner).bind(horizon).bind(ROWS).bind(active).bind(aged);
    let removed = delete.execute(&mut *tx).await?.rows_affected();
    tx.commit().await?;
    Ok(removed)
}
