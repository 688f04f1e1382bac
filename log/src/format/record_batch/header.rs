//! The 61 bytes in front of the section.

use bytes::{Buf, BufMut};

use super::BATCH;
use crate::error::FormatError;
use crate::limits;
use crate::model::{Compression, LeaderEpoch, Offset, Timestamp, TimestampType};

/// Bytes of a header.
pub(super) const LEN: usize = 61;
/// Bytes up to and with the length field, which counts what follows it.
const LEN_END: usize = 12;
/// Where the leader epoch lies.
const EPOCH: std::ops::Range<usize> = 12..16;
/// Where the checksum lies; it covers all that follows.
const CRC: std::ops::Range<usize> = 17..21;

const MAGIC: u8 = 2;
/// Bits of the attributes that name the codec.
const CODEC_MASK: u16 = 0b111;
const CODEC_NONE: u16 = 0;
const CODEC_ZSTD: u16 = 4;
/// Bit of the attributes that is set for [`TimestampType::LogAppendTime`].
const LOG_APPEND_TIME: u16 = 0b1000;

/// What the header of a batch says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHeader {
    /// Offset of the first record.
    pub base_offset: Offset,
    /// Epoch of the leader that placed the batch.
    pub leader_epoch: LeaderEpoch,
    /// How the section is stored.
    pub compression: Compression,
    /// Whose clock the timestamps are from.
    pub timestamp_type: TimestampType,
    /// Offset of the last record, less the base offset.
    pub last_offset_delta: u32,
    /// What the timestamps of the records count from.
    pub base_timestamp: Timestamp,
    /// Largest timestamp of a record.
    pub max_timestamp: Timestamp,
    /// Number of records; at least one.
    pub count: u32,
    /// Bytes of the whole batch, header included.
    pub size_bytes: usize,
}

impl BatchHeader {
    /// Returns the offset after the last record's.
    pub fn end_offset(&self) -> Offset {
        self.base_offset.plus(u64::from(self.last_offset_delta) + 1)
    }

    /// Reads the header of the batch that `bytes` begin with, all of which must be there.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        let invalid = |field| FormatError::Field { what: BATCH, field };
        let mut fields = bytes.get(..LEN).ok_or(FormatError::Truncated { what: BATCH })?;
        let base_offset = u64::try_from(fields.get_i64()).map_err(|_| invalid("base offset"))?;
        let size_bytes = usize::try_from(fields.get_i32()).map_err(|_| invalid("length"))? + LEN_END;
        let leader_epoch = fields.get_u32();
        let magic = fields.get_u8();
        let _checksum = fields.get_u32();
        let attributes = fields.get_u16();
        let last_offset_delta = u32::try_from(fields.get_i32()).map_err(|_| invalid("last offset delta"))?;
        let base_timestamp = fields.get_i64();
        let max_timestamp = fields.get_i64();
        fields.advance(size_of::<i64>() + size_of::<i16>() + size_of::<i32>());
        let count = u32::try_from(fields.get_i32()).map_err(|_| invalid("record count"))?;

        if magic != MAGIC {
            return Err(FormatError::Version { what: BATCH, version: magic.into() });
        }
        if size_bytes < LEN {
            return Err(invalid("length"));
        }
        if size_bytes > limits::BATCH_BYTES_MAX {
            let limit = limits::BATCH_BYTES_MAX;
            return Err(FormatError::TooLarge { what: BATCH, size: size_bytes, limit });
        }
        if size_bytes > bytes.len() {
            return Err(FormatError::Truncated { what: BATCH });
        }
        if count == 0 || count - 1 > last_offset_delta {
            return Err(invalid("record count"));
        }
        let (compression, timestamp_type) = read_attributes(attributes).ok_or(invalid("attributes"))?;
        Ok(Self {
            base_offset: Offset::new(base_offset),
            leader_epoch: LeaderEpoch::new(leader_epoch),
            compression,
            timestamp_type,
            last_offset_delta,
            base_timestamp: Timestamp::from_millis(base_timestamp),
            max_timestamp: Timestamp::from_millis(max_timestamp),
            count,
            size_bytes,
        })
    }

    /// Writes the header of a batch in front of its section, the checksum last.
    pub(super) fn write(&self, batch: &mut [u8]) {
        let length = u32::try_from(self.size_bytes - LEN_END).expect("BATCH_BYTES_MAX is below 2^31");
        let mut fields = &mut batch[..LEN];
        fields.put_u64(self.base_offset.get());
        fields.put_u32(length);
        fields.put_u32(self.leader_epoch.get());
        fields.put_u8(MAGIC);
        fields.put_u32(0);
        fields.put_u16(write_attributes(self.compression, self.timestamp_type));
        fields.put_u32(self.last_offset_delta);
        fields.put_i64(self.base_timestamp.as_millis());
        fields.put_i64(self.max_timestamp.as_millis());
        let (no_producer_id, no_producer_epoch, no_sequence) = (-1, -1, -1);
        fields.put_i64(no_producer_id);
        fields.put_i16(no_producer_epoch);
        fields.put_i32(no_sequence);
        fields.put_u32(self.count);
        seal(batch);
    }
}

/// Overwrites what lies outside the checksum: base offset and leader epoch.
pub(super) fn place(batch: &mut [u8], base: Offset, epoch: LeaderEpoch) {
    batch[..size_of::<u64>()].copy_from_slice(&base.get().to_be_bytes());
    batch[EPOCH].copy_from_slice(&epoch.get().to_be_bytes());
}

/// Stores the checksum of a whole batch.
pub(super) fn seal(batch: &mut [u8]) {
    let sum = checksum(batch);
    batch[CRC].copy_from_slice(&sum.to_be_bytes());
}

/// Returns the checksum that a whole batch should carry.
pub(super) fn checksum(batch: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(&batch[CRC.end..])
}

/// Returns the checksum that a whole batch carries.
pub(super) fn stored_checksum(batch: &[u8]) -> u32 {
    (&batch[CRC]).get_u32()
}

/// Returns nothing for a codec or a bit that Forebay never writes.
fn read_attributes(attributes: u16) -> Option<(Compression, TimestampType)> {
    let compression = match attributes & CODEC_MASK {
        CODEC_NONE => Compression::None,
        CODEC_ZSTD => Compression::Zstd,
        _ => return None,
    };
    let timestamp_type = match attributes & !CODEC_MASK {
        0 => TimestampType::CreateTime,
        LOG_APPEND_TIME => TimestampType::LogAppendTime,
        _ => return None,
    };
    Some((compression, timestamp_type))
}

fn write_attributes(compression: Compression, timestamp_type: TimestampType) -> u16 {
    let codec = match compression {
        Compression::None => CODEC_NONE,
        Compression::Zstd => CODEC_ZSTD,
    };
    let append_time = match timestamp_type {
        TimestampType::CreateTime => 0,
        TimestampType::LogAppendTime => LOG_APPEND_TIME,
    };
    codec | append_time
}
