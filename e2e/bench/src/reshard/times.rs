//! From each request in its topic to its response, by the times that Kafka has of both.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::{Offset, TopicPartitionList};
use shardlane_e2e::plain::PlainService;
use shardlane_runtime::kafka;
use shardlane_signup::service::{REQUEST, RESPONSE};

/// How long nothing may come.
const PATIENCE: Duration = Duration::from_secs(10);

/// A request that was answered.
#[derive(Clone, Copy, Debug)]
pub struct Trip {
    /// Its slot.
    pub slot: u32,
    /// When it was made, in milliseconds.
    pub asked: i64,
    /// Milliseconds until its response was made.
    pub took: i64,
}

/// The trip of each request.
pub async fn trips(service: &PlainService) -> Result<Vec<Trip>> {
    let (config, request, response) = (service.config.clone(), service.topic(REQUEST)?, service.topic(RESPONSE)?);
    let (request, response) = (request.to_owned(), response.to_owned());
    tokio::task::spawn_blocking(move || {
        let consumer: BaseConsumer = kafka::consumer(&config.kafka, "bench", config.max_partitions).create()?;
        let mut asked = HashMap::new();
        read(&consumer, &request, config.max_partitions, |name, slot, at| {
            asked.insert(name, (slot, at));
            Ok(())
        })?;
        let mut trips = HashMap::new();
        read(&consumer, &response, config.max_partitions, |name, _, at| {
            let (slot, asked) = asked.get(&name).context("a response to no request")?;
            // A response may come twice: the first one counts.
            trips.entry(name).or_insert(Trip { slot: *slot, asked: *asked, took: at - asked });
            Ok(())
        })?;
        ensure!(trips.len() == asked.len(), "{} requests, and {} responses", asked.len(), trips.len());
        Ok(trips.into_values().collect())
    })
    .await?
}

/// Reads a topic from its start to its present end: of each record the name, the slot and the time.
fn read(
    consumer: &BaseConsumer,
    topic: &str,
    slots: u32,
    mut take: impl FnMut(u64, u32, i64) -> Result<()>,
) -> Result<()> {
    let (mut list, mut left) = (TopicPartitionList::new(), 0);
    for (slot, log) in kafka::extents(consumer, topic, 0..slots)? {
        list.add_partition_offset(topic, slot.cast_signed(), Offset::Offset(log.start))?;
        left += log.end - log.start;
    }
    consumer.assign(&list)?;
    while left > 0 {
        let message = consumer.poll(PATIENCE).context("nothing more comes")??;
        let (name, at) = (name_of(&message)?, message.timestamp().to_millis().context("no time")?);
        take(name, message.partition().unsigned_abs(), at)?;
        left -= 1;
    }
    Ok(())
}

/// Names are numbers here.
fn name_of(message: &BorrowedMessage<'_>) -> Result<u64> {
    Ok(u64::from_str_radix(std::str::from_utf8(message.key().context("no key")?)?, 16)?)
}
