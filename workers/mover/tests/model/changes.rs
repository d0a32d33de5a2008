//! Slots that come and go while others stay.

use rand::RngExt;
use shardlane_mover::moves::edges::State;

use crate::processes::Worker;
use crate::world::{SLOTS, Shared, Slot, World};

/// For how many steps requests come, and slots.
const CHANGES: u64 = 1_000;
/// Steps within which everything must be written.
const STEPS: u32 = 20_000;

/// A worker of half of the slots, one of which goes now and then, and others come.
struct Change {
    world: Shared,
    worker: Worker,
    /// Slots that have gone, each with where it stood.
    gone: Vec<(u32, i64)>,
    to_come: Vec<u32>,
}

impl Change {
    fn of(seed: u64) -> Self {
        // What was gathered is read again: even seeds gather nothing.
        let world = World::shared(2 * seed, None, false);
        let to_come: Vec<_> = (0..SLOTS).filter(|slot| slot % 2 == 1).collect();
        {
            let mut world = world.lock();
            world.unruly = false;
            let all = world.servers.iter_mut().flat_map(|server| std::mem::take(&mut server.db.slots)).collect();
            world.servers[0].db.slots = all;
            for slot in &to_come {
                world.servers[0].db.slots.get_mut(slot).unwrap().state = State::Incoming;
            }
        }
        let worker = Worker::start(&world, 0, "worker".to_owned());
        Self { world, worker, gone: Vec::new(), to_come }
    }

    fn step(&mut self) {
        let shared = self.world.clone();
        let mut world = shared.lock();
        world.steps += 1;
        if world.steps < CHANGES && world.chance(0.1) {
            let (key, id) = (world.rng.random_range(0..30), world.rng.random_range(0..9));
            world.produce(&format!("k{key}"), format!("k{key} r{id} {}", key * 31 + id));
        }
        if world.steps < CHANGES && world.chance(0.02) && world.servers[0].locked_by.is_none() {
            self.change(&mut world);
        }
        let task = world.rng.random_range(0..self.worker.tasks());
        drop(world);
        self.worker.poll(task);
    }

    /// A slot goes, or one comes that was never here.
    fn change(&mut self, world: &mut World) {
        let goes = world.chance(0.5);
        let active = |row: &Slot| row.state == State::Active;
        let slots = &mut world.servers[0].db.slots;
        let mut here = slots.iter_mut().filter(|(_, row)| active(row));
        if let (true, Some((slot, row)), Some(_)) = (goes, here.next(), here.next()) {
            row.state = State::Moved;
            self.gone.push((*slot, row.next));
        } else if let Some(slot) = self.to_come.pop() {
            slots.get_mut(&slot).unwrap().state = State::Active;
        } else {
            return;
        }
        world.servers[0].db.slots_version += 1;
    }

    /// Whether everything of the slots that are here is written.
    fn is_done(&self) -> bool {
        let world = self.world.lock();
        let here = world.servers[0].db.slots.iter().filter(|(_, row)| row.state == State::Active);
        let mut ends = here.map(|(slot, row)| (world.log[slot].last().map_or(0, |last| last.offset + 1), row.next));
        world.steps >= CHANGES && ends.all(|(end, next)| next == end)
    }
}

#[test]
fn slots_that_stay_are_read_on_when_others_come_or_go() {
    let mut changes = 0;
    for seed in 0..300 {
        let mut change = Change::of(seed);
        for _ in 0..STEPS {
            change.step();
            if change.is_done() {
                break;
            }
        }
        assert!(change.is_done(), "seed {seed}: not everything is written");
        let world = change.world.lock();
        assert_eq!(world.assigned, 1, "seed {seed}: all slots were read anew");
        changes += change.gone.len();
        for (slot, stood) in &change.gone {
            assert_eq!(world.servers[0].db.slots[slot].next, *stood, "seed {seed}: slot {slot} had gone");
        }
    }
    assert!(changes >= 300, "slots have gone {changes} times");
}
