//! Processes: workers and movers, each some tasks that get on when the schedule lets them.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::task::{Context, Waker};
use std::time::Duration;

use prometheus::Registry;
use shardlane_mover::moves::progress::Progress;
use shardlane_mover::moves::run::{Run, Wanted};
use shardlane_runtime::fresh::{Fresh, Size};
use shardlane_runtime::gateway::SlotMap;
use shardlane_runtime::health::Health;
use shardlane_runtime::metrics::Metrics;
use shardlane_runtime::partition_loop::PartitionLoop;
use shardlane_runtime::process::Shutdown;
use shardlane_runtime::relay::Relay;
use tokio::sync::{Notify, watch};

use crate::edges::{SimClock, SimShard, relay_edges, step};
use crate::log::SimLog;
use crate::service::Model;
use crate::shards::SimWorld;
use crate::world::{SHARDS, SLOTS, Shared, keyspace};

/// What the relay finds in memory: little, so that it has to read the shard often.
const ROOM: Size = Size { records: 6, bytes: 2_000 };
/// What all count into; nobody looks.
static METRICS: LazyLock<Arc<Metrics>> = LazyLock::new(|| Arc::new(Metrics::new().unwrap()));

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// A worker's process: its loop and its relay.
pub struct Worker {
    pub name: String,
    pub server: usize,
    tasks: Vec<Task>,
    /// It gets no time, and does not notice.
    pub stalled: bool,
    /// It has become the owner of its shard, at some time.
    pub owned: Arc<AtomicBool>,
    /// The loop has ended by itself; what is left of the process follows.
    pub ended: Arc<AtomicBool>,
    /// What it knows of the hints, and how many it has read.
    owners: SlotMap,
    read: usize,
}

impl Worker {
    pub fn start(world: &Shared, server: usize, name: String) -> Self {
        world.lock().say(|| format!("{name} starts on shard {server}"));
        let metrics = Arc::clone(&METRICS);
        let health = Health::starting(Arc::clone(&metrics), &[]);
        let owners = SlotMap::default();
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
            owners: owners.clone(),
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
        let tasks: Vec<Task> = vec![Box::pin(loop_task), Box::pin(relay_task)];
        let mut worker = Self { name, server, tasks, stalled: false, owned, ended, owners, read: 0 };
        // A process begins with what there is.
        worker.learn(&world.lock().hints, usize::MAX);
        worker
    }

    /// Reads some of the hints.
    pub fn learn(&mut self, hints: &[shardlane_runtime::hint::Hint], some: usize) {
        for hint in hints.iter().skip(self.read).take(some) {
            self.owners.learn(*hint);
            self.read += 1;
        }
    }

    /// How many tasks it has.
    pub fn tasks(&self) -> usize {
        self.tasks.len()
    }

    /// Lets one of its tasks get on. `true`: none is left.
    pub fn poll(&mut self, task: usize) -> bool {
        if self.tasks[task].as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready() {
            drop(self.tasks.remove(task));
        }
        self.tasks.is_empty()
    }
}

/// What is wanted of a mover.
#[derive(Clone, Copy, Debug)]
pub struct Order {
    pub partitions: u32,
    pub at_once: usize,
    pub fence: Duration,
    pub clean_after: Duration,
    /// Before which of its steps it stalls, if it is one.
    pub sticks_at: &'static str,
}

/// A mover's process.
pub struct Mover {
    pub name: String,
    /// How long its fences last.
    pub fence: Duration,
    task: Task,
    pub stalled: bool,
    /// It is where it stalls.
    pub sticks: Arc<AtomicBool>,
    /// Whether it has ended well; `None`: it has not ended.
    pub ended: Arc<Mutex<Option<bool>>>,
    stop: watch::Sender<bool>,
    /// No other is at work, and none will be.
    pub is_last: bool,
}

impl Mover {
    pub fn start(world: &Shared, name: String, order: Order, is_last: bool) -> Self {
        world.lock().say(|| format!("{name} starts: {order:?}"));
        let (stop, stopped) = Shutdown::by_hand();
        let (ended, sticks) = (Arc::new(Mutex::new(None)), Arc::new(AtomicBool::new(false)));
        let shards = SimWorld::new(world, order.sticks_at, Arc::clone(&sticks));
        let (now_ended, world, named) = (Arc::clone(&ended), world.clone(), name.clone());
        let task = async move {
            let health = Health::starting(Arc::clone(&METRICS), &[]);
            let run = Run {
                world: &shards,
                clock: &SimClock(world.clone()),
                new_id: || format!("{named}-{}", world.lock().number()),
                wanted: Wanted {
                    partitions: order.partitions,
                    shards: SHARDS,
                    slots: SLOTS,
                    at_once: order.at_once,
                    clean_after: order.clean_after,
                    fence: order.fence,
                },
                stop: stopped,
                progress: Arc::new(Progress::new(health, &Registry::new()).unwrap()),
            };
            let done = run.run().await;
            world.lock().say(|| format!("{named} ends: {done:?}"));
            *now_ended.lock().unwrap() = Some(done.is_ok());
        };
        Self { name, fence: order.fence, task: Box::pin(task), stalled: false, sticks, ended, stop, is_last }
    }

    /// It is to stop.
    pub fn stop(&self) {
        let _ = self.stop.send(true);
    }

    /// Lets it get on. `true`: it has ended.
    pub fn poll(&mut self) -> bool {
        self.task.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }
}
