//! The frames of an append stream.
//!
//! ```text
//! to the leader:   number u64 | number of the append before it in its request u64, or 0 | remaining wait in ms u32
//!                  | version of the sender's topics u64 | append
//! append:          level u8 | dedupe: present u8, id u128, has epoch u8, epoch i16, first sequence u32, body hash u64
//!                  | count of batches u32 | batches
//! batch:           topic u128 | partition u16 | has expected u8, expected u128 | kind u8 | compression u8
//!                  | timestamp type u8 | length u32 | record batch
//! from the leader: 1 | number u64 | appended    or 2 | number u64 | error    or 3 | hint
//! ```
//!
//! Few records, which the leader coalesces with others', travel as a record batch too: one form for both.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use forebay_log::error::{FormatError, Outcome};
use forebay_log::format::codec::{Decoder, Encoder};
use forebay_log::format::record_batch::{self, EncodedBatch};
use forebay_log::model::{Compression, Durability, Offset, Record, TimestampType};
use forebay_log::shard::{Append, AppendError, Appended, BatchSource, Dedupe, NewBatch, Placement};

use crate::cluster::LeaderHint;
use crate::cluster::call::{decode_hint, encode_hint};

const APPEND: &str = "forwarded append";
const ANSWER: &str = "answer to a forwarded append";
/// Fewest bytes of a batch in an append.
const BATCH_LEN_MIN: usize = 18 + 17 + 3 + 4;
/// Bytes of a placement.
const PLACEMENT_LEN: usize = 18 + 8 + 4;

/// An append as it travels. Cloning copies nothing.
#[derive(Debug, Clone)]
pub struct EncodedAppend {
    parts: Vec<Bytes>,
}

impl EncodedAppend {
    /// Encodes an append. Batches that are encoded already are not copied.
    ///
    /// # Errors
    /// [`FormatError::TooLarge`]; such an append is too large for its leader too.
    pub fn new(append: Append) -> Result<Self, FormatError> {
        let Append { batches, dedupe, level } = append;
        let (mut parts, mut encoder) = (Vec::new(), Encoder::new());
        encoder.u8(u8::from(level == Durability::Object));
        put_dedupe(&mut encoder, dedupe);
        encoder.count(batches.len());
        for NewBatch { partition, source, expected } in batches {
            encoder.partition(partition).optional(expected.map(|offset| u128::from(offset.get())));
            let bytes = match source {
                BatchSource::Encoded(batch) => {
                    encoder.u8(0).u8(0).u8(0);
                    batch.into_bytes()
                }
                BatchSource::Records { records, compression, timestamp_type } => {
                    encoder.u8(1).u8(u8::from(compression == Compression::Zstd));
                    encoder.u8(u8::from(timestamp_type == TimestampType::LogAppendTime));
                    // With each record's own timestamp: what kind it is, is said beside.
                    let plain = (Compression::None, TimestampType::CreateTime);
                    record_batch::encode(&records, plain.0, plain.1)?.into_bytes()
                }
            };
            encoder.count(bytes.len());
            parts.push(Bytes::from(std::mem::take(&mut encoder).finish()));
            parts.push(bytes);
        }
        if parts.is_empty() {
            parts.push(Bytes::from(encoder.finish()));
        }
        Ok(Self { parts })
    }

    /// Returns its bytes.
    pub fn size_bytes(&self) -> usize {
        self.parts.iter().map(Bytes::len).sum()
    }

    /// Returns the append, for a leader on this node.
    ///
    /// # Errors
    /// None for what [`Self::new`] made.
    pub fn decode(&self) -> Result<Append, FormatError> {
        let mut whole = BytesMut::with_capacity(self.size_bytes());
        self.parts.iter().for_each(|part| whole.extend_from_slice(part));
        decode_append(&whole.freeze())
    }
}

fn put_dedupe(encoder: &mut Encoder, dedupe: Option<Dedupe>) {
    encoder.u8(u8::from(dedupe.is_some()));
    if let Some(Dedupe { id, producer_epoch, first_sequence, body_hash }) = dedupe {
        encoder.u128(id).u8(u8::from(producer_epoch.is_some())).i16(producer_epoch.unwrap_or_default());
        encoder.u32(first_sequence).u64(body_hash);
    }
}

fn decode_append(bytes: &Bytes) -> Result<Append, FormatError> {
    let mut decoder = Decoder::new(APPEND, bytes);
    let level = if flag(&mut decoder)? { Durability::Object } else { Durability::Local };
    let dedupe = match flag(&mut decoder)? {
        false => None,
        true => {
            let id = decoder.u128()?;
            let (has_epoch, epoch) = (flag(&mut decoder)?, decoder.i16()?);
            let (first_sequence, body_hash) = (decoder.u32()?, decoder.u64()?);
            Some(Dedupe { id, producer_epoch: has_epoch.then_some(epoch), first_sequence, body_hash })
        }
    };
    let count = decoder.count(BATCH_LEN_MIN)?;
    let mut batches = Vec::with_capacity(count);
    for _ in 0..count {
        batches.push(decode_batch(&mut decoder, bytes)?);
    }
    decoder.finish()?;
    Ok(Append { batches, dedupe, level })
}

fn decode_batch(decoder: &mut Decoder<'_>, whole: &Bytes) -> Result<NewBatch, FormatError> {
    let invalid = |field| FormatError::Field { what: APPEND, field };
    let partition = decoder.partition()?;
    let expected = decoder.optional()?.map(u64::try_from).transpose().map_err(|_| invalid("expected"))?;
    let is_records = flag(decoder)?;
    let compression = if flag(decoder)? { Compression::Zstd } else { Compression::None };
    let timestamp_type =
        if flag(decoder)? { TimestampType::LogAppendTime } else { TimestampType::CreateTime };
    let len = decoder.count(1)?;
    let bytes = decoder.bytes(len)?;
    let source = if is_records {
        let batch = record_batch::batches(whole.slice_ref(bytes)).next().ok_or(invalid("batch"))??;
        decoder.ensure(batch.bytes().len() == len, "batch")?;
        let records = batch.records()?.map(|record| record.map(Record::from));
        BatchSource::Records { records: records.collect::<Result<_, _>>()?, compression, timestamp_type }
    } else {
        BatchSource::Encoded(EncodedBatch::from_bytes(bytes)?)
    };
    Ok(NewBatch { partition, source, expected: expected.map(Offset::new) })
}

fn flag(decoder: &mut Decoder<'_>) -> Result<bool, FormatError> {
    match decoder.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(FormatError::Field { what: APPEND, field: "flag" }),
    }
}

/// What a frame to the leader says besides the append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    /// From 1 on, rising.
    pub(super) number: u64,
    /// The append before it in its request, or 0.
    pub(super) after: u64,
    /// How long its sender still waits.
    pub(super) wait: Duration,
    /// What its sender knows of the topics.
    pub(super) topics_version: u64,
}

/// Returns the parts of a frame to the leader.
pub(super) fn frame(head: &Head, append: &EncodedAppend) -> Vec<Bytes> {
    let mut encoder = Encoder::with_capacity(28);
    encoder.u64(head.number).u64(head.after);
    encoder.u32(u32::try_from(head.wait.as_millis()).unwrap_or(u32::MAX)).u64(head.topics_version);
    let mut parts = Vec::with_capacity(append.parts.len() + 1);
    parts.push(Bytes::from(encoder.finish()));
    parts.extend(append.parts.iter().cloned());
    parts
}

/// Reads a frame to the leader.
pub(super) fn decode_frame(frame: &Bytes) -> Result<(Head, Append), FormatError> {
    let mut decoder = Decoder::new(APPEND, frame);
    let (number, after) = (decoder.u64()?, decoder.u64()?);
    let wait = Duration::from_millis(u64::from(decoder.u32()?));
    let topics_version = decoder.u64()?;
    let append = decode_append(&frame.slice_ref(decoder.rest()))?;
    Ok((Head { number, after, wait, topics_version }, append))
}

/// What comes from the leader.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// What became of an append.
    Of(u64, Result<Appended, AppendError>),
    /// It does not lead; this node does.
    Hint(LeaderHint),
}

/// Encodes a frame from the leader.
pub(super) fn encode_answer(answer: &Answer) -> Bytes {
    let mut encoder = Encoder::new();
    match answer {
        Answer::Of(number, Ok(Appended { placements, replayed })) => {
            encoder.u8(1).u64(*number).u8(u8::from(*replayed)).count(placements.len());
            for Placement { partition, base_offset, count } in placements {
                encoder.partition(*partition).u64(base_offset.get()).u32(*count);
            }
        }
        Answer::Of(number, Err(error)) => {
            encoder.u8(2).u64(*number);
            put_error(&mut encoder, error);
        }
        Answer::Hint(hint) => {
            encoder.u8(3);
            encode_hint(&mut encoder, hint);
        }
    }
    Bytes::from(encoder.finish())
}

/// Reads a frame from the leader.
pub(super) fn decode_answer(bytes: &[u8]) -> Result<Answer, FormatError> {
    let mut decoder = Decoder::new(ANSWER, bytes);
    let answer = match decoder.u8()? {
        1 => {
            let (number, replayed) = (decoder.u64()?, flag(&mut decoder)?);
            let count = decoder.count(PLACEMENT_LEN)?;
            let mut placements = Vec::with_capacity(count);
            for _ in 0..count {
                let (partition, base_offset) = (decoder.partition()?, decoder.offset()?);
                placements.push(Placement { partition, base_offset, count: decoder.u32()? });
            }
            Answer::Of(number, Ok(Appended { placements, replayed }))
        }
        2 => Answer::Of(decoder.u64()?, Err(error(&mut decoder)?)),
        3 => Answer::Hint(decode_hint(&mut decoder)?),
        _ => return Err(FormatError::Field { what: ANSWER, field: "kind" }),
    };
    decoder.finish()?;
    Ok(answer)
}

fn put_error(encoder: &mut Encoder, error: &AppendError) {
    match error {
        AppendError::Overloaded => encoder.u8(1),
        AppendError::Expected { expected, current } => encoder.u8(2).u64(expected.get()).u64(current.get()),
        AppendError::Mismatch => encoder.u8(3),
        AppendError::SequenceGap { expected } => encoder.u8(4).u32(*expected),
        AppendError::ProducerFenced { current } => encoder.u8(5).i16(*current),
        AppendError::InProgress => encoder.u8(6),
        AppendError::TimedOut => encoder.u8(7),
        AppendError::TooLarge { size, limit } => encoder.u8(8).u64(*size as u64).u64(*limit as u64),
        AppendError::Empty => encoder.u8(9),
        AppendError::TopicGone => encoder.u8(10),
        AppendError::NoLeader { outcome: Outcome::NotApplied } => encoder.u8(11),
        AppendError::NoLeader { outcome: Outcome::Unknown } => encoder.u8(12),
        AppendError::Draining => encoder.u8(13),
    };
}

fn error(decoder: &mut Decoder<'_>) -> Result<AppendError, FormatError> {
    Ok(match decoder.u8()? {
        1 => AppendError::Overloaded,
        2 => AppendError::Expected { expected: decoder.offset()?, current: decoder.offset()? },
        3 => AppendError::Mismatch,
        4 => AppendError::SequenceGap { expected: decoder.u32()? },
        5 => AppendError::ProducerFenced { current: decoder.i16()? },
        6 => AppendError::InProgress,
        7 => AppendError::TimedOut,
        8 => {
            let mut size = || decoder.u64().map(|size| usize::try_from(size).unwrap_or(usize::MAX));
            AppendError::TooLarge { size: size()?, limit: size()? }
        }
        9 => AppendError::Empty,
        10 => AppendError::TopicGone,
        11 => AppendError::NoLeader { outcome: Outcome::NotApplied },
        12 => AppendError::NoLeader { outcome: Outcome::Unknown },
        13 => AppendError::Draining,
        _ => return Err(FormatError::Field { what: ANSWER, field: "error" }),
    })
}
