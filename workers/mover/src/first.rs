//! The first slot table, without I/O: which slots are to be written where, given what the shards already hold.

use std::collections::BTreeMap;

use shardlane_runtime::config::initial_owner;

use crate::moves::edges::{SlotRow, State};
use crate::moves::recover::sender;

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum First {
    /// Every slot has its owner; nothing is written.
    Placed,
    /// These slots are to be written, by partition.
    Write(BTreeMap<u32, Vec<u32>>),
}

/// Why the slots cannot be placed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misplaced {
    /// Only part of the slots is there, and not from this plan.
    #[error(
        "the shards hold {held} of {slots} slots, written by other hands than this plan ({plan}): partition \
         {partition} has slot {slot}. A shard may be missing or a foreign database be listed; nothing was written"
    )]
    Partly {
        /// Slots that have an owner.
        held: usize,
        /// Slots that there are.
        slots: u32,
        /// This plan.
        plan: String,
        /// Where one of them is.
        partition: u32,
        /// One of them.
        slot: u32,
    },
    /// The slots were placed once, and some are gone.
    #[error(
        "the shards hold only {held} of {slots} slots, and all were placed before: slot {missing} is missing. A database \
         was lost, or a Secret leads to another one; restore it. Nothing was written"
    )]
    Lost {
        /// Slots that have an owner.
        held: usize,
        /// Slots that there are.
        slots: u32,
        /// One that is missing.
        missing: u32,
    },
    /// A slot has two owners.
    #[error("slot {slot} is owned by the shards of partitions {one} and {other}; nothing was written")]
    Twice {
        /// The slot.
        slot: u32,
        /// An owner.
        one: u32,
        /// Another.
        other: u32,
    },
}

/// Plans the first slot table of `partitions` shards over `slots` slots.
///
/// `placed`: that was done already, so that whatever is missing is lost.
pub fn plan(found: &[SlotRow], partitions: u32, slots: u32, plan_id: &str, placed: bool) -> Result<First, Misplaced> {
    let mut owners = BTreeMap::new();
    for row in found.iter().filter(|row| owns(found, row)) {
        if let Some(one) = owners.insert(row.slot, row.partition) {
            return Err(Misplaced::Twice { slot: row.slot, one, other: row.partition });
        }
    }
    if (0..slots).all(|slot| owners.contains_key(&slot)) {
        return Ok(First::Placed);
    }
    if placed {
        let missing = (0..slots).find(|slot| !owners.contains_key(slot)).unwrap_or_default();
        return Err(Misplaced::Lost { held: owners.len(), slots, missing });
    }
    if let Some(foreign) = found.iter().find(|row| row.attempt.as_deref() != Some(plan_id)) {
        let (partition, slot) = (foreign.partition, foreign.slot);
        return Err(Misplaced::Partly { held: owners.len(), slots, plan: plan_id.to_owned(), partition, slot });
    }
    let mut write: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for slot in (0..slots).filter(|slot| !owners.contains_key(slot)) {
        write.entry(initial_owner(slot, partitions, slots)).or_default().push(slot);
    }
    Ok(First::Write(write))
}

/// Whether a row's shard has the slot's truth, or is about to have it.
pub fn owns(found: &[SlotRow], row: &SlotRow) -> bool {
    row.state.owns() || (row.state == State::Incoming && sender(found, row).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(partition: u32, slot: u32, state: &str, attempt: &str) -> SlotRow {
        let state = State::of(state).unwrap();
        SlotRow { partition, slot, state, attempt: Some(attempt.to_owned()), epoch: 1, moved_to: None }
    }

    #[test]
    fn a_slot_on_its_way_is_not_lost() {
        let sent = SlotRow { moved_to: Some(1), ..row(0, 0, "moved", "a move") };
        let found = [sent, row(1, 0, "incoming", "a move")];
        assert_eq!(plan(&found, 2, 1, "p", true), Ok(First::Placed));
        assert!(plan(&found[..1], 2, 1, "p", true).is_err(), "it never arrived");
    }

    #[test]
    fn empty_shards_get_every_slot_once() {
        let First::Write(write) = plan(&[], 3, 24, "p", false).unwrap() else { panic!("nothing to write") };
        let mut all: Vec<u32> = write.values().flatten().copied().collect();
        all.sort_unstable();
        assert_eq!(all, (0..24).collect::<Vec<_>>());
        assert!(write.values().all(|slots| slots.len() == 8));
    }

    #[test]
    fn a_plan_that_died_half_way_goes_on() {
        let found = [row(0, 0, "active", "p"), row(0, 1, "active", "p")];
        let First::Write(write) = plan(&found, 2, 4, "p", false).unwrap() else { panic!("nothing to write") };
        assert_eq!(write, BTreeMap::from([(1, vec![2, 3])]));
    }

    #[test]
    fn placed_slots_stay_whoever_placed_them() {
        let found: Vec<_> = (0..4).map(|slot| row(3 - slot, slot, "active", "a move")).collect();
        assert_eq!(plan(&found, 4, 4, "p", false), Ok(First::Placed));
    }

    #[test]
    fn a_missing_shard_is_not_taken_for_an_empty_one() {
        let found = [row(0, 0, "active", "another"), row(0, 1, "active", "another")];
        let error = plan(&found, 2, 4, "p", false).unwrap_err();
        assert!(error.to_string().contains("2 of 4"), "{error}");
    }

    #[test]
    fn once_placed_a_shard_that_is_empty_is_lost() {
        let found = [row(0, 0, "active", "p"), row(0, 1, "active", "p")];
        let error = plan(&found, 2, 4, "p", true).unwrap_err();
        assert_eq!(error, Misplaced::Lost { held: 2, slots: 4, missing: 2 });
        assert!(plan(&[], 2, 4, "p", true).is_err());
    }

    #[test]
    fn a_slot_with_two_owners_is_said_to_have_them() {
        let found = [row(0, 0, "active", "p"), row(1, 0, "leaving", "p")];
        assert_eq!(plan(&found, 2, 1, "p", false), Err(Misplaced::Twice { slot: 0, one: 0, other: 1 }));
    }
}
