//! Audits in a world where messages take their time, come twice, and where something may go wrong.

use std::collections::VecDeque;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use shardlane_runtime::service::Accepted;
use shardlane_wallet::audit::{SlotBooks, Verdict, audits, call, imbalances, newest, report};
use shardlane_wallet::ledger::Decision;
use shardlane_wallet::wire::{Direction, Instruction, Leg, PaymentRecord, mark};

use crate::world::{Shard, id_of, rules, understand};

const SLOTS: u32 = 4;
const STEPS: u32 = 300;
/// Runs without a fault, and runs within which each fault must be found.
const RUNS: u64 = 400;

/// What can go wrong, once in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// A message that was sent never arrives.
    Loss,
    /// A message is credited twice.
    Double,
    /// A message is lost, and another one of the same amount is credited twice.
    Swap,
    /// A message that comes late is counted as if it had come in time.
    LateInTime,
    /// A message that comes late is counted for the last audit alone, and not for those that it skipped.
    LateOnce,
    /// A message of a later audit is credited before the slot takes part in that.
    Early,
}

/// A slot, its log, and what it has sent and its relay has not published yet.
#[derive(Default)]
struct Slot {
    shard: Shard,
    log: Vec<Accepted<Instruction>>,
    next: usize,
    outbox: VecDeque<(Vec<u8>, Vec<u8>)>,
    published: Vec<(Vec<u8>, Vec<u8>)>,
}

struct World {
    random: StdRng,
    slots: Vec<Slot>,
    fault: Option<Fault>,
    /// The fault has happened.
    planted: bool,
    closed: i64,
    deposited: i128,
}

/// Accounts lie where their number says.
fn slot_of(key: &[u8]) -> usize {
    usize::from(key[key.len() - 1] - b'0') % SLOTS as usize
}

impl World {
    fn new(seed: u64, fault: Option<Fault>) -> Self {
        let slots = (0..SLOTS).map(|_| Slot::default()).collect();
        Self { random: StdRng::seed_from_u64(seed), slots, fault, planted: false, closed: 0, deposited: 0 }
    }

    fn append(&mut self, key: &[u8], value: &[u8]) {
        let at = slot_of(key);
        let slot = &mut self.slots[at];
        let offset = i64::try_from(slot.log.len()).unwrap();
        slot.log.push(understand(u32::try_from(at).unwrap(), offset, key, value));
    }

    fn ask(&mut self, record: &PaymentRecord<'_>) {
        self.append(record.account.as_bytes(), &serde_json::to_vec(record).unwrap());
    }

    /// A user asks for something.
    fn request(&mut self, number: u32) {
        let account = format!("account-{}", self.random.random_range(0..8));
        let id = format!("request-{number}");
        let amount = Some(format!("0.{:02}", self.random.random_range(1..4)).into());
        if self.random.random_bool(0.3) {
            self.ask(&PaymentRecord { amount, ..PaymentRecord::new(Direction::Deposit, &account, &id) });
        } else if self.random.random_bool(0.05) {
            self.ask(&PaymentRecord::new(Direction::Close, &account, &id));
        } else {
            let to = Some(format!("account-{}", self.random.random_range(0..8)).into());
            self.ask(&PaymentRecord { amount, to, ..PaymentRecord::new(Direction::Outgoing, &account, &id) });
        }
    }

    /// A relay publishes what comes next, or publishes again what it had.
    fn relay(&mut self, at: usize) {
        let again = self.random.random_bool(0.1);
        let slot = &mut self.slots[at];
        if again && !slot.published.is_empty() {
            let place = self.random.random_range(0..slot.published.len());
            let (key, value) = slot.published[place].clone();
            self.append(&key, &value);
        } else if let Some((key, value)) = slot.outbox.pop_front() {
            if self.fault == Some(Fault::Loss) && !self.planted && self.random.random_bool(0.1) {
                self.planted = true;
                return;
            }
            slot.published.push((key.clone(), value.clone()));
            self.append(&key, &value);
        }
    }

    /// A worker applies some of what lies in its slot's log.
    fn work(&mut self, at: usize) {
        let many = self.random.random_range(1..5);
        let slot = &mut self.slots[at];
        let end = slot.log.len().min(slot.next + many);
        let mut batch = slot.log[slot.next..end].to_vec();
        slot.next = end;
        let fault = self.fault.filter(|_| !self.planted);
        self.planted |= fault.is_some_and(|fault| alter(fault, &mut slot.shard, &mut batch));
        let planted = &mut self.planted;
        let spoiled = |decision: &mut Decision| *planted |= fault.is_some_and(|fault| spoil(fault, decision));
        let sent = slot.shard.apply(u32::try_from(at).unwrap(), &rules(), batch, spoiled);
        slot.outbox.extend(sent);
        let totals = self.slots.iter().flat_map(|slot| slot.shard.books.totals.values());
        self.deposited = totals.map(|totals| totals.deposited).sum();
    }

    fn books(&self) -> Vec<SlotBooks> {
        self.slots.iter().zip(0..).map(|(slot, number)| slot.shard.tell(number)).collect()
    }

    /// The auditor looks, and begins another audit now and then.
    fn audit(&mut self) -> Result<(), String> {
        let books = self.books();
        let found = report(&books);
        if let Some(problem) = found.problems.first().or(imbalances(&books).first()) {
            return Err(problem.text.clone());
        }
        if let Some(closed) = &found.closed {
            self.closed = closed.epoch;
            for money in closed.money.values() {
                assert_eq!(money.balances + money.in_transit, money.deposited);
                assert!(money.deposited <= self.deposited && money.in_transit >= 0);
            }
        }
        let due = self.random.random_bool(0.3);
        if let Some((epoch, slots)) = call(&books, due) {
            for slot in slots {
                // Some do not hear of it, and are told again at another look.
                if self.random.random_bool(0.7) {
                    self.ask(&mark(&format!("@audit-{slot}"), epoch, "audit"));
                }
            }
        }
        Ok(())
    }

    /// Everything that is under way arrives.
    fn settle(&mut self) {
        while self.slots.iter().any(|slot| slot.next < slot.log.len() || !slot.outbox.is_empty()) {
            for at in 0..self.slots.len() {
                self.work(at);
                self.relay(at);
            }
        }
    }
}

/// Plants a fault in what a slot reads.
fn alter(fault: Fault, shard: &mut Shard, batch: &mut [Accepted<Instruction>]) -> bool {
    batch.iter_mut().any(|accepted| {
        let Instruction::Pay(payment) = &mut accepted.request else { return false };
        if payment.leg != Leg::Incoming {
            return false;
        }
        let id = id_of(payment);
        let now = shard.books.epoch;
        match fault {
            Fault::Double => shard.moved.remove(&id) == Some(true) && shard.decided.remove(&id).is_some(),
            Fault::Swap if !shard.decided.contains_key(&id) => {
                payment.request_id += "-of-another";
                true
            }
            // As if it had been sent in the audit in which the slot is.
            Fault::Early if payment.epoch > now && !shard.decided.contains_key(&id) => {
                payment.epoch = now;
                true
            }
            _ => false,
        }
    })
}

/// Plants a fault in what was decided.
fn spoil(fault: Fault, decision: &mut Decision) -> bool {
    match fault {
        Fault::LateInTime => decision.late.pop().is_some(),
        Fault::LateOnce => decision.late.iter_mut().any(|late| {
            let skipped = late.received_in - late.sent_in > 1;
            late.sent_in = late.received_in - 1;
            skipped
        }),
        _ => false,
    }
}

/// One run. An error is what the audits found.
fn run(seed: u64, fault: Option<Fault>) -> Result<World, String> {
    let mut world = World::new(seed, fault);
    for step in 0..STEPS {
        let at = world.random.random_range(0..world.slots.len());
        match world.random.random_range(0..10) {
            0..4 => world.request(step),
            4..7 => world.work(at),
            7..9 => world.relay(at),
            _ => world.audit()?,
        }
        // Another auditor, which is in a hurry.
        if world.random.random_bool(0.02) {
            let epoch = newest(&world.books()) + 1;
            for slot in 0..SLOTS {
                world.ask(&mark(&format!("@audit-{slot}"), epoch, "audit"));
            }
        }
    }
    world.settle();
    let last = newest(&world.books());
    for _ in 0..100 {
        world.audit()?;
        world.settle();
        if world.closed > last {
            // Whatever was late is there by now, so every audit that the slots remember has closed.
            let open = audits(&world.books()).into_iter().find(|audit| audit.verdict != Verdict::Closed);
            return open.map_or(Ok(world), |open| Err(format!("audit {} never closes", open.epoch)));
        }
    }
    Err("audits close no more".to_owned())
}

#[test]
fn audits_close_and_hold_where_nothing_is_wrong() {
    let mut closed = 0;
    for seed in 0..RUNS {
        let world = run(seed, None).unwrap_or_else(|found| panic!("seed {seed}: {found}"));
        closed += world.closed;
        for (slot, number) in world.slots.iter().zip(0..) {
            assert_eq!(slot.shard.tell(number).off, [], "seed {seed}");
        }
    }
    assert!(closed > 3 * i64::try_from(RUNS).unwrap(), "audits hardly ever close while money moves: {closed}");
}

/// How many of the runs with a fault end with a finding, and the seeds of those that do not.
fn found(fault: Fault) -> (usize, Vec<u64>) {
    let (mut found, mut missed) = (0, Vec::new());
    for seed in 0..RUNS {
        match run(seed, Some(fault)) {
            Err(_) => found += 1,
            Ok(world) if world.planted => missed.push(seed),
            Ok(_) => {}
        }
    }
    println!("{fault:?} was found in {found} runs");
    assert!(found >= 20, "{fault:?} was found in {found} of {RUNS} runs");
    (found, missed)
}

fn is_always_found(fault: Fault) {
    let (_, missed) = found(fault);
    assert!(missed.is_empty(), "{fault:?} was missed by the seeds {missed:?}");
}

/// Where a slot has not taken part in the audit that the fault would spoil, there is nothing to find.
fn is_mostly_found(fault: Fault) {
    let (found, missed) = found(fault);
    assert!(missed.len() < found, "{fault:?} was missed by the seeds {missed:?}");
}

#[test]
fn a_loss_is_found() {
    is_always_found(Fault::Loss);
}

#[test]
fn a_double_is_found() {
    is_always_found(Fault::Double);
}

#[test]
fn one_message_for_another_is_found() {
    is_always_found(Fault::Swap);
}

#[test]
fn a_late_credit_that_is_not_counted_as_late_is_found() {
    is_mostly_found(Fault::LateInTime);
}

#[test]
fn a_late_credit_that_is_not_counted_for_all_that_it_skipped_is_found() {
    is_mostly_found(Fault::LateOnce);
}

#[test]
fn a_credit_before_the_cut_that_was_sent_after_it_is_found() {
    is_mostly_found(Fault::Early);
}
