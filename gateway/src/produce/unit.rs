//! Cutting a request into units: what is stored all or nothing.

use forebay_log::limits;
use forebay_log::model::{PartitionId, Record};

/// A record, and the partition it names.
#[derive(Debug)]
pub struct NewRecord {
    /// The record. [`forebay_log::model::Timestamp::MIN`] stands for "now".
    pub record: Record,
    /// The partition that the producer chose.
    pub partition: Option<PartitionId>,
}

/// At most [`limits::UNIT_RECORDS_MAX`] records of together [`limits::UNIT_BYTES_MAX`], or one larger record.
///
/// Cut by count and bytes only, never by arrival: a retry of the same body is cut at the same places.
#[derive(Debug, Default)]
pub struct Unit {
    records: Vec<NewRecord>,
    size_bytes: usize,
}

impl Unit {
    /// Tells whether one more record of this size begins the next unit.
    pub fn is_full_for(&self, record: &Record) -> bool {
        let too_many = self.records.len() >= limits::UNIT_RECORDS_MAX;
        let too_large = self.size_bytes + record.size_bytes() > limits::UNIT_BYTES_MAX;
        too_many || (too_large && !self.records.is_empty())
    }

    /// Adds a record.
    pub fn push(&mut self, record: NewRecord) {
        self.size_bytes += record.record.size_bytes();
        self.records.push(record);
    }

    /// Returns the number of records.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Tells whether there is none.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Returns the highest partition that a record names.
    pub fn last_partition(&self) -> Option<PartitionId> {
        self.records.iter().filter_map(|new| new.partition).max()
    }

    /// Returns the records in order.
    pub fn into_records(self) -> Vec<NewRecord> {
        self.records
    }

    /// Hashes what the producer sent: tells a retry from another body under the same key.
    pub fn body_hash(&self) -> u64 {
        let mut hash = forebay_log::format::codec::Hash64::new();
        let mut part = |bytes: Option<&[u8]>| {
            let len = bytes.map_or(u64::MAX, |bytes| bytes.len() as u64);
            hash.update(&len.to_be_bytes());
            hash.update(bytes.unwrap_or_default());
        };
        for NewRecord { record, partition } in &self.records {
            part(partition.map(|p| p.get().to_be_bytes()).as_ref().map(<[u8; 2]>::as_slice));
            part(record.key.as_deref());
            part(record.value.as_deref());
            part(Some(&record.timestamp.as_millis().to_be_bytes()));
            part(Some(&record.headers.len().to_be_bytes()));
            for header in &record.headers {
                part(Some(&header.name));
                part(header.value.as_deref());
            }
        }
        hash.finish()
    }
}
