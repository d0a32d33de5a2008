//! The statements of a move, each inside a transaction of its caller.

use std::collections::BTreeMap;
use std::ops::Range;
use std::slice::from_ref;

use shardlane_runtime::database::within;
use shardlane_runtime::shard::standing_at;
use shardlane_runtime::standing::{Standing, Standings};
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, PgConnection, Row};

use super::copy::{Table, patient, sum_of};
use super::edges::{Attempt, SlotRow, State, Sum, slots_of};
use super::pace::{Density, Turns};

/// The time line of what the server writes now: its control file says it only after the next checkpoint.
macro_rules! time_line {
    () => {
        "substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8)"
    };
}

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// The rows are not this attempt's, or not in the right state.
    #[error("{0}")]
    Superseded(String),
    /// The shard did not answer, or not well.
    #[error(transparent)]
    Shard(#[from] sqlx::Error),
    /// Rows no longer lie where they lay when their copy began, so that some may have been left out.
    #[error("{0} was written anew while it was copied, as by VACUUM FULL or CLUSTER")]
    Rewritten(String),
    /// Rows of a table cannot be told apart into columns.
    #[error(
        "column {column} of table {table} is of a type that there are no arrays of, so that its rows cannot be moved"
    )]
    Unmovable {
        /// Which table.
        table: String,
        /// And column.
        column: String,
    },
    /// The shard cannot be reached as it is configured, or is another one.
    #[error("{0}")]
    Address(String),
}

/// A slot's row that is locked.
pub struct Locked {
    state: State,
    attempt: Option<String>,
    /// Where it stands.
    pub standing: Standing,
}

/// Numbers as Postgres has them.
pub fn numbers(slots: &[u32]) -> Vec<i32> {
    slots.iter().map(|slot| slot.cast_signed()).collect()
}

/// Where slots stand.
pub fn standings(rows: &BTreeMap<u32, Locked>) -> Standings {
    rows.iter().map(|(slot, row)| (*slot, row.standing.clone())).collect()
}

/// How often they have changed their owner.
pub fn epochs(rows: &BTreeMap<u32, Locked>) -> Vec<i64> {
    rows.values().map(|row| row.standing.epoch).collect()
}

/// Locks the shard's own row, before any slot's, as every batch does; `changes`: its worker is to read the slots anew. Gives the
/// last batch.
pub async fn lock_shard(shard: &mut PgConnection, changes: bool) -> Result<i64, Trouble> {
    let lock = sqlx::query_scalar("UPDATE shard SET slots_version = slots_version + $1 RETURNING batch");
    Ok(within(lock.bind(i64::from(changes)).fetch_one(shard)).await?)
}

/// Locks the slots' rows, if all are in one of these states and, but for those that are `active`, this attempt's.
pub async fn lock(
    shard: &mut PgConnection,
    attempt: &Attempt,
    states: &[State],
) -> Result<BTreeMap<u32, Locked>, Trouble> {
    lock_all(shard, from_ref(attempt), states).await
}

/// The same for the slots of several attempts.
pub async fn lock_all(
    shard: &mut PgConnection,
    attempts: &[Attempt],
    states: &[State],
) -> Result<BTreeMap<u32, Locked>, Trouble> {
    let rows = locked(shard, &slots_of(attempts)).await?;
    for attempt in attempts {
        for slot in &attempt.group.slots {
            let Some(row) = rows.get(slot) else {
                return Err(Trouble::Superseded(format!("the shard has no row of slot {slot}")));
            };
            let ours = row.attempt.as_deref() == Some(&*attempt.id);
            if !states.contains(&row.state) || (row.state != State::Active && !ours) {
                let (state, id) = (row.state.name(), row.attempt.as_deref().unwrap_or("none"));
                return Err(Trouble::Superseded(format!("slot {slot} is {state} by attempt {id}")));
            }
        }
    }
    Ok(rows)
}

async fn locked(shard: &mut PgConnection, slots: &[u32]) -> Result<BTreeMap<u32, Locked>, Trouble> {
    let rows = sqlx::query(
        "SELECT slot, state, attempt, next_offset, topic_id, last_timestamp, last_digest, epoch FROM slot
         WHERE slot = ANY($1) ORDER BY slot FOR UPDATE",
    )
    .bind(numbers(slots));
    let rows = within(rows.fetch_all(shard)).await?;
    rows.iter()
        .map(|row| {
            let locked = Locked { state: state_of(row, 1)?, attempt: row.get(2), standing: standing_at(row, 3) };
            Ok((row.get::<i32, _>(0).unsigned_abs(), locked))
        })
        .collect()
}

fn state_of(row: &PgRow, column: usize) -> Result<State, Trouble> {
    let name: String = row.get(column);
    State::of(&name).ok_or_else(|| Trouble::Superseded(format!("a slot is {name:?}, which this version does not know")))
}

/// Changes the slots' rows, which are locked; from now on they are of the attempt with this id, or of none.
pub async fn change(shard: &mut PgConnection, slots: &[u32], attempt: Option<&str>, set: &str) -> Result<(), Trouble> {
    let statement = format!("UPDATE slot SET attempt = $2, {set} WHERE slot = ANY($1)");
    let change = sqlx::query(AssertSqlSafe(statement)).bind(numbers(slots)).bind(attempt);
    within(change.execute(shard)).await?;
    Ok(())
}

/// Has the target expect the slots. `true`: it knew them before, so that rows of that time may be there. Slots that are on their way
/// there already, or were there later than the source knows, are a successor's.
pub async fn expect(shard: &mut PgConnection, attempt: &Attempt, epochs: &[i64]) -> Result<bool, Trouble> {
    let known = locked(shard, &attempt.group.slots).await?;
    let epoch_of = |slot: &u32| attempt.group.slots.iter().position(|of| of == slot).and_then(|at| epochs.get(at));
    let free = |slot: &u32, row: &Locked| {
        row.state == State::Moved && epoch_of(slot).is_some_and(|epoch| row.standing.epoch <= *epoch)
    };
    if let Some((slot, row)) = known.iter().find(|(slot, row)| !free(slot, row)) {
        return Err(Trouble::Superseded(format!("slot {slot} is {} where it should go to", row.state.name())));
    }
    let insert = sqlx::query(
        "INSERT INTO slot (slot, state, attempt, epoch, next_offset)
         SELECT slot, 'incoming', $1, epoch, 0 FROM UNNEST($2::int[], $3::bigint[]) AS s(slot, epoch)
         ON CONFLICT (slot) DO UPDATE SET state = 'incoming', attempt = EXCLUDED.attempt, epoch = EXCLUDED.epoch,
             moved_to = NULL, came_at = NULL",
    );
    let insert = insert.bind(&attempt.id).bind(numbers(&attempt.group.slots)).bind(epochs);
    within(insert.execute(shard)).await?;
    Ok(!known.is_empty())
}

/// Has the target's worker work on the slots from where they stood.
pub async fn activate(shard: &mut PgConnection, attempt: &Attempt, standings: &Standings) -> Result<(), Trouble> {
    lock_shard(shard, false).await?;
    let rows = locked(shard, &attempt.group.slots).await?;
    let ours = |state: State| {
        let of = |slot: &u32| {
            rows.get(slot).is_some_and(|row| row.state == state && row.attempt.as_deref() == Some(&*attempt.id))
        };
        attempt.group.slots.iter().all(of)
    };
    if ours(State::Active) {
        return Ok(());
    }
    if !ours(State::Incoming) {
        return Err(Trouble::Superseded("the target does not expect the slots".to_owned()));
    }
    lock_shard(shard, true).await?;
    let last = |read: fn(&shardlane_runtime::intake::Memory) -> i64| -> Vec<Option<i64>> {
        standings.values().map(|standing| standing.last.as_ref().map(read)).collect()
    };
    let update = sqlx::query(
        "UPDATE slot SET state = 'active', epoch = s.epoch, next_offset = s.next_offset, topic_id = s.topic_id,
             last_timestamp = s.last_timestamp, last_digest = s.last_digest, came_at = now()
         FROM UNNEST($1::int[], $2::bigint[], $3::bigint[], $4::text[], $5::bigint[], $6::bigint[])
              AS s(slot, epoch, next_offset, topic_id, last_timestamp, last_digest)
         WHERE slot.slot = s.slot",
    )
    .bind(standings.keys().map(|slot| slot.cast_signed()).collect::<Vec<_>>())
    .bind(standings.values().map(|standing| standing.epoch).collect::<Vec<_>>())
    .bind(standings.values().map(|standing| standing.next_offset).collect::<Vec<_>>())
    .bind(standings.values().map(|standing| standing.topic_id.as_deref()).collect::<Vec<_>>())
    .bind(last(|memory| memory.timestamp))
    .bind(last(|memory| memory.digest));
    within(update.execute(shard)).await?;
    Ok(())
}

/// Has a shard know nothing of the slots.
pub async fn forget(shard: &mut PgConnection, slots: &[u32]) -> Result<(), Trouble> {
    let delete = sqlx::query("DELETE FROM slot WHERE slot = ANY($1)").bind(numbers(slots));
    within(delete.execute(shard)).await?;
    Ok(())
}

/// All slots' rows of a shard, if it is this service's and partition's.
pub async fn slot_rows(shard: &mut PgConnection, id: &str, partition: u32) -> Result<Vec<SlotRow>, Trouble> {
    let whose = sqlx::query_as("SELECT service_id, partition FROM shard");
    let (found_id, found): (String, i32) = within(whose.fetch_one(&mut *shard)).await?;
    if found_id != id || found != partition.cast_signed() {
        return Err(Trouble::Address(format!(
            "the database of partition {partition} belongs to partition {found} of the service with id {found_id:?}; point this \
             partition's Secret at its own database"
        )));
    }
    let rows = sqlx::query("SELECT slot, state, attempt, epoch, moved_to FROM slot ORDER BY slot");
    let rows = within(rows.fetch_all(shard)).await?;
    rows.iter()
        .map(|row| {
            Ok(SlotRow {
                partition,
                slot: row.get::<i32, _>(0).unsigned_abs(),
                state: state_of(row, 1)?,
                attempt: row.get(2),
                epoch: row.get(3),
                moved_to: row.get::<Option<i32>, _>(4).map(i32::unsigned_abs),
            })
        })
        .collect()
}

/// The last batch, and the server's time line. Whatever is read from now on has all that this batch wrote, or what came later.
pub async fn last_batch(shard: &mut PgConnection) -> Result<(i64, String), Trouble> {
    let last = sqlx::query_as(concat!("SELECT batch, ", time_line!(), " FROM shard"));
    Ok(within(last.fetch_one(shard)).await?)
}

/// The server's time line, which every failover changes.
pub async fn line(shard: &mut PgConnection) -> Result<String, Trouble> {
    Ok(within(sqlx::query_scalar(concat!("SELECT ", time_line!())).fetch_one(shard)).await?)
}

/// What of the rows of some slots in a target's tables is not what was sent.
pub async fn compare_all(
    target: &mut PgConnection,
    tables: &[Table],
    slots: &[u32],
    sent: &[Sum],
    turns: &mut Turns<'_>,
) -> Result<Option<String>, Trouble> {
    for (table, sent) in tables.iter().zip(sent) {
        let (pages, mut lies, mut page) = (place(target, table).await?.pages, Sum::default(), 0);
        turns.begin(Density::default());
        while page < pages {
            let piece = page..page + turns.pages();
            let looked = piece.end.min(pages) - page;
            page = piece.end;
            let some = sum(target, table, &Pages::of(slots, piece)).await?;
            lies += some;
            turns.looked(looked, some.rows).await;
        }
        if let Some(differs) = table.differs(*sent, lies) {
            return Ok(Some(differs));
        }
    }
    Ok(None)
}

async fn sum(shard: &mut PgConnection, table: &Table, pages: &Pages) -> sqlx::Result<Sum> {
    let sum = sqlx::query_as(AssertSqlSafe(table.sum())).bind(&pages.slots).bind(&pages.from).bind(&pages.to);
    let (rows, digest): (i64, String) = patient(sum.fetch_one(shard)).await?;
    sum_of(rows, &digest)
}

/// Where a table's rows lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// In how many pages.
    pub pages: i64,
    /// Of which file: another one once the table was written anew.
    pub file: i64,
}

/// Where a table's rows lie just now.
pub async fn place(shard: &mut PgConnection, table: &Table) -> sqlx::Result<Place> {
    let place = sqlx::query_as(
        "SELECT pg_relation_size($1::regclass) / current_setting('block_size')::bigint, pg_relation_filenode($1::regclass)::bigint",
    );
    let (pages, file) = within(place.bind(&table.name).fetch_one(shard)).await?;
    Ok(Place { pages, file })
}

/// Rows of some slots in some pages of a table.
pub struct Pages {
    slots: Vec<i32>,
    from: String,
    to: String,
}

impl Pages {
    /// From one page up to another.
    pub fn of(slots: &[u32], pages: Range<i64>) -> Self {
        let begin = |page| format!("({page},0)");
        Self { slots: numbers(slots), from: begin(pages.start), to: begin(pages.end) }
    }
}

/// Deletes rows. Gives their number.
pub async fn delete(shard: &mut PgConnection, table: &Table, pages: &Pages) -> sqlx::Result<u64> {
    let delete = sqlx::query(AssertSqlSafe(table.delete())).bind(&pages.slots).bind(&pages.from).bind(&pages.to);
    Ok(patient(delete.execute(shard)).await?.rows_affected())
}
