//! Records to bytes.

use std::cell::RefCell;
use std::fmt;
use std::io::Cursor;

use bytes::Bytes;
use zstd::bulk::Compressor;

use super::{BATCH, BatchHeader, header, varint};
use crate::error::FormatError;
use crate::limits;
use crate::model::{Compression, LeaderEpoch, Offset, Record, Timestamp, TimestampType};

/// The fastest of zstd's standard levels: batches are compressed on the produce path.
const ZSTD_LEVEL: i32 = 1;

thread_local! {
    /// Keeps zstd's tables between batches: setting them up costs more than a small batch.
    static COMPRESSOR: RefCell<Compressor<'static>> =
        RefCell::new(Compressor::new(ZSTD_LEVEL).expect("zstd knows its own levels"));
}

/// A batch that has no place in the log yet: base offset 0.
///
/// Cloning copies the bytes.
#[derive(Clone)]
pub struct EncodedBatch {
    bytes: Vec<u8>,
    count: u32,
    max_timestamp: Timestamp,
}

impl EncodedBatch {
    /// Returns the number of records; at least one.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Returns the largest timestamp of its records.
    pub fn max_timestamp(&self) -> Timestamp {
        self.max_timestamp
    }

    /// Returns the bytes of the whole batch as it will be stored.
    pub fn size_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Reads a batch that [`Self::into_bytes`] gave, and checks it against its checksum. Copies the bytes.
    ///
    /// # Errors
    /// [`FormatError`]: it is no batch, more than one, damaged, has a place already, or leaves out offsets.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FormatError> {
        let header = BatchHeader::parse(bytes)?;
        let invalid = |field| FormatError::Field { what: BATCH, field };
        if header.size_bytes != bytes.len() {
            return Err(invalid("length"));
        }
        if header.base_offset != Offset::ZERO || header.leader_epoch != LeaderEpoch::ZERO {
            return Err(invalid("base offset"));
        }
        if header.last_offset_delta != header.count - 1 {
            return Err(invalid("record count"));
        }
        if header::stored_checksum(bytes) != header::checksum(bytes) {
            return Err(FormatError::Checksum { what: BATCH });
        }
        let (count, max_timestamp) = (header.count, header.max_timestamp);
        Ok(Self { bytes: bytes.to_vec(), count, max_timestamp })
    }

    /// Returns the bytes of the whole batch, for another node. No copy.
    pub fn into_bytes(self) -> Bytes {
        Bytes::from(self.bytes)
    }

    /// Patches base offset and leader epoch in place: no copy of the body, no new checksum.
    ///
    /// Offsets stay below 2^63, as Kafka stores them; a batch placed higher cannot be read.
    pub fn place(mut self, base: Offset, epoch: LeaderEpoch) -> Bytes {
        header::place(&mut self.bytes, base, epoch);
        Bytes::from(self.bytes)
    }
}

/// Leaves out the payload, which must not reach a log.
impl fmt::Debug for EncodedBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EncodedBatch")
            .field("count", &self.count)
            .field("max_timestamp", &self.max_timestamp)
            .field("size_bytes", &self.bytes.len())
            .finish_non_exhaustive()
    }
}

/// Encodes records, at least one, as one batch.
///
/// `compression` allows zstd. It is used when the section has at least [`limits::COMPRESS_BYTES_MIN`] bytes and
/// comes out smaller. With [`TimestampType::LogAppendTime`] readers give every record the largest timestamp.
///
/// # Errors
/// [`FormatError::Field`] without records, [`FormatError::TooLarge`] when the batch has more than
/// [`limits::BATCH_BYTES_MAX`] before compression. The same call fails again.
pub fn encode(
    records: &[Record],
    compression: Compression,
    timestamp_type: TimestampType,
) -> Result<EncodedBatch, FormatError> {
    let empty = FormatError::Field { what: BATCH, field: "record count" };
    let max_timestamp = records.iter().map(|record| record.timestamp).max().ok_or(empty)?;
    let base_timestamp = records[0].timestamp;
    let plain = encode_plain(records, base_timestamp)?;
    let compressed = if compression == Compression::Zstd { compress(&plain) } else { None };
    let (mut bytes, compression) = match compressed {
        Some(bytes) => (bytes, Compression::Zstd),
        None => (plain, Compression::None),
    };
    let count = u32::try_from(records.len()).expect("a record has bytes, and BATCH_BYTES_MAX is below 2^32");
    let header = BatchHeader {
        base_offset: Offset::ZERO,
        leader_epoch: LeaderEpoch::ZERO,
        compression,
        timestamp_type,
        last_offset_delta: count - 1,
        base_timestamp,
        max_timestamp,
        count,
        size_bytes: bytes.len(),
    };
    header.write(&mut bytes);
    Ok(EncodedBatch { bytes, count, max_timestamp })
}

/// Writes the section behind room for the header, into one buffer of the right size.
fn encode_plain(records: &[Record], base: Timestamp) -> Result<Vec<u8>, FormatError> {
    let places = || records.iter().zip(0_i64..);
    let framed_len = |(record, delta)| {
        let len = record_len(record, base, delta);
        varint::len(varint::signed(len)) + len
    };
    let size = header::LEN + places().map(framed_len).sum::<usize>();
    if size > limits::BATCH_BYTES_MAX {
        return Err(FormatError::TooLarge { what: BATCH, size, limit: limits::BATCH_BYTES_MAX });
    }
    let mut out = Vec::with_capacity(size);
    out.resize(header::LEN, 0);
    for (record, delta) in places() {
        put_record(&mut out, record, base, delta);
    }
    debug_assert_eq!(out.len(), size, "record_len predicts put_record");
    Ok(out)
}

/// Returns a batch with the section compressed, or nothing when that does not pay.
fn compress(plain: &[u8]) -> Option<Vec<u8>> {
    let section = &plain[header::LEN..];
    if section.len() < limits::COMPRESS_BYTES_MIN {
        return None;
    }
    // There is room for less than the section, so a frame that is no smaller does not fit.
    let mut out = Vec::with_capacity(plain.len() - 1);
    out.resize(header::LEN, 0);
    let mut cursor = Cursor::new(out);
    cursor.set_position(header::LEN as u64);
    COMPRESSOR.with_borrow_mut(|zstd| zstd.compress_to_buffer(section, &mut cursor)).ok()?;
    let mut out = cursor.into_inner();
    // The batch may stay in memory for long; the slack must not.
    out.shrink_to_fit();
    Some(out)
}

/// Returns the bytes of a record behind its length.
fn record_len(record: &Record, base: Timestamp, offset_delta: i64) -> usize {
    let headers = record.headers.iter();
    let headers = headers.map(|h| varint::bytes_len(Some(&h.name)) + varint::bytes_len(h.value.as_deref()));
    1 + varint::len(timestamp_delta(record, base))
        + varint::len(offset_delta)
        + varint::bytes_len(record.key.as_deref())
        + varint::bytes_len(record.value.as_deref())
        + varint::len(varint::signed(record.headers.len()))
        + headers.sum::<usize>()
}

fn put_record(out: &mut Vec<u8>, record: &Record, base: Timestamp, offset_delta: i64) {
    varint::put(out, varint::signed(record_len(record, base, offset_delta)));
    let no_attributes = 0;
    out.push(no_attributes);
    varint::put(out, timestamp_delta(record, base));
    varint::put(out, offset_delta);
    varint::put_bytes(out, record.key.as_deref());
    varint::put_bytes(out, record.value.as_deref());
    varint::put(out, varint::signed(record.headers.len()));
    for header in &record.headers {
        varint::put_bytes(out, Some(&header.name));
        varint::put_bytes(out, header.value.as_deref());
    }
}

/// Wraps, as Kafka does, and so does the reader: any two timestamps fit in one batch.
fn timestamp_delta(record: &Record, base: Timestamp) -> i64 {
    record.timestamp.as_millis().wrapping_sub(base.as_millis())
}
