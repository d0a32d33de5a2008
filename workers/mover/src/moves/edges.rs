//! What moving needs of the world outside: shards and the hint topic. The real ones are [`super::postgres`]; a test can put a
//! simulation in their place, or break them on purpose.
//!
//! Each step is one transaction on one shard, which first locks the `slot` rows that it is about and looks whether they are
//! still this attempt's: a mover that stalled and wakes after its successor changes nothing.

use std::time::Duration;

use shardlane_runtime::hint::Hint;
use shardlane_runtime::standing::Standings;

use super::pace::Haste;

/// Slots that move together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Group {
    /// The partition whose shard they leave.
    pub from: u32,
    /// The partition whose shard they go to.
    pub to: u32,
    /// The slots, in order.
    pub slots: Vec<u32>,
}

impl Group {
    /// The partitions whose shards it is about.
    pub fn shards(&self) -> [u32; 2] {
        [self.from, self.to]
    }
}

/// A group that moves, and the attempt that moves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Its id, which no other attempt has.
    pub id: String,
    /// What moves.
    pub group: Group,
}

/// What the id of an attempt ends with that is given up.
const GIVEN_UP: &str = "-given-up";

/// All slots of these attempts.
pub fn slots_of(attempts: &[Attempt]) -> Vec<u32> {
    attempts.iter().flat_map(|attempt| attempt.group.slots.iter().copied()).collect()
}

impl Attempt {
    /// The attempt under which what was begun for this one is deleted; `None`: it is that already.
    pub fn given_up(&self) -> Option<Self> {
        let id = format!("{}{GIVEN_UP}", self.id);
        (!self.id.ends_with(GIVEN_UP)).then(|| Self { id, group: self.group.clone() })
    }
}

/// The states of a slot's row in a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// On its way to this shard; nobody works on it here.
    Incoming,
    /// Worked on.
    Active,
    /// Worked on, while its rows are copied; nothing of it is pruned.
    Leaving,
    /// Not worked on, so that the last of its rows can be copied.
    Fenced,
    /// Another shard's.
    Moved,
}

impl State {
    /// As the shard writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Incoming => "incoming",
            Self::Active => "active",
            Self::Leaving => "leaving",
            Self::Fenced => "fenced",
            Self::Moved => "moved",
        }
    }

    /// What the shard has written.
    pub fn of(name: &str) -> Option<Self> {
        [Self::Incoming, Self::Active, Self::Leaving, Self::Fenced, Self::Moved]
            .into_iter()
            .find(|state| state.name() == name)
    }

    /// Whether a shard with the slot in this state is the one that has its truth.
    pub fn owns(self) -> bool {
        matches!(self, Self::Active | Self::Leaving | Self::Fenced)
    }
}

/// A slot's row, as far as moving needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotRow {
    /// The partition whose shard it is in.
    pub partition: u32,
    /// The slot.
    pub slot: u32,
    /// Its state there.
    pub state: State,
    /// The attempt that wrote it.
    pub attempt: Option<String>,
    /// How often it has changed its owner.
    pub epoch: i64,
    /// Where it went, if it did.
    pub moved_to: Option<u32>,
}

/// Why a step was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StepError {
    /// The rows are no longer this attempt's, or not in the state that the step needs. Nothing was changed.
    #[error("the slots are no longer this mover's: {0}")]
    Superseded(String),
    /// The shard or the broker did not answer, or not well; whether the step was done is not known.
    #[error("{0}")]
    Passing(String),
}

/// By how much a hand-over raises a slot's epoch, which the fence has raised by one. A source that is taken back to a time under the
/// fence undoes it, which raises the epoch by one too, and must still be the older one.
pub const HANDED_OVER: i64 = 2;

/// A fence, as it was set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence {
    /// The last batch that may have written rows of the slots.
    pub batch: i64,
    /// Where the slots stand, with the epochs that they have once they are handed over.
    pub standings: Standings,
}

/// Which servers have both sides: a failover changes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lines {
    /// Of the shard that the slots leave.
    pub from: String,
    /// Of the shard that they go to.
    pub to: String,
}

/// What one pass over the source has brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pass {
    /// The last batch that it saw.
    pub batch: i64,
    /// Rows that were copied.
    pub rows: u64,
    /// How much work they were, in rows: large ones are more than one.
    pub work: u64,
    /// Who was asked.
    pub lines: Lines,
    /// What of these rows does not lie in the target as the source has sent it.
    pub differs: Option<String>,
}

/// What rows come to: as many that come to the same are the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    /// How many they are.
    pub rows: u64,
    /// The sum of their digests. As many as there can be have room in twice the bits of one.
    pub digest: i128,
}

impl Sum {
    /// Takes in a row.
    pub fn add(&mut self, digest: i64) {
        *self += Self { rows: 1, digest: digest.into() };
    }
}

impl std::ops::AddAssign for Sum {
    fn add_assign(&mut self, other: Self) {
        self.rows += other.rows;
        self.digest += other.digest;
    }
}

/// Everything that was copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copied {
    /// As of when, and how much. What was written later is left to the next pass.
    pub pass: Pass,
    /// What the rows of each table come to, as the source has sent them.
    pub sums: Vec<Sum>,
}

/// Shards and the hint topic.
pub trait World: Send + Sync {
    /// All slots' rows of a shard.
    fn rows(&self, partition: u32) -> impl Future<Output = Result<Vec<SlotRow>, StepError>> + Send;

    /// How many records a second come to a group's slots just now.
    fn traffic(&self, group: &Group) -> impl Future<Output = Result<u64, StepError>> + Send;

    /// Source: `active` slots become `leaving`. From the return on, nothing of them is pruned. Gives their epochs, in order.
    fn leave(&self, attempt: &Attempt) -> impl Future<Output = Result<Vec<i64>, StepError>> + Send;

    /// Target: the slots become `incoming`, with these epochs. `true`: rows of an earlier time may lie there.
    fn expect(&self, attempt: &Attempt, epochs: &[i64]) -> impl Future<Output = Result<bool, StepError>> + Send;

    /// Target: deletes some of what lies there of `incoming` slots. `false`: nothing is left.
    fn purge(&self, attempt: &Attempt) -> impl Future<Output = Result<bool, StepError>> + Send;

    /// Copies all rows of the slots that nothing has written since it began; `copied` hears of rows on their way.
    fn copy(
        &self,
        attempt: &Attempt,
        copied: &(dyn Fn(u64) + Sync),
    ) -> impl Future<Output = Result<Copied, StepError>> + Send;

    /// Target: what of all that was copied does not lie there as it was sent, before anything else is brought.
    fn compare(
        &self,
        attempt: &Attempt,
        copied: &Copied,
    ) -> impl Future<Output = Result<Option<String>, StepError>> + Send;

    /// Copies rows that were written after a batch, and nothing has written since the pass began, and compares them.
    fn catch_up(
        &self,
        attempt: &Attempt,
        after: i64,
        haste: Haste,
    ) -> impl Future<Output = Result<Pass, StepError>> + Send;

    /// Source: the last batch that is published, and the last one.
    fn relayed(&self, attempt: &Attempt) -> impl Future<Output = Result<(i64, i64), StepError>> + Send;

    /// Source: `leaving` slots become `fenced` for this long at most, under the shard's own lock.
    fn fence(&self, attempt: &Attempt, limit: Duration) -> impl Future<Output = Result<Fence, StepError>> + Send;

    /// Source: `fenced` slots become `moved`. The point from which it only goes forward.
    fn hand_over(&self, attempt: &Attempt) -> impl Future<Output = Result<(), StepError>> + Send;

    /// Source: where `moved` slots stood.
    fn handed_over(&self, attempt: &Attempt) -> impl Future<Output = Result<Standings, StepError>> + Send;

    /// Tells everybody who owns which slot.
    fn publish(&self, hints: &[Hint]) -> impl Future<Output = Result<(), StepError>> + Send;

    /// Target: `incoming` slots become `active`, under the shard's own lock. Doing it again changes nothing.
    fn activate(&self, attempt: &Attempt, standings: &Standings) -> impl Future<Output = Result<(), StepError>> + Send;

    /// Source: slots that are `leaving` or `fenced` become `active` again, under the shard's own lock.
    fn undo(&self, attempt: &Attempt) -> impl Future<Output = Result<(), StepError>> + Send;

    /// Target: `incoming` slots are another attempt's from now on, so that nothing more is copied for this one.
    fn give_up(&self, attempt: &Attempt, id: &str) -> impl Future<Output = Result<(), StepError>> + Send;

    /// Target: `incoming` slots are forgotten, once everything is purged.
    fn forget(&self, attempt: &Attempt) -> impl Future<Output = Result<(), StepError>> + Send;

    /// Source, which all of them share: deletes some rows of `moved` slots. `false`: nothing is left, and the slots are forgotten there.
    fn clean(&self, attempts: &[Attempt]) -> impl Future<Output = Result<bool, StepError>> + Send;
}
