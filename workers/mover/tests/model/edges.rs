//! The loop's and the relay's edges in the simulated world. Every step is a point at which anything else may happen first.

use std::future::poll_fn;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::{Duration, Instant};

use rand::RngExt;
use shardlane_runtime::edges::{
    Clock, Fence, Log, Outbox, OutboxError, Outcomes, Outlet, Read, Shard, ShardError, Slots, TakeOver, Window,
};
use shardlane_runtime::fresh::Fresh;
use shardlane_runtime::intake::{Advance, DeadLetter, Positions};
use shardlane_runtime::prepare::prepare;
use shardlane_runtime::producer::Outgoing;
use shardlane_runtime::record::{Batch, Record};
use shardlane_runtime::service::{Accepted, Rejection};
use shardlane_runtime::standing::{Standing, Standings};

use crate::service::{Answer, Model, REFUSED, Request};
use crate::world::{Db, Fault, LARGEST, Letter, Published, Row, Shared, World, keyspace};

/// Lets everything else go first, for as long as the scheduler likes.
pub async fn step() {
    let mut seen = false;
    poll_fn(|_| if std::mem::replace(&mut seen, true) { Poll::Ready(()) } else { Poll::Pending }).await;
}

/// A worker's way to its shard.
struct Session {
    world: Shared,
    server: usize,
    id: Option<u64>,
}

impl Session {
    /// A step of this session. The connection may break before it.
    async fn step(&mut self) -> Result<(), ShardError> {
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
    fn broken(&mut self) -> ShardError {
        let mut world = self.world.lock();
        if let Some(id) = self.id.take()
            && (!world.unruly || world.chance(0.7))
        {
            world.disconnect(self.server, id);
        }
        ShardError::Passing("broken".to_owned())
    }

    /// Waits for the fence row.
    async fn lock(&mut self) -> Result<(), ShardError> {
        loop {
            self.step().await?;
            let mut world = self.world.lock();
            let server = &mut world.servers[self.server];
            if server.locked_by.is_none() {
                server.locked_by = self.id;
                return Ok(());
            }
        }
    }

    fn unlock(&mut self) {
        self.world.lock().servers[self.server].locked_by = None;
    }
}

pub struct SimShard {
    session: Session,
    owner: String,
    /// What the open transaction has made of the shard.
    tx: Option<Db>,
    known_version: i64,
}

impl SimShard {
    pub fn new(world: &Shared, server: usize, owner: &str) -> Self {
        let session = Session { world: world.clone(), server, id: None };
        Self { session, owner: owner.to_owned(), tx: None, known_version: 0 }
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
        self.tx.as_mut().expect("a transaction has begun")
    }
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
            (self.owns(&world), db.slots_version, db.slots.clone())
        };
        self.known_version = version;
        let standing = |(slot, next_offset)| (slot, Standing { next_offset, ..Standing::default() });
        Ok(owns.then(|| Slots { version, standings: slots.into_iter().map(standing).collect() }))
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

    async fn begin(&mut self, mark: Option<i64>, advances: &[Advance]) -> Result<Option<Fence>, ShardError> {
        self.session.lock().await?;
        let (mut tx, owns, ignored) = {
            let world = self.world();
            let db = world.servers[self.session.server].db.clone();
            (db, self.owns(&world), world.has(Fault::SlotsVersionIgnored))
        };
        if !owns {
            self.session.unlock();
            return Ok(None);
        }
        tx.relayed = tx.relayed.max(mark.unwrap_or(0).min(tx.batch));
        tx.batch += 1;
        let slots_version = if ignored { self.known_version } else { tx.slots_version };
        let advanced = advances.iter().all(|Advance { slot, from, to, .. }| match tx.slots.get_mut(slot) {
            Some(next) if next == from => {
                *next = *to;
                true
            }
            _ => false,
        });
        if advanced && self.world().has(Fault::OffsetsOutsideTransaction) {
            self.world().servers[self.session.server].db.slots = tx.slots.clone();
        }
        let fence = Fence { batch: tx.batch, slots_version, advanced };
        self.tx = Some(tx);
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
            let (at, row) = ((letter.slot, letter.offset), Row { row, batch, offset: letter.offset });
            if !outside {
                self.tx().dead.insert(at, row);
            } else if self.world().chance(0.8) {
                // A write of its own, that a crash in between loses: here, now and then.
                let server = self.session.server;
                self.world().servers[server].db.dead.insert(at, row.clone());
                self.tx().dead.insert(at, row);
            }
        }
        let records = dead_letters(self.tx(), |of| of == batch);
        Ok(Box::new(move || Ok(records)))
    }

    async fn commit(&mut self) -> Result<(), ShardError> {
        self.step_in_tx().await?;
        let tx = self.tx.take().expect("a transaction has begun");
        let answer_lost = {
            let mut world = self.world();
            world.say(|| format!("{} commits batch {} up to {:?}", self.owner, tx.batch, tx.slots));
            // Raising the mark is a write of its own, which waits for the fence: nothing else changed meanwhile.
            world.servers[self.session.server].db = tx;
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
    let known = match fault {
        Some(Fault::DedupeWithoutKey) => db.answers.iter_mut().find(|(found, _)| found.0 == *slot && found.2 == *id),
        Some(Fault::LosersForgotten) => {
            db.answers.iter_mut().find(|(found, row)| **found == place && row.row.made.is_some())
        }
        _ => db.answers.iter_mut().find(|(found, _)| **found == place),
    };
    if let Some((_, answer)) = known {
        (answer.batch, answer.offset) = (batch, *offset);
        if let Some(register) = db.registers.get_mut(&at) {
            register.batch = batch;
            if fault == Some(Fault::OldStateAgain)
                && let Some(made) = &answer.row.made
            {
                // What the relay will publish as the key's state, though the row has gone on.
                db.answers.get_mut(&place).unwrap().row.content = -made.version;
            }
        }
        return;
    }
    let register = db.registers.get(&at).map(|row| row.row.clone()).unwrap_or_default();
    let made = register.after(request.content);
    let answer = Answer { content: request.content, made: made.clone() };
    db.answers.insert(place, Row { row: answer, batch, offset: *offset });
    if let Some(row) = made {
        db.registers.insert(at, Row { row, batch, offset: *offset });
    }
}

pub struct SimLog {
    world: Shared,
    next: Option<std::collections::BTreeMap<u32, i64>>,
    assigned: bool,
}

impl SimLog {
    pub fn new(world: &Shared) -> Self {
        Self { world: world.clone(), next: None, assigned: false }
    }

    /// Some of what follows, of some slots.
    fn read(&mut self) -> Option<Batch> {
        let mut world = self.world.lock();
        let mut batch = Batch::default();
        for (slot, next) in self.next.as_mut()? {
            let waiting: Vec<_> = world.log.get(slot)?.iter().filter(|entry| entry.offset >= *next).cloned().collect();
            let taken = world.rng.random_range(0..=waiting.len());
            for entry in &waiting[..taken] {
                let (key, value) = (Some(entry.key.as_bytes()), Some(entry.value.as_bytes()));
                batch.push(*next, &Record { slot: *slot, offset: entry.offset, timestamp: 0, key, value });
                *next = entry.offset + 1;
            }
        }
        (!batch.is_empty()).then_some(batch)
    }
}

impl Log<Model> for SimLog {
    fn assign(&mut self, standings: Standings) {
        self.next = Some(standings.into_iter().map(|(slot, standing)| (slot, standing.next_offset)).collect());
        self.assigned = false;
    }

    async fn next(&mut self, _: bool) -> Option<Read<Vec<Accepted<Request>>>> {
        loop {
            step().await;
            if self.world.lock().breaks(0.01) {
                return Some(Read::Trouble("no broker".to_owned()));
            }
            if !std::mem::replace(&mut self.assigned, true) {
                return Some(Read::Assigned { halted: Default::default(), strays: Vec::new(), notices: Vec::new() });
            }
            if let Some(batch) = self.read() {
                return Some(Read::Batch(prepare(&Model::default(), keyspace(), batch)));
            }
        }
    }

    fn show_progress(&mut self, _: &Positions) {}
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
    let session = Session { world: world.clone(), server, id: None };
    let outbox = SimOutbox { session, owner: owner.to_owned(), held_back: Arc::clone(&held_back) };
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
        let world = self.session.world.lock();
        if !self.owns(&world) {
            return Err(OutboxError::Fenced);
        }
        let db = &world.servers[self.session.server].db;
        let after = db.relayed.max(mark.unwrap_or(0));
        let to = db.batch.min(after + fresh.fitting(after)).max(after);
        let due = |batch: i64| batch > after && batch <= to;
        let mut records = outcomes(db, world.fault, due);
        records.extend(dead_letters(db, due));
        Ok(Window { records, after, to, more: to < db.batch })
    }

    async fn raise_mark(&mut self, batch: i64) -> Result<(), OutboxError> {
        self.session.lock().await.map_err(passing)?;
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
        Ok(())
    }
}

fn outgoing(topic: &str, slot: u32, key: &str, value: String) -> Outgoing {
    let (key, value) = (Some(key.as_bytes().to_vec()), Some(value.into_bytes()));
    Outgoing { topic: topic.into(), slot, key, value, headers: Vec::new() }
}

/// What is to be published of the batches that are due, in order.
fn outcomes(db: &Db, fault: Option<Fault>, due: impl Fn(i64) -> bool) -> Vec<Outgoing> {
    let mut records = Vec::new();
    for ((slot, key, id), row) in db.answers.iter().filter(|(_, row)| due(row.batch)) {
        let mut old = row.row.clone();
        if fault == Some(Fault::OldStateAgain) && old.content < 0 {
            let made = old.made.clone().unwrap();
            let value = format!("{} {}", made.version, made.value);
            records.push(((row.batch, row.offset, 2), outgoing("state", *slot, key, value)));
            old.content = 0;
        }
        records.push(((row.batch, row.offset, 0), outgoing("response", *slot, key, old.text(id))));
    }
    for ((slot, key), row) in db.registers.iter().filter(|(_, row)| due(row.batch)) {
        let value = format!("{} {}", row.row.version, row.row.value);
        records.push(((row.batch, row.offset, 1), outgoing("state", *slot, key, value)));
    }
    records.sort_by_key(|(order, _)| *order);
    records.into_iter().map(|(_, record)| record).collect()
}

fn dead_letters(db: &Db, due: impl Fn(i64) -> bool) -> Vec<Outgoing> {
    let due = db.dead.iter().filter(|(_, row)| due(row.batch));
    let letter = |((slot, offset), row): (&(u32, i64), &Row<Letter>)| {
        let (reason, key, value) = &row.row;
        outgoing("dlq", *slot, key, format!("{offset} {reason} {value}"))
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
                let by_owner = world.servers[self.server].db.owner == self.owner;
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
        let world = self.0.lock();
        world.began + Duration::from_millis(5 * world.steps)
    }
}

/// The slot of a key.
pub fn slot_of(key: &str) -> u32 {
    keyspace().slot_of(key.as_bytes())
}
