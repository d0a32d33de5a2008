//! How far what a shard shows may be behind what Kafka has.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use crate::process::now_ms;

/// Nothing waits.
const NOTHING: i64 = i64::MAX;

/// Since when something has waited to get into the shard: the time of the oldest record that was read and is not in it, or the time
/// at which the worker last knew that there was none.
///
/// What is not read yet is not known: a record is read within some milliseconds where Kafka answers, and where it does not,
/// the worker has known nothing since it noticed.
#[derive(Debug)]
pub struct Behind {
    since: AtomicI64,
}

impl Default for Behind {
    /// Of a process that has no loop: nothing waits there.
    fn default() -> Self {
        Self { since: AtomicI64::new(NOTHING) }
    }
}

impl Behind {
    /// How old the oldest record may be that the shard does not show.
    pub fn age(&self) -> Duration {
        let since = self.since.load(Ordering::Relaxed);
        let age = if since == NOTHING { 0 } else { now_ms().saturating_sub(since) };
        Duration::from_millis(u64::try_from(age).unwrap_or(0))
    }

    /// A record of this time, in milliseconds since 1970, waits, and perhaps older ones.
    pub(crate) fn waits(&self, timestamp: i64) {
        // Who stamps a record with the future, or not at all, has not waited longer than since now.
        let timestamp = if timestamp < 0 { now_ms() } else { timestamp.min(now_ms()) };
        self.since.fetch_min(timestamp, Ordering::Relaxed);
    }

    /// What has waited is in the shard, but for a record of this time.
    pub(crate) fn written(&self, next: Option<i64>) {
        self.since.store(NOTHING, Ordering::Relaxed);
        if let Some(timestamp) = next {
            self.waits(timestamp);
        }
    }

    /// From now on nothing is known.
    pub(crate) fn lost(&self) {
        self.waits(now_ms());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_as_old_as_the_oldest_record_that_waits() {
        let behind = Behind::default();
        behind.written(None);
        assert_eq!(behind.age(), Duration::ZERO);
        behind.waits(now_ms() - 5_000);
        behind.waits(now_ms() - 1_000);
        assert!(behind.age() >= Duration::from_secs(5));
        behind.written(Some(now_ms() - 2_000));
        assert!(behind.age() >= Duration::from_secs(2) && behind.age() < Duration::from_secs(5));
    }

    #[test]
    fn a_time_that_cannot_be_is_taken_as_now() {
        let behind = Behind::default();
        behind.written(Some(i64::MAX));
        behind.waits(-1);
        assert!(behind.age() < Duration::from_secs(60), "{:?}", behind.age());
        assert_ne!(behind.since.load(Ordering::Relaxed), NOTHING);
    }
}
