//! What bare loops from Kafka into Postgres share: while one batch is written, a thread reads the next one and encodes
//! it, so that the database waits for nothing but the loop's own statements.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{Offset, TopicPartitionList};
use shardlane_runtime::config::ServiceConfig;
use shardlane_runtime::database::ShardAddress;
use shardlane_runtime::kafka;
use shardlane_runtime::reader::as_record;
use shardlane_runtime::record::Record;
use sqlx::PgConnection;
use tokio::sync::mpsc;

/// How a loop works: what may make it faster.
#[derive(clap::Args, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loop {
    /// Requests in a batch.
    #[arg(long)]
    pub batch: usize,
    /// Insert in the order of the largest index.
    #[arg(long)]
    pub sorted: bool,
}

impl Loop {
    /// As arguments of the program.
    pub fn arguments(self) -> Vec<String> {
        let mut arguments = vec![format!("--batch={}", self.batch)];
        arguments.extend(self.sorted.then(|| "--sorted".to_owned()));
        arguments
    }
}

impl std::fmt::Display for Loop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "batches of {}{}", self.batch, if self.sorted { ", sorted" } else { "" })
    }
}

/// From where to where, and how.
#[derive(clap::Args)]
pub struct Ends {
    #[arg(long)]
    config: PathBuf,
    #[arg(long, env = "SHARDLANE_POSTGRES_URI", hide_env_values = true)]
    postgres_uri: String,
    /// How it works.
    #[command(flatten)]
    pub how: Loop,
}

/// Makes of records what the database is given.
pub trait Encoder: Send + 'static {
    /// Role of the topic that is read.
    const REQUESTS: &'static str;
    /// A batch as the database is given it.
    type Encoded: Send + 'static;

    /// Takes the next record of a batch.
    fn take(&mut self, record: &Record<'_>) -> Result<()>;

    /// Encodes what was taken since the last time, as the batch of this number.
    fn encode(&mut self, number: i64) -> Result<Self::Encoded>;
}

impl Ends {
    /// The service whose topic is read.
    pub fn config(&self) -> Result<ServiceConfig> {
        Ok(ServiceConfig::load(&self.config)?)
    }

    /// A connection to the database that is written.
    pub async fn connect(&self) -> Result<PgConnection> {
        Ok(ShardAddress::parse(&self.postgres_uri)?.connect().await?)
    }

    /// Works the topic off from its start to its present end. Prints how many records are committed, after each commit.
    pub async fn join<E: Encoder>(
        &self,
        encoder: E,
        mut write: impl AsyncFnMut(E::Encoded) -> sqlx::Result<()>,
    ) -> Result<()> {
        let (sender, mut batches) = mpsc::channel(1);
        let (config, batch) = (self.config()?, self.how.batch);
        let reading = tokio::task::spawn_blocking(move || read(&config, batch, encoder, &sender));
        let mut committed = 0;
        while let Some((records, encoded)) = batches.recv().await {
            write(encoded).await?;
            committed += records;
            println!("{committed}");
        }
        reading.await?
    }
}

fn read<E: Encoder>(
    config: &ServiceConfig,
    batch: usize,
    mut encoder: E,
    batches: &mpsc::Sender<(usize, E::Encoded)>,
) -> Result<()> {
    let topic = &config.topic(E::REQUESTS)?.name;
    let consumer: BaseConsumer = kafka::consumer(&config.kafka, &config.name, config.max_partitions).create()?;
    let mut list = TopicPartitionList::new();
    let mut left = 0;
    for (slot, log) in kafka::extents(&consumer, topic, 0..config.max_partitions)? {
        list.add_partition_offset(topic, slot.cast_signed(), Offset::Offset(log.start))?;
        left += usize::try_from(log.end - log.start)?;
    }
    consumer.assign(&list)?;
    let mut number = 0;
    while left > 0 {
        let (records, mut taken) = (batch.min(left), 0);
        while taken < records {
            let Some(message) = consumer.poll(Duration::from_secs(1)) else { continue };
            encoder.take(&as_record(&message?)).context("a record is no request")?;
            taken += 1;
        }
        left -= records;
        number += 1;
        if batches.blocking_send((records, encoder.encode(number)?)).is_err() {
            bail!("nobody writes");
        }
    }
    Ok(())
}
