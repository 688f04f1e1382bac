//! One known value of each format: what the golden files of version 1 hold. Never changed; add others beside them.

use bytes::Bytes;

use crate::format::access::{AccessFile, Action, ApiKey, Scope, Secret};
use crate::format::cluster::{ClusterFile, CoordinatorKind};
use crate::format::dedupe::DedupeEntry;
use crate::format::manifest::{EpochEntry, Manifest, PageRef, RolledRef};
use crate::format::page::{Page, PagePartition, SegmentRef};
use crate::format::snapshot::{PartitionEnd, Snapshot};
use crate::format::topics::{DeletedTopic, TopicsFile};
use crate::format::wal_object::{
    EncodedObject, Extent, ObjectBuilder, ObjectIdentity, ObjectKind, encode_epoch,
};
use crate::model::{
    ClusterId, JobId, LeaderEpoch, NodeId, Nonce, Offset, PartitionId, Settings, ShardId, Timestamp, Topic,
    TopicId, TopicPartition, WalSeq,
};

const CLUSTER: ClusterId = ClusterId::new(0x0123_4567_89ab_cdef_0011_2233_4455_6677);
const NONCE: Nonce = Nonce::new(0xfeed_face_cafe_beef_8899_aabb_ccdd_eeff);
const JOB: JobId = JobId::new(0x10_2030_4050_6070_8090_a0b0_c0d0_e0f0);
const SHARD: ShardId = ShardId::new(3);
const NOW: Timestamp = Timestamp::from_millis(1_795_000_000_123);

/// A partition of a made-up topic.
pub(crate) fn partition(topic: u128, partition: u16) -> TopicPartition {
    TopicPartition { topic: TopicId::new(topic), partition: PartitionId::new(partition) }
}

/// Batches at some offsets, one record per offset.
pub(crate) fn extent(partition: TopicPartition, base: u64, end: u64) -> Extent {
    Extent {
        partition,
        base_offset: Offset::new(base),
        end_offset: Offset::new(end),
        count: u32::try_from(end - base).unwrap(),
        max_timestamp: Timestamp::from_millis(NOW.as_millis() - 50 + i64::try_from(base).unwrap()),
        append_time: NOW,
    }
}

/// A dedupe entry at some offsets.
pub(crate) fn dedupe(base: u64, count: u32) -> DedupeEntry {
    DedupeEntry {
        id: 0x1111_2222_3333_4444_5555_6666_7777_8888,
        producer_epoch: -2,
        first_sequence: 7,
        base_offset: Offset::new(base),
        count,
        append_time: NOW,
        body_hash: 0x9999_aaaa_bbbb_cccc,
    }
}

/// The identity of an object.
pub(crate) fn identity(kind: ObjectKind) -> ObjectIdentity {
    let seq = WalSeq::new(65);
    let last_seq = if kind == ObjectKind::Rolled { WalSeq::new(320) } else { seq };
    ObjectIdentity {
        kind,
        jump: false,
        cluster: CLUSTER,
        shard: SHARD,
        epoch: LeaderEpoch::new(2),
        seq,
        last_seq,
        nonce: NONCE,
        append_time: NOW,
    }
}

pub(crate) fn epoch() -> Bytes {
    encode_epoch(CLUSTER, SHARD, LeaderEpoch::new(2), WalSeq::new(1), NONCE, NOW)
}

pub(crate) fn data() -> EncodedObject {
    let mut builder = ObjectBuilder::new(ObjectIdentity { jump: true, ..identity(ObjectKind::Data) });
    let mut push = |extent, parts: &[&'static str], dedupe: &[DedupeEntry]| {
        let parts = parts.iter().map(|part| Bytes::from_static(part.as_bytes()));
        builder.push(extent, parts, dedupe.iter().copied()).unwrap();
    };
    push(extent(partition(9, 1), 20, 23), &["batch ", "of two parts"], &[dedupe(20, 3)]);
    push(extent(partition(5, 0), 0, 1), &["first"], &[]);
    push(extent(partition(9, 1), 23, 30), &["follows"], &[dedupe(23, 2), dedupe(25, 5)]);
    push(extent(partition(9, 0), 7, 8), &["another partition"], &[dedupe(7, 1)]);
    builder.finish().unwrap()
}

pub(crate) fn rolled() -> EncodedObject {
    let mut builder = ObjectBuilder::new(identity(ObjectKind::Rolled));
    let mut push = |extent, byte: u8, len: usize| {
        builder.push(extent, [Bytes::from(vec![byte; len])], []).unwrap();
    };
    push(extent(partition(9, 1), 20, 23), 1, 40);
    push(extent(partition(5, 0), 0, 1), 2, 50);
    push(extent(partition(9, 1), 23, 30), 3, 60);
    push(extent(partition(9, 1), 1000, 1030), 4, 70);
    builder.finish().unwrap()
}

pub(crate) fn manifest() -> Manifest {
    let epoch = |epoch, first, end: Option<u64>| EpochEntry {
        epoch: LeaderEpoch::new(epoch),
        nonce: Nonce::new(NONCE.get() + u128::from(epoch)),
        first_seq: WalSeq::new(first),
        end_seq: end.map(WalSeq::new),
    };
    let rolled = |first, last| RolledRef {
        first: WalSeq::new(first),
        last: WalSeq::new(last),
        job: JOB,
        size: 1_000_000 + first,
        append_time_max: NOW,
    };
    Manifest {
        version: 17,
        floor: WalSeq::new(700),
        epoch_at_floor: LeaderEpoch::new(2),
        append_time_at_floor: NOW,
        epochs: vec![epoch(1, 64, Some(500)), epoch(2, 564, None)],
        snapshot: Some(0xaaaa_bbbb_cccc_dddd_0000_1111_2222_3333),
        rolled: vec![rolled(64, 319), rolled(320, 699)],
        pages: vec![PageRef { index: 0, hash: 1 }, PageRef { index: 4, hash: u128::MAX }],
        ..Manifest::new(CLUSTER, SHARD)
    }
}

pub(crate) fn page() -> Page {
    let segment = |base, end, count| SegmentRef {
        base_offset: Offset::new(base),
        end_offset: Offset::new(end),
        count,
        bytes: 4_096,
        max_timestamp: Timestamp::from_millis(-1),
        append_time_max: NOW,
        footer_position: 4_000,
        job: JOB,
    };
    let entry = |partition, log_start, segments| PagePartition {
        partition,
        log_start: Offset::new(log_start),
        segments,
    };
    let partitions = vec![
        entry(partition(5, 0), 0, vec![]),
        entry(partition(9, 1), 12, vec![segment(10, 20, 10), segment(25, 125, 0)]),
    ];
    Page { partitions }
}

pub(crate) fn snapshot() -> Snapshot {
    let end =
        |partition, next| PartitionEnd { partition, next_offset: Offset::new(next), max_timestamp: NOW };
    Snapshot {
        floor: WalSeq::new(700),
        append_time: NOW,
        partitions: vec![end(partition(5, 0), 1), end(partition(9, 1), 30)],
        dedupe: vec![(partition(9, 1), dedupe(20, 3)), (partition(5, 0), dedupe(0, 1))],
    }
}

pub(crate) fn topics() -> TopicsFile {
    let mut file = TopicsFile::new();
    file.version = 9;
    file.next_epoch = 192;
    let settings = Settings { retention_ms: -1, ..Settings::default() };
    let topic = Topic {
        id: TopicId::new(9),
        epoch: file.take_epoch(),
        partitions: 12,
        first_shard: SHARD,
        shard_count: 4,
        version: 2,
        settings,
    };
    file.topics.insert("orders".parse().unwrap(), topic);
    file.deleted.push(DeletedTopic {
        id: TopicId::new(5),
        name: "old.orders_1".parse().unwrap(),
        partitions: 1,
        first_shard: ShardId::ZERO,
        shard_count: 1,
        deleted_at: NOW,
    });
    file
}

pub(crate) fn cluster_embedded() -> ClusterFile {
    ClusterFile::new(CLUSTER, 1, CoordinatorKind::Embedded { node: NodeId::new(6) })
}

pub(crate) fn cluster_redis() -> ClusterFile {
    ClusterFile::new(CLUSTER, 4, CoordinatorKind::Redis {})
}

pub(crate) fn access() -> AccessFile {
    let scope = |action, pattern: &str| Scope { action, pattern: pattern.to_owned() };
    let mut file = AccessFile::new(Secret::new([0xab; 32]));
    let key = ApiKey {
        hash: Secret::new([0xcd; 32]),
        salt: Secret::new([0xab; 16]),
        scopes: vec![scope(Action::Produce, "orders-*"), scope(Action::Group, "*")],
        created: NOW,
    };
    file.keys.insert("billing".to_owned(), key);
    file
}
