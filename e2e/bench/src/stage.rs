//! What all measures share: the servers, services on them, and a quiet start.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use rdkafka::consumer::BaseConsumer;
use shardlane_e2e::plain::{PlainService, administer};
use shardlane_e2e::setting;
use shardlane_runtime::config::{KafkaConfig, Partitioner, ServiceConfig, TopicConfig, roles};
use shardlane_runtime::kafka;
use tokio::process::Command;

use crate::Options;
use crate::kind::Kind;
use crate::progress::Progress;
use crate::usage::Servers;

/// The partition of every service here: each has one worker and one shard.
pub const PARTITION: u32 = 0;

/// The largest dead letter that its topic takes, as the operator has it.
const DEAD_LETTER_BYTES: u32 = 4 << 20;

/// The servers and what was chosen.
pub struct Stage {
    /// What was chosen.
    pub options: Options,
    /// The broker.
    pub kafka: KafkaConfig,
    /// The servers' processes.
    pub servers: Servers,
    /// Where progress is told.
    pub progress: Progress,
}

/// What a service is given instead of something of its own.
#[derive(Clone, Copy, Debug, Default)]
pub struct Given<'a> {
    /// The topic in which its requests lie.
    pub requests: Option<&'a str>,
    /// What its database begins as a copy of.
    pub database: Option<&'a str>,
}

impl Stage {
    /// On the servers that the environment names.
    pub fn new(options: Options) -> Result<Self> {
        Ok(Self {
            kafka: KafkaConfig::plain(&setting("SHARDLANE_TEST_KAFKA")?),
            servers: Servers::of_the_environment()?,
            progress: Progress::new(),
            options,
        })
    }

    /// A service with a database and topics of its own, but for what it is given.
    pub async fn service(&self, kind: Kind, name: &str, given: Given<'_>) -> Result<PlainService> {
        let (folder, config) = (self.folder().join(name), self.config(kind, name, given.requests)?);
        let made = match given.database {
            None => PlainService::configured(folder, kind.program(), config, 1).await,
            Some(database) => PlainService::copied(folder, kind.program(), config, 1, database).await,
        };
        made.with_context(|| format!("service {name}"))
    }

    /// Where services have their files and logs.
    pub fn folder(&self) -> PathBuf {
        self.options.output.join("services")
    }

    fn config(&self, kind: Kind, name: &str, requests: Option<&str>) -> Result<ServiceConfig> {
        let slots = self.options.slots;
        let topic = |role: String| TopicConfig {
            name: requests.filter(|_| role == kind.requests()).map_or_else(|| format!("{name}.{role}"), str::to_owned),
            partitions: if role == roles::SLOTS { 1 } else { slots },
            compacted: kind.is_compacted(&role),
            // A dead letter is a record and why it is one; the mover sees to that when it prepares a service again.
            max_message_bytes: role.ends_with(&roles::dead_letter("")).then_some(DEAD_LETTER_BYTES),
            role,
            retention_ms: None,
        };
        Ok(ServiceConfig {
            name: name.to_owned(),
            id: uuid::Uuid::new_v4().to_string(),
            max_partitions: slots,
            partitioner: Partitioner::default(),
            kafka: self.kafka.clone(),
            topics: kind.roles().into_iter().map(topic).collect(),
            worker_url: String::new(),
            outcome_retention_ms: None,
            settings: serde_json::from_value(kind.settings()?)?,
        })
    }

    /// Writes out what earlier runs left to be written, so that each run finds the disk idle and a fresh checkpoint.
    pub async fn settle(&self) -> Result<()> {
        administer("CHECKPOINT".to_owned()).await?;
        if !Command::new("sync").status().await?.success() {
            bail!("sync failed");
        }
        Ok(())
    }

    /// Number of records in a topic.
    pub async fn records_in(&self, topic: &str) -> Result<i64> {
        let (kafka, topic, slots) = (self.kafka.clone(), topic.to_owned(), self.options.slots);
        tokio::task::spawn_blocking(move || {
            let consumer: BaseConsumer = kafka::client(&kafka, "bench").create()?;
            let logs = kafka::extents(&consumer, &topic, 0..slots)?;
            Ok(logs.values().map(|log| log.end - log.start).sum())
        })
        .await?
    }
}
