//! Records as the loop sees them: many in one buffer, so that a batch costs a few allocations and not one a field.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::fresh::Size;

/// Most records in a batch.
pub const BATCH_RECORDS: usize = 8_000;
/// A batch is closed once its keys and values are as large as this, in bytes.
pub const BATCH_BYTES: usize = 4 << 20;

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

    /// Whether it should be closed.
    pub fn is_full(&self) -> bool {
        self.entries.len() >= BATCH_RECORDS || self.bytes.len() >= BATCH_BYTES
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
