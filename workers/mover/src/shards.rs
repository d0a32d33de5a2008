//! The shards of a service as the mover reaches them: one mounted folder each.

use std::path::Path;

use shardlane_runtime::config::ServiceConfig;
use shardlane_runtime::database::{ShardAddress, within};
use shardlane_runtime::service::Schema;
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};

use crate::init::InitError;
use crate::moves::edges::SlotRow;
use crate::moves::statements::slot_rows;

/// A shard, connected.
pub struct Shard {
    /// Whose it is.
    pub partition: u32,
    /// The connection.
    pub connection: PgConnection,
}

/// The log of slots that are placed.
pub struct FirstLog {
    /// Id of the topic; `None` if the broker gives none.
    pub topic_id: Option<String>,
    /// Where the log of each slot starts.
    pub starts: Vec<(u32, i64)>,
}

/// Where a shard is: the folder of its number has the file `uri`.
pub fn address(folder: &Path, partition: u32) -> Result<ShardAddress, InitError> {
    let path = folder.join(partition.to_string()).join("uri");
    let uri = std::fs::read_to_string(&path).map_err(|source| InitError::NoAddress { path, source })?;
    ShardAddress::parse(&uri).map_err(|source| InitError::BadAddress { partition, source })
}

impl Shard {
    /// Makes the tables, and says in the shard whose it is.
    pub async fn prepare(&mut self, config: &ServiceConfig, schema: &Schema) -> Result<(), InitError> {
        within(async {
            let mut tx = self.connection.begin().await?;
            // Two movers at once, after a node was lost, take turns.
            sqlx::query("SELECT pg_advisory_xact_lock(7362514)").execute(&mut *tx).await?;
            if !is_prepared(&mut tx, schema).await? {
                // The text comes from the service's own image.
                sqlx::raw_sql(AssertSqlSafe(schema.ddl.clone())).execute(&mut *tx).await?;
            }
            let partition = self.partition.cast_signed();
            sqlx::query("INSERT INTO shard (service_id, partition) VALUES ($1, $2) ON CONFLICT DO NOTHING")
                .bind(&config.id)
                .bind(partition)
                .execute(&mut *tx)
                .await?;
            sqlx::query("UPDATE shard SET schema_digest = md5($1) WHERE schema_digest IS DISTINCT FROM md5($1)")
                .bind(&schema.ddl)
                .execute(&mut *tx)
                .await?;
            let row = sqlx::query("SELECT service_id, partition FROM shard").fetch_one(&mut *tx).await?;
            let (found_id, found_partition): (String, i32) = (row.get(0), row.get(1));
            if (&found_id, found_partition) != (&config.id, partition) {
                return Err(InitError::Foreign {
                    partition: self.partition,
                    found_id,
                    found_partition,
                    id: config.id.clone(),
                });
            }
            Ok(tx.commit().await?)
        })
        .await
    }

    /// The slots that the shard knows. Kafka partitions beyond them, which a worker took in, are none.
    pub async fn slots(&mut self, config: &ServiceConfig) -> Result<Vec<SlotRow>, InitError> {
        let mut rows = slot_rows(&mut self.connection, &config.id, self.partition).await?;
        rows.retain(|row| row.slot < config.max_partitions);
        Ok(rows)
    }

    /// Writes the first slots. Worker and mover see them at once or not at all.
    pub async fn write_slots(&mut self, plan_id: &str, log: &FirstLog) -> sqlx::Result<()> {
        within(async {
            let mut tx = self.connection.begin().await?;
            sqlx::query("UPDATE shard SET slots_version = slots_version + 1").execute(&mut *tx).await?;
            sqlx::query(
                "INSERT INTO slot (slot, state, attempt, topic_id, next_offset)
                 SELECT slot, 'active', $1, $2, next_offset FROM UNNEST($3::int[], $4::bigint[]) AS s(slot, next_offset)
                 ON CONFLICT DO NOTHING",
            )
            .bind(plan_id)
            .bind(&log.topic_id)
            .bind(log.starts.iter().map(|(slot, _)| slot.cast_signed()).collect::<Vec<_>>())
            .bind(log.starts.iter().map(|(_, offset)| *offset).collect::<Vec<_>>())
            .execute(&mut *tx)
            .await?;
            tx.commit().await
        })
        .await
    }
}

/// Whether the tables are those of the schema. If not, the shard's row is locked, as every batch does first, so that tables are
/// not locked in another order than a worker locks them; and whoever copies rows for long is not waited for, since all batches
/// would wait with us.
async fn is_prepared(shard: &mut PgConnection, schema: &Schema) -> sqlx::Result<bool> {
    sqlx::raw_sql("SET LOCAL lock_timeout = '2s'").execute(&mut *shard).await?;
    let there: bool = sqlx::query_scalar("SELECT to_regclass('shard') IS NOT NULL").fetch_one(&mut *shard).await?;
    if !there {
        return Ok(false);
    }
    // Of a shard that an earlier version prepared, no digest is known.
    let same: Option<bool> = sqlx::query_scalar(
        "SELECT to_jsonb(s)->>'schema_digest' = md5($1)
            AND (SELECT bool_and(to_regclass(quote_ident(t)) IS NOT NULL) FROM UNNEST($2::text[]) AS t)
         FROM shard s FOR UPDATE",
    )
    .bind(&schema.ddl)
    .bind(&schema.tables)
    .fetch_optional(shard)
    .await?
    .flatten();
    Ok(same.unwrap_or(false))
}
