//! One turn of the leader: the appends that waited in its queue get their offsets and become one frame.
//!
//! Requests to one partition coalesce into one batch, so that a thousand clients with a record each cost one batch.

use std::collections::HashMap;
use std::sync::Arc;

use crate::format::dedupe::DedupeEntry;
use crate::format::record_batch;
use crate::limits;
use crate::model::{
    Compression, LeaderEpoch, Nonce, Offset, Record, Timestamp, TimestampType, TopicPartition,
};
use crate::mutation::{self, Mutation};
use crate::shard::append::{Append, AppendError, Appended, BatchSource, Dedupe, NewBatch, Placement};
use crate::shard::dedupe::Seen;
use crate::shard::leader::pending::{PendingFrame, PlacedBatch};
use crate::shard::partition::PartitionLog;
use crate::shard::state::ShardState;

/// What one turn decides for one append.
#[derive(Debug)]
pub(super) enum Judged {
    /// It is in the frame, at these places.
    Staged(Appended),
    /// It changes nothing.
    Refused(AppendError),
    /// It was appended before, at these places.
    Duplicate(Appended),
}

/// A batch that may still grow.
#[derive(Debug)]
struct Open {
    partition: TopicPartition,
    base: Offset,
    source: BatchSource,
    dedupe: Vec<DedupeEntry>,
    size_bytes: usize,
}

/// One frame in the making.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    state: &'a mut ShardState,
    append_time: Timestamp,
    batches: Vec<Open>,
    growing: HashMap<TopicPartition, usize>,
    size_bytes: usize,
}

impl<'a> Turn<'a> {
    pub(super) fn new(state: &'a mut ShardState, append_time: Timestamp) -> Self {
        Self { state, append_time, batches: Vec::new(), growing: HashMap::new(), size_bytes: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    pub(super) fn size_bytes(&self) -> usize {
        self.size_bytes
    }

    /// Judges an append and takes it into the frame, unless it is refused or was appended before.
    pub(super) fn take(&mut self, append: Append) -> Judged {
        let Append { batches, dedupe, .. } = append;
        match self.judge(&batches, dedupe) {
            Ok(None) => {}
            Ok(Some(appended)) => return Judged::Duplicate(appended),
            Err(error) => return Judged::Refused(error),
        }
        let placements = batches.into_iter().map(|batch| self.place(batch, dedupe)).collect();
        Judged::Staged(Appended { placements, replayed: false })
    }

    /// Takes an append into the frame that was acknowledged before, unless the log has it by its name. What its producer
    /// did since is no reason to lose it: nor is that somebody has used the name for something else, whose it stays.
    pub(super) fn take_again(&mut self, append: Append) {
        let Append { batches, mut dedupe, .. } = append;
        match dedupe.map_or(Seen::New, |name| self.state.dedupe().check_again(&name)) {
            Seen::Duplicate(_) if !mutation::is(Mutation::AgainUnjudged) => return,
            Seen::New if !mutation::is(Mutation::AgainUnjudged) => {}
            _ => dedupe = None,
        }
        for batch in batches {
            self.place(batch, dedupe);
        }
    }

    fn judge(&self, batches: &[NewBatch], dedupe: Option<Dedupe>) -> Result<Option<Appended>, AppendError> {
        if let Some(name) = dedupe {
            let of_one_partition = name.producer_epoch.is_none() || batches.len() == 1;
            debug_assert!(of_one_partition, "a producer's sequences are those of one partition");
            match self.state.dedupe().check(&name) {
                Seen::New => {}
                Seen::Mismatch => return Err(AppendError::Mismatch),
                Seen::Gap { expected } => return Err(AppendError::SequenceGap { expected }),
                Seen::Fenced { current } => return Err(AppendError::ProducerFenced { current }),
                Seen::Duplicate(places) => {
                    let placement = |(partition, entry): (TopicPartition, DedupeEntry)| Placement {
                        partition,
                        base_offset: entry.base_offset,
                        count: entry.count,
                    };
                    let mut placements: Vec<Placement> = places.into_iter().map(placement).collect();
                    // The first attempt may have been taken back from the journal, which has another order.
                    placements.sort_by_key(|place| {
                        batches.iter().position(|batch| batch.partition == place.partition)
                    });
                    return Ok(Some(Appended { placements, replayed: true }));
                }
            }
        }
        for batch in batches {
            let current = self.state.next_offset(batch.partition);
            if let Some(expected) = batch.expected.filter(|expected| *expected != current) {
                return Err(AppendError::Expected { expected, current });
            }
        }
        Ok(None)
    }

    fn place(&mut self, batch: NewBatch, dedupe: Option<Dedupe>) -> Placement {
        let NewBatch { partition, source, expected } = batch;
        let (base_offset, count) = (self.state.next_offset(partition), source.count());
        let size_bytes = source.size_bytes();
        self.size_bytes += size_bytes;
        let end = base_offset.plus(u64::from(count));
        self.state.advance(partition, end, Timestamp::MIN);
        let entry = dedupe.map(|name| DedupeEntry {
            id: name.id,
            producer_epoch: name.producer_epoch.unwrap_or(0),
            first_sequence: name.first_sequence,
            base_offset,
            count,
            append_time: self.append_time,
            body_hash: name.body_hash,
        });
        if let Some(entry) = entry {
            self.state.dedupe_mut().insert(partition, entry);
        }
        let alone = expected.is_some();
        let source = if alone { Some(source) } else { self.grow(partition, source, entry, size_bytes) };
        if let Some(source) = source {
            let coalesces = !alone && matches!(source, BatchSource::Records { .. });
            if coalesces {
                self.growing.insert(partition, self.batches.len());
            } else {
                self.growing.remove(&partition);
            }
            let dedupe = entry.into_iter().collect();
            self.batches.push(Open { partition, base: base_offset, source, dedupe, size_bytes });
        }
        Placement { partition, base_offset, count }
    }

    /// Adds records to the partition's growing batch, or gives them back.
    fn grow(
        &mut self,
        partition: TopicPartition,
        source: BatchSource,
        entry: Option<DedupeEntry>,
        size_bytes: usize,
    ) -> Option<BatchSource> {
        let index = self.growing.get(&partition).copied();
        let Some(open) = index.and_then(|index| self.batches.get_mut(index)) else { return Some(source) };
        let fits = open.size_bytes + size_bytes <= limits::ROLLED_EXTENT_BYTES;
        match (&mut open.source, source) {
            (
                BatchSource::Records { records: grown, compression, timestamp_type },
                BatchSource::Records { records, compression: c, timestamp_type: t },
            ) if fits && *compression == c && *timestamp_type == t => {
                grown.extend(records);
                open.dedupe.extend(entry);
                open.size_bytes += size_bytes;
                None
            }
            (_, source) => Some(source),
        }
    }

    /// Encodes what is still open and gives every batch its place.
    pub(super) fn finish(
        self,
        epoch: LeaderEpoch,
        nonce: Nonce,
        log_of: impl Fn(TopicPartition) -> Arc<PartitionLog>,
    ) -> PendingFrame {
        let place = |open: Open| {
            let batch = match open.source {
                BatchSource::Encoded(batch) => batch,
                BatchSource::Records { records, compression, timestamp_type } => {
                    encode(&records, compression, timestamp_type)
                }
            };
            let (count, max_timestamp) = (batch.count(), batch.max_timestamp());
            PlacedBatch {
                log: log_of(open.partition),
                base: open.base,
                end: open.base.plus(u64::from(count)),
                count,
                max_timestamp,
                bytes: batch.place(open.base, epoch),
                dedupe: open.dedupe,
            }
        };
        let batches: Vec<PlacedBatch> = self.batches.into_iter().map(place).collect();
        for batch in &batches {
            self.state.advance(batch.log.partition(), batch.end, batch.max_timestamp);
        }
        let size_bytes = batches.iter().map(|batch| batch.bytes.len()).sum();
        PendingFrame {
            number: None,
            entry: None,
            moved: false,
            in_tail: true,
            spilled: false,
            origin: nonce,
            sent: Vec::new(),
            named: false,
            append_time: self.append_time,
            batches,
            waiters: Vec::new(),
            size_bytes,
            frozen: None,
            published: false,
            jump: false,
            reached: None,
            room: None,
        }
    }
}

fn encode(
    records: &[Record],
    compression: Compression,
    timestamp_type: TimestampType,
) -> record_batch::EncodedBatch {
    record_batch::encode(records, compression, timestamp_type)
        .expect("an append was checked to hold a record and to stay below the cap of a batch")
}
