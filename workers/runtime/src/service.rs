//! What a service supplies. Everything else, offsets, slots, retries, publishing, is the runtime's.

use std::sync::Arc;

use axum::Router;
use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, PgPool};

use crate::behind::Behind;
use crate::gather::Gathering;
use crate::record::Record;
use crate::shard;

/// One kind of service: what it makes of records, without I/O. Its statements are its [`Tables`].
///
/// A batch of records goes through [`parse`](Self::parse) one by one, then [`fold`](Self::fold), then
/// [`Tables::apply`] inside the transaction that also moves the slots' offsets. What it decides derives from the
/// records and the shard alone: no clock and no chance, so that a replay decides the same.
pub trait Service: Send + Sync + 'static {
    /// A record that was understood.
    type Request: Send + Sync;
    /// A batch, ready to be written with one statement for each table.
    type Plan: Send + Sync;

    /// Role of the keyed topic that it consumes.
    const INPUT: &'static str;

    /// Understands a record, or says why it cannot be taken; it then becomes a dead letter.
    fn parse(&self, record: &Record<'_>) -> Result<Self::Request, Rejection>;

    /// Brings a batch into the form in which it is written. Requests of one slot come in the order of the log.
    fn fold(&self, requests: Vec<Accepted<Self::Request>>) -> Self::Plan;

    /// How batches are gathered before they are written; each is written as soon as it is there, unless a service says otherwise.
    fn gathering(&self) -> Option<Gathering<Self::Plan>> {
        None
    }
}

/// A service's tables in a shard.
pub trait Tables: Service {
    /// What became of requests, not yet in words.
    type Outcomes: Send + 'static;

    /// Tables of outcomes whose rows are removed once they are older than the service keeps outcomes. Each has the
    /// columns `slot` and `batch`.
    const PRUNED: &'static [&'static str];

    /// Writes state and outcomes. Every row that it writes or answers anew carries `batch`. Gives what
    /// [`outcomes`](Self::outcomes) would say of this batch, in any order that keeps each key's. What it has written may be
    /// undone with [`shard::start_over`](crate::shard::start_over), to try in another way.
    fn apply(
        &self,
        tx: &mut PgConnection,
        batch: i64,
        plan: &Arc<Self::Plan>,
    ) -> impl Future<Output = sqlx::Result<Self::Outcomes>> + Send;

    /// What is to be published of the rows whose batch is in the range, in order.
    fn outcomes(
        &self,
        shard: &mut PgConnection,
        range: BatchRange,
    ) -> impl Future<Output = sqlx::Result<Self::Outcomes>> + Send;

    /// Outcomes as they are published.
    fn messages(outcomes: Self::Outcomes) -> sqlx::Result<Vec<Message>>;

    /// Routes through which gateways read this shard, and how far it may be behind.
    fn reads(&self, shard: PgPool, behind: Arc<Behind>) -> Router;
}

/// A request and where its record lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted<R> {
    /// The slot.
    pub slot: u32,
    /// The record's offset in it.
    pub offset: i64,
    /// The record's timestamp, in milliseconds since 1970.
    pub timestamp: i64,
    /// What it asks for.
    pub request: R,
}

/// Longest reason, in bytes.
const REASON_BYTES: usize = 500;

/// Why a record cannot be taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// A word for metrics: one of a few.
    pub kind: &'static str,
    /// What a person needs to mend it.
    pub reason: String,
}

impl Rejection {
    /// What Postgres refuses for its data: a record that passed every rule of the service and still cannot be written.
    pub fn refused(sqlstate: &str, message: &str) -> Self {
        Self::new("refused", format!("Postgres refuses what this record asks for: {message} (SQLSTATE {sqlstate})"))
    }

    /// A rejection of this kind. A reason may quote the record, so it is cut to what a person reads.
    pub fn new(kind: &'static str, reason: impl Into<String>) -> Self {
        let mut reason = reason.into();
        if reason.len() > REASON_BYTES {
            reason.truncate(reason.floor_char_boundary(REASON_BYTES));
            reason.push('…');
        }
        Self { kind, reason }
    }
}

/// Batches after one number, up to and with another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchRange {
    /// The last batch that is already published.
    pub after: i64,
    /// The last batch of the range.
    pub to: i64,
}

/// A record to be published. Its Kafka partition is the slot of its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Role of the topic.
    pub role: &'static str,
    /// The key's bytes.
    pub key: Vec<u8>,
    /// The value's bytes.
    pub value: Vec<u8>,
}

/// What the mover needs to know of a service's shards; the service's `schema` command prints it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Schema {
    /// Statements that make the tables, or leave them as they are.
    pub ddl: String,
    /// Role of the topic whose partitions are the slots.
    pub input: String,
    /// Tables whose rows belong to a slot, led by their `slot` column.
    pub tables: Vec<String>,
}

impl Schema {
    /// A service's tables and the runtime's own, of which the service need not know.
    pub fn of<S: Service>(ddl: &str, tables: &[&str]) -> Self {
        Self {
            ddl: format!("{}\n{ddl}", shard::DDL),
            input: S::INPUT.to_owned(),
            tables: shard::TABLES.iter().chain(tables).map(|name| (*name).to_owned()).collect(),
        }
    }
}
