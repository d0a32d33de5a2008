//! The reader: a thread of its own that turns a worker's slots into batches, one ahead of the one being committed.
//!
//! A plain thread with a `BaseConsumer`, because splitting partition queues can stall a partition
//! (rust-rdkafka issue 840), and because polling is cheap and must not wait for anything else.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::{ClientConfig, Offset, Statistics, TopicPartitionList};
use shardlane_config::{ServiceConfig, TopicConfig};
use shardlane_librdkafka::Described;
use tokio::sync::mpsc as tokio_mpsc;

use crate::edges::{Log, Read};
use crate::intake::{Keyspace, Memory, Positions};
use crate::kafka;
use crate::lag::Lag;
use crate::metrics::Metrics;
use crate::prepare::prepare;
use crate::record::{BATCH_RECORDS, Batch, Record, Took, most_records};
use crate::service::Service;
use crate::standing::{self, Standings};

/// A batch that is waited for is closed this long after its first record at the latest, unless it follows a large one.
pub(crate) const LINGER: Duration = Duration::from_millis(5);
/// A batch comes this long after a large one at the earliest, unless it is full: each costs the shard a commit and Kafka a request
/// for every slot, whatever is in it.
const APART: Duration = Duration::from_millis(20);
/// Or, where the last one that was written has taken most of this time, up to this long: fewer, larger batches are less work for a
/// machine that is busy, and for a shard that is slow it is all the same.
const FAR_APART: Duration = Duration::from_millis(50);
/// A batch of so many records is large.
const MANY: usize = 100;
/// How often a batch that grows looks whether it is waited for. One that is waited for takes only what is there. The library
/// counts in milliseconds: less than one would not wait at all.
pub(crate) const MOMENT: Duration = Duration::from_millis(1);
/// How long a poll may wait: how late an idle reader notices a new assignment or its end.
pub(crate) const POLL: Duration = Duration::from_millis(20);

/// How often the topic is asked whether it is still the same: the library reads on where it stood when a topic is deleted
/// and made anew under it (a FIXME in `rd_kafka_topic_metadata_update0` of librdkafka 2.12).
const SAME_TOPIC: Duration = Duration::from_secs(3);

/// What the loop tells its reader.
enum Order {
    /// Read these slots from where they stand; what is read carries the generation.
    Assign { generation: u64, standings: Standings },
    /// Read on, but these slots.
    Change(Standings),
    /// Show Kafka's own tools that it is as far as this.
    Show(Positions),
}

/// What was read, and of which assignment.
type Tagged<P> = (u64, Read<P>);

/// The loop's side of a reader. Dropping it ends the thread.
pub struct Reader<P> {
    orders: mpsc::Sender<Order>,
    reads: tokio_mpsc::Receiver<Tagged<P>>,
    /// What comes before anything else.
    again: VecDeque<Read<P>>,
    generation: u64,
    hungry: Arc<AtomicBool>,
    most: Arc<AtomicUsize>,
    worked: Arc<AtomicU64>,
}

impl<P: Send + Sync + 'static> Reader<P> {
    /// Starts a reader of the topic that a service consumes, with nothing assigned yet. It folds what it reads, beside the loop.
    pub fn start<S: Service<Plan = P>>(
        service: Arc<S>,
        config: &ServiceConfig,
        topic: &TopicConfig,
        name: &str,
        metrics: Arc<Metrics>,
    ) -> KafkaResult<Self> {
        let keyspace = Keyspace::of(config);
        let mut config = kafka::consumer(&config.kafka, name, topic.partitions);
        config.set("statistics.interval.ms", "2000");
        let consumer = connect(&config, &topic.name, &metrics)?;
        let lag = Lag::of(config.clone(), &topic.name)?;
        let (orders, inbox) = mpsc::channel();
        let (outbox, reads) = tokio_mpsc::channel(1);
        let (hungry, most) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(BATCH_RECORDS)));
        let worked = Arc::new(AtomicU64::new(0));
        let thread = ReaderThread {
            service,
            keyspace,
            consumer,
            lag,
            config,
            metrics,
            topic: topic.name.clone(),
            width: topic.partitions,
            known: Described { id: None, partitions: usize::MAX },
            not_before: Instant::now(),
            asked: Instant::now(),
            inbox,
            outbox,
            hungry: Arc::clone(&hungry),
            most: Arc::clone(&most),
            worked: Arc::clone(&worked),
            generation: 0,
            slots: BTreeMap::new(),
            pending: VecDeque::new(),
        };
        std::thread::Builder::new()
            .name("reader".to_owned())
            .spawn(move || thread.run())
            .map_err(|error| KafkaError::ClientCreation(error.to_string()))?;
        Ok(Self { orders, reads, again: VecDeque::new(), generation: 0, hungry, most, worked })
    }
}

impl<S: Service> Log<S> for Reader<S::Plan> {
    fn assign(&mut self, standings: Standings) {
        self.generation += 1;
        self.again.clear();
        // The thread ends only after this side does.
        let _ = self.orders.send(Order::Assign { generation: self.generation, standings });
    }

    fn change(&mut self, standings: Standings) {
        let _ = self.orders.send(Order::Change(standings));
    }

    fn take_back(&mut self, unwritten: Vec<Read<S::Plan>>) {
        for read in unwritten.into_iter().rev() {
            self.again.push_front(read);
        }
    }

    async fn next(&mut self, urgent: bool) -> Option<Read<S::Plan>> {
        if let Some(read) = self.again.pop_front() {
            return Some(read);
        }
        loop {
            self.hungry.store(urgent, Ordering::Relaxed);
            let (generation, read) = self.reads.recv().await?;
            if generation == self.generation {
                return Some(read);
            }
        }
    }

    fn took(&mut self, records: usize, took: Took) {
        let allowed = self.most.load(Ordering::Relaxed);
        self.most.store(most_records(allowed, records, took), Ordering::Relaxed);
        self.worked.store(u64::try_from(took.work.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn show_progress(&mut self, positions: &Positions) {
        let _ = self.orders.send(Order::Show(positions.clone()));
    }
}

/// Watches the log's ends, for the lag.
struct Watch {
    topic: String,
    metrics: Arc<Metrics>,
}

impl ConsumerContext for Watch {}

impl ClientContext for Watch {
    fn error(&self, error: KafkaError, reason: &str) {
        kafka::hear(&error, reason);
    }

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

/// How a slot is being read.
pub(crate) struct Reading {
    /// Offset of the next record to give to the loop.
    pub(crate) next: i64,
    /// What the record before it must be, until it has been seen.
    pub(crate) look_back: Option<Memory>,
}

fn connect(config: &ClientConfig, topic: &str, metrics: &Arc<Metrics>) -> KafkaResult<BaseConsumer<Watch>> {
    BaseConsumer::from_config_and_context(config, Watch { topic: topic.to_owned(), metrics: Arc::clone(metrics) })
}

struct ReaderThread<S: Service> {
    service: Arc<S>,
    keyspace: Keyspace,
    consumer: BaseConsumer<Watch>,
    lag: Lag,
    config: ClientConfig,
    metrics: Arc<Metrics>,
    topic: String,
    /// How many slots there are.
    width: u32,
    /// What the topic was at the assignment.
    known: Described,
    /// When it was last asked whether it still is.
    asked: Instant,
    inbox: mpsc::Receiver<Order>,
    outbox: tokio_mpsc::Sender<Tagged<S::Plan>>,
    /// The loop waits for what comes next.
    hungry: Arc<AtomicBool>,
    /// Most records of a batch, as it is now.
    most: Arc<AtomicUsize>,
    /// Microseconds that were worked on the last one.
    worked: Arc<AtomicU64>,
    generation: u64,
    slots: BTreeMap<u32, Reading>,
    /// When the next batch may be closed that is not full.
    not_before: Instant,
    /// What is to be told before anything else is read.
    pending: VecDeque<Read<S::Plan>>,
}

impl<S: Service> ReaderThread<S> {
    fn run(mut self) {
        loop {
            self.lag.tell();
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
                        && self.outbox.blocking_send((self.generation, read)).is_err()
                    {
                        return;
                    }
                }
            }
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Assign { generation, standings } => {
                self.generation = generation;
                self.pending.clear();
                let taken_up = self.take_up(&standings);
                self.tell(&standings, taken_up);
            }
            Order::Change(standings) => {
                let changed = self.change(&standings);
                self.tell(&standings, changed);
            }
            Order::Show(positions) => self.lag.is(positions),
        }
    }

    /// What became of an order to read these.
    fn tell(&mut self, standings: &Standings, done: KafkaResult<Read<S::Plan>>) {
        self.lag.is(standings.iter().map(|(slot, standing)| (*slot, standing.next_offset)).collect());
        let said = done.unwrap_or_else(|error| {
            kafka::listen(&self.consumer);
            self.reconnect();
            Read::Trouble(kafka::told(&error))
        });
        self.pending.push_back(said);
    }

    /// Replaces a client that cannot answer: librdkafka 2.12 can lose all brokers for good when one that restarts answers
    /// with an empty list (librdkafka issue 5301).
    fn reconnect(&mut self) {
        let fresh = connect(&self.config, &self.topic, &self.metrics);
        match fresh.and_then(|fresh| Ok((fresh, Lag::of(self.config.clone(), &self.topic)?))) {
            Ok((fresh, lag)) => {
                let old = (std::mem::replace(&mut self.consumer, fresh), std::mem::replace(&mut self.lag, lag));
                // Ending a client waits for its threads.
                std::thread::spawn(move || drop(old));
            }
            Err(error) => tracing::warn!(%error, "cannot make a new Kafka client"),
        }
    }

    /// Begins anew, with the topic as it is now.
    fn take_up(&mut self, standings: &Standings) -> KafkaResult<Read<S::Plan>> {
        self.slots.clear();
        self.consumer.unassign()?;
        self.known = kafka::describe(&self.consumer, &self.topic)?;
        self.asked = Instant::now();
        self.begin(standings)
    }

    /// Reads other slots than before. Those that stay keep what was fetched of them: all would else stand still until it has been
    /// fetched again.
    fn change(&mut self, standings: &Standings) -> KafkaResult<Read<S::Plan>> {
        self.slots.retain(|slot, _| standings.contains_key(slot));
        if self.slots.is_empty() {
            // While nothing is read, nobody looks whether the topic is still the same.
            return self.take_up(standings);
        }
        let assigned = self.consumer.assignment()?;
        let assigned = assigned.elements().into_iter().map(|partition| partition.partition().unsigned_abs());
        // One that halted is looked at again.
        let gone: Vec<_> = assigned.filter(|slot| !self.slots.contains_key(slot)).map(|slot| (slot, 0)).collect();
        if !gone.is_empty() {
            self.consumer.incremental_unassign(&list(&self.topic, gone.into_iter())?)?;
        }
        self.begin(standings)
    }

    /// Compares the topic with what those slots remember of it that are not read yet, and reads those that still know it.
    fn begin(&mut self, standings: &Standings) -> KafkaResult<Read<S::Plan>> {
        let strays = self.strays(standings, self.known.partitions)?;
        let come = standings.iter().filter(|(slot, _)| !self.slots.contains_key(slot));
        let come: Vec<_> = come.map(|(slot, standing)| (*slot, standing)).collect();
        let logs = kafka::extents(&self.consumer, &self.topic, come.iter().map(|(slot, _)| *slot))?;
        let (mut halted, mut from) = (BTreeMap::new(), Vec::new());
        for (slot, standing) in come {
            let Some(log) = logs.get(&slot) else { continue };
            let reader = standing::Reader { topic: &self.topic, group: None };
            match standing::start(reader, slot, standing, self.known.id.as_deref(), *log) {
                Ok(start) => {
                    from.push((slot, start.offset));
                    self.slots.insert(slot, Reading { next: standing.next_offset, look_back: start.look_back });
                }
                Err(reason) => drop(halted.insert(slot, reason)),
            }
        }
        if !from.is_empty() {
            self.consumer.incremental_assign(&list(&self.topic, from.into_iter())?)?;
        }
        Ok(Read::Assigned { halted, strays, notices: self.beyond().into_iter().collect() })
    }

    /// What is to be said of partitions beyond the slots.
    fn beyond(&self) -> Option<String> {
        let beyond = self.known.partitions.saturating_sub(self.width as usize);
        (beyond > 0).then(|| {
            format!(
                "{} has {} partitions, {beyond} more than the service has slots: records in them are dead letters. Find who \
                 added them, and let every producer use {} partitions",
                self.topic, self.known.partitions, self.width
            )
        })
    }

    /// Partitions beyond the slots are the business of the first slot's worker.
    fn strays(&self, standings: &Standings, partitions: usize) -> KafkaResult<Vec<(u32, i64)>> {
        if !standings.contains_key(&0) {
            return Ok(Vec::new());
        }
        let end = u32::try_from(partitions).unwrap_or(self.width);
        let unread = (self.width..end).filter(|partition| !standings.contains_key(partition));
        let logs = kafka::extents(&self.consumer, &self.topic, unread)?;
        Ok(logs.into_iter().map(|(partition, log)| (partition, log.start)).collect())
    }

    /// Now and then: whether the topic is still what it was, or why the slots must be taken up again.
    fn look_at_topic(&mut self) -> Option<String> {
        if self.slots.is_empty() || self.asked.elapsed() < SAME_TOPIC {
            return None;
        }
        self.asked = Instant::now();
        match kafka::describe(&self.consumer, &self.topic) {
            Ok(found) if found == self.known => None,
            Ok(_) => Some(format!("the topic {} has changed", self.topic)),
            Err(error) => Some(kafka::told(&error)),
        }
    }

    /// Whether a batch is to be closed as soon as it has lingered.
    fn is_wanted(&self) -> bool {
        self.hungry.load(Ordering::Relaxed) && self.not_before <= Instant::now()
    }

    /// What comes next: one batch, from its first record until it is full or has lingered.
    fn read(&mut self) -> Option<Read<S::Plan>> {
        if let Some(read) = self.pending.pop_front() {
            return Some(read);
        }
        if let Some(trouble) = self.look_at_topic() {
            return Some(Read::Trouble(trouble));
        }
        let mut batch = Batch::default();
        let mut close: Option<Instant> = None;
        loop {
            let polled = self.consumer.poll(match close {
                None => POLL,
                Some(_) if self.is_wanted() => Duration::ZERO,
                Some(_) => MOMENT,
            });
            let idle = polled.is_none();
            match polled {
                Some(Ok(message)) => {
                    let reader = standing::Reader { topic: &self.topic, group: None };
                    if let Some((slot, reason)) = take(&mut self.slots, reader, &mut batch, &as_record(&message)) {
                        self.pending.push_back(Read::Halted { slot, reason });
                    }
                    close.get_or_insert_with(|| Instant::now() + LINGER);
                }
                Some(Err(error)) if kafka::mends_itself(&error) => tracing::debug!(%error, "a connection was lost"),
                Some(Err(error)) => self.pending.push_back(Read::Trouble(kafka::told(&error))),
                None => {}
            }
            // While the loop is busy, a batch may grow: it would only wait.
            let wanted = self.is_wanted();
            let waited = || close.is_some_and(|close| Instant::now() >= close);
            // What was read before trouble is good.
            if batch.is_full(self.most.load(Ordering::Relaxed))
                || !self.pending.is_empty()
                || (wanted && (idle || waited()))
                || (batch.is_empty() && idle)
            {
                if batch.is_empty() {
                    return self.pending.pop_front();
                }
                let worked = Duration::from_micros(self.worked.load(Ordering::Relaxed));
                self.not_before = Instant::now() + apart(batch.len(), worked);
                return Some(Read::Batch(prepare(&*self.service, self.keyspace, batch)));
            }
        }
    }
}

/// How long after a batch of so many records the next one may be closed that is not full, when so long was worked on the one before.
fn apart(records: usize, worked: Duration) -> Duration {
    if records < MANY { Duration::ZERO } else { (worked * 3 / 2).clamp(APART, FAR_APART) }
}

/// Puts a record into the batch, unless it is the one that was applied last, or its slot's log is another: then the slot halts,
/// for the reason that this gives.
pub(crate) fn take(
    slots: &mut BTreeMap<u32, Reading>,
    reader: standing::Reader<'_>,
    batch: &mut Batch,
    record: &Record<'_>,
) -> Option<(u32, String)> {
    // A slot that is halted is not taken from, whatever was fetched of it.
    let reading = slots.get_mut(&record.slot)?;
    if let Some(known) = reading.look_back.take()
        && record.offset < reading.next
    {
        if Memory::of(record) == known {
            return None;
        }
        let reason = standing::another_record(reader, record.slot, reading.next);
        slots.remove(&record.slot);
        return Some((record.slot, reason));
    }
    batch.push(reading.next, record);
    reading.next = record.offset + 1;
    None
}

pub(crate) fn list(topic: &str, offsets: impl Iterator<Item = (u32, i64)>) -> KafkaResult<TopicPartitionList> {
    let mut list = TopicPartitionList::new();
    for (slot, offset) in offsets {
        list.add_partition_offset(topic, slot.cast_signed(), Offset::Offset(offset))?;
    }
    Ok(list)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn record(offset: i64, value: &[u8]) -> Record<'_> {
        Record { slot: 1, offset, timestamp: 7, key: None, value: Some(value) }
    }

    fn read(look_back: Option<Memory>, records: &[Record<'_>]) -> (Batch, Vec<(u32, String)>) {
        let mut slots = BTreeMap::from([(1, Reading { next: 5, look_back })]);
        let mut batch = Batch::default();
        let reader = standing::Reader { topic: "t", group: None };
        let halts = records.iter().filter_map(|record| take(&mut slots, reader, &mut batch, record)).collect();
        (batch, halts)
    }

    #[test]
    fn the_last_applied_record_is_looked_at_and_not_given_again() {
        let (batch, pending) = read(Some(Memory::of(&record(4, b"a"))), &[record(4, b"a"), record(5, b"b")]);
        assert_eq!((batch.len(), batch.begins.get(&1), pending.len()), (1, Some(&5), 0));
    }

    #[test]
    fn only_batches_of_many_records_come_apart() {
        let after = |records, worked| apart(records, Duration::from_millis(worked)).as_millis();
        assert_eq!([0, 1, 99, 100, 8_000].map(|records| after(records, 10)), [0, 0, 0, 20, 20]);
        assert_eq!([0, 13, 20, 50, 5_000].map(|worked| after(1_000, worked)), [20, 20, 30, 50, 50]);
    }

    #[test]
    fn a_record_that_was_compacted_away_is_not_missed() {
        let (batch, pending) = read(Some(Memory::of(&record(4, b"a"))), &[record(6, b"b")]);
        assert_eq!((batch.len(), batch.begins.get(&1), pending.len()), (1, Some(&5), 0));
    }

    #[test]
    fn another_log_is_not_read_at_all() {
        let (batch, pending) = read(Some(Memory::of(&record(4, b"a"))), &[record(4, b"z"), record(5, b"b")]);
        assert!(batch.is_empty() && pending[0].0 == 1);
    }
}
