//! How fast rows are copied: no faster than they may be, and not while others need the machines.

use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use super::traffic::{Traffic, Way};

/// Rows that are a piece of work: few where others work, so that they do not wait for its end either.
const ROWS: RangeInclusive<u64> = 1_000..=50_000;
/// And where nothing slows it down.
const HURRIED: u64 = 10_000;
/// A page that is looked through is as much work as so many rows, beside those that are found in it.
const PAGE: u64 = 5;
/// Pages that are looked through at once, however little was found in those before them.
const MOST_PAGES: u64 = 1_000;
/// How many rows are found in a page, before any was looked through.
const MANY: u64 = 100;
/// How long a piece is that nobody feels.
const SHORT: Duration = Duration::from_millis(10);
/// So much of a piece in which rows were sent may be no work: its end waits in the network (see [`super::copy::Load::unload`]).
const UNDERWAY: Duration = Duration::from_millis(40);

/// Bounds rows per second, over everybody who takes turns, and has them give way.
#[derive(Debug)]
pub struct Pace {
    rows_per_second: Option<u32>,
    free_at: Mutex<Option<Instant>>,
    rows: AtomicU64,
    /// Whom they give way to.
    pub traffic: Traffic,
}

impl Pace {
    /// At most so many; `None`: as fast as it goes.
    pub fn of(rows_per_second: Option<u32>) -> Self {
        Self {
            rows_per_second,
            free_at: Mutex::default(),
            rows: AtomicU64::new(*ROWS.start()),
            traffic: Traffic::default(),
        }
    }

    /// The turns of somebody who begins to work.
    pub fn turns(&self, haste: Haste) -> Turns<'_> {
        Turns {
            pace: self,
            haste,
            began: Instant::now(),
            worked: Duration::ZERO,
            underway: Duration::ZERO,
            done: 0,
            density: Density::default(),
        }
    }

    /// How many pages are a piece just now.
    pub fn pages(&self, density: Density) -> i64 {
        density.pages(self.rows.load(Ordering::Relaxed))
    }

    /// A piece took so long, and this is how the way was afterwards.
    fn took(&self, worked: Duration, way: Way) {
        let rows = self.rows.load(Ordering::Relaxed);
        let rows = match way {
            Way::Empty => rows * 2,
            Way::Clear if worked <= SHORT => rows * 2,
            Way::Clear if worked <= SHORT * 2 => rows,
            Way::Clear | Way::Busy | Way::HeldUp => rows / 2,
        };
        self.rows.store(rows.clamp(*ROWS.start(), *ROWS.end()), Ordering::Relaxed);
    }

    async fn take(&self, rows: u64) {
        let Some(most) = self.rows_per_second.filter(|most| *most > 0) else { return };
        let until = {
            let mut free_at = self.free_at.lock().await;
            let from = free_at.unwrap_or_else(Instant::now).max(Instant::now());
            *free_at = Some(from + Duration::from_secs_f64(rows as f64 / f64::from(most)));
            from
        };
        tokio::time::sleep_until(until).await;
    }
}

/// How many rows to work on were found in each of the pages that were looked through last.
#[derive(Clone, Copy, Debug)]
pub struct Density(u64);

impl Default for Density {
    fn default() -> Self {
        Self(MANY)
    }
}

impl Density {
    /// So many rows were found in so many pages.
    pub fn of(pages: i64, rows: u64) -> Self {
        Self(rows / pages.unsigned_abs().max(1))
    }

    /// How many pages are as much work as these rows. The next ones may be full where the last ones were not.
    fn pages(self, rows: u64) -> i64 {
        (rows / (PAGE + self.0)).clamp(1, MOST_PAGES).cast_signed()
    }
}

/// What slows somebody's work down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Haste {
    /// Only so many rows go in a second, and it gives way.
    Bounded,
    /// It rests, but only for half of its work, and gives way only to who was held up: of what was written meanwhile there is more
    /// with each second.
    Polite,
    /// Nothing: one piece after another.
    Hurried,
    /// The same, while slots stand still.
    Last,
}

/// The pieces of somebody's work.
#[derive(Debug)]
pub struct Turns<'a> {
    pace: &'a Pace,
    haste: Haste,
    /// When it was gone on with last.
    began: Instant,
    /// How long the present piece has taken, without waits.
    worked: Duration,
    /// So much of that may be no work.
    underway: Duration,
    /// How much of it is done, in rows.
    done: u64,
    density: Density,
}

impl Turns<'_> {
    /// How many rows are a piece.
    pub fn rows(&self) -> u64 {
        if self.is_hurried() { HURRIED } else { self.pace.rows.load(Ordering::Relaxed) }
    }

    fn is_hurried(&self) -> bool {
        matches!(self.haste, Haste::Hurried | Haste::Last)
    }

    /// How many pages are one.
    pub fn pages(&self) -> i64 {
        self.density.pages(self.rows())
    }

    /// Looks through another table from here on, or something that is like this.
    pub fn begin(&mut self, density: Density) {
        self.density = density;
    }

    /// Whether so many rows are a piece: a tenth of a second's.
    pub fn is_enough(&self, rows: u64) -> bool {
        let most = self.pace.rows_per_second.filter(|_| self.haste == Haste::Bounded);
        most.is_some_and(|most| rows >= u64::from(most / 10).max(1))
    }

    /// What is a piece is done.
    pub async fn next_piece(&mut self) {
        self.next(self.rows(), 0, Duration::ZERO).await;
    }

    /// Pages were looked through, and so many rows found in them.
    pub async fn looked(&mut self, pages: i64, rows: u64) {
        self.density = Density::of(pages, rows);
        self.next(pages.unsigned_abs() * PAGE + rows, 0, Duration::ZERO).await;
    }

    /// Rows were copied.
    pub async fn sent(&mut self, rows: u64) {
        self.next(rows, rows, UNDERWAY).await;
    }

    /// Rows were merged.
    pub async fn merged(&mut self, rows: u64) {
        self.next(rows, rows, Duration::ZERO).await;
    }

    /// So much was done, in rows, and so many were sent, for some of which time it was perhaps only waited: if that is a piece, waits
    /// until the next one may begin.
    async fn next(&mut self, done: u64, sent: u64, underway: Duration) {
        self.worked += self.began.elapsed();
        if self.haste == Haste::Bounded {
            self.pace.take(sent).await;
        }
        self.done += done;
        self.underway += underway;
        if !self.is_hurried() && self.done >= self.rows() {
            let underway = std::mem::take(&mut self.underway);
            let worked = std::mem::take(&mut self.worked).saturating_sub(underway).max(SHORT / 5);
            let way = match self.haste {
                Haste::Bounded => self.pace.traffic.give_way(worked).await,
                _ => self.pace.traffic.give_some_way(worked).await,
            };
            self.pace.took(worked, way);
            self.done = 0;
        }
        self.began = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_grow_while_nobody_feels_them() {
        let (pace, took) = (Pace::of(None), |pace: &Pace, worked, way| {
            pace.took(worked, way);
            pace.rows.load(Ordering::Relaxed)
        });
        assert_eq!(took(&pace, SHORT, Way::Busy), 1_000, "there are no smaller ones");
        assert_eq!([SHORT, SHORT * 2, SHORT * 3].map(|worked| took(&pace, worked, Way::Clear)), [2_000, 2_000, 1_000]);
        assert_eq!(
            [(); 6].map(|()| took(&pace, SHORT * 100, Way::Empty)),
            [2_000, 4_000, 8_000, 16_000, 32_000, 50_000]
        );
        assert_eq!(took(&pace, Duration::ZERO, Way::Busy), 25_000);
    }

    #[test]
    fn pages_with_little_in_them_are_looked_through_together() {
        let pace = Pace::of(None);
        let mut turns = pace.turns(Haste::Polite);
        assert_eq!(turns.pages(), 9, "each may be full");
        turns.begin(Density::of(9, 0));
        assert_eq!(turns.pages(), 200);
        turns.begin(Density::of(200, 3_000));
        assert_eq!((turns.pages(), pace.pages(Density(15)), Density(0).pages(50_000)), (50, 50, 1_000));
        turns.begin(Density::of(1, 1_000_000));
        assert_eq!(turns.pages(), 1);
        turns.begin(Density::default());
        assert_eq!(turns.pages(), 9);
    }

    #[tokio::test]
    async fn waiting_for_ones_turn_is_no_work() {
        let (pace, began) = (Pace::of(Some(1_000)), Instant::now());
        let mut turns = pace.turns(Haste::Bounded);
        for _ in 0..3 {
            turns.sent(100).await;
        }
        assert!(turns.worked * 2 < began.elapsed(), "{:?} of {:?}", turns.worked, began.elapsed());
    }
}
