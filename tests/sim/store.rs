//! The simulated bucket: names to bytes, create-only and compare-and-swap. What arrives, when and how often is decided
//! by the [`world`](crate::world); here each request happens at one instant.

use std::collections::BTreeMap;
use std::rc::Rc;

use bytes::Bytes;
use forebay_log::error::FormatError;
use forebay_log::format::record_batch;
use forebay_log::format::wal_object::{Footer, ObjectKind, WalHeader, decode_object};
use forebay_log::shard::taker::{PathObject, PutAnswer};

use crate::world::number;

/// Identifies a record: its value.
pub(crate) type RecordId = u64;

/// Bits of a record's number that do not say which topic it is in: what is sent again to a later topic of the same name
/// is another record.
const RECORD_BITS: u32 = 40;

/// Returns a record as it is in the topic of a number.
pub(crate) fn in_topic(record: RecordId, topic: u64) -> RecordId {
    record | topic << RECORD_BITS
}

/// Returns the number of the topic that a record is in.
pub(crate) fn topic_of(record: RecordId) -> u64 {
    record >> RECORD_BITS
}

/// The name of an object. The manifest is a register of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key {
    Wal(u64),
    Snapshot(u128),
    /// A rolled object, by its job.
    Rolled(u128),
}

/// One request.
#[derive(Debug, Clone)]
pub(crate) enum Op {
    GetManifest,
    Get(Key),
    Create(Key, Bytes),
    /// The first manifest.
    CreateManifest(Bytes),
    /// The revision it replaces; none: whatever is there.
    Swap(Option<u64>, Bytes),
    Delete(Key),
    /// All WAL names with their sizes, in no order.
    ListWal,
}

/// How it ended.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    Manifest(Option<(Bytes, u64)>),
    Object(Option<Rc<Object>>),
    Put(PutAnswer),
    /// Whether it was swapped.
    Swapped(bool),
    Deleted,
    Listed(Vec<(u64, usize)>),
    /// Time-out, reset, 5xx.
    Failed,
}

/// A stored object, decoded once.
#[derive(Debug)]
pub(crate) struct Object {
    pub(crate) bytes: Bytes,
    /// None for snapshots.
    pub(crate) header: Option<WalHeader>,
    pub(crate) footer: Footer,
    pub(crate) runs: Vec<Run>,
}

/// Records of one partition, one after the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) partition: usize,
    pub(crate) base: u64,
    pub(crate) records: Vec<RecordId>,
}

impl Object {
    fn decode(key: Key, bytes: Bytes) -> Self {
        if matches!(key, Key::Snapshot(_)) {
            return Self { bytes, header: None, footer: Footer::default(), runs: Vec::new() };
        }
        let (header, footer) = decode_object(&bytes).expect("only whole objects are stored");
        let mut runs = Vec::new();
        for entry in footer.entries.iter().filter(|entry| entry.count > 0) {
            let range = entry.range();
            let region = bytes.slice(range.start as usize..range.end as usize);
            runs.extend(decode_runs(number(entry.partition), region));
        }
        Self { bytes, header: Some(header), footer, runs }
    }

    pub(crate) fn is_epoch(&self) -> bool {
        self.header.as_ref().is_some_and(|header| header.kind == ObjectKind::Epoch)
    }

    pub(crate) fn path_object(&self) -> Option<PathObject> {
        self.header.clone().map(|header| PathObject { header, footer: self.footer.clone() })
    }
}

/// Reads the records of stored batches.
pub(crate) fn decode_runs(partition: usize, region: Bytes) -> Vec<Run> {
    try_decode_runs(partition, region).expect("only whole batches are stored")
}

/// Reads the records of batches that may be anything.
pub(crate) fn try_decode_runs(partition: usize, region: Bytes) -> Result<Vec<Run>, FormatError> {
    let foreign = || FormatError::Field { what: "record", field: "value" };
    let mut runs = Vec::new();
    for batch in record_batch::batches(region) {
        let batch = batch?;
        let base = batch.header().base_offset.get();
        let records = batch.records()?.map(|record| {
            let value = record?.value.ok_or_else(foreign)?;
            Ok(RecordId::from_be_bytes(value[..].try_into().map_err(|_| foreign())?))
        });
        runs.push(Run { partition, base, records: records.collect::<Result<_, FormatError>>()? });
    }
    Ok(runs)
}

/// What a request changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Changed {
    Nothing,
    Created(Key),
    Manifest,
    Deleted(Key),
}

/// The bucket.
#[derive(Debug, Default)]
pub(crate) struct Store {
    pub(crate) objects: BTreeMap<Key, Rc<Object>>,
    pub(crate) manifest: Option<(Bytes, u64)>,
}

impl Store {
    pub(crate) fn apply(&mut self, op: &Op) -> (Answer, Changed) {
        match op {
            Op::GetManifest => (Answer::Manifest(self.manifest.clone()), Changed::Nothing),
            Op::Get(key) => (Answer::Object(self.objects.get(key).cloned()), Changed::Nothing),
            Op::Create(key, _) if self.objects.contains_key(key) => {
                (Answer::Put(PutAnswer::Exists), Changed::Nothing)
            }
            Op::Create(key, bytes) => {
                self.objects.insert(*key, Rc::new(Object::decode(*key, bytes.clone())));
                (Answer::Put(PutAnswer::Created), Changed::Created(*key))
            }
            Op::CreateManifest(bytes) => {
                let is_new = self.manifest.is_none();
                if is_new {
                    self.manifest = Some((bytes.clone(), 1));
                }
                (Answer::Swapped(is_new), if is_new { Changed::Manifest } else { Changed::Nothing })
            }
            Op::Swap(expected, bytes) => {
                let current = self.manifest.as_ref().map_or(0, |(_, revision)| *revision);
                if expected.is_some_and(|expected| expected != current) {
                    return (Answer::Swapped(false), Changed::Nothing);
                }
                self.manifest = Some((bytes.clone(), current + 1));
                (Answer::Swapped(true), Changed::Manifest)
            }
            Op::Delete(key) => match self.objects.remove(key) {
                Some(_) => (Answer::Deleted, Changed::Deleted(*key)),
                None => (Answer::Deleted, Changed::Nothing),
            },
            Op::ListWal => {
                let names = self.objects.iter().filter_map(|(key, object)| match key {
                    Key::Wal(seq) => Some((*seq, object.bytes.len())),
                    _ => None,
                });
                (Answer::Listed(names.collect()), Changed::Nothing)
            }
        }
    }
}
