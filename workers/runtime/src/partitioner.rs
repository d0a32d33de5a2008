//! A key's slot: the hashes of the clients that people already produce with.

use shardlane_config::Partitioner;

/// The slot of a key among `slots` slots (at least one).
pub fn slot_of(partitioner: Partitioner, key: &[u8], slots: u32) -> u32 {
    match partitioner {
        // Java's DefaultPartitioner: `toPositive(murmur2(key)) % partitions`, where toPositive clears the sign bit.
        Partitioner::Murmur2 => (murmur2(key) & 0x7fff_ffff) % slots,
        // sarama's NewHashPartitioner: the remainder as a signed number, negated if it is below zero.
        Partitioner::Fnv1a => (fnv1a(key).cast_signed() % slots.cast_signed()).unsigned_abs(),
        // librdkafka's rd_kafka_msg_partitioner_consistent.
        Partitioner::Crc32 => crc32fast::hash(key) % slots,
    }
}

/// Murmur2 with the seed and the constants of `org.apache.kafka.common.utils.Utils.murmur2`.
fn murmur2(data: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_b28c;
    const M: u32 = 0x5bd1_e995;
    // Java's arrays are at most 2^31 long, so truncation changes nothing.
    #[allow(clippy::cast_possible_truncation)]
    let mut hash = SEED ^ data.len() as u32;
    let mut words = data.chunks_exact(4);
    for word in &mut words {
        let mut k = u32::from_le_bytes([word[0], word[1], word[2], word[3]]).wrapping_mul(M);
        k = (k ^ (k >> 24)).wrapping_mul(M);
        hash = hash.wrapping_mul(M) ^ k;
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        let tail = rest.iter().rev().fold(0_u32, |tail, byte| (tail << 8) | u32::from(*byte));
        hash = (hash ^ tail).wrapping_mul(M);
    }
    hash = (hash ^ (hash >> 13)).wrapping_mul(M);
    hash ^ (hash >> 15)
}

/// 32-bit FNV-1a, as Go's `hash/fnv` has it.
fn fnv1a(data: &[u8]) -> u32 {
    data.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn murmur2_is_javas() {
        // The vectors of Kafka's own UtilsTest.
        for (key, hash) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(key.as_bytes()).cast_signed(), hash, "{key}");
        }
    }

    #[test]
    fn fnv1a_is_the_published_one() {
        // Test vectors of the FNV authors.
        for (key, hash) in [("", 0x811c_9dc5), ("a", 0xe40c_292c), ("foobar", 0xbf9c_f968)] {
            assert_eq!(fnv1a(key.as_bytes()), hash, "{key}");
        }
    }

    #[test]
    fn fnv1a_negates_a_negative_remainder_as_sarama_does() {
        // 0xbf9cf968 is negative as an int32: -1080231576 % 24 = 0 and % 7 = -5.
        assert_eq!(slot_of(Partitioner::Fnv1a, b"foobar", 24), 0);
        assert_eq!(slot_of(Partitioner::Fnv1a, b"foobar", 7), 1_080_231_576 % 7);
    }

    #[test]
    fn crc32_is_librdkafkas() {
        assert_eq!(crc32fast::hash(b"123456789"), 0xcbf4_3926);
        assert_eq!(slot_of(Partitioner::Crc32, b"123456789", 24), 0xcbf4_3926 % 24);
    }
}
