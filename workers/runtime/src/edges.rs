//! What the loop and the relay need of the world outside. The real ones are [`crate::postgres`], [`crate::reader`] and
//! [`crate::producer`]; others simulate them, or break them on purpose.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::fresh::Fresh;
use crate::intake::{Advance, DeadLetter, Memory, Positions};
use crate::prepare::Prepared;
use crate::producer::Outgoing;
use crate::record::Took;
use crate::service::{Rejection, Service};
use crate::standing::Standings;

/// A shard as its worker finds it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slots {
    /// Changes whenever a slot comes, goes or changes its state.
    pub version: i64,
    /// The slots to work on and where they stand.
    pub standings: Standings,
}

/// Whether a worker may start on a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TakeOver {
    /// It owns the shard now; whoever owned it before is fenced.
    Owned {
        /// How often the shard has been taken over, this time included.
        times: i64,
    },
    /// The mover has not prepared the shard yet.
    NotPrepared,
    /// The database belongs to another service or partition.
    Foreign {
        /// The service's id in the shard.
        service_id: String,
        /// The partition in the shard.
        partition: i32,
    },
}

/// What the fence says of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fence {
    /// Number of this transaction's batch.
    pub batch: i64,
    /// The slots' version now.
    pub slots_version: i64,
    /// Whether each slot stood where the batch begins, and stands after its records now.
    pub advanced: bool,
}

/// What is to be published of a batch, put into words only when the relay comes to it: the loop has no time for that. A
/// reason instead: the relay must read it from the shard.
pub type Outcomes = Box<dyn FnOnce() -> Result<Vec<Outgoing>, String> + Send>;

/// Why a step on a shard failed. Either way its transaction is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShardError {
    /// The shard did not answer or cannot do it just now; whether a commit was done is not known.
    Passing(String),
    /// The shard refuses the data of this transaction, now and for ever.
    Refused(Rejection),
}

/// The loop's side of a shard: one transaction at a time.
pub trait Shard<S: Service>: Send {
    /// Makes this worker the shard's owner, if it is the right shard.
    fn take_over(&mut self) -> impl Future<Output = Result<TakeOver, ShardError>> + Send;

    /// The slots, in one snapshot. `None`: another worker has taken over.
    fn slots(&mut self) -> impl Future<Output = Result<Option<Slots>, ShardError>> + Send;

    /// The slots' version. `None`: another worker has taken over. Reads only.
    fn slots_version(&mut self) -> impl Future<Output = Result<Option<i64>, ShardError>> + Send;

    /// Takes in partitions that are no slots, to be read from these offsets: their records become dead letters.
    fn adopt(&mut self, strays: &[(u32, i64)]) -> impl Future<Output = Result<(), ShardError>> + Send;

    /// Begins a transaction, locks the fence and moves the slots over the batch's records. `None`: another worker has taken over.
    fn begin(&mut self, advances: &[Advance]) -> impl Future<Output = Result<Option<Fence>, ShardError>> + Send;

    /// Writes the service's state and outcomes. Gives what is to be published of it.
    fn apply(&mut self, batch: i64, plan: &Arc<S::Plan>) -> impl Future<Output = Result<Outcomes, ShardError>> + Send;

    /// Stores dead letters. Gives what is to be published of them, with the batch.
    fn bury(&mut self, batch: i64, dead: &[DeadLetter]) -> impl Future<Output = Result<Outcomes, ShardError>> + Send;

    /// Raises the relay's mark and ends the transaction; from its return on, nothing of it can be lost.
    fn commit(&mut self, mark: Option<i64>) -> impl Future<Output = Result<(), ShardError>> + Send;

    /// Ends the transaction as if it had never been.
    fn roll_back(&mut self) -> impl Future<Output = Result<(), ShardError>> + Send;
}

/// What the loop is given of the log.
#[derive(Debug)]
pub enum Read<P> {
    /// Reading of all slots has begun, but for those whose log is not the one that the shard knows, each with the reason.
    Assigned {
        /// The reasons, by slot.
        halted: BTreeMap<u32, String>,
        /// Kafka partitions that somebody added beyond the slots and that nobody reads yet, with the start of their logs.
        strays: Vec<(u32, i64)>,
        /// What a person should know and what stops nothing.
        notices: Vec<String>,
    },
    /// One more slot is not read on.
    Halted {
        /// The slot.
        slot: u32,
        /// Why, and what to do.
        reason: String,
    },
    /// Records to apply.
    Batch(Prepared<P>),
    /// The broker does not answer, or not well.
    Trouble(String),
}

/// The log: records of the assigned slots, one batch ahead.
pub trait Log<S: Service>: Send {
    /// Reads from these standings from now on. Whatever was read before is dropped.
    fn assign(&mut self, standings: Standings);

    /// Slots have come or gone, and nothing else has changed: those that stay are read on, those that came from where they stand.
    /// What was read before still comes, of slots that went too.
    fn change(&mut self, standings: Standings);

    /// Gives these again, before anything else, unless all is read anew.
    fn take_back(&mut self, unwritten: Vec<Read<S::Plan>>);

    /// What comes next of the present assignment; `urgent` if there is nothing to do meanwhile, so that a batch need not wait
    /// to grow. `None` if reading has ended for good. Nothing is lost when this is given up.
    fn next(&mut self, urgent: bool) -> impl Future<Output = Option<Read<S::Plan>>> + Send;

    /// So long took one batch of so many records: the next ones may hold more, or should hold fewer.
    fn took(&mut self, records: usize, took: Took);

    /// Shows Kafka's own tools how far the worker is; nothing depends on it.
    fn show_progress(&mut self, positions: &Positions);
}

/// Records of some batches, on their way out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// In the order in which they are published.
    pub records: Vec<Outgoing>,
    /// The mark: the last batch before them.
    pub after: i64,
    /// The last batch among them; the mark itself if there is nothing to publish.
    pub to: i64,
    /// Whether there are batches after it.
    pub more: bool,
}

/// Why the outbox gave nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OutboxError {
    /// Another worker owns the shard now.
    #[error("another worker has taken over the shard")]
    Fenced,
    /// The shard or the broker does not answer, or not well.
    #[error("{0}")]
    Passing(String),
}

/// The relay's side of a shard.
pub trait Outbox: Send {
    /// What is committed and not yet published, as many batches as fit; of one snapshot. The shard may not know yet how far the
    /// relay is.
    fn window(&mut self, mark: Option<i64>, fresh: &Fresh) -> impl Future<Output = Result<Window, OutboxError>> + Send;

    /// Notes that everything up to a batch is published. `false`: not now, for a batch is being written.
    fn raise_mark(&mut self, batch: i64) -> impl Future<Output = Result<bool, OutboxError>> + Send;
}

/// Where the relay publishes.
pub trait Outlet: Send + Sync {
    /// Publishes records, in order within each partition, and returns once all are acknowledged. Gives the places of
    /// those that the broker will never take, for their size.
    fn deliver_all(&self, records: &[Outgoing]) -> impl Future<Output = Result<Vec<usize>, String>> + Send;
}

/// Time, as far as the loop waits for it.
pub trait Clock: Send + Sync {
    /// Waits.
    fn sleep(&self, wait: Duration) -> impl Future<Output = ()> + Send;

    /// The time now.
    fn now(&self) -> Instant;
}

/// The clock of the runtime.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealClock;

impl Clock for RealClock {
    fn sleep(&self, wait: Duration) -> impl Future<Output = ()> + Send {
        tokio::time::sleep(wait)
    }

    fn now(&self) -> Instant {
        Instant::now()
    }
}

/// What a slot's row says, as its standing.
pub fn memory(timestamp: Option<i64>, digest: Option<i64>) -> Option<Memory> {
    Some(Memory { timestamp: timestamp?, digest: digest? })
}
