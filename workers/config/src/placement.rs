//! Which partition owns a slot of a service that has just been made, and how slots are told.

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
    fn runs_of_slots_are_told_by_their_ends() {
        assert_eq!(ranges(&[0, 1, 2, 5, 7, 8]), "0-2,5,7-8");
        assert_eq!(ranges(&[]), "");
    }
}
