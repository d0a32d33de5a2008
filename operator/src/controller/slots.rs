//! Which partition works on which slots: pure, from what the workers say.

use std::collections::BTreeSet;

use shardlane_config::{in_ranges, initial_owner};

use super::status::Facts;
use crate::api::status::ServiceStatus;
use crate::identity::Identity;

/// The slots of each shard's partition, in order.
///
/// A worker that does not answer has those that it last had, less those that another one has by now. Before anybody has ever
/// said anything, and anything was ever moved, they lie where they were first placed.
pub fn of_partitions(facts: &Facts<'_>, identity: &Identity, last: Option<&ServiceStatus>) -> Vec<BTreeSet<u32>> {
    let partitions: Vec<u32> = facts.shards.iter().map(|shard| shard.partition).collect();
    let said: Vec<_> = partitions.iter().map(|partition| said(facts, identity, *partition)).collect();
    let taken: BTreeSet<u32> = said.iter().flatten().flatten().copied().collect();
    let silent = |partition: u32| &known(identity, last, partition) - &taken;
    partitions.iter().zip(said).map(|(partition, said)| said.unwrap_or_else(|| silent(*partition))).collect()
}

/// What a worker says that it has; `None` if it does not know it yet.
fn said(facts: &Facts<'_>, identity: &Identity, partition: u32) -> Option<BTreeSet<u32>> {
    let status = facts.found.statuses.get(&facts.names.worker_pod(partition))?;
    // Slots that somebody added to a topic belong to nobody.
    let slots = status.slots.iter().map(|each| each.slot).filter(|slot| *slot < identity.max_partitions);
    let slots: BTreeSet<_> = slots.collect();
    // Only in a move is one without slots; else it has not read them yet.
    (!slots.is_empty() || (status.ready && !identity.settled)).then_some(slots)
}

fn known(identity: &Identity, last: Option<&ServiceStatus>, partition: u32) -> BTreeSet<u32> {
    let last = last.and_then(|last| last.partitions.iter().find(|each| each.partition == partition));
    match last {
        Some(last) => in_ranges(&last.slots),
        None if identity.plan == 0 => {
            let first = |slot: &u32| initial_owner(*slot, identity.partitions, identity.max_partitions) == partition;
            (0..identity.max_partitions).filter(first).collect()
        }
        None => BTreeSet::new(),
    }
}
