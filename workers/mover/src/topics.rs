//! Topics of a service whose Kafka is nobody's but the user's: made if they are missing, checked if they are there.

use std::collections::{BTreeMap, BTreeSet};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::BaseConsumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use shardlane_runtime::config::{ServiceConfig, TopicConfig, roles};
use shardlane_runtime::kafka::{self, Listening};

use crate::patience::Passing;

/// Why the topics cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TopicError {
    /// The broker did not answer, or not well.
    #[error("Kafka: {}", kafka::told(.0))]
    Kafka(#[from] KafkaError),
    /// The broker would not make a topic.
    #[error("Kafka did not make the topic {topic}: {code}")]
    NotMade {
        /// The topic.
        topic: String,
        /// The broker's word.
        code: RDKafkaErrorCode,
    },
    /// The broker would not delete a topic.
    #[error("Kafka did not delete the topic {topic}: {code}")]
    NotDeleted {
        /// The topic.
        topic: String,
        /// The broker's word.
        code: RDKafkaErrorCode,
    },
    /// The broker would not say how a topic is set.
    #[error("Kafka does not say how the topic {topic} is set: {code}")]
    NotDescribed {
        /// The topic.
        topic: String,
        /// The broker's word.
        code: RDKafkaErrorCode,
    },
    /// Records outlive their outcomes.
    #[error(
        "the topic {topic} keeps records {kept}, and the service keeps outcomes for {outcomes} hours only: a request that \
         is read again after that would be taken for a new one. Set outcomeRetentionHours in the spec to more than that \
         (0 keeps outcomes for ever), or the topic's retention.ms to less"
    )]
    KeptLonger {
        /// The topic.
        topic: String,
        /// How long it keeps records.
        kept: String,
        /// How long outcomes are kept.
        outcomes: u64,
    },
    /// A topic of dead letters could not take what its source takes.
    #[error(
        "the topic {topic} takes records of at most {found} bytes, too few for dead letters of {source_topic}, which takes \
         {limit}: set its max.message.bytes to at least {wanted}"
    )]
    TooSmall {
        /// The topic.
        topic: String,
        /// Its limit.
        found: i64,
        /// Where dead letters come from.
        source_topic: String,
        /// The limit there.
        limit: i64,
        /// The least that will do.
        wanted: i64,
    },
    /// A topic has another number of partitions.
    #[error(
        "the topic {topic} has {found} partitions, and the service needs exactly {wanted}: a key's partition is its slot \
         for ever. Name another topic in the spec, or delete this one if nobody needs what is in it"
    )]
    Partitions {
        /// The topic.
        topic: String,
        /// How many it has.
        found: u32,
        /// How many it needs.
        wanted: u32,
    },
}

impl Passing for TopicError {
    fn passes(&self) -> bool {
        match self {
            Self::Kafka(_) => true,
            Self::NotMade { code, .. } | Self::NotDeleted { code, .. } => {
                matches!(code, RDKafkaErrorCode::RequestTimedOut | RDKafkaErrorCode::NotController)
            }
            Self::NotDescribed { code, .. } => matches!(code, RDKafkaErrorCode::RequestTimedOut),
            Self::Partitions { .. } | Self::KeptLonger { .. } | Self::TooSmall { .. } => false,
        }
    }
}

/// Makes what is missing and checks what is there; `input` is the role of the topic that is consumed. Of a service that was
/// `placed` before, a topic that somebody has made wider is the workers' business: they say so and bury what is in there.
pub async fn prepare(config: &ServiceConfig, input: &str, placed: bool) -> Result<(), TopicError> {
    let client = kafka::consumer(&config.kafka, &format!("{}-mover", config.name), 1);
    let consumer: BaseConsumer<Listening> = client.create_with_context(Listening)?;
    let admin: AdminClient<DefaultClientContext> = client.create()?;
    let mut made = BTreeSet::new();
    for topic in &config.topics {
        let found = match kafka::partitions_of(&consumer, &topic.name).inspect_err(|_| kafka::listen(&consumer))? {
            Some(found) => found,
            None => {
                made.insert(topic.name.as_str());
                make(&admin, topic).await?
            }
        };
        if found != topic.partitions && !(placed && found > topic.partitions) {
            let (topic, wanted) = (topic.name.clone(), topic.partitions);
            return Err(TopicError::Partitions { topic, found, wanted });
        }
    }
    let find = |role: &str| config.topics.iter().find(|topic| topic.role == role);
    let (Some(source), Some(dead)) = (find(input), find(&roles::dead_letter(input))) else { return Ok(()) };
    let source_settings = limits(&admin, &source.name).await?;
    check_retention(&source.name, &source_settings, config.outcome_retention_ms)?;
    if made.contains(dead.name.as_str()) {
        // It has what it was made with; the broker may not say so yet.
        return Ok(());
    }
    check_size(&source.name, &source_settings, &dead.name, &limits(&admin, &dead.name).await?)
}

/// Deletes all topics of a service; those that are not there are deleted already.
pub async fn delete(config: &ServiceConfig) -> Result<(), TopicError> {
    let client = kafka::consumer(&config.kafka, &format!("{}-mover", config.name), 1);
    let admin: AdminClient<DefaultClientContext> = client.create()?;
    let consumer: BaseConsumer<Listening> = client.create_with_context(Listening)?;
    let mut topics = Vec::new();
    for topic in &config.topics {
        // A Kafka that is not reached says here why.
        if kafka::partitions_of(&consumer, &topic.name).inspect_err(|_| kafka::listen(&consumer))?.is_some() {
            topics.push(topic.name.as_str());
        }
    }
    if topics.is_empty() {
        return Ok(());
    }
    let options = AdminOptions::new().operation_timeout(Some(kafka::ASK)).request_timeout(Some(kafka::ASK));
    for result in admin.delete_topics(&topics, &options).await? {
        match result {
            Ok(topic) => tracing::info!(topic, "topic deleted"),
            Err((topic, RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic)) => {
                tracing::info!(topic, "there is no such topic");
            }
            Err((topic, code)) => return Err(TopicError::NotDeleted { topic, code }),
        }
    }
    Ok(())
}

/// What a topic's settings allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Limits {
    /// How long records are kept, in milliseconds; `None`: for ever.
    retention_ms: Option<u64>,
    /// Largest batch of records, in bytes.
    max_message_bytes: i64,
}

async fn limits(admin: &AdminClient<DefaultClientContext>, topic: &str) -> Result<Limits, TopicError> {
    let options = AdminOptions::new().request_timeout(Some(kafka::ASK));
    let found = admin.describe_configs([&ResourceSpecifier::Topic(topic)], &options).await?;
    let settings = match found.into_iter().next() {
        Some(Ok(settings)) => settings,
        other => {
            let code = other.and_then(Result::err).unwrap_or(RDKafkaErrorCode::Fail);
            return Err(TopicError::NotDescribed { topic: topic.to_owned(), code });
        }
    };
    let number = |name: &str| settings.get(name).and_then(|entry| entry.value.as_ref()?.parse::<i64>().ok());
    // A broker that does not say is taken to have Kafka's own defaults.
    Ok(Limits {
        retention_ms: u64::try_from(number("retention.ms").unwrap_or(604_800_000)).ok(),
        max_message_bytes: number("max.message.bytes").unwrap_or(1_048_588),
    })
}

/// An outcome that is gone before its request is would let the request be taken for a new one.
fn check_retention(topic: &str, limits: &Limits, outcomes_ms: Option<u64>) -> Result<(), TopicError> {
    const HOUR: u64 = 3_600_000;
    match (limits.retention_ms, outcomes_ms) {
        (_, None) => Ok(()),
        (Some(records), Some(outcomes)) if records <= outcomes => Ok(()),
        (records, Some(outcomes)) => Err(TopicError::KeptLonger {
            topic: topic.to_owned(),
            kept: records.map_or_else(|| "for ever".to_owned(), |ms| format!("for {} hours", ms.div_ceil(HOUR))),
            outcomes: outcomes / HOUR,
        }),
    }
}

/// Bytes of a dead letter's headers, and some more.
const HEADERS: i64 = 4_096;

/// Dead letters are records of the source with headers.
fn check_size(source: &str, limits: &Limits, dead: &str, found: &Limits) -> Result<(), TopicError> {
    let wanted = limits.max_message_bytes + HEADERS;
    if found.max_message_bytes >= wanted {
        return Ok(());
    }
    Err(TopicError::TooSmall {
        topic: dead.to_owned(),
        found: found.max_message_bytes,
        source_topic: source.to_owned(),
        limit: limits.max_message_bytes,
        wanted,
    })
}

async fn make(admin: &AdminClient<DefaultClientContext>, topic: &TopicConfig) -> Result<u32, TopicError> {
    let settings = settings(topic);
    let partitions = i32::try_from(topic.partitions).unwrap_or(i32::MAX);
    // -1: the broker's own replication factor.
    let mut new = NewTopic::new(&topic.name, partitions, TopicReplication::Fixed(-1));
    for (name, value) in &settings {
        new = new.set(name, value);
    }
    let options = AdminOptions::new().operation_timeout(Some(kafka::ASK));
    for result in admin.create_topics([&new], &options).await? {
        match result {
            Ok(_) => tracing::info!(topic = topic.name, partitions, "topic made"),
            Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((topic, code)) => return Err(TopicError::NotMade { topic, code }),
        }
    }
    Ok(topic.partitions)
}

/// A topic's settings as the broker reads them.
fn settings(topic: &TopicConfig) -> BTreeMap<&'static str, String> {
    let mut settings = BTreeMap::new();
    if topic.compacted {
        settings.insert("cleanup.policy", "compact".to_owned());
    }
    if let Some(retention) = topic.retention_ms {
        settings.insert("retention.ms", retention.to_string());
    }
    if let Some(bytes) = topic.max_message_bytes {
        settings.insert("max.message.bytes", bytes.to_string());
    }
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEEK: u64 = 604_800_000;

    fn limits(retention_ms: Option<u64>, max_message_bytes: i64) -> Limits {
        Limits { retention_ms, max_message_bytes }
    }

    #[test]
    fn outcomes_outlive_records() {
        let check = |records, outcomes| check_retention("t", &limits(records, 0), outcomes);
        assert!(check(Some(WEEK), Some(WEEK)).is_ok());
        assert!(check(None, None).is_ok());
        let error = check(Some(2 * WEEK), Some(WEEK)).unwrap_err().to_string();
        assert!(error.contains("for 336 hours") && error.contains("outcomeRetentionHours"), "{error}");
        assert!(check(None, Some(WEEK)).unwrap_err().to_string().contains("for ever"));
    }

    #[test]
    fn dead_letters_are_larger_than_their_source() {
        let check = |source, dead| check_size("t", &limits(None, source), "t.dlq", &limits(None, dead));
        assert!(check(1_048_588, 4 << 20).is_ok());
        let error = check(8 << 20, 4 << 20).unwrap_err().to_string();
        assert!(error.contains("t.dlq") && error.contains("8392704"), "{error}");
    }
}
