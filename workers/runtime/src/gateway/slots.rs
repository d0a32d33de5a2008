//! Which partition owns which slot, as the hint topic last said.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, RwLock};

use shardlane_config::{ServiceConfig, roles};

use crate::gateway::GatewayError;
use crate::gateway::tail::{Follower, Start, tail};
use crate::health::Health;
use crate::hint::Hint;

/// The part of a process's health that this is.
pub const SLOTS: &str = "slots";

/// Owners of slots.
#[derive(Clone, Debug, Default)]
pub struct SlotMap {
    hints: Arc<RwLock<HashMap<u32, Hint>>>,
}

impl SlotMap {
    /// Follows the hint topic from its start.
    pub fn follow(config: &ServiceConfig, health: &Health) -> Result<Self, GatewayError> {
        let map = Self::default();
        let learn = map.clone();
        let follower = Follower { kafka: &config.kafka, name: &config.name, part: SLOTS, health };
        tail(follower, config.topic(roles::SLOTS)?, Start::Beginning, move |record| {
            match record.value.map(serde_json::from_slice::<Hint>) {
                Some(Ok(hint)) => learn.learn(hint),
                _ => tracing::warn!(offset = record.offset, "a record of the slots topic was not understood"),
            }
        })?;
        Ok(map)
    }

    /// Takes up a hint unless a newer one is known.
    pub fn learn(&self, hint: Hint) {
        if let Ok(mut hints) = self.hints.write() {
            let known = hints.entry(hint.slot).or_insert(hint);
            if hint.epoch >= known.epoch {
                *known = hint;
            }
        }
    }

    /// What has come after this epoch of a slot, if anything has: a shard whose slot has an older one has been taken back.
    pub fn after(&self, slot: u32, epoch: i64) -> Option<Hint> {
        self.hints.read().ok()?.get(&slot).filter(|hint| hint.epoch > epoch).copied()
    }

    /// All partitions that own a slot.
    pub fn owners(&self) -> BTreeSet<u32> {
        self.hints.read().map(|hints| hints.values().map(|hint| hint.partition).collect()).unwrap_or_default()
    }

    /// The partition that owns a slot.
    pub fn owner(&self, slot: u32) -> Option<u32> {
        Some(self.hints.read().ok()?.get(&slot)?.partition)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_epoch_wins_in_whatever_order_hints_come() {
        let map = SlotMap::default();
        for (partition, epoch) in [(1, 3), (0, 1), (2, 2)] {
            map.learn(Hint { slot: 7, partition, epoch });
        }
        assert_eq!(map.owner(7), Some(1));
        assert_eq!(map.owner(8), None);
    }
}
