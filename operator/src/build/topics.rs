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

/// Largest batch in a topic that workers publish what they were sent in, in bytes: what was sent, and what they add.
const PUBLISHED_BYTES: u32 = 2 << 20;

/// Which way records go: from which parts of the service to which. Others may write and read too; that is theirs to
/// arrange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// The parts that write them.
    pub writers: &'static [Component],
    /// The parts that read them.
    pub readers: &'static [Component],
}

impl Flow {
    /// From gateways, and whoever else has a request, to workers.
    pub const IN: Self = Self { writers: &[Component::Gateway], readers: &[Component::Worker] };
    /// From workers to gateways, and whoever else wants to know.
    pub const OUT: Self = Self { writers: &[Component::Worker], readers: &[Component::Gateway] };
    /// From whoever places slots, who looks at what is placed already, to gateways, and to workers, whose shard may have been taken
    /// back to a time before a slot moved.
    const SLOTS: Self =
        Self { writers: &[Component::Init], readers: &[Component::Init, Component::Gateway, Component::Worker] };

    /// From those who read a topic, and cannot take a record of it, to a person.
    fn dead_letters_of(source: Self) -> Self {
        Self { writers: source.readers, readers: &[] }
    }

    /// What a part must be allowed to do, as Kafka calls it.
    pub fn operations(self, part: Component) -> Vec<&'static str> {
        let (reads, writes) = (self.readers.contains(&part), self.writers.contains(&part));
        // The init Job makes topics, and compares those that are there.
        let prepares = part == Component::Init;
        let all = [
            ("Describe", reads || writes || prepares),
            ("DescribeConfigs", prepares),
            ("Read", reads),
            ("Write", writes),
        ];
        all.into_iter().filter(|(_, needed)| *needed).map(|(operation, _)| operation).collect()
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

/// A topic that carries state: the last record of each key is kept, whatever its age.
pub fn compacted(topic: ServiceTopic) -> ServiceTopic {
    let config = TopicConfig { compacted: true, max_message_bytes: Some(PUBLISHED_BYTES), ..topic.config };
    ServiceTopic { config, ..topic }
}

/// Where the records go that cannot be taken from a topic.
pub fn dead_letters(source: &ServiceTopic) -> ServiceTopic {
    let flow = Flow::dead_letters_of(source.flow);
    let source = &source.config;
    let config = TopicConfig {
        role: roles::dead_letter(&source.role),
        name: format!("{}.dlq", source.name),
        // Larger than its source, or what is too large to be good could not be published.
        max_message_bytes: Some(DEAD_LETTER_BYTES),
        // Of a topic that keeps only the last record of a key, every one that could not be taken is kept all the same.
        compacted: false,
        ..source.clone()
    };
    ServiceTopic { config, flow }
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
    ServiceTopic { config, flow: Flow::SLOTS }
}
