//! The simulated world: a log, shards with transactions and sessions, and what was published.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use shardlane_mover::moves::edges::State;
use shardlane_runtime::hint::Hint;
use shardlane_runtime::intake::Keyspace;
use shardlane_runtime::producer::Outgoing;

use crate::service::{Answer, Register};

/// Slots of the service.
pub const SLOTS: u32 = 6;
/// Shards of the service.
pub const SHARDS: u32 = 3;
/// Largest record that a topic takes, in bytes.
pub const LARGEST: usize = 1_000;

/// What can be broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    NoOwnerCheck,
    OffsetsOutsideTransaction,
    MarkFirst,
    LosersForgotten,
    DedupeWithoutKey,
    SlotsVersionIgnored,
    OldStateAgain,
    DeadLettersOutsideTransaction,
    TooLargeLeftOut,
    /// The source works on slots that are fenced.
    NoFence,
    /// The mover does not raise the slots' version.
    NoSlotsVersion,
    /// Under the fence nothing more is copied.
    NoLastDelta,
    /// The table of answers is not copied.
    OutcomesLeftBehind,
    /// The slots are handed over before the source's relay has published what it has.
    RelayedLies,
    /// Rows come with the batch that they had in the source.
    BatchKept,
    /// The fence has the target work on the slots already.
    ActiveBeforeMoved,
    /// No step looks whose attempt the rows are.
    NoAttemptCheck,
    /// A target takes slots from whoever says so last.
    ExpectsAnything,
    /// A target forgets slots whose rows may still lie there.
    ForgetsWhatLies,
    /// What is deleted while it is copied is gone, instead of leaving a tombstone.
    HardDelete,
}

/// A record of the log.
#[derive(Clone, Debug)]
pub struct Entry {
    pub offset: i64,
    pub key: String,
    pub value: String,
}

/// A row with the batch that last wrote it, and where in the batch.
#[derive(Clone, Debug)]
pub struct Row<T> {
    pub row: T,
    pub batch: i64,
    pub offset: i64,
    /// It was copied from another shard, and not written since.
    pub came: bool,
}

impl<T> Row<T> {
    pub fn new(row: T, batch: i64, offset: i64) -> Self {
        Self { row, batch, offset, came: false }
    }

    /// It is to be published again.
    pub fn touch(&mut self, batch: i64, offset: i64) {
        (self.batch, self.offset, self.came) = (batch, offset, false);
    }
}

/// Reason, key and value of a dead letter.
pub type Letter = (String, String, String);

/// A slot's row.
#[derive(Clone, Debug)]
pub struct Slot {
    pub state: State,
    pub attempt: Option<String>,
    pub epoch: i64,
    pub next: i64,
    pub moved_to: Option<u32>,
    /// Until when a fence may last.
    pub fence_until: Option<Instant>,
    /// Changes whenever the slot comes to a shard.
    pub tenure: u64,
}

/// What a shard holds.
#[derive(Clone, Debug, Default)]
pub struct Db {
    pub owner: String,
    pub take_overs: i64,
    pub batch: i64,
    pub relayed: i64,
    pub slots_version: i64,
    pub slots: BTreeMap<u32, Slot>,
    pub tables: Tables,
    /// What was deleted and left no tombstone, which is a fault.
    pub graves: BTreeMap<(u32, String), Row<Register>>,
}

/// The service's tables and the dead letters.
#[derive(Clone, Debug, Default)]
pub struct Tables {
    pub registers: BTreeMap<(u32, String), Row<Register>>,
    pub answers: BTreeMap<(u32, String, String), Row<Answer>>,
    /// By slot and offset.
    pub dead: BTreeMap<(u32, i64), Row<Letter>>,
}

impl Tables {
    /// Slots of which there are rows.
    pub fn slots(&self) -> BTreeSet<u32> {
        let registers = self.registers.keys().map(|key| key.0);
        registers.chain(self.answers.keys().map(|key| key.0)).chain(self.dead.keys().map(|key| key.0)).collect()
    }
}

impl Db {
    /// In which tenure the shard owns a slot, if it does.
    pub fn tenure(&self, slot: u32) -> Option<u64> {
        self.slots.get(&slot).filter(|row| row.state.owns()).map(|row| row.tenure)
    }
}

/// A shard's server.
#[derive(Debug, Default)]
pub struct Server {
    pub db: Db,
    /// The mark that would be found after a failover: raising it waits for no disk.
    pub durable_mark: i64,
    /// Changes with every failover.
    pub line: u64,
    /// The session that holds the fence.
    pub locked_by: Option<u64>,
    /// Sessions that the server knows.
    pub sessions: BTreeSet<u64>,
}

/// A record that was published, by whom, and whether that worker still owned its shard, and the shard the slot.
#[derive(Clone, Debug)]
pub struct Published {
    pub record: Outgoing,
    pub by_owner: bool,
}

pub struct World {
    pub rng: Xoshiro256PlusPlus,
    pub fault: Option<Fault>,
    /// While false, nothing breaks any more.
    pub unruly: bool,
    pub log: BTreeMap<u32, Vec<Entry>>,
    pub servers: Vec<Server>,
    pub published: Vec<Published>,
    /// The topic of hints.
    pub hints: Vec<Hint>,
    /// Whether workers gather batches, as half of all worlds have it.
    pub gathers: bool,
    /// How often a worker's slots were all read anew.
    pub assigned: u32,
    /// Steps so far; each takes some milliseconds, for whoever measures time.
    pub steps: u64,
    pub began: Instant,
    /// What must never be, and was.
    pub violation: Option<String>,
    next_number: u64,
    trace: bool,
}

/// The world, as everything in it holds it.
#[derive(Clone)]
pub struct Shared(Arc<Mutex<World>>);

impl Shared {
    pub fn lock(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap()
    }
}

pub fn keyspace() -> Keyspace {
    Keyspace { partitioner: Default::default(), slots: SLOTS }
}

impl World {
    /// Slots are spread over some of the shards; nothing has happened.
    pub fn shared(seed: u64, fault: Option<Fault>, trace: bool) -> Shared {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        let mut servers: Vec<Server> = (0..SHARDS).map(|_| Server::default()).collect();
        let partitions = rng.random_range(1..=SHARDS);
        for slot in 0..SLOTS {
            let row = Slot {
                state: State::Active,
                attempt: None,
                epoch: 1,
                next: 0,
                moved_to: None,
                fence_until: None,
                tenure: 0,
            };
            servers[(slot % partitions) as usize].db.slots.insert(slot, row);
        }
        Shared(Arc::new(Mutex::new(Self {
            rng,
            fault,
            unruly: true,
            log: (0..SLOTS).map(|slot| (slot, Vec::new())).collect(),
            servers,
            published: Vec::new(),
            hints: Vec::new(),
            gathers: seed % 2 == 1,
            assigned: 0,
            steps: 0,
            began: Instant::now(),
            violation: None,
            next_number: 0,
            trace,
        })))
    }

    pub fn chance(&mut self, of: f64) -> bool {
        self.rng.random_bool(of)
    }

    /// Whether something breaks now.
    pub fn breaks(&mut self, of: f64) -> bool {
        self.unruly && self.chance(of)
    }

    pub fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    pub fn say(&self, what: impl FnOnce() -> String) {
        if self.trace {
            println!("{}", what());
        }
    }

    pub fn now(&self) -> Instant {
        self.began + Duration::from_millis(5 * self.steps)
    }

    /// A number that nobody else has.
    pub fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    /// A client writes a request.
    pub fn produce(&mut self, key: &str, value: String) {
        let slot = keyspace().slot_of(key.as_bytes());
        self.say(|| format!("log {slot}: {value}"));
        // Offsets have gaps: a transaction's marker, a record that was compacted away.
        let gap = i64::from(self.chance(0.1));
        let log = self.log.get_mut(&slot).unwrap();
        let offset = log.last().map_or(0, |last| last.offset + 1) + gap;
        log.push(Entry { offset, key: key.to_owned(), value });
    }

    pub fn connect(&mut self, server: usize) -> u64 {
        let session = self.number();
        self.servers[server].sessions.insert(session);
        session
    }

    /// The server ends a session; what it had begun is undone.
    pub fn disconnect(&mut self, server: usize, session: u64) {
        let server = &mut self.servers[server];
        server.sessions.remove(&session);
        if server.locked_by == Some(session) {
            server.locked_by = None;
        }
    }

    /// The primary is lost and a standby takes its place: all sessions end, what was committed stays, and the mark may
    /// fall back.
    pub fn fail_over(&mut self, server: usize) {
        self.say(|| format!("shard {server} fails over"));
        let server = &mut self.servers[server];
        server.line += 1;
        server.sessions.clear();
        server.locked_by = None;
        server.db.relayed = server.durable_mark;
    }

    /// The disk catches up.
    pub fn sync(&mut self, server: usize) {
        let server = &mut self.servers[server];
        server.durable_mark = server.db.relayed;
    }

    /// The shard's own worker undoes fences that have lasted too long. Each slot's fence ends at a moment of its own, so it
    /// may find some of a group only.
    pub fn undo_fences(&mut self, server: usize) {
        let now = self.now();
        let is_due = |row: &Slot| row.state == State::Fenced && row.fence_until.is_some_and(|until| until < now);
        let due = self.servers[server].db.slots.iter().filter(|(_, row)| is_due(row)).map(|(slot, _)| *slot);
        let due: Vec<u32> = due.collect();
        if due.is_empty() || self.servers[server].locked_by.is_some() {
            return;
        }
        let found = self.rng.random_range(1..=due.len());
        self.say(|| format!("the worker of shard {server} undoes the fences of {:?}", &due[..found]));
        let db = &mut self.servers[server].db;
        db.slots_version += 1;
        for slot in &due[..found] {
            let row = db.slots.get_mut(slot).unwrap();
            (row.state, row.attempt, row.fence_until) = (State::Active, None, None);
            row.epoch += 1;
        }
    }

    /// What must be so at any time.
    pub fn look(&mut self) {
        for slot in 0..SLOTS {
            let owners = self.servers.iter().filter(|server| server.db.tenure(slot).is_some()).count();
            if owners > 1 {
                self.violation.get_or_insert_with(|| format!("slot {slot} has {owners} owners"));
            }
        }
    }
}
