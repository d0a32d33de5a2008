//! Which partition owns a slot of a service that has just been made.

/// The partition that first owns `slot`, of `partitions` over `max_partitions` slots: even, contiguous ranges.
///
/// With both equal, each partition has the slot of its own number.
pub fn initial_owner(slot: u32, partitions: u32, max_partitions: u32) -> u32 {
    let owner = u64::from(slot) * u64::from(partitions) / u64::from(max_partitions.max(1));
    // At most `partitions - 1`, which fits.
    u32::try_from(owner).unwrap_or(partitions.saturating_sub(1))
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
}
