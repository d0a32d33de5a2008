//! What passes between the loop and the relay in memory.
//!
//! To the relay: what was just committed, so that it need not be read from the shard. The shard remains the outbox. This holds
//! as much as one window; the relay takes from here only what follows its mark without a gap, and reads everything else from the
//! shard. Of what had no room the sizes are kept, so that the relay reads many small batches at once, and few large ones.
//!
//! To the loop: the relay's mark, so that the batch at hand carries it into the shard. Otherwise the two would wait for each other
//! at the shard's row.

use std::collections::VecDeque;
use std::iter::Sum;
use std::ops::Add;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::edges::{Outcomes, Window};
use crate::record::{BATCH_BYTES, BATCH_RECORDS};

/// Batches that fit into a window whatever they hold.
const SURE: u8 = 2;
/// What fits into a window.
const ROOM: Size = Size { records: SURE as usize * BATCH_RECORDS, bytes: SURE as usize * BATCH_BYTES };
/// Most batches of which something is kept, however small they are.
const BATCHES: usize = 20_000;

/// How much a batch holds, or several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// Records.
    pub records: usize,
    /// Bytes of their keys and values.
    pub bytes: usize,
}

impl Size {
    fn fits(self, room: Self) -> bool {
        self.records <= room.records && self.bytes <= room.bytes
    }
}

impl Add for Size {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { records: self.records + other.records, bytes: self.bytes + other.bytes }
    }
}

impl Sum for Size {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), Self::add)
    }
}

/// What passes between a loop and its relay.
pub struct Fresh {
    room: Size,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Committed batches that the relay has not published yet, in order.
    batches: VecDeque<Committed>,
    /// How far the relay has published, if it knows.
    mark: Option<i64>,
    /// How much of that the shard knows.
    raised: i64,
    /// Changes when everything is forgotten.
    era: u64,
}

struct Committed {
    number: i64,
    size: Size,
    /// Unless there was no room.
    outcomes: Option<Vec<Outcomes>>,
}

/// The relay's mark at the beginning of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The last batch that is published; `None`: the shard must say it.
    pub at: Option<i64>,
    era: u64,
}

impl Default for Fresh {
    fn default() -> Self {
        Self::with_room(ROOM)
    }
}

impl Fresh {
    /// Holds as much as this.
    pub fn with_room(room: Size) -> Self {
        Self { room, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A batch is committed, and these are its outcomes.
    pub fn offer(&self, number: i64, size: Size, outcomes: Vec<Outcomes>) {
        let batches = &mut self.state().batches;
        let held: Size = batches.iter().filter(|batch| batch.outcomes.is_some()).map(|batch| batch.size).sum();
        if batches.len() < BATCHES {
            batches.push_back(Committed { number, size, outcomes: (held + size).fits(self.room).then_some(outcomes) });
        }
    }

    /// Nothing that is known of the shard may still be so: it may have been taken back to an earlier state.
    pub fn forget(&self) {
        let mut state = self.state();
        *state = State { era: state.era + 1, ..State::default() };
    }

    /// A batch of this number is being written. One that is published already can only be that of a shard which was taken back.
    pub fn begun(&self, number: i64) {
        if self.mark().at.is_some_and(|mark| mark >= number) {
            self.forget();
        }
    }

    /// How far the relay is.
    pub fn mark(&self) -> Mark {
        let state = self.state();
        Mark { at: state.mark, era: state.era }
    }

    /// The relay is as far as this, and was at `since` when it began.
    pub fn published(&self, since: Mark, to: i64) {
        let mut state = self.state();
        if state.era == since.era {
            state.mark = Some(to);
            while state.batches.pop_front_if(|batch| batch.number <= to).is_some() {}
        }
    }

    /// What the shard does not know yet of the mark.
    pub fn to_raise(&self) -> Option<i64> {
        let state = self.state();
        state.mark.filter(|mark| *mark > state.raised)
    }

    /// The shard knows the mark as far as this.
    pub fn raised(&self, mark: i64) {
        let mut state = self.state();
        state.raised = state.raised.max(mark);
    }

    /// Whether anything is known of that follows a batch.
    pub fn has_after(&self, batch: i64) -> bool {
        self.state().batches.back().is_some_and(|last| last.number > batch)
    }

    /// What follows a mark without a gap, if that is here and not empty.
    pub fn after(&self, mark: i64) -> Option<Window> {
        let mut window = Window { after: mark, to: mark, ..Window::default() };
        for outcomes in self.take(mark, &mut window.more) {
            for put_into_words in outcomes {
                // The shard will say it, or why it cannot be said.
                window.records.extend(put_into_words().ok()?);
            }
            window.to += 1;
        }
        (window.to > mark).then_some(window)
    }

    /// The outcomes of the batches that follow a mark, and whether there are others.
    fn take(&self, mark: i64, more: &mut bool) -> Vec<Vec<Outcomes>> {
        let batches = &mut self.state().batches;
        let mut taken = Vec::new();
        for (batch, number) in batches.iter_mut().skip_while(|batch| batch.number <= mark).zip(mark + 1..) {
            match batch.outcomes.take_if(|_| batch.number == number) {
                Some(outcomes) => taken.push(outcomes),
                None => break,
            }
        }
        let last = taken.len().try_into().map_or(mark, |taken: i64| mark + taken);
        *more = batches.back().is_some_and(|batch| batch.number > last);
        taken
    }

    /// How many batches after a mark fit into one window that is read from the shard.
    pub fn fitting(&self, mark: i64) -> i64 {
        let batches = &self.state().batches;
        let (mut last, mut all) = (mark, Size::default());
        for batch in batches.iter().skip_while(|batch| batch.number <= mark) {
            all = all + batch.size;
            if batch.number != last + 1 || batch.outcomes.is_some() || !all.fits(self.room) {
                break;
            }
            last = batch.number;
        }
        if last > mark { last - mark } else { i64::from(SURE) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::producer::Outgoing;

    const SMALL: Size = Size { records: 1, bytes: 100 };

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
            fresh.offer(batch, SMALL, vec![record(u32::try_from(batch).unwrap())]);
        }
        let window = fresh.after(3).unwrap();
        assert_eq!((slots(&window), window.to, window.more), (vec![4, 5], 5, true));
        assert!(fresh.after(5).is_none(), "6 is not here");
        // The shard gave 6 and 7; what is here of them is old.
        assert!(fresh.after(7).is_none());
        fresh.offer(8, SMALL, vec![record(8)]);
        assert_eq!(slots(&fresh.after(7).unwrap()), [8]);
    }

    #[test]
    fn it_holds_as_much_as_one_window_and_no_more() {
        for large in [Size { records: BATCH_RECORDS, bytes: 0 }, Size { records: 1, bytes: BATCH_BYTES }] {
            let fresh = Fresh::default();
            for batch in 1..=10 {
                fresh.offer(batch, large, Vec::new());
            }
            assert_eq!(fresh.after(0).unwrap().to, 2);
            assert!(fresh.after(2).is_none());
            assert_eq!(fresh.fitting(2), 2);
        }
    }

    #[test]
    fn small_batches_that_had_no_room_are_read_together() {
        let fresh = Fresh::default();
        fresh.offer(1, Size { records: ROOM.records, bytes: 0 }, Vec::new());
        for batch in 2..=1_001 {
            fresh.offer(batch, SMALL, Vec::new());
        }
        fresh.offer(1_002, Size { records: ROOM.records + 1, bytes: 0 }, Vec::new());
        let after = |mark| fresh.after(mark).map(|window| (window.to, window.more));
        assert_eq!((after(0), after(1)), (Some((1, true)), None));
        assert_eq!(fresh.fitting(1), 1_000, "all but the large one");
        assert_eq!(fresh.fitting(900), 101);
        assert_eq!(fresh.fitting(1_001), 2, "a batch that is larger than a window is read all the same");
        fresh.offer(1_003, SMALL, Vec::new());
        fresh.published(fresh.mark(), 1_001);
        assert_eq!(fresh.fitting(1_001), 2);
        fresh.published(fresh.mark(), 1_002);
        assert_eq!(after(1_002), Some((1_003, false)), "it had room, and nothing lies between");
    }

    #[test]
    fn the_loop_carries_the_mark_into_the_shard_until_everything_is_forgotten() {
        let fresh = Fresh::default();
        assert_eq!((fresh.mark().at, fresh.to_raise()), (None, None));
        fresh.published(fresh.mark(), 7);
        assert_eq!((fresh.mark().at, fresh.to_raise()), (Some(7), Some(7)));
        fresh.raised(7);
        assert_eq!((fresh.mark().at, fresh.to_raise()), (Some(7), None));

        // The shard may have been taken back while a window was under way: that says nothing of the shard as it is now.
        let before = fresh.mark();
        fresh.offer(8, SMALL, Vec::new());
        fresh.forget();
        fresh.published(before, 8);
        assert_eq!((fresh.mark().at, fresh.to_raise()), (None, None));
        assert!(fresh.after(7).is_none());
    }

    #[test]
    fn a_shard_that_begins_before_the_mark_was_taken_back() {
        let fresh = Fresh::default();
        fresh.published(fresh.mark(), 7);
        fresh.begun(8);
        assert_eq!((fresh.mark().at, fresh.to_raise()), (Some(7), Some(7)));
        fresh.begun(7);
        assert_eq!((fresh.mark().at, fresh.to_raise()), (None, None));
    }

    #[test]
    fn of_what_is_not_known_a_few_batches_are_read() {
        assert_eq!(Fresh::default().fitting(77), 2);
        let fresh = Fresh::default();
        fresh.offer(1, Size { records: ROOM.records, bytes: 0 }, Vec::new());
        fresh.offer(9, SMALL, Vec::new());
        assert_eq!(fresh.fitting(1), 2, "2 to 8 may hold anything");
    }
}
