//! The first 256 bytes of every object: a sealed structure padded with zeros.

use bytes::Bytes;

use crate::error::FormatError;
use crate::format::codec::{Decoder, Encoder, ensure, hash64};
use crate::format::wal_object::builder::ObjectIdentity;
use crate::format::wal_object::footer::TRAILER_LEN;
use crate::limits::{METADATA_BYTES_MAX, WAL_HEADER_LEN};
use crate::model::{ClusterId, LeaderEpoch, Nonce, ShardId, Timestamp, WalSeq};

const WHAT: &str = "wal header";
const MAGIC: &[u8; 8] = b"FBWALOBJ";
const VERSION: u16 = 1;
const FLAG_JUMP: u8 = 1;
const CRC_LEN: usize = 4;

/// What an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ObjectKind {
    /// One flush of a shard.
    Data,
    /// The start of a leadership; a header without content.
    Epoch,
    /// Many DATA objects in one, regrouped by topic and partition.
    Rolled,
}

/// The header of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalHeader {
    /// What the object is.
    pub kind: ObjectKind,
    /// Base offsets may jump forward here: only in DATA of an exclusive store, after damage.
    pub jump: bool,
    /// The cluster it belongs to.
    pub cluster: ClusterId,
    /// The shard it belongs to.
    pub shard: ShardId,
    /// Epoch of the leader that wrote it; in a rolled object that of the last DATA in it.
    pub epoch: LeaderEpoch,
    /// Its sequence number; in a rolled object the first of those in it.
    pub seq: WalSeq,
    /// The last sequence number in it: that of `seq`, except in a rolled object.
    pub last_seq: WalSeq,
    /// Nonce of the leader's EPOCH; in a rolled object the number of the compactor's job.
    pub nonce: Nonce,
    /// When the leader froze it; never decreases in a shard. In a rolled object the newest of those in it.
    pub append_time: Timestamp,
    /// Where the footer starts. 0 in an EPOCH.
    pub footer_position: u64,
    /// Bytes of the footer without the trailer. 0 in an EPOCH.
    pub footer_len: u32,
    /// Bytes of the whole object.
    pub object_len: u64,
    /// [`hash64`] of everything after the header.
    pub content_hash: u64,
}

impl WalHeader {
    /// Encodes the header.
    pub fn encode(&self) -> [u8; WAL_HEADER_LEN] {
        let kind = match self.kind {
            ObjectKind::Data => 0,
            ObjectKind::Epoch => 1,
            ObjectKind::Rolled => 2,
        };
        let mut encoder = Encoder::sealed(MAGIC, VERSION);
        encoder
            .u8(kind)
            .u8(if self.jump { FLAG_JUMP } else { 0 })
            .u128(self.cluster.get())
            .u16(self.shard.get())
            .u32(self.epoch.get())
            .u64(self.seq.get())
            .u64(self.last_seq.get())
            .u128(self.nonce.get())
            .timestamp(self.append_time)
            .u64(self.footer_position)
            .u32(self.footer_len)
            .u64(self.object_len)
            .u64(self.content_hash)
            .pad_to(WAL_HEADER_LEN - CRC_LEN);
        encoder.seal().try_into().expect("the fields take 102 bytes and are padded to the length")
    }

    /// Decodes the header from the start of an object; what follows it is not looked at.
    ///
    /// # Errors
    /// Any [`FormatError`]; a retry only helps if the store gave wrong bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let bytes = bytes.get(..WAL_HEADER_LEN).ok_or(FormatError::Truncated { what: WHAT })?;
        let mut decoder = Decoder::sealed(WHAT, MAGIC, VERSION, bytes)?;
        let kind = match decoder.u8()? {
            0 => ObjectKind::Data,
            1 => ObjectKind::Epoch,
            2 => ObjectKind::Rolled,
            _ => return Err(FormatError::Field { what: WHAT, field: "kind" }),
        };
        let flags = decoder.u8()?;
        decoder.ensure(flags & !FLAG_JUMP == 0, "flags")?;
        let header = Self {
            kind,
            jump: flags & FLAG_JUMP != 0,
            cluster: ClusterId::new(decoder.u128()?),
            shard: ShardId::new(decoder.u16()?),
            epoch: LeaderEpoch::new(decoder.u32()?),
            seq: WalSeq::new(decoder.u64()?),
            last_seq: WalSeq::new(decoder.u64()?),
            nonce: Nonce::new(decoder.u128()?),
            append_time: decoder.timestamp()?,
            footer_position: decoder.u64()?,
            footer_len: decoder.u32()?,
            object_len: decoder.u64()?,
            content_hash: decoder.u64()?,
        };
        header.check()?;
        decoder.ensure(decoder.rest().iter().all(|byte| *byte == 0), "padding")?;
        Ok(header)
    }

    /// Checks what must hold between the fields.
    pub(super) fn check(&self) -> Result<(), FormatError> {
        let seqs = self.seq == self.last_seq || self.kind == ObjectKind::Rolled && self.seq < self.last_seq;
        ensure(seqs, WHAT, "last seq")?;
        ensure(!self.jump || self.kind == ObjectKind::Data, WHAT, "flags")?;
        let header_len = WAL_HEADER_LEN as u64;
        if self.kind == ObjectKind::Epoch {
            ensure(self.footer_position == 0 && self.footer_len == 0, WHAT, "footer position")?;
            ensure(self.content_hash == hash64(&[]), WHAT, "content hash")?;
            return ensure(self.object_len == header_len, WHAT, "object length");
        }
        // After damage DATA may only announce where partitions go on, without a batch.
        let holds_batches = self.footer_position > header_len;
        ensure(holds_batches || self.jump && self.footer_position == header_len, WHAT, "footer position")?;
        let footer_len = u64::from(self.footer_len);
        ensure(footer_len > 0 && footer_len <= METADATA_BYTES_MAX as u64, WHAT, "footer length")?;
        let end = self.footer_position.checked_add(footer_len + TRAILER_LEN as u64);
        ensure(end == Some(self.object_len), WHAT, "object length")
    }
}

/// Encodes an EPOCH object: exactly 256 bytes.
pub fn encode_epoch(
    cluster: ClusterId,
    shard: ShardId,
    epoch: LeaderEpoch,
    seq: WalSeq,
    nonce: Nonce,
    append_time: Timestamp,
) -> Bytes {
    let identity = ObjectIdentity {
        kind: ObjectKind::Epoch,
        jump: false,
        cluster,
        shard,
        epoch,
        seq,
        last_seq: seq,
        nonce,
        append_time,
    };
    let mut header = identity.into_header();
    header.object_len = WAL_HEADER_LEN as u64;
    header.content_hash = hash64(&[]);
    Bytes::copy_from_slice(&header.encode())
}
