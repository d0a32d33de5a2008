//! Topics of a service whose Kafka is nobody's but the user's: made if they are missing, checked if they are there.

use std::collections::BTreeMap;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::BaseConsumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use shardlane_runtime::config::{ServiceConfig, TopicConfig};
use shardlane_runtime::kafka;

/// Why the topics cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TopicError {
    /// The broker did not answer, or not well.
    #[error("Kafka: {0}")]
    Kafka(#[from] KafkaError),
    /// The broker would not make a topic.
    #[error("Kafka did not make the topic {topic}: {code}")]
    NotMade {
        /// The topic.
        topic: String,
        /// The broker's word.
        code: RDKafkaErrorCode,
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

impl TopicError {
    /// Whether it is worth trying again without anybody doing anything.
    pub fn passes(&self) -> bool {
        match self {
            Self::Kafka(_) => true,
            Self::NotMade { code, .. } => {
                matches!(code, RDKafkaErrorCode::RequestTimedOut | RDKafkaErrorCode::NotController)
            }
            Self::Partitions { .. } => false,
        }
    }
}

/// Makes what is missing and checks what is there.
pub async fn prepare(config: &ServiceConfig) -> Result<(), TopicError> {
    let client = kafka::client(&config.kafka, &format!("{}-mover", config.name));
    let consumer: BaseConsumer = client.create()?;
    let admin: AdminClient<DefaultClientContext> = client.create()?;
    for topic in &config.topics {
        let found = match kafka::partitions_of(&consumer, &topic.name)? {
            Some(found) => found,
            None => make(&admin, topic).await?,
        };
        if found != topic.partitions {
            let (topic, wanted) = (topic.name.clone(), topic.partitions);
            return Err(TopicError::Partitions { topic, found, wanted });
        }
    }
    Ok(())
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
