//! Schedules: which part of the world goes next, and what goes wrong, drawn from a seed.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Waker};

use rand::RngExt;
use shardlane_runtime::fresh::{Fresh, Size};
use shardlane_runtime::health::Health;
use shardlane_runtime::metrics::Metrics;
use shardlane_runtime::partition_loop::PartitionLoop;
use shardlane_runtime::process::Shutdown;
use shardlane_runtime::relay::Relay;
use tokio::sync::Notify;

use crate::edges::{SimClock, SimLog, SimShard, relay_edges, step};
use crate::oracle::{check, is_done};
use crate::service::{HUGE, Model, POISON, REFUSED};
use crate::world::{Fault, SLOTS, Shared, World, keyspace};

/// Steps while things break.
const UNRULY: u32 = 700;
/// What the relay finds in memory: little, so that it has to read the shard often.
const ROOM: Size = Size { records: 6, bytes: 2_000 };
/// Steps within which everything must come to rest afterwards.
const CALM: u32 = 6_000;

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// A worker's process: its loop and its relay.
struct Worker {
    name: String,
    server: usize,
    tasks: Vec<Task>,
    /// It gets no time, and does not notice.
    stalled: bool,
    /// It has become the owner of its shard, at some time.
    owned: Arc<AtomicBool>,
    /// The loop has ended by itself; what is left of the process follows.
    ended: Arc<AtomicBool>,
}

impl Worker {
    fn start(world: &Shared, server: usize, name: String) -> Self {
        world.lock().say(|| format!("{name} starts on shard {server}"));
        let metrics = Arc::new(Metrics::new().unwrap());
        let health = Health::starting(Arc::clone(&metrics), &[]);
        let (committed, fresh) = (Arc::new(Notify::new()), Arc::new(Fresh::with_room(ROOM)));
        let mut turning = PartitionLoop {
            service: Arc::new(Model { gathers: world.lock().gathers }),
            keyspace: keyspace(),
            shard: SimShard::new(world, server, &name),
            log: SimLog::new(world),
            clock: SimClock(world.clone()),
            health: health.clone(),
            metrics: Arc::clone(&metrics),
            committed: Arc::clone(&committed),
            fresh: Arc::clone(&fresh),
            owners: Default::default(),
            singly: None,
        };
        let (outbox, outlet) = relay_edges(world, server, &name);
        let mut relay = Relay {
            outbox,
            outlet,
            dead_letters: Model::INPUT_DLQ.into(),
            clock: SimClock(world.clone()),
            health,
            metrics,
            committed,
            fresh,
        };
        let (owned, ended) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let is_owned = Arc::clone(&owned);
        let (now_owned, now_ended) = (Arc::clone(&owned), Arc::clone(&ended));
        let loop_task = async move {
            let (_never, mut shutdown) = Shutdown::by_hand();
            if turning.take_over(&mut shutdown).await.is_ok_and(|owned| owned) {
                now_owned.store(true, Ordering::Relaxed);
                // It ends when another takes over.
                let _ = turning.run(&mut shutdown).await;
            }
            now_ended.store(true, Ordering::Relaxed);
        };
        let relay_task = async move {
            while !is_owned.load(Ordering::Relaxed) {
                step().await;
            }
            let (_never, mut stop) = Shutdown::by_hand();
            relay.run(&mut stop).await;
        };
        Self { name, server, tasks: vec![Box::pin(loop_task), Box::pin(relay_task)], stalled: false, owned, ended }
    }
}

struct Schedule {
    world: Shared,
    workers: Vec<Worker>,
    started: u32,
    requests: u32,
}

/// Runs the schedule of a seed to its end and compares.
pub fn run(seed: u64, fault: Option<Fault>, trace: bool) -> Result<(), String> {
    let world = World::shared(seed, fault, trace);
    let mut schedule = Schedule { world, workers: Vec::new(), started: 0, requests: 0 };
    for server in 0..2 {
        schedule.start(server);
    }
    for _ in 0..UNRULY {
        schedule.unruly_step();
    }
    schedule.calm_down();
    for _ in 0..CALM {
        schedule.start_missing();
        schedule.poll_one();
        schedule.server_step(0.02);
        if is_done(&schedule.world.lock()) {
            let world = schedule.world.lock();
            return check(&world);
        }
    }
    let world = schedule.world.lock();
    let stands: Vec<_> = world.servers.iter().map(|s| (&s.db.slots, s.db.batch, s.db.relayed)).collect();
    Err(format!("everything works, and yet it comes to no end: {stands:?}"))
}

impl Schedule {
    fn start(&mut self, server: usize) {
        self.started += 1;
        self.workers.push(Worker::start(&self.world, server, format!("worker{}", self.started)));
    }

    fn draw(&self, below: usize) -> usize {
        self.world.lock().rng.random_range(0..below)
    }

    fn chance(&self, of: f64) -> bool {
        self.world.lock().chance(of)
    }

    fn unruly_step(&mut self) {
        match self.draw(100) {
            0..8 => self.produce(),
            8 => self.crash(),
            9 if self.workers.len() < 6 => {
                let server = self.draw(2);
                self.start(server);
            }
            10 => self.stall(),
            11 => {
                let (slot, from) = (self.draw(SLOTS as usize), self.draw(2));
                self.world.lock().move_slot(u32::try_from(slot).unwrap(), from, 1 - from);
            }
            12 => self.server_step(0.3),
            _ => self.poll_one(),
        }
    }

    /// Some worker does something.
    fn poll_one(&mut self) {
        self.world.lock().steps += 1;
        let awake: Vec<usize> = (0..self.workers.len()).filter(|at| !self.workers[*at].stalled).collect();
        if awake.is_empty() {
            return;
        }
        let at = awake[self.draw(awake.len())];
        let task = self.draw(self.workers[at].tasks.len());
        let worker = &mut self.workers[at];
        if worker.tasks[task].as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready() {
            drop(worker.tasks.remove(task));
        }
        // A fenced worker's process ends, with whatever its relay was about.
        if worker.tasks.is_empty() || (worker.ended.load(Ordering::Relaxed) && self.chance(0.1)) {
            self.remove(at);
        }
    }

    fn remove(&mut self, at: usize) {
        let worker = self.workers.remove(at);
        self.world.lock().say(|| format!("{} ends", worker.name));
    }

    /// A client asks: anew, or for something that was asked before.
    fn produce(&mut self) {
        let (key, id) = (format!("k{}", self.draw(12)), format!("r{}", self.draw(6)));
        let content = match self.draw(20) {
            0 => POISON,
            1 => REFUSED,
            2 => HUGE,
            // The same request says the same.
            _ => i64::from(key.as_bytes()[1]) * 31 + i64::from(id.as_bytes()[1]) * 17,
        };
        self.requests += 1;
        // The special ones have ids of their own, so that no id comes with two contents.
        let id = if content <= HUGE.max(REFUSED) { format!("s{content}-{}", self.requests) } else { id };
        self.world.lock().produce(&key, format!("{key} {id} {content}"));
    }

    /// A process is gone, in the middle of whatever it did.
    fn crash(&mut self) {
        if !self.workers.is_empty() {
            let at = self.draw(self.workers.len());
            self.remove(at);
        }
    }

    fn stall(&mut self) {
        if !self.workers.is_empty() {
            let at = self.draw(self.workers.len());
            let worker = &mut self.workers[at];
            worker.stalled = !worker.stalled;
            self.world.lock().say(|| format!("{} {}", worker.name, if worker.stalled { "stalls" } else { "wakes" }));
        }
    }

    /// What a database server does by itself.
    fn server_step(&mut self, likely: f64) {
        let server = self.draw(2);
        if self.chance(0.5) {
            self.world.lock().sync(server);
        }
        if self.chance(likely) {
            // Whoever holds the fence and says nothing for too long.
            let mut world = self.world.lock();
            if let Some(session) = world.servers[server].locked_by {
                world.disconnect(server, session);
            }
        }
        if self.world.lock().breaks(0.1) {
            self.world.lock().fail_over(server);
        }
    }

    /// Nothing breaks any more, and those that stalled wake.
    fn calm_down(&mut self) {
        self.world.lock().unruly = false;
        for worker in &mut self.workers {
            worker.stalled = false;
        }
    }

    /// Starts a worker for each shard that has none, as a cluster does.
    fn start_missing(&mut self) {
        for server in 0..2 {
            let owner = self.world.lock().servers[server].db.owner.clone();
            let works = |worker: &Worker| worker.name == owner || !worker.owned.load(Ordering::Relaxed);
            if !self.workers.iter().any(|worker| worker.server == server && works(worker)) {
                self.start(server);
            }
        }
    }
}
