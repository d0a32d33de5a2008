//! Schedules: which part of the world goes next, and what goes wrong, drawn from a seed.

use std::sync::atomic::Ordering;
use std::time::Duration;

use rand::RngExt;

use crate::oracle::{check, is_done};
use crate::processes::{Mover, Order, Worker};
use crate::service::{HUGE, POISON, REFUSED};
use crate::shards::STEPS;
use crate::world::{Fault, SHARDS, Shared, World};

/// Steps while things break.
const UNRULY: u32 = 1_200;
/// Steps within which everything must come to rest afterwards.
const CALM: u32 = 20_000;
/// How long a fence may last: so long that it succeeds unless something breaks, or hardly ever.
const LONG: Duration = Duration::from_secs(4);
const SHORT: Duration = Duration::from_millis(300);
/// Most workers at a time, and most movers.
const WORKERS: usize = 7;
const MOVERS: usize = 3;

struct Schedule {
    world: Shared,
    workers: Vec<Worker>,
    movers: Vec<Mover>,
    /// How many partitions were last wanted.
    partitions: u32,
    /// A mover found that nothing is left to be done, and no other is there.
    settled: bool,
    started: u32,
    requests: u32,
}

/// Runs the schedule of a seed to its end and compares.
pub fn run(seed: u64, fault: Option<Fault>, trace: bool) -> Result<(), String> {
    let world = World::shared(seed, fault, trace);
    let mut schedule = Schedule {
        world,
        workers: Vec::new(),
        movers: Vec::new(),
        partitions: SHARDS,
        settled: false,
        started: 0,
        requests: 0,
    };
    for server in 0..SHARDS as usize {
        schedule.start(server);
    }
    for _ in 0..UNRULY {
        schedule.unruly_step();
        schedule.violation()?;
    }
    schedule.calm_down();
    for _ in 0..CALM {
        schedule.calm_step();
        schedule.violation()?;
        let world = schedule.world.lock();
        if schedule.settled && is_done(&world) {
            return check(&world, schedule.partitions);
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

    /// What was seen that must never be.
    fn violation(&self) -> Result<(), String> {
        self.world.lock().violation.take().map_or(Ok(()), Err)
    }

    fn unruly_step(&mut self) {
        match self.draw(100) {
            0..6 => self.produce(),
            6 => self.crash(),
            7 if self.workers.len() < WORKERS => {
                let server = self.draw(SHARDS as usize);
                self.start(server);
            }
            8 => self.stall(),
            9 => self.move_otherwise(),
            10 => self.server_step(0.3),
            11..14 => self.aside(),
            _ => self.poll_one(),
        }
    }

    fn calm_step(&mut self) {
        self.start_missing();
        self.poll_one();
        self.server_step(0.02);
        if self.chance(0.02) {
            self.aside();
        }
    }

    /// Somebody does something.
    fn poll_one(&mut self) {
        self.world.lock().steps += 1;
        let awake: Vec<usize> = (0..self.movers.len()).filter(|at| !self.movers[*at].stalled).collect();
        if !awake.is_empty() && self.chance(0.6) {
            self.poll_mover(awake[self.draw(awake.len())]);
            return;
        }
        let awake: Vec<usize> = (0..self.workers.len()).filter(|at| !self.workers[*at].stalled).collect();
        if awake.is_empty() {
            return;
        }
        let at = awake[self.draw(awake.len())];
        let task = self.draw(self.workers[at].tasks());
        let worker = &mut self.workers[at];
        let is_over = worker.poll(task);
        // A fenced worker's process ends, with whatever its relay was about.
        if is_over || (worker.ended.load(Ordering::Relaxed) && self.chance(0.1)) {
            self.remove(at);
        }
    }

    fn poll_mover(&mut self, at: usize) {
        let mover = &mut self.movers[at];
        let is_over = mover.poll();
        let unruly = self.world.lock().unruly;
        mover.stalled = unruly && mover.sticks.swap(false, Ordering::Relaxed);
        if mover.stalled && self.chance(0.4) {
            // As if it were gone.
            self.start_mover(false);
        }
        let mut world = self.world.lock();
        world.look();
        if is_over {
            let mover = self.movers.remove(at);
            self.settled = !world.unruly && mover.is_last && *mover.ended.lock().unwrap() == Some(true);
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

    /// What is wanted changes, or something happens to a mover.
    fn move_otherwise(&mut self) {
        if self.movers.is_empty() || self.chance(0.2) {
            self.order();
            return;
        }
        let at = self.draw(self.movers.len());
        match self.draw(8) {
            0..5 => {
                let mover = &mut self.movers[at];
                mover.stalled = !mover.stalled;
                self.world.lock().say(|| format!("{} {}", mover.name, if mover.stalled { "stalls" } else { "wakes" }));
            }
            5 => {
                let mover = self.movers.remove(at);
                self.world.lock().say(|| format!("{} is lost", mover.name));
            }
            6 => self.movers[at].stop(),
            _ => {}
        }
    }

    /// Another mover, mostly for another number of partitions. Whoever is at work then is lost, or stalls and wakes later, or ends by itself.
    fn order(&mut self) {
        match self.draw(4) {
            0 => self.movers.clear(),
            1 | 2 => self.movers.iter_mut().for_each(|mover| mover.stalled = true),
            _ => self.movers.iter().for_each(Mover::stop),
        }
        // Or it is the same order, and another process.
        if self.chance(0.6) {
            self.partitions = 1 + u32::try_from(self.draw(SHARDS as usize)).unwrap();
        }
        self.start_mover(false);
    }

    fn start_mover(&mut self, is_last: bool) {
        while self.movers.len() >= MOVERS {
            let at = self.draw(self.movers.len());
            drop(self.movers.remove(at));
        }
        self.started += 1;
        let order = Order {
            partitions: self.partitions,
            at_once: 1 + self.draw(3),
            fence: if is_last { LONG } else { [SHORT, 2 * SHORT, LONG][self.draw(3)] },
            clean_after: Duration::from_secs(self.draw(2) as u64),
            sticks_at: if is_last || self.chance(0.5) { "" } else { STEPS[self.draw(STEPS.len())] },
        };
        self.movers.push(Mover::start(&self.world, format!("mover{}", self.started), order, is_last));
    }

    /// What goes on beside: hints are read, and fences end.
    fn aside(&mut self) {
        if !self.workers.is_empty() {
            let (at, some) = (self.draw(self.workers.len()), self.draw(4));
            self.workers[at].learn(&self.world.lock().hints, some);
        }
        for server in 0..SHARDS as usize {
            let owner = self.world.lock().servers[server].db.owner.clone();
            if self.workers.iter().any(|worker| worker.name == owner && !worker.stalled) {
                self.world.lock().undo_fences(server);
            }
        }
    }

    /// What a database server does by itself.
    fn server_step(&mut self, likely: f64) {
        let server = self.draw(SHARDS as usize);
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

    /// Nothing breaks any more, and those that stalled wake. Of the movers the last one goes on, if its fences may last long
    /// enough to succeed.
    fn calm_down(&mut self) {
        self.world.lock().unruly = false;
        for worker in &mut self.workers {
            worker.stalled = false;
        }
        for mover in &mut self.movers {
            mover.stalled = false;
        }
        let last = self.movers.len().saturating_sub(1);
        let goes_on = |at: usize, mover: &Mover| at == last && mover.fence >= LONG;
        self.movers.iter().enumerate().filter(|(at, mover)| !goes_on(*at, mover)).for_each(|(_, mover)| mover.stop());
    }

    /// Starts a worker for each shard that has none, as a cluster does, and a mover when all others have ended.
    fn start_missing(&mut self) {
        for server in 0..SHARDS as usize {
            let owner = self.world.lock().servers[server].db.owner.clone();
            let works = |worker: &Worker| worker.name == owner || !worker.owned.load(Ordering::Relaxed);
            if !self.workers.iter().any(|worker| worker.server == server && works(worker)) {
                self.start(server);
            }
        }
        if self.movers.is_empty() && !self.settled {
            self.start_mover(true);
        }
    }
}
