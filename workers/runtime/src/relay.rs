//! The relay: publishes what is committed and not yet published, in order, then notes how far it got.
//!
//! It may publish twice, after a crash between the two, and never leaves anything out: the mark rises only after
//! the broker has acknowledged everything below it.

use std::sync::Arc;
use std::time::Duration;

use shardlane_config::{ConfigError, ServiceConfig, roles};
use sqlx::{Connection, PgConnection};

use crate::database::within;
use crate::intake::Keyspace;
use crate::metrics::Metrics;
use crate::producer::{Outgoing, Producer};
use crate::service::{BatchRange, Message, Service};
use crate::shard::{self, Buried};

/// Most batches published at once: bounds the memory of a relay that has to catch up.
const WINDOW: i64 = 8;

/// Why a relay's round did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// Another worker owns the shard now.
    #[error("another worker has taken over the shard")]
    Fenced,
    /// The shard could not be read or written.
    #[error("the shard: {0}")]
    Shard(#[from] sqlx::Error),
    /// The broker refused a record for good.
    #[error("the broker: {0}")]
    Kafka(#[from] rdkafka::error::KafkaError),
    /// A message is for a topic that the service has not.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// Publishes the outcomes of one shard.
pub struct Relay<S> {
    pub(crate) service: Arc<S>,
    pub(crate) config: Arc<ServiceConfig>,
    pub(crate) keyspace: Keyspace,
    pub(crate) owner: String,
    pub(crate) producer: Producer,
    pub(crate) metrics: Arc<Metrics>,
}

/// Records of some batches, on their way out.
struct Window {
    records: Vec<Outgoing>,
    /// The last batch among them.
    to: i64,
    /// Whether there are batches after it.
    more: bool,
}

impl<S: Service> Relay<S> {
    /// Publishes one window. `false`: there was nothing left to publish.
    pub async fn round(&self, connection: &mut PgConnection) -> Result<bool, RelayError> {
        let Some(window) = within(self.read(connection)).await? else { return Ok(false) };
        // Waits for as long as the broker needs: there is nothing better to do.
        self.producer.publish_all(&window.records).await?;
        if !within(shard::raise_mark(connection, &self.owner, window.to)).await? {
            return Err(RelayError::Fenced);
        }
        self.metrics.relayed(window.records.len());
        Ok(window.more)
    }

    /// What is committed and not yet published, as far as one window goes.
    async fn read(&self, connection: &mut PgConnection) -> Result<Option<Window>, RelayError> {
        let mut snapshot = connection.begin().await?;
        // One snapshot: what it shows below its own batch number is complete and will not change behind the mark.
        sqlx::query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY").execute(&mut *snapshot).await?;
        let waiting = shard::unpublished(&mut snapshot, &self.owner).await?.ok_or(RelayError::Fenced)?;
        if waiting.to <= waiting.after {
            // Dropped, it would stay open until the connection is used again.
            snapshot.rollback().await?;
            return Ok(None);
        }
        let range = BatchRange { to: waiting.to.min(waiting.after + WINDOW), ..waiting };
        let outcomes = self.service.outcomes(&mut snapshot, range).await?;
        let dead = shard::dead_letters(&mut snapshot, range).await?;
        snapshot.commit().await?;

        let mut records = Vec::with_capacity(outcomes.len() + dead.len());
        for message in outcomes {
            records.push(self.outgoing(message)?);
        }
        for letter in dead {
            records.push(self.dead_letter(letter)?);
        }
        Ok(Some(Window { records, to: range.to, more: range.to < waiting.to }))
    }

    fn outgoing(&self, message: Message) -> Result<Outgoing, ConfigError> {
        Ok(Outgoing {
            topic: self.config.topic(message.role)?.name.clone(),
            slot: self.keyspace.slot_of(&message.key),
            key: Some(message.key),
            value: Some(message.value),
            headers: Vec::new(),
        })
    }

    /// A dead letter is the record as it was, in the partition in which it lay; what is known of it is in headers.
    fn dead_letter(&self, letter: Buried) -> Result<Outgoing, ConfigError> {
        let source = &self.config.topic(S::INPUT)?.name;
        Ok(Outgoing {
            topic: self.config.topic(&roles::dead_letter(S::INPUT))?.name.clone(),
            slot: letter.slot,
            key: letter.key,
            value: letter.value,
            headers: vec![
                ("shardlane.reason", letter.reason),
                ("shardlane.topic", source.clone()),
                ("shardlane.partition", letter.slot.to_string()),
                ("shardlane.offset", letter.offset.to_string()),
                ("shardlane.timestamp", letter.timestamp.to_string()),
            ],
        })
    }
}

/// Prepares a connection for relaying.
pub(crate) async fn prepare(connection: &mut PgConnection) -> sqlx::Result<()> {
    // A mark that a crash of Postgres takes back only means that outcomes are published again, so it need not wait
    // for the disk, and holds the fence row all the shorter. The index on batch is right however new the table is.
    sqlx::raw_sql("SET synchronous_commit = off; SET enable_seqscan = off").execute(connection).await?;
    Ok(())
}

/// How often an idle relay looks by itself; a commit wakes it at once.
pub(crate) const IDLE: Duration = Duration::from_secs(1);
