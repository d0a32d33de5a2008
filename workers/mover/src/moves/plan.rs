//! Which slots go where: the fewest moves to an even share, without I/O.

use std::collections::BTreeMap;

use super::edges::Group;

/// Most slots that move together: what is copied in vain when a group is given up, and how long its last rows take.
const TOGETHER: usize = 8;

/// Groups of slots that have to move so that the first `partitions` partitions own all slots in even shares.
///
/// `owners` says who owns each slot now. The answer follows from it alone, so that a plan that is made anew after some of its
/// groups have moved is the rest of the first one.
pub fn plan(owners: &BTreeMap<u32, u32>, partitions: u32) -> Vec<Group> {
    let mut held: BTreeMap<u32, Vec<u32>> = (0..partitions).map(|partition| (partition, Vec::new())).collect();
    for (slot, owner) in owners {
        held.entry(*owner).or_default().push(*slot);
    }
    let shares = shares(&held, partitions, owners.len());
    let mut missing: BTreeMap<u32, usize> = BTreeMap::new();
    let mut spare: Vec<(u32, u32)> = Vec::new();
    for (partition, slots) in &held {
        let share = shares.get(partition).copied().unwrap_or(0);
        if slots.len() < share {
            missing.insert(*partition, share - slots.len());
        }
        spare.extend(slots.iter().skip(share).map(|slot| (*partition, *slot)));
    }
    let mut moves: BTreeMap<(u32, u32), Vec<u32>> = BTreeMap::new();
    let mut spare = spare.into_iter();
    for (to, count) in missing {
        for (from, slot) in spare.by_ref().take(count) {
            moves.entry((from, to)).or_default().push(slot);
        }
    }
    let groups = moves.into_iter().flat_map(|((from, to), mut slots)| {
        slots.sort_unstable();
        let groups = slots.chunks(TOGETHER).map(move |slots| Group { from, to, slots: slots.to_vec() });
        groups.collect::<Vec<_>>()
    });
    groups.collect()
}

/// How many slots each partition is to have: those that have most keep the odd ones.
fn shares(held: &BTreeMap<u32, Vec<u32>>, partitions: u32, slots: usize) -> BTreeMap<u32, usize> {
    let staying = partitions as usize;
    let (each, odd) = (slots / staying.max(1), slots % staying.max(1));
    let mut fullest: Vec<(usize, u32)> =
        held.iter().filter(|(partition, _)| **partition < partitions).map(|(p, slots)| (slots.len(), *p)).collect();
    fullest.sort_by_key(|(len, partition)| (std::cmp::Reverse(*len), *partition));
    fullest.iter().enumerate().map(|(at, (_, partition))| (*partition, each + usize::from(at < odd))).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use shardlane_runtime::config::initial_owner;

    use super::*;

    fn first(partitions: u32, slots: u32) -> BTreeMap<u32, u32> {
        (0..slots).map(|slot| (slot, initial_owner(slot, partitions, slots))).collect()
    }

    fn count(groups: &[Group]) -> usize {
        groups.iter().map(|group| group.slots.len()).sum()
    }

    fn carry_out(owners: &mut BTreeMap<u32, u32>, groups: &[Group]) {
        for group in groups {
            for slot in &group.slots {
                assert_eq!(owners.insert(*slot, group.to), Some(group.from));
            }
        }
    }

    #[test]
    fn from_two_to_three_a_third_moves() {
        let groups = plan(&first(2, 24), 3);
        assert_eq!(count(&groups), 8);
        assert!(groups.iter().all(|group| group.to == 2 && group.slots.len() == 4), "{groups:?}");
    }

    #[test]
    fn down_to_one_moves_all_others_slots_and_nothing_else() {
        let groups = plan(&first(3, 24), 1);
        assert_eq!(count(&groups), 16);
        assert!(groups.iter().all(|group| group.from > 0 && group.to == 0));
        assert!(plan(&first(3, 24), 3).is_empty());
    }

    proptest! {
        #[test]
        fn shares_become_even_with_the_fewest_moves(
            owners in prop::collection::vec(0_u32..9, 1..60), partitions in 1_u32..9, done in 0_usize..20,
        ) {
            let mut owners: BTreeMap<u32, u32> = (0..).zip(owners).collect();
            let (each, slots) = (owners.len() / partitions as usize, owners.len());
            let groups = plan(&owners, partitions);
            let wanted = count(&groups);

            // The fewest: what lies beyond an even share, and an odd slot may stay wherever one is.
            let mut held: Vec<usize> =
                (0..9).map(|p| owners.values().filter(|owner| **owner == p).count()).collect();
            let gone: usize = held.split_off(partitions as usize).iter().sum();
            held.sort_unstable();
            let odd = slots % partitions as usize;
            let fewest: usize = gone + held.iter().rev().enumerate()
                .map(|(at, len)| len.saturating_sub(each + usize::from(at < odd))).sum::<usize>();
            prop_assert_eq!(wanted, fewest);

            // Half of it, then a new plan: the rest of the first.
            let half = &groups[..done.min(groups.len())];
            carry_out(&mut owners, half);
            let rest = plan(&owners, partitions);
            prop_assert_eq!(count(half) + count(&rest), wanted);
            carry_out(&mut owners, &rest);
            for partition in 0..partitions {
                let held = owners.values().filter(|owner| **owner == partition).count();
                prop_assert!(held == each || held == each + 1);
            }
            prop_assert!(plan(&owners, partitions).is_empty());
        }
    }
}
