//! The topics of a service.

use shardlane_config::{TopicConfig, roles};

/// Largest batch in a dead-letter topic, in bytes: an input of the broker's default limit of 1 MiB, with its headers.
const DEAD_LETTER_BYTES: u32 = 4 << 20;

/// A topic whose partitions are the slots.
pub fn keyed(role: &str, name: &str, slots: u32) -> TopicConfig {
    TopicConfig {
        role: role.to_owned(),
        name: name.to_owned(),
        partitions: slots,
        compacted: false,
        retention_ms: None,
        max_message_bytes: None,
    }
}

/// Where the records go that cannot be taken from a topic.
pub fn dead_letters(source: &TopicConfig) -> TopicConfig {
    TopicConfig {
        role: roles::dead_letter(&source.role),
        name: format!("{}.dlq", source.name),
        // Larger than its source, or what is too large to be good could not be published.
        max_message_bytes: Some(DEAD_LETTER_BYTES),
        ..source.clone()
    }
}

/// Which partition owns which slot, for gateways and people.
pub fn slots(service: &str) -> TopicConfig {
    TopicConfig {
        role: roles::SLOTS.to_owned(),
        name: format!("{service}.slots"),
        partitions: 1,
        compacted: true,
        retention_ms: None,
        max_message_bytes: None,
    }
}
