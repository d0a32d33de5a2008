//! How far a worker is, for Kafka's own tools: the lag that they show is of offsets which somebody has committed.
//!
//! By a client of its own, which reads nothing. A client of the library does not begin to read what it is assigned for as long as one
//! of its own commits is on its way (`rd_kafka_assignment_serve` of librdkafka 2.12), and a broker takes some milliseconds for
//! each, one after another: a slot that has just come would wait for all of them.

use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::KafkaResult;

use crate::intake::Positions;
use crate::reader::list;

/// How often offsets are committed.
const EVERY: Duration = Duration::from_secs(1);

/// Commits offsets.
pub(crate) struct Lag {
    consumer: BaseConsumer,
    topic: String,
    /// What is not committed yet.
    newest: Option<Positions>,
    /// When something was committed last.
    told: Option<Instant>,
}

impl Lag {
    /// Of this topic, with the settings of whoever reads it.
    pub(crate) fn of(mut config: ClientConfig, topic: &str) -> KafkaResult<Self> {
        config.remove("statistics.interval.ms");
        Ok(Self { consumer: config.create()?, topic: topic.to_owned(), newest: None, told: None })
    }

    /// The worker is as far as this.
    pub(crate) fn is(&mut self, positions: Positions) {
        self.newest = Some(positions);
    }

    /// Says so, if it is time to.
    pub(crate) fn tell(&mut self) {
        if self.told.is_some_and(|told| told.elapsed() < EVERY) {
            return;
        }
        let Some(positions) = self.newest.take() else { return };
        self.told = Some(Instant::now());
        // What the library has to say is said here, or kept for ever.
        let _ = self.consumer.poll(Duration::ZERO);
        let list = list(&self.topic, positions.into_iter());
        // It is a courtesy: a broker that refuses it hinders nothing.
        if let Err(error) = list.and_then(|list| self.consumer.commit(&list, CommitMode::Async)) {
            tracing::debug!(%error, "offsets for Kafka's own tools were not written");
        }
    }
}
