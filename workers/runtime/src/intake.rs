//! Sorting a batch, without I/O: what is understood, what is a dead letter, and how far each slot gets.

use std::collections::BTreeMap;

use shardlane_config::{Partitioner, ServiceConfig};

use crate::partitioner::slot_of;
use crate::record::Record;
use crate::service::{Accepted, Rejection, Service};

/// Where each slot of the worker stands: the offset of the next record to apply.
pub type Positions = BTreeMap<u32, i64>;

/// A sorted batch.
#[derive(Debug)]
pub struct Intake<R> {
    /// Requests, in order.
    pub accepted: Vec<Accepted<R>>,
    /// Records that cannot be taken, in order.
    pub dead: Vec<DeadLetter>,
    /// How far each slot gets with this batch.
    pub advances: Vec<Advance>,
}

/// A record that cannot be taken, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// The slot that it lies in.
    pub slot: u32,
    /// Its offset there.
    pub offset: i64,
    /// Its timestamp, in milliseconds since 1970.
    pub timestamp: i64,
    /// Why.
    pub rejection: Rejection,
    /// Its key, as it was.
    pub key: Option<Vec<u8>>,
    /// Its value, as it was.
    pub value: Option<Vec<u8>>,
}

/// A slot's step over the records of one batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advance {
    /// The slot.
    pub slot: u32,
    /// The offset at which it must stand, or the batch is not its next one.
    pub from: i64,
    /// The offset at which it stands afterwards.
    pub to: i64,
    /// The last record.
    pub memory: Memory,
}

/// What a slot remembers of the last record that was applied, to know the log again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Its timestamp, in milliseconds since 1970.
    pub timestamp: i64,
    /// Its digest.
    pub digest: i64,
}

impl Memory {
    /// What is remembered of this record.
    pub fn of(record: &Record<'_>) -> Self {
        Self { timestamp: record.timestamp, digest: digest(record) }
    }
}

/// How keys are spread over slots.
#[derive(Clone, Copy, Debug)]
pub struct Keyspace {
    /// The hash.
    pub partitioner: Partitioner,
    /// The number of slots.
    pub slots: u32,
}

impl Keyspace {
    /// A service's.
    pub fn of(config: &ServiceConfig) -> Self {
        Self { partitioner: config.partitioner, slots: config.max_partitions }
    }

    /// The slot of a key.
    pub fn slot_of(&self, key: &[u8]) -> u32 {
        slot_of(self.partitioner, key, self.slots)
    }

    /// A record in another slot than its key's would let one key live in two places.
    pub fn check(&self, record: &Record<'_>) -> Result<(), Rejection> {
        let key = record
            .key
            .ok_or_else(|| Rejection::new("no_key", "the record has no key: its key decides its Kafka partition"))?;
        match self.slot_of(key) {
            slot if slot == record.slot => Ok(()),
            slot => Err(Rejection::new("misrouted", format!("misrouted: key belongs to {slot}"))),
        }
    }
}

/// Sorts records that follow `positions`.
pub fn sort_out<'a, S: Service>(
    service: &S,
    keyspace: Keyspace,
    positions: &Positions,
    records: impl Iterator<Item = Record<'a>>,
) -> Intake<S::Request> {
    let mut accepted = Vec::with_capacity(records.size_hint().0);
    let mut dead = Vec::new();
    let mut last: BTreeMap<u32, Record<'_>> = BTreeMap::new();
    for record in records {
        let Record { slot, offset, timestamp, .. } = record;
        last.insert(slot, record);
        match keyspace.check(&record).and_then(|()| service.parse(&record)) {
            Ok(request) => accepted.push(Accepted { slot, offset, timestamp, request }),
            Err(rejection) => dead.push(DeadLetter::of(&record, rejection)),
        }
    }
    let advances = last.into_values().map(|record| Advance::over(positions, &record)).collect();
    Intake { accepted, dead, advances }
}

impl DeadLetter {
    /// This record, for this reason.
    pub fn of(record: &Record<'_>, rejection: Rejection) -> Self {
        Self {
            slot: record.slot,
            offset: record.offset,
            timestamp: record.timestamp,
            rejection,
            key: record.key.map(<[u8]>::to_vec),
            value: record.value.map(<[u8]>::to_vec),
        }
    }
}

impl Advance {
    /// From where its slot stands to after this record.
    pub fn over(positions: &Positions, record: &Record<'_>) -> Self {
        Self {
            slot: record.slot,
            // A slot that is not ours has no position; -1 then matches no row, and the batch is refused.
            from: positions.get(&record.slot).copied().unwrap_or(-1),
            to: record.offset + 1,
            memory: Memory::of(record),
        }
    }
}

/// A number by which a record is known again.
pub fn digest(record: &Record<'_>) -> i64 {
    let mut hasher = crc32fast::Hasher::new();
    for part in [record.key, record.value] {
        hasher.update(&part.map_or(-1, |bytes| i64::try_from(bytes.len()).unwrap_or(i64::MAX)).to_be_bytes());
        hasher.update(part.unwrap_or_default());
    }
    i64::from(hasher.finalize())
}
