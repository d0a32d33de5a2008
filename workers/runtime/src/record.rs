//! Records as the loop sees them: many in one buffer, so that a batch costs a few allocations and not one a field.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use crate::fresh::Size;

/// Most records in a batch.
pub const BATCH_RECORDS: usize = 8_000;
/// And how many it always may have.
const FEW_RECORDS: usize = 500;
/// Longest that should be worked on a batch: slots that are to leave wait for the one in hand, and so does each answer of it.
const LONG: Duration = Duration::from_millis(100);
/// A batch is closed once its keys and values are as large as this, in bytes.
pub const BATCH_BYTES: usize = 4 << 20;

/// How long a batch took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Took {
    /// What any batch takes: to begin and to commit, which is long where a standby is far away.
    pub fixed: Duration,
    /// What is done for its records.
    pub work: Duration,
}

/// How many records the next batch may have, when one of so many records, of which it might have had as many as were `allowed`,
/// took so long. Smaller ones would be of no use where what any batch takes is most of it. That one is held up says little of its
/// records, so it halves what is allowed at most.
pub fn most_records(allowed: usize, records: usize, took: Took) -> usize {
    let (long, work) = (LONG.max(took.fixed * 2), took.work);
    let most = if work <= long / 2 {
        allowed * 2
    } else if work <= long {
        allowed
    } else {
        let in_time = u128::try_from(records).unwrap_or(u128::MAX).saturating_mul(long.as_micros()) / work.as_micros();
        usize::try_from(in_time).unwrap_or(usize::MAX).clamp(allowed / 2, allowed)
    };
    most.clamp(FEW_RECORDS, BATCH_RECORDS)
}

/// Longest request id, in bytes.
pub const MAX_REQUEST_ID: usize = 128;

/// A record of one slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// The Kafka partition that it lies in.
    pub slot: u32,
    /// Its place there.
    pub offset: i64,
    /// Milliseconds since 1970, as the producer or the broker stamped it; -1 if it has none.
    pub timestamp: i64,
    /// The key's bytes.
    pub key: Option<&'a [u8]>,
    /// The value's bytes.
    pub value: Option<&'a [u8]>,
}

/// Records in the order in which they were read: within a slot, the order of the log.
#[derive(Debug, Default)]
pub struct Batch {
    /// From which offset each slot was read on: where the shard must say that it stands, or records are missing.
    pub begins: BTreeMap<u32, i64>,
    oldest: Option<i64>,
    bytes: Vec<u8>,
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    slot: u32,
    offset: i64,
    timestamp: i64,
    key: Option<Range<usize>>,
    value: Option<Range<usize>>,
}

impl Batch {
    /// Copies a record to the end; `from` is where its slot had been read to.
    pub fn push(&mut self, from: i64, record: &Record<'_>) {
        self.begins.entry(record.slot).or_insert(from);
        self.oldest = Some(self.oldest.map_or(record.timestamp, |oldest| oldest.min(record.timestamp)));
        let key = record.key.map(|bytes| self.store(bytes));
        let value = record.value.map(|bytes| self.store(bytes));
        self.entries.push(Entry { slot: record.slot, offset: record.offset, timestamp: record.timestamp, key, value });
    }

    /// Leaves out the records of other slots than these.
    pub fn retain(&mut self, keep: impl Fn(u32) -> bool) {
        self.begins.retain(|slot, _| keep(*slot));
        self.entries.retain(|entry| keep(entry.slot));
        self.oldest = self.entries.iter().map(|entry| entry.timestamp).min();
    }

    fn store(&mut self, bytes: &[u8]) -> Range<usize> {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        start..self.bytes.len()
    }

    /// The lowest of the records' timestamps; -1 if it has no record.
    pub fn oldest(&self) -> i64 {
        self.oldest.unwrap_or(-1)
    }

    /// Whether it should be closed, when so many records are enough.
    pub fn is_full(&self, most: usize) -> bool {
        self.entries.len() >= most || self.bytes.len() >= BATCH_BYTES
    }

    /// Number of records.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// How much some of the records hold.
    pub fn size(&self, range: Range<usize>) -> Size {
        let records = range.len();
        let length = |part: &Option<Range<usize>>| part.as_ref().map_or(0, Range::len);
        Size { records, bytes: self.entries[range].iter().map(|entry| length(&entry.key) + length(&entry.value)).sum() }
    }

    /// Whether it has no record.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Some of the records, in order.
    pub fn records(&self, range: Range<usize>) -> impl Iterator<Item = Record<'_>> {
        self.entries[range].iter().map(|entry| Record {
            slot: entry.slot,
            offset: entry.offset,
            timestamp: entry.timestamp,
            key: entry.key.clone().map(|range| &self.bytes[range]),
            value: entry.value.clone().map(|range| &self.bytes[range]),
        })
    }
}

/// Checks a request id; the text says what to do.
pub fn check_request_id(id: &str) -> Result<(), String> {
    check_id("request_id", id)
}

/// Checks what tells a request from others, and is called this; the text says what to do.
pub fn check_id(name: &str, id: &str) -> Result<(), String> {
    if id.is_empty() || id.len() > MAX_REQUEST_ID {
        return Err(format!("{name} has 1 to {MAX_REQUEST_ID} bytes; this has {}", id.len()));
    }
    if id.chars().any(char::is_control) {
        return Err(format!("{name} has no control characters"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_as_large_as_can_be_written_in_time() {
        let took = |fixed, work| Took { fixed: Duration::from_millis(fixed), work: Duration::from_millis(work) };
        let next = |allowed, fixed, work| most_records(allowed, allowed, took(fixed, work));
        assert_eq!([next(8_000, 5, 320), next(4_000, 5, 160)], [4_000, 2_500]);
        assert_eq!([next(2_500, 5, 95), next(2_500, 5, 20), next(8_000, 5, 20)], [2_500, 5_000, BATCH_RECORDS]);
        // A statement that hangs.
        assert_eq!([8_000, 600].map(|allowed| most_records(allowed, 10, took(5, 5_000))), [4_000, FEW_RECORDS]);
        assert_eq!(most_records(FEW_RECORDS, 1, took(5, 4)), 1_000);
        // A standby far away.
        assert_eq!([next(8_000, 200, 320), next(8_000, 5_000, 1)], [BATCH_RECORDS; 2]);
    }
}
