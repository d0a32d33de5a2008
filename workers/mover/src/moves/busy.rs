//! Looking how busy a shard's worker and relay are: at its log and at the shard.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::BaseConsumer;
use rdkafka::error::{KafkaError, KafkaResult};
use shardlane_runtime::config::KafkaConfig;
use shardlane_runtime::database::within;
use shardlane_runtime::kafka;
use sqlx::PgConnection;

use super::statements::Trouble;
use super::traffic::Sample;

/// The ends of the log that slots are.
pub struct LogEnds {
    consumer: Arc<BaseConsumer>,
    topic: String,
}

impl LogEnds {
    /// Of this topic.
    pub fn of(kafka: &KafkaConfig, name: &str, topic: &str) -> KafkaResult<Self> {
        let consumer = Arc::new(kafka::client(kafka, name).create()?);
        Ok(Self { consumer, topic: topic.to_owned() })
    }

    /// Where the logs of some slots end, all together.
    pub async fn sum(&self, slots: BTreeSet<u32>) -> KafkaResult<i64> {
        // A new shard has none, which the library takes for a mistake.
        if slots.is_empty() {
            return Ok(0);
        }
        let (consumer, topic) = (Arc::clone(&self.consumer), self.topic.clone());
        let asks = tokio::task::spawn_blocking(move || {
            // What the library has to say is said here, or kept for ever.
            let _ = consumer.poll(Duration::ZERO);
            Ok(kafka::ends(&consumer, &topic, slots.into_iter())?.values().sum())
        });
        asks.await.unwrap_or(Err(KafkaError::Canceled))
    }
}

/// Looks at a shard.
pub async fn sample(shard: &mut PgConnection, log: &LogEnds) -> Result<Sample, Trouble> {
    // The shard first: it could have done more than there was of a log that is looked at before it.
    let work = "SELECT s.batch, s.relayed_batch, COALESCE(array_agg(slot), '{}'), COALESCE(sum(next_offset), 0)::bigint
                FROM shard s LEFT JOIN slot ON state IN ('active', 'leaving') GROUP BY 1, 2";
    let (batch, relayed, slots, stand): (i64, i64, Vec<Option<i32>>, i64) =
        within(sqlx::query_as(work).fetch_one(shard)).await?;
    let slots: BTreeSet<u32> = slots.into_iter().flatten().map(i32::unsigned_abs).collect();
    let ends = log.sum(slots.clone()).await.map_err(|error| Trouble::Address(kafka::told(&error)))?;
    Ok(Sample { slots, ends, stand, batch, relayed })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_shard_without_slots_is_seen_too() {
        let kafka = KafkaConfig { bootstrap_servers: "127.0.0.1:1".to_owned(), ..KafkaConfig::default() };
        let log = LogEnds::of(&kafka, "test", "topic").unwrap();
        assert_eq!(log.sum(BTreeSet::new()).await, Ok(0));
    }
}
