//! What gateways and cache managers count.

use prometheus::core::Collector;
use prometheus::{IntCounter, IntCounterVec, Opts, Registry};

/// What became of looking something up in the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LookUp {
    /// It was there.
    Hit,
    /// It was not.
    Miss,
    /// What was there is no entry of this version of the program, or not one that was written whole.
    Spoiled,
    /// Redis did not answer, or not well.
    Error,
    /// Redis was left alone, for it did not answer before.
    Skipped,
}

/// What became of putting something into the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutIn {
    /// It is there.
    Put,
    /// A newer one is there.
    Older,
    /// Redis had no room for it; what was there before is gone.
    NoRoom,
    /// Redis did not answer, or not well.
    Error,
    /// Redis was left alone, for it did not answer before.
    Skipped,
}

const LOOK_UPS: [(LookUp, &str); 5] = [
    (LookUp::Hit, "hit"),
    (LookUp::Miss, "miss"),
    (LookUp::Spoiled, "spoiled"),
    (LookUp::Error, "error"),
    (LookUp::Skipped, "skipped"),
];
const PUTS: [(PutIn, &str); 5] = [
    (PutIn::Put, "put"),
    (PutIn::Older, "older"),
    (PutIn::NoRoom, "no_room"),
    (PutIn::Error, "error"),
    (PutIn::Skipped, "skipped"),
];

/// Counters, all named `shardlane_blog_...`.
#[derive(Clone, Debug)]
pub struct BlogMetrics {
    look_ups: IntCounterVec,
    puts: IntCounterVec,
    shard_reads: IntCounter,
    joined: IntCounter,
    refused: IntCounter,
}

impl BlogMetrics {
    /// New ones, which nobody can read yet.
    pub fn new() -> prometheus::Result<Self> {
        let metrics = Self {
            look_ups: by_result("cache_reads_total", "Looks into the cache, by what came of them.")?,
            puts: by_result("cache_writes_total", "Entries brought to the cache, by what came of them.")?,
            shard_reads: counter("shard_reads_total", "Posts read from a shard.")?,
            joined: counter("flights_joined_total", "Readers who were told what another was just finding out.")?,
            refused: counter(
                "flights_refused_total",
                "Readers who were told to come again: too many read from shards.",
            )?,
        };
        // So that each is there from the beginning, as zero.
        for (_, name) in LOOK_UPS {
            metrics.look_ups.with_label_values(&[name]);
        }
        for (_, name) in PUTS {
            metrics.puts.with_label_values(&[name]);
        }
        Ok(metrics)
    }

    /// Has those of the cache told by a registry.
    pub fn register_cache(&self, registry: &Registry) -> prometheus::Result<()> {
        let of_cache: [Box<dyn Collector>; 2] = [Box::new(self.look_ups.clone()), Box::new(self.puts.clone())];
        of_cache.into_iter().try_for_each(|metric| registry.register(metric))
    }

    /// Has all of them told by a registry.
    pub fn register(&self, registry: &Registry) -> prometheus::Result<()> {
        self.register_cache(registry)?;
        let of_flights = [&self.shard_reads, &self.joined, &self.refused];
        of_flights.into_iter().try_for_each(|metric| registry.register(Box::new(metric.clone())))
    }

    pub(crate) fn looked_up(&self, came: LookUp) {
        count(&self.look_ups, &LOOK_UPS, came);
    }

    pub(crate) fn put(&self, came: PutIn) {
        count(&self.puts, &PUTS, came);
    }

    pub(crate) fn shard_read(&self) {
        self.shard_reads.inc();
    }

    pub(crate) fn joined(&self) {
        self.joined.inc();
    }

    pub(crate) fn refused(&self) {
        self.refused.inc();
    }
}

fn count<T: PartialEq>(counters: &IntCounterVec, names: &[(T, &str)], came: T) {
    if let Some((_, name)) = names.iter().find(|(one, _)| *one == came) {
        counters.with_label_values(&[*name]).inc();
    }
}

fn counter(name: &str, help: &str) -> prometheus::Result<IntCounter> {
    IntCounter::new(format!("shardlane_blog_{name}"), help)
}

fn by_result(name: &str, help: &str) -> prometheus::Result<IntCounterVec> {
    IntCounterVec::new(Opts::new(format!("shardlane_blog_{name}"), help), &["result"])
}
