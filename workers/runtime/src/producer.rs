//! Publishing many records and waiting for all of them at once: awaiting one by one gives about ninety a second.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, Message as _, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};
use tokio::sync::{Notify, oneshot};

/// A record on its way out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outgoing {
    /// Name of the topic.
    pub topic: String,
    /// Its partition.
    pub slot: u32,
    /// The key's bytes.
    pub key: Option<Vec<u8>>,
    /// The value's bytes.
    pub value: Option<Vec<u8>>,
    /// Headers, by name.
    pub headers: Vec<(&'static str, String)>,
}

/// A producer whose deliveries are awaited in numbers.
#[derive(Clone)]
pub struct Producer {
    inner: Arc<ThreadedProducer<Deliveries>>,
}

/// Where the library's thread says how a record fared.
struct Deliveries;

/// Whoever waits for a record.
enum Waiter {
    Flight(Arc<Flight>),
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
    failure: std::sync::Mutex<Option<KafkaError>>,
    landed: Notify,
}

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Box<Waiter>;

    fn delivery(&self, result: &DeliveryResult<'_>, waiter: Self::DeliveryOpaque) {
        let result = match result {
            Ok(message) => Ok(Delivered { slot: message.partition().unsigned_abs(), offset: message.offset() }),
            Err((error, _)) => Err(error.clone()),
        };
        match *waiter {
            Waiter::Flight(flight) => flight.land(result.err()),
            // Whoever asked may have stopped waiting.
            Waiter::One(sender) => drop(sender.send(result)),
        }
    }
}

impl Flight {
    fn land(&self, failure: Option<KafkaError>) {
        if failure.is_some()
            && let Ok(mut first) = self.failure.lock()
        {
            *first = first.take().or(failure);
        }
        if self.under_way.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.landed.notify_one();
        }
    }
}

impl Producer {
    /// A producer with this configuration.
    pub fn new(config: &ClientConfig) -> KafkaResult<Self> {
        Ok(Self { inner: Arc::new(ThreadedProducer::from_config_and_context(config, Deliveries)?) })
    }

    /// Publishes all records, in order within each partition, and returns once all are acknowledged.
    pub async fn publish_all(&self, records: &[Outgoing]) -> KafkaResult<()> {
        let flight = Arc::new(Flight::default());
        // Held by this call until all are handed over, so that it cannot reach zero before.
        flight.under_way.store(1, Ordering::Release);
        for record in records {
            flight.under_way.fetch_add(1, Ordering::AcqRel);
            self.hand_over(record, Waiter::Flight(Arc::clone(&flight))).await?;
        }
        flight.land(None);
        flight.landed.notified().await;
        let failure = flight.failure.lock().ok().and_then(|mut first| first.take());
        failure.map_or(Ok(()), Err)
    }

    /// Publishes one record and says where it landed.
    pub async fn publish(&self, record: &Outgoing) -> KafkaResult<Delivered> {
        let (sender, receiver) = oneshot::channel();
        self.hand_over(record, Waiter::One(sender)).await?;
        receiver.await.unwrap_or(Err(KafkaError::Canceled))
    }

    /// Hands a record to the library, waiting while its queue is full.
    async fn hand_over(&self, record: &Outgoing, waiter: Waiter) -> KafkaResult<()> {
        let mut waiter = Box::new(waiter);
        loop {
            match self.inner.send(base_record(record, waiter)) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), refused)) => {
                    waiter = refused.delivery_opaque;
                    // The library says nothing when there is room again; deliveries free it within its linger.
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                Err((error, _)) => return Err(error),
            }
        }
    }

    /// Waits for what is under way, so that a process that ends loses nothing that it took.
    pub fn flush(&self, patience: Duration) -> KafkaResult<()> {
        self.inner.flush(patience)
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
