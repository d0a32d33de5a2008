//! The loop's and the relay's edges in the simulated world. Every step is a point at which anything else may happen first.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use rand::RngExt;
use shardlane_mover::moves::edges::State;
use shardlane_runtime::edges::{
    Clock, Fence, Outbox, OutboxError, Outcomes, Outlet, Shard, ShardError, Slots, TakeOver, Window,
};
use shardlane_runtime::fresh::Fresh;
use shardlane_runtime::intake::{Advance, DeadLetter};
use shardlane_runtime::producer::Outgoing;
use shardlane_runtime::service::{Accepted, Rejection};
use shardlane_runtime::standing::{Standing, Standings};

use crate::service::{Answer, Model, REFUSED, Request};
use crate::world::{Db, Fault, LARGEST, Letter, Published, Row, Shared, Slot, Tables, World, keyspace};

/// Lets everything else go first, for as long as the scheduler likes.
pub async fn step() {
    let mut seen = false;
    let waits = |context: &mut Context<'_>| {
        // A task of several tasks goes on only with those that say so.
        context.waker().wake_by_ref();
        if std::mem::replace(&mut seen, true) { Poll::Ready(()) } else { Poll::Pending }
    };
    poll_fn(waits).await;
}

/// A way to a shard.
pub struct Session {
    world: Shared,
    server: usize,
    id: Option<u64>,
}

impl Session {
    pub fn new(world: &Shared, server: usize) -> Self {
        Self { world: world.clone(), server, id: None }
    }

    /// A step of this session. The connection may break before it.
    pub async fn step(&mut self) -> Result<(), ShardError> {
        step().await;
        let mut world = self.world.lock();
        let id = match self.id {
            Some(id) => id,
            None => *self.id.insert(world.connect(self.server)),
        };
        if !world.servers[self.server].sessions.contains(&id) || world.breaks(0.01) {
            drop(world);
            return Err(self.broken());
        }
        Ok(())
    }

    /// The connection has broken; the server may find that out now or later.
    pub fn broken(&mut self) -> ShardError {
        let mut world = self.world.lock();
        if let Some(id) = self.id.take()
            && (!world.unruly || world.chance(0.7))
        {
            world.disconnect(self.server, id);
        }
        ShardError::Passing("broken".to_owned())
    }

    /// Waits for the fence row.
    pub async fn lock(&mut self) -> Result<(), ShardError> {
        while !self.lock_at_once().await? {}
        Ok(())
    }

    /// Takes the fence row if nobody has it.
    async fn lock_at_once(&mut self) -> Result<bool, ShardError> {
        self.step().await?;
        let mut world = self.world.lock();
        let server = &mut world.servers[self.server];
        let free = server.locked_by.is_none();
        if free {
            server.locked_by = self.id;
        }
        Ok(free)
    }

    pub fn unlock(&mut self) {
        self.world.lock().servers[self.server].locked_by = None;
    }

    /// The connection is closed, and the server knows.
    pub fn close(&mut self) {
        if let Some(id) = self.id.take() {
            self.world.lock().disconnect(self.server, id);
        }
    }
}

/// What a worker's transaction has made of its shard.
struct Tx {
    db: Db,
    /// The slots that it has moved on, whose rows it holds.
    advanced: Vec<u32>,
}

impl Tx {
    /// Takes over what the transaction wrote. Others have written other rows meanwhile.
    fn commit(self, db: &mut Db) {
        let Self { db: tx, advanced } = self;
        let batch = tx.batch;
        (db.batch, db.relayed) = (batch, tx.relayed);
        for slot in advanced {
            if let (Some(row), Some(new)) = (db.slots.get_mut(&slot), tx.slots.get(&slot)) {
                row.next = new.next;
            }
        }
        for (at, _) in tx.graves.iter().filter(|(_, grave)| grave.batch == batch) {
            db.tables.registers.remove(at);
        }
        db.graves = tx.graves;
        take_over(&mut db.tables.registers, tx.tables.registers, batch);
        take_over(&mut db.tables.answers, tx.tables.answers, batch);
        take_over(&mut db.tables.dead, tx.tables.dead, batch);
    }
}

/// Takes over the rows of a batch.
fn take_over<K: Ord, T>(rows: &mut BTreeMap<K, Row<T>>, written: BTreeMap<K, Row<T>>, batch: i64) {
    rows.extend(written.into_iter().filter(|(_, row)| row.batch == batch));
}

pub struct SimShard {
    session: Session,
    owner: String,
    /// What the open transaction has made of the shard.
    tx: Option<Tx>,
    known_version: i64,
}

impl SimShard {
    pub fn new(world: &Shared, server: usize, owner: &str) -> Self {
        Self { session: Session::new(world, server), owner: owner.to_owned(), tx: None, known_version: 0 }
    }

    fn world(&self) -> std::sync::MutexGuard<'_, World> {
        self.session.world.lock()
    }

    fn owns(&self, world: &World) -> bool {
        world.has(Fault::NoOwnerCheck) || world.servers[self.session.server].db.owner == self.owner
    }

    /// A step within the transaction; on failure it is over.
    async fn step_in_tx(&mut self) -> Result<(), ShardError> {
        self.session.step().await.inspect_err(|_| self.tx = None)
    }

    fn tx(&mut self) -> &mut Db {
        &mut self.tx.as_mut().expect("a transaction has begun").db
    }
}

/// Whether a worker works on a slot.
fn works_on(fault: Option<Fault>, state: State) -> bool {
    matches!(state, State::Active | State::Leaving) || (fault == Some(Fault::NoFence) && state == State::Fenced)
}

impl Shard<Model> for SimShard {
    async fn take_over(&mut self) -> Result<TakeOver, ShardError> {
        self.session.lock().await?;
        let times = {
            let mut world = self.world();
            world.say(|| format!("{} takes over", self.owner));
            let db = &mut world.servers[self.session.server].db;
            db.owner = self.owner.clone();
            db.take_overs += 1;
            db.take_overs
        };
        self.session.unlock();
        Ok(TakeOver::Owned { times })
    }

    async fn slots(&mut self) -> Result<Option<Slots>, ShardError> {
        self.session.step().await?;
        let (owns, version, slots) = {
            let world = self.world();
            let db = &world.servers[self.session.server].db;
            let slots = db.slots.iter().filter(|(_, row)| works_on(world.fault, row.state));
            let standing = |row: &Slot| Standing { next_offset: row.next, epoch: row.epoch, ..Standing::default() };
            let standings: Standings = slots.map(|(slot, row)| (*slot, standing(row))).collect();
            (self.owns(&world), db.slots_version, standings)
        };
        self.known_version = version;
        Ok(owns.then_some(Slots { version, standings: slots }))
    }

    async fn slots_version(&mut self) -> Result<Option<i64>, ShardError> {
        self.session.step().await?;
        let world = self.world();
        let version = world.servers[self.session.server].db.slots_version;
        let version = if world.has(Fault::SlotsVersionIgnored) { self.known_version } else { version };
        Ok(self.owns(&world).then_some(version))
    }

    async fn adopt(&mut self, _: &[(u32, i64)]) -> Result<(), ShardError> {
        Ok(())
    }

    async fn begin(&mut self, advances: &[Advance]) -> Result<Option<Fence>, ShardError> {
        self.session.lock().await?;
        let (mut tx, owns, fault) = {
            let world = self.world();
            let db = world.servers[self.session.server].db.clone();
            (db, self.owns(&world), world.fault)
        };
        if !owns {
            self.session.unlock();
            return Ok(None);
        }
        tx.batch += 1;
        let ignored = fault == Some(Fault::SlotsVersionIgnored);
        let slots_version = if ignored { self.known_version } else { tx.slots_version };
        let advanced = advances.iter().all(|Advance { slot, from, to, .. }| match tx.slots.get_mut(slot) {
            Some(row) if row.next == *from && works_on(fault, row.state) => {
                row.next = *to;
                true
            }
            _ => false,
        });
        if advanced && fault == Some(Fault::OffsetsOutsideTransaction) {
            self.world().servers[self.session.server].db.slots = tx.slots.clone();
        }
        let fence = Fence { batch: tx.batch, slots_version, advanced };
        self.tx = Some(Tx { db: tx, advanced: advances.iter().map(|advance| advance.slot).collect() });
        Ok(Some(fence))
    }

    async fn apply(&mut self, batch: i64, plan: &Arc<Vec<Accepted<Request>>>) -> Result<Outcomes, ShardError> {
        self.step_in_tx().await?;
        if plan.iter().any(|accepted| accepted.request.content == REFUSED) {
            self.roll_back().await?;
            return Err(ShardError::Refused(Rejection::refused("22000", "content")));
        }
        let fault = self.world().fault;
        for accepted in plan.iter() {
            apply_one(self.tx(), fault, batch, accepted);
        }
        let records = outcomes(self.tx(), fault, |of| of == batch);
        Ok(Box::new(move || Ok(records)))
    }

    async fn bury(&mut self, batch: i64, dead: &[DeadLetter]) -> Result<Outcomes, ShardError> {
        self.step_in_tx().await?;
        let text = |bytes: &Option<Vec<u8>>| String::from_utf8(bytes.clone().unwrap()).unwrap();
        let outside = self.world().has(Fault::DeadLettersOutsideTransaction);
        for letter in dead {
            let row = (letter.rejection.kind.to_owned(), text(&letter.key), text(&letter.value));
            let (at, row) = ((letter.slot, letter.offset), Row::new(row, batch, letter.offset));
            if !outside {
                self.tx().tables.dead.insert(at, row);
            } else if self.world().chance(0.8) {
                // A write of its own, that a crash in between loses: here, now and then.
                let server = self.session.server;
                self.world().servers[server].db.tables.dead.insert(at, row.clone());
                self.tx().tables.dead.insert(at, row);
            }
        }
        let records = dead_letters(self.tx(), |of| of == batch);
        Ok(Box::new(move || Ok(records)))
    }

    async fn commit(&mut self, mark: Option<i64>) -> Result<(), ShardError> {
        self.step_in_tx().await?;
        let db = self.tx();
        db.relayed = db.relayed.max(mark.unwrap_or(0).min(db.batch));
        let tx = self.tx.take().expect("a transaction has begun");
        let answer_lost = {
            let mut world = self.world();
            world.say(|| {
                let to: Vec<_> = tx.advanced.iter().map(|slot| (slot, tx.db.slots[slot].next)).collect();
                format!("{} commits batch {} up to {to:?}", self.owner, tx.db.batch)
            });
            tx.commit(&mut world.servers[self.session.server].db);
            world.breaks(0.02)
        };
        self.session.unlock();
        step().await;
        if answer_lost { Err(self.session.broken()) } else { Ok(()) }
    }

    async fn roll_back(&mut self) -> Result<(), ShardError> {
        self.tx = None;
        self.session.step().await?;
        self.session.unlock();
        Ok(())
    }
}

/// What one request does to the shard.
fn apply_one(db: &mut Db, fault: Option<Fault>, batch: i64, accepted: &Accepted<Request>) {
    let Accepted { slot, offset, request, .. } = accepted;
    let (at, id) = ((*slot, request.key.clone()), &request.id);
    let place = (*slot, request.key.clone(), id.clone());
    let (registers, answers) = (&mut db.tables.registers, &mut db.tables.answers);
    let known = match fault {
        Some(Fault::DedupeWithoutKey) => answers.iter_mut().find(|(found, _)| found.0 == *slot && found.2 == *id),
        Some(Fault::LosersForgotten) => {
            answers.iter_mut().find(|(found, row)| **found == place && row.row.made.is_some())
        }
        _ => answers.get_key_value(&place).is_some().then(|| (&place, answers.get_mut(&place).unwrap())),
    };
    if let Some((_, answer)) = known {
        answer.touch(batch, *offset);
        if let Some(register) = registers.get_mut(&at) {
            register.touch(batch, register.offset);
            if fault == Some(Fault::OldStateAgain)
                && let Some(made) = &answer.row.made
            {
                // What the relay will publish as the key's state, though the row has gone on.
                db.tables.answers.get_mut(&place).unwrap().row.content = -made.version;
            }
        }
        return;
    }
    let register = registers.get(&at).or_else(|| db.graves.get(&at)).map(|row| row.row.clone()).unwrap_or_default();
    let made = register.after(request.content);
    let answer = Answer { content: request.content, made: made.clone() };
    answers.insert(place, Row::new(answer, batch, *offset));
    let Some(row) = made else { return };
    let leaves = db.slots.get(slot).is_some_and(|row| row.state == State::Leaving);
    if row.gone && leaves && fault == Some(Fault::HardDelete) {
        registers.remove(&at);
        db.graves.insert(at, Row::new(row, batch, *offset));
    } else {
        db.graves.remove(&at);
        registers.insert(at, Row::new(row, batch, *offset));
    }
}

/// What a relay has published, or holds back where the mark is raised first.
type HeldBack = Arc<Mutex<Vec<Outgoing>>>;

pub struct SimOutbox {
    session: Session,
    owner: String,
    held_back: HeldBack,
}

pub struct SimOutlet {
    world: Shared,
    server: usize,
    owner: String,
    held_back: HeldBack,
}

/// Both sides of a relay.
pub fn relay_edges(world: &Shared, server: usize, owner: &str) -> (SimOutbox, SimOutlet) {
    let held_back = HeldBack::default();
    let outbox =
        SimOutbox { session: Session::new(world, server), owner: owner.to_owned(), held_back: Arc::clone(&held_back) };
    (outbox, SimOutlet { world: world.clone(), server, owner: owner.to_owned(), held_back })
}

impl SimOutbox {
    fn owns(&self, world: &World) -> bool {
        world.has(Fault::NoOwnerCheck) || world.servers[self.session.server].db.owner == self.owner
    }
}

fn passing(_: ShardError) -> OutboxError {
    OutboxError::Passing("broken".to_owned())
}

impl Outbox for SimOutbox {
    async fn window(&mut self, mark: Option<i64>, fresh: &Fresh) -> Result<Window, OutboxError> {
        self.session.step().await.map_err(passing)?;
        let mut world = self.session.world.lock();
        if !self.owns(&world) {
            return Err(OutboxError::Fenced);
        }
        let db = &world.servers[self.session.server].db;
        let after = db.relayed.max(mark.unwrap_or(0));
        let to = db.batch.min(after + fresh.fitting(after)).max(after);
        let due = |batch: i64| batch > after && batch <= to;
        let mut records = outcomes(db, world.fault, due);
        records.extend(dead_letters(db, due));
        let window = Window { records, after, to, more: to < db.batch };
        if came(db, due) {
            let server = self.session.server;
            let again = || format!("shard {server} publishes again what was published before it came there");
            world.violation.get_or_insert_with(again);
        }
        Ok(window)
    }

    async fn raise_mark(&mut self, batch: i64) -> Result<bool, OutboxError> {
        if !self.session.lock_at_once().await.map_err(passing)? {
            return Ok(false);
        }
        let owns = {
            let mut world = self.session.world.lock();
            let owns = self.owns(&world);
            if owns {
                let db = &mut world.servers[self.session.server].db;
                db.relayed = db.relayed.max(batch);
                world.say(|| format!("{} raises the mark to {batch}", self.owner));
            }
            owns
        };
        self.session.unlock();
        if !owns {
            return Err(OutboxError::Fenced);
        }
        let held_back = std::mem::take(&mut *self.held_back.lock().unwrap());
        for record in held_back {
            step().await;
            self.session.world.lock().published.push(Published { record, by_owner: true });
        }
        Ok(true)
    }
}

/// The header that says in which tenure of its slot a record was read.
const TENURE: &str = "tenure";

fn outgoing(db: &Db, topic: &str, slot: u32, key: &str, value: String) -> Outgoing {
    let (key, value) = (Some(key.as_bytes().to_vec()), Some(value.into_bytes()));
    let tenure = db.tenure(slot).map(|tenure| (TENURE, tenure.to_string()));
    Outgoing { topic: topic.into(), slot, key, value, headers: tenure.into_iter().collect() }
}

/// Whether a record comes from the shard that owns its slot.
fn is_owners(db: &Db, record: &Outgoing) -> bool {
    let tenure = record.headers.iter().find(|(name, _)| *name == TENURE).map(|(_, tenure)| tenure.clone());
    tenure.is_some() && tenure == db.tenure(record.slot).map(|tenure| tenure.to_string())
}

/// Whether any of the rows that are due came from another shard as they are.
fn came(db: &Db, due: impl Fn(i64) -> bool) -> bool {
    let Tables { registers, answers, dead } = &db.tables;
    registers.values().any(|row| row.came && due(row.batch))
        || answers.values().any(|row| row.came && due(row.batch))
        || dead.values().any(|row| row.came && due(row.batch))
}

/// What is to be published of the batches that are due, in order.
fn outcomes(db: &Db, fault: Option<Fault>, due: impl Fn(i64) -> bool) -> Vec<Outgoing> {
    let mut records = Vec::new();
    for ((slot, key, id), row) in db.tables.answers.iter().filter(|(_, row)| due(row.batch)) {
        let mut old = row.row.clone();
        if fault == Some(Fault::OldStateAgain) && old.content < 0 {
            let value = old.made.clone().unwrap().text();
            records.push(((row.batch, row.offset, 2), outgoing(db, "state", *slot, key, value)));
            old.content = 0;
        }
        records.push(((row.batch, row.offset, 0), outgoing(db, "response", *slot, key, old.text(id))));
    }
    let registers = db.tables.registers.iter().chain(&db.graves);
    for ((slot, key), row) in registers.filter(|(_, row)| due(row.batch)) {
        records.push(((row.batch, row.offset, 1), outgoing(db, "state", *slot, key, row.row.text())));
    }
    records.sort_by_key(|(order, _)| *order);
    records.into_iter().map(|(_, record)| record).collect()
}

fn dead_letters(db: &Db, due: impl Fn(i64) -> bool) -> Vec<Outgoing> {
    let due = db.tables.dead.iter().filter(|(_, row)| due(row.batch));
    let letter = |((slot, offset), row): (&(u32, i64), &Row<Letter>)| {
        let (reason, key, value) = &row.row;
        outgoing(db, "dlq", *slot, key, format!("{offset} {reason} {value}"))
    };
    due.map(letter).collect()
}

impl Outlet for SimOutlet {
    async fn deliver_all(&self, records: &[Outgoing]) -> Result<Vec<usize>, String> {
        let mut too_large = Vec::new();
        for (at, record) in records.iter().enumerate() {
            if self.world.lock().chance(0.5) {
                step().await;
            }
            let mut world = self.world.lock();
            if world.breaks(0.005) {
                return Err("no broker".to_owned());
            }
            if record.size() > LARGEST {
                if !world.has(Fault::TooLargeLeftOut) {
                    too_large.push(at);
                }
            } else if world.has(Fault::MarkFirst) {
                self.held_back.lock().unwrap().push(record.clone());
            } else {
                let db = &world.servers[self.server].db;
                let by_owner = db.owner == self.owner && is_owners(db, record);
                world.published.push(Published { record: record.clone(), by_owner });
            }
        }
        Ok(too_large)
    }
}

/// Time passes as the scheduler likes.
#[derive(Clone)]
pub struct SimClock(pub Shared);

impl Clock for SimClock {
    async fn sleep(&self, _: Duration) {
        let steps = self.0.lock().rng.random_range(1..6);
        for _ in 0..steps {
            step().await;
        }
    }

    fn now(&self) -> Instant {
        self.0.lock().now()
    }
}

/// The slot of a key.
pub fn slot_of(key: &str) -> u32 {
    keyspace().slot_of(key.as_bytes())
}
