//! Appends on their way: staged, journalled, frozen into WAL objects, stored; acknowledged in this order.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::error::Outcome;
use crate::format::dedupe::DedupeEntry;
use crate::format::wal_object::{EncodedObject, Extent, ObjectBuilder, ObjectIdentity};
use crate::journal::{Frame, FrameNumber, JournalBatch};
use crate::model::{Durability, Nonce, Offset, ShardId, Timestamp, TopicId, WalSeq};
use crate::shard::append::{AppendError, Appended};
use crate::shard::partition::PartitionLog;

/// Somebody who waits for an append.
#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) reply: oneshot::Sender<Result<Appended, AppendError>>,
    pub(super) appended: Appended,
    pub(super) level: Durability,
}

impl Waiter {
    pub(super) fn acknowledge(self) {
        // The client may have gone; its records are stored all the same.
        let _ = self.reply.send(Ok(self.appended));
    }

    pub(super) fn fail(self, error: AppendError) {
        let _ = self.reply.send(Err(error));
    }
}

/// A batch with its place in the log.
#[derive(Debug)]
pub(super) struct PlacedBatch {
    pub(super) log: Arc<PartitionLog>,
    pub(super) base: Offset,
    pub(super) end: Offset,
    pub(super) count: u32,
    pub(super) max_timestamp: Timestamp,
    pub(super) bytes: Bytes,
    pub(super) dedupe: Vec<DedupeEntry>,
}

impl PlacedBatch {
    /// Describes it for the index of a WAL object.
    pub(super) fn indexed(&self, append_time: Timestamp) -> Extent {
        Extent {
            partition: self.log.partition(),
            base_offset: self.base,
            end_offset: self.end,
            count: self.count,
            max_timestamp: self.max_timestamp,
            append_time,
        }
    }
}

/// What goes into one WAL object together.
#[derive(Debug)]
pub(super) struct PendingFrame {
    /// Its place in the journal; none once the journal is dead.
    pub(super) number: Option<FrameNumber>,
    pub(super) append_time: Timestamp,
    pub(super) batches: Vec<PlacedBatch>,
    pub(super) waiters: Vec<Waiter>,
    pub(super) size_bytes: usize,
    pub(super) frozen: Option<WalSeq>,
    pub(super) published: bool,
    /// Whether its offsets leave a gap behind the log, after damage: then it begins a WAL object.
    pub(super) jump: bool,
    /// The highest level that was acknowledged.
    pub(super) reached: Option<Durability>,
    /// Held, not used: room in the shard's budget, given back once it is stored.
    pub(super) _room: Option<OwnedSemaphorePermit>,
}

impl PendingFrame {
    /// Shows its records to readers and notes whom to wake.
    pub(super) fn publish(&mut self, topics: &mut Vec<TopicId>) {
        if std::mem::replace(&mut self.published, true) {
            return;
        }
        for batch in &self.batches {
            batch.log.publish(batch.end);
            let topic = batch.log.partition().topic;
            if !topics.contains(&topic) {
                topics.push(topic);
            }
        }
    }

    /// Describes it as an entry of the journal.
    pub(super) fn to_journal(&self, shard: ShardId, nonce: Nonce) -> Frame {
        let batches = self.batches.iter().map(|batch| JournalBatch {
            partition: batch.log.partition(),
            base_offset: batch.base,
            count: batch.count,
            max_timestamp: batch.max_timestamp,
            dedupe: batch.dedupe.clone(),
            bytes: batch.bytes.clone(),
        });
        let wants_local = self.has_waiter(Durability::Local);
        Frame::Append {
            shard,
            nonce,
            level: if wants_local { Durability::Local } else { Durability::Object },
            append_time: self.append_time,
            batches: batches.collect(),
        }
    }

    /// Tells whether anybody waits for this level.
    pub(super) fn has_waiter(&self, level: Durability) -> bool {
        self.waiters.iter().any(|waiter| waiter.level == level)
    }

    /// Answers those who wait for this level or a lower one.
    pub(super) fn acknowledge(&mut self, level: Durability) {
        self.reached = self.reached.max(Some(level));
        let (reached, others) = self.waiters.drain(..).partition(|waiter| waiter.level <= level);
        self.waiters = others;
        let reached: Vec<Waiter> = reached;
        reached.into_iter().for_each(Waiter::acknowledge);
    }
}

/// Puts frames, in their order, into one WAL object.
pub(super) fn object(identity: ObjectIdentity, frames: &[&PendingFrame]) -> EncodedObject {
    let mut builder = ObjectBuilder::new(identity);
    for frame in frames {
        for batch in &frame.batches {
            let pushed = builder.push(
                batch.indexed(frame.append_time),
                (batch.count > 0).then(|| batch.bytes.clone()),
                batch.dedupe.iter().copied(),
            );
            pushed.expect("a leader places each batch where the one before it ends");
        }
    }
    builder.finish().expect("pending frames hold batches, and their index stays far below its cap")
}

/// All appends that are not stored yet, oldest first: frozen ones, then the others.
#[derive(Debug, Default)]
pub(super) struct PendingFrames {
    frames: VecDeque<PendingFrame>,
    frozen: usize,
    synced: usize,
    unfrozen_bytes: usize,
    total_bytes: usize,
    pushed: u64,
    stored: u64,
}

impl PendingFrames {
    pub(super) fn push(&mut self, frame: PendingFrame) {
        self.unfrozen_bytes += frame.size_bytes;
        self.total_bytes += frame.size_bytes;
        self.pushed += 1;
        self.frames.push_back(frame);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Returns how many frames were ever pushed.
    pub(super) fn pushed(&self) -> u64 {
        self.pushed
    }

    /// Returns how many of them, the oldest, are stored.
    pub(super) fn stored_count(&self) -> u64 {
        self.stored
    }

    pub(super) fn total_bytes(&self) -> usize {
        self.total_bytes
    }

    pub(super) fn unfrozen_bytes(&self) -> usize {
        self.unfrozen_bytes
    }

    pub(super) fn has_unfrozen(&self) -> bool {
        self.frozen < self.frames.len()
    }

    /// Adds somebody who waits for an append that may be on its way; it is answered with the newest one, after its
    /// own.
    pub(super) fn attach(&mut self, waiter: Waiter) {
        match self.frames.back_mut() {
            Some(frame) if frame.reached < Some(waiter.level) => frame.waiters.push(waiter),
            _ => waiter.acknowledge(),
        }
    }

    /// Returns the frames that the journal has synced below this number since the last call.
    pub(super) fn synced(&mut self, below: FrameNumber) -> impl Iterator<Item = &mut PendingFrame> {
        let first = self.synced;
        let rest = self.frames.range(first..);
        self.synced += rest.take_while(|frame| frame.number.is_some_and(|number| number < below)).count();
        self.frames.range_mut(first..self.synced)
    }

    /// Gives the oldest unfrozen frames, up to about `max_bytes`, the number of a WAL object, and returns them.
    pub(super) fn freeze(&mut self, seq: WalSeq, max_bytes: usize) -> Vec<&PendingFrame> {
        let first = self.frozen;
        let mut size = 0;
        while let Some(frame) = self.frames.get_mut(self.frozen) {
            if self.frozen > first && (frame.jump || size + frame.size_bytes > max_bytes) {
                break;
            }
            size += frame.size_bytes;
            frame.frozen = Some(seq);
            self.frozen += 1;
        }
        self.unfrozen_bytes -= size;
        self.frames.range(first..self.frozen).collect()
    }

    /// Adds the unfrozen frames to an object that is frozen already, as no leader may. None if later objects are frozen.
    #[cfg(feature = "test-util")]
    pub(super) fn freeze_again(&mut self, seq: WalSeq) -> Option<Vec<&PendingFrame>> {
        let newest = self.frozen.checked_sub(1).and_then(|last| self.frames.get(last))?;
        if newest.frozen != Some(seq) || !self.has_unfrozen() {
            return None;
        }
        self.frames.range_mut(self.frozen..).for_each(|frame| frame.frozen = Some(seq));
        (self.frozen, self.unfrozen_bytes) = (self.frames.len(), 0);
        Some(self.frames.iter().filter(|frame| frame.frozen == Some(seq)).collect())
    }

    /// Takes out the frames whose WAL objects lie below this number: they are stored.
    pub(super) fn stored(&mut self, below: WalSeq) -> Vec<PendingFrame> {
        let mut stored = Vec::new();
        while self.frames.front().is_some_and(|frame| frame.frozen.is_some_and(|seq| seq < below)) {
            let Some(frame) = self.frames.pop_front() else { break };
            self.frozen -= 1;
            self.synced = self.synced.saturating_sub(1);
            self.stored += 1;
            self.total_bytes -= frame.size_bytes;
            stored.push(frame);
        }
        stored
    }

    /// Takes everything out at the end of a leadership and answers whoever waits. Frames at or above
    /// `not_stored_from`, and those never frozen, are definitely not stored; of the others nothing is known (W6), nor
    /// of the first attempt of a retry. Returns the frames that nobody was told to be durable.
    pub(super) fn fail_all(&mut self, not_stored_from: Option<WalSeq>) -> Vec<FrameNumber> {
        let mut unneeded = Vec::new();
        for frame in std::mem::take(self).frames {
            unneeded.extend(frame.number.filter(|_| frame.reached.is_none()));
            let certain = match (frame.frozen, not_stored_from) {
                (None, _) => true,
                (Some(seq), Some(from)) => seq >= from,
                (Some(_), None) => false,
            };
            for waiter in frame.waiters {
                let certain = certain && !waiter.appended.replayed;
                let outcome = if certain { Outcome::NotApplied } else { Outcome::Unknown };
                waiter.fail(AppendError::NoLeader { outcome });
            }
        }
        unneeded
    }
}
