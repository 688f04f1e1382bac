//! Appends that the journal holds and whose leadership has ended, on a store that others may write: what became of them,
//! and how they are appended again.
//!
//! There the journal holds what was asked for at `local`. (What else is in it was to be stored before it is acknowledged, is
//! there to be out of memory, and dies with its leadership; see [`spill`](super::spill).) Nobody was told an offset, so a leftover that
//! is not in the log goes to its end, wherever that is by then. Whether it is in the log is decided without reading it:
//! - Before an object is sent that holds journalled appends, a synced mark in the journal says which of them, its number
//!   and the leadership. Without such a mark an append was never sent.
//! - The numbers of a leadership's epoch end where the next EPOCH stands. An object below that number is in the log: the
//!   taker walked over it. One at or above it is not, now and for ever (W6).
//! - Where a mark could not be written (the journal is dead or full), the object itself names the append, by a dedupe
//!   entry, and the taker finds that.
//!
//! So each is appended again at most once, however often that is interrupted; a *settled* mark ends it before lists of
//! epochs or dedupe entries forget. A leftover that was sent in an epoch which no list knows any more (256 later ones in
//! between, and no settled mark) may be in the log or not. It is appended again: an acknowledged record that may be there
//! twice is better than one that may be lost, and its header tells. The same goes for marks lost to damage.

use bytes::Bytes;

use crate::error::FormatError;
use crate::format::codec::hash128;
use crate::format::dedupe::DedupeEntry;
use crate::format::manifest::EpochEntry;
use crate::format::record_batch::{self, BatchHeader, EncodedBatch};
use crate::journal::{FrameNumber, JournalBatch, JournalEntry};
use crate::model::{Durability, Header, Nonce, Record, WalSeq};
use crate::mutation::{self, Mutation};
use crate::shard::append::{Append, BatchSource, Dedupe, NewBatch};

/// Name of the header, without a value, of records that were acknowledged at `local` and appended again by a later
/// leadership.
pub const RECOVERED_HEADER: &str = "forebay-recovered";

/// An object that was to hold an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sent {
    /// The leadership that sent it, or was about to.
    pub(crate) nonce: Nonce,
    pub(crate) seq: WalSeq,
}

/// A journalled append without a leadership.
#[derive(Debug)]
pub(crate) struct Leftover {
    /// Where its batches are.
    pub(crate) entry: JournalEntry,
    /// The leadership that journalled it.
    pub(crate) origin: Nonce,
    /// Each object that was to hold it.
    pub(crate) sent: Vec<Sent>,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Stored,
    NotStored,
    /// It was sent in an epoch of which nothing is known.
    Unknown,
}

impl Leftover {
    pub(crate) fn number(&self) -> FrameNumber {
        self.entry.number
    }

    /// Decides what became of it, by the epochs that are known, oldest first.
    pub(super) fn fate(&self, epochs: &[EpochEntry]) -> Fate {
        let one = |sent: &Sent| {
            let epoch = epochs.iter().find(|epoch| epoch.nonce == sent.nonce);
            match epoch.and_then(|epoch| epoch.end_seq) {
                Some(end) if sent.seq < end => Fate::Stored,
                Some(_) => Fate::NotStored,
                None => Fate::Unknown,
            }
        };
        if mutation::is(Mutation::FrozenIgnored) {
            return Fate::NotStored;
        }
        if mutation::is(Mutation::FrozenIsStored) && !self.sent.is_empty() {
            return Fate::Stored;
        }
        let fates: Vec<Fate> = self.sent.iter().map(one).collect();
        [Fate::Stored, Fate::Unknown].into_iter().find(|fate| fates.contains(fate)).unwrap_or(Fate::NotStored)
    }
}

/// Makes appends of a leftover's batches: one for each that had a name, under that name, and one for each run of records
/// without.
///
/// # Errors
/// [`FormatError`] when a batch is not what was journalled.
pub(super) fn to_appends(batches: &[JournalBatch]) -> Result<Vec<Append>, FormatError> {
    let mut appends: Vec<Append> = Vec::new();
    for batch in batches {
        for (dedupe, encoded) in cut(batch)? {
            let (partition, source) = (batch.partition, BatchSource::Encoded(encoded));
            let new = NewBatch { partition, source, expected: None };
            let same = appends.iter_mut().find(|append| dedupe.is_some() && append.dedupe == dedupe);
            match same {
                Some(append) => append.batches.push(new),
                None => appends.push(Append { batches: vec![new], dedupe, level: Durability::Local }),
            }
        }
    }
    Ok(appends)
}

/// The name of a journalled append in the dedupe entries of the log: the leadership that journalled it, and the frame.
pub(super) fn name_of(origin: Nonce, number: FrameNumber) -> Dedupe {
    let mut bytes = origin.get().to_be_bytes().to_vec();
    let [high, low] = [number.get() >> 32, number.get() & u64::from(u32::MAX)];
    bytes.extend(high.to_be_bytes());
    let first_sequence = u32::try_from(low).expect("the mask leaves 32 bits");
    Dedupe { id: hash128(&bytes), producer_epoch: None, first_sequence, body_hash: 0 }
}

/// Records that had one name, or none.
type Run = (Option<Dedupe>, Vec<Record>);

/// Cuts a batch along its dedupe entries, and marks its records.
fn cut(batch: &JournalBatch) -> Result<Vec<(Option<Dedupe>, EncodedBatch)>, FormatError> {
    let mut encoded = Vec::new();
    for stored in record_batch::batches(batch.bytes.clone()) {
        let stored = stored?;
        let mut runs: Vec<Run> = Vec::new();
        for view in stored.records()? {
            let view = view?;
            let entry = batch.dedupe.iter().find(|entry| {
                (entry.base_offset..entry.base_offset.plus(entry.count.into())).contains(&view.offset)
            });
            let name = entry.map(name_in);
            match runs.last_mut().filter(|(last, _)| *last == name) {
                Some((_, records)) => records.push(view.into()),
                None => runs.push((name, vec![view.into()])),
            }
        }
        for (name, records) in runs {
            encoded.push((name, encode_marked(records, stored.header())?));
        }
    }
    Ok(encoded)
}

/// Returns the name that an entry stands for. One of epoch 0 may be a request's too: both have the same entry.
fn name_in(entry: &DedupeEntry) -> Dedupe {
    Dedupe {
        id: entry.id,
        producer_epoch: Some(entry.producer_epoch),
        first_sequence: entry.first_sequence,
        body_hash: entry.body_hash,
    }
}

/// Encodes records as they were, with one header more; without it where that makes them too many bytes for a batch.
fn encode_marked(records: Vec<Record>, header: &BatchHeader) -> Result<EncodedBatch, FormatError> {
    let mut marked = records.clone();
    for record in &mut marked {
        if record.headers.iter().all(|header| header.name != RECOVERED_HEADER) {
            record
                .headers
                .push(Header { name: Bytes::from_static(RECOVERED_HEADER.as_bytes()), value: None });
        }
    }
    let BatchHeader { compression, timestamp_type, .. } = *header;
    record_batch::encode(&marked, compression, timestamp_type)
        .or_else(|_| record_batch::encode(&records, compression, timestamp_type))
}
