//! What was just committed, on its shortest way to the relay: still in memory, so that it need not be read from the shard.
//!
//! The shard remains the outbox. This holds a few batches and drops what it has no room for; the relay takes from here only
//! what follows its mark without a gap, and reads everything else from the shard.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use crate::edges::{Outcomes, Window};

/// Most batches that wait here.
const BATCHES: usize = 3;

/// Committed batches that the relay has not taken yet.
#[derive(Default)]
pub struct Fresh {
    batches: Mutex<VecDeque<(i64, Vec<Outcomes>)>>,
}

impl Fresh {
    /// A batch is committed, and these are its outcomes.
    pub fn offer(&self, batch: i64, outcomes: Vec<Outcomes>) {
        let mut batches = self.batches.lock().unwrap_or_else(PoisonError::into_inner);
        if batches.len() < BATCHES {
            batches.push_back((batch, outcomes));
        }
    }

    /// What follows a mark without a gap.
    pub fn after(&self, mark: i64) -> Option<Window> {
        let mut window = Window { after: mark, to: mark, ..Window::default() };
        for (batch, outcomes) in self.take(mark, &mut window.more) {
            for put_into_words in outcomes {
                // The shard will say it, or why it cannot be said.
                window.records.extend(put_into_words().ok()?);
            }
            window.to = batch;
        }
        (window.to > mark).then_some(window)
    }

    /// The batches that follow a mark, and whether there are others.
    fn take(&self, mark: i64, more: &mut bool) -> Vec<(i64, Vec<Outcomes>)> {
        let mut batches = self.batches.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut next, mut taken) = (mark + 1, Vec::new());
        while let Some((batch, outcomes)) = batches.pop_front_if(|(batch, _)| *batch <= next) {
            if batch == next {
                taken.push((batch, outcomes));
                next += 1;
            }
        }
        *more = !batches.is_empty();
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::producer::Outgoing;

    fn record(slot: u32) -> Outcomes {
        Box::new(move || Ok(vec![Outgoing { topic: "t".into(), slot, key: None, value: None, headers: Vec::new() }]))
    }

    fn slots(window: &Window) -> Vec<u32> {
        window.records.iter().map(|record| record.slot).collect()
    }

    #[test]
    fn what_follows_the_mark_is_taken_and_a_gap_is_left_to_the_shard() {
        let fresh = Fresh::default();
        for batch in [4, 5, 7] {
            fresh.offer(batch, vec![record(u32::try_from(batch).unwrap())]);
        }
        let window = fresh.after(3).unwrap();
        assert_eq!((slots(&window), window.to, window.more), (vec![4, 5], 5, true));
        assert!(fresh.after(5).is_none(), "6 is not here");
        // The shard gave 6 and 7; what is here of them is old.
        assert!(fresh.after(7).is_none());
        fresh.offer(8, vec![record(8)]);
        assert_eq!(slots(&fresh.after(7).unwrap()), [8]);
    }

    #[test]
    fn it_holds_a_few_batches_and_no_more() {
        let fresh = Fresh::default();
        for batch in 1..=10 {
            fresh.offer(batch, Vec::new());
        }
        assert_eq!(fresh.after(0).unwrap().to, 3);
        assert!(fresh.after(3).is_none());
    }
}
