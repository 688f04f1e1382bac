//! What the tests of the shard log share.

mod cache;
mod dedupe;
mod index;
mod reader;
mod state;
mod taker;
mod walk;
mod writer;

use bytes::Bytes;

use crate::format::dedupe::DedupeEntry;
use crate::format::manifest::{EpochEntry, Manifest};
use crate::format::wal_object::{
    EncodedObject, Extent, Footer, ObjectBuilder, ObjectIdentity, ObjectKind, WalHeader, encode_epoch,
};
use crate::model::{
    ClusterId, LeaderEpoch, Nonce, Offset, PartitionId, ShardId, Timestamp, TopicId, TopicPartition, WalSeq,
};
use crate::shard::taker::PathObject;

pub(super) const CLUSTER: ClusterId = ClusterId::new(7);
pub(super) const SHARD: ShardId = ShardId::new(3);
pub(super) const GAP: u64 = crate::limits::EPOCH_GAP;

pub(super) fn seq(seq: u64) -> WalSeq {
    WalSeq::new(seq)
}

pub(super) fn partition(partition: u16) -> TopicPartition {
    TopicPartition { topic: TopicId::new(1), partition: PartitionId::new(partition) }
}

/// A nonce that tells its epoch.
pub(super) fn nonce(epoch: u32) -> Nonce {
    Nonce::new(u128::from(epoch) + 1000)
}

/// A manifest whose floor lies behind the EPOCH of this epoch.
pub(super) fn manifest(floor: u64, epoch: u32) -> Manifest {
    let first_seq = seq(floor);
    let entry = EpochEntry { epoch: LeaderEpoch::new(epoch), nonce: nonce(epoch), first_seq, end_seq: None };
    Manifest {
        floor: seq(floor),
        epoch_at_floor: LeaderEpoch::new(epoch),
        epochs: (epoch > 0).then_some(entry).into_iter().collect(),
        ..Manifest::new(CLUSTER, SHARD)
    }
}

/// An EPOCH object.
pub(super) fn epoch_at(at: u64, epoch: u32) -> PathObject {
    let now = Timestamp::from_millis(i64::try_from(at).unwrap());
    let body = encode_epoch(CLUSTER, SHARD, LeaderEpoch::new(epoch), seq(at), nonce(epoch), now);
    PathObject { header: WalHeader::decode(&body).unwrap(), footer: Footer::default() }
}

/// Records of one partition in a DATA object: partition, base offset, end offset.
pub(super) type Run = (u16, u64, u64);

pub(super) fn encoded(at: u64, epoch: u32, jump: bool, runs: &[Run]) -> EncodedObject {
    encoded_of(at, epoch, jump, runs, Bytes::from_static(b"batch"))
}

/// As [`encoded`], each run with this body.
pub(super) fn encoded_of(at: u64, epoch: u32, jump: bool, runs: &[Run], body: Bytes) -> EncodedObject {
    let append_time = Timestamp::from_millis(i64::try_from(at).unwrap());
    let mut builder = ObjectBuilder::new(ObjectIdentity {
        kind: ObjectKind::Data,
        jump,
        cluster: CLUSTER,
        shard: SHARD,
        epoch: LeaderEpoch::new(epoch),
        seq: seq(at),
        last_seq: seq(at),
        nonce: nonce(epoch),
        append_time,
    });
    for (number, base, end) in runs {
        let extent = Extent {
            partition: partition(*number),
            base_offset: Offset::new(*base),
            end_offset: Offset::new(*end),
            count: u32::try_from(end - base).unwrap(),
            max_timestamp: append_time,
            append_time,
        };
        let bytes = (end > base).then(|| body.clone());
        builder.push(extent, bytes, []).unwrap();
    }
    builder.finish().unwrap()
}

/// A DATA object.
pub(super) fn data_at(at: u64, epoch: u32, runs: &[Run]) -> PathObject {
    let EncodedObject { header, footer, .. } = encoded(at, epoch, false, runs);
    PathObject { header, footer }
}

/// A DATA object whose offsets may jump.
pub(super) fn jump_at(at: u64, epoch: u32, runs: &[Run]) -> PathObject {
    let EncodedObject { header, footer, .. } = encoded(at, epoch, true, runs);
    PathObject { header, footer }
}

pub(super) fn dedupe(id: u128, first_sequence: u32, append_time: i64) -> DedupeEntry {
    DedupeEntry {
        id,
        producer_epoch: 0,
        first_sequence,
        base_offset: Offset::new(u64::from(first_sequence)),
        count: 1,
        append_time: Timestamp::from_millis(append_time),
        body_hash: 99,
    }
}
