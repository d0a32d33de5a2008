//! The topics of a service.

use shardlane_config::{TopicConfig, roles};

use super::names::Component;
use crate::api::kafka::KafkaSpec;
use crate::kind::ServiceKind;

/// Largest batch in a dead-letter topic, in bytes: an input of the broker's default limit of 1 MiB, with its headers.
const DEAD_LETTER_BYTES: u32 = 4 << 20;

/// A topic, and who writes and reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceTopic {
    /// How it is made.
    pub config: TopicConfig,
    /// Which way its records go.
    pub flow: Flow,
}

/// Which way records go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// From gateways, and whoever else has a request, to workers.
    In,
    /// From workers to gateways, and whoever else wants to know.
    Out,
    /// From workers to a person.
    DeadLetters,
    /// From whoever places slots to all others.
    Slots,
}

impl Flow {
    /// What a part must be allowed to do, as Kafka calls it.
    pub fn operations(self, part: Component) -> &'static [&'static str] {
        match (self, part) {
            (Self::In, Component::Worker) | (Self::Out | Self::Slots, Component::Gateway) => &["Describe", "Read"],
            (Self::In, Component::Gateway) | (Self::Out | Self::DeadLetters, Component::Worker) => {
                &["Describe", "Write"]
            }
            (Self::Slots, Component::Init) => &["Describe", "DescribeConfigs", "Read", "Write"],
            (_, Component::Init) => &["Describe", "DescribeConfigs"],
            _ => &[],
        }
    }
}

/// A topic of some Kafka, as one of which there can be two claims.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Topic {
    /// Which Kafka.
    pub kafka: String,
    /// Its name there.
    pub name: String,
}

/// All topics of a service with this name.
pub fn all<K: ServiceKind>(service: &K, name: &str) -> Vec<ServiceTopic> {
    let mut topics = service.topics();
    topics.push(slots(name));
    topics
}

/// Topics of one service, as they are claimed.
pub fn claimed(namespace: &str, kafka: &KafkaSpec, topics: &[ServiceTopic]) -> Vec<Topic> {
    let kafka = match (&kafka.strimzi, &kafka.external) {
        (Some(strimzi), _) => format!("{namespace}/{}", strimzi.cluster),
        (None, Some(external)) => {
            let mut servers: Vec<_> = external.bootstrap_servers.split(',').map(str::trim).collect();
            servers.sort_unstable();
            servers.join(",")
        }
        (None, None) => String::new(),
    };
    topics.iter().map(|topic| Topic { kafka: kafka.clone(), name: topic.config.name.clone() }).collect()
}

/// A topic whose partitions are the slots.
pub fn keyed(role: &str, name: &str, slots: u32, flow: Flow) -> ServiceTopic {
    let config = TopicConfig {
        role: role.to_owned(),
        name: name.to_owned(),
        partitions: slots,
        compacted: false,
        retention_ms: None,
        max_message_bytes: None,
    };
    ServiceTopic { config, flow }
}

/// Where the records go that cannot be taken from a topic.
pub fn dead_letters(source: &ServiceTopic) -> ServiceTopic {
    let source = &source.config;
    let config = TopicConfig {
        role: roles::dead_letter(&source.role),
        name: format!("{}.dlq", source.name),
        // Larger than its source, or what is too large to be good could not be published.
        max_message_bytes: Some(DEAD_LETTER_BYTES),
        ..source.clone()
    };
    ServiceTopic { config, flow: Flow::DeadLetters }
}

/// Which partition owns which slot, for gateways and people.
pub fn slots(service: &str) -> ServiceTopic {
    let config = TopicConfig {
        role: roles::SLOTS.to_owned(),
        name: format!("{service}.slots"),
        partitions: 1,
        compacted: true,
        retention_ms: None,
        max_message_bytes: None,
    };
    ServiceTopic { config, flow: Flow::Slots }
}
