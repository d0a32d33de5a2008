//! A loop without a shard: an ordinary consumer group that feeds something else, at least once; what it feeds drops doubles.
//!
//! Where it stands is in the group's offsets, and beside each what it remembers of the log (the offset's metadata), so a
//! topic made anew or a hole halts a partition here as it does in a worker.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use prometheus::Registry;
use rdkafka::client::ClientContext;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use shardlane_config::{ConfigError, ServiceConfig};
use tokio::runtime::Handle;

use crate::addresses::Addresses;
use crate::health::Health;
use crate::intake::{DeadLetter, Keyspace, Memory};
use crate::kafka;
use crate::metrics::Metrics;
use crate::process::{self, Backoff, Shutdown};
use crate::producer::{Outgoing, Producer};
use crate::reader::{LINGER, MOMENT, POLL, Reading, as_record, list, take};
use crate::record::{BATCH_RECORDS, Batch, Record};
use crate::relay::publish;
use crate::service::{Accepted, Message, Rejection};
use crate::standing::{self, Standing};

/// The part of a process' health that this is.
pub const CONSUMER: &str = "consumer";

/// What a stateless loop does with its records.
pub trait Step: Send + Sync + 'static {
    /// A record that was understood.
    type Item: Send;
    /// Role of the topic that it consumes.
    const INPUT: &'static str;

    /// Understands a record, or says why it cannot be taken; it then becomes a dead letter.
    fn parse(&self, record: &Record<'_>) -> Result<Self::Item, Rejection>;

    /// Has a registry tell what the step itself counts.
    fn register(&self, _: &Registry) -> prometheus::Result<()> {
        Ok(())
    }

    /// Passes items on, and gives what is to be published of them. A reason instead: they come again, until it works.
    fn feed(&self, items: Vec<Accepted<Self::Item>>) -> impl Future<Output = Result<Vec<Message>, String>> + Send;
}

/// Why a stateless loop cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StatelessError {
    /// Its configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A Kafka client could not be made.
    #[error("cannot make a Kafka client: {0}")]
    Kafka(#[from] KafkaError),
    /// Its thread could not be started, or has ended.
    #[error("the consuming thread has ended; see the log lines before this one")]
    Thread,
    /// Its metrics could not be made.
    #[error("cannot make metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// It cannot serve.
    #[error(transparent)]
    Serve(#[from] std::io::Error),
}

/// A process that consumes as the member `instance` until the shutdown, and says on a port how it fares.
pub async fn serve<S: Step>(
    step: S,
    config: Arc<ServiceConfig>,
    instance: &str,
    port: u16,
    shutdown: Shutdown,
) -> Result<(), StatelessError> {
    let metrics = Arc::new(Metrics::new()?);
    step.register(metrics.registry())?;
    let health = Health::starting(metrics, &[CONSUMER]);
    let probes = process::serve(port, health.routes(), shutdown.clone());
    let consumed = run(step, config, instance, health.clone(), shutdown);
    tokio::try_join!(consumed, async { Ok(probes.await?) }).map(drop)
}

/// Consumes as the member `instance` of the group until the shutdown. An instance that comes back under its name within
/// the session time-out gets its partitions back without anybody else noticing.
pub async fn run<S: Step>(
    step: S,
    config: Arc<ServiceConfig>,
    instance: &str,
    health: Health,
    shutdown: Shutdown,
) -> Result<(), StatelessError> {
    let topic = config.topic(S::INPUT)?;
    let group = format!("{}-{}", config.name, S::INPUT);
    let addresses = Addresses::new(&config, S::INPUT);
    let member = Member {
        step,
        client: group_member(&config, &group, instance, topic.partitions),
        dead_letters: addresses.dead_letters()?,
        producer: Producer::new(&kafka::lasting_producer(&config.kafka, &group))?,
        addresses,
        keyspace: Keyspace::of(&config),
        topic: topic.name.clone(),
        group,
        health,
        shutdown,
        handle: Handle::current(),
    };
    tokio::task::spawn_blocking(move || member.run()).await.map_err(|_| StatelessError::Thread)
}

/// A member that stays one while it is away for a moment, and that may take as long as it needs over a batch.
fn group_member(config: &ServiceConfig, group: &str, instance: &str, partitions: u32) -> ClientConfig {
    let mut client = kafka::consumer(&config.kafka, group, partitions);
    client
        .set("group.instance.id", instance)
        .set("session.timeout.ms", "30000")
        .set("max.poll.interval.ms", "86400000");
    client
}

struct Member<S> {
    step: S,
    client: ClientConfig,
    dead_letters: Arc<str>,
    producer: Producer,
    addresses: Addresses,
    keyspace: Keyspace,
    topic: String,
    group: String,
    health: Health,
    shutdown: Shutdown,
    handle: Handle,
}

/// What the group has given this member.
struct Assignment {
    topic: String,
    group: String,
    health: Health,
    now: Mutex<Assigned>,
}

#[derive(Default)]
struct Assigned {
    topic_id: Option<String>,
    partitions: BTreeMap<u32, Reading>,
    trouble: Option<KafkaError>,
}

impl ClientContext for Assignment {
    fn error(&self, error: KafkaError, reason: &str) {
        kafka::hear(&error, reason);
    }
}

impl ConsumerContext for Assignment {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, error: RDKafkaRespErr, given: &mut TopicPartitionList) {
        let Ok(mut now) = self.now.lock() else { return };
        let done = if error == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            self.take_up(&mut now, consumer, given)
        } else {
            now.partitions.clear();
            consumer.unassign()
        };
        now.trouble = done.err();
    }
}

impl Assignment {
    fn reader(&self) -> standing::Reader<'_> {
        standing::Reader { topic: &self.topic, group: Some(&self.group) }
    }

    /// Compares the log with what was remembered beside the group's offsets, and reads the partitions that still know it.
    fn take_up(
        &self,
        now: &mut Assigned,
        consumer: &BaseConsumer<Self>,
        given: &TopicPartitionList,
    ) -> KafkaResult<()> {
        let found = kafka::describe(consumer, &self.topic)?;
        let partitions: Vec<u32> = given.elements().iter().map(|one| one.partition().unsigned_abs()).collect();
        let logs = kafka::extents(consumer, &self.topic, partitions.iter().copied())?;
        let committed = consumer.committed_offsets(given.clone(), kafka::ASK)?;
        let (mut halted, mut from) = (BTreeMap::new(), Vec::new());
        for element in committed.elements() {
            element.error()?;
            let partition = element.partition().unsigned_abs();
            let Some(log) = logs.get(&partition) else { continue };
            let standing = match element.offset() {
                Offset::Offset(next) => remembered(next, element.metadata()),
                // Nothing was consumed yet.
                _ => Standing { next_offset: log.start, ..Standing::default() },
            };
            match standing::start(self.reader(), partition, &standing, found.id.as_deref(), *log) {
                Ok(start) => {
                    from.push((partition, start.offset));
                    let reading = Reading { next: standing.next_offset, look_back: start.look_back };
                    now.partitions.insert(partition, reading);
                }
                Err(reason) => drop(halted.insert(partition, reason)),
            }
        }
        now.topic_id = found.id;
        self.health.halt_only(halted);
        consumer.assign(&list(&self.topic, from.into_iter())?)
    }
}

/// What is written beside an offset.
fn metadata(topic_id: Option<&str>, last: Memory) -> String {
    format!("{} {} {}", topic_id.unwrap_or("-"), last.timestamp, last.digest)
}

fn remembered(next_offset: i64, metadata: &str) -> Standing {
    let mut words = metadata.split(' ');
    let topic_id = words.next().filter(|id| !id.is_empty() && *id != "-").map(str::to_owned);
    let mut number = || words.next()?.parse().ok();
    let last = number().zip(number()).map(|(timestamp, digest)| Memory { timestamp, digest });
    Standing { next_offset, topic_id, last, epoch: 0 }
}

impl<S: Step> Member<S> {
    fn run(self) {
        let mut backoff = Backoff::default();
        while !self.shutdown.has_come() {
            if let Err(error) = self.consume(&mut backoff) {
                self.health.waiting_for(CONSUMER, format!("Kafka: {}", kafka::told(&error)));
                self.wait(&mut backoff);
            }
        }
    }

    fn wait(&self, backoff: &mut Backoff) {
        let (wait, mut shutdown) = (backoff.wait(), self.shutdown.clone());
        let _ = self.handle.block_on(tokio::time::timeout(wait, shutdown.wait()));
    }

    /// Consumes until the shutdown or trouble.
    fn consume(&self, backoff: &mut Backoff) -> KafkaResult<()> {
        let assignment = Assignment {
            topic: self.topic.clone(),
            group: self.group.clone(),
            health: self.health.clone(),
            now: Mutex::default(),
        };
        let consumer = BaseConsumer::from_config_and_context(&self.client, assignment)?;
        consumer.subscribe(&[&self.topic])?;
        while !self.shutdown.has_come() {
            let batch = self.read(&consumer)?;
            // Ready whether or not the group has anything for it to do.
            self.health.ready(CONSUMER);
            if batch.is_empty() {
                continue;
            }
            while let Err(reason) = self.handle.block_on(self.pass_on(&batch)) {
                self.health.waiting_for(CONSUMER, reason);
                self.wait(backoff);
                if self.shutdown.has_come() {
                    return Ok(());
                }
            }
            backoff.reset();
            commit(&consumer, &self.topic, &batch)?;
        }
        Ok(())
    }

    /// One batch, or none.
    fn read(&self, consumer: &BaseConsumer<Assignment>) -> KafkaResult<Batch> {
        let (mut batch, mut close) = (Batch::default(), None::<Instant>);
        loop {
            let wait = close.map_or(POLL, |close| close.saturating_duration_since(Instant::now()).max(MOMENT));
            let polled = consumer.poll(wait);
            let Ok(mut now) = consumer.context().now.lock() else { return Ok(batch) };
            if let Some(trouble) = now.trouble.take() {
                return Err(trouble);
            }
            match polled {
                Some(Ok(message)) => {
                    let reader = consumer.context().reader();
                    if let Some((slot, reason)) = take(&mut now.partitions, reader, &mut batch, &as_record(&message)) {
                        self.health.halt(slot, reason);
                    }
                    close.get_or_insert_with(|| Instant::now() + LINGER);
                }
                Some(Err(error)) if kafka::mends_itself(&error) => {}
                Some(Err(error)) if batch.is_empty() => return Err(error),
                // It comes again once what was read is done.
                Some(Err(_)) | None => return Ok(batch),
            }
            if batch.is_full(BATCH_RECORDS) || close.is_some_and(|close| Instant::now() >= close) {
                return Ok(batch);
            }
        }
    }

    /// Feeds a batch and publishes what comes of it, dead letters included.
    async fn pass_on(&self, batch: &Batch) -> Result<(), String> {
        let (mut items, mut outgoing) = (Vec::with_capacity(batch.len()), Vec::new());
        for record in batch.records(0..batch.len()) {
            let Record { slot, offset, timestamp, .. } = record;
            match self.keyspace.check(&record).and_then(|()| self.step.parse(&record)) {
                Ok(request) => items.push(Accepted { slot, offset, timestamp, request }),
                Err(rejection) => outgoing.push(self.dead_letter(DeadLetter::of(&record, rejection))?),
            }
        }
        for message in self.step.feed(items).await? {
            outgoing.push(self.addresses.outgoing(message).map_err(|error| error.to_string())?);
        }
        publish(&self.producer, &self.dead_letters, &outgoing).await.map(drop)
    }

    fn dead_letter(&self, letter: DeadLetter) -> Result<Outgoing, String> {
        self.addresses.dead_letter(letter.into()).map_err(|error| error.to_string())
    }
}

/// Notes that a batch is done, and what its last records were.
fn commit(consumer: &BaseConsumer<Assignment>, topic: &str, batch: &Batch) -> KafkaResult<()> {
    let (ours, topic_id) = match consumer.context().now.lock() {
        Ok(now) => (now.partitions.keys().copied().collect::<Vec<_>>(), now.topic_id.clone()),
        Err(_) => return Ok(()),
    };
    let mut last: BTreeMap<u32, Record<'_>> = BTreeMap::new();
    for record in batch.records(0..batch.len()) {
        last.insert(record.slot, record);
    }
    // A partition that went to another member meanwhile is that one's to note.
    last.retain(|partition, _| ours.contains(partition));
    if last.is_empty() {
        return Ok(());
    }
    let mut done = TopicPartitionList::new();
    for record in last.values() {
        let mut element = done.add_partition(topic, record.slot.cast_signed());
        element.set_offset(Offset::Offset(record.offset + 1))?;
        element.set_metadata(metadata(topic_id.as_deref(), Memory::of(record)));
    }
    consumer.commit(&done, CommitMode::Sync)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_beside_an_offset_is_read_again() {
        let last = Memory { timestamp: 1_700_000_000_000, digest: 42 };
        let standing = |topic_id: Option<&str>, last| Standing {
            next_offset: 7,
            topic_id: topic_id.map(str::to_owned),
            last,
            epoch: 0,
        };
        assert_eq!(remembered(7, &metadata(Some("abc_-"), last)), standing(Some("abc_-"), Some(last)));
        assert_eq!(remembered(7, &metadata(None, last)), standing(None, Some(last)));
        assert_eq!(remembered(7, ""), standing(None, None), "written by another program");
    }
}
