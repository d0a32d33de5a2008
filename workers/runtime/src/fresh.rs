//! What was just committed, on its shortest way to the relay: still in memory, so that it need not be read from the shard.
//!
//! The shard remains the outbox. This holds as much as one window and drops what it has no room for; the relay takes from here
//! only what follows its mark without a gap, and reads everything else from the shard. Of what was dropped the sizes are kept,
//! so that the relay reads many small batches at once, and few large ones.

use std::collections::VecDeque;
use std::iter::Sum;
use std::ops::Add;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::edges::{Outcomes, Window};
use crate::record::{BATCH_BYTES, BATCH_RECORDS};

/// Batches that fit into a window whatever they hold.
const SURE: u8 = 3;
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

/// Committed batches that the relay has not taken yet.
pub struct Fresh {
    room: Size,
    waiting: Mutex<Waiting>,
}

/// In the order of their numbers.
#[derive(Default)]
struct Waiting {
    kept: VecDeque<(i64, Size, Vec<Outcomes>)>,
    dropped: VecDeque<(i64, Size)>,
}

impl Default for Fresh {
    fn default() -> Self {
        Self::with_room(ROOM)
    }
}

impl Fresh {
    /// Holds as much as this.
    pub fn with_room(room: Size) -> Self {
        Self { room, waiting: Mutex::default() }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A batch is committed, and these are its outcomes.
    pub fn offer(&self, batch: i64, size: Size, outcomes: Vec<Outcomes>) {
        let Waiting { kept, dropped } = &mut *self.waiting();
        // One that comes after a gap would only wait: the relay reads on from the shard until it is there.
        let room = dropped.is_empty() && (kept.iter().map(|(_, size, _)| *size).sum::<Size>() + size).fits(self.room);
        if room && kept.len() < BATCHES {
            kept.push_back((batch, size, outcomes));
        } else if dropped.len() < BATCHES {
            dropped.push_back((batch, size));
        }
    }

    /// What follows a mark without a gap, if that is known and not empty.
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
        let Waiting { kept, dropped } = &mut *self.waiting();
        let (mut next, mut taken) = (mark + 1, Vec::new());
        while let Some((batch, _, outcomes)) = kept.pop_front_if(|(batch, ..)| *batch <= next) {
            if batch == next {
                taken.push((batch, outcomes));
                next += 1;
            }
        }
        *more = !(kept.is_empty() && dropped.is_empty());
        taken
    }

    /// How many batches after a mark fit into one window that is read from the shard.
    pub fn fitting(&self, mark: i64) -> i64 {
        let Waiting { dropped, .. } = &mut *self.waiting();
        while dropped.pop_front_if(|(batch, _)| *batch <= mark).is_some() {}
        let (mut last, mut all) = (mark, Size::default());
        for (batch, size) in dropped {
            all = all + *size;
            if *batch != last + 1 || !all.fits(self.room) {
                break;
            }
            last = *batch;
        }
        (last - mark).max(i64::from(SURE))
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
            assert_eq!(fresh.after(0).unwrap().to, 3);
            assert!(fresh.after(3).is_none());
            assert_eq!(fresh.fitting(3), 3);
        }
    }

    #[test]
    fn small_batches_that_had_no_room_are_read_together() {
        let fresh = Fresh::default();
        fresh.offer(1, Size { records: 3 * BATCH_RECORDS, bytes: 0 }, Vec::new());
        for batch in 2..=1_001 {
            fresh.offer(batch, SMALL, Vec::new());
        }
        fresh.offer(1_002, Size { records: 3 * BATCH_RECORDS, bytes: 0 }, Vec::new());
        assert_eq!(fresh.after(0).map(|window| (window.to, window.more)), Some((1, true)));
        assert!(fresh.after(1).is_none());
        assert_eq!(fresh.fitting(1), 1_000, "all but the large one");
        assert_eq!(fresh.fitting(900), 101);
        assert_eq!(fresh.fitting(1_001), 3, "a batch that is larger than a window is read all the same");
        assert_eq!(fresh.fitting(1_002), 3);
        fresh.offer(1_003, SMALL, Vec::new());
        assert_eq!(
            fresh.after(1_002).map(|window| (window.to, window.more)),
            Some((1_003, false)),
            "nothing lies between"
        );
    }

    #[test]
    fn of_what_is_not_known_a_few_batches_are_read() {
        assert_eq!(Fresh::default().fitting(77), 3);
        let fresh = Fresh::default();
        fresh.offer(1, Size { records: 3 * BATCH_RECORDS, bytes: 0 }, Vec::new());
        fresh.offer(9, SMALL, Vec::new());
        assert_eq!(fresh.fitting(1), 3, "2 to 8 may hold anything");
    }
}
