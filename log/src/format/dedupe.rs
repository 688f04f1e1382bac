//! A dedupe entry: which append of which producer lies at which offsets, so that a retry finds its first answer.
//!
//! Entries live in journal frames, WAL footers and snapshots, always in these 50 bytes. They carry no version of
//! their own: the structure around them does.

use crate::error::FormatError;
use crate::format::codec::{Decoder, Encoder};
use crate::model::{Offset, Timestamp};

/// One append of one producer to one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DedupeEntry {
    /// Who: the hash of a producer in a partition, or of a request, each with its topic.
    pub id: u128,
    /// Incarnation of the producer, a lower one than the newest is fenced; 0 for a request.
    pub producer_epoch: i16,
    /// Sequence of its first record, or the number of the unit.
    pub first_sequence: u32,
    /// Offset of its first record.
    pub base_offset: Offset,
    /// Number of records, at least 1.
    pub count: u32,
    /// When the leader accepted it; decides expiry.
    pub append_time: Timestamp,
    /// [`hash64`](crate::format::codec::hash64) of the request's body: the same id with another body is refused.
    pub body_hash: u64,
}

impl DedupeEntry {
    /// Bytes of every encoded entry.
    pub const LEN: usize = 50;

    /// Appends the entry.
    pub fn encode(&self, encoder: &mut Encoder) {
        encoder
            .u128(self.id)
            .i16(self.producer_epoch)
            .u32(self.first_sequence)
            .u64(self.base_offset.get())
            .u32(self.count)
            .timestamp(self.append_time)
            .u64(self.body_hash);
    }

    /// Reads the entry.
    ///
    /// # Errors
    /// [`FormatError::Truncated`], or [`FormatError::Field`] for an entry without records.
    pub fn decode(decoder: &mut Decoder<'_>) -> Result<Self, FormatError> {
        let entry = Self {
            id: decoder.u128()?,
            producer_epoch: decoder.i16()?,
            first_sequence: decoder.u32()?,
            base_offset: decoder.offset()?,
            count: decoder.u32()?,
            append_time: decoder.timestamp()?,
            body_hash: decoder.u64()?,
        };
        decoder.ensure(entry.count > 0, "dedupe count")?;
        Ok(entry)
    }

    /// Returns the sequence after its last record, when sequences count records; 0 follows the highest.
    pub fn next_sequence(&self) -> u32 {
        self.first_sequence.wrapping_add(self.count)
    }

    /// Returns the offset after its last record.
    pub fn end_offset(&self) -> Offset {
        self.base_offset.plus(u64::from(self.count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::tests::strategy;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_entry_comes_back_from_fifty_bytes(entry in strategy::dedupe()) {
            let mut encoder = Encoder::new();
            entry.encode(&mut encoder);
            let bytes = encoder.finish();
            prop_assert_eq!(bytes.len(), DedupeEntry::LEN);
            prop_assert_eq!(DedupeEntry::decode(&mut Decoder::new("entry", &bytes)), Ok(entry));
            for len in 0..bytes.len() {
                prop_assert!(DedupeEntry::decode(&mut Decoder::new("entry", &bytes[..len])).is_err());
            }
        }
    }

    #[test]
    fn an_entry_without_records_is_refused() {
        assert!(DedupeEntry::decode(&mut Decoder::new("entry", &[0; DedupeEntry::LEN])).is_err());
    }
}
