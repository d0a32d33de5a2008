//! Publishing many records and waiting for all of them at once: awaiting one by one gives about ninety a second.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, Message as _, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};
use tokio::sync::{Notify, oneshot};

use crate::edges::Outlet;
use crate::kafka;

/// A record on its way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// Name of the topic.
    pub topic: Arc<str>,
    /// Its partition.
    pub slot: u32,
    /// The key's bytes.
    pub key: Option<Vec<u8>>,
    /// The value's bytes.
    pub value: Option<Vec<u8>>,
    /// Headers, by name.
    pub headers: Vec<(&'static str, String)>,
}

impl Outgoing {
    /// Its size on the wire, in bytes, nearly.
    pub fn size(&self) -> usize {
        let bytes = |part: &Option<Vec<u8>>| part.as_ref().map_or(0, Vec::len);
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + value.len() + 4).sum();
        bytes(&self.key) + bytes(&self.value) + headers + 32
    }
}

/// How long nothing may be acknowledged before the client is made anew: librdkafka 2.12 can lose all brokers for good when
/// one that restarts answers with an empty list (librdkafka issue 5301).
const STALL: Duration = Duration::from_secs(10);

/// A producer whose deliveries are awaited in numbers. A client that gets nothing through is replaced; what it had not
/// confirmed is told as failed.
#[derive(Clone)]
pub struct Producer {
    config: ClientConfig,
    current: Arc<Mutex<Client>>,
}

#[derive(Clone)]
struct Client {
    library: Arc<ThreadedProducer<Deliveries>>,
    progress: Arc<Progress>,
}

/// When the broker last confirmed something.
struct Progress {
    began: Instant,
    last_ms: AtomicU64,
}

impl Progress {
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn made(&self) {
        self.last_ms.store(self.now(), Ordering::Relaxed);
    }

    fn stalled_since(&self, start: u64) -> bool {
        let last = self.last_ms.load(Ordering::Relaxed).max(start);
        self.now().saturating_sub(last) >= u64::try_from(STALL.as_millis()).unwrap_or(u64::MAX)
    }
}

/// Where the library's thread says how a record fared.
struct Deliveries(Arc<Progress>);

/// Whoever waits for a record.
enum Waiter {
    Flight(Arc<Flight>, usize),
    One(oneshot::Sender<KafkaResult<Delivered>>),
}

/// Where a record has landed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivered {
    /// The Kafka partition.
    pub slot: u32,
    /// The offset.
    pub offset: i64,
}

/// Records that are awaited together.
#[derive(Default)]
struct Flight {
    under_way: AtomicUsize,
    failures: Mutex<Vec<(usize, KafkaError)>>,
    landed: Notify,
}

impl ClientContext for Deliveries {
    fn error(&self, error: KafkaError, reason: &str) {
        kafka::hear(&error, reason);
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Box<Waiter>;

    fn delivery(&self, result: &DeliveryResult<'_>, waiter: Self::DeliveryOpaque) {
        let result = match result {
            Ok(message) => {
                self.0.made();
                Ok(Delivered { slot: message.partition().unsigned_abs(), offset: message.offset() })
            }
            Err((error, _)) => Err(error.clone()),
        };
        match *waiter {
            Waiter::Flight(flight, at) => flight.land(result.err().map(|error| (at, error))),
            // Whoever asked may have stopped waiting.
            Waiter::One(sender) => drop(sender.send(result)),
        }
    }
}

impl Flight {
    fn land(&self, failure: Option<(usize, KafkaError)>) {
        if let Some(failure) = failure
            && let Ok(mut failures) = self.failures.lock()
        {
            failures.push(failure);
        }
        if self.under_way.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.landed.notify_one();
        }
    }
}

/// Whether the broker will never take this record, for its size.
fn too_large(error: &KafkaError) -> bool {
    error.rdkafka_error_code() == Some(RDKafkaErrorCode::MessageSizeTooLarge)
}

impl Producer {
    /// A producer with this configuration.
    pub fn new(config: &ClientConfig) -> KafkaResult<Self> {
        Ok(Self { config: config.clone(), current: Arc::new(Mutex::new(Client::new(config)?)) })
    }

    fn client(&self) -> Client {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces a client that gets nothing through, unless somebody has done so already.
    fn renew(&self, stalled: &Client) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&current.library, &stalled.library) {
            return;
        }
        match Client::new(&self.config) {
            Ok(fresh) => {
                tracing::warn!("Kafka has confirmed nothing for {} s; connecting anew", STALL.as_secs());
                let old = std::mem::replace(&mut *current, fresh);
                // Ending a client waits for its threads.
                std::thread::spawn(move || drop(old));
            }
            Err(error) => tracing::warn!(%error, "cannot make a new Kafka client"),
        }
    }

    /// Publishes all records, in order within each partition, and returns once all are acknowledged or refused. Gives
    /// the places of those that were refused, and why.
    async fn fly(&self, records: &[Outgoing]) -> Vec<(usize, KafkaError)> {
        let client = self.client();
        let start = client.progress.now();
        let flight = Arc::new(Flight::default());
        // Held by this call until all are handed over, so that it cannot reach zero before.
        flight.under_way.store(1, Ordering::Release);
        for (at, record) in records.iter().enumerate() {
            flight.under_way.fetch_add(1, Ordering::AcqRel);
            if let Err(error) = client.hand_over(record, Waiter::Flight(Arc::clone(&flight), at), start).await {
                flight.land(Some((at, error)));
            }
        }
        flight.land(None);
        let library = Arc::clone(&client.library);
        // Nobody waits for it: it only saves the linger.
        drop(tokio::task::spawn_blocking(move || shardlane_librdkafka::send_at_once(library.client(), STALL / 10)));
        while tokio::time::timeout(STALL / 10, flight.landed.notified()).await.is_err() {
            if client.progress.stalled_since(start) {
                self.renew(&client);
                return vec![(0, KafkaError::MessageProduction(RDKafkaErrorCode::MessageTimedOut))];
            }
        }
        flight.failures.lock().map(|mut failures| std::mem::take(&mut *failures)).unwrap_or_default()
    }

    /// Publishes all records or says why not.
    pub async fn publish_all(&self, records: &[Outgoing]) -> KafkaResult<()> {
        self.fly(records).await.into_iter().next().map_or(Ok(()), |(_, error)| Err(error))
    }

    /// Publishes one record and says where it landed.
    pub async fn publish(&self, record: &Outgoing) -> KafkaResult<Delivered> {
        let client = self.client();
        let start = client.progress.now();
        let (sender, receiver) = oneshot::channel();
        client.hand_over(record, Waiter::One(sender), start).await?;
        let delivered = receiver.await.unwrap_or(Err(KafkaError::Canceled));
        if delivered.as_ref().is_err_and(|error| !too_large(error)) && client.progress.stalled_since(0) {
            self.renew(&client);
        }
        delivered
    }

    /// Waits for what is under way, so that a process that ends loses nothing that it took.
    pub fn flush(&self, patience: Duration) -> KafkaResult<()> {
        self.client().library.flush(patience)
    }
}

impl Client {
    fn new(config: &ClientConfig) -> KafkaResult<Self> {
        let progress = Arc::new(Progress { began: Instant::now(), last_ms: AtomicU64::new(0) });
        let library = ThreadedProducer::from_config_and_context(config, Deliveries(Arc::clone(&progress)))?;
        Ok(Self { library: Arc::new(library), progress })
    }

    /// Hands a record to the library, waiting while its queue is full and something gets through.
    async fn hand_over(&self, record: &Outgoing, waiter: Waiter, start: u64) -> KafkaResult<()> {
        let mut waiter = Box::new(waiter);
        loop {
            match self.library.send(base_record(record, waiter)) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), refused))
                    if !self.progress.stalled_since(start) =>
                {
                    waiter = refused.delivery_opaque;
                    // The library says nothing when there is room again; deliveries free it within its linger.
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                Err((error, _)) => return Err(error),
            }
        }
    }
}

impl Outlet for Producer {
    /// Many records travel in one request, and the broker refuses all of one that holds a record that is too large for
    /// the topic. So those are sent again one by one, and with them what came after them in their partitions: the order
    /// stays, and what was already there is there twice.
    async fn deliver_all(&self, records: &[Outgoing]) -> Result<Vec<usize>, String> {
        let refused = self.fly(records).await;
        if let Some((_, error)) = refused.iter().find(|(_, error)| !too_large(error)) {
            return Err(kafka::told(error));
        }
        let mut first: HashMap<(&str, u32), usize> = HashMap::new();
        for (at, _) in refused {
            let place = first.entry((&records[at].topic, records[at].slot)).or_insert(at);
            *place = at.min(*place);
        }
        let mut never = Vec::new();
        if first.is_empty() {
            return Ok(never);
        }
        for (at, record) in records.iter().enumerate() {
            if first.get(&(&*record.topic, record.slot)).is_some_and(|first| at >= *first) {
                match self.fly(std::slice::from_ref(record)).await.pop() {
                    None => {}
                    Some((_, error)) if too_large(&error) => never.push(at),
                    Some((_, error)) => return Err(kafka::told(&error)),
                }
            }
        }
        Ok(never)
    }
}

fn base_record(record: &Outgoing, waiter: Box<Waiter>) -> BaseRecord<'_, [u8], [u8], Box<Waiter>> {
    let mut base = BaseRecord::with_opaque_to(&record.topic, waiter).partition(record.slot.cast_signed());
    if let Some(key) = &record.key {
        base = base.key(key.as_slice());
    }
    if let Some(value) = &record.value {
        base = base.payload(value.as_slice());
    }
    if !record.headers.is_empty() {
        let headers = OwnedHeaders::new_with_capacity(record.headers.len());
        base = base.headers(
            record.headers.iter().fold(headers, |all, (key, value)| all.insert(Header { key, value: Some(value) })),
        );
    }
    base
}
