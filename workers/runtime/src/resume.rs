//! Going on with a slot that halted because its log is not the one that its shard knows: a decision for a person.

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::{Offset, TopicPartitionList};
use shardlane_config::{ConfigError, ServiceConfig};
use sqlx::{Connection, PgConnection};

use crate::database::{ShardAddress, within};
use crate::intake::Memory;
use crate::kafka;
use crate::reader::as_record;
use crate::shard;
use crate::standing::{self, Extent, Standing};

/// How long the record before the slot's next one is waited for.
const LOOK_BACK: Duration = Duration::from_secs(10);

/// Why a slot does not go on.
#[derive(Debug, thiserror::Error)]
pub enum ResumeError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Kafka did not answer, or not well.
    #[error("Kafka: {0}")]
    Kafka(#[from] KafkaError),
    /// The shard did not answer, or not well.
    #[error("Postgres: {0}")]
    Shard(#[from] sqlx::Error),
    /// The slot is another shard's.
    #[error("slot {0} is not one that this shard works on; its worker's /status shows which are")]
    NotHere(u32),
    /// Nothing is wrong with the slot.
    #[error(
        "slot {slot} is not halted: its log is the one that the shard knows, and it stands at {next}. Nothing was changed"
    )]
    NotHalted {
        /// The slot.
        slot: u32,
        /// Where it stands.
        next: i64,
    },
    /// The log has no such offset.
    #[error("partition {slot} holds the offsets {} to {}; --offset={offset} is not among them", log.start, log.end)]
    OutOfLog {
        /// The slot.
        slot: u32,
        /// What was asked for.
        offset: i64,
        /// What there is.
        log: Extent,
    },
}

/// Lets a halted slot go on from an offset, or from where its log starts now. Gives the offset.
pub async fn resume(
    config: &ServiceConfig,
    input: &str,
    address: &ShardAddress,
    slot: u32,
    offset: Option<i64>,
) -> Result<i64, ResumeError> {
    let topic = &config.topic(input)?.name;
    let consumer: BaseConsumer = kafka::consumer(&config.kafka, &format!("{}-resume", config.name), 1).create()?;
    let topic_id = kafka::describe(&consumer, topic)?.id;
    let logs = kafka::extents(&consumer, topic, std::iter::once(slot))?;
    let log = *logs.get(&slot).ok_or(ResumeError::NotHere(slot))?;
    let from = offset.unwrap_or(log.start);
    if from < log.start || from > log.end {
        return Err(ResumeError::OutOfLog { slot, offset: from, log });
    }
    let mut connection = address.connect().await?;
    let standing = within(shard::standing(&mut connection, slot)).await?.ok_or(ResumeError::NotHere(slot))?;
    if knows(&consumer, topic, slot, &standing, topic_id.as_deref(), log)? {
        return Err(ResumeError::NotHalted { slot, next: standing.next_offset });
    }
    within(write(&mut connection, slot, &standing, from, topic_id.as_deref())).await?;
    Ok(from)
}

/// Whether the slot's log is the one that its shard knows.
fn knows(
    consumer: &BaseConsumer,
    topic: &str,
    slot: u32,
    standing: &Standing,
    topic_id: Option<&str>,
    log: Extent,
) -> Result<bool, KafkaError> {
    let Ok(start) = standing::start(standing::Reader { topic, group: None }, slot, standing, topic_id, log) else {
        return Ok(false);
    };
    let Some(last) = start.look_back else { return Ok(true) };
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, slot.cast_signed(), Offset::Offset(start.offset))?;
    consumer.assign(&list)?;
    let end = Instant::now() + LOOK_BACK;
    while Instant::now() < end {
        if let Some(message) = consumer.poll(Duration::from_millis(100)) {
            let message = message?;
            let record = as_record(&message);
            return Ok(record.offset >= standing.next_offset || Memory::of(&record) == last);
        }
    }
    // Nothing there to compare with: it was compacted away.
    Ok(true)
}

/// Writes the new standing, if the slot still stands where it stood. The worker sees it within a moment.
async fn write(
    connection: &mut PgConnection,
    slot: u32,
    standing: &Standing,
    from: i64,
    topic_id: Option<&str>,
) -> Result<(), ResumeError> {
    let mut tx = connection.begin().await?;
    sqlx::query("UPDATE shard SET slots_version = slots_version + 1").execute(&mut *tx).await?;
    let done = sqlx::query(
        "UPDATE slot SET next_offset = $1, topic_id = $2, last_timestamp = NULL, last_digest = NULL
         WHERE slot = $3 AND next_offset = $4 AND state IN ('active', 'leaving')",
    )
    .bind(from)
    .bind(topic_id)
    .bind(slot.cast_signed())
    .bind(standing.next_offset)
    .execute(&mut *tx)
    .await?;
    if done.rows_affected() != 1 {
        return Err(ResumeError::NotHere(slot));
    }
    Ok(tx.commit().await?)
}
