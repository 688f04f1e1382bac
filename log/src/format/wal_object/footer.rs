//! The end of an object: which partition's batches lie where, and the dedupe entries; then the trailer that finds it.
//!
//! Footer: version (2), numbers of index and dedupe entries (4 each), index entries (66 each), dedupe entries (index of
//! their index entry, 4, and 50 each). Trailer: footer position (8), footer length (4), CRC-32C of the footer (4),
//! magic (8). A suffix read usually gets all of it; the trailer says what to read when it did not.

use std::ops::Range;

use crate::error::FormatError;
use crate::format::codec::{Decoder, Encoder, crc32c, ensure, ensure_size};
use crate::format::dedupe::DedupeEntry;
use crate::limits::{METADATA_BYTES_MAX, WAL_HEADER_LEN};
use crate::model::{Offset, Timestamp, TopicPartition};

const WHAT: &str = "wal footer";
const VERSION: u16 = 1;
const MAGIC: &[u8; 8] = b"FBWALEND";
const INDEX_ENTRY_LEN: usize = 66;
const DEDUPE_ENTRY_LEN: usize = 4 + DedupeEntry::LEN;

/// Bytes of the trailer at the end of every object with content.
pub const TRAILER_LEN: usize = 24;

/// Where batches of one partition lie. DATA has one entry per partition; a rolled object has several, each at most
/// about [`ROLLED_EXTENT_BYTES`](crate::limits::ROLLED_EXTENT_BYTES) long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexEntry {
    /// Whose batches.
    pub partition: TopicPartition,
    /// Offset of the first record.
    pub base_offset: Offset,
    /// Offset after the last record.
    pub end_offset: Offset,
    /// Number of records.
    pub count: u32,
    /// Where the batches start in the object, in bytes.
    pub position: u64,
    /// Bytes of the batches.
    pub length: u32,
    /// Newest timestamp of the records.
    pub max_timestamp: Timestamp,
    /// When the leader froze them; in a rolled object the newest such time.
    pub append_time: Timestamp,
}

impl IndexEntry {
    /// Returns the bytes of the object that hold the batches.
    pub fn range(&self) -> Range<u64> {
        self.position..self.position + u64::from(self.length)
    }

    fn encode(&self, encoder: &mut Encoder) {
        encoder
            .partition(self.partition)
            .u64(self.base_offset.get())
            .u64(self.end_offset.get())
            .u32(self.count)
            .u64(self.position)
            .u32(self.length)
            .timestamp(self.max_timestamp)
            .timestamp(self.append_time);
    }

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, FormatError> {
        Ok(Self {
            partition: decoder.partition()?,
            base_offset: decoder.offset()?,
            end_offset: decoder.offset()?,
            count: decoder.u32()?,
            position: decoder.u64()?,
            length: decoder.u32()?,
            max_timestamp: decoder.timestamp()?,
            append_time: decoder.timestamp()?,
        })
    }

    fn follows(&self, before: &Self) -> bool {
        self.partition > before.partition
            || self.partition == before.partition && self.base_offset >= before.end_offset
    }
}

/// The index of an object.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Footer {
    /// Sorted by topic id, partition and base offset.
    pub entries: Vec<IndexEntry>,
    /// Dedupe entries with the index of the entry whose records they cover; sorted by that index.
    pub dedupe: Vec<(u32, DedupeEntry)>,
}

impl Footer {
    /// Returns the entries of one partition, by offset.
    pub fn partition(&self, partition: TopicPartition) -> &[IndexEntry] {
        let start = self.entries.partition_point(|entry| entry.partition < partition);
        let end = self.entries.partition_point(|entry| entry.partition <= partition);
        &self.entries[start..end]
    }

    /// Returns the dedupe entries with the partition each belongs to.
    pub fn dedupe_entries(&self) -> impl Iterator<Item = (TopicPartition, &DedupeEntry)> {
        self.dedupe.iter().filter_map(|(index, dedupe)| {
            let index = usize::try_from(*index).ok()?;
            Some((self.entries.get(index)?.partition, dedupe))
        })
    }

    /// Encodes the footer and its trailer.
    ///
    /// # Errors
    /// [`FormatError::TooLarge`], or [`FormatError::Field`] for entries that no reader would accept.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        self.check()?;
        let len = 10 + self.entries.len() * INDEX_ENTRY_LEN + self.dedupe.len() * DEDUPE_ENTRY_LEN;
        ensure_size(len, METADATA_BYTES_MAX, WHAT)?;
        let mut encoder = Encoder::with_capacity(len + TRAILER_LEN);
        encoder.u16(VERSION).count(self.entries.len()).count(self.dedupe.len());
        self.entries.iter().for_each(|entry| entry.encode(&mut encoder));
        for (index, dedupe) in &self.dedupe {
            encoder.u32(*index);
            dedupe.encode(&mut encoder);
        }
        let mut bytes = encoder.finish();
        let mut trailer = Encoder::with_capacity(TRAILER_LEN);
        trailer.u64(self.end_of_batches()).count(bytes.len()).u32(crc32c(&bytes)).bytes(MAGIC);
        bytes.extend_from_slice(&trailer.finish());
        Ok(bytes)
    }

    /// Decodes a footer without its trailer; `footer_position` is where it starts in the object.
    ///
    /// # Errors
    /// Any [`FormatError`] but a checksum, which lies in the trailer.
    pub fn decode(bytes: &[u8], footer_position: u64) -> Result<Self, FormatError> {
        let mut decoder = Decoder::new(WHAT, bytes);
        let version = decoder.u16()?;
        if version != VERSION {
            return Err(FormatError::Version { what: WHAT, version: u32::from(version) });
        }
        let entry_count = usize::try_from(decoder.u32()?).unwrap_or(usize::MAX);
        let dedupe_count = usize::try_from(decoder.u32()?).unwrap_or(usize::MAX);
        let entries_len = entry_count.saturating_mul(INDEX_ENTRY_LEN);
        let dedupe_len = dedupe_count.saturating_mul(DEDUPE_ENTRY_LEN);
        if entries_len.saturating_add(dedupe_len) > decoder.rest().len() {
            return Err(FormatError::Truncated { what: WHAT });
        }
        let mut footer =
            Self { entries: Vec::with_capacity(entry_count), dedupe: Vec::with_capacity(dedupe_count) };
        for _ in 0..entry_count {
            footer.entries.push(IndexEntry::decode(&mut decoder)?);
        }
        for _ in 0..dedupe_count {
            footer.dedupe.push((decoder.u32()?, DedupeEntry::decode(&mut decoder)?));
        }
        decoder.finish()?;
        footer.check()?;
        ensure(footer.end_of_batches() == footer_position, WHAT, "footer position")?;
        Ok(footer)
    }

    /// Tells whether no partition has two entries, as in DATA.
    pub(super) fn has_one_entry_per_partition(&self) -> bool {
        self.entries.windows(2).all(|pair| pair[0].partition < pair[1].partition)
    }

    /// Where the batches end and the footer starts.
    pub(super) fn end_of_batches(&self) -> u64 {
        self.entries.last().map_or(WAL_HEADER_LEN as u64, |entry| entry.range().end)
    }

    fn check(&self) -> Result<(), FormatError> {
        ensure(!self.entries.is_empty(), WHAT, "entries")?;
        let mut position = WAL_HEADER_LEN as u64;
        for (index, entry) in self.entries.iter().enumerate() {
            ensure(is_extent(entry.base_offset, entry.end_offset, entry.count), WHAT, "offsets")?;
            let empty = entry.count == 0;
            ensure(empty == (entry.length == 0) && entry.position == position, WHAT, "position")?;
            let end = position.checked_add(u64::from(entry.length));
            position = end.ok_or(FormatError::Field { what: WHAT, field: "position" })?;
            let sorted = index == 0 || entry.follows(&self.entries[index - 1]);
            ensure(sorted, WHAT, "order of entries")?;
        }
        let mut last = 0;
        for (index, dedupe) in &self.dedupe {
            ensure(*index >= last, WHAT, "order of dedupe entries")?;
            last = *index;
            let entry = usize::try_from(*index).ok().and_then(|index| self.entries.get(index));
            let entry = entry.ok_or(FormatError::Field { what: WHAT, field: "dedupe index" })?;
            ensure(covers(entry.base_offset..entry.end_offset, dedupe), WHAT, "dedupe offsets")?;
        }
        Ok(())
    }
}

/// Tells whether so many records can lie at these offsets. None at all only announces where a partition goes on.
pub(super) fn is_extent(base: Offset, end: Offset, count: u32) -> bool {
    let announcement = base == end && count == 0;
    announcement || (base < end && count > 0 && u64::from(count) <= end.get() - base.get())
}

/// Tells whether a dedupe entry lies inside the offsets.
pub(super) fn covers(offsets: Range<Offset>, dedupe: &DedupeEntry) -> bool {
    dedupe.count > 0 && offsets.start <= dedupe.base_offset && dedupe.end_offset() <= offsets.end
}

/// What the last bytes of an object gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TailIndex {
    /// The index.
    Complete(Footer),
    /// The footer starts before the bytes at hand: read this range of the object and call [`decode_footer`].
    NeedsRange(Range<u64>),
}

/// Decodes the index from the last bytes of an object of `object_len` bytes.
///
/// # Errors
/// Any [`FormatError`]; an EPOCH object has no footer and fails with another magic number. A retry only helps if the
/// store gave wrong bytes.
pub fn decode_tail(suffix: &[u8], object_len: u64) -> Result<TailIndex, FormatError> {
    let (before, trailer) =
        suffix.split_last_chunk::<TRAILER_LEN>().ok_or(FormatError::Truncated { what: WHAT })?;
    let mut decoder = Decoder::new(WHAT, trailer);
    let (position, len, crc) = (decoder.u64()?, decoder.u32()?, decoder.u32()?);
    if decoder.array()? != *MAGIC {
        return Err(FormatError::Magic { what: WHAT });
    }
    ensure(suffix.len() as u64 <= object_len, WHAT, "length")?;
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    ensure_size(len, METADATA_BYTES_MAX, WHAT)?;
    ensure(position >= WAL_HEADER_LEN as u64, WHAT, "footer position")?;
    let end = position.checked_add(len as u64 + TRAILER_LEN as u64);
    ensure(end == Some(object_len), WHAT, "footer position")?;
    let Some(start) = before.len().checked_sub(len) else {
        return Ok(TailIndex::NeedsRange(position..object_len));
    };
    if crc32c(&before[start..]) != crc {
        return Err(FormatError::Checksum { what: WHAT });
    }
    Footer::decode(&before[start..], position).map(TailIndex::Complete)
}

/// Decodes the index from bytes that reach from the footer or before it to the end of the object: what
/// [`TailIndex::NeedsRange`] asked for, or the whole object.
///
/// # Errors
/// As [`decode_tail`], and [`FormatError::Truncated`] if the footer starts before the bytes.
pub fn decode_footer(bytes: &[u8], object_len: u64) -> Result<Footer, FormatError> {
    match decode_tail(bytes, object_len)? {
        TailIndex::Complete(footer) => Ok(footer),
        TailIndex::NeedsRange(_) => Err(FormatError::Truncated { what: WHAT }),
    }
}
