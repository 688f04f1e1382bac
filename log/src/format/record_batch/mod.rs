//! Kafka's record batch, magic 2: the unit in which records are stored, sent between nodes and cached.
//!
//! The layout is that of the Apache Kafka protocol guide ("Record Batch"). A *batch* is a header of 61 bytes and a
//! *section*: its records back to back, as one zstd frame or as they are. Base offset and leader epoch lie outside
//! the CRC-32C, so a leader [places](EncodedBatch::place) a batch by patching 12 bytes, whoever encoded it.
//!
//! ```text
//! 0 base offset i64 | 8 length i32, of what follows | 12 leader epoch i32 | 16 magic i8 = 2 | 17 crc u32, of what follows
//! 21 attributes i16 | 23 last offset delta i32 | 27 base timestamp i64 | 35 max timestamp i64
//! 43 producer id i64 | 51 producer epoch i16 | 53 base sequence i32 | 57 record count i32 | 61 section
//!
//! record: length varint, of what follows | attributes i8 | timestamp delta varlong | offset delta varint
//!         key length varint, key | value length varint, value | header count varint, headers
//! header: name length varint, name | value length varint, value
//! ```
//!
//! A length of -1 is a null. Dedupe entries live beside the batch, so the producer's fields are written as -1 and not
//! looked at when read. What Forebay never writes is refused: other magics and codecs, transactions, control batches.
//!
//! Reading is lazy. [`batches`] splits and reads headers, [`RecordBatch::records`] checks the CRC and decompresses,
//! and keys, values and headers are slices of the section. Nothing trusts a number that came from outside: lengths
//! are checked against the bytes at hand, and sizes against [`limits::BATCH_BYTES_MAX`].

mod decode;
mod encode;
mod header;
#[cfg(test)]
mod tests;
mod varint;

use std::fmt;
use std::iter::FusedIterator;

use bytes::Bytes;

pub use self::decode::{Headers, RecordView, Records};
pub use self::encode::{EncodedBatch, encode};
pub use self::header::BatchHeader;

use crate::error::FormatError;
#[cfg(doc)]
use crate::limits;

/// How errors name a batch.
const BATCH: &str = "record batch";
/// How errors name a record.
const RECORD: &str = "record";

/// One stored batch: its header, read, and a slice of shared bytes.
#[derive(Clone)]
pub struct RecordBatch {
    header: BatchHeader,
    bytes: Bytes,
}

impl RecordBatch {
    /// Returns the header. Only [`verify`](Self::verify) tells whether it is what was written.
    pub fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// Returns the whole batch as stored.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Compares the CRC-32C with the bytes.
    ///
    /// # Errors
    /// [`FormatError::Checksum`]; reading the same bytes again does not help.
    pub fn verify(&self) -> Result<(), FormatError> {
        if header::stored_checksum(&self.bytes) == header::checksum(&self.bytes) {
            Ok(())
        } else {
            Err(FormatError::Checksum { what: BATCH })
        }
    }

    /// Verifies the batch and returns its records. Decompresses the section once, at once.
    ///
    /// # Errors
    /// As [`verify`](Self::verify); [`FormatError::TooLarge`] or [`FormatError::Field`] for a compressed section
    /// that is broken or holds more than [`limits::BATCH_BYTES_MAX`].
    pub fn records(&self) -> Result<Records, FormatError> {
        self.verify()?;
        Records::open(&self.header, self.bytes.slice(header::LEN..))
    }
}

/// Leaves out the payload, which must not reach a log.
impl fmt::Debug for RecordBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordBatch").field("header", &self.header).finish_non_exhaustive()
    }
}

/// Splits concatenated batches, without a copy and without a look at their records.
///
/// Ends after the last batch or after the first error: behind a broken length nothing can be found.
pub fn batches(bytes: Bytes) -> Batches {
    Batches { rest: bytes }
}

/// The batches of a run of bytes, in order. Made by [`batches`].
pub struct Batches {
    rest: Bytes,
}

impl Iterator for Batches {
    type Item = Result<RecordBatch, FormatError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let batch = BatchHeader::parse(&self.rest)
            .map(|header| RecordBatch { header, bytes: self.rest.split_to(header.size_bytes) });
        if batch.is_err() {
            self.rest.clear();
        }
        Some(batch)
    }
}

impl FusedIterator for Batches {}

/// Leaves out the payload, which must not reach a log.
impl fmt::Debug for Batches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batches").field("rest_bytes", &self.rest.len()).finish()
    }
}
