use std::sync::Arc;

use super::*;
use crate::format::manifest::RolledRef;
use crate::keys::Keys;
use crate::limits;
use crate::model::{Compression, JobId, Record, TimestampType};
use crate::shard::cache::BlockCache;
use crate::shard::fetch::{FetchError, ShardIndex};
use crate::shard::open::ShardStore;
use crate::shard::partition::TailBatch;
use crate::store::{CreateAnswer, PutPayload, Store, StoreUrl};

pub(super) const P: u16 = 0;

/// An index over a store, to which objects with real batches are added.
pub(super) struct Indexed {
    pub(super) at: ShardStore,
    pub(super) index: ShardIndex,
}

/// A batch with one record per offset; a record's timestamp is its offset.
pub(super) fn batch(base: u64, end: u64) -> Bytes {
    let record = |offset| Record {
        value: Some(Bytes::from(format!("record {offset}"))),
        timestamp: Timestamp::from_millis(i64::try_from(offset).unwrap()),
        ..Record::default()
    };
    let records: Vec<_> = (base..end).map(record).collect();
    let encoded = crate::format::record_batch::encode(&records, Compression::None, TimestampType::CreateTime);
    encoded.unwrap().place(Offset::new(base), LeaderEpoch::new(1))
}

pub(super) fn tail(base: u64, end: u64) -> TailBatch {
    let max_timestamp = Timestamp::from_millis(i64::try_from(end).unwrap() - 1);
    TailBatch { base: Offset::new(base), end: Offset::new(end), max_timestamp, bytes: batch(base, end) }
}

impl Indexed {
    async fn new() -> Self {
        Self::over(Store::open(&StoreUrl::Memory).await.unwrap(), BlockCache::new(limits::CACHE_BYTES_MIN))
    }

    pub(super) fn over(store: Store, blocks: BlockCache) -> Self {
        let at = ShardStore { store, keys: Keys::new(""), cluster: CLUSTER, shard: SHARD };
        Self { index: ShardIndex::new(at.clone(), blocks), at }
    }

    /// Builds an object of runs of one partition and PUTs it.
    pub(super) async fn put(
        &self,
        kind: ObjectKind,
        first: u64,
        last: u64,
        runs: &[(u16, u64, u64)],
    ) -> EncodedObject {
        let job = 5;
        let mut builder = ObjectBuilder::new(ObjectIdentity {
            kind,
            jump: false,
            cluster: CLUSTER,
            shard: SHARD,
            epoch: LeaderEpoch::new(1),
            seq: seq(first),
            last_seq: seq(last),
            nonce: if kind == ObjectKind::Rolled { Nonce::new(job) } else { nonce(1) },
            append_time: Timestamp::from_millis(i64::try_from(last).unwrap()),
        });
        for (number, base, end) in runs {
            let extent = Extent {
                partition: partition(*number),
                base_offset: Offset::new(*base),
                end_offset: Offset::new(*end),
                count: u32::try_from(end - base).unwrap(),
                max_timestamp: Timestamp::from_millis(i64::try_from(*end).unwrap() - 1),
                append_time: Timestamp::from_millis(1),
            };
            builder.push(extent, [batch(*base, *end)], []).unwrap();
        }
        let object = builder.finish().unwrap();
        let key = match kind {
            ObjectKind::Rolled => self.at.keys.rolled(SHARD, &rolled(first, last)),
            _ => self.at.keys.wal(SHARD, seq(first)),
        };
        let created = self.at.store.create(&key, PutPayload::from_iter(object.parts.clone())).await;
        assert!(matches!(created, CreateAnswer::Created));
        object
    }

    /// Stores a WAL object and adds it, and publishes what it holds.
    pub(super) async fn add(&self, at: u64, runs: &[(u16, u64, u64)]) {
        let object = self.put(ObjectKind::Data, at, at, runs).await;
        self.index.add_object(&object.header, &object.footer);
        for (number, _, end) in runs {
            self.index.log(partition(*number)).publish(Offset::new(*end));
        }
    }

    /// Reads from an offset on to the end, and returns the offsets of the records.
    pub(super) async fn offsets(&self, number: u16, from: u64, max_bytes: usize) -> Vec<u64> {
        let mut at = Offset::new(from);
        let mut offsets = Vec::new();
        loop {
            let fetched = self.index.fetch(partition(number), at, max_bytes).await.unwrap();
            if fetched.next == at {
                return offsets;
            }
            for batch in fetched.batches {
                offsets.extend(batch.records().unwrap().map(|record| record.unwrap().offset.get()));
            }
            at = fetched.next;
        }
    }
}

fn rolled(first: u64, last: u64) -> RolledRef {
    let append_time_max = Timestamp::from_millis(1);
    RolledRef { first: seq(first), last: seq(last), job: JobId::new(5), size: 1, append_time_max }
}

fn rolled_manifest(version: u64, floor: u64, rolled: Vec<RolledRef>) -> Manifest {
    Manifest { version, rolled, ..manifest(floor, 1) }
}

#[tokio::test]
async fn a_read_goes_from_stored_objects_over_into_memory() {
    let indexed = Indexed::new().await;
    indexed.add(64, &[(P, 0, 3), (1, 0, 1)]).await;
    indexed.add(65, &[(P, 3, 5)]).await;
    let log = indexed.index.log(partition(P));
    log.push(tail(5, 8));
    log.push(tail(8, 9));
    log.publish(Offset::new(8));
    for max_bytes in [1, 1 << 20] {
        assert_eq!(indexed.offsets(P, 0, max_bytes).await, [0, 1, 2, 3, 4, 5, 6, 7], "nothing above 8");
    }
    let first = indexed.index.fetch(partition(P), Offset::new(4), 1).await.unwrap();
    assert_eq!(first.batches[0].header().base_offset, Offset::new(3), "the batch that holds the offset");
    assert_eq!(first.next, Offset::new(5));
}

#[tokio::test]
async fn nothing_is_read_at_or_above_the_high_watermark() {
    let indexed = Indexed::new().await;
    let log = indexed.index.log(partition(P));
    log.push(tail(0, 4));
    assert!(indexed.offsets(P, 0, 100).await.is_empty());
    log.publish(Offset::new(4));
    log.publish(Offset::new(2));
    assert_eq!(log.high_watermark(), Offset::new(4), "it never goes back");
    let fetched = indexed.index.fetch(partition(P), Offset::new(9), 100).await.unwrap();
    assert!(fetched.batches.is_empty());
    assert_eq!(fetched.next, Offset::new(9), "a cursor above it is kept");
}

#[tokio::test]
async fn a_read_steps_over_offsets_that_were_jumped_over() {
    let indexed = Indexed::new().await;
    indexed.add(64, &[(P, 0, 3)]).await;
    let log = indexed.index.log(partition(P));
    log.push(tail(100, 102));
    log.publish(Offset::new(102));
    assert_eq!(indexed.offsets(P, 0, 100).await, [0, 1, 2, 100, 101]);
    assert_eq!(indexed.offsets(P, 50, 100).await, [100, 101]);
    log.publish(Offset::new(1000));
    let end = indexed.index.fetch(partition(P), Offset::new(102), 100).await.unwrap();
    assert_eq!((end.batches.len(), end.next), (0, Offset::new(1000)));
}

#[tokio::test]
async fn evicted_batches_are_read_from_the_store() {
    let indexed = Indexed::new().await;
    indexed.add(64, &[(P, 0, 3)]).await;
    let log = indexed.index.log(partition(P));
    for (base, end) in [(0, 2), (2, 3), (3, 6)] {
        log.push(tail(base, end));
    }
    log.publish(Offset::new(6));
    let size = log.usage().size_bytes;
    log.evict_below(Offset::new(3));
    assert_eq!(log.usage().size_bytes, size, "evicting frees memory, not the log");
    assert_eq!(indexed.offsets(P, 0, 1).await, [0, 1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn a_new_manifest_replaces_wal_objects_by_rolled_ones() {
    let indexed = Indexed::new().await;
    indexed.add(64, &[(P, 0, 3), (1, 0, 2)]).await;
    indexed.add(65, &[(P, 3, 5)]).await;
    indexed.add(66, &[(P, 5, 6)]).await;
    assert_eq!(indexed.index.backlog().objects, 3);
    indexed.put(ObjectKind::Rolled, 64, 65, &[(P, 0, 3), (P, 3, 5), (1, 0, 2)]).await;
    indexed.index.adopt(&rolled_manifest(2, 66, vec![rolled(64, 65)])).await.unwrap();
    for at in [64, 65] {
        indexed.at.store.delete(&indexed.at.keys.wal(SHARD, seq(at))).await.unwrap();
    }
    assert_eq!(indexed.offsets(P, 0, 1).await, [0, 1, 2, 3, 4, 5]);
    assert_eq!(indexed.offsets(1, 0, 1).await, [0, 1]);
    let backlog = indexed.index.backlog();
    assert_eq!((backlog.objects, backlog.oldest), (1, Some(Timestamp::from_millis(66))));
    assert!(indexed.index.adopt(&rolled_manifest(1, 0, vec![])).await.is_ok());
    assert_eq!(indexed.offsets(P, 0, 1).await.len(), 6, "an older manifest changes nothing");
}

#[tokio::test]
async fn an_object_rolled_before_its_leader_knew_is_not_indexed_twice() {
    let indexed = Indexed::new().await;
    indexed.put(ObjectKind::Rolled, 64, 65, &[(P, 0, 3)]).await;
    indexed.index.adopt(&rolled_manifest(2, 66, vec![rolled(64, 65)])).await.unwrap();
    indexed.add(64, &[(P, 0, 3)]).await;
    assert_eq!(indexed.index.log(partition(P)).usage().extents, 1);
    assert_eq!(indexed.offsets(P, 0, 1).await, [0, 1, 2]);
}

#[tokio::test]
async fn a_partition_that_no_rolled_object_holds_any_more_forgets_them() {
    let indexed = Indexed::new().await;
    indexed.put(ObjectKind::Rolled, 64, 65, &[(P, 0, 3)]).await;
    indexed.index.adopt(&rolled_manifest(2, 66, vec![rolled(64, 65)])).await.unwrap();
    // The floor stands, the rolled object was merged.
    indexed.index.adopt(&rolled_manifest(3, 66, vec![])).await.unwrap();
    assert_eq!(indexed.index.log(partition(P)).usage().extents, 0);
    indexed.index.adopt(&rolled_manifest(2, 66, vec![rolled(64, 65)])).await.unwrap();
    assert_eq!(indexed.index.log(partition(P)).usage().extents, 0, "the older of two with one floor");
}

#[tokio::test]
async fn a_manifest_that_names_what_is_missing_is_not_adopted() {
    let indexed = Indexed::new().await;
    indexed.add(64, &[(P, 0, 3)]).await;
    assert!(indexed.index.adopt(&rolled_manifest(2, 66, vec![rolled(64, 65)])).await.is_err());
    assert_eq!(indexed.offsets(P, 0, 1).await, [0, 1, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_read_of_an_object_that_stays_missing_is_given_up() {
    let indexed = Indexed::new().await;
    indexed.add(64, &[(P, 0, 3)]).await;
    indexed.at.store.delete(&indexed.at.keys.wal(SHARD, seq(64))).await.unwrap();
    let given_up = indexed.index.fetch(partition(P), Offset::ZERO, 100).await;
    assert!(matches!(given_up, Err(FetchError::Unavailable(None))), "{given_up:?}");
}

#[tokio::test(start_paused = true)]
async fn a_read_waits_for_the_manifest_that_says_where_an_object_went() {
    let indexed = Arc::new(Indexed::new().await);
    indexed.add(64, &[(P, 0, 3)]).await;
    indexed.put(ObjectKind::Rolled, 64, 64, &[(P, 0, 3)]).await;
    indexed.at.store.delete(&indexed.at.keys.wal(SHARD, seq(64))).await.unwrap();
    let reader = Arc::clone(&indexed);
    let read = tokio::spawn(async move { reader.offsets(P, 0, 100).await });
    tokio::time::sleep(limits::PUT_BACKOFF_MIN / 2).await;
    indexed.index.adopt(&rolled_manifest(2, 65, vec![rolled(64, 64)])).await.unwrap();
    assert_eq!(read.await.unwrap(), [0, 1, 2]);
}

#[tokio::test]
async fn an_offset_is_found_by_its_timestamp_in_the_store_and_in_memory() {
    let indexed = Indexed::new().await;
    indexed.add(64, &[(P, 0, 3)]).await;
    indexed.add(65, &[(P, 3, 5)]).await;
    let log = indexed.index.log(partition(P));
    log.push(tail(5, 8));
    log.push(tail(8, 9));
    log.publish(Offset::new(8));
    for (timestamp, offset) in
        [(-1, Some(0)), (0, Some(0)), (2, Some(2)), (4, Some(4)), (6, Some(6)), (7, Some(7)), (8, None)]
    {
        let found = indexed.index.offset_at(partition(P), Timestamp::from_millis(timestamp)).await.unwrap();
        assert_eq!(found, offset.map(Offset::new), "{timestamp}");
    }
}

#[tokio::test]
async fn nothing_below_the_log_start_is_read_found_or_counted() {
    let indexed = Indexed::new().await;
    indexed.add(64, &[(P, 0, 3)]).await;
    indexed.add(65, &[(P, 3, 5)]).await;
    let log = indexed.index.log(partition(P));
    log.push(tail(5, 8));
    log.publish(Offset::new(8));
    let whole = log.usage();
    log.start_at(Offset::new(4));
    log.start_at(Offset::new(1));
    assert_eq!(log.view().log_start, Offset::new(4), "it never moves back");
    let below = indexed.index.fetch(partition(P), Offset::new(3), 100).await;
    assert!(
        matches!(below, Err(FetchError::Expired { log_start }) if log_start == Offset::new(4)),
        "{below:?}"
    );
    assert_eq!(indexed.offsets(P, 4, 1).await, [3, 4, 5, 6, 7], "a batch is kept whole");
    for (timestamp, offset) in [(-1, 4), (2, 4), (4, 4), (6, 6)] {
        let found = indexed.index.offset_at(partition(P), Timestamp::from_millis(timestamp)).await.unwrap();
        assert_eq!(found, Some(Offset::new(offset)), "{timestamp}");
    }
    let left = log.usage();
    assert_eq!((whole.extents, left.extents), (2, 1));
    assert!(left.size_bytes < whole.size_bytes);
    log.start_at(Offset::new(8));
    assert_eq!((log.usage().size_bytes, log.usage().extents), (0, 0));
    assert_eq!(indexed.index.offset_at(partition(P), Timestamp::from_millis(0)).await.unwrap(), None);
}

#[tokio::test]
async fn a_forgotten_topic_leaves_nothing_and_does_not_come_back() {
    let indexed = Indexed::new().await;
    let other = TopicPartition { topic: TopicId::new(2), partition: PartitionId::new(0) };
    indexed.add(64, &[(P, 0, 3)]).await;
    indexed.index.log(other).publish(Offset::new(9));
    indexed.index.forget(TopicId::new(1));
    assert!(indexed.index.is_gone(TopicId::new(1)) && !indexed.index.is_gone(TopicId::new(2)));
    indexed.add(65, &[(P, 3, 5)]).await;
    indexed.put(ObjectKind::Rolled, 64, 65, &[(P, 0, 3), (P, 3, 5)]).await;
    indexed.index.adopt(&rolled_manifest(2, 66, vec![rolled(64, 65)])).await.unwrap();
    assert_eq!(indexed.index.log(partition(P)).usage().extents, 0);
    assert!(indexed.offsets(P, 0, 100).await.is_empty());
    assert_eq!(indexed.index.log(other).high_watermark(), Offset::new(9));
}
