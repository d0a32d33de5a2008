//! What all measures share: the servers, services on them, and a quiet start.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use rdkafka::consumer::BaseConsumer;
use shardlane_e2e::plain::PlainService;
use shardlane_e2e::setting;
use shardlane_runtime::config::{KafkaConfig, Partitioner, ServiceConfig, TopicConfig, roles};
use shardlane_runtime::kafka;
use shardlane_signup::service::{REQUEST, RESPONSE, SignupSettings};
use sqlx::{Connection, PgConnection};
use tokio::process::Command;

use crate::Options;
use crate::progress::Progress;
use crate::usage::Servers;

/// The partition of every service here: each has one worker and one shard.
pub const PARTITION: u32 = 0;

/// The servers and what was chosen.
pub struct Stage {
    /// What was chosen.
    pub options: Options,
    /// The broker.
    pub kafka: KafkaConfig,
    /// Both servers' processes.
    pub servers: Servers,
    /// Where progress is told.
    pub progress: Progress,
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

    /// A service with a database of its own. Its requests lie in a topic of its own too, or in the one that is given.
    pub async fn service(&self, name: &str, requests: Option<&str>) -> Result<PlainService> {
        let folder = self.folder().join(name);
        PlainService::configured(folder, "signup", self.config(name, requests)?, 1)
            .await
            .with_context(|| format!("service {name}"))
    }

    /// Where services have their files and logs.
    pub fn folder(&self) -> PathBuf {
        self.options.output.join("services")
    }

    fn config(&self, name: &str, requests: Option<&str>) -> Result<ServiceConfig> {
        let slots = self.options.slots;
        let requests = requests.map_or_else(|| format!("{name}.request"), str::to_owned);
        let topics = [
            (REQUEST.to_owned(), requests, slots),
            (RESPONSE.to_owned(), format!("{name}.response"), slots),
            (roles::dead_letter(REQUEST), format!("{name}.request.dlq"), slots),
            (roles::SLOTS.to_owned(), format!("{name}.slots"), 1),
        ];
        let topic = |(role, name, partitions)| TopicConfig {
            compacted: role == roles::SLOTS,
            role,
            name,
            partitions,
            retention_ms: None,
            max_message_bytes: None,
        };
        Ok(ServiceConfig {
            name: name.to_owned(),
            id: uuid::Uuid::new_v4().to_string(),
            max_partitions: slots,
            partitioner: Partitioner::default(),
            kafka: self.kafka.clone(),
            topics: topics.map(topic).into(),
            worker_url: String::new(),
            outcome_retention_ms: None,
            settings: serde_json::from_value(serde_json::to_value(SignupSettings::default())?)?,
        })
    }

    /// Writes out what earlier runs left to be written, so that each run finds the disk idle and a fresh checkpoint.
    pub async fn settle(&self) -> Result<()> {
        let mut admin = PgConnection::connect(&setting("SHARDLANE_TEST_POSTGRES")?).await?;
        sqlx::raw_sql("CHECKPOINT").execute(&mut admin).await?;
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
