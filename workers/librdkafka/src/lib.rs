//! What librdkafka can do and its Rust bindings do not wrap: a Kafka topic's id, by which one that was deleted and made anew is
//! known (KIP-516), and sending at once what a producer would wait with. Everything unsafe of Shardlane is in this file.

use std::ffi::{CStr, CString};
use std::ptr;
use std::time::Duration;

use rdkafka::bindings as c;
use rdkafka::client::{Client, ClientContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};

/// What the broker says of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// Its id, as Kafka's tools print it; `None` from a broker that gives none (before Kafka 2.8).
    pub id: Option<String>,
    /// How many partitions it has.
    pub partitions: usize,
}

/// An object of the library and the function that frees it.
struct Owned<T>(*mut T, unsafe extern "C" fn(*mut T));

impl<T> Owned<T> {
    fn new(pointer: *mut T, free: unsafe extern "C" fn(*mut T)) -> KafkaResult<Self> {
        if pointer.is_null() { Err(refused(RDKafkaErrorCode::Fail)) } else { Ok(Self(pointer, free)) }
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: the pointer came from the library, is not null, and is freed only here, by the function for its type.
        unsafe { (self.1)(self.0) }
    }
}

fn refused(code: RDKafkaErrorCode) -> KafkaError {
    KafkaError::MetadataFetch(code)
}

/// Has a producer send everything that it was given, at once instead of after its linger. Blocks until all of it is delivered or
/// refused, but for at most `patience`.
///
/// The bindings' own flush asks again and again for no time at all, which is over before the library's threads take notice.
pub fn send_at_once<C: ClientContext>(client: &Client<C>, patience: Duration) {
    let wait = i32::try_from(patience.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: the client outlives this call. Whether everything was sent in time is told by the deliveries.
    let _ = unsafe { c::rd_kafka_flush(client.native_ptr(), wait) };
}

/// Asks the broker about a topic; `None` if there is none of that name. Blocks for at most `patience`.
pub fn describe<C: ClientContext>(
    client: &Client<C>,
    topic: &str,
    patience: Duration,
) -> KafkaResult<Option<Described>> {
    let name = CString::new(topic).map_err(|_| refused(RDKafkaErrorCode::InvalidTopic))?;
    let mut names = [name.as_ptr()];
    let wait = i32::try_from(patience.as_millis()).unwrap_or(i32::MAX);
    let native = client.native_ptr();

    // SAFETY: the client outlives this call, `names` holds one string that ends with a zero and lives as long, and what
    // the library gives is checked for null and freed by `Owned`, the event first, as everything in it belongs to it.
    let event = unsafe {
        let topics = Owned::new(
            c::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), names.len()),
            c::rd_kafka_TopicCollection_destroy,
        )?;
        let options = Owned::new(
            c::rd_kafka_AdminOptions_new(native, c::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS),
            c::rd_kafka_AdminOptions_destroy,
        )?;
        let queue = Owned::new(c::rd_kafka_queue_new(native), c::rd_kafka_queue_destroy)?;
        c::rd_kafka_AdminOptions_set_request_timeout(options.0, wait, ptr::null_mut(), 0);
        c::rd_kafka_DescribeTopics(native, topics.0, options.0, queue.0);
        // The request times out by itself; the margin is for its answer.
        let event = c::rd_kafka_queue_poll(queue.0, wait.saturating_add(1_000));
        if event.is_null() {
            return Err(refused(RDKafkaErrorCode::OperationTimedOut));
        }
        Owned(event, c::rd_kafka_event_destroy)
    };

    // SAFETY: the event lives until the end of this function; the result, its descriptions and their strings belong to it.
    unsafe {
        check(RDKafkaErrorCode::from(c::rd_kafka_event_error(event.0)))?;
        let result = c::rd_kafka_event_DescribeTopics_result(event.0);
        if result.is_null() {
            return Err(refused(RDKafkaErrorCode::Fail));
        }
        let mut count = 0;
        let topics = c::rd_kafka_DescribeTopics_result_topics(result, &raw mut count);
        if topics.is_null() || count == 0 {
            return Err(refused(RDKafkaErrorCode::Fail));
        }
        read(*topics)
    }
}

fn check(code: RDKafkaErrorCode) -> KafkaResult<()> {
    if code == RDKafkaErrorCode::NoError { Ok(()) } else { Err(refused(code)) }
}

/// # Safety
/// `description` is one that the library gave and has not freed.
unsafe fn read(description: *const c::rd_kafka_TopicDescription_t) -> KafkaResult<Option<Described>> {
    // SAFETY: as the caller promises; a description always has an error object and an id, and is checked for null still.
    unsafe {
        let error = c::rd_kafka_TopicDescription_error(description);
        if !error.is_null() {
            match RDKafkaErrorCode::from(c::rd_kafka_error_code(error)) {
                RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic => return Ok(None),
                code => check(code)?,
            }
        }
        let mut partitions = 0;
        c::rd_kafka_TopicDescription_partitions(description, &raw mut partitions);
        let id = c::rd_kafka_TopicDescription_topic_id(description);
        let text = if id.is_null() { ptr::null() } else { c::rd_kafka_Uuid_base64str(id) };
        let id = if text.is_null() { None } else { Some(CStr::from_ptr(text).to_string_lossy().into_owned()) };
        Ok(Some(Described { id: id.filter(|id| !id.is_empty() && id != ZERO), partitions }))
    }
}

/// The id of no topic.
const ZERO: &str = "AAAAAAAAAAAAAAAAAAAAAA";
