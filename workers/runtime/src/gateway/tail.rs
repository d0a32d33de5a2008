//! Following a whole topic, stateless: every partition, from its start or its end, on a thread of its own.

use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaResult;
use rdkafka::{Offset, TopicPartitionList};
use shardlane_config::{KafkaConfig, TopicConfig};

use crate::health::Health;
use crate::kafka::{self, Listening};
use crate::process::Backoff;
use crate::reader::as_record;
use crate::record::Record;
use crate::standing::Extent;

/// From where a topic is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Everything that it holds; ready once that is read.
    Beginning,
    /// What comes from now on; ready at once.
    End,
}

/// Who follows a topic.
#[derive(Clone, Copy, Debug)]
pub struct Follower<'a> {
    /// Where the topic is.
    pub kafka: &'a KafkaConfig,
    /// The service. A consumer without a group gives no records in Rust, so there is one for each part, whose name begins with
    /// this, as a service's rights do.
    pub name: &'a str,
    /// What is ready once the start is reached.
    pub part: &'static str,
    /// Where that is said.
    pub health: &'a Health,
}

/// Follows a topic until the process ends.
///
/// A record may come twice, after trouble; readers keep what they must only know once by its version.
pub fn tail(
    follower: Follower<'_>,
    topic: &TopicConfig,
    start: Start,
    mut on_record: impl FnMut(&Record<'_>) + Send + 'static,
) -> KafkaResult<()> {
    let Follower { kafka, name, part, health } = follower;
    let mut config = kafka::consumer(kafka, &format!("{name}-{part}"), topic.partitions);
    // What is gone from a topic that is only followed need not be found again.
    config.set("auto.offset.reset", if start == Start::Beginning { "earliest" } else { "latest" });
    // Whether a client can be made at all is known at once.
    let create = move || config.create_with_context(Listening);
    let mut consumer: Option<BaseConsumer<Listening>> = Some(create()?);
    let (topic, health) = (topic.clone(), health.clone());
    let run = move || {
        let mut backoff = Backoff::default();
        loop {
            // A new client each time: one that has lost all brokers may never find them again (librdkafka issue 5301).
            let followed = consumer.take().map_or_else(&create, Ok).and_then(|consumer| {
                let reached = || {
                    health.ready(part);
                    backoff.reset();
                };
                follow(&consumer, &topic, start, &mut on_record, reached).inspect_err(|_| kafka::listen(&consumer))
            });
            match followed {
                Ok(never) => match never {},
                Err(error) => health.waiting_for(part, format!("topic {}: {}", topic.name, kafka::told(&error))),
            }
            std::thread::sleep(backoff.wait());
        }
    };
    std::thread::Builder::new()
        .name(part.to_owned())
        .spawn(run)
        .map_err(|error| rdkafka::error::KafkaError::ClientCreation(error.to_string()))?;
    Ok(())
}

/// Returns only with trouble; the caller starts again.
fn follow(
    consumer: &BaseConsumer<Listening>,
    topic: &TopicConfig,
    start: Start,
    on_record: &mut impl FnMut(&Record<'_>),
    mut reached: impl FnMut(),
) -> KafkaResult<std::convert::Infallible> {
    let mut list = TopicPartitionList::new();
    let mut missing = std::collections::BTreeMap::new();
    for (partition, log) in kafka::extents(consumer, &topic.name, 0..topic.partitions)? {
        let Extent { start: low, end: high } = log;
        let from = if start == Start::Beginning { low } else { high };
        list.add_partition_offset(&topic.name, partition.cast_signed(), Offset::Offset(from))?;
        if from < high {
            missing.insert(partition, high);
        }
    }
    consumer.assign(&list)?;
    loop {
        if missing.is_empty() {
            reached();
        }
        let Some(polled) = consumer.poll(Duration::from_millis(100)) else {
            // A compacted log may end below its watermark, in a record that was cleaned away.
            if !missing.is_empty() {
                let position = consumer.position()?;
                missing.retain(|partition, high| {
                    position.find_partition(&topic.name, partition.cast_signed()).is_none_or(|at| match at.offset() {
                        Offset::Offset(offset) => offset < *high,
                        _ => true,
                    })
                });
            }
            continue;
        };
        let message = match polled {
            Err(error) if kafka::mends_itself(&error) => continue,
            polled => polled?,
        };
        let record = as_record(&message);
        if missing.get(&record.slot).is_some_and(|high| record.offset + 1 >= *high) {
            missing.remove(&record.slot);
        }
        on_record(&record);
    }
}
