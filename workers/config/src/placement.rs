//! Which partition owns a slot of a service that has just been made, and how slots are told.

use std::collections::BTreeSet;

/// The partition that first owns `slot`, of `partitions` over `max_partitions` slots: even, contiguous ranges.
///
/// With both equal, each partition has the slot of its own number.
pub fn initial_owner(slot: u32, partitions: u32, max_partitions: u32) -> u32 {
    let owner = u64::from(slot) * u64::from(partitions) / u64::from(max_partitions.max(1));
    // At most `partitions - 1`, which fits.
    u32::try_from(owner).unwrap_or(partitions.saturating_sub(1))
}

/// Slots in order, as a person reads them: `0-7,9`.
pub fn ranges<'a>(slots: impl IntoIterator<Item = &'a u32>) -> String {
    let slots: Vec<u32> = slots.into_iter().copied().collect();
    let runs = slots.chunk_by(|a, b| a + 1 == *b).filter_map(|run| Some((run.first()?, run.last()?)));
    let said = |(first, last): (&u32, &u32)| if first == last { first.to_string() } else { format!("{first}-{last}") };
    runs.map(said).collect::<Vec<_>>().join(",")
}

/// Slots from [`ranges`]; what is no number is none.
pub fn in_ranges(ranges: &str) -> BTreeSet<u32> {
    let range = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(first.parse::<u32>().ok()?..=last.parse().ok()?)
    };
    ranges.split(',').filter_map(range).flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_partition_gets_its_even_share() {
        for max in 1..=40 {
            for partitions in 1..=max {
                let mut shares = vec![0_u32; partitions as usize];
                for slot in 0..max {
                    shares[initial_owner(slot, partitions, max) as usize] += 1;
                }
                let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
                assert!(most - least <= 1, "{partitions} of {max}: {shares:?}");
            }
        }
    }

    #[test]
    fn one_slot_each_means_the_slot_of_the_same_number() {
        assert!((0..24).all(|slot| initial_owner(slot, 24, 24) == slot));
    }

    #[test]
    fn slots_are_told_as_ranges_and_read_back() {
        let all = [
            (vec![0, 1, 2, 5, 7, 8], "0-2,5,7-8"),
            (vec![0, 1, 2, 3, 7, 9, 10], "0-3,7,9-10"),
            (vec![1, 3, 4], "1,3-4"),
            (vec![3], "3"),
            (vec![0, 1, 2, 3, 4, 5, 6, 7, 9], "0-7,9"),
            (vec![], ""),
        ];
        for (slots, told) in all {
            assert_eq!(ranges(&slots), told);
            assert_eq!(in_ranges(told), BTreeSet::from_iter(slots));
        }
        assert_eq!(in_ranges("x,3-,4"), BTreeSet::from([4]), "what nobody wrote");
    }
}
