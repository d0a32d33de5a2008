//! How fast rows are copied: no faster than they may be, and not while others need the machines.

use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use super::traffic::{Traffic, Way};

/// Pages of a table that are a piece of work: few where others are to be given way, so that they do not wait for its end either.
const PAGES: RangeInclusive<i64> = 20..=1_000;
/// How many rows that were written meanwhile are as much work as a page that is looked through.
const ROWS_A_PAGE: u64 = 50;
/// How long a piece is that nobody feels.
const SHORT: Duration = Duration::from_millis(5);
/// The end of a copy may wait for so long in the network, without anybody's work (see [`super::copy::bring_delta`]).
const UNDERWAY: Duration = Duration::from_millis(40);

/// Bounds rows per second, over everybody who takes turns, and has them give way.
#[derive(Debug)]
pub struct Pace {
    rows_per_second: Option<u32>,
    free_at: Mutex<Option<Instant>>,
    pages: AtomicI64,
    /// Whom they give way to.
    pub traffic: Traffic,
}

impl Pace {
    /// At most so many; `None`: as fast as it goes.
    pub fn of(rows_per_second: Option<u32>) -> Self {
        Self {
            rows_per_second,
            free_at: Mutex::default(),
            pages: AtomicI64::new(*PAGES.start()),
            traffic: Traffic::default(),
        }
    }

    /// The turns of somebody who begins to work.
    pub fn turns(&self, haste: Haste) -> Turns<'_> {
        Turns { pace: self, haste, began: Instant::now(), worked: Duration::ZERO, pages: 0 }
    }

    /// How many pages are a piece just now.
    pub fn pages(&self) -> i64 {
        self.pages.load(Ordering::Relaxed)
    }

    /// A piece took so long, and this is how the way was afterwards.
    fn took(&self, worked: Duration, way: Way) {
        let pages = match way {
            Way::Empty => self.pages() * 2,
            Way::Clear if worked <= SHORT => self.pages() * 2,
            Way::Clear if worked <= SHORT * 2 => self.pages(),
            Way::Clear | Way::Busy => self.pages() / 2,
        };
        self.pages.store(pages.clamp(*PAGES.start(), *PAGES.end()), Ordering::Relaxed);
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

/// What slows somebody's work down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Haste {
    /// Only so many rows go in a second, and it gives way.
    Bounded,
    /// It gives way, but is not bounded: of what was written meanwhile there is more with each second.
    Polite,
    /// Nothing: one piece after another.
    Hurried,
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
    /// How much of it is done.
    pages: i64,
}

impl Turns<'_> {
    /// How many pages are a piece.
    pub fn pages(&self) -> i64 {
        if self.haste == Haste::Hurried { *PAGES.end() } else { self.pace.pages() }
    }

    /// How many rows are one, of those that were written meanwhile.
    pub fn rows(&self) -> u64 {
        self.pages().unsigned_abs() * ROWS_A_PAGE
    }

    /// Whether so many rows are a piece: a tenth of a second's.
    pub fn is_enough(&self, rows: u64) -> bool {
        let most = self.pace.rows_per_second.filter(|_| self.haste == Haste::Bounded);
        most.is_some_and(|most| rows >= u64::from(most / 10).max(1))
    }

    /// So many pages were looked through and so many rows are done, or about to be sent: if that is a piece, waits until the next one
    /// may begin.
    pub async fn next(&mut self, pages: i64, rows: u64) {
        self.worked += self.began.elapsed();
        if self.haste == Haste::Bounded {
            self.pace.take(rows).await;
        }
        self.pages += pages + (rows / ROWS_A_PAGE).cast_signed();
        if self.haste != Haste::Hurried && self.pages >= self.pace.pages() {
            let underway = if rows > 0 { UNDERWAY } else { Duration::ZERO };
            let worked = std::mem::take(&mut self.worked).saturating_sub(underway);
            let way = self.pace.traffic.give_way(worked.max(SHORT / 5)).await;
            self.pace.took(worked, way);
            self.pages = 0;
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
            pace.pages()
        });
        assert_eq!(took(&pace, SHORT, Way::Busy), 20, "there are no smaller ones");
        assert_eq!([SHORT, SHORT * 2, SHORT * 3].map(|worked| took(&pace, worked, Way::Clear)), [40, 40, 20]);
        assert_eq!([(); 7].map(|()| took(&pace, SHORT * 100, Way::Empty)), [40, 80, 160, 320, 640, 1_000, 1_000]);
        assert_eq!(took(&pace, Duration::ZERO, Way::Busy), 500);
    }

    #[tokio::test]
    async fn waiting_for_ones_turn_is_no_work() {
        let (pace, began) = (Pace::of(Some(1_000)), Instant::now());
        let mut turns = pace.turns(Haste::Bounded);
        for _ in 0..3 {
            turns.next(0, 100).await;
        }
        assert!(turns.worked * 2 < began.elapsed(), "{:?} of {:?}", turns.worked, began.elapsed());
    }
}
