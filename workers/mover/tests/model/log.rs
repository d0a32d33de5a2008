//! The loop's edge to the log in the simulated world.

use std::collections::{BTreeMap, VecDeque};

use rand::RngExt;
use shardlane_runtime::edges::{Log, Read};
use shardlane_runtime::intake::Positions;
use shardlane_runtime::prepare::prepare;
use shardlane_runtime::record::{Batch, Record, Took};
use shardlane_runtime::service::Accepted;
use shardlane_runtime::standing::{Standing, Standings};

use crate::edges::step;
use crate::service::{Model, Request};
use crate::world::{Shared, keyspace};

type Plan = Vec<Accepted<Request>>;

pub struct SimLog {
    world: Shared,
    next: Option<BTreeMap<u32, i64>>,
    assigned: bool,
    /// What was read ahead, or is to come again.
    waiting: VecDeque<Read<Plan>>,
}

impl SimLog {
    pub fn new(world: &Shared) -> Self {
        Self { world: world.clone(), next: None, assigned: false, waiting: VecDeque::new() }
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
        self.waiting.clear();
        self.world.lock().assigned += 1;
    }

    fn change(&mut self, standings: Standings) {
        // What was on its way already.
        if self.world.lock().chance(0.5)
            && let Some(batch) = self.read()
        {
            self.waiting.push_back(Read::Batch(prepare(&Model::default(), keyspace(), batch)));
        }
        let read = self.next.take().unwrap_or_default();
        let next = |(slot, standing): (u32, Standing)| (slot, read.get(&slot).copied().unwrap_or(standing.next_offset));
        self.next = Some(standings.into_iter().map(next).collect());
        self.assigned = false;
    }

    fn take_back(&mut self, unwritten: Vec<Read<Plan>>) {
        for read in unwritten.into_iter().rev() {
            self.waiting.push_front(read);
        }
    }

    async fn next(&mut self, _: bool) -> Option<Read<Plan>> {
        loop {
            step().await;
            if self.world.lock().breaks(0.01) {
                return Some(Read::Trouble("no broker".to_owned()));
            }
            if let Some(read) = self.waiting.pop_front() {
                return Some(read);
            }
            if !std::mem::replace(&mut self.assigned, true) {
                return Some(Read::Assigned { halted: Default::default(), strays: Vec::new(), notices: Vec::new() });
            }
            if let Some(batch) = self.read() {
                return Some(Read::Batch(prepare(&Model::default(), keyspace(), batch)));
            }
        }
    }

    fn took(&mut self, _: usize, _: Took) {}

    fn show_progress(&mut self, _: &Positions) {}
}
