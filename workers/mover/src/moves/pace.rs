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
    pub fn turns(&self) -> Turns<'_> {
        Turns { pace: Some(self), bounded: true, began: Instant::now() }
    }

    /// Of somebody who brings what was written meanwhile, of which there is more with each second: only gives way.
    pub fn unbounded(&self) -> Turns<'_> {
        Turns { bounded: false, ..self.turns() }
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

/// The pieces of somebody's work.
#[derive(Debug)]
pub struct Turns<'a> {
    pace: Option<&'a Pace>,
    bounded: bool,
    /// When the present piece was begun.
    began: Instant,
}

impl Turns<'_> {
    /// One piece after another, with nothing between them.
    pub fn hurried() -> Self {
        Self { pace: None, bounded: false, began: Instant::now() }
    }

    /// Whether so many rows are a piece: a tenth of a second's.
    pub fn is_enough(&self, rows: u64) -> bool {
        let most = self.pace.filter(|_| self.bounded).and_then(|pace| pace.rows_per_second);
        most.is_some_and(|most| rows >= u64::from(most / 10).max(1))
    }

    /// A piece of so many rows is done, or about to be sent: waits until the next one may begin.
    pub async fn next(&mut self, rows: u64) {
        let Some(pace) = self.pace else { return };
        let worked = self.began.elapsed();
        if self.bounded {
            pace.take(rows).await;
        }
        pace.traffic.give_way(worked).await;
        self.began = Instant::now();
    }
}
