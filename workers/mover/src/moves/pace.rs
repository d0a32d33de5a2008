//! How fast rows are copied: no faster than they may be, and not while others need the machines.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use super::traffic::Traffic;

/// Bounds rows per second, over everybody who takes turns, and has them give way.
#[derive(Debug)]
pub struct Pace {
    rows_per_second: Option<u32>,
    free_at: Mutex<Option<Instant>>,
    /// Whom they give way to.
    pub traffic: Traffic,
}

impl Pace {
    /// At most so many; `None`: as fast as it goes.
    pub fn of(rows_per_second: Option<u32>) -> Self {
        Self { rows_per_second, free_at: Mutex::default(), traffic: Traffic::default() }
    }

    /// The turns of somebody who begins to work.
    pub fn turns(&self, haste: Haste) -> Turns<'_> {
        Turns { pace: self, haste, began: Instant::now() }
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
}

impl Turns<'_> {
    /// Whether so many rows are a piece: a tenth of a second's.
    pub fn is_enough(&self, rows: u64) -> bool {
        let most = self.pace.rows_per_second.filter(|_| self.haste == Haste::Bounded);
        most.is_some_and(|most| rows >= u64::from(most / 10).max(1))
    }

    /// A piece of so many rows is done, or about to be sent: waits until the next one may begin.
    pub async fn next(&mut self, rows: u64) {
        let worked = self.began.elapsed();
        if self.haste == Haste::Bounded {
            self.pace.take(rows).await;
        }
        if self.haste != Haste::Hurried {
            self.pace.traffic.give_way(worked).await;
        }
        self.began = Instant::now();
    }
}
