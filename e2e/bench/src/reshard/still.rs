//! For how long slots stand still, seen from their shards.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use sqlx::PgConnection;
use tokio::task::JoinHandle;

/// How often both shards are looked at.
const OFTEN: Duration = Duration::from_millis(10);

/// Where slots stand, and since when.
#[derive(Debug, Default)]
struct Stands {
    slots: BTreeMap<i32, (i64, Instant)>,
    /// The longest time that one stood.
    longest: Duration,
}

impl Stands {
    fn see(&mut self, seen: &[(i32, i64)], at: Instant) {
        for (slot, offset) in seen {
            let (stood, since) = self.slots.entry(*slot).or_insert((*offset, at));
            if offset > stood {
                self.longest = self.longest.max(at - *since);
                (*stood, *since) = (*offset, at);
            }
        }
    }

    /// The longest since the last time that this was asked; a slot that stands still counts as well.
    fn take(&mut self, at: Instant) -> Duration {
        let still = self.slots.values().map(|(_, since)| at.saturating_duration_since(*since));
        still.chain([std::mem::take(&mut self.longest)]).max().unwrap_or_default()
    }
}

/// Looks at both shards for as long as it lives.
pub struct Watch {
    stands: Arc<Mutex<Stands>>,
    task: JoinHandle<Result<()>>,
}

impl Watch {
    /// Begins to look. Records must come into every slot all the time.
    pub fn begin(shards: [PgConnection; 2]) -> Self {
        let stands = Arc::<Mutex<Stands>>::default();
        let noted = Arc::clone(&stands);
        let task = tokio::spawn(async move {
            let [mut first, mut second] = shards;
            loop {
                let (one, other) = tokio::try_join!(look(&mut first), look(&mut second))?;
                locked(&noted).see(&[one, other].concat(), Instant::now());
                tokio::time::sleep(OFTEN).await;
            }
        });
        Self { stands, task }
    }

    /// The longest time that a slot stood still since this was asked before.
    pub fn take(&self) -> Result<Duration> {
        Some(()).filter(|()| !self.task.is_finished()).context("the shards could not be looked at")?;
        Ok(locked(&self.stands).take(Instant::now()))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn locked(stands: &Mutex<Stands>) -> MutexGuard<'_, Stands> {
    stands.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn look(shard: &mut PgConnection) -> sqlx::Result<Vec<(i32, i64)>> {
    let owned = "SELECT slot, next_offset FROM slot WHERE state IN ('active', 'leaving', 'fenced')";
    sqlx::query_as(owned).fetch_all(shard).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_stands_still_until_its_offset_rises() {
        let (mut stands, began) = (Stands::default(), Instant::now());
        let after = |ms| began + Duration::from_millis(ms);
        stands.see(&[(1, 5), (2, 5)], began);
        stands.see(&[(1, 6), (2, 5)], after(10));
        // On its way, 1 is nowhere.
        stands.see(&[(2, 6)], after(20));
        stands.see(&[(1, 6), (2, 7)], after(50));
        stands.see(&[(1, 7), (2, 8)], after(60));
        assert_eq!(stands.take(after(60)), Duration::from_millis(50));
        assert_eq!(stands.take(after(90)), Duration::from_millis(30), "both have stood since");
    }
}
