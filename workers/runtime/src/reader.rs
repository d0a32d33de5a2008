//! The reader: a thread of its own that turns a worker's slots into batches, one ahead of the one being committed.
//!
//! A plain thread with a `BaseConsumer`, because splitting partition queues can stall a partition
//! (rust-rdkafka issue 840), and because polling is cheap and must not wait for anything else.

use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::{Offset, Statistics, TopicPartitionList};
use shardlane_config::KafkaConfig;
use tokio::sync::mpsc as tokio_mpsc;

use crate::intake::Positions;
use crate::kafka;
use crate::metrics::Metrics;
use crate::record::{Batch, Record};

/// A batch is closed this long after its first record at the latest.
const LINGER: Duration = Duration::from_millis(5);
/// How long a poll may wait: how late an idle reader notices a new assignment or its end.
const POLL: Duration = Duration::from_millis(20);

/// What the loop tells its reader.
enum Order {
    /// Read these slots from here; batches carry the generation.
    Assign { generation: u64, positions: Positions },
    /// Show Kafka's own tools how far it is; nothing depends on it.
    Commit(Positions),
}

/// What the reader gives the loop.
#[derive(Debug)]
pub enum Read {
    /// Records to apply.
    Batch(Batch),
    /// The broker said something that concerns these slots.
    Trouble(KafkaError),
}

/// The loop's side of a reader. Dropping it ends the thread.
pub struct Reader {
    orders: mpsc::Sender<Order>,
    batches: tokio_mpsc::Receiver<Read>,
    generation: u64,
}

impl Reader {
    /// Starts a reader of a topic, with nothing assigned yet.
    pub fn start(config: &KafkaConfig, name: &str, topic: &str, metrics: Arc<Metrics>) -> KafkaResult<Self> {
        let mut config = kafka::consumer(config, name);
        config.set("statistics.interval.ms", "2000");
        let context = Watch { topic: topic.to_owned(), metrics };
        let consumer = BaseConsumer::from_config_and_context(&config, context)?;
        let (orders, inbox) = mpsc::channel();
        let (outbox, batches) = tokio_mpsc::channel(1);
        let thread = ReaderThread { consumer, topic: topic.to_owned(), inbox, outbox, generation: 0, trouble: None };
        std::thread::Builder::new()
            .name("reader".to_owned())
            .spawn(move || thread.run())
            .map_err(|error| KafkaError::ClientCreation(error.to_string()))?;
        Ok(Self { orders, batches, generation: 0 })
    }

    /// Reads from these positions from now on. Whatever was read before is dropped.
    pub fn assign(&mut self, positions: Positions) {
        self.generation += 1;
        // The thread ends only after this side does.
        let _ = self.orders.send(Order::Assign { generation: self.generation, positions });
    }

    /// The next batch of the present assignment, or trouble. `None` if the thread has ended.
    pub async fn next(&mut self) -> Option<Read> {
        loop {
            match self.batches.recv().await? {
                Read::Batch(batch) if batch.generation != self.generation => {}
                read => return Some(read),
            }
        }
    }

    /// Shows Kafka's own tools how far the worker is.
    pub fn show_progress(&self, positions: Positions) {
        let _ = self.orders.send(Order::Commit(positions));
    }
}

/// Watches the log's ends, for the lag.
struct Watch {
    topic: String,
    metrics: Arc<Metrics>,
}

impl ConsumerContext for Watch {}

impl ClientContext for Watch {
    fn stats(&self, statistics: Statistics) {
        let Some(topic) = statistics.topics.get(&self.topic) else { return };
        for (partition, seen) in &topic.partitions {
            if let Ok(slot) = u32::try_from(*partition)
                && seen.hi_offset >= 0
            {
                self.metrics.log_end(slot, seen.hi_offset);
            }
        }
    }
}

struct ReaderThread {
    consumer: BaseConsumer<Watch>,
    topic: String,
    inbox: mpsc::Receiver<Order>,
    outbox: tokio_mpsc::Sender<Read>,
    generation: u64,
    trouble: Option<KafkaError>,
}

impl ReaderThread {
    fn run(mut self) {
        loop {
            match self.inbox.try_recv() {
                Ok(order) => self.obey(order),
                Err(TryRecvError::Disconnected) => return,
                Err(TryRecvError::Empty) if self.generation == 0 => match self.inbox.recv_timeout(POLL) {
                    Ok(order) => self.obey(order),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return,
                },
                Err(TryRecvError::Empty) => {
                    if let Some(read) = self.read()
                        && self.outbox.blocking_send(read).is_err()
                    {
                        return;
                    }
                }
            }
        }
    }

    fn obey(&mut self, order: Order) {
        let result = match order {
            Order::Assign { generation, positions } => {
                self.generation = generation;
                self.list(&positions).and_then(|list| self.consumer.assign(&list))
            }
            Order::Commit(positions) => {
                // Lag in Kafka's own tools is a courtesy: a broker that refuses it hinders nothing.
                if let Err(error) =
                    self.list(&positions).and_then(|list| self.consumer.commit(&list, CommitMode::Async))
                {
                    tracing::debug!(%error, "offsets for Kafka's own tools were not written");
                }
                return;
            }
        };
        if let Err(error) = result {
            let _ = self.outbox.blocking_send(Read::Trouble(error));
        }
    }

    fn list(&self, positions: &Positions) -> KafkaResult<TopicPartitionList> {
        let mut list = TopicPartitionList::with_capacity(positions.len());
        for (slot, offset) in positions {
            list.add_partition_offset(&self.topic, slot.cast_signed(), Offset::Offset(*offset))?;
        }
        Ok(list)
    }

    /// One batch: from its first record until it is full or has lingered.
    fn read(&mut self) -> Option<Read> {
        if let Some(trouble) = self.trouble.take() {
            return Some(Read::Trouble(trouble));
        }
        let mut batch = Batch::new(self.generation);
        let mut close = None;
        loop {
            let wait = close.map_or(POLL, |close: Instant| close.saturating_duration_since(Instant::now()));
            match self.consumer.poll(wait) {
                Some(Ok(message)) => {
                    batch.push(&as_record(&message));
                    if batch.is_full() {
                        return Some(Read::Batch(batch));
                    }
                    close.get_or_insert_with(|| Instant::now() + LINGER);
                }
                Some(Err(error)) if kafka::mends_itself(&error) => tracing::debug!(%error, "a connection was lost"),
                Some(Err(error)) if batch.is_empty() => return Some(Read::Trouble(error)),
                Some(Err(error)) => {
                    // What was read before it is good.
                    self.trouble = Some(error);
                    return Some(Read::Batch(batch));
                }
                None if batch.is_empty() => return None,
                None => return Some(Read::Batch(batch)),
            }
            if close.is_some_and(|close| Instant::now() >= close) {
                return Some(Read::Batch(batch));
            }
        }
    }
}

/// A message of the library as a record.
pub fn as_record<'a>(message: &'a BorrowedMessage<'_>) -> Record<'a> {
    Record {
        slot: message.partition().unsigned_abs(),
        offset: message.offset(),
        timestamp: message.timestamp().to_millis().unwrap_or(-1),
        key: message.key(),
        value: message.payload(),
    }
}
