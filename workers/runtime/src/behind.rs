//! How far what a shard shows may be behind what Kafka has.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus::core::{Collector, Desc};
use prometheus::{Gauge, Opts, proto};

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
    gauge: Gauge,
}

impl Behind {
    /// Of a process that has no loop: nothing waits there.
    pub(crate) fn new() -> prometheus::Result<Self> {
        let help = "Seconds since when records have waited to get into the shard; 0 if none does.";
        let gauge = Gauge::with_opts(Opts::new("shardlane_staleness_seconds", help))?;
        Ok(Self { since: AtomicI64::new(NOTHING), gauge })
    }

    /// How old the oldest record may be that the shard does not show.
    pub fn age(&self) -> Duration {
        let since = self.since.load(Ordering::Relaxed);
        let age = if since == NOTHING { 0 } else { now().saturating_sub(since) };
        Duration::from_millis(u64::try_from(age).unwrap_or(0))
    }

    /// A record of this time, in milliseconds since 1970, waits, and perhaps older ones.
    pub(crate) fn waits(&self, timestamp: i64) {
        // Who stamps a record with the future, or not at all, has not waited longer than since now.
        let timestamp = if timestamp < 0 { now() } else { timestamp.min(now()) };
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
        self.waits(now());
    }
}

/// Milliseconds since 1970.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// The gauge says how it is when it is asked for.
#[derive(Clone, Debug)]
pub(crate) struct Gauged(pub std::sync::Arc<Behind>);

impl Collector for Gauged {
    fn desc(&self) -> Vec<&Desc> {
        self.0.gauge.desc()
    }

    fn collect(&self) -> Vec<proto::MetricFamily> {
        self.0.gauge.set(self.0.age().as_secs_f64());
        self.0.gauge.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_as_old_as_the_oldest_record_that_waits() {
        let behind = Behind::new().unwrap();
        behind.written(None);
        assert_eq!(behind.age(), Duration::ZERO);
        behind.waits(now() - 5_000);
        behind.waits(now() - 1_000);
        assert!(behind.age() >= Duration::from_secs(5));
        behind.written(Some(now() - 2_000));
        assert!(behind.age() >= Duration::from_secs(2) && behind.age() < Duration::from_secs(5));
    }

    #[test]
    fn a_time_that_cannot_be_is_taken_as_now() {
        let behind = Behind::new().unwrap();
        behind.written(Some(i64::MAX));
        behind.waits(-1);
        assert!(behind.age() < Duration::from_secs(60), "{:?}", behind.age());
        assert_ne!(behind.since.load(Ordering::Relaxed), NOTHING);
    }
}
