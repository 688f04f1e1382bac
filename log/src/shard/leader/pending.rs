//! Appends on their way: staged, journalled, frozen into WAL objects, stored; acknowledged in this order.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::error::Outcome;
use crate::format::dedupe::DedupeEntry;
use crate::format::wal_object::{EncodedObject, Extent, ObjectBuilder, ObjectIdentity};
use crate::journal::{Frame, FrameNumber, JournalBatch, JournalEntry};
use crate::model::{Durability, Nonce, Offset, ShardId, Timestamp, TopicId, WalSeq};
use crate::shard::append::{AppendError, Appended};
use crate::shard::leader::leftover::{Leftover, Sent, name_of};
use crate::shard::leader::spill::Spill;
use crate::shard::partition::PartitionLog;

/// Somebody who waits for an append.
#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) reply: oneshot::Sender<Result<Appended, AppendError>>,
    pub(super) appended: Appended,
    pub(super) level: Durability,
    /// Its room in the shard's budget, where it has none by its frame: it waits for what somebody else appended. So
    /// however often clients try again, what waits is bounded.
    pub(super) _room: Option<OwnedSemaphorePermit>,
}

impl Waiter {
    pub(super) fn acknowledge(self) {
        // The client may have gone; its records are stored all the same.
        let _ = self.reply.send(Ok(self.appended));
    }

    /// Answers at the end of a leadership; `lost`: the append it waits for is definitely not stored. Of the first attempt
    /// of a retry nothing is known.
    pub(super) fn fail(self, lost: bool) {
        let lost = lost && !self.appended.replayed;
        let outcome = if lost { Outcome::NotApplied } else { Outcome::Unknown };
        let _ = self.reply.send(Err(AppendError::NoLeader { outcome }));
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
    fn to_journal(&self) -> JournalBatch {
        JournalBatch {
            partition: self.log.partition(),
            base_offset: self.base,
            count: self.count,
            max_timestamp: self.max_timestamp,
            dedupe: self.dedupe.clone(),
            bytes: self.bytes.clone(),
        }
    }

    /// What the journal holds of it.
    pub(super) fn from_journal(batch: JournalBatch, log: Arc<PartitionLog>) -> Self {
        Self {
            log,
            base: batch.base_offset,
            end: batch.base_offset.plus(u64::from(batch.count)),
            count: batch.count,
            max_timestamp: batch.max_timestamp,
            bytes: batch.bytes,
            dedupe: batch.dedupe,
        }
    }

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
    /// Its number in the journal, if that acknowledges it.
    pub(super) number: Option<FrameNumber>,
    /// Its place in the journal, if its batches can be read there.
    pub(super) entry: Option<JournalEntry>,
    /// Whether its batches have got other offsets since they were journalled.
    pub(super) moved: bool,
    /// Whether readers find its batches in memory once they are published; if not, in the store.
    pub(super) in_tail: bool,
    /// Whether its batches are in the journal alone.
    pub(super) spilled: bool,
    /// The leadership that journalled it.
    pub(super) origin: Nonce,
    /// The objects of earlier leaderships that were to hold it.
    pub(super) sent: Vec<Sent>,
    /// Whether its WAL object names it, for want of a mark in the journal.
    pub(super) named: bool,
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
    /// Room in the shard's budget, given back once it is stored, and most of it when its batches are spilled; none for
    /// what was taken back from the journal.
    pub(super) room: Option<OwnedSemaphorePermit>,
}

impl PendingFrame {
    /// Shows its records to readers, if they are in memory, and notes whom to wake.
    pub(super) fn publish(&mut self, topics: &mut Vec<TopicId>) {
        if std::mem::replace(&mut self.published, true) {
            return;
        }
        for batch in &self.batches {
            if self.in_tail {
                batch.log.publish(batch.end);
            }
            let topic = batch.log.partition().topic;
            if !topics.contains(&topic) {
                topics.push(topic);
            }
        }
    }

    /// Describes it as an entry of the journal.
    pub(super) fn to_journal(&self, shard: ShardId) -> Frame {
        let wants_local = self.has_waiter(Durability::Local);
        Frame::Append {
            shard,
            nonce: self.origin,
            level: if wants_local { Durability::Local } else { Durability::Object },
            append_time: self.append_time,
            batches: self.batches.iter().map(PlacedBatch::to_journal).collect(),
        }
    }

    /// Describes what is left of it at the end of the leadership `nonce`, if it is in the journal.
    pub(super) fn to_leftover(&self, nonce: Nonce) -> Option<Leftover> {
        let entry = self.entry.clone().filter(|_| self.number.is_some())?;
        let mut sent = self.sent.clone();
        sent.extend(self.frozen.map(|seq| Sent { nonce, seq }));
        Some(Leftover { entry, origin: self.origin, sent })
    }

    /// Returns its number in the journal, which keeps it until it is released.
    pub(super) fn needed(&self) -> Option<FrameNumber> {
        self.number.or(self.entry.as_ref().map(|entry| entry.number))
    }

    /// Returns the dedupe entry that names it in its WAL object: at its first batch.
    fn name(&self, batch: &PlacedBatch) -> Option<DedupeEntry> {
        let first = self.batches.first().is_some_and(|first| std::ptr::eq(first, batch));
        let number = self.number.filter(|_| self.named && first)?;
        let name = name_of(self.origin, number);
        Some(DedupeEntry {
            id: name.id,
            producer_epoch: 0,
            first_sequence: name.first_sequence,
            base_offset: batch.base,
            count: batch.count,
            append_time: self.append_time,
            body_hash: name.body_hash,
        })
    }

    /// Returns its bytes, if nobody held room for them.
    fn recovered_bytes(&self) -> usize {
        if self.room.is_none() { self.size_bytes } else { 0 }
    }

    /// Tells whether anybody waits for this level.
    pub(super) fn has_waiter(&self, level: Durability) -> bool {
        self.waiters.iter().any(|waiter| waiter.level == level)
    }

    /// Tells whether it is definitely not stored, where nothing is at or above this number (W6): so are frames that were
    /// never frozen.
    pub(super) fn is_lost(&self, not_stored_from: Option<WalSeq>) -> bool {
        self.frozen.is_none_or(|seq| not_stored_from.is_some_and(|from| seq >= from))
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

/// Joins the room that two appends hold.
pub(super) fn merge(
    held: Option<OwnedSemaphorePermit>,
    more: OwnedSemaphorePermit,
) -> Option<OwnedSemaphorePermit> {
    match held {
        Some(mut held) => {
            held.merge(more);
            Some(held)
        }
        None => Some(more),
    }
}

/// Takes so much of the room that an append held, to keep it.
pub(super) fn keep(held: &mut OwnedSemaphorePermit, permits: usize) -> Option<OwnedSemaphorePermit> {
    held.split(permits.min(held.num_permits()))
}

/// Puts frames, in their order, into one WAL object.
pub(super) fn object(identity: ObjectIdentity, frames: &[&PendingFrame]) -> EncodedObject {
    let mut builder = ObjectBuilder::new(identity);
    for frame in frames {
        for batch in &frame.batches {
            let pushed = builder.push(
                batch.indexed(frame.append_time),
                (batch.count > 0).then(|| batch.bytes.clone()),
                batch.dedupe.iter().copied().chain(frame.name(batch)),
            );
            pushed.expect("a leader places each batch where the one before it ends");
        }
    }
    builder.finish().expect("pending frames hold batches, and their index stays far below its cap")
}

/// All appends that are not stored yet, oldest first: frozen ones, then the others.
#[derive(Debug, Default)]
pub(super) struct PendingFrames {
    pub(super) frames: VecDeque<PendingFrame>,
    pub(super) frozen: usize,
    synced: usize,
    unfrozen_bytes: usize,
    recovered_bytes: usize,
    unjournalled: usize,
    pub(super) spill: Spill,
    pushed: u64,
    stored: u64,
    durable: u64,
}

impl PendingFrames {
    pub(super) fn push(&mut self, frame: PendingFrame) {
        self.spill.pushed(&frame);
        self.unfrozen_bytes += frame.size_bytes;
        self.recovered_bytes += frame.recovered_bytes();
        self.unjournalled += usize::from(frame.number.is_none());
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

    /// Returns how many of them, the oldest, are durable at `object`.
    pub(super) fn durable_count(&mut self) -> u64 {
        self.durable = self.durable.max(self.stored);
        let known = usize::try_from(self.durable - self.stored).unwrap_or(usize::MAX);
        let more = self.frames.iter().skip(known);
        self.durable += more.take_while(|frame| frame.reached == Some(Durability::Object)).count() as u64;
        self.durable
    }

    /// Tells whether every frame on its way is in the journal.
    pub(super) fn all_journalled(&self) -> bool {
        self.unjournalled == 0
    }

    /// Returns the bytes of frames that were taken back from the journal.
    pub(super) fn recovered_bytes(&self) -> usize {
        self.recovered_bytes
    }

    pub(super) fn unfrozen_bytes(&self) -> usize {
        self.unfrozen_bytes
    }

    pub(super) fn has_unfrozen(&self) -> bool {
        self.frozen < self.frames.len()
    }

    /// Adds somebody who waits for an append that may be on its way; it is answered with the newest one, after its
    /// own. Where not all are in the journal its own may be one that is not, and no sync makes that durable.
    pub(super) fn attach(&mut self, mut waiter: Waiter) {
        if !self.all_journalled() {
            waiter.level = Durability::Object;
        }
        match self.frames.back_mut() {
            Some(frame) if frame.reached < Some(waiter.level) => {
                let waiters = &mut frame.waiters;
                if waiters.len() == waiters.capacity() {
                    // Each time there are twice as many those who gave up are dropped: they may have tried again since.
                    waiters.retain(|waiter| !waiter.reply.is_closed());
                    waiters.reserve(waiters.len() + 1);
                }
                waiters.push(waiter);
            }
            _ => waiter.acknowledge(),
        }
    }

    /// Returns the frames that the journal has synced below this number since the last call. `passing` over those that
    /// are not in the journal, or up to the first of them.
    pub(super) fn synced(
        &mut self,
        below: FrameNumber,
        passing: bool,
    ) -> impl Iterator<Item = &mut PendingFrame> {
        let first = self.synced;
        let rest = self.frames.range(first..);
        self.synced += rest.take_while(|frame| frame.number.map_or(passing, |number| number < below)).count();
        self.frames.range_mut(first..self.synced).filter(|frame| frame.number.is_some())
    }

    /// Returns the number of the oldest frame that is in the journal.
    pub(super) fn first_number(&self) -> Option<FrameNumber> {
        self.frames.iter().find_map(|frame| frame.number)
    }

    /// Gives the oldest unfrozen frames, up to about `max_bytes`, the number of a WAL object.
    pub(super) fn freeze(&mut self, seq: WalSeq, max_bytes: usize) {
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
    }

    /// Has the frames frozen at a number named by their object.
    pub(super) fn name(&mut self, seq: WalSeq) {
        let frames = self.frames.range_mut(..self.frozen);
        frames.filter(|frame| frame.frozen == Some(seq)).for_each(|frame| frame.named = true);
    }

    /// Returns the frames frozen at a number.
    pub(super) fn frozen_at(&self, seq: WalSeq) -> impl Iterator<Item = &PendingFrame> {
        self.frames.range(..self.frozen).filter(move |frame| frame.frozen == Some(seq))
    }

    /// Adds the unfrozen frames to an object that is frozen already, as no leader may. False if there is none, or later
    /// objects are frozen.
    #[cfg(feature = "test-util")]
    pub(super) fn freeze_again(&mut self, seq: WalSeq) -> bool {
        let newest = self.frozen.checked_sub(1).and_then(|last| self.frames.get(last));
        let last_frozen = newest.is_some_and(|frame| frame.frozen == Some(seq));
        let rest = self.frames.range(self.frozen..);
        if !last_frozen || !self.has_unfrozen() || rest.into_iter().any(|frame| frame.spilled) {
            return false;
        }
        self.frames.range_mut(self.frozen..).for_each(|frame| frame.frozen = Some(seq));
        (self.frozen, self.unfrozen_bytes) = (self.frames.len(), 0);
        true
    }

    /// Takes out the frames whose WAL objects lie below this number: they are stored.
    pub(super) fn stored(&mut self, below: WalSeq) -> Vec<PendingFrame> {
        let mut stored = Vec::new();
        while self.frames.front().is_some_and(|frame| frame.frozen.is_some_and(|seq| seq < below)) {
            let Some(frame) = self.frames.pop_front() else { break };
            self.frozen -= 1;
            self.synced = self.synced.saturating_sub(1);
            self.stored += 1;
            self.spill.stored(&frame);
            self.recovered_bytes -= frame.recovered_bytes();
            self.unjournalled -= usize::from(frame.number.is_none());
            stored.push(frame);
        }
        stored
    }

    /// Takes everything out at the end of a leadership.
    pub(super) fn take_all(&mut self) -> VecDeque<PendingFrame> {
        std::mem::take(self).frames
    }
}
