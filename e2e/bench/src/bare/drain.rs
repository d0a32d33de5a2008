//! The barest loop from Kafka into Postgres: one insert of arrays for each batch, committed by itself.
//!
//! While one batch is inserted, a thread reads the next one and encodes it to the last byte, so that the database waits
//! for nothing but one round trip.

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{Offset, TopicPartitionList};
use shardlane_runtime::config::ServiceConfig;
use shardlane_runtime::database::ShardAddress;
use shardlane_runtime::reader::as_record;
use shardlane_runtime::record::Record;
use shardlane_runtime::{kafka, ksuid};
use shardlane_signup::service::REQUEST;
use shardlane_signup::tables::{OPEN, OPEN_IF_FREE};
use shardlane_signup::wire::SignupRequest;
use sqlx::Arguments as _;
use sqlx::postgres::PgArguments;
use tokio::sync::mpsc;

/// How the loop works: what may make it faster.
#[derive(clap::Args, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loop {
    /// Records in a batch.
    #[arg(long)]
    pub batch: usize,
    /// Insert in the order of the names, and so of the index.
    #[arg(long)]
    pub sorted: bool,
    /// Names may come twice.
    #[arg(long)]
    pub repeats: bool,
}

impl Loop {
    /// As arguments of the program.
    pub fn arguments(self) -> Vec<String> {
        let mut arguments = vec![format!("--batch={}", self.batch)];
        arguments.extend(self.sorted.then(|| "--sorted".to_owned()));
        arguments.extend(self.repeats.then(|| "--repeats".to_owned()));
        arguments
    }
}

/// Prints how many records are committed, after each commit.
#[derive(clap::Args)]
pub struct Arguments {
    #[arg(long)]
    config: PathBuf,
    #[arg(long, env = "SHARDLANE_POSTGRES_URI", hide_env_values = true)]
    postgres_uri: String,
    #[command(flatten)]
    how: Loop,
}

/// A batch as the statement takes it.
struct Encoded {
    records: usize,
    arguments: PgArguments,
}

/// Drains the topic of requests from its start to its present end.
pub async fn run(arguments: Arguments) -> Result<()> {
    let config = ServiceConfig::load(&arguments.config)?;
    let mut connection = ShardAddress::parse(&arguments.postgres_uri)?.connect().await?;
    let how = arguments.how;
    let statement = if how.repeats { OPEN_IF_FREE } else { OPEN };
    let (sender, mut batches) = mpsc::channel(1);
    let reading = tokio::task::spawn_blocking(move || read(&config, how, &sender));
    let mut committed = 0;
    while let Some(Encoded { records, arguments }) = batches.recv().await {
        sqlx::query_with(statement, arguments).execute(&mut connection).await?;
        committed += records;
        println!("{committed}");
    }
    reading.await?
}

fn read(config: &ServiceConfig, how: Loop, batches: &mpsc::Sender<Encoded>) -> Result<()> {
    let topic = &config.topic(REQUEST)?.name;
    let consumer: BaseConsumer = kafka::consumer(&config.kafka, &config.name).create()?;
    let mut list = TopicPartitionList::new();
    let mut left = 0;
    for (slot, log) in kafka::extents(&consumer, topic, 0..config.max_partitions)? {
        list.add_partition_offset(topic, slot.cast_signed(), Offset::Offset(log.start))?;
        left += usize::try_from(log.end - log.start)?;
    }
    consumer.assign(&list)?;
    let space = ksuid::space_of(&config.id);
    let mut number = 0;
    while left > 0 {
        let mut batch = Batch::default();
        while batch.records < how.batch.min(left) {
            let Some(message) = consumer.poll(Duration::from_secs(1)) else { continue };
            batch.take(space, how, &as_record(&message?))?;
        }
        left -= batch.records;
        number += 1;
        let encoded = Encoded { records: batch.records, arguments: batch.encode(how, number)? };
        if batches.blocking_send(encoded).is_err() {
            bail!("nobody inserts");
        }
    }
    Ok(())
}

struct Row {
    username: String,
    id: String,
    request_id: String,
    slot: i32,
    offset: i64,
}

#[derive(Default)]
struct Batch {
    records: usize,
    rows: Vec<Row>,
    names: HashSet<String>,
}

impl Batch {
    fn take(&mut self, space: u32, how: Loop, record: &Record<'_>) -> Result<()> {
        self.records += 1;
        let request: SignupRequest<'_> = serde_json::from_slice(record.value.context("no value")?)?;
        if how.repeats && !self.names.insert(request.username.clone().into_owned()) {
            return Ok(());
        }
        self.rows.push(Row {
            username: request.username.into_owned(),
            id: ksuid::of_record(space, record.slot, record.offset, record.timestamp),
            request_id: request.request_id.into_owned(),
            slot: record.slot.cast_signed(),
            offset: record.offset,
        });
        Ok(())
    }

    fn encode(mut self, how: Loop, number: i64) -> Result<PgArguments> {
        if how.sorted {
            self.rows.sort_unstable_by(|one, other| one.username.cmp(&other.username));
        }
        let mut arguments = PgArguments::default();
        let rows = &self.rows;
        let mut add = || {
            arguments.add(number)?;
            arguments.add(rows.iter().map(|row| row.slot).collect::<Vec<_>>())?;
            arguments.add(rows.iter().map(|row| row.offset).collect::<Vec<_>>())?;
            arguments.add(rows.iter().map(|row| &*row.username).collect::<Vec<_>>())?;
            arguments.add(rows.iter().map(|row| &*row.id).collect::<Vec<_>>())?;
            arguments.add(rows.iter().map(|row| &*row.request_id).collect::<Vec<_>>())
        };
        add().map_err(|error| anyhow::anyhow!("cannot encode a batch: {error}"))?;
        Ok(arguments)
    }
}
