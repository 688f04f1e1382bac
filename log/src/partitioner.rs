//! Which partition a record goes to.
//!
//! Keys spread as with Kafka's Java client, so that topics mirrored from Kafka keep their partitioning. What is here
//! is frozen: another answer would scatter the values of a key over two partitions, or let a retry miss its first
//! attempt.

use crate::model::PartitionId;

/// Hashes as Kafka's Java client does: 32-bit MurmurHash2, little endian, seed 0x9747b28c.
pub fn murmur2(key: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_b28c;
    const M: u32 = 0x5bd1_e995;

    // Java's arrays have an i32 for a length; only its bits count here.
    let mut hash = SEED ^ key.len() as u32;
    let (words, tail) = key.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !tail.is_empty() {
        let mut last = [0; 4];
        last[..tail.len()].copy_from_slice(tail);
        hash = (hash ^ u32::from_le_bytes(last)).wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

/// Returns the partition of a key: its hash without the sign bit, modulo the number of partitions (0 counts as 1).
pub fn partition_for_key(key: &[u8], partitions: u16) -> PartitionId {
    let positive = murmur2(key) & 0x7fff_ffff;
    let partition = positive % u32::from(partitions.max(1));
    PartitionId::new(u16::try_from(partition).expect("a remainder of a u16 fits in a u16"))
}

/// Returns the partition of the keyless records of an idempotent request, by the request's dedupe id: a retry
/// through any gateway goes where the first attempt went.
pub fn partition_for_id(id: u128, partitions: u16) -> PartitionId {
    partition_for_key(&id.to_be_bytes(), partitions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_kafkas_java_client() {
        let cases: [(&[u8], i32); 7] = [
            (b"21", -973_932_308),
            (b"foobar", -790_332_482),
            (b"a-little-bit-long-string", -985_981_536),
            (b"a-little-bit-longer-string", -1_486_304_829),
            (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            (b"abc", 479_470_107),
            (b"", 275_646_681),
        ];
        for (key, hash) in cases {
            assert_eq!(murmur2(key).cast_signed(), hash, "key={key:?}");
        }
    }

    #[test]
    fn the_sign_bit_of_the_hash_is_dropped() {
        assert_eq!(partition_for_key(b"21", 512).get(), 236);
        assert_eq!(partition_for_key(b"abc", 512).get(), 27);
    }

    #[test]
    fn ids_keep_their_partition_for_ever() {
        let ids = [0, 1, u128::MAX, 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef];
        let partitions = ids.map(|id| partition_for_id(id, 512).get());
        assert_eq!(partitions, [136, 110, 218, 299]);
    }

    #[test]
    fn partitions_are_all_used_and_never_exceeded() {
        for partitions in [1, 3, 7, 512] {
            let mut counts = vec![0_u32; usize::from(partitions)];
            for id in 0..u128::from(partitions) * 64 {
                counts[usize::from(partition_for_id(id, partitions).get())] += 1;
            }
            assert!(counts.iter().all(|&count| (32..128).contains(&count)), "{counts:?}");
        }
    }
}
