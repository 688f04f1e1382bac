//! Copies record batches of many objects into one, regrouped by topic and partition, without decoding them.
//!
//! What was put in and what came out are tallied apart from each other, so that a fault in the regrouping is found
//! before anything is committed.

use forebay_log::error::FormatError;
use forebay_log::format::codec::Hash64;
use forebay_log::format::record_batch::{self, RecordBatch};
use forebay_log::format::wal_object::{
    EncodedObject, Extent, Footer, IndexEntry, ObjectBuilder, ObjectIdentity, WalHeader, decode_object,
};
use forebay_log::model::TopicPartition;
use forebay_log::store::Path;

use bytes::Bytes;

use crate::error::CompactorError;

/// A WAL object or rolled object, read whole and checked against its content hash.
#[derive(Debug, Clone)]
pub struct Input {
    pub(crate) key: Path,
    /// Its header, checked.
    pub header: WalHeader,
    pub(crate) footer: Footer,
    body: Bytes,
}

impl Input {
    /// Decodes a whole object.
    ///
    /// # Errors
    /// [`CompactorError::Damaged`]; another read of it may only help if the store gave wrong bytes.
    pub fn decode(key: Path, body: Bytes) -> Result<Self, CompactorError> {
        match decode_object(&body) {
            Ok((header, footer)) => Ok(Self { key, header, footer, body }),
            Err(source) => Err(CompactorError::Damaged { key: key.to_string(), source }),
        }
    }

    /// Returns the batches of an entry, as stored.
    fn region(&self, entry: &IndexEntry) -> Result<Bytes, FormatError> {
        let field = |_| FormatError::Field { what: "wal footer", field: "position" };
        let range = entry.range();
        let (start, end) =
            (usize::try_from(range.start).map_err(field)?, usize::try_from(range.end).map_err(field)?);
        if end > self.body.len() {
            return Err(FormatError::Truncated { what: "wal object" });
        }
        Ok(self.body.slice(start..end))
    }
}

/// Copies all batches of these objects, which are in the order of the log, into one rolled object; none when they
/// hold no batch.
///
/// Dedupe entries are left behind: the snapshot at the new floor has them.
pub(crate) fn copy(
    identity: ObjectIdentity,
    inputs: &[Input],
) -> Result<Option<EncodedObject>, CompactorError> {
    let mut builder = ObjectBuilder::new(identity);
    let mut put_in = Tally::default();
    for input in inputs {
        // An entry without records announces where a partition goes on; the snapshot knows that too.
        for entry in input.footer.entries.iter().filter(|entry| entry.count > 0) {
            copy_entry(&mut builder, &mut put_in, input, entry)
                .map_err(|source| CompactorError::Damaged { key: input.key.to_string(), source })?;
        }
    }
    if builder.is_empty() {
        return Ok(None);
    }
    let object = builder.finish().map_err(CompactorError::Encode)?;
    let came_out = Tally::of(&object).map_err(CompactorError::Encode)?;
    if came_out != put_in {
        let (input_records, output_records) = (put_in.records, came_out.records);
        return Err(CompactorError::CopyDiffers { input_records, output_records });
    }
    Ok(Some(object))
}

/// Copies one run of batches, one by one, so that the builder may begin a new entry at any of them.
fn copy_entry(
    builder: &mut ObjectBuilder,
    put_in: &mut Tally,
    input: &Input,
    entry: &IndexEntry,
) -> Result<(), FormatError> {
    let invalid = |field| FormatError::Field { what: "wal footer", field };
    let mut next = entry.base_offset;
    let mut count = 0;
    for batch in record_batch::batches(input.region(entry)?) {
        let batch = batch?;
        let header = *batch.header();
        let fits = header.base_offset >= next && header.end_offset() <= entry.end_offset;
        if !fits || count == 0 && header.base_offset != entry.base_offset {
            return Err(invalid("offsets"));
        }
        next = header.end_offset();
        count += u64::from(header.count);
        let extent = Extent {
            partition: entry.partition,
            base_offset: header.base_offset,
            end_offset: header.end_offset(),
            count: header.count,
            max_timestamp: header.max_timestamp,
            append_time: entry.append_time,
        };
        put_in.add(entry.partition, &batch);
        builder.push(extent, [batch.bytes().clone()], [])?;
    }
    if next != entry.end_offset || count != u64::from(entry.count) {
        return Err(invalid("count"));
    }
    Ok(())
}

/// Counts batches and records, and sums their checksums, so that the order does not matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Tally {
    batches: u64,
    records: u64,
    checksum: u64,
}

impl Tally {
    fn add(&mut self, partition: TopicPartition, batch: &RecordBatch) {
        let mut hash = Hash64::new();
        hash.update(&partition.topic.to_bytes());
        hash.update(&partition.partition.get().to_be_bytes());
        hash.update(batch.bytes());
        self.batches += 1;
        self.records += u64::from(batch.header().count);
        self.checksum = self.checksum.wrapping_add(hash.finish());
    }

    /// Tallies an object as it will be stored, going by its index alone.
    fn of(object: &EncodedObject) -> Result<Self, FormatError> {
        let invalid = |field| FormatError::Field { what: "rolled object", field };
        let mut tally = Self::default();
        // Between header and footer the parts are the batches, one each.
        let mut parts = object.parts.iter().skip(1);
        for entry in &object.footer.entries {
            let (mut length, mut count, mut next) = (0, 0, entry.base_offset);
            while length < u64::from(entry.length) {
                let part = parts.next().ok_or(invalid("length"))?;
                length += part.len() as u64;
                for batch in record_batch::batches(part.clone()) {
                    let batch = batch?;
                    if batch.header().base_offset != next {
                        return Err(invalid("offsets"));
                    }
                    next = batch.header().end_offset();
                    count += u64::from(batch.header().count);
                    tally.add(entry.partition, &batch);
                }
            }
            if length != u64::from(entry.length)
                || count != u64::from(entry.count)
                || next != entry.end_offset
            {
                return Err(invalid("count"));
            }
        }
        Ok(tally)
    }
}

#[cfg(test)]
mod tests;
