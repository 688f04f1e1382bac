//! A page of the manifest: the Parquet segments and the log start of up to 256 partitions.
//!
//! A sealed binary structure, create-only, named by [`hash128`](crate::format::codec::hash128) of its bytes. A change
//! writes a new page; the manifest's swap makes it count.
//!
//! Layout after magic and version: number of partitions (4); per partition: topic id and number (18), log start (8),
//! number of segments (4), segments (68 each).

use bytes::Bytes;

use crate::error::FormatError;
use crate::format::codec::{Decoder, Encoder, ensure, ensure_size};
use crate::limits::{METADATA_BYTES_MAX, PAGE_PARTITIONS};
use crate::model::{JobId, Offset, Timestamp, TopicPartition};

const WHAT: &str = "manifest page";
const MAGIC: &[u8; 8] = b"FBMFPAGE";
const VERSION: u16 = 1;
const PARTITION_LEN_MIN: usize = 30;
const SEGMENT_LEN: usize = 68;

/// One Parquet segment of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentRef {
    /// First offset it covers.
    pub base_offset: Offset,
    /// The offset after the last one it covers.
    pub end_offset: Offset,
    /// Number of records: fewer than the offsets after log compaction, 0 where it dropped all of them.
    pub count: u32,
    /// Bytes of the object.
    pub bytes: u64,
    /// Newest timestamp of the records.
    pub max_timestamp: Timestamp,
    /// Newest append time of what it was merged from.
    pub append_time_max: Timestamp,
    /// Where the Parquet footer starts in the object.
    pub footer_position: u64,
    /// The attempt that wrote it; part of its name.
    pub job: JobId,
}

/// The segments of one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PagePartition {
    /// Whose segments.
    pub partition: TopicPartition,
    /// First offset that may still be read; never decreases.
    pub log_start: Offset,
    /// Ascending by offset, not overlapping.
    pub segments: Vec<SegmentRef>,
}

/// One page.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Page {
    /// Sorted by topic id and partition, at most [`PAGE_PARTITIONS`].
    pub partitions: Vec<PagePartition>,
}

impl Page {
    /// Encodes the page; [`hash128`](crate::format::codec::hash128) of the bytes is its name.
    ///
    /// # Errors
    /// [`FormatError::TooLarge`] past a cap, [`FormatError::Field`] for what no reader would accept. A retry does not
    /// help.
    pub fn encode(&self) -> Result<Bytes, FormatError> {
        self.check()?;
        let mut encoder = Encoder::sealed(MAGIC, VERSION);
        encoder.count(self.partitions.len());
        for partition in &self.partitions {
            encoder.partition(partition.partition).u64(partition.log_start.get());
            encoder.count(partition.segments.len());
            partition.segments.iter().for_each(|segment| segment.encode(&mut encoder));
        }
        let bytes = encoder.seal();
        ensure_size(bytes.len(), METADATA_BYTES_MAX, WHAT)?;
        Ok(Bytes::from(bytes))
    }

    /// Decodes a page.
    ///
    /// # Errors
    /// Any [`FormatError`]; a retry only helps if the store gave wrong bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        ensure_size(bytes.len(), METADATA_BYTES_MAX, WHAT)?;
        let mut decoder = Decoder::sealed(WHAT, MAGIC, VERSION, bytes)?;
        let count = decoder.count(PARTITION_LEN_MIN)?;
        let mut page = Self { partitions: Vec::with_capacity(count) };
        for _ in 0..count {
            let partition = decoder.partition()?;
            let log_start = decoder.offset()?;
            let count = decoder.count(SEGMENT_LEN)?;
            let mut segments = Vec::with_capacity(count);
            for _ in 0..count {
                segments.push(SegmentRef::decode(&mut decoder)?);
            }
            page.partitions.push(PagePartition { partition, log_start, segments });
        }
        decoder.finish()?;
        page.check()?;
        Ok(page)
    }

    /// Returns what the page says of a partition.
    pub fn partition(&self, partition: TopicPartition) -> Option<&PagePartition> {
        let index = self.partitions.binary_search_by_key(&partition, |entry| entry.partition).ok()?;
        self.partitions.get(index)
    }

    fn check(&self) -> Result<(), FormatError> {
        ensure_size(self.partitions.len(), usize::from(PAGE_PARTITIONS), WHAT)?;
        let ascending = self.partitions.windows(2).all(|pair| pair[0].partition < pair[1].partition);
        ensure(ascending, WHAT, "order of partitions")?;
        for partition in &self.partitions {
            ensure(partition.segments.iter().all(SegmentRef::is_sound), WHAT, "segment")?;
            let mut pairs = partition.segments.windows(2);
            let ascending = pairs.all(|pair| pair[0].end_offset <= pair[1].base_offset);
            ensure(ascending, WHAT, "order of segments")?;
        }
        Ok(())
    }
}

impl SegmentRef {
    fn is_sound(&self) -> bool {
        let offsets = self.end_offset.get().saturating_sub(self.base_offset.get());
        offsets > 0 && u64::from(self.count) <= offsets && self.footer_position < self.bytes
    }

    fn encode(&self, encoder: &mut Encoder) {
        encoder
            .u64(self.base_offset.get())
            .u64(self.end_offset.get())
            .u32(self.count)
            .u64(self.bytes)
            .timestamp(self.max_timestamp)
            .timestamp(self.append_time_max)
            .u64(self.footer_position)
            .u128(self.job.get());
    }

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, FormatError> {
        Ok(Self {
            base_offset: decoder.offset()?,
            end_offset: decoder.offset()?,
            count: decoder.u32()?,
            bytes: decoder.u64()?,
            max_timestamp: decoder.timestamp()?,
            append_time_max: decoder.timestamp()?,
            footer_position: decoder.u64()?,
            job: JobId::new(decoder.u128()?),
        })
    }
}
