//! The journal's bytes: frames, and the header of a file. Pure encode and decode.
//!
//! ```text
//! file    magic 8, version u16, cluster id u128, file number u64, first frame number u64, CRC-32C
//! frame   magic 4, payload length u32, frame number u64, synced below u64, kind u8, payload, checksum u32
//! ```
//!
//! The checksum is the CRC-32C over the cluster id and all of the frame but its magic. The cluster id is not stored
//! again, it keys the checksum: bodies are chosen by clients, and a torn body that contains the image of a frame must
//! not be taken for one. A client cannot build such an image without the id.

use std::fmt;
use std::io::IoSlice;

use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest};

use crate::error::FormatError;
use crate::format::codec::{Decoder, Encoder};
use crate::format::dedupe::DedupeEntry;
use crate::limits;
use crate::model::{ClusterId, Durability, Nonce, Offset, ShardId, Timestamp, TopicPartition, WalSeq};

use super::scan::Found;

/// First bytes of every frame. Not text, so that text in bodies seldom looks like one.
pub const FRAME_MAGIC: [u8; 4] = [0xf7, 0x0b, 0xa7, 0x1e];
/// Bytes of a frame before its payload.
pub const FRAME_HEAD_LEN: usize = 25;
/// Bytes of a frame without payload: no frame is shorter.
pub const FRAME_LEN_MIN: usize = FRAME_HEAD_LEN + CHECKSUM_LEN;
/// Bytes of a file's header.
pub const FILE_HEADER_LEN: usize = 46;

const CHECKSUM_LEN: usize = 4;
const LENGTH_AT: usize = 4;
const NUMBER_AT: usize = 8;
const SYNCED_AT: usize = 16;
const KIND_AT: usize = 24;
const BATCH_HEAD_LEN: usize = 46;

const FILE: &str = "journal file";
const FILE_MAGIC: [u8; 8] = *b"FBJRNL\r\n";
const FILE_VERSION: u16 = 1;
const FRAME: &str = "journal frame";

/// Number of a frame. Rises by one per frame over the journal's whole life, restarts included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct FrameNumber(u64);

impl FrameNumber {
    /// The first frame of a new journal.
    pub const ZERO: Self = Self(0);

    /// Wraps a number.
    pub const fn new(value: u64) -> Self {
        Self(value)
    }

    /// Returns the number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Returns the number `n` further on. Saturates: no journal comes near the maximum.
    #[must_use]
    pub const fn plus(self, n: u64) -> Self {
        Self(self.0.saturating_add(n))
    }
}

impl fmt::Display for FrameNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One record batch in an [`Frame::Append`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalBatch {
    /// Where it belongs.
    pub partition: TopicPartition,
    /// Offset of its first record.
    pub base_offset: Offset,
    /// Number of its records.
    pub count: u32,
    /// Latest timestamp of its records.
    pub max_timestamp: Timestamp,
    /// Which producers' appends it holds.
    pub dedupe: Vec<DedupeEntry>,
    /// The encoded batch. The journal does not look inside.
    pub bytes: Bytes,
}

/// One entry of the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// Batches accepted by a shard: one unit, all or nothing.
    Append {
        /// The shard.
        shard: ShardId,
        /// Which leadership of the shard gave out the offsets.
        nonce: Nonce,
        /// What its producer waits for.
        level: Durability,
        /// When the leader accepted it.
        append_time: Timestamp,
        /// The batches.
        batches: Vec<JournalBatch>,
    },
    /// The shard's appends in a range of frames go into a WAL object. Said, and synced, before the object is sent.
    Frozen {
        /// The shard.
        shard: ShardId,
        /// The leadership that sends it: not always the one that gave out the offsets.
        nonce: Nonce,
        /// The object's number.
        seq: WalSeq,
        /// The first frame; between the two lie frames of other shards too.
        first: FrameNumber,
        /// The last frame.
        last: FrameNumber,
    },
    /// Nothing is left to do for the shard's older appends.
    Settled {
        /// The shard.
        shard: ShardId,
        /// The leadership that says so.
        nonce: Nonce,
        /// The shard's appends in frames below this number are in the log, or were dropped with their topic.
        below: FrameNumber,
    },
}

/// The checksum of one cluster's frames.
#[derive(Debug, Clone)]
pub struct Seal(Digest);

impl Seal {
    /// Keys the checksum with a cluster's id.
    pub fn new(cluster: ClusterId) -> Self {
        let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
        digest.update(&cluster.to_bytes());
        Self(digest)
    }

    fn checksum<'a>(&self, parts: impl IntoIterator<Item = &'a [u8]>) -> [u8; CHECKSUM_LEN] {
        let mut digest = self.0;
        parts.into_iter().for_each(|part| digest.update(part));
        u32::try_from(digest.finalize()).expect("a CRC-32 has 32 bits").to_be_bytes()
    }

    /// Tells whether a whole frame's checksum is right.
    pub fn holds(&self, frame: &[u8]) -> bool {
        let Some((covered, checksum)) = frame.split_last_chunk::<CHECKSUM_LEN>() else { return false };
        covered.get(LENGTH_AT..).is_some_and(|covered| self.checksum([covered]) == *checksum)
    }
}

/// A frame as it is written: the bodies of its batches are shared, not copied.
#[derive(Debug)]
pub struct Encoded {
    head: Vec<u8>,
    bodies: Vec<Bytes>,
    checksum: [u8; CHECKSUM_LEN],
    len: usize,
}

impl Encoded {
    /// Encodes a frame; [`Self::seal`] must follow before it is written.
    ///
    /// # Errors
    ///
    /// [`FormatError::TooLarge`] past [`limits::JOURNAL_FRAME_BYTES_MAX`], [`FormatError::Field`] for a dedupe entry
    /// without records.
    pub fn new(frame: Frame) -> Result<Self, FormatError> {
        let (mut head, bodies) = encode(frame)?;
        let body_bytes: usize = bodies.iter().map(Bytes::len).sum();
        let len = head.len().saturating_add(body_bytes).saturating_add(CHECKSUM_LEN);
        let too_large =
            || FormatError::TooLarge { what: FRAME, size: len, limit: limits::JOURNAL_FRAME_BYTES_MAX };
        if len > limits::JOURNAL_FRAME_BYTES_MAX {
            return Err(too_large());
        }
        let payload = u32::try_from(len - FRAME_LEN_MIN).map_err(|_| too_large())?;
        head[LENGTH_AT..NUMBER_AT].copy_from_slice(&payload.to_be_bytes());
        Ok(Self { head, bodies, checksum: [0; CHECKSUM_LEN], len })
    }

    /// Sets what is known only when the frame is written, and the checksum.
    pub fn seal(&mut self, seal: &Seal, number: FrameNumber, synced_below: FrameNumber) {
        self.head[NUMBER_AT..SYNCED_AT].copy_from_slice(&number.0.to_be_bytes());
        self.head[SYNCED_AT..KIND_AT].copy_from_slice(&synced_below.0.to_be_bytes());
        let bodies = self.bodies.iter().map(|body| &body[..]);
        self.checksum = seal.checksum([&self.head[LENGTH_AT..]].into_iter().chain(bodies));
    }

    /// Returns the number of bytes.
    #[expect(clippy::len_without_is_empty, reason = "no frame is empty")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns the bytes, in order, for a vectored write.
    pub fn slices(&self) -> impl Iterator<Item = IoSlice<'_>> {
        let bodies = self.bodies.iter().map(|body| &body[..]);
        let parts = [&self.head[..]].into_iter().chain(bodies).chain([&self.checksum[..]]);
        parts.map(IoSlice::new)
    }
}

fn encode(frame: Frame) -> Result<(Vec<u8>, Vec<Bytes>), FormatError> {
    let mut encoder = Encoder::new();
    let mut bodies = Vec::new();
    encoder.bytes(&FRAME_MAGIC).pad_to(KIND_AT);
    match frame {
        Frame::Append { shard, nonce, level, append_time, batches } => {
            encoder.u8(1).u16(shard.get()).u128(nonce.get());
            encoder.u8(matches!(level, Durability::Local).into()).timestamp(append_time).count(batches.len());
            bodies.reserve_exact(batches.len());
            for batch in batches {
                encode_batch(&batch, &mut encoder)?;
                bodies.push(batch.bytes);
            }
        }
        Frame::Frozen { shard, nonce, seq, first, last } => {
            encoder.u8(2).u16(shard.get()).u128(nonce.get()).u64(seq.get()).u64(first.0).u64(last.0);
        }
        Frame::Settled { shard, nonce, below } => {
            encoder.u8(4).u16(shard.get()).u128(nonce.get()).u64(below.0);
        }
    }
    Ok((encoder.finish(), bodies))
}

fn encode_batch(batch: &JournalBatch, encoder: &mut Encoder) -> Result<(), FormatError> {
    if batch.dedupe.iter().any(|entry| entry.count == 0) {
        return Err(FormatError::Field { what: FRAME, field: "dedupe count" });
    }
    encoder.partition(batch.partition).u64(batch.base_offset.get()).u32(batch.count);
    encoder.timestamp(batch.max_timestamp).count(batch.bytes.len()).count(batch.dedupe.len());
    batch.dedupe.iter().for_each(|entry| entry.encode(encoder));
    Ok(())
}

/// Reads what the bytes claim to be the head of; whether they are is for [`Seal::holds`] to say.
pub fn claim(bytes: &[u8]) -> Option<Found> {
    let mut decoder = Decoder::new(FRAME, bytes);
    let is_frame = decoder.array().ok()? == FRAME_MAGIC;
    let payload = usize::try_from(decoder.u32().ok()?).ok()?;
    let number = FrameNumber(decoder.u64().ok()?);
    let synced_below = FrameNumber(decoder.u64().ok()?);
    let len = FRAME_LEN_MIN.checked_add(payload)?;
    let fits = len <= limits::JOURNAL_FRAME_BYTES_MAX && len <= bytes.len();
    (is_frame && fits && synced_below <= number).then_some(Found { number, synced_below, position: 0, len })
}

/// Decodes a whole frame whose checksum holds. The batches share its bytes. None for a mark of an earlier layout (kind 3,
/// the fate of one WAL object), which says nothing that is asked any more.
///
/// # Errors
///
/// [`FormatError`] when it was not written by this version.
pub fn decode(bytes: &Bytes) -> Result<Option<Frame>, FormatError> {
    let body = bytes.len().checked_sub(CHECKSUM_LEN).and_then(|end| bytes.get(KIND_AT..end));
    let mut decoder = Decoder::new(FRAME, body.ok_or(FormatError::Truncated { what: FRAME })?);
    let kind = decoder.u8()?;
    let shard = ShardId::new(decoder.u16()?);
    let nonce = Nonce::new(decoder.u128()?);
    let frame = match kind {
        1 => {
            let level = match decoder.u8()? {
                0 => Durability::Object,
                1 => Durability::Local,
                _ => return Err(FormatError::Field { what: FRAME, field: "level" }),
            };
            let append_time = decoder.timestamp()?;
            let batches = decode_batches(&mut decoder, bytes)?;
            Frame::Append { shard, nonce, level, append_time, batches }
        }
        2 => {
            let seq = WalSeq::new(decoder.u64()?);
            let (first, last) = (FrameNumber(decoder.u64()?), FrameNumber(decoder.u64()?));
            Frame::Frozen { shard, nonce, seq, first, last }
        }
        3 => return Ok(None),
        4 => Frame::Settled { shard, nonce, below: FrameNumber(decoder.u64()?) },
        _ => return Err(FormatError::Field { what: FRAME, field: "kind" }),
    };
    decoder.finish()?;
    Ok(Some(frame))
}

/// Reads the heads of all batches, then their bodies.
fn decode_batches(decoder: &mut Decoder<'_>, frame: &Bytes) -> Result<Vec<JournalBatch>, FormatError> {
    let count = decoder.count(BATCH_HEAD_LEN)?;
    let mut batches = Vec::with_capacity(count);
    let mut lengths = Vec::with_capacity(count);
    for _ in 0..count {
        let partition = decoder.partition()?;
        let base_offset = decoder.offset()?;
        let count = decoder.u32()?;
        let max_timestamp = decoder.timestamp()?;
        lengths.push(decoder.u32()?);
        let entries = decoder.count(DedupeEntry::LEN)?;
        let dedupe = (0..entries).map(|_| DedupeEntry::decode(decoder)).collect::<Result<_, _>>()?;
        batches.push(JournalBatch {
            partition,
            base_offset,
            count,
            max_timestamp,
            dedupe,
            bytes: Bytes::new(),
        });
    }
    for (batch, len) in batches.iter_mut().zip(lengths) {
        let len = usize::try_from(len).map_err(|_| FormatError::Truncated { what: FRAME })?;
        batch.bytes = frame.slice_ref(decoder.bytes(len)?);
    }
    Ok(batches)
}

/// The header of a journal file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileHeader {
    /// Whose journal it is.
    pub cluster: ClusterId,
    /// The file's number.
    pub file: u64,
    /// Number of its first frame, and so one past the last frame of the file before.
    pub first: FrameNumber,
}

impl FileHeader {
    /// Encodes it in [`FILE_HEADER_LEN`] bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut encoder = Encoder::sealed(&FILE_MAGIC, FILE_VERSION);
        encoder.u128(self.cluster.get()).u64(self.file).u64(self.first.0);
        encoder.seal()
    }

    /// Decodes the first [`FILE_HEADER_LEN`] bytes of a file.
    ///
    /// # Errors
    ///
    /// [`FormatError::Version`] when another version wrote the file; any other error: the header is damaged.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let header = bytes.get(..FILE_HEADER_LEN).ok_or(FormatError::Truncated { what: FILE })?;
        let mut decoder = Decoder::sealed(FILE, &FILE_MAGIC, FILE_VERSION, header)?;
        let cluster = ClusterId::new(decoder.u128()?);
        let header = Self { cluster, file: decoder.u64()?, first: FrameNumber(decoder.u64()?) };
        decoder.finish()?;
        Ok(header)
    }
}
