//! What one partition looks like to readers: how far it goes, and where its batches are.

use std::collections::VecDeque;
use std::ops::RangeInclusive;

use bytes::Bytes;
use parking_lot::RwLock;

use crate::format::manifest::RolledRef;
use crate::format::wal_object::IndexEntry;
use crate::model::{Offset, Timestamp, TopicPartition, WalSeq};

/// The object that holds a run of batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// A WAL object.
    Wal(WalSeq),
    /// A rolled object.
    Rolled(RolledRef),
}

/// A run of one partition's batches in one object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Which object.
    pub source: Source,
    /// Where in it, and what.
    pub entry: IndexEntry,
}

/// A batch in memory.
#[derive(Debug, Clone)]
pub(crate) struct TailBatch {
    pub(crate) base: Offset,
    pub(crate) end: Offset,
    pub(crate) max_timestamp: Timestamp,
    pub(crate) bytes: Bytes,
}

/// How far a partition goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionView {
    /// The first offset that may still be read.
    pub log_start: Offset,
    /// The first offset not yet durable: readers see what is below.
    pub high_watermark: Offset,
}

/// What a partition takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionUsage {
    /// Bytes of its batches in the store and in memory, as stored, as far as something of them may be read.
    pub size_bytes: u64,
    /// Runs of such batches in the store.
    pub extents: usize,
}

/// Where a reader finds an offset.
#[derive(Debug)]
pub(crate) enum Located {
    /// In memory: whole batches, the first of which holds the offset or comes after it. Without a batch there is no
    /// record up to the high watermark: offsets were jumped over.
    Tail { batches: Vec<Bytes>, high_watermark: Offset },
    /// In the store.
    Extent(Extent),
    /// Below the log start.
    Expired { log_start: Offset },
    /// At or above the high watermark.
    NotYet,
}

/// One partition's index: extents in the store, then batches in memory. They may overlap.
///
/// Invariants: no extent reaches above the high watermark, and no log starts above it. The batches in memory follow each
/// other without a hole and reach at least as far as the extents do, or there are none.
#[derive(Debug)]
pub struct PartitionLog {
    partition: TopicPartition,
    inner: RwLock<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    log_start: Offset,
    high_watermark: Offset,
    extents: Vec<Extent>,
    tail: VecDeque<TailBatch>,
}

impl PartitionLog {
    pub(crate) fn new(partition: TopicPartition) -> Self {
        Self { partition, inner: RwLock::default() }
    }

    /// Returns which partition this is.
    pub fn partition(&self) -> TopicPartition {
        self.partition
    }

    /// Returns the first offset not yet durable.
    pub fn high_watermark(&self) -> Offset {
        self.inner.read().high_watermark
    }

    /// Returns the offsets at which the next run in the store may begin: where the last one ends, or further on while the
    /// log starts further on, for then those who truncated know more of it.
    pub(crate) fn next_offsets(&self) -> RangeInclusive<Offset> {
        let inner = self.inner.read();
        inner.stored_end()..=inner.high_watermark
    }

    /// Returns how far it goes.
    pub fn view(&self) -> PartitionView {
        let inner = self.inner.read();
        PartitionView { log_start: inner.log_start, high_watermark: inner.high_watermark }
    }

    /// Returns what it takes. Looks at every extent and every batch in memory.
    pub fn usage(&self) -> PartitionUsage {
        let inner = self.inner.read();
        let stored_end = inner.stored_end();
        let unstored_from = |batch: &&TailBatch| batch.base >= stored_end && batch.end > inner.log_start;
        let unstored = inner.tail.iter().filter(unstored_from);
        let unstored_bytes: u64 = unstored.map(|batch| batch.bytes.len() as u64).sum();
        let first = inner.extents.partition_point(|extent| extent.entry.end_offset <= inner.log_start);
        let stored = &inner.extents[first..];
        let stored_bytes: u64 = stored.iter().map(|extent| u64::from(extent.entry.length)).sum();
        PartitionUsage { size_bytes: stored_bytes + unstored_bytes, extents: stored.len() }
    }

    /// Finds the first batch that holds this offset or comes after it, and those behind it up to about `max_bytes`.
    pub(crate) fn locate(&self, from: Offset, max_bytes: usize) -> Located {
        let inner = self.inner.read();
        if from < inner.log_start {
            return Located::Expired { log_start: inner.log_start };
        }
        if from >= inner.high_watermark {
            return Located::NotYet;
        }
        let in_tail = inner.tail.front().is_some_and(|batch| batch.base <= from);
        let stored = inner.extents.partition_point(|extent| extent.entry.end_offset <= from);
        match inner.extents.get(stored) {
            Some(extent) if !in_tail => Located::Extent(*extent),
            _ => Located::Tail {
                batches: inner.tail_from(from, max_bytes),
                high_watermark: inner.high_watermark,
            },
        }
    }

    /// Returns the run before this one, and those behind it that readers need the store for, up to so many runs and
    /// about so many bytes, but at least one.
    pub(crate) fn around(
        &self,
        extent: &Extent,
        max: usize,
        max_bytes: usize,
    ) -> (Option<Extent>, Vec<Extent>) {
        let inner = self.inner.read();
        let end = extent.entry.end_offset;
        let behind = inner.extents.partition_point(|extent| extent.entry.end_offset <= end);
        let before = behind.checked_sub(2).and_then(|before| inner.extents.get(before)).copied();
        let tail = inner.tail.front().map_or(inner.high_watermark, |batch| batch.base);
        let needed = |extent: &&Extent| extent.entry.base_offset < tail;
        let mut size = 0;
        let mut fits = |extent: &&Extent| {
            let first = size == 0;
            size += u64::from(extent.entry.length);
            first || size <= max_bytes as u64
        };
        let behind = inner.extents[behind..].iter().take(max).take_while(needed);
        (before, behind.take_while(|extent| fits(extent)).copied().collect())
    }

    /// Returns where to begin to look for the first record at or after a timestamp; none when there is none yet.
    pub(crate) fn first_at(&self, timestamp: Timestamp) -> Option<Offset> {
        let inner = self.inner.read();
        let stored = inner.extents.iter().find(|extent| {
            extent.entry.max_timestamp >= timestamp && extent.entry.end_offset > inner.log_start
        });
        let readable = |batch: &TailBatch| batch.end > inner.log_start && batch.end <= inner.high_watermark;
        let in_memory = inner
            .tail
            .iter()
            .find(|batch| batch.max_timestamp >= timestamp && readable(batch))
            .map(|batch| batch.base);
        match (stored.map(|extent| extent.entry.base_offset), in_memory) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
        .map(|at| at.max(inner.log_start))
    }

    /// Adds a batch behind the others; readers see it once the high watermark passes its end.
    pub(crate) fn push(&self, batch: TailBatch) {
        self.inner.write().tail.push_back(batch);
    }

    /// Moves the high watermark forward.
    pub(crate) fn publish(&self, high_watermark: Offset) {
        let mut inner = self.inner.write();
        inner.high_watermark = inner.high_watermark.max(high_watermark);
    }

    /// Moves the log start forward: what is below is never read again.
    pub(crate) fn start_at(&self, log_start: Offset) {
        let mut inner = self.inner.write();
        inner.log_start = inner.log_start.max(log_start);
        inner.high_watermark = inner.high_watermark.max(log_start);
    }

    /// Adds a run in the store behind the others: readers see it from now on. `batches` gives its batches, where they are
    /// at hand and not in memory yet. Tells whether they are in memory now.
    pub(crate) fn add_extent(&self, extent: Extent, batches: impl FnOnce() -> Option<Bytes>) -> bool {
        let mut inner = self.inner.write();
        let IndexEntry { base_offset: base, end_offset: end, max_timestamp, .. } = extent.entry;
        inner.extents.push(extent);
        inner.high_watermark = inner.high_watermark.max(end);
        if inner.tail_end() >= end {
            return true;
        }
        let bytes = batches();
        // What is in memory may not have a hole; all of it is in the store.
        if bytes.is_none() || inner.tail_end() != base {
            inner.tail.clear();
        }
        let is_held = bytes.is_some();
        inner.tail.extend(bytes.map(|bytes| TailBatch { base, end, max_timestamp, bytes }));
        is_held
    }

    /// Replaces the runs of WAL objects below a new floor, and the rolled objects that are no longer listed, by these.
    ///
    /// Where they reach above the high watermark, what is in memory up to there goes: a leader that has been superseded
    /// and does not know it yet has its own batches at the offsets that another one has stored.
    pub(crate) fn replace_below(&self, floor: WalSeq, rolled: Vec<Extent>) {
        let mut inner = self.inner.write();
        let above = inner.extents.iter().filter(|extent| match extent.source {
            Source::Wal(seq) => seq >= floor,
            Source::Rolled(_) => false,
        });
        let mut extents = rolled;
        extents.extend(above.copied().collect::<Vec<_>>());
        inner.extents = extents;
        let stored_end = inner.stored_end();
        if stored_end > inner.high_watermark {
            inner.high_watermark = stored_end;
            while inner.tail.front().is_some_and(|batch| batch.base < stored_end) {
                inner.tail.pop_front();
            }
            if inner.tail.front().is_some_and(|batch| batch.base != stored_end) {
                inner.tail.clear();
            }
        }
        if inner.tail_end() < stored_end {
            inner.tail.clear();
        }
    }

    /// Forgets batches in memory that end above the high watermark: whoever put them there will not store them any more,
    /// and others may get their offsets.
    pub(crate) fn drop_unpublished(&self) {
        let mut inner = self.inner.write();
        while inner.tail_end() > inner.high_watermark {
            inner.tail.pop_back();
        }
    }

    /// Forgets everything: the topic is gone.
    pub(crate) fn clear(&self) {
        let mut inner = self.inner.write();
        inner.extents = Vec::new();
        inner.tail = VecDeque::new();
    }

    /// Forgets batches in memory that end at or below this offset; they are in the store.
    pub(crate) fn evict_below(&self, end: Offset) {
        let mut inner = self.inner.write();
        while inner.tail.front().is_some_and(|batch| batch.end <= end) {
            inner.tail.pop_front();
        }
    }
}

impl Inner {
    /// Returns where the runs in the store end; 0 without any.
    fn stored_end(&self) -> Offset {
        self.extents.last().map_or(Offset::ZERO, |extent| extent.entry.end_offset)
    }

    /// Returns where the batches in memory end; 0 without any.
    fn tail_end(&self) -> Offset {
        self.tail.back().map_or(Offset::ZERO, |batch| batch.end)
    }

    fn tail_from(&self, from: Offset, max_bytes: usize) -> Vec<Bytes> {
        let first = self.tail.partition_point(|batch| batch.end <= from);
        let mut found = Vec::new();
        let mut size = 0;
        for batch in self.tail.range(first..).take_while(|batch| batch.end <= self.high_watermark) {
            if size > 0 && size + batch.bytes.len() > max_bytes {
                break;
            }
            size += batch.bytes.len();
            found.push(batch.bytes.clone());
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{JobId, PartitionId, TopicId};

    /// A partition with ten records that everybody may read, and batches behind them that nobody may yet.
    fn led(unpublished: &[(u64, u64)]) -> PartitionLog {
        let log = PartitionLog::new(partition());
        log.add_extent(extent(0, 10), || None);
        for &(base, end) in unpublished {
            let (base, end, bytes) = (Offset::new(base), Offset::new(end), Bytes::from_static(b"ours"));
            log.push(TailBatch { base, end, max_timestamp: Timestamp::MIN, bytes });
        }
        log
    }

    fn partition() -> TopicPartition {
        TopicPartition { topic: TopicId::new(1), partition: PartitionId::new(0) }
    }

    fn extent(base: u64, end: u64) -> Extent {
        let job = JobId::new(1);
        let (first, last) = (WalSeq::new(0), WalSeq::new(9));
        let rolled = RolledRef { first, last, job, size: 1, append_time_max: Timestamp::MIN };
        let entry = IndexEntry {
            partition: partition(),
            base_offset: Offset::new(base),
            end_offset: Offset::new(end),
            count: 1,
            position: 0,
            length: 1,
            max_timestamp: Timestamp::MIN,
            append_time: Timestamp::MIN,
        };
        Extent { source: Source::Rolled(rolled), entry }
    }

    fn is_in_store(log: &PartitionLog, offset: u64) -> bool {
        matches!(log.locate(Offset::new(offset), 100), Located::Extent(_))
    }

    #[test]
    fn what_another_leader_stored_hides_what_this_one_did_not() {
        for ours in [&[(10, 12), (12, 15), (15, 20)][..], &[(10, 20)], &[(10, 15)], &[(10, 14)]] {
            let log = led(ours);
            log.replace_below(WalSeq::new(10), vec![extent(0, 10), extent(10, 15)]);
            assert_eq!(log.high_watermark(), Offset::new(15));
            assert!((0..15).all(|offset| is_in_store(&log, offset)), "{ours:?}");
            assert!(matches!(log.locate(Offset::new(15), 100), Located::NotYet));
            log.drop_unpublished();
            assert!((0..15).all(|offset| is_in_store(&log, offset)), "{ours:?}");
        }
    }

    #[test]
    fn what_a_leader_has_behind_its_own_rolled_objects_stays_in_memory() {
        let log = led(&[(10, 15), (15, 20)]);
        log.replace_below(WalSeq::new(10), vec![extent(0, 10), extent(10, 15)]);
        log.publish(Offset::new(20));
        let Located::Tail { batches, .. } = log.locate(Offset::new(15), 100) else {
            panic!("it is in memory and nowhere else");
        };
        assert_eq!(batches, ["ours"]);
    }
}
