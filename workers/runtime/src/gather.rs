//! Gathering, without I/O: batches of a service that adds up are brought together and written in one transaction, so that a
//! key that comes a thousand times a second costs one row a second.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::fresh::Size;
use crate::intake::{Advance, DeadLetter, Positions};
use crate::prepare::{Prepared, Work};

/// How a service gathers what it has folded.
#[derive(Clone, Copy, Debug)]
pub struct Gathering<P> {
    /// How long what was read may wait until it is written.
    pub interval: Duration,
    /// It is written earlier once it is as large as this.
    pub most: usize,
    /// How large it is, as the service counts.
    pub size: fn(&P) -> usize,
    /// Adds what follows in the log.
    pub add: fn(&mut P, Arc<P>),
}

/// Batches that wait to be written together.
#[derive(Debug)]
pub struct Gathered<P> {
    plan: P,
    dead: Vec<DeadLetter>,
    advances: BTreeMap<u32, Advance>,
    size: Size,
    due: Instant,
}

impl<P> Gathered<P> {
    /// Nothing yet, beginning with an empty plan; to be written at `due`.
    pub fn new(empty: P, due: Instant) -> Self {
        Self { plan: empty, dead: Vec::new(), advances: BTreeMap::new(), size: Size::default(), due }
    }

    /// When it is to be written.
    pub fn due(&self) -> Instant {
        self.due
    }

    /// Where a slot stands after what is gathered; `None` if nothing is of this slot.
    pub fn position(&self, slot: u32) -> Option<i64> {
        self.advances.get(&slot).map(|advance| advance.to)
    }

    /// Takes in a batch, which follows what is here.
    pub fn take_in(&mut self, prepared: Prepared<P>, how: &Gathering<P>) {
        let Prepared { batch, work: Work { plan, mut dead, advances } } = prepared;
        self.size = self.size + batch.size(0..batch.len());
        (how.add)(&mut self.plan, plan);
        self.dead.append(&mut dead);
        for advance in advances {
            let from = self.advances.get(&advance.slot).map_or(advance.from, |known| known.from);
            self.advances.insert(advance.slot, Advance { from, ..advance });
        }
    }

    /// Whether it is to be written now, due or not. Dead letters are not gathered: they are kept whole, so they would take memory
    /// without an end.
    pub fn is_full(&self, how: &Gathering<P>) -> bool {
        !self.dead.is_empty() || (how.size)(&self.plan) >= how.most
    }

    /// Where its slots stand afterwards.
    pub fn ends(&self) -> Positions {
        self.advances.iter().map(|(slot, advance)| (*slot, advance.to)).collect()
    }

    /// What is to be written, and how much was read for it.
    pub fn into_work(self) -> (Work<P>, Size) {
        let Self { plan, dead, advances, size, .. } = self;
        (Work { plan: Arc::new(plan), dead, advances: advances.into_values().collect() }, size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::intake::{Memory, Positions};
    use crate::record::{Batch, Record};
    use crate::service::Rejection;

    const HOW: Gathering<Vec<i64>> =
        Gathering { interval: Duration::ZERO, most: 3, size: Vec::len, add: |all, more| all.extend_from_slice(&more) };

    fn batch(slot: u32, from: i64, plan: &[i64], dead: bool) -> Prepared<Vec<i64>> {
        let mut batch = Batch::default();
        let records: Vec<_> = (from..from + 2)
            .map(|offset| Record { slot, offset, timestamp: offset, key: Some(b"k"), value: Some(b"v") })
            .collect();
        records.iter().for_each(|record| batch.push(from, record));
        let letter = DeadLetter::of(&records[0], Rejection::new("bad", "bad"));
        let advances = vec![Advance::over(&Positions::from([(slot, from)]), &records[1])];
        let work = Work { plan: Arc::new(plan.to_vec()), dead: dead.then_some(letter).into_iter().collect(), advances };
        Prepared { batch, work }
    }

    #[test]
    fn batches_that_follow_each_other_move_a_slot_once_over_all_of_them() {
        let mut gathered = Gathered::new(Vec::new(), Instant::now());
        gathered.take_in(batch(1, 5, &[1], false), &HOW);
        gathered.take_in(batch(2, 0, &[], false), &HOW);
        gathered.take_in(batch(1, 7, &[2], false), &HOW);
        assert!(!gathered.is_full(&HOW));
        assert_eq!((gathered.position(1), gathered.position(3)), (Some(9), None));
        assert_eq!(gathered.ends(), Positions::from([(1, 9), (2, 2)]));
        let (work, size) = gathered.into_work();
        assert_eq!((&**work.plan, size.records), (&[1, 2][..], 6));
        let steps: Vec<_> = work.advances.iter().map(|step| (step.slot, step.from, step.to)).collect();
        assert_eq!(steps, [(1, 5, 9), (2, 0, 2)]);
        let last = Record { slot: 1, offset: 8, timestamp: 8, key: Some(b"k"), value: Some(b"v") };
        assert_eq!(work.advances[0].memory, Memory::of(&last));
    }

    #[test]
    fn what_is_large_or_has_a_dead_letter_waits_no_longer() {
        let mut gathered = Gathered::new(Vec::new(), Instant::now());
        gathered.take_in(batch(1, 5, &[1, 2], false), &HOW);
        assert!(!gathered.is_full(&HOW));
        gathered.take_in(batch(1, 7, &[3], false), &HOW);
        assert!(gathered.is_full(&HOW));
        let mut gathered = Gathered::new(Vec::new(), Instant::now());
        gathered.take_in(batch(1, 5, &[1], true), &HOW);
        assert!(gathered.is_full(&HOW));
        assert_eq!(gathered.into_work().0.dead.len(), 1);
    }
}
