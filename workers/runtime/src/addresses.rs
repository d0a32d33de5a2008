//! Where what a service publishes goes: from roles and keys to topics and partitions.

use std::collections::HashMap;
use std::sync::Arc;

use shardlane_config::{ConfigError, ServiceConfig, roles};

use crate::intake::Keyspace;
use crate::producer::Outgoing;
use crate::relay::REASON;
use crate::service::Message;
use crate::shard::Buried;

/// The topics of a service, for whoever consumes one of them.
pub struct Addresses {
    keyspace: Keyspace,
    topics: HashMap<String, Arc<str>>,
    input: &'static str,
}

impl Addresses {
    /// For the consumer of the topic with the role `input`.
    pub fn new(config: &ServiceConfig, input: &'static str) -> Self {
        let topics = config.topics.iter().map(|topic| (topic.role.clone(), Arc::from(topic.name.as_str()))).collect();
        Self { keyspace: Keyspace::of(config), topics, input }
    }

    fn topic(&self, role: &str) -> Result<Arc<str>, ConfigError> {
        self.topics.get(role).cloned().ok_or_else(|| ConfigError::NoTopic { role: role.to_owned() })
    }

    /// The topic of dead letters.
    pub fn dead_letters(&self) -> Result<Arc<str>, ConfigError> {
        self.topic(&roles::dead_letter(self.input))
    }

    /// A message lies in the partition of its key.
    pub fn outgoing(&self, message: Message) -> Result<Outgoing, ConfigError> {
        Ok(Outgoing {
            topic: self.topic(message.role)?,
            slot: self.keyspace.slot_of(&message.key),
            key: Some(message.key),
            value: Some(message.value),
            headers: Vec::new(),
        })
    }

    /// A dead letter is the record as it was, in the partition in which it lay; what is known of it is in headers.
    pub fn dead_letter(&self, letter: Buried) -> Result<Outgoing, ConfigError> {
        Ok(Outgoing {
            topic: self.dead_letters()?,
            // A record of a partition that somebody added lies where the topic of dead letters has none.
            slot: letter.slot % self.keyspace.slots.max(1),
            key: letter.key,
            value: letter.value,
            headers: vec![
                (REASON, letter.reason),
                ("shardlane.topic", self.topic(self.input)?.to_string()),
                ("shardlane.partition", letter.slot.to_string()),
                ("shardlane.offset", letter.offset.to_string()),
                ("shardlane.timestamp", letter.timestamp.to_string()),
            ],
        })
    }
}
