//! The mover's edges in the simulated world: each step as the real statements do it, with the same locks and the same looks at
//! whose rows they are. A mover may be lost before each of its transactions and after it.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use rand::RngExt;
use shardlane_mover::moves::edges::{
    Attempt, Copied, Fence, Group, HANDED_OVER, Lines, Pass, SlotRow, State, StepError, Sum, World as MoverWorld,
    slots_of,
};
use shardlane_mover::moves::pace::Haste;
use shardlane_runtime::hint::Hint;
use shardlane_runtime::standing::{Standing, Standings};

use crate::edges::{Session, step};
use crate::world::{Db, Fault, Row, Shared, Slot, Tables, World};

/// The shards and the hint topic, as one mover sees them.
pub struct SimWorld {
    world: Shared,
    /// Before which of its steps it stalls, if it comes to it, and whether it has.
    sticks_at: &'static str,
    sticks: Arc<AtomicBool>,
}

/// The steps before which a mover may stall: so each of them meets a successor that has gone on, and a fence its end, often
/// enough.
pub const STEPS: [&str; 18] = [
    "leave",
    "expect",
    "purge",
    "purge",
    "copy",
    "copy",
    "compare",
    "catch_up",
    "fence",
    "hand_over",
    "hand_over",
    "hand_over",
    "publish",
    "activate",
    "undo",
    "give_up",
    "forget",
    "clean",
];

/// What is seen of a source at one moment.
struct Snapshot {
    batch: i64,
    line: u64,
    tables: Tables,
    /// Whether the slots stand still.
    fenced: bool,
}

impl SimWorld {
    pub fn new(world: &Shared, sticks_at: &'static str, sticks: Arc<AtomicBool>) -> Self {
        Self { world: world.clone(), sticks_at, sticks }
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock()
    }

    /// One transaction on one shard: it may not begin, and its answer may be lost. `fenced`: under the shard's own lock.
    async fn transaction<T>(
        &self,
        partition: u32,
        fenced: bool,
        work: impl FnOnce(&mut Db, Option<Fault>) -> Result<T, StepError>,
    ) -> Result<T, StepError> {
        let mut session = Session::new(&self.world, partition as usize);
        self.wait().await;
        let begun = if fenced { session.lock().await } else { session.step().await };
        begun.map_err(|_| broken())?;
        let (done, answer_lost) = {
            let mut world = self.world();
            let fault = world.fault;
            let done = work(&mut world.servers[partition as usize].db, fault);
            (done, world.breaks(0.01))
        };
        session.close();
        step().await;
        if answer_lost { Err(broken()) } else { done }
    }

    /// A step comes.
    async fn comes(&self, name: &'static str, attempt: &str) {
        self.say(|| format!("{attempt}: {name}"));
        if name == self.sticks_at {
            self.sticks.store(true, Ordering::Relaxed);
            step().await;
        }
    }

    /// Groups that move at the same time get on at paces of their own.
    async fn wait(&self) {
        while self.world().chance(0.4) {
            step().await;
        }
    }

    fn say(&self, what: impl FnOnce() -> String) {
        self.world().say(what);
    }

    /// What the source holds of some slots, all at one moment.
    async fn snapshot(&self, source: &mut Session, attempt: &Attempt, slots: &[u32]) -> Result<Snapshot, StepError> {
        source.step().await.map_err(|_| broken())?;
        let world = self.world();
        let server = &world.servers[attempt.group.from as usize];
        let fenced =
            |slot: &u32| server.db.slots.get(slot).is_some_and(|row| matches!(row.state, State::Fenced | State::Moved));
        Ok(Snapshot {
            batch: server.db.batch,
            line: server.line,
            tables: of(&server.db.tables, slots, world.fault),
            fenced: attempt.group.slots.iter().all(fenced),
        })
    }

    /// Deletes some rows of the slots. `false`: there are none.
    fn delete_some(rows: &mut Tables, slots: &[u32], some: u64) -> bool {
        let mut left = some;
        let mut goes = |slot: u32| {
            let goes = left > 0 && slots.contains(&slot);
            left -= u64::from(goes);
            goes
        };
        rows.registers.retain(|key, _| !goes(key.0));
        rows.answers.retain(|key, _| !goes(key.0));
        rows.dead.retain(|key, _| !goes(key.0));
        left < some
    }

    fn some(&self) -> u64 {
        self.world().rng.random_range(4..40)
    }
}

fn broken() -> StepError {
    StepError::Passing("broken".to_owned())
}

fn superseded(why: impl Into<String>) -> StepError {
    StepError::Superseded(why.into())
}

/// Whether a row is the attempt's.
fn is_ours(fault: Option<Fault>, row: &Slot, attempt: &Attempt) -> bool {
    let given_up = attempt.given_up().map(|given_up| given_up.id);
    let ours = row.attempt.as_ref() == Some(&attempt.id);
    ours || match fault {
        Some(Fault::NoAttemptCheck) => true,
        // As if its id were still the same.
        Some(Fault::ForgetsWhatLies) => row.attempt.is_some() && row.attempt == given_up,
        _ => false,
    }
}

/// Looks whether all slots' rows are in one of these states and, but for those that are `active`, this attempt's.
fn lock(db: &Db, fault: Option<Fault>, attempt: &Attempt, states: &[State]) -> Result<(), StepError> {
    for slot in &attempt.group.slots {
        let Some(row) = db.slots.get(slot) else { return Err(superseded(format!("no row of slot {slot}"))) };
        let ours = row.state == State::Active || is_ours(fault, row, attempt);
        if !states.contains(&row.state) || !ours {
            return Err(superseded(format!("slot {slot} is {:?} by {:?}", row.state, row.attempt)));
        }
    }
    Ok(())
}

fn change(db: &mut Db, attempt: &Attempt, mut change: impl FnMut(&mut Slot)) {
    for slot in &attempt.group.slots {
        change(db.slots.get_mut(slot).expect("it is locked"));
    }
}

/// Has the shard's worker read the slots anew.
fn raise_version(db: &mut Db, fault: Option<Fault>) {
    db.slots_version += i64::from(fault != Some(Fault::NoSlotsVersion));
}

fn standings(db: &Db, attempt: &Attempt) -> Standings {
    let standing = |slot: &u32| {
        let row = &db.slots[slot];
        (*slot, Standing { next_offset: row.next, epoch: row.epoch, ..Standing::default() })
    };
    attempt.group.slots.iter().map(standing).collect()
}

/// The rows of some slots.
fn of(tables: &Tables, slots: &[u32], fault: Option<Fault>) -> Tables {
    let answers = if fault == Some(Fault::OutcomesLeftBehind) { BTreeMap::new() } else { tables.answers.clone() };
    let mut rows = Tables { registers: tables.registers.clone(), answers, dead: tables.dead.clone() };
    rows.registers.retain(|key, _| slots.contains(&key.0));
    rows.answers.retain(|key, _| slots.contains(&key.0));
    rows.dead.retain(|key, _| slots.contains(&key.0));
    rows
}

/// A row as it comes to another shard: published already.
fn come<T: Clone>(row: &Row<T>, fault: Option<Fault>) -> Row<T> {
    let batch = if fault == Some(Fault::BatchKept) { row.batch } else { 0 };
    Row { row: row.row.clone(), batch, offset: row.offset, came: true }
}

/// Copies rows of one table that were not written after a batch. None of them may be there. Gives what they come to.
fn copy_table<K: Ord + Clone + Hash, T: Clone + Hash>(
    from: &BTreeMap<K, Row<T>>,
    to: &mut BTreeMap<K, Row<T>>,
    batch: i64,
    fault: Option<Fault>,
) -> Result<Sum, StepError> {
    let mut sum = Sum::default();
    for (key, row) in from.iter().filter(|(_, row)| row.batch <= batch) {
        sum.add(digest(key, row));
        if to.insert(key.clone(), come(row, fault)).is_some() {
            return Err(StepError::Passing("duplicate key".to_owned()));
        }
    }
    Ok(sum)
}

/// Merges what was written since a batch. Gives how many rows that were.
fn merge<K: Ord + Clone, T: Clone>(
    from: &BTreeMap<K, Row<T>>,
    to: &mut BTreeMap<K, Row<T>>,
    since: &RangeInclusive<i64>,
    fault: Option<Fault>,
) -> u64 {
    let rows = from.iter().filter(|(_, row)| since.contains(&row.batch));
    let before = rows.clone().count();
    to.extend(rows.map(|(key, row)| (key.clone(), come(row, fault))));
    before as u64
}

/// The digest of a row, whichever batch wrote it.
fn digest<K: Hash, T: Hash>(key: &K, row: &Row<T>) -> i64 {
    let mut hasher = DefaultHasher::new();
    (key, &row.row).hash(&mut hasher);
    hasher.finish().cast_signed()
}

/// What the rows of each table come to.
fn sums(tables: &Tables) -> Vec<Sum> {
    fn sum<K: Hash, T: Hash>(rows: &BTreeMap<K, Row<T>>) -> Sum {
        let mut sum = Sum::default();
        rows.iter().for_each(|(key, row)| sum.add(digest(key, row)));
        sum
    }
    vec![sum(&tables.registers), sum(&tables.answers), sum(&tables.dead)]
}

impl MoverWorld for SimWorld {
    async fn rows(&self, partition: u32) -> Result<Vec<SlotRow>, StepError> {
        let row = |(slot, row): (&u32, &Slot)| SlotRow {
            partition,
            slot: *slot,
            state: row.state,
            attempt: row.attempt.clone(),
            epoch: row.epoch,
            moved_to: row.moved_to,
        };
        let mut session = Session::new(&self.world, partition as usize);
        session.step().await.map_err(|_| broken())?;
        session.close();
        Ok(self.world().servers[partition as usize].db.slots.iter().map(row).collect())
    }

    async fn traffic(&self, _group: &Group) -> Result<u64, StepError> {
        // As little as lets all go together, or so much that only some do.
        Ok(self.world().rng.random_range(0..3) * 3_000)
    }

    async fn leave(&self, attempt: &Attempt) -> Result<Vec<i64>, StepError> {
        self.comes("leave", &attempt.id).await;
        self.transaction(attempt.group.from, true, |db, fault| {
            lock(db, fault, attempt, &[State::Active])?;
            change(db, attempt, |row| (row.state, row.attempt) = (State::Leaving, Some(attempt.id.clone())));
            Ok(attempt.group.slots.iter().map(|slot| db.slots[slot].epoch).collect())
        })
        .await
    }

    async fn expect(&self, attempt: &Attempt, epochs: &[i64]) -> Result<bool, StepError> {
        self.comes("expect", &attempt.id).await;
        self.transaction(attempt.group.to, false, |db, fault| {
            let known =
                attempt.group.slots.iter().zip(epochs).filter_map(|(slot, epoch)| Some((db.slots.get(slot)?, epoch)));
            let known: Vec<(&Slot, &i64)> = known.collect();
            if known.iter().any(|(row, _)| row.state.owns()) {
                return Err(superseded("the target owns a slot"));
            }
            // What another attempt has there may have been handed over by now, and what is newer was handed on.
            let newer = |(row, epoch): &(&Slot, &i64)| row.state == State::Incoming || row.epoch > **epoch;
            if fault != Some(Fault::ExpectsAnything) && known.iter().any(newer) {
                return Err(superseded("the target expects the slots from another attempt"));
            }
            let known = !known.is_empty();
            for (slot, epoch) in attempt.group.slots.iter().zip(epochs) {
                let incoming = Slot {
                    state: State::Incoming,
                    attempt: Some(attempt.id.clone()),
                    epoch: *epoch,
                    next: 0,
                    moved_to: None,
                    fence_until: None,
                    tenure: 0,
                };
                db.slots.insert(*slot, incoming);
            }
            Ok(known)
        })
        .await
    }

    async fn purge(&self, attempt: &Attempt) -> Result<bool, StepError> {
        self.comes("purge", &attempt.id).await;
        let some = self.some();
        self.transaction(attempt.group.to, false, |db, fault| {
            lock(db, fault, attempt, &[State::Incoming])?;
            Ok(Self::delete_some(&mut db.tables, &attempt.group.slots, some))
        })
        .await
    }

    async fn copy(&self, attempt: &Attempt, copied: &(dyn Fn(u64) + Sync)) -> Result<Copied, StepError> {
        self.comes("copy", &attempt.id).await;
        let mut source = Session::new(&self.world, attempt.group.from as usize);
        self.wait().await;
        let (slots, to) = (&attempt.group.slots, attempt.group.to);
        let Snapshot { batch, line, .. } = self.snapshot(&mut source, attempt, slots).await?;
        let mut sums = vec![Sum::default(); 3];
        for (table, sum) in sums.iter_mut().enumerate() {
            for slot in slots {
                // Each piece is read when its turn comes; its worker goes on meanwhile.
                let piece = self.snapshot(&mut source, attempt, &[*slot]).await?.tables;
                *sum += self
                    .transaction(to, false, |db, fault| {
                        lock(db, fault, attempt, &[State::Incoming])?;
                        match table {
                            0 => copy_table(&piece.registers, &mut db.tables.registers, batch, fault),
                            1 => copy_table(&piece.answers, &mut db.tables.answers, batch, fault),
                            _ => copy_table(&piece.dead, &mut db.tables.dead, batch, fault),
                        }
                    })
                    .await?;
            }
            copied(sum.rows);
        }
        let (rows, lines) =
            (sums.iter().map(|sum| sum.rows).sum(), Lines { from: line.to_string(), to: self.line(to) });
        source.close();
        Ok(Copied { pass: Pass { batch, rows, work: rows, lines, differs: None }, sums })
    }

    async fn compare(&self, attempt: &Attempt, copied: &Copied) -> Result<Option<String>, StepError> {
        self.comes("compare", &attempt.id).await;
        let (to, slots) = (attempt.group.to, &attempt.group.slots);
        let lie = self.transaction(to, false, |db, fault| Ok(sums(&of(&db.tables, slots, fault)))).await?;
        if lie == copied.sums {
            return Ok(None);
        }
        self.transaction(to, false, |db, fault| lock(db, fault, attempt, &[State::Incoming])).await?;
        Ok(Some("rows".to_owned()))
    }

    async fn catch_up(&self, attempt: &Attempt, after: i64, _haste: Haste) -> Result<Pass, StepError> {
        self.comes("catch_up", &attempt.id).await;
        let mut source = Session::new(&self.world, attempt.group.from as usize);
        self.wait().await;
        let (slots, to) = (&attempt.group.slots, attempt.group.to);
        let Snapshot { batch, line, fenced, .. } = self.snapshot(&mut source, attempt, slots).await?;
        let (since, mut rows) = (after + 1..=batch, 0);
        for table in 0..3 {
            let seen = self.snapshot(&mut source, attempt, slots).await?.tables;
            rows += self
                .transaction(to, false, |db, fault| {
                    lock(db, fault, attempt, &[State::Incoming])?;
                    if fault == Some(Fault::NoLastDelta) && fenced {
                        return Ok(0);
                    }
                    Ok(match table {
                        0 => merge(&seen.registers, &mut db.tables.registers, &since, fault),
                        1 => merge(&seen.answers, &mut db.tables.answers, &since, fault),
                        _ => merge(&seen.dead, &mut db.tables.dead, &since, fault),
                    })
                })
                .await?;
        }
        let lines = Lines { from: line.to_string(), to: self.line(to) };
        source.close();
        Ok(Pass { batch, rows, work: rows, lines, differs: None })
    }

    async fn relayed(&self, attempt: &Attempt) -> Result<(i64, i64), StepError> {
        self.transaction(attempt.group.from, false, |db, fault| {
            let relayed = if fault == Some(Fault::RelayedLies) { db.batch } else { db.relayed };
            Ok((relayed, db.batch))
        })
        .await
    }

    async fn fence(&self, attempt: &Attempt, limit: Duration) -> Result<Fence, StepError> {
        self.comes("fence", &attempt.id).await;
        let until = self.world().now() + limit;
        let fence = self
            .transaction(attempt.group.from, true, |db, fault| {
                lock(db, fault, attempt, &[State::Leaving])?;
                raise_version(db, fault);
                change(db, attempt, |row| {
                    (row.state, row.fence_until) = (State::Fenced, Some(until));
                    row.epoch += 1;
                });
                let mut standings = standings(db, attempt);
                standings.values_mut().for_each(|standing| standing.epoch += HANDED_OVER);
                Ok(Fence { batch: db.batch, standings })
            })
            .await?;
        self.say(|| format!("{} has fenced {:?}", attempt.id, fence.standings));
        if self.world().has(Fault::ActiveBeforeMoved) {
            self.activate(attempt, &fence.standings).await?;
        }
        Ok(fence)
    }

    async fn hand_over(&self, attempt: &Attempt) -> Result<(), StepError> {
        self.comes("hand_over", &attempt.id).await;
        self.transaction(attempt.group.from, false, |db, fault| {
            lock(db, fault, attempt, &[State::Fenced])?;
            change(db, attempt, |row| {
                (row.state, row.moved_to, row.fence_until) = (State::Moved, Some(attempt.group.to), None);
                row.epoch += HANDED_OVER;
            });
            Ok(())
        })
        .await?;
        self.say(|| format!("{} is handed over", attempt.id));
        Ok(())
    }

    async fn handed_over(&self, attempt: &Attempt) -> Result<Standings, StepError> {
        self.transaction(attempt.group.from, false, |db, fault| {
            lock(db, fault, attempt, &[State::Moved])?;
            Ok(standings(db, attempt))
        })
        .await
    }

    async fn publish(&self, hints: &[Hint]) -> Result<(), StepError> {
        self.comes("publish", "hints").await;
        for hint in hints {
            self.wait().await;
            let mut world = self.world();
            if world.breaks(0.02) {
                return Err(broken());
            }
            world.hints.push(*hint);
        }
        step().await;
        Ok(())
    }

    async fn activate(&self, attempt: &Attempt, standings: &Standings) -> Result<(), StepError> {
        self.comes("activate", &attempt.id).await;
        let tenure = self.world().number();
        self.transaction(attempt.group.to, true, |db, fault| {
            let ours = |state: State| {
                let of = |slot: &u32| {
                    db.slots.get(slot).is_some_and(|row| row.state == state && is_ours(fault, row, attempt))
                };
                attempt.group.slots.iter().all(of)
            };
            if ours(State::Active) {
                return Ok(());
            }
            if !ours(State::Incoming) {
                return Err(superseded("the target does not expect the slots"));
            }
            raise_version(db, fault);
            for (slot, standing) in standings {
                let row = db.slots.get_mut(slot).expect("it is locked");
                (row.state, row.epoch, row.next) = (State::Active, standing.epoch, standing.next_offset);
                row.tenure = tenure;
            }
            Ok(())
        })
        .await?;
        self.say(|| format!("{} is active", attempt.id));
        Ok(())
    }

    async fn undo(&self, attempt: &Attempt) -> Result<(), StepError> {
        self.comes("undo", &attempt.id).await;
        self.transaction(attempt.group.from, true, |db, fault| {
            lock(db, fault, attempt, &[State::Leaving, State::Fenced])?;
            raise_version(db, fault);
            change(db, attempt, |row| {
                row.epoch += i64::from(row.state == State::Fenced);
                (row.state, row.attempt, row.fence_until) = (State::Active, None, None);
            });
            Ok(())
        })
        .await
    }

    async fn give_up(&self, attempt: &Attempt, id: &str) -> Result<(), StepError> {
        self.comes("give_up", &attempt.id).await;
        self.transaction(attempt.group.to, false, |db, fault| {
            lock(db, fault, attempt, &[State::Incoming])?;
            for slot in &attempt.group.slots {
                db.slots.entry(*slot).and_modify(|row| row.attempt = Some(id.to_owned()));
            }
            Ok(())
        })
        .await
    }

    async fn forget(&self, attempt: &Attempt) -> Result<(), StepError> {
        self.comes("forget", &attempt.id).await;
        // Whoever still copies has some time.
        for _ in 0..self.some() / 8 {
            step().await;
        }
        self.transaction(attempt.group.to, false, |db, fault| {
            lock(db, fault, attempt, &[State::Incoming])?;
            db.slots.retain(|slot, _| !attempt.group.slots.contains(slot));
            Ok(())
        })
        .await
    }

    async fn clean(&self, attempts: &[Attempt]) -> Result<bool, StepError> {
        let Some(first) = attempts.first() else { return Ok(false) };
        self.comes("clean", &first.id).await;
        let (some, slots) = (self.some(), slots_of(attempts));
        self.transaction(first.group.from, false, |db, fault| {
            for attempt in attempts {
                lock(db, fault, attempt, &[State::Moved])?;
            }
            let more = Self::delete_some(&mut db.tables, &slots, some);
            if !more {
                db.slots.retain(|slot, _| !slots.contains(slot));
            }
            Ok(more)
        })
        .await
    }
}

impl SimWorld {
    fn line(&self, partition: u32) -> String {
        self.world().servers[partition as usize].line.to_string()
    }
}
