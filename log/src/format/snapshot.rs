//! The state of a shard at its floor: next offsets and dedupe entries, so that a taker need not read what lies below.
//!
//! Create-only, named by [`hash128`](crate::format::codec::hash128) of its bytes. A sealed structure whose body is:
//! length of the content (8), content compressed with zstd. Content: floor (8), append time (8), number of partitions
//! (4), partitions (34 each), number of dedupe entries (4), topic id, partition and entry (68 each).

use std::io::Read;

use bytes::Bytes;

use crate::error::FormatError;
use crate::format::codec::{Decoder, Encoder, ensure, ensure_size};
use crate::format::dedupe::DedupeEntry;
use crate::limits::{DEDUPE_ENTRIES_MAX, METADATA_BYTES_MAX};
use crate::model::{Offset, Timestamp, TopicPartition, WalSeq};

const WHAT: &str = "snapshot";
const MAGIC: &[u8; 8] = b"FBSNAPSH";
const VERSION: u16 = 1;
const PARTITION_LEN: usize = 34;
const DEDUPE_LEN: usize = 18 + DedupeEntry::LEN;
/// Mostly random ids: a higher level costs more and gains nothing.
const COMPRESSION_LEVEL: i32 = 1;

/// Where a partition ends at the floor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionEnd {
    /// Which partition.
    pub partition: TopicPartition,
    /// The offset its next record gets.
    pub next_offset: Offset,
    /// Newest timestamp of all its records.
    pub max_timestamp: Timestamp,
}

/// The state of a shard at its floor.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Snapshot {
    /// All WAL objects below are in it.
    pub floor: WalSeq,
    /// Append time of the last DATA below the floor.
    pub append_time: Timestamp,
    /// Every partition with records below the floor, sorted by topic id and partition.
    pub partitions: Vec<PartitionEnd>,
    /// Oldest first, at most [`DEDUPE_ENTRIES_MAX`].
    pub dedupe: Vec<(TopicPartition, DedupeEntry)>,
}

impl Snapshot {
    /// Encodes the snapshot; [`hash128`](crate::format::codec::hash128) of the bytes is its name.
    ///
    /// # Errors
    /// [`FormatError::TooLarge`] past a cap, [`FormatError::Field`] for what no reader would accept. A retry does not
    /// help.
    ///
    /// # Cost
    /// Up to 68 MB of content to compress at [`DEDUPE_ENTRIES_MAX`]: call it off the runtime's threads.
    pub fn encode(&self) -> Result<Bytes, FormatError> {
        self.check()?;
        let content = self.encode_content();
        ensure_size(content.len(), METADATA_BYTES_MAX, WHAT)?;
        let compressed = zstd::bulk::compress(&content, COMPRESSION_LEVEL)
            .map_err(|_| FormatError::Field { what: WHAT, field: "compression" })?;
        let mut encoder = Encoder::sealed(MAGIC, VERSION);
        encoder.u64(content.len() as u64).bytes(&compressed);
        let bytes = encoder.seal();
        ensure_size(bytes.len(), METADATA_BYTES_MAX, WHAT)?;
        Ok(Bytes::from(bytes))
    }

    /// Decodes a snapshot.
    ///
    /// # Errors
    /// Any [`FormatError`]; a retry only helps if the store gave wrong bytes.
    ///
    /// # Cost
    /// As [`Self::encode`]: call it off the runtime's threads.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let content = decompress(bytes)?;
        let mut decoder = Decoder::new(WHAT, &content);
        let floor = WalSeq::new(decoder.u64()?);
        let append_time = decoder.timestamp()?;
        let count = decoder.count(PARTITION_LEN)?;
        let mut partitions = Vec::with_capacity(count);
        for _ in 0..count {
            partitions.push(PartitionEnd {
                partition: decoder.partition()?,
                next_offset: decoder.offset()?,
                max_timestamp: decoder.timestamp()?,
            });
        }
        let count = decoder.count(DEDUPE_LEN)?;
        let mut dedupe = Vec::with_capacity(count);
        for _ in 0..count {
            dedupe.push((decoder.partition()?, DedupeEntry::decode(&mut decoder)?));
        }
        decoder.finish()?;
        let snapshot = Self { floor, append_time, partitions, dedupe };
        snapshot.check()?;
        Ok(snapshot)
    }

    fn encode_content(&self) -> Vec<u8> {
        let len = 24 + self.partitions.len() * PARTITION_LEN + self.dedupe.len() * DEDUPE_LEN;
        let mut encoder = Encoder::with_capacity(len);
        encoder.u64(self.floor.get()).timestamp(self.append_time);
        encoder.count(self.partitions.len());
        for end in &self.partitions {
            encoder.partition(end.partition).u64(end.next_offset.get()).timestamp(end.max_timestamp);
        }
        encoder.count(self.dedupe.len());
        for (partition, entry) in &self.dedupe {
            encoder.partition(*partition);
            entry.encode(&mut encoder);
        }
        encoder.finish()
    }

    fn check(&self) -> Result<(), FormatError> {
        ensure_size(self.dedupe.len(), DEDUPE_ENTRIES_MAX, WHAT)?;
        let ascending = self.partitions.windows(2).all(|pair| pair[0].partition < pair[1].partition);
        ensure(ascending, WHAT, "order of partitions")?;
        ensure(self.dedupe.iter().all(|(_, entry)| entry.count > 0), WHAT, "dedupe count")
    }
}

/// Returns the content of an encoded snapshot. Memory grows with what the bytes really hold, up to the cap.
pub(super) fn decompress(bytes: &[u8]) -> Result<Vec<u8>, FormatError> {
    ensure_size(bytes.len(), METADATA_BYTES_MAX, WHAT)?;
    let mut decoder = Decoder::sealed(WHAT, MAGIC, VERSION, bytes)?;
    let len = decoder.u64()?;
    ensure_size(usize::try_from(len).unwrap_or(usize::MAX), METADATA_BYTES_MAX, WHAT)?;
    let damaged = |_| FormatError::Field { what: WHAT, field: "compression" };
    let reader = zstd::stream::read::Decoder::with_buffer(decoder.rest()).map_err(damaged)?;
    let mut content = Vec::new();
    reader.take(len + 1).read_to_end(&mut content).map_err(damaged)?;
    ensure(content.len() as u64 == len, WHAT, "content length")?;
    Ok(content)
}
