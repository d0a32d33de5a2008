//! The simulated world: a log, shards with transactions and sessions, and what was published.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use shardlane_runtime::intake::Keyspace;
use shardlane_runtime::producer::Outgoing;

use crate::service::{Answer, Register};

/// Slots of the service.
pub const SLOTS: u32 = 4;
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
}

/// Reason, key and value of a dead letter.
pub type Letter = (String, String, String);

/// What a shard holds.
#[derive(Clone, Debug, Default)]
pub struct Db {
    pub owner: String,
    pub take_overs: i64,
    pub batch: i64,
    pub relayed: i64,
    pub slots_version: i64,
    /// The active slots and where they stand.
    pub slots: BTreeMap<u32, i64>,
    pub registers: BTreeMap<(u32, String), Row<Register>>,
    pub answers: BTreeMap<(u32, String, String), Row<Answer>>,
    /// By slot and offset.
    pub dead: BTreeMap<(u32, i64), Row<Letter>>,
}

/// A shard's server.
#[derive(Debug, Default)]
pub struct Server {
    pub db: Db,
    /// The mark that would be found after a failover: raising it waits for no disk.
    pub durable_mark: i64,
    /// The session that holds the fence.
    pub locked_by: Option<u64>,
    /// Sessions that the server knows.
    pub sessions: BTreeSet<u64>,
}

/// A record that was published, by whom, and whether that worker still owned its shard.
#[derive(Clone, Debug)]
pub struct Published {
    pub record: Outgoing,
    pub by_owner: bool,
}

pub struct World {
    pub rng: StdRng,
    pub fault: Option<Fault>,
    /// While false, nothing breaks any more.
    pub unruly: bool,
    pub log: BTreeMap<u32, Vec<Entry>>,
    pub servers: Vec<Server>,
    pub published: Vec<Published>,
    /// Whether workers gather batches, as half of all worlds have it.
    pub gathers: bool,
    /// Steps so far; each takes some milliseconds, for whoever measures time.
    pub steps: u64,
    pub began: Instant,
    next_session: u64,
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
    /// Slots are spread over the shards; nothing has happened.
    pub fn shared(seed: u64, fault: Option<Fault>, trace: bool) -> Shared {
        let mut servers: Vec<Server> = (0..2).map(|_| Server::default()).collect();
        for slot in 0..SLOTS {
            servers[slot as usize % 2].db.slots.insert(slot, 0);
        }
        Shared(Arc::new(Mutex::new(Self {
            rng: StdRng::seed_from_u64(seed),
            fault,
            unruly: true,
            log: (0..SLOTS).map(|slot| (slot, Vec::new())).collect(),
            servers,
            published: Vec::new(),
            gathers: seed % 2 == 1,
            steps: 0,
            began: Instant::now(),
            next_session: 0,
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
        self.next_session += 1;
        self.servers[server].sessions.insert(self.next_session);
        self.next_session
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
        server.sessions.clear();
        server.locked_by = None;
        server.db.relayed = server.durable_mark;
    }

    /// The disk catches up.
    pub fn sync(&mut self, server: usize) {
        let server = &mut self.servers[server];
        server.durable_mark = server.db.relayed;
    }

    /// A slot changes its shard, all at once: what a mover does in many steps. Only when everything is published and
    /// nobody holds either fence.
    pub fn move_slot(&mut self, slot: u32, from: usize, to: usize) {
        let source = &mut self.servers[from];
        if source.locked_by.is_some() || source.db.relayed != source.db.batch || !source.db.slots.contains_key(&slot) {
            return;
        }
        if self.servers[to].locked_by.is_some() {
            return;
        }
        self.say(|| format!("slot {slot} moves from shard {from} to {to}"));
        self.sync(from);
        let source = &mut self.servers[from].db;
        let next = source.slots.remove(&slot).unwrap();
        source.slots_version += 1;
        let registers = split(&mut source.registers, |key| key.0 == slot);
        let answers = split(&mut source.answers, |key| key.0 == slot);
        let dead = split(&mut source.dead, |key| key.0 == slot);
        let target = &mut self.servers[to].db;
        target.slots_version += 1;
        target.slots.insert(slot, next);
        target.registers.extend(registers);
        target.answers.extend(answers);
        target.dead.extend(dead);
    }
}

/// Takes the rows out that go along; their batch is that of rows that are already published.
fn split<K: Ord + Clone, T>(rows: &mut BTreeMap<K, Row<T>>, goes: impl Fn(&K) -> bool) -> BTreeMap<K, Row<T>> {
    let keys: Vec<K> = rows.keys().filter(|key| goes(key)).cloned().collect();
    let mut gone: BTreeMap<K, Row<T>> = keys.into_iter().filter_map(|key| rows.remove_entry(&key)).collect();
    gone.values_mut().for_each(|row| row.batch = 0);
    gone
}
