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
/// For each time of work, the most of rest: a third of the time is the mover's, whatever else goes on.
const REST: u32 = 2;
/// How long a piece is that nobody feels.
const SHORT: Duration = Duration::from_millis(10);
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
        Turns { pace: self, haste, began: Instant::now(), pages: 0 }
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
    /// When the present piece was begun.
    began: Instant,
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
        if self.haste == Haste::Bounded {
            self.pace.take(rows).await;
        }
        self.pages += pages + (rows / ROWS_A_PAGE).cast_signed();
        if self.haste == Haste::Hurried || self.pages < self.pace.pages() {
            return;
        }
        let worked = self.began.elapsed().saturating_sub(UNDERWAY);
        let way = self.pace.traffic.give_way(worked.max(SHORT / 5) * REST).await;
        self.pace.took(worked, way);
        (self.began, self.pages) = (Instant::now(), 0);
    }
}
