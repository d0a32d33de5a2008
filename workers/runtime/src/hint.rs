//! The hint: a compacted topic that repeats which partition owns which slot, for gateways and for people.
//!
//! The truth is in the shards' `slot` rows; a reader of a stale hint is told so by the shard, and asks again.

use serde::{Deserialize, Serialize};

/// The value of a record of the hint; its key is the slot's number in decimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hint {
    /// The slot.
    pub slot: u32,
    /// The partition that owns it.
    pub partition: u32,
    /// Rises with every change of owner; a reader keeps the highest that it has seen.
    pub epoch: i64,
}

impl Hint {
    /// The record's key.
    pub fn key(&self) -> Vec<u8> {
        self.slot.to_string().into_bytes()
    }
}
