//! What the operator tells a worker, a gateway and a mover: one file, one type.
//!
//! The operator writes it as YAML into a service's ConfigMap; everything that runs for the service reads it at its
//! start. What belongs to one kind of service alone is in [`ServiceConfig::settings`] and opaque here.
//! Nothing secret is in it: credentials come as mounted files or environment variables.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// File beside [`CONFIG_PATH`] that is there once every slot was placed: an empty shard is then a lost one.
pub const PLACED_FILE: &str = "placed";

mod kafka;
mod placement;

pub use kafka::{KafkaConfig, Password, SaslConfig, TlsConfig};
pub use placement::{in_ranges, initial_owner, ranges};

/// The path at which every container of a service finds its configuration.
pub const CONFIG_PATH: &str = "/etc/shardlane/service.yaml";

/// One service: a custom resource, as its processes need to know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceConfig {
    /// Name of the custom resource.
    pub name: String,
    /// Identity of the service's data. It outlives the custom resource, so that a re-created one takes up its shards.
    pub id: String,
    /// Number of slots: Kafka partitions of each keyed topic. Fixed for ever.
    pub max_partitions: u32,
    /// How a key finds its slot. Fixed for ever.
    pub partitioner: Partitioner,
    /// How to reach Kafka.
    pub kafka: KafkaConfig,
    /// Every topic of the service, by role.
    pub topics: Vec<TopicConfig>,
    /// Base URL of a partition's worker, with `{partition}` for its number; gateways read through it.
    pub worker_url: String,
    /// How long outcomes and dead letters are kept in the shards, in milliseconds; for ever if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome_retention_ms: Option<u64>,
    /// What belongs to this kind of service alone.
    #[serde(default)]
    pub settings: serde_yaml::Value,
}

/// A topic and how it is made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TopicConfig {
    /// What the service uses it for, e.g. `request`; [`roles`] names those that every kind has.
    pub role: String,
    /// Its name in Kafka.
    pub name: String,
    /// Number of Kafka partitions.
    pub partitions: u32,
    /// Keep the last record of each key instead of all records of some time.
    #[serde(default)]
    pub compacted: bool,
    /// How long records are kept, in milliseconds; the broker's own setting if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention_ms: Option<i64>,
    /// Largest record batch that the broker takes, in bytes; the broker's own setting if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_message_bytes: Option<u32>,
}

/// Roles of topics that every kind of service has.
pub mod roles {
    /// The compacted topic that repeats which partition owns which slot.
    pub const SLOTS: &str = "slots";

    /// Where records go that a consumer of the topic with this role cannot take.
    pub fn dead_letter(role: &str) -> String {
        format!("{role}.dlq")
    }
}

/// How a key finds its slot, given its bytes and the number of slots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Partitioner {
    /// The default partitioner of the Java client.
    #[default]
    Murmur2,
    /// The hash partitioner of the Go client sarama.
    Fnv1a,
    /// The default partitioner of librdkafka (`consistent`).
    Crc32,
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is not there or cannot be read.
    #[error(
        "cannot read the service's configuration {path}: {source}. The operator mounts it; by hand, name it with --config"
    )]
    Unreadable {
        /// The file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is no configuration of this version.
    #[error("{path} is not a service configuration that this version understands: {source}")]
    Malformed {
        /// The file.
        path: String,
        /// Where and why.
        source: serde_yaml::Error,
    },
    /// A file with a credential is not there, cannot be read, or is empty.
    #[error("cannot read {path}: {reason}. It comes from the Secret that the service's spec.kafka names")]
    NoCredential {
        /// The file.
        path: String,
        /// What the system said.
        reason: String,
    },
    /// A role that the program needs has no topic.
    #[error("the configuration names no topic for the role {role:?}")]
    NoTopic {
        /// The role.
        role: String,
    },
}

impl ServiceConfig {
    /// Reads a configuration file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Unreadable { path: path.display().to_string(), source })?;
        let mut config: Self = serde_yaml::from_str(&text)
            .map_err(|source| ConfigError::Malformed { path: path.display().to_string(), source })?;
        config.kafka.read_credentials()?;
        Ok(config)
    }

    /// The settings of one kind of service.
    pub fn settings<S: DeserializeOwned>(&self) -> Result<S, ConfigError> {
        serde_yaml::from_value(self.settings.clone())
            .map_err(|source| ConfigError::Malformed { path: "settings".to_owned(), source })
    }

    /// The topic with this role.
    pub fn topic(&self, role: &str) -> Result<&TopicConfig, ConfigError> {
        self.topics
            .iter()
            .find(|topic| topic.role == role)
            .ok_or_else(|| ConfigError::NoTopic { role: role.to_owned() })
    }

    /// The base URL of a partition's worker.
    pub fn worker_url(&self, partition: u32) -> String {
        self.worker_url.replace("{partition}", &partition.to_string())
    }
}
