//! Arbitrary values that a writer could produce.

use bytes::Bytes;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::sample;
use crate::format::dedupe::DedupeEntry;
use crate::format::manifest::{EpochEntry, Manifest, PageRef, RolledRef};
use crate::format::page::{Page, PagePartition, SegmentRef};
use crate::format::snapshot::{PartitionEnd, Snapshot};
use crate::format::wal_object::Extent;
use crate::model::{
    ClusterId, JobId, LeaderEpoch, Nonce, Offset, ShardId, Timestamp, TopicPartition, WalSeq,
};

fn timestamp() -> impl Strategy<Value = Timestamp> {
    any::<i64>().prop_map(Timestamp::from_millis)
}

fn partition() -> impl Strategy<Value = TopicPartition> {
    (any::<u128>(), any::<u16>()).prop_map(|(topic, number)| sample::partition(topic, number))
}

pub(crate) fn dedupe() -> impl Strategy<Value = DedupeEntry> {
    (any::<(u128, i16, u32, u64, u64)>(), 1u32.., timestamp()).prop_map(
        |((id, producer_epoch, first_sequence, base, body_hash), count, append_time)| DedupeEntry {
            id,
            producer_epoch,
            first_sequence,
            base_offset: Offset::new(base),
            count,
            append_time,
            body_hash,
        },
    )
}

/// Ascending numbers below 2^48, each pair with a distance of at least 2.
fn ascending(max: usize) -> impl Strategy<Value = Vec<u64>> {
    vec(2u64..1 << 32, 0..max).prop_map(|steps| {
        let sum = |total: &mut u64, step: u64| {
            *total += step;
            Some(*total)
        };
        steps.into_iter().scan(0, sum).collect()
    })
}

pub(crate) fn manifest() -> impl Strategy<Value = Manifest> {
    let head = any::<(u128, u16, u64, u32, i64, Option<u128>)>();
    let pages = btree_map(any::<u16>(), any::<u128>(), 0..20);
    (head, ascending(20), ascending(20), any::<bool>(), pages).prop_map(
        |((cluster, shard, version, epoch, time, snapshot), epochs, rolled, lasts, pages)| {
            let count = epochs.len();
            let epochs = epochs.iter().enumerate().map(|(index, first)| EpochEntry {
                epoch: LeaderEpoch::new(u32::try_from(index * 3).unwrap()),
                nonce: Nonce::new(u128::from(*first) << 64),
                first_seq: WalSeq::new(*first),
                end_seq: (index + 1 < count || !lasts).then(|| WalSeq::new(first + 1)),
            });
            let rolled = rolled.into_iter().map(|first| RolledRef {
                first: WalSeq::new(first),
                last: WalSeq::new(first + 1),
                job: JobId::new(u128::from(first) * 7),
                size: first,
                append_time_max: Timestamp::from_millis(-time.saturating_abs()),
            });
            Manifest {
                version: version.max(1),
                gap: version.max(1),
                floor: WalSeq::new(1 << 48),
                epoch_at_floor: LeaderEpoch::new(epoch),
                append_time_at_floor: Timestamp::from_millis(time),
                epochs: epochs.collect(),
                snapshot,
                rolled: rolled.collect(),
                pages: pages.into_iter().map(|(index, hash)| PageRef { index, hash }).collect(),
                ..Manifest::new(ClusterId::new(cluster), ShardId::new(shard))
            }
        },
    )
}

fn segments() -> impl Strategy<Value = Vec<SegmentRef>> {
    (ascending(8), any::<(u64, i64, i64, u128)>()).prop_map(|(bases, (bytes, max, time, job))| {
        let segment = |base: u64| SegmentRef {
            base_offset: Offset::new(base),
            end_offset: Offset::new(base + 2),
            count: u32::try_from(base % 3).unwrap(),
            bytes: bytes.max(1),
            max_timestamp: Timestamp::from_millis(max),
            append_time_max: Timestamp::from_millis(time),
            footer_position: bytes.max(1) / 2,
            job: JobId::new(job),
        };
        bases.into_iter().map(segment).collect()
    })
}

pub(crate) fn page() -> impl Strategy<Value = Page> {
    btree_map(partition(), (any::<u64>(), segments()), 0..8).prop_map(|partitions| {
        let entry = |(partition, (log_start, segments))| PagePartition {
            partition,
            log_start: Offset::new(log_start),
            segments,
        };
        Page { partitions: partitions.into_iter().map(entry).collect() }
    })
}

pub(crate) fn snapshot() -> impl Strategy<Value = Snapshot> {
    let ends = btree_map(partition(), (any::<u64>(), timestamp()), 0..20);
    (any::<u64>(), timestamp(), ends, vec((partition(), dedupe()), 0..20)).prop_map(
        |(floor, append_time, ends, dedupe)| {
            let end = |(partition, (next, max_timestamp))| PartitionEnd {
                partition,
                next_offset: Offset::new(next),
                max_timestamp,
            };
            let partitions = ends.into_iter().map(end).collect();
            Snapshot { floor: WalSeq::new(floor), append_time, partitions, dedupe }
        },
    )
}

/// What a leader pushes: batches of a few partitions, contiguous in each, some with a dedupe entry.
pub(crate) fn pushes() -> impl Strategy<Value = Vec<(Extent, Vec<Bytes>, Option<DedupeEntry>)>> {
    let parts = vec(vec(any::<u8>(), 1..40), 1..3);
    vec((0u16..4, 1u64..50, parts, any::<bool>()), 1..20).prop_map(|pushes| {
        let mut next = [0, 10, 1 << 40, 7];
        let push = |(number, count, parts, with_dedupe): (u16, u64, Vec<Vec<u8>>, bool)| {
            let base = next[usize::from(number)];
            next[usize::from(number)] += count;
            let partition = sample::partition(u128::from(number / 2), 3 - number);
            let dedupe = sample::dedupe(base, u32::try_from(count).unwrap());
            let parts = parts.into_iter().map(Bytes::from).collect();
            (sample::extent(partition, base, base + count), parts, with_dedupe.then_some(dedupe))
        };
        pushes.into_iter().map(push).collect()
    })
}
