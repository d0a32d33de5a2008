//! The runtime's own statements: the fence, the slots, the dead letters and the relay's mark.

use std::fmt::Write as _;

use futures::TryStreamExt as _;
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Connection, Either, PgConnection, Row};

use crate::edges::{Fence, Slots, TakeOver, memory};
use crate::intake::{Advance, DeadLetter, Memory};
use crate::service::BatchRange;
use crate::standing::Standing;

/// Statements that make the runtime's tables in a shard, or leave them as they are.
pub const DDL: &str = include_str!("shard.sql");

/// Tables of the runtime whose rows belong to a slot.
pub const TABLES: [&str; 1] = ["dead_letter"];

/// Makes `owner` the shard's owner, if it is the shard of this service and partition.
pub async fn take_over(
    shard: &mut PgConnection,
    service_id: &str,
    partition: u32,
    owner: &str,
) -> sqlx::Result<TakeOver> {
    let prepared: bool = sqlx::query_scalar("SELECT to_regclass('shard') IS NOT NULL").fetch_one(&mut *shard).await?;
    if !prepared {
        return Ok(TakeOver::NotPrepared);
    }
    let mut tx = shard.begin().await?;
    let Some(row) = sqlx::query("SELECT service_id, partition FROM shard FOR UPDATE").fetch_optional(&mut *tx).await?
    else {
        return Ok(TakeOver::NotPrepared);
    };
    let (found_id, found_partition): (String, i32) = (row.get(0), row.get(1));
    if found_id != service_id || i64::from(found_partition) != i64::from(partition) {
        return Ok(TakeOver::Foreign { service_id: found_id, partition: found_partition });
    }
    let times = sqlx::query_scalar("UPDATE shard SET owner = $1, take_overs = take_overs + 1 RETURNING take_overs")
        .bind(owner)
        .fetch_one(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(TakeOver::Owned { times })
}

/// The slots to work on, if `owner` still owns the shard.
pub async fn load_slots(shard: &mut PgConnection, owner: &str) -> sqlx::Result<Option<Slots>> {
    // One statement, so that version and standings are of one snapshot.
    let rows = sqlx::query(
        "SELECT s.slots_version, t.slot, t.next_offset, t.topic_id, t.last_timestamp, t.last_digest, t.epoch
         FROM shard s LEFT JOIN slot t ON t.state IN ('active', 'leaving') WHERE s.owner = $1",
    )
    .bind(owner)
    .fetch_all(shard)
    .await?;
    let Some(first) = rows.first() else { return Ok(None) };
    let standing = |row: &PgRow| Some((row.get::<Option<i32>, _>(1)?.unsigned_abs(), standing_at(row, 2)));
    Ok(Some(Slots { version: first.get(0), standings: rows.iter().filter_map(standing).collect() }))
}

/// Takes the open transaction back to where [`begin`] left it, the fence locked and nothing written.
pub async fn start_over(tx: &mut PgConnection) -> sqlx::Result<()> {
    sqlx::raw_sql("ROLLBACK TO SAVEPOINT begun").execute(tx).await.map(drop)
}

/// Begins a transaction, locks the shard for a batch and moves the slots over its records, in one trip to the server. `None`:
/// another worker has taken over, and no transaction has begun.
///
pub async fn begin(shard: &mut PgConnection, owner: &str, advances: &[Advance]) -> sqlx::Result<Option<Fence>> {
    // The worker's own name, quoted, and numbers: several statements at once take no parameters.
    let statements = AssertSqlSafe(begin_statements(owner, advances));
    let (mut fence, mut moved) = (None, 0);
    let mut answers = sqlx::raw_sql(statements).fetch_many(&mut *shard);
    while let Some(answer) = answers.try_next().await? {
        match answer {
            Either::Right(row) => fence = Some((row.get(0), row.get(1))),
            // The statement that moves the slots is the only one after the fence that has rows to tell of.
            Either::Left(done) if fence.is_some() => moved += done.rows_affected(),
            Either::Left(_) => {}
        }
    }
    drop(answers);
    let Some((batch, slots_version)) = fence else {
        sqlx::raw_sql("ROLLBACK").execute(shard).await?;
        return Ok(None);
    };
    // The fence's own row is one of them.
    Ok(Some(Fence { batch, slots_version, advanced: moved == 1 + advances.len() as u64 }))
}

/// Whoever does not own the shard moves nothing.
fn begin_statements(owner: &str, advances: &[Advance]) -> String {
    let owner = owner.replace('\'', "''");
    let mut statements =
        format!("BEGIN; UPDATE shard SET batch = batch + 1 WHERE owner = '{owner}' RETURNING batch, slots_version;");
    for (at, Advance { slot, from, to, memory }) in advances.iter().enumerate() {
        let Memory { timestamp, digest } = memory;
        let separator = if at == 0 { MOVE_SLOTS } else { ", " };
        // Infallible: it is written to a string.
        let _ = write!(
            statements,
            "{separator}({slot}::int, {from}::bigint, {to}::bigint, {timestamp}::bigint, {digest}::bigint)"
        );
    }
    if !advances.is_empty() {
        let _ = write!(
            statements,
            ") AS b(slot, since, until, last_timestamp, last_digest)
             WHERE slot.slot = b.slot AND slot.next_offset = b.since AND slot.state IN ('active', 'leaving')
               AND EXISTS (SELECT FROM shard WHERE owner = '{owner}');"
        );
    }
    statements + "SAVEPOINT begun"
}

const MOVE_SLOTS: &str =
    " UPDATE slot SET next_offset = b.until, last_timestamp = b.last_timestamp, last_digest = b.last_digest
     FROM (VALUES ";

/// Where a slot stands, whose row has `next_offset`, `topic_id`, `last_timestamp`, `last_digest` and `epoch` from this column on.
pub fn standing_at(row: &PgRow, first: usize) -> Standing {
    Standing {
        next_offset: row.get(first),
        topic_id: row.get(first + 1),
        last: memory(row.get(first + 2), row.get(first + 3)),
        epoch: row.get(first + 4),
    }
}

/// Where a slot stands, if the shard works on it.
pub async fn standing(shard: &mut PgConnection, slot: u32) -> sqlx::Result<Option<Standing>> {
    let row = sqlx::query(
        "SELECT next_offset, topic_id, last_timestamp, last_digest, epoch FROM slot
         WHERE slot = $1 AND state IN ('active', 'leaving')",
    )
    .bind(slot.cast_signed())
    .fetch_optional(shard)
    .await?;
    Ok(row.map(|row| standing_at(&row, 0)))
}

/// Undoes fences that have lasted too long, if `owner` still owns the shard. Gives how many slots were fenced.
pub async fn undo_fences(shard: &mut PgConnection, owner: &str) -> sqlx::Result<u64> {
    let due: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM slot WHERE state = 'fenced' AND fence_until < clock_timestamp())",
    )
    .fetch_one(&mut *shard)
    .await?;
    if !due {
        return Ok(0);
    }
    let mut tx = shard.begin().await?;
    let owned = sqlx::query("UPDATE shard SET slots_version = slots_version + 1 WHERE owner = $1")
        .bind(owner)
        .execute(&mut *tx)
        .await?;
    if owned.rows_affected() == 0 {
        tx.rollback().await?;
        return Ok(0);
    }
    let undone = sqlx::query(
        "UPDATE slot SET state = 'active', epoch = epoch + 1, attempt = NULL, fence_until = NULL
         WHERE state = 'fenced' AND fence_until < clock_timestamp()",
    )
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(undone.rows_affected())
}

/// Takes in Kafka partitions that are no slots, if `owner` still owns the shard.
pub async fn adopt(shard: &mut PgConnection, owner: &str, strays: &[(u32, i64)]) -> sqlx::Result<()> {
    let mut tx = shard.begin().await?;
    let owned = sqlx::query("UPDATE shard SET slots_version = slots_version + 1 WHERE owner = $1")
        .bind(owner)
        .execute(&mut *tx)
        .await?;
    if owned.rows_affected() == 1 {
        sqlx::query(
            "INSERT INTO slot (slot, state, next_offset) SELECT slot, 'active', next_offset
             FROM UNNEST($1::int[], $2::bigint[]) AS s(slot, next_offset) ON CONFLICT DO NOTHING",
        )
        .bind(strays.iter().map(|(slot, _)| slot.cast_signed()).collect::<Vec<_>>())
        .bind(strays.iter().map(|(_, start)| *start).collect::<Vec<_>>())
        .execute(&mut *tx)
        .await?;
    }
    tx.commit().await
}

/// The slots' version, if `owner` still owns the shard. Reads only.
pub async fn slots_version(shard: &mut PgConnection, owner: &str) -> sqlx::Result<Option<i64>> {
    sqlx::query_scalar("SELECT slots_version FROM shard WHERE owner = $1").bind(owner).fetch_optional(shard).await
}

/// Stores dead letters, to be published with the batch.
pub async fn bury(tx: &mut PgConnection, batch: i64, dead: &[DeadLetter]) -> sqlx::Result<()> {
    if dead.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO dead_letter (slot, batch, record_offset, record_timestamp, kind, reason, key, value)
         SELECT slot, $1, record_offset, record_timestamp, kind, reason, key, value
         FROM UNNEST($2::int[], $3::bigint[], $4::bigint[], $5::text[], $6::text[], $7::bytea[], $8::bytea[])
              AS d(slot, record_offset, record_timestamp, kind, reason, key, value)",
    )
    .bind(batch)
    .bind(dead.iter().map(|d| d.slot.cast_signed()).collect::<Vec<_>>())
    .bind(dead.iter().map(|d| d.offset).collect::<Vec<_>>())
    .bind(dead.iter().map(|d| d.timestamp).collect::<Vec<_>>())
    .bind(dead.iter().map(|d| d.rejection.kind).collect::<Vec<_>>())
    .bind(dead.iter().map(|d| d.rejection.reason.replace('\0', "\u{fffd}")).collect::<Vec<_>>())
    .bind(dead.iter().map(|d| d.key.as_deref()).collect::<Vec<_>>())
    .bind(dead.iter().map(|d| d.value.as_deref()).collect::<Vec<_>>())
    .execute(tx)
    .await?;
    Ok(())
}

/// A dead letter as the relay publishes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Buried {
    /// The slot that it lay in.
    pub slot: u32,
    /// Its offset there.
    pub offset: i64,
    /// Its timestamp.
    pub timestamp: i64,
    /// Why it could not be taken.
    pub reason: String,
    /// Its key, as it was.
    pub key: Option<Vec<u8>>,
    /// Its value, as it was.
    pub value: Option<Vec<u8>>,
}

impl From<DeadLetter> for Buried {
    fn from(letter: DeadLetter) -> Self {
        let DeadLetter { slot, offset, timestamp, rejection, key, value } = letter;
        Self { slot, offset, timestamp, reason: rejection.reason, key, value }
    }
}

/// The dead letters of some batches, in order.
pub async fn dead_letters(shard: &mut PgConnection, range: BatchRange) -> sqlx::Result<Vec<Buried>> {
    let rows = sqlx::query(
        "SELECT slot, record_offset, record_timestamp, reason, key, value FROM dead_letter
         WHERE batch > $1 AND batch <= $2 ORDER BY batch, slot, record_offset",
    )
    .bind(range.after)
    .bind(range.to)
    .fetch_all(shard)
    .await?;
    let buried = |row: &PgRow| Buried {
        slot: row.get::<i32, _>(0).unsigned_abs(),
        offset: row.get(1),
        timestamp: row.get(2),
        reason: row.get(3),
        key: row.get(4),
        value: row.get(5),
    };
    Ok(rows.iter().map(buried).collect())
}

/// Batches that are committed and not yet published, if `owner` still owns the shard.
pub async fn unpublished(shard: &mut PgConnection, owner: &str) -> sqlx::Result<Option<BatchRange>> {
    let row = sqlx::query("SELECT relayed_batch, batch FROM shard WHERE owner = $1")
        .bind(owner)
        .fetch_optional(shard)
        .await?;
    Ok(row.map(|row| BatchRange { after: row.get(0), to: row.get(1) }))
}

/// Ends the transaction that [`begin`] began, and raises the relay's mark with it, in one trip to the server: the relay would else wait
/// for the row. The mark never goes beyond what the shard has, which may have been taken back.
pub async fn commit(tx: &mut PgConnection, mark: Option<i64>) -> sqlx::Result<()> {
    let raise =
        mark.map(|mark| format!("UPDATE shard SET relayed_batch = GREATEST(relayed_batch, LEAST(batch, {mark}));"));
    let statements = AssertSqlSafe(format!("{} COMMIT", raise.unwrap_or_default()));
    sqlx::raw_sql(statements).execute(tx).await.map(drop)
}

/// Notes that everything up to `batch` is published, if nobody else has the row: whoever has it may have it for long.
pub async fn raise_mark(shard: &mut PgConnection, owner: &str, batch: i64) -> sqlx::Result<Raised> {
    let done = sqlx::query(
        "UPDATE shard SET relayed_batch = GREATEST(relayed_batch, LEAST(batch, $2))
         WHERE singleton = (SELECT singleton FROM shard WHERE owner = $1 FOR UPDATE SKIP LOCKED)",
    )
    .bind(owner)
    .bind(batch)
    .execute(&mut *shard)
    .await?;
    if done.rows_affected() == 1 {
        return Ok(Raised::Yes);
    }
    let owns = sqlx::query("SELECT FROM shard WHERE owner = $1").bind(owner).fetch_optional(shard).await?;
    Ok(if owns.is_some() { Raised::NotNow } else { Raised::Fenced })
}

/// Whether a mark was raised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Raised {
    /// It was.
    Yes,
    /// Somebody else works on the shard's row.
    NotNow,
    /// Another worker has taken over.
    Fenced,
}
