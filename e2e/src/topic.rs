//! Topics as a plain client sees them.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication, TopicResult};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::{Offset, TopicPartitionList};
use shardlane_runtime::config::KafkaConfig;
use shardlane_runtime::kafka;
use shardlane_runtime::producer::{Outgoing, Producer};

/// A record as it lies in a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its partition.
    pub partition: i32,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its value.
    pub value: Option<Vec<u8>>,
    /// Its headers.
    pub headers: Vec<(String, String)>,
}

impl Seen {
    fn of(message: &BorrowedMessage<'_>) -> Self {
        let text = |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
        let headers = message.headers().map_or_else(Vec::new, |headers| {
            headers.iter().map(|header| (header.key.to_owned(), text(header.value))).collect()
        });
        Self {
            partition: message.partition(),
            key: message.key().map(<[u8]>::to_vec),
            value: message.payload().map(<[u8]>::to_vec),
            headers,
        }
    }

    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The value as JSON.
    pub fn json(&self) -> Result<serde_json::Value> {
        Ok(serde_json::from_slice(self.value.as_deref().context("no value")?)?)
    }
}

/// A producer for tests.
pub fn producer(bootstrap: &str) -> Result<Producer> {
    let kafka = KafkaConfig::plain(bootstrap);
    let mut config: ClientConfig = kafka::prompt_producer(&kafka, "test", Duration::from_secs(30));
    config.set("message.max.bytes", "2000000");
    Ok(Producer::new(&config)?)
}

/// What an administrator of the broker does.
pub struct Admin(AdminClient<DefaultClientContext>);

impl Admin {
    /// At this broker.
    pub fn at(bootstrap: &str) -> Result<Self> {
        Ok(Self(ClientConfig::new().set("bootstrap.servers", bootstrap).create()?))
    }

    fn options() -> AdminOptions {
        AdminOptions::new().operation_timeout(Some(Duration::from_secs(20)))
    }

    /// Makes a topic with these settings.
    pub async fn make(&self, topic: &str, partitions: i32, settings: &[(&str, &str)]) -> Result<()> {
        let mut new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
        for (name, value) in settings {
            new = new.set(name, value);
        }
        done(self.0.create_topics([&new], &Self::options()).await?)
    }

    /// Deletes a topic, and waits until it is gone.
    pub async fn delete(&self, topic: &str) -> Result<()> {
        done(self.0.delete_topics(&[topic], &Self::options()).await?)?;
        crate::until(Duration::from_secs(20), async || {
            if self.topics()?.iter().any(|found| found == topic) { bail!("{topic} is still there") } else { Ok(()) }
        })
        .await
    }

    /// Names of all topics.
    pub fn topics(&self) -> Result<Vec<String>> {
        let metadata = self.0.inner().fetch_metadata(None, Duration::from_secs(10))?;
        Ok(metadata.topics().iter().map(|found| found.name().to_owned()).collect())
    }

    /// Removes the records of a partition before an offset, as retention does.
    pub async fn remove_before(&self, topic: &str, partition: u32, offset: i64) -> Result<()> {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition.cast_signed(), Offset::Offset(offset))?;
        for element in self.0.delete_records(&list, &Self::options()).await?.elements() {
            element.error()?;
        }
        Ok(())
    }

    /// Makes a topic wider.
    pub async fn widen(&self, topic: &str, partitions: usize) -> Result<()> {
        done(self.0.create_partitions([&NewPartitions::new(topic, partitions)], &Self::options()).await?)
    }
}

fn done(results: Vec<TopicResult>) -> Result<()> {
    for result in results {
        result.map_err(|(topic, code)| anyhow::anyhow!("{topic}: {code}"))?;
    }
    Ok(())
}

/// Puts one record into a partition.
pub async fn put(producer: &Producer, topic: &str, slot: u32, key: Option<&[u8]>, value: Option<&[u8]>) -> Result<()> {
    let record = Outgoing {
        topic: topic.into(),
        slot,
        key: key.map(<[u8]>::to_vec),
        value: value.map(<[u8]>::to_vec),
        headers: Vec::new(),
    };
    producer.publish(&record).await.map(|_| ()).context("the broker did not take a record")
}

/// How many records lie in a topic from which none was removed by compaction.
pub async fn length(bootstrap: &str, topic: &str) -> Result<usize> {
    let (bootstrap, topic) = (bootstrap.to_owned(), topic.to_owned());
    let count = tokio::task::spawn_blocking(move || {
        let consumer: BaseConsumer = kafka::consumer(&KafkaConfig::plain(&bootstrap), "test", 1).create()?;
        let partitions = kafka::partitions_of(&consumer, &topic)?.with_context(|| format!("no topic {topic}"))?;
        let extents = kafka::extents(&consumer, &topic, 0..partitions)?;
        Ok::<_, anyhow::Error>(extents.values().map(|extent| extent.end - extent.start).sum::<i64>())
    });
    Ok(usize::try_from(count.await??)?)
}

/// Reads a topic from its start until `enough` says so of all that was read.
pub async fn read_until(
    bootstrap: &str,
    topic: &str,
    patience: Duration,
    enough: impl FnMut(&[Seen]) -> bool + Send + 'static,
) -> Result<Vec<Seen>> {
    let (bootstrap, topic) = (bootstrap.to_owned(), topic.to_owned());
    tokio::task::spawn_blocking(move || read(&bootstrap, &topic, patience, enough)).await?
}

fn read(
    bootstrap: &str,
    topic: &str,
    patience: Duration,
    mut enough: impl FnMut(&[Seen]) -> bool,
) -> Result<Vec<Seen>> {
    let kafka = KafkaConfig::plain(bootstrap);
    let consumer: BaseConsumer = kafka::consumer(&kafka, "test", 1).set("auto.offset.reset", "earliest").create()?;
    let partitions = kafka::partitions_of(&consumer, topic)?.with_context(|| format!("no topic {topic}"))?;
    let mut list = TopicPartitionList::new();
    for partition in 0..partitions {
        list.add_partition_offset(topic, partition.cast_signed(), Offset::Beginning)?;
    }
    consumer.assign(&list)?;
    let (end, mut seen) = (Instant::now() + patience, Vec::new());
    while !enough(&seen) {
        if Instant::now() > end {
            bail!("waited in vain for records of {topic}; read {}: {seen:.300?}", seen.len());
        }
        if let Some(message) = consumer.poll(Duration::from_millis(100)) {
            seen.push(Seen::of(&message?));
        }
    }
    Ok(seen)
}
