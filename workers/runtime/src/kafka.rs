//! Clients of Kafka, with the settings that the loop relies on, each with its reason.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::topic_partition_list::TopicPartitionListElem;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use shardlane_config::KafkaConfig;
use shardlane_librdkafka::Described;

use crate::standing::Extent;

/// What the library last said of its connections, and when. The call that fails says only that it did; why comes through a
/// callback, of any client and at any time. So there is one for the process: a person asks why Kafka is not reached.
static LAST_WORD: Mutex<Option<(Instant, String)>> = Mutex::new(None);
/// A word that is older says nothing about an error of now.
const RECENT: Duration = Duration::from_secs(30);

/// Remembers what the library says.
pub fn hear(error: &KafkaError, reason: &str) {
    // That all are lost follows from why each is.
    if error.rdkafka_error_code() != Some(RDKafkaErrorCode::AllBrokersDown)
        && let Ok(mut last) = LAST_WORD.lock()
    {
        // What follows counts milliseconds and repetitions: the same trouble would be another one each time.
        let reason = reason.split(" (after ").next().unwrap_or(reason);
        *last = Some((Instant::now(), reason.to_owned()));
    }
}

/// An error with what the library said just before, for a person.
pub fn told(error: &KafkaError) -> String {
    let last = LAST_WORD.lock().ok().and_then(|last| last.clone()).filter(|(at, _)| at.elapsed() < RECENT);
    match last {
        Some((_, reason)) => format!("{error}: {reason}"),
        None => error.to_string(),
    }
}

/// A client's context that hears what the library says.
#[derive(Clone, Copy, Debug, Default)]
pub struct Listening;

impl ClientContext for Listening {
    fn error(&self, error: KafkaError, reason: &str) {
        hear(&error, reason);
    }
}

impl ConsumerContext for Listening {}

/// Lets a consumer that has failed say why; it does so only when polled. Takes a tenth of a second.
pub fn listen<C: ConsumerContext>(consumer: &BaseConsumer<C>) {
    // A poll that gives nothing may have served something else, so a few are made. What they give are errors, for a client
    // that is asked why it failed reads nothing.
    for _ in 0..10 {
        let _ = consumer.poll(Duration::from_millis(10));
    }
}

/// How long a question to the broker may take.
pub const ASK: Duration = Duration::from_secs(10);

/// What every client needs.
pub fn client(kafka: &KafkaConfig, client_id: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &kafka.bootstrap_servers)
        .set("client.id", client_id)
        // A restarted broker is found again at once, and not after the ten seconds that the library may take.
        .set("reconnect.backoff.max.ms", "1000")
        // A connection over a network that is cut says nothing; the defaults are a minute and half a minute.
        .set("socket.timeout.ms", "10000")
        .set("socket.connection.setup.timeout.ms", "5000")
        .set("socket.keepalive.enable", "true");
    let protocol = match (&kafka.tls, &kafka.sasl) {
        (None, None) => return config,
        (Some(_), None) => "ssl",
        (None, Some(_)) => "sasl_plaintext",
        (Some(_), Some(_)) => "sasl_ssl",
    };
    config.set("security.protocol", protocol);
    if let Some(ca) = kafka.tls.as_ref().and_then(|tls| tls.ca_file.as_ref()) {
        config.set("ssl.ca.location", ca);
    }
    if let Some(sasl) = &kafka.sasl {
        config.set("sasl.mechanism", &sasl.mechanism);
        config.set("sasl.username", &sasl.username).set("sasl.password", &sasl.password.0);
    }
    config
}

/// Most bytes that are fetched of a partition at once.
const FETCHED: u32 = 256 * 1024;
/// Most bytes that our own producers send of a partition at once: of a batch that is larger than what is fetched, a broker gives
/// nothing at all, unless it is the first in its answer.
const SENT: u32 = 200_000;
/// How many partitions have a place in a fetch, for the memory that one takes; and the least, for a large record must have one too.
const PLACES: std::ops::RangeInclusive<u32> = 4..=64;

/// A consumer that is told what to read, of so many partitions: offsets live with the state, so it joins no group.
///
/// All have a place in a fetch, for it to read them at the same pace when it is behind. The library begins to fetch with the same
/// partition again whenever its queue was full, so that of those without a place nothing would come before the first are read to their
/// ends.
pub fn consumer(kafka: &KafkaConfig, client_id: &str, partitions: u32) -> ClientConfig {
    let places = partitions.clamp(*PLACES.start(), *PLACES.end());
    let mut config = client(kafka, client_id);
    config
        .set("group.id", client_id)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        // An offset that is gone is never skipped in silence.
        .set("auto.offset.reset", "error")
        .set("isolation.level", "read_committed")
        .set("fetch.wait.max.ms", "100")
        // The default of a second starves a loop that reads faster than a fetch arrives.
        .set("fetch.queue.backoff.ms", "5")
        // Together these bound what is read ahead, and with it the worker's memory: a small record costs the library several
        // times its own size, and whole responses are kept until their last record is read. A record that is larger than
        // a response still comes, alone.
        .set("queued.min.messages", "10000")
        .set("queued.max.messages.kbytes", "2048")
        .set("max.partition.fetch.bytes", FETCHED.to_string())
        .set("fetch.max.bytes", (places * FETCHED).to_string());
    config
}

/// A producer that never leaves a gap: idempotent, acknowledged by all replicas, retried for ever.
pub fn lasting_producer(kafka: &KafkaConfig, client_id: &str) -> ClientConfig {
    let mut config = client(kafka, client_id);
    config
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("message.timeout.ms", "0")
        // Until a window is handed over; then it is sent at once.
        .set("linger.ms", "100")
        // Dead letters and outputs are larger than inputs, whose limit is the broker's.
        .set("message.max.bytes", "8388608")
        .set("batch.size", SENT.to_string())
        .set("queue.buffering.max.messages", "200000");
    config
}

/// A producer for a person who waits: idempotent and acknowledged by all replicas, but it gives up.
pub fn prompt_producer(kafka: &KafkaConfig, client_id: &str, patience: Duration) -> ClientConfig {
    let mut config = client(kafka, client_id);
    config
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("message.timeout.ms", patience.as_millis().to_string())
        .set("batch.size", SENT.to_string())
        .set("linger.ms", "1");
    config
}

/// Whether an error only tells of a connection that the library makes anew by itself. When no broker is left it says so
/// with another one.
pub fn mends_itself(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(RDKafkaErrorCode::BrokerTransportFailure | RDKafkaErrorCode::OperationTimedOut)
    )
}

/// Where the logs of some partitions begin and end, in two requests however many there are.
pub fn extents<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    topic: &str,
    partitions: impl Iterator<Item = u32> + Clone,
) -> KafkaResult<BTreeMap<u32, Extent>> {
    if partitions.clone().next().is_none() {
        return Ok(BTreeMap::new());
    }
    let mut ends = ends(consumer, topic, partitions.clone())?;
    let starts = offsets(consumer, topic, partitions, Offset::Beginning)?;
    let extent = |(partition, start)| Some((partition, Extent { start, end: ends.remove(&partition)? }));
    Ok(starts.into_iter().filter_map(extent).collect())
}

/// Where the logs of some partitions end, in one request.
pub fn ends<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    topic: &str,
    partitions: impl Iterator<Item = u32>,
) -> KafkaResult<BTreeMap<u32, i64>> {
    offsets(consumer, topic, partitions, Offset::End)
}

/// The library passes the names of both ends through to the broker, as the protocol has them (ListOffsets, -1 and -2).
fn offsets<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    topic: &str,
    partitions: impl Iterator<Item = u32>,
    which: Offset,
) -> KafkaResult<BTreeMap<u32, i64>> {
    let mut list = TopicPartitionList::new();
    for partition in partitions {
        list.add_partition_offset(topic, partition.cast_signed(), which)?;
    }
    let found = consumer.offsets_for_times(list, ASK)?;
    let offset = |element: &TopicPartitionListElem<'_>| {
        element.error()?;
        match element.offset() {
            Offset::Offset(offset) => Ok((element.partition().unsigned_abs(), offset)),
            _ => Err(KafkaError::OffsetFetch(RDKafkaErrorCode::OffsetNotAvailable)),
        }
    };
    found.elements().iter().map(offset).collect()
}

/// What the broker says of a topic; one that is not there is an error.
pub fn describe<C: ConsumerContext>(consumer: &BaseConsumer<C>, topic: &str) -> KafkaResult<Described> {
    let found = shardlane_librdkafka::describe(consumer.client(), topic, ASK)?;
    found.ok_or(KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownTopicOrPartition))
}

/// Number of partitions of a topic; `None` if there is none of that name.
pub fn partitions_of<C: ConsumerContext>(consumer: &BaseConsumer<C>, topic: &str) -> KafkaResult<Option<u32>> {
    let metadata = consumer.fetch_metadata(Some(topic), ASK)?;
    let Some(found) = metadata.topics().iter().find(|found| found.name() == topic) else { return Ok(None) };
    match found.error() {
        Some(rdkafka::types::RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART) => Ok(None),
        Some(error) => Err(KafkaError::MetadataFetch(error.into())),
        None => Ok(u32::try_from(found.partitions().len()).ok()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn however_many_partitions_there_are_there_can_be_a_client() {
        for partitions in [0, 1, 3, 4, 24, 64, 65, 1_024, u32::MAX] {
            let config = consumer(&KafkaConfig::plain("localhost:1"), "test", partitions);
            let client: KafkaResult<BaseConsumer> = config.create();
            assert!(client.is_ok(), "{partitions}: {:?}", client.err());
        }
    }
}
