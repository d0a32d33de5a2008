//! Requests that are put into the topic at a steady rate, whatever becomes of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use shardlane_e2e::plain::PlainService;
use shardlane_runtime::intake::Keyspace;
use shardlane_runtime::kafka;
use shardlane_runtime::producer::{Outgoing, Producer};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{MissedTickBehavior, interval};

use crate::fill::{Asked, Series};
use crate::kind::Kind;

/// How often the producer is given what is due.
const TICK: Duration = Duration::from_millis(10);
/// The most that one producer offers beside everything else that runs here.
pub const MOST: f64 = 250_000.;

/// A producer at work.
pub struct Offer {
    shared: Arc<Shared>,
    task: JoinHandle<Result<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    sent: AtomicU64,
}

impl Offer {
    /// Begins to offer so many requests a second to a service of this kind.
    pub fn begin(service: &PlainService, kind: Kind, mut series: Box<dyn Series>, rate: f64) -> Result<Self> {
        let producer = Producer::new(&kafka::lasting_producer(&service.config.kafka, "bench"))?;
        let (topic, keyspace) = (Arc::<str>::from(service.topic(kind.requests())?), Keyspace::of(&service.config));
        let shared = Arc::new(Shared::default());
        let work = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            let (began, mut flights, mut ticks) = (Instant::now(), JoinSet::new(), interval(TICK));
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            while !work.stop.load(Ordering::Relaxed) {
                ticks.tick().await;
                let due = due(rate, began.elapsed()).saturating_sub(work.sent.load(Ordering::Relaxed));
                let mut together = Vec::new();
                for _ in 0..due {
                    let Asked { key, value } = series.ask()?;
                    let slot = keyspace.slot_of(&key);
                    let (key, value) = (Some(key), Some(value));
                    together.push(Outgoing { topic: Arc::clone(&topic), slot, key, value, headers: Vec::new() });
                }
                work.sent.fetch_add(due, Ordering::Relaxed);
                let producer = producer.clone();
                flights.spawn(async move { producer.publish_all(&together).await });
                while let Some(landed) = flights.try_join_next() {
                    landed??;
                }
            }
            while let Some(landed) = flights.join_next().await {
                landed??;
            }
            Ok(())
        });
        Ok(Self { shared, task })
    }

    /// Requests so far.
    pub fn requests(&self) -> u64 {
        self.shared.sent.load(Ordering::Relaxed)
    }

    /// Ends it once Kafka has everything.
    pub async fn end(self) -> Result<u64> {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.task.await.context("the producer ended")??;
        Ok(self.shared.sent.load(Ordering::Relaxed))
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn due(rate: f64, after: Duration) -> u64 {
    (rate * after.as_secs_f64()) as u64
}
