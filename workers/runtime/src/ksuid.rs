//! Ids that rise and that a replay makes again: KSUIDs of a record's time and place.

use svix_ksuid::{Ksuid, KsuidLike};

/// Second 0 of a KSUID, in seconds since 1970 (segmentio/ksuid).
const EPOCH: i64 = 1_400_000_000;

/// The id of what a record made: 27 characters, rising with the record's time, then its slot and offset.
///
/// `space` keeps ids of different services apart.
pub fn of_record(space: u32, slot: u32, offset: i64, timestamp: i64) -> String {
    let millis = (timestamp - EPOCH * 1000).clamp(0, i64::from(u32::MAX) * 1000 + 999);
    let mut bytes = [0_u8; 20];
    // Both fit: the clamp bounds the seconds, and the remainder is below a thousand.
    bytes[0..4].copy_from_slice(&u32::try_from(millis / 1000).unwrap_or(u32::MAX).to_be_bytes());
    bytes[4..6].copy_from_slice(&u16::try_from(millis % 1000).unwrap_or(999).to_be_bytes());
    bytes[6..8].copy_from_slice(&u16::try_from(slot).unwrap_or(u16::MAX).to_be_bytes());
    bytes[8..16].copy_from_slice(&offset.to_be_bytes());
    bytes[16..20].copy_from_slice(&space.to_be_bytes());
    Ksuid::from_bytes(bytes).to_base62()
}

/// A number for [`of_record`]'s `space`.
pub fn space_of(service_id: &str) -> u32 {
    crc32fast::hash(service_id.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_repeatable_rise_and_differ() {
        let at = |slot, offset, millis| of_record(1, slot, offset, EPOCH * 1000 + millis);
        assert_eq!(at(3, 9, 5), at(3, 9, 5));
        let rising = [at(23, 9_000, 5), at(0, 1, 6), at(0, 2, 6), at(1, 0, 6), at(0, 0, 1_000), at(0, 0, 900_000)];
        assert!(rising.is_sorted_by(|a, b| a < b), "{rising:?}");
        assert!(rising.iter().all(|id| id.len() == 27));
    }

    #[test]
    fn a_record_without_a_time_has_an_id_all_the_same() {
        assert_eq!(of_record(1, 0, 0, -1).len(), 27);
        assert_ne!(of_record(1, 0, 0, -1), of_record(1, 0, 1, -1));
        assert_eq!(of_record(1, 0, 0, i64::MAX).len(), 27);
    }
}
