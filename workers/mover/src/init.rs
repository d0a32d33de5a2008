//! `init`: from a custom resource's empty shards to a service whose workers can start. Running it again changes nothing.

use std::path::PathBuf;

use rdkafka::consumer::BaseConsumer;
use rdkafka::error::KafkaError;
use shardlane_runtime::config::{ConfigError, ServiceConfig};
use shardlane_runtime::database::BadAddress;
use shardlane_runtime::hint::Hint;
use shardlane_runtime::kafka;
use shardlane_runtime::producer::Producer;
use shardlane_runtime::service::Schema;

use crate::first::{First, Misplaced, plan};
use crate::moves::edges::SlotRow;
use crate::moves::postgres::{HintError, publish_hints};
use crate::moves::statements::Trouble;
use crate::patience::{Passing, patiently};
use crate::shards::{FirstLog, Shard, address};
use crate::topics::{self, TopicError};

/// What `init` is told.
#[derive(Clone, Debug)]
pub struct InitOptions {
    /// The service.
    pub config: ServiceConfig,
    /// The service's tables.
    pub schema: Schema,
    /// Identity of the first placement; a second run with it goes on where the first one stopped.
    pub plan_id: String,
    /// Number of shards.
    pub partitions: u32,
    /// Folder with a folder for each shard.
    pub shards: PathBuf,
    /// Every slot was placed before.
    pub placed: bool,
}

/// Why a service cannot be prepared.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A shard's Secret is not mounted.
    #[error("a shard's address is missing: {path}: {source}; its Secret needs the key \"uri\"", path = path.display())]
    NoAddress {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A shard's Secret is wrong.
    #[error("the Secret of partition {partition}: {source}")]
    BadAddress {
        /// The partition.
        partition: u32,
        /// What is wrong.
        source: BadAddress,
    },
    /// A database is somebody else's.
    #[error(
        "the database of partition {partition} belongs to partition {found_partition} of the service with id \
         {found_id:?}, not to this service ({id:?}); give this partition an empty database or its own"
    )]
    Foreign {
        /// The partition.
        partition: u32,
        /// Whose the database is.
        found_id: String,
        /// Whose the database is.
        found_partition: i32,
        /// This service.
        id: String,
    },
    /// The slots cannot be placed.
    #[error(transparent)]
    Misplaced(#[from] Misplaced),
    /// The topics cannot be used.
    #[error(transparent)]
    Topics(#[from] TopicError),
    /// A shard did not answer, or not well.
    #[error("Postgres: {0}")]
    Shard(#[from] sqlx::Error),
    /// Kafka did not answer, or not well.
    #[error("Kafka: {}", kafka::told(.0))]
    Kafka(#[from] KafkaError),
    /// Who owns what could not be told.
    #[error(transparent)]
    Hints(#[from] HintError),
    /// A shard is not as it can be.
    #[error(transparent)]
    Rows(#[from] Trouble),
}

impl Passing for InitError {
    fn passes(&self) -> bool {
        match self {
            Self::Shard(error) => !matches!(error, sqlx::Error::Database(_)) || starting(error),
            Self::Kafka(_) | Self::Hints(HintError::Kafka(_)) => true,
            Self::Rows(Trouble::Shard(error)) => !matches!(error, sqlx::Error::Database(_)) || starting(error),
            Self::Topics(error) => error.passes(),
            _ => false,
        }
    }
}

/// A server that starts, stops, is full, ends a deadlock or has locked something for others refuses with a class of its own (PostgreSQL, appendix A).
fn starting(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| ["57", "53", "55", "08", "40"].iter().any(|class| code.starts_with(class)))
}

/// Prepares a service; tries again for ever while the cause may pass by itself, and tells what it waits for.
pub async fn init(options: &InitOptions, waits: impl Fn(String)) -> Result<(), InitError> {
    patiently(async || attempt(options).await, waits).await
}

async fn attempt(options: &InitOptions) -> Result<(), InitError> {
    let InitOptions { config, schema, plan_id, partitions, shards: folder, placed } = options;
    topics::prepare(config, &schema.input, *placed).await?;
    tracing::info!(topics = config.topics.len(), "topics are there");

    let mut shards = Vec::new();
    let mut found = Vec::new();
    for partition in 0..*partitions {
        let connection = address(folder, partition)?.connect().await?;
        let mut shard = Shard { partition, connection };
        shard.prepare(config, schema).await?;
        found.extend(shard.slots(config).await?);
        shards.push(shard);
    }
    tracing::info!(shards = shards.len(), "tables are there");

    if let First::Write(write) = plan(&found, *partitions, config.max_partitions, plan_id, *placed)? {
        for shard in &mut shards {
            let slots = write.get(&shard.partition).map_or(&[][..], Vec::as_slice);
            shard.write_slots(plan_id, &first_log(config, schema, slots)?).await?;
        }
        tracing::info!(slots = config.max_partitions, "slots are placed");
    }
    let mut placed = Vec::new();
    for shard in &mut shards {
        placed.extend(shard.slots(config).await?);
    }
    say_owners(config, &placed).await
}

/// The log by which slots that are placed now will know it again.
fn first_log(config: &ServiceConfig, schema: &Schema, slots: &[u32]) -> Result<FirstLog, InitError> {
    let topic = &config.topic(&schema.input)?.name;
    let consumer: BaseConsumer = kafka::client(&config.kafka, &format!("{}-mover", config.name)).create()?;
    let topic_id = kafka::describe(&consumer, topic)?.id;
    let logs = kafka::extents(&consumer, topic, slots.iter().copied())?;
    Ok(FirstLog { topic_id, starts: logs.into_iter().map(|(slot, log)| (slot, log.start)).collect() })
}

/// Repeats who owns what where gateways and people read it. Of a slot on its way its mover tells.
async fn say_owners(config: &ServiceConfig, placed: &[SlotRow]) -> Result<(), InitError> {
    let producer = Producer::new(&kafka::lasting_producer(&config.kafka, &format!("{}-mover", config.name)))?;
    let owned = placed.iter().filter(|row| row.state.owns());
    let hint = |row: &SlotRow| Hint { slot: row.slot, partition: row.partition, epoch: row.epoch };
    let hints: Vec<_> = owned.map(hint).collect();
    publish_hints(config, &producer, &hints).await?;
    tracing::info!(slots = hints.len(), "owners are published");
    Ok(())
}
