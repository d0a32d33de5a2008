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
/// So many bytes are as much work as a row, where rows are large.
const ROW: usize = 4 * 1024;
/// A page that is looked through is as much work as so many rows, beside those that are found in it.
const PAGE: u64 = 5;
/// Pages that are looked through at once, however little was found in those before them.
const MOST_PAGES: u64 = 1_000;
/// How many rows are found in a page, before any was looked through.
const MANY: u64 = 100;
/// How long a piece is that nobody feels.
const SHORT: Duration = Duration::from_millis(20);
/// How long the end of a copy takes that has waited in the network (see [`super::copy::Load::unload`]), however much of that was work.
const UNDERWAY: RangeInclusive<Duration> = Duration::from_millis(38)..=Duration::from_millis(50);
/// And what it is taken for.
const UNSEEN: Duration = Duration::from_millis(10);

/// Bounds rows per second, over everybody who takes turns, and has them give way.
#[derive(Debug)]
pub struct Pace {
    rows_per_second: Option<u32>,
    free_at: Mutex<Option<Instant>>,
    /// Rows that are a piece, where each piece takes turns of its own.
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
        self.turns_of(haste, *ROWS.start(), false)
    }

    /// The turns of somebody who goes on with work that all who call this do together.
    pub fn turns_again(&self, haste: Haste) -> Turns<'_> {
        self.turns_of(haste, self.rows.load(Ordering::Relaxed), true)
    }

    fn turns_of(&self, haste: Haste, rows: u64, again: bool) -> Turns<'_> {
        Turns {
            pace: self,
            haste,
            rows,
            again,
            began: Instant::now(),
            worked: Duration::ZERO,
            underway: Duration::ZERO,
            done: 0,
            density: Density::default(),
        }
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
    pub fn pages(self, rows: u64) -> i64 {
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
    /// Rows that are a piece. What one kind of work takes says nothing about another.
    rows: u64,
    /// Whether others go on with it.
    again: bool,
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
        if self.is_hurried() { HURRIED } else { self.rows }
    }

    fn is_hurried(&self) -> bool {
        matches!(self.haste, Haste::Hurried | Haste::Last)
    }

    /// How many pages are one.
    pub fn pages(&self) -> i64 {
        self.density.pages(self.rows())
    }

    /// Begins with another kind of work, or with another table, in which so many rows are thought to be found.
    pub fn begin(&mut self, density: Density) {
        (self.rows, self.density) = (*ROWS.start(), density);
    }

    /// A piece took so long, and this is how the way was afterwards.
    fn took(&mut self, worked: Duration, way: Way) {
        let rows = match way {
            Way::Empty => self.rows * 2,
            Way::Clear if worked <= SHORT => self.rows * 2,
            Way::Clear if worked <= SHORT * 2 => self.rows,
            Way::Clear | Way::Busy | Way::HeldUp => self.rows / 2,
        };
        self.rows = rows.clamp(*ROWS.start(), *ROWS.end());
        if self.again {
            self.pace.rows.store(self.rows, Ordering::Relaxed);
        }
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

    /// Pages were looked through, and so many rows found in them and worked on.
    pub async fn looked(&mut self, pages: i64, rows: u64) {
        self.density = Density::of(pages, rows);
        self.next(pages.unsigned_abs() * PAGE + rows, 0, Duration::ZERO).await;
    }

    /// The same, where what is found is [sent](Self::sent) by itself: it is no work a second time.
    pub async fn looked_only(&mut self, pages: i64, rows: u64) {
        self.density = Density::of(pages, rows);
        self.next(pages.unsigned_abs() * PAGE, 0, Duration::ZERO).await;
    }

    /// Rows of so many bytes together were copied, whose end took so long.
    pub async fn sent(&mut self, rows: u64, bytes: usize, end: Duration) {
        self.next(work(rows, bytes), rows, waited(end)).await;
    }

    /// Rows of so many bytes together were merged.
    pub async fn merged(&mut self, rows: u64, bytes: usize) {
        self.next(work(rows, bytes), rows, Duration::ZERO).await;
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
            let worked = std::mem::take(&mut self.worked).saturating_sub(underway).max(SHORT / 10);
            let way = match self.haste {
                Haste::Bounded => self.pace.traffic.give_way(worked).await,
                _ => self.pace.traffic.give_some_way(worked).await,
            };
            self.took(worked, way);
            self.done = 0;
        }
        self.began = Instant::now();
    }
}

/// How much work rows are that have so many bytes together, in rows.
pub fn work(rows: u64, bytes: usize) -> u64 {
    rows.max((bytes / ROW) as u64)
}

/// For how much of the time that the end of a copy took it has only waited in the network.
fn waited(end: Duration) -> Duration {
    if UNDERWAY.contains(&end) { end - UNSEEN } else { Duration::ZERO }
}

#[cfg(test)]
mod tests {
    use super::super::traffic::Sample;
    use super::*;

    #[test]
    fn pieces_grow_while_nobody_feels_them() {
        let pace = Pace::of(None);
        let mut turns = pace.turns_again(Haste::Bounded);
        let mut took = |worked, way| {
            turns.took(worked, way);
            turns.rows()
        };
        assert_eq!(took(SHORT, Way::Busy), 1_000, "there are no smaller ones");
        assert_eq!([SHORT, SHORT * 2, SHORT * 3].map(|worked| took(worked, Way::Clear)), [2_000, 2_000, 1_000]);
        assert_eq!([(); 6].map(|()| took(SHORT * 100, Way::Empty)), [2_000, 4_000, 8_000, 16_000, 32_000, 50_000]);
        assert_eq!(took(Duration::ZERO, Way::Busy), 25_000);
        assert_eq!(
            [pace.turns_again(Haste::Bounded), pace.turns(Haste::Bounded)].map(|turns| turns.rows()),
            [25_000, 1_000]
        );
        turns.begin(Density::default());
        assert_eq!(turns.rows(), 1_000, "other work may take longer");
    }

    #[test]
    fn pages_with_little_in_them_are_looked_through_together() {
        let pace = Pace::of(None);
        let mut turns = pace.turns(Haste::Polite);
        assert_eq!(turns.pages(), 9, "each may be full");
        turns.begin(Density::of(9, 0));
        assert_eq!(turns.pages(), 200);
        turns.begin(Density::of(200, 3_000));
        let pages = (turns.pages(), Density(15).pages(turns.rows()), Density(0).pages(50_000));
        assert_eq!(pages, (50, 50, 1_000));
        turns.begin(Density::of(1, 1_000_000));
        assert_eq!(turns.pages(), 1);
        turns.begin(Density::default());
        assert_eq!(turns.pages(), 9);
    }

    #[tokio::test]
    async fn what_is_found_and_sent_is_work_only_once() {
        let (pace, nothing) = (Pace::of(None), Sample { slots: [1].into(), ends: 0, stand: 0, batch: 0, relayed: 0 });
        pace.traffic.note(0, nothing.clone());
        pace.traffic.learn().await;
        pace.traffic.note(0, nothing);
        let mut turns = pace.turns(Haste::Bounded);
        turns.sent(1_000, 0, Duration::ZERO).await;
        assert_eq!(turns.rows(), 2_000, "that was a piece, and nobody was there");
        turns.looked_only(20, 2_000).await;
        assert_eq!(turns.rows(), 2_000, "their pages were hardly any work");
        turns.looked(20, 2_000).await;
        assert_eq!(turns.rows(), 4_000);
        turns.sent(10, 15 * 1024 * 1024, Duration::ZERO).await;
        assert_eq!(turns.rows(), 4_000, "few rows, not quite a piece");
        turns.merged(10, 2 * 1024 * 1024).await;
        assert_eq!(turns.rows(), 8_000, "that were large");
    }

    #[test]
    fn a_copy_whose_end_took_longer_than_the_network_holds_it_up_has_worked() {
        let waited = |end| super::waited(Duration::from_millis(end)).as_millis();
        assert_eq!([5, 37, 40, 45, 60, 200].map(waited), [0, 0, 30, 35, 0, 0]);
    }

    #[tokio::test]
    async fn waiting_for_ones_turn_is_no_work() {
        let (pace, began) = (Pace::of(Some(1_000)), Instant::now());
        let mut turns = pace.turns(Haste::Bounded);
        for _ in 0..3 {
            turns.sent(100, 0, Duration::ZERO).await;
        }
        assert!(turns.worked * 2 < began.elapsed(), "{:?} of {:?}", turns.worked, began.elapsed());
    }
}
