//! What a worker counts, in Prometheus' form.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use prometheus::{
    Encoder, Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

use crate::behind::Behind;

/// A worker's metrics, all named `shardlane_...`.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    records: IntCounter,
    dead_letters: IntCounterVec,
    relayed: IntCounter,
    unpublishable: IntCounter,
    relay_delay: Histogram,
    take_overs: IntGauge,
    halted: IntGauge,
    batch_records: Histogram,
    commit_seconds: Histogram,
    failures: IntCounterVec,
    lag: IntGaugeVec,
    ready: IntGauge,
    behind: Arc<Behind>,
    staleness: Gauge,
    ends: Mutex<BTreeMap<u32, Progress>>,
    /// Batches that are committed and not yet published, and since when.
    committed: Mutex<VecDeque<(i64, Instant)>>,
}

/// Most batches whose relay delay is measured: a relay that is further behind shows that anyhow.
const MEASURED: usize = 1_000;

const SECONDS: &[f64] = &[0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1., 5.];

/// How far a slot's log and its worker are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Offset after the last record of the log, as last seen.
    pub log_end: i64,
    /// Offset of the next record to apply.
    pub next_offset: i64,
}

impl Progress {
    /// Records not yet applied.
    pub fn lag(self) -> i64 {
        (self.log_end - self.next_offset).max(0)
    }
}

impl Metrics {
    /// Metrics with a registry of their own.
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        Ok(Self {
            behind: Arc::default(),
            staleness: staleness(&registry)?,
            records: counter(&registry, "records_total", "Records applied, dead letters included.")?,
            dead_letters: counters(&registry, "dead_letters_total", "Records that could not be taken.", "reason")?,
            relayed: counter(&registry, "relayed_total", "Records published by the relay.")?,
            unpublishable: counter(
                &registry,
                "unpublishable_total",
                "Records that are too large for their topic, of which a digest was published.",
            )?,
            relay_delay: histogram(
                &registry,
                "relay_delay_seconds",
                "Seconds from a batch's commit until all of it is published.",
                SECONDS,
            )?,
            take_overs: gauge(
                &registry,
                "take_overs",
                "How often a worker took over the shard; each time, the one before is fenced.",
            )?,
            halted: gauge(&registry, "halted_slots", "Slots whose log is not the one that the shard knows.")?,
            batch_records: histogram(
                &registry,
                "batch_records",
                "Records in a batch.",
                &[1., 10., 100., 1e3, 4e3, 8e3, 1e5, 1e6],
            )?,
            commit_seconds: histogram(
                &registry,
                "commit_seconds",
                "Seconds from a batch's first statement to its commit.",
                SECONDS,
            )?,
            failures: counters(
                &registry,
                "failures_total",
                "Transient failures, after each of which the loop starts anew.",
                "part",
            )?,
            lag: gauges(&registry, "lag_records", "Records of a slot that are not yet applied.", "slot")?,
            ready: gauge(&registry, "ready", "1 while the process does its work.")?,
            ends: Mutex::default(),
            committed: Mutex::default(),
            registry,
        })
    }

    /// The registry, for what a service counts itself.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// All metrics as Prometheus reads them.
    pub fn render(&self) -> String {
        self.staleness.set(self.behind.age().as_secs_f64());
        let mut text = Vec::new();
        match TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            Ok(()) => String::from_utf8_lossy(&text).into_owned(),
            Err(error) => format!("# metrics cannot be shown: {error}\n"),
        }
    }

    /// How far each slot is.
    pub fn progress(&self) -> BTreeMap<u32, Progress> {
        self.ends.lock().map(|ends| ends.clone()).unwrap_or_default()
    }

    /// How far the shard may be behind Kafka.
    pub fn behind(&self) -> &Arc<Behind> {
        &self.behind
    }

    pub(crate) fn batch(&self, number: i64, records: usize, took: Duration) {
        if let Ok(mut committed) = self.committed.lock()
            && committed.len() < MEASURED
        {
            committed.push_back((number, Instant::now()));
        }
        self.records.inc_by(records as u64);
        #[allow(clippy::cast_precision_loss)]
        self.batch_records.observe(records as f64);
        self.commit_seconds.observe(took.as_secs_f64());
    }

    pub(crate) fn dead_letter(&self, kind: &str) {
        self.dead_letters.with_label_values(&[kind]).inc();
    }

    pub(crate) fn relayed(&self, records: usize, to: i64) {
        self.relayed.inc_by(records as u64);
        let Ok(mut committed) = self.committed.lock() else { return };
        while let Some((_, since)) = committed.pop_front_if(|(number, _)| *number <= to) {
            self.relay_delay.observe(since.elapsed().as_secs_f64());
        }
    }

    pub(crate) fn unpublishable(&self, records: usize) {
        self.unpublishable.inc_by(records as u64);
    }

    pub(crate) fn taken_over(&self, times: i64) {
        self.take_overs.set(times);
    }

    pub(crate) fn halted(&self, slots: usize) {
        self.halted.set(i64::try_from(slots).unwrap_or(i64::MAX));
    }

    pub(crate) fn failure(&self, part: &str) {
        self.failures.with_label_values(&[part]).inc();
    }

    pub(crate) fn set_ready(&self, ready: bool) {
        self.ready.set(i64::from(ready));
    }

    /// The end of a slot's log, if the slot is this worker's: the library tells for a while of those that it no longer reads.
    pub(crate) fn log_end(&self, slot: u32, log_end: i64) {
        let Ok(mut ends) = self.ends.lock() else { return };
        if let Some(progress) = ends.get_mut(&slot) {
            progress.log_end = log_end;
            self.lags(slot, *progress);
        }
    }

    pub(crate) fn applied_to(&self, slot: u32, next_offset: i64) {
        let Ok(mut ends) = self.ends.lock() else { return };
        let progress = ends.entry(slot).or_default();
        progress.next_offset = next_offset;
        self.lags(slot, *progress);
    }

    /// Forgets slots that are no longer this worker's.
    pub(crate) fn keep_slots(&self, ours: impl Fn(u32) -> bool) {
        if let Ok(mut ends) = self.ends.lock() {
            ends.retain(|slot, _| ours(*slot));
        }
        self.lag.reset();
    }

    fn lags(&self, slot: u32, progress: Progress) {
        self.lag.with_label_values(&[slot.to_string()]).set(progress.lag());
    }
}

fn options(name: &str, help: &str) -> Opts {
    Opts::new(format!("shardlane_{name}"), help)
}

fn staleness(registry: &Registry) -> prometheus::Result<Gauge> {
    let help = "Seconds since when records have waited to get into the shard; 0 if none does.";
    let metric = Gauge::with_opts(options("staleness_seconds", help))?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

/// A counter `shardlane_<name>` that a registry tells.
pub fn counter(registry: &Registry, name: &str, help: &str) -> prometheus::Result<IntCounter> {
    let metric = IntCounter::with_opts(options(name, help))?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

/// Counters `shardlane_<name>` that a registry tells, one for each value of a label.
pub fn counters(registry: &Registry, name: &str, help: &str, label: &str) -> prometheus::Result<IntCounterVec> {
    let metric = IntCounterVec::new(options(name, help), &[label])?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn gauge(registry: &Registry, name: &str, help: &str) -> prometheus::Result<IntGauge> {
    let metric = IntGauge::with_opts(options(name, help))?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn gauges(registry: &Registry, name: &str, help: &str, label: &str) -> prometheus::Result<IntGaugeVec> {
    let metric = IntGaugeVec::new(options(name, help), &[label])?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

/// A histogram `shardlane_<name>` that a registry tells.
pub fn histogram(registry: &Registry, name: &str, help: &str, buckets: &[f64]) -> prometheus::Result<Histogram> {
    let metric = Histogram::with_opts(HistogramOpts::from(options(name, help)).buckets(buckets.to_vec()))?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}
