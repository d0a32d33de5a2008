//! The real shards and the real hint topic.

use std::collections::HashMap;
use std::convert::Infallible;
use std::path::PathBuf;
use std::slice::from_ref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use futures::future::{Either, select, select_all};
use shardlane_runtime::config::{ConfigError, ServiceConfig, roles};
use shardlane_runtime::database::within;
use shardlane_runtime::hint::Hint;
use shardlane_runtime::kafka;
use shardlane_runtime::postgres::{batch_indexes, take_in_pages};
use shardlane_runtime::process::with_causes;
use shardlane_runtime::producer::{Outgoing, Producer};
use shardlane_runtime::service::Schema;
use shardlane_runtime::standing::Standings;
use sqlx::{AssertSqlSafe, PgConnection};

use super::brief::Brief;
use super::busy::{LogEnds, sample};
use super::copy::{Load, Since, Table, Unloaded, bring_delta, patient};
use super::edges::{
    Attempt, Copied, Fence, Group, HANDED_OVER, Lines, Pass, SlotRow, State, StepError, Sum, World, slots_of,
};
use super::pace::{Density, Haste, Pace, Turns};
use super::statements::{
    Pages, Place, Trouble, activate, change, compare_all, delete, epochs, expect, forget, last_batch, lock, lock_all,
    lock_shard, place, slot_rows, standings,
};
use crate::shards::address;

/// What a connection is told first. A copy takes as long as it takes, and its source waits while the mover rests, which the network
/// must bear for longer than any rest takes; of a mover that is cut off the server learns by itself, and frees the rows that it has
/// locked. What it writes goes to the disk a little at a time: left to the system for half a minute, all of it would go at once, and
/// every commit would wait for that.
const SETUP: &str =
    "SET statement_timeout = 0; SET idle_in_transaction_session_timeout = '60s'; SET lock_timeout = '10s';
    SET tcp_user_timeout = '60s'; SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3;
    SET max_parallel_workers_per_gather = 0; SET backend_flush_after = '256kB'; SET client_min_messages = warning";
/// For how long records are counted that come.
const COUNT: Duration = Duration::from_millis(500);
/// Begins a transaction each of whose statements sees what is there when it begins, and keeps none of it once it has ended.
const READ: &str = "BEGIN ISOLATION LEVEL READ COMMITTED, READ ONLY";
/// How often it is looked how busy a worker is.
const LOOK: Duration = Duration::from_millis(40);
/// The lock of the one mover at work.
const ONE_MOVER: &str = "SELECT pg_advisory_lock(7362515)";

/// The shards of a service and its hint topic.
pub struct PgWorld {
    config: ServiceConfig,
    tables: Vec<String>,
    shards: PathBuf,
    pace: Pace,
    log: LogEnds,
    producer: Producer,
    idle: Mutex<HashMap<u32, Vec<PgConnection>>>,
    shapes: Mutex<HashMap<u32, Arc<[Table]>>>,
    /// Up to which page the indexes on batch have taken in what was written, by shard and index.
    taken_in: Mutex<HashMap<(u32, i64), i64>>,
    /// How far the deletion of rows is, by the ids of the attempts whose they are, and the shard.
    deleted: Mutex<HashMap<(String, u32), Cursor>>,
}

/// Why the shards and Kafka cannot be reached as they are configured.
#[derive(Debug, thiserror::Error)]
pub enum WorldError {
    /// The configuration names no such topic.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A Kafka client could not be made.
    #[error("cannot make a Kafka client: {0}")]
    Kafka(#[from] rdkafka::error::KafkaError),
}

/// A place in the tables of a shard.
#[derive(Clone, Copy, Debug, Default)]
struct Cursor {
    table: usize,
    page: i64,
    /// How far the table went when it was begun. Nothing that is to go has come behind that since.
    whole: Option<Place>,
    density: Density,
}

/// The ids of all of them.
fn ids(attempts: &[Attempt]) -> String {
    attempts.iter().map(|attempt| &*attempt.id).collect::<Vec<_>>().join(" ")
}

impl From<Trouble> for StepError {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Superseded(why) => Self::Superseded(why),
            Trouble::Shard(error) => Self::Passing(format!("Postgres: {}", with_causes(&error))),
            other => Self::Passing(other.to_string()),
        }
    }
}

impl PgWorld {
    /// The shards of this folder, with these tables.
    pub fn new(
        config: &ServiceConfig,
        schema: &Schema,
        shards: PathBuf,
        rows_per_second: Option<u32>,
    ) -> Result<Self, WorldError> {
        let name = format!("{}-mover", config.name);
        Ok(Self {
            producer: Producer::new(&kafka::lasting_producer(&config.kafka, &name))?,
            log: LogEnds::of(&config.kafka, &name, &config.topic(&schema.input)?.name)?,
            config: config.clone(),
            tables: schema.tables.clone(),
            shards,
            pace: Pace::of(rows_per_second),
            idle: Mutex::default(),
            shapes: Mutex::default(),
            taken_in: Mutex::default(),
            deleted: Mutex::default(),
        })
    }

    /// Waits until no other mover is at work. What it gives has to be kept.
    pub async fn alone(&self) -> Result<PgConnection, StepError> {
        let mut connection = self.connection(0).await?;
        sqlx::raw_sql(ONE_MOVER).execute(&mut connection).await.map_err(Trouble::from)?;
        Ok(connection)
    }

    /// A connection that nobody uses.
    async fn connection(&self, partition: u32) -> Result<PgConnection, Trouble> {
        let idle = self.idle().get_mut(&partition).and_then(Vec::pop);
        if let Some(connection) = idle {
            return Ok(connection);
        }
        let address = address(&self.shards, partition).map_err(|error| Trouble::Address(with_causes(&error)))?;
        let mut connection = address.connect().await?;
        within(sqlx::raw_sql(SETUP).execute(&mut connection)).await?;
        Ok(connection)
    }

    fn idle(&self) -> MutexGuard<'_, HashMap<u32, Vec<PgConnection>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Work on one shard. What has happened to its connection has happened to the idle ones too: each would fail a step of its own.
    async fn on<T>(
        &self,
        partition: u32,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, Trouble>,
    ) -> Result<T, Trouble> {
        let mut connection = self.connection(partition).await?;
        let done = work(&mut connection).await;
        match done {
            Ok(_) => self.idle().entry(partition).or_default().push(connection),
            Err(Trouble::Shard(_)) => drop(self.idle().remove(&partition)),
            // In the middle of something.
            Err(_) => {}
        }
        done
    }

    /// One transaction on one shard.
    async fn transaction<T>(
        &self,
        partition: u32,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, Trouble>,
    ) -> Result<T, StepError> {
        let done = self.on(partition, async |shard| {
            within(sqlx::raw_sql("BEGIN").execute(&mut *shard)).await?;
            let done = work(shard).await?;
            within(sqlx::raw_sql("COMMIT").execute(shard)).await?;
            Ok(done)
        });
        Ok(done.await?)
    }

    /// Work between both shards of an attempt.
    async fn between<T>(
        &self,
        attempt: &Attempt,
        work: impl AsyncFnOnce((&mut PgConnection, &mut PgConnection)) -> Result<T, Trouble>,
    ) -> Result<T, StepError> {
        let done = self.on(attempt.group.from, async |source| {
            self.on(attempt.group.to, async |target| work((source, target)).await).await
        });
        Ok(done.await?)
    }

    /// Work that gives way, while somebody looks how busy the workers of these partitions are.
    async fn politely<T>(&self, partitions: &[u32], work: impl Future<Output = T>) -> T {
        let looks = partitions.iter().map(|partition| self.look(*partition).boxed());
        let work = Box::pin(work);
        let done = match select(work, select_all(looks)).await {
            Either::Left((done, _)) => done,
            Either::Right(((never, ..), _)) => match never {},
        };
        self.pace.traffic.leave(partitions);
        done
    }

    /// Looks how busy a partition's worker is, for ever.
    async fn look(&self, partition: u32) -> Infallible {
        loop {
            match self.on(partition, async |shard| sample(shard, &self.log).await).await {
                Ok(sample) => self.pace.traffic.note(partition, sample),
                // Whoever works there meets it too.
                Err(error) => tracing::debug!(partition, error = with_causes(&error), "its worker is not seen"),
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// What the tables of a partition's shard look like.
    async fn shapes(&self, shard: &mut PgConnection, partition: u32) -> Result<Arc<[Table]>, Trouble> {
        let known = || self.shapes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shapes) = known().get(&partition) {
            return Ok(Arc::clone(shapes));
        }
        let mut shapes = Vec::new();
        for name in &self.tables {
            shapes.push(Table::read(shard, name).await?);
        }
        // Those that are read alike come together.
        shapes.sort_by_key(|table| table.by_batch);
        let shapes: Arc<[Table]> = shapes.into();
        known().insert(partition, Arc::clone(&shapes));
        Ok(shapes)
    }

    /// How far the deletion of these attempts' rows in a shard is.
    fn cursor(&self, attempts: &[Attempt], partition: u32) -> Cursor {
        let deleted = self.deleted.lock().unwrap_or_else(PoisonError::into_inner);
        deleted.get(&(ids(attempts), partition)).copied().unwrap_or_default()
    }

    /// The deletion has come this far, and that is committed; `None`: to its end.
    fn advance(&self, attempts: &[Attempt], partition: u32, cursor: Option<Cursor>) {
        let mut deleted = self.deleted.lock().unwrap_or_else(PoisonError::into_inner);
        match cursor {
            Some(cursor) => drop(deleted.insert((ids(attempts), partition), cursor)),
            None => drop(deleted.remove(&(ids(attempts), partition))),
        }
    }

    /// Deletes some rows of the slots of some attempts, about as many as a piece has. Gives how far it has come; `None`: nothing is left.
    async fn delete_some(
        &self,
        shard: &mut PgConnection,
        attempts: &[Attempt],
        partition: u32,
        piece: u64,
    ) -> Result<Option<Cursor>, Trouble> {
        let cursor = self.cursor(attempts, partition);
        let shapes = self.shapes(shard, partition).await?;
        let Some(table) = shapes.get(cursor.table) else { return Ok(None) };
        let some = cursor.density.pages(piece);
        let end = cursor.page + some;
        let rows = delete(shard, table, &Pages::of(&slots_of(attempts), cursor.page..end)).await?;
        // The table is locked by now: it stays the file that it is.
        let there = place(shard, table).await?;
        let whole = cursor.whole.unwrap_or(there);
        Ok(Some(if whole.file != there.file {
            Cursor { table: cursor.table, ..Cursor::default() }
        } else if end < whole.pages {
            Cursor { page: end, whole: Some(whole), density: Density::of(some, rows), ..cursor }
        } else {
            Cursor { table: cursor.table + 1, ..Cursor::default() }
        }))
    }

    /// Has a shard's indexes on batch take in what was written since this was done last, piece by piece: at once it is a second of
    /// work that nobody can interrupt.
    async fn take_in(&self, shard: &mut PgConnection, partition: u32, turns: &mut Turns<'_>) -> sqlx::Result<()> {
        let taken_in = || self.taken_in.lock().unwrap_or_else(PoisonError::into_inner);
        turns.begin(Density::of(1, 0));
        for (index, pages) in batch_indexes(shard).await? {
            // There are fewer if the table was written anew.
            let mut page = taken_in().get(&(partition, index)).copied().filter(|page| *page <= pages).unwrap_or(0);
            while page < pages {
                let end = pages.min(page + turns.pages());
                if !patient(take_in_pages(shard, index, page..end)).await? {
                    break;
                }
                taken_in().insert((partition, index), end);
                turns.looked(end - page, 0).await;
                page = end;
            }
        }
        Ok(())
    }

    /// Copies all tables. No snapshot is kept for it: rows that are written after it has begun are left to the next pass, and all
    /// others are the same whenever they are read.
    async fn copy_tables(
        &self,
        attempt: &Attempt,
        (source, target): (&mut PgConnection, &mut PgConnection),
        copied: &(dyn Fn(u64) + Sync),
    ) -> Result<Copied, Trouble> {
        let mut turns = self.pace.turns(Haste::Bounded);
        self.take_in(source, attempt.group.from, &mut turns).await?;
        let (batch, from) = last_batch(source).await?;
        let (shapes, mut sums) = (self.shapes(target, attempt.group.to).await?, Vec::new());
        let mut target = Brief::begin(target, attempt).await?;
        for table in &*shapes {
            let slots = &attempt.group.slots;
            sums.push(copy_table((source, &mut target), (table, slots, batch), &mut turns, copied).await?);
        }
        let (rows, lines) = (sums.iter().map(|sum| sum.rows).sum(), Lines { from, to: target.end().await? });
        Ok(Copied { pass: Pass { batch, rows, work: rows, lines, differs: None }, sums })
    }

    /// Brings what was written after a batch, and compares.
    async fn bring(
        &self,
        attempt: &Attempt,
        (source, target): (&mut PgConnection, &mut PgConnection),
        after: i64,
        haste: Haste,
    ) -> Result<Pass, Trouble> {
        let (shapes, mut turns) = (self.shapes(target, attempt.group.to).await?, self.pace.turns(haste));
        // The pass before has just done it.
        if haste != Haste::Last {
            self.take_in(source, attempt.group.from, &mut turns).await?;
        }
        within(sqlx::raw_sql(READ).execute(&mut *source)).await?;
        let (last, from) = last_batch(source).await?;
        let mut target = Brief::begin(target, attempt).await?;
        let (mut rows, mut work, mut differs, mut by_batch) = (0, 0, None, None);
        turns.begin(Density::default());
        for table in &*shapes {
            // Without an index, all of the table is read once; with one, only what is new.
            if by_batch.replace(table.by_batch) != Some(table.by_batch) {
                let scans = if table.by_batch { "off" } else { "on" };
                let sets = AssertSqlSafe(format!("SET LOCAL enable_seqscan = {scans}"));
                patient(sqlx::raw_sql(sets).execute(&mut *source)).await?;
            }
            let (slots, since) = (&attempt.group.slots, Since { after, last });
            let brought = bring_delta((&mut *source, &mut target), table, slots, since, &mut turns).await?;
            differs = differs.or(brought.differs);
            rows += brought.rows;
            work += brought.work;
        }
        let to = target.end().await?;
        within(sqlx::raw_sql("COMMIT").execute(source)).await?;
        Ok(Pass { batch: last, rows, work, lines: Lines { from, to }, differs })
    }
}

/// Copies what some slots have in a table that was not written after a batch.
async fn copy_table(
    (source, target): (&mut PgConnection, &mut Brief<'_>),
    (table, slots, batch): (&Table, &[u32], i64),
    turns: &mut Turns<'_>,
    copied: &(dyn Fn(u64) + Sync),
) -> Result<Sum, Trouble> {
    let (place_before, mut page) = (place(source, table).await?, 0);
    let (pages, mut load, into) = (place_before.pages, Load::default(), table.copy_in());
    turns.begin(Density::default());
    while page < pages {
        let (piece, before) = (page..page + turns.pages(), load.all.rows);
        let (out, looked) = (table.copy_out(slots, &piece, batch), piece.end.min(pages) - page);
        load.copy((&mut *source, &out), (&mut *target, &into), turns, copied).await?;
        turns.looked_only(looked, load.all.rows - before).await;
        target.go_on().await?;
        page = piece.end;
    }
    let Unloaded { rows, bytes, end } = load.unload(target.shard(), &into).await?;
    copied(rows);
    turns.sent(rows, bytes, end).await;
    match place(source, table).await?.file == place_before.file {
        true => Ok(load.all),
        false => Err(Trouble::Rewritten(table.name.clone())),
    }
}

impl World for PgWorld {
    async fn rows(&self, partition: u32) -> Result<Vec<SlotRow>, StepError> {
        self.transaction(partition, async |shard| slot_rows(shard, &self.config.id, partition).await).await
    }

    async fn traffic(&self, group: &Group) -> Result<u64, StepError> {
        let ends = || self.log.sum(group.slots.iter().copied().collect());
        let failed = |error| StepError::Passing(format!("Kafka: {}", kafka::told(&error)));
        let (began, before) = (Instant::now(), ends().await.map_err(failed)?);
        tokio::time::sleep(COUNT).await;
        let came = ends().await.map_err(failed)?.saturating_sub(before);
        Ok((came.max(0) as f64 / began.elapsed().as_secs_f64()) as u64)
    }

    async fn leave(&self, attempt: &Attempt) -> Result<Vec<i64>, StepError> {
        self.transaction(attempt.group.from, async |shard| {
            lock_shard(shard, false).await?;
            // Stronger than what whoever prunes has of these rows, and waits for it.
            let rows = lock(shard, attempt, &[State::Active]).await?;
            change(shard, &attempt.group.slots, Some(&attempt.id), "state = 'leaving'").await?;
            Ok(epochs(&rows))
        })
        .await
    }

    async fn expect(&self, attempt: &Attempt, epochs: &[i64]) -> Result<bool, StepError> {
        self.transaction(attempt.group.to, async |shard| expect(shard, attempt, epochs).await).await
    }

    async fn purge(&self, attempt: &Attempt) -> Result<bool, StepError> {
        let (to, attempts, piece) = (attempt.group.to, from_ref(attempt), self.pace.turns_again(Haste::Bounded).rows());
        let deletes = async |shard: &mut PgConnection| {
            lock(shard, attempt, &[State::Incoming]).await?;
            self.delete_some(shard, attempts, to, piece).await
        };
        let cursor = self.transaction(to, deletes).await?;
        self.advance(attempts, to, cursor);
        Ok(cursor.is_some())
    }

    async fn copy(&self, attempt: &Attempt, copied: &(dyn Fn(u64) + Sync)) -> Result<Copied, StepError> {
        let copies = async {
            self.pace.traffic.learn().await;
            self.between(attempt, async |shards| self.copy_tables(attempt, shards, copied).await).await
        };
        self.politely(&attempt.group.shards(), copies).await
    }

    async fn compare(&self, attempt: &Attempt, copied: &Copied) -> Result<Option<String>, StepError> {
        let (to, slots) = (attempt.group.to, &attempt.group.slots);
        let compares = self.on(to, async |shard| {
            let mut turns = self.pace.turns(Haste::Bounded);
            let shapes = self.shapes(shard, to).await?;
            compare_all(shard, &shapes, slots, &copied.sums, &mut turns).await
        });
        let differs = self.politely(&[to], compares).await?;
        if differs.is_some() {
            // A successor may have begun to clear it away.
            self.transaction(to, async |shard| lock(shard, attempt, &[State::Incoming]).await.map(drop)).await?;
        }
        Ok(differs)
    }

    async fn catch_up(&self, attempt: &Attempt, after: i64, haste: Haste) -> Result<Pass, StepError> {
        let brings = self.between(attempt, async |shards| self.bring(attempt, shards, after, haste).await);
        match haste {
            Haste::Hurried | Haste::Last => brings.await,
            _ => self.politely(&attempt.group.shards(), brings).await,
        }
    }

    async fn relayed(&self, attempt: &Attempt) -> Result<(i64, i64), StepError> {
        let look = async |shard: &mut PgConnection| {
            Ok(within(sqlx::query_as("SELECT relayed_batch, batch FROM shard").fetch_one(shard)).await?)
        };
        Ok(self.on(attempt.group.from, look).await?)
    }

    async fn fence(&self, attempt: &Attempt, limit: Duration) -> Result<Fence, StepError> {
        self.transaction(attempt.group.from, async |shard| {
            let batch = lock_shard(shard, true).await?;
            let mut rows = lock(shard, attempt, &[State::Leaving]).await?;
            let until = format!("clock_timestamp() + interval '{} milliseconds'", limit.as_millis());
            change(
                shard,
                &attempt.group.slots,
                Some(&attempt.id),
                &format!("state = 'fenced', epoch = epoch + 1, fence_until = {until}"),
            )
            .await?;
            rows.values_mut().for_each(|row| row.standing.epoch += 1 + HANDED_OVER);
            Ok(Fence { batch, standings: standings(&rows) })
        })
        .await
    }

    async fn hand_over(&self, attempt: &Attempt) -> Result<(), StepError> {
        self.transaction(attempt.group.from, async |shard| {
            lock(shard, attempt, &[State::Fenced]).await?;
            let moved = format!(
                "state = 'moved', moved_to = {}, fence_until = NULL, epoch = epoch + {HANDED_OVER}",
                attempt.group.to
            );
            change(shard, &attempt.group.slots, Some(&attempt.id), &moved).await
        })
        .await
    }

    async fn handed_over(&self, attempt: &Attempt) -> Result<Standings, StepError> {
        self.transaction(attempt.group.from, async |shard| Ok(standings(&lock(shard, attempt, &[State::Moved]).await?)))
            .await
    }

    async fn publish(&self, hints: &[Hint]) -> Result<(), StepError> {
        publish_hints(&self.config, &self.producer, hints).await.map_err(|error| StepError::Passing(error.to_string()))
    }

    async fn activate(&self, attempt: &Attempt, standings: &Standings) -> Result<(), StepError> {
        self.transaction(attempt.group.to, async |shard| activate(shard, attempt, standings).await).await
    }

    async fn undo(&self, attempt: &Attempt) -> Result<(), StepError> {
        self.transaction(attempt.group.from, async |shard| {
            lock_shard(shard, true).await?;
            lock(shard, attempt, &[State::Leaving, State::Fenced]).await?;
            let again = "epoch = epoch + (state = 'fenced')::int, state = 'active', fence_until = NULL";
            change(shard, &attempt.group.slots, None, again).await
        })
        .await
    }

    async fn give_up(&self, attempt: &Attempt, id: &str) -> Result<(), StepError> {
        self.transaction(attempt.group.to, async |shard| {
            // Waits for whoever copies just now.
            lock(shard, attempt, &[State::Incoming]).await?;
            change(shard, &attempt.group.slots, Some(id), "state = 'incoming'").await
        })
        .await
    }

    async fn forget(&self, attempt: &Attempt) -> Result<(), StepError> {
        self.transaction(attempt.group.to, async |shard| {
            lock(shard, attempt, &[State::Incoming]).await?;
            forget(shard, &attempt.group.slots).await
        })
        .await
    }

    async fn clean(&self, attempts: &[Attempt]) -> Result<bool, StepError> {
        let Some(from) = attempts.first().map(|attempt| attempt.group.from) else { return Ok(false) };
        let mut turns = self.pace.turns_again(Haste::Bounded);
        let piece = turns.rows();
        let deletes = async |shard: &mut PgConnection| {
            lock_all(shard, attempts, &[State::Moved]).await?;
            let cursor = self.delete_some(shard, attempts, from, piece).await?;
            if cursor.is_none() {
                forget(shard, &slots_of(attempts)).await?;
            }
            Ok(cursor)
        };
        let cleans = async {
            let cursor = self.transaction(from, deletes).await?;
            self.advance(attempts, from, cursor);
            if cursor.is_some() {
                turns.next_piece().await;
            }
            Ok(cursor.is_some())
        };
        self.politely(&[from], cleans).await
    }
}

/// Says in the hint topic who owns which slot.
pub async fn publish_hints(config: &ServiceConfig, producer: &Producer, hints: &[Hint]) -> Result<(), HintError> {
    let topic: Arc<str> = config.topic(roles::SLOTS)?.name.as_str().into();
    let mut records = Vec::new();
    for hint in hints {
        records.push(Outgoing {
            topic: Arc::clone(&topic),
            slot: 0,
            key: Some(hint.key()),
            value: Some(serde_json::to_vec(hint)?),
            headers: Vec::new(),
        });
    }
    Ok(producer.publish_all(&records).await?)
}

/// Why hints were not published.
#[derive(Debug, thiserror::Error)]
pub enum HintError {
    /// The configuration names no such topic.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A hint could not be written as JSON.
    #[error("cannot write a hint: {0}")]
    Json(#[from] serde_json::Error),
    /// Kafka did not answer, or not well.
    #[error("Kafka: {}", kafka::told(.0))]
    Kafka(#[from] rdkafka::error::KafkaError),
}
