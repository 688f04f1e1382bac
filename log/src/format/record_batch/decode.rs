//! Bytes to records, one at a time.

use std::cell::RefCell;
use std::fmt;
use std::iter::FusedIterator;

use bytes::{Buf, Bytes};
use zstd::bulk::Decompressor;

use super::{BATCH, BatchHeader, RECORD, varint};
use crate::error::FormatError;
use crate::limits;
use crate::model::{Compression, Header, Offset, Record, Timestamp, TimestampType};

thread_local! {
    /// Keeps zstd's tables between batches: setting them up costs more than a small batch.
    static DECOMPRESSOR: RefCell<Decompressor<'static>> = RefCell::default();
}

/// The records of a verified batch, in order. Made by [`super::RecordBatch::records`].
///
/// Owns the section, decompressed. Ends after the last record or after the first error.
#[derive(Clone)]
pub struct Records {
    /// What has not been read.
    section: Bytes,
    /// Records that have not been read.
    left: u32,
    base_offset: Offset,
    /// The smallest offset delta that the next record may have: offsets strictly increase.
    next_delta: u32,
    last_delta: u32,
    base_timestamp: Timestamp,
    /// Every record's timestamp, where the gateway's clock decides.
    append_time: Option<Timestamp>,
}

impl Records {
    pub(super) fn open(header: &BatchHeader, section: Bytes) -> Result<Self, FormatError> {
        let section = match header.compression {
            Compression::None => section,
            Compression::Zstd => decompress(&section)?,
        };
        let append_time = match header.timestamp_type {
            TimestampType::CreateTime => None,
            TimestampType::LogAppendTime => Some(header.max_timestamp),
        };
        Ok(Self {
            section,
            left: header.count,
            base_offset: header.base_offset,
            next_delta: 0,
            last_delta: header.last_offset_delta,
            base_timestamp: header.base_timestamp,
            append_time,
        })
    }

    fn read(&mut self) -> Result<RecordView, FormatError> {
        let mut input = self.section.as_ref();
        let body = varint::take_bytes(&mut input, "length")?.ok_or(invalid("length"))?;
        let fields = Fields::parse(body)?;
        if !(self.next_delta..=self.last_delta).contains(&fields.offset_delta) {
            return Err(invalid("offset delta"));
        }
        let slice = |bytes| self.section.slice_ref(bytes);
        let record = RecordView {
            offset: self.base_offset.plus(fields.offset_delta.into()),
            timestamp: self.append_time.unwrap_or_else(|| {
                Timestamp::from_millis(self.base_timestamp.as_millis().wrapping_add(fields.timestamp_delta))
            }),
            key: fields.key.map(slice),
            value: fields.value.map(slice),
            headers: Headers { rest: slice(fields.headers), left: fields.header_count },
        };
        let read = self.section.len() - input.len();
        self.next_delta = fields.offset_delta + 1;
        self.section.advance(read);
        self.left -= 1;
        if self.left == 0 && !self.section.is_empty() {
            return Err(FormatError::Field { what: BATCH, field: "record count" });
        }
        Ok(record)
    }
}

impl Iterator for Records {
    type Item = Result<RecordView, FormatError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        let record = self.read();
        if record.is_err() {
            self.left = 0;
        }
        Some(record)
    }
}

impl FusedIterator for Records {}

/// Leaves out the payload, which must not reach a log.
impl fmt::Debug for Records {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Records").field("left", &self.left).finish_non_exhaustive()
    }
}

/// One record and its place. Its bytes are slices of the section, which they keep in memory.
#[derive(Debug, Clone)]
pub struct RecordView {
    /// Position in the partition.
    pub offset: Offset,
    /// The record's, or the batch's largest with [`TimestampType::LogAppendTime`].
    pub timestamp: Timestamp,
    /// Decides the partition, and what log compaction keeps.
    pub key: Option<Bytes>,
    /// The payload; none is a tombstone.
    pub value: Option<Bytes>,
    /// In the order in which the producer sent them.
    pub headers: Headers,
}

impl From<RecordView> for Record {
    fn from(view: RecordView) -> Self {
        let RecordView { offset: _, timestamp, key, value, headers } = view;
        Self { key, value, headers: headers.collect(), timestamp }
    }
}

/// The headers of one record, in order; read when asked for. Names may repeat.
#[derive(Debug, Clone)]
pub struct Headers {
    rest: Bytes,
    left: usize,
}

impl Iterator for Headers {
    type Item = Header;

    fn next(&mut self) -> Option<Header> {
        if self.left == 0 {
            return None;
        }
        let mut input = self.rest.as_ref();
        let (name, value) = take_header(&mut input).expect("the headers were walked with their record");
        let slice = |bytes| self.rest.slice_ref(bytes);
        let header = Header { name: slice(name), value: value.map(slice) };
        let read = self.rest.len() - input.len();
        self.rest.advance(read);
        self.left -= 1;
        Some(header)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Headers {}

impl FusedIterator for Headers {}

/// A record as it lies in the section.
struct Fields<'a> {
    timestamp_delta: i64,
    offset_delta: u32,
    key: Option<&'a [u8]>,
    value: Option<&'a [u8]>,
    header_count: usize,
    /// Walked once, so that reading them cannot fail.
    headers: &'a [u8],
}

impl<'a> Fields<'a> {
    /// Reads what lies behind a record's length, all of it.
    fn parse(body: &'a [u8]) -> Result<Self, FormatError> {
        let (_attributes, mut input) = body.split_first().ok_or(varint::truncated())?;
        let timestamp_delta = varint::take(&mut input)?;
        let offset_delta = varint::take_u31(&mut input, "offset delta")?;
        let key = varint::take_bytes(&mut input, "key length")?;
        let value = varint::take_bytes(&mut input, "value length")?;
        let header_count = varint::take_u31(&mut input, "header count")? as usize;
        let headers = input;
        for _ in 0..header_count {
            take_header(&mut input)?;
        }
        if !input.is_empty() {
            return Err(invalid("length"));
        }
        Ok(Self { timestamp_delta, offset_delta, key, value, header_count, headers })
    }
}

fn take_header<'a>(input: &mut &'a [u8]) -> Result<(&'a [u8], Option<&'a [u8]>), FormatError> {
    let name = varint::take_bytes(input, "header name length")?.ok_or(invalid("header name length"))?;
    let value = varint::take_bytes(input, "header value length")?;
    Ok((name, value))
}

/// Refuses a section that says it is larger than a batch may be; one that does not say runs out of room.
fn decompress(section: &[u8]) -> Result<Bytes, FormatError> {
    let limit = limits::BATCH_BYTES_MAX;
    if let Some(size) = Decompressor::upper_bound(section).filter(|&size| size > limit) {
        return Err(FormatError::TooLarge { what: BATCH, size, limit });
    }
    let mut plain = DECOMPRESSOR
        .with_borrow_mut(|zstd| zstd.decompress(section, limit))
        .map_err(|_| FormatError::Field { what: BATCH, field: "compressed records" })?;
    // A frame that does not say its size was given all the room there is.
    plain.shrink_to_fit();
    Ok(Bytes::from(plain))
}

fn invalid(field: &'static str) -> FormatError {
    FormatError::Field { what: RECORD, field }
}
