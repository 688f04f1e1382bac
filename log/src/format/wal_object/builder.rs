//! Puts an object together without copying a batch: batches stay the shared buffers they arrived in.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::error::FormatError;
use crate::format::codec::{Hash64, ensure};
use crate::format::dedupe::DedupeEntry;
use crate::format::wal_object::footer::{Footer, IndexEntry, TRAILER_LEN, covers, is_extent};
use crate::format::wal_object::header::{ObjectKind, WalHeader};
use crate::limits::{ROLLED_EXTENT_BYTES, WAL_HEADER_LEN};
use crate::model::{ClusterId, LeaderEpoch, Nonce, Offset, ShardId, Timestamp, TopicPartition, WalSeq};

const WHAT: &str = "wal object";

/// The fields of a [`WalHeader`] that are known before the content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectIdentity {
    /// What the object is: DATA or rolled.
    pub kind: ObjectKind,
    /// Base offsets may jump forward here: only in DATA of an exclusive store, after damage.
    pub jump: bool,
    /// The cluster it belongs to.
    pub cluster: ClusterId,
    /// The shard it belongs to.
    pub shard: ShardId,
    /// Epoch of the leader; in a rolled object that of the last DATA in it.
    pub epoch: LeaderEpoch,
    /// Its sequence number; in a rolled object the first of those in it.
    pub seq: WalSeq,
    /// The same as `seq`; in a rolled object the last of those in it.
    pub last_seq: WalSeq,
    /// Nonce of the leader's EPOCH; in a rolled object the number of the compactor's job.
    pub nonce: Nonce,
    /// When the leader froze it; in a rolled object the newest such time of those in it.
    pub append_time: Timestamp,
}

impl ObjectIdentity {
    /// Returns the header of an object that has no content yet.
    pub(super) fn into_header(self) -> WalHeader {
        WalHeader {
            kind: self.kind,
            jump: self.jump,
            cluster: self.cluster,
            shard: self.shard,
            epoch: self.epoch,
            seq: self.seq,
            last_seq: self.last_seq,
            nonce: self.nonce,
            append_time: self.append_time,
            footer_position: 0,
            footer_len: 0,
            object_len: 0,
            content_hash: 0,
        }
    }
}

/// A run of record batches of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Whose batches.
    pub partition: TopicPartition,
    /// Offset of the first record.
    pub base_offset: Offset,
    /// Offset after the last record.
    pub end_offset: Offset,
    /// Number of records.
    pub count: u32,
    /// Newest timestamp of the records.
    pub max_timestamp: Timestamp,
    /// When the leader froze them.
    pub append_time: Timestamp,
}

/// One partition's share of the object; positions are filled in at the end, dedupe indexes count from its first entry.
#[derive(Debug, Default)]
struct Group {
    entries: Vec<IndexEntry>,
    dedupe: Vec<(usize, DedupeEntry)>,
    parts: Vec<Bytes>,
}

impl Group {
    /// Adds an extent to the last entry, or as a new one.
    fn push(&mut self, kind: ObjectKind, extent: Extent, length: u32) -> Result<(), FormatError> {
        if let Some(last) = self.entries.last_mut() {
            let data = kind == ObjectKind::Data;
            let contiguous = extent.base_offset == last.end_offset;
            ensure(contiguous || !data && extent.base_offset > last.end_offset, WHAT, "base offset")?;
            let joined = u64::from(last.length) + u64::from(length);
            if data || contiguous && joined <= ROLLED_EXTENT_BYTES as u64 {
                let field = |field| FormatError::Field { what: WHAT, field };
                last.length = u32::try_from(joined).map_err(|_| field("length"))?;
                last.count = last.count.checked_add(extent.count).ok_or(field("count"))?;
                last.end_offset = extent.end_offset;
                last.max_timestamp = last.max_timestamp.max(extent.max_timestamp);
                last.append_time = last.append_time.max(extent.append_time);
                return Ok(());
            }
        }
        self.entries.push(IndexEntry {
            partition: extent.partition,
            base_offset: extent.base_offset,
            end_offset: extent.end_offset,
            count: extent.count,
            position: 0,
            length,
            max_timestamp: extent.max_timestamp,
            append_time: extent.append_time,
        });
        Ok(())
    }
}

/// Collects the batches of one DATA or rolled object, in any order of partitions.
#[derive(Debug)]
pub struct ObjectBuilder {
    identity: ObjectIdentity,
    groups: BTreeMap<TopicPartition, Group>,
}

/// An object ready for its PUT.
#[derive(Debug, Clone)]
pub struct EncodedObject {
    /// The header, decoded.
    pub header: WalHeader,
    /// The index, decoded.
    pub footer: Footer,
    /// The bytes in order: header, batches as they were pushed, footer with trailer.
    pub parts: Vec<Bytes>,
    /// Bytes of all parts.
    pub len: u64,
}

impl ObjectBuilder {
    /// Starts an object without batches.
    pub fn new(identity: ObjectIdentity) -> Self {
        Self { identity, groups: BTreeMap::new() }
    }

    /// Tells whether nothing was pushed yet.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// Adds batches of one partition, given as the buffers that make them up, and the dedupe entries of their records.
    ///
    /// In DATA each push of a partition continues at the offset where its last one ended. In a rolled object it may
    /// begin further on; a new index entry starts there and wherever one would exceed
    /// [`ROLLED_EXTENT_BYTES`].
    ///
    /// # Errors
    /// [`FormatError::Field`] when offsets, counts or lengths do not fit; the builder must not be used any further.
    pub fn push(
        &mut self,
        extent: Extent,
        parts: impl IntoIterator<Item = Bytes>,
        dedupe: impl IntoIterator<Item = DedupeEntry>,
    ) -> Result<(), FormatError> {
        ensure(is_extent(extent.base_offset, extent.end_offset, extent.count), WHAT, "offsets")?;
        let group = self.groups.entry(extent.partition).or_default();
        let parts_before = group.parts.len();
        group.parts.extend(parts);
        let length: usize = group.parts[parts_before..].iter().map(Bytes::len).sum();
        let too_large = FormatError::TooLarge { what: WHAT, size: length, limit: u32::MAX as usize };
        let length = u32::try_from(length).map_err(|_| too_large)?;
        // After damage DATA announces, without a batch, where a partition goes on.
        let announces = self.identity.jump && self.identity.kind == ObjectKind::Data;
        ensure((length == 0) == (extent.count == 0), WHAT, "length")?;
        ensure(length > 0 || announces, WHAT, "length")?;
        group.push(self.identity.kind, extent, length)?;
        let index = group.entries.len() - 1;
        for entry in dedupe {
            ensure(covers(extent.base_offset..extent.end_offset, &entry), WHAT, "dedupe offsets")?;
            group.dedupe.push((index, entry));
        }
        Ok(())
    }

    /// Lays the object out and encodes header and footer.
    ///
    /// # Errors
    /// [`FormatError::Field`] for an object without batches, of kind EPOCH or with an impossible identity, [`FormatError::TooLarge`] for a footer
    /// past its cap.
    ///
    /// # Cost
    /// One pass over all bytes for the content hash; nothing is copied.
    pub fn finish(self) -> Result<EncodedObject, FormatError> {
        ensure(self.identity.kind != ObjectKind::Epoch, WHAT, "kind")?;
        let mut position = WAL_HEADER_LEN as u64;
        let mut footer = Footer::default();
        let mut parts = vec![Bytes::new()];
        for group in self.groups.into_values() {
            let first = footer.entries.len();
            for mut entry in group.entries {
                entry.position = position;
                position += u64::from(entry.length);
                footer.entries.push(entry);
            }
            for (index, dedupe) in group.dedupe {
                let index = u32::try_from(first + index)
                    .map_err(|_| FormatError::Field { what: WHAT, field: "entries" })?;
                footer.dedupe.push((index, dedupe));
            }
            parts.extend(group.parts);
        }
        let tail = footer.encode()?;
        let footer_len = tail.len() - TRAILER_LEN;
        parts.push(Bytes::from(tail));
        let mut hash = Hash64::new();
        parts.iter().for_each(|part| hash.update(part));
        let len = position + (footer_len + TRAILER_LEN) as u64;
        let mut header = self.identity.into_header();
        header.footer_position = position;
        header.footer_len = u32::try_from(footer_len).expect("the footer's encoder has a cap of 128 MiB");
        header.object_len = len;
        header.content_hash = hash.finish();
        header.check()?;
        parts[0] = Bytes::copy_from_slice(&header.encode());
        Ok(EncodedObject { header, footer, parts, len })
    }
}
