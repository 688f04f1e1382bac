//! The part of [`LeaderCore`] that concerns WAL objects: what is frozen when, what each answer of the store means, and the
//! end of the leadership.

use std::time::Duration;

use crate::format::wal_object::{EncodedObject, ObjectIdentity, ObjectKind, WalHeader};
use crate::limits;
use crate::model::{Durability, WalSeq};
use crate::shard::leader::core::{AckFrom, Action, LeaderCore};
use crate::shard::leader::leftover::Leftover;
use crate::shard::leader::marks::{Marked, Marks};
use crate::shard::leader::pending::{self, PendingFrame};
use crate::shard::open::next_pause;
use crate::shard::taker::PutAnswer;
use crate::shard::writer::{Ended, Next};

/// A frozen object that is not resolved.
#[derive(Debug)]
pub(super) struct Frozen {
    pub(super) object: EncodedObject,
    pause: Duration,
}

impl LeaderCore {
    /// Returns when something is to be frozen, if it may be by then.
    pub(super) fn flush_at(&self) -> Option<Duration> {
        self.flush.due().filter(|_| self.may_freeze().is_some())
    }

    /// Freezes what is due; with `all`, whatever waits.
    pub(super) fn freeze_due(&mut self, at: Duration, all: bool) {
        let all = all || self.is_crowded();
        while self.pending.has_unfrozen() {
            let due = all || self.pending.unfrozen_bytes() >= self.object_bytes || self.flush.is_due(at);
            if !due || !self.freeze(at) {
                return;
            }
        }
        self.flush.cancel();
    }

    /// Returns the number for the next object, if one may be frozen.
    fn may_freeze(&self) -> Option<WalSeq> {
        let waiting = self.marks.as_ref().is_some_and(Marks::is_waiting) || self.loading.is_some();
        self.writer.may_freeze().filter(|_| !waiting)
    }

    /// Freezes the oldest pending frames into one object and sends it off, if the window allows: at once, or when the
    /// journal says what is in it.
    fn freeze(&mut self, at: Duration) -> bool {
        let Some(seq) = self.may_freeze() else { return false };
        self.pending.freeze(seq, self.object_bytes);
        self.flush.begin(at);
        if self.pending.has_unfrozen() {
            self.flush.schedule(at, self.ack_from);
        }
        let mut numbers = self.pending.frozen_at(seq).filter_map(|frame| frame.number);
        let range = numbers.next().map(|first| (first, numbers.last().unwrap_or(first)));
        let marked = match (&mut self.marks, range) {
            (Some(marks), Some((first, last))) => marks.freeze(seq, first, last),
            _ => Some(Marked { seq, synced: true }),
        };
        if let Some(marked) = marked {
            self.send(marked);
        }
        true
    }

    /// Sends the object of a number off, once all of it is in memory.
    pub(super) fn send(&mut self, marked: Marked) {
        if !self.load_object(marked) {
            self.send_built(marked);
        }
    }

    /// Sends the object of a number off. Without a synced mark it says by itself which journalled frames it holds.
    pub(super) fn send_built(&mut self, Marked { seq, synced }: Marked) {
        if !synced {
            self.pending.name(seq);
        }
        let object = self.build(seq);
        self.writer.freeze(object.header.clone());
        self.frozen.insert(seq, Frozen { object, pause: Duration::ZERO });
        self.put(seq);
    }

    /// Puts the frames frozen at a number into its object.
    pub(super) fn build(&self, seq: WalSeq) -> EncodedObject {
        let frames: Vec<&PendingFrame> = self.pending.frozen_at(seq).collect();
        let identity = ObjectIdentity {
            kind: ObjectKind::Data,
            jump: frames.first().is_some_and(|frame| frame.jump),
            cluster: self.cluster,
            shard: self.shard,
            epoch: self.epoch,
            seq,
            last_seq: seq,
            nonce: self.nonce,
            append_time: frames.last().map_or(self.append_time, |frame| frame.append_time),
        };
        pending::object(identity, &frames)
    }

    fn put(&mut self, seq: WalSeq) {
        if let Some(Frozen { object, pause }) = self.frozen.get(&seq) {
            self.actions.push_back(Action::Put { seq, parts: object.parts.clone(), pause: *pause });
        }
    }

    /// Takes the answer to a PUT.
    pub(super) fn put_answered(&mut self, seq: WalSeq, answer: PutAnswer) {
        let next = self.writer.put_answered(seq, answer);
        self.go_on(seq, next);
    }

    /// Takes the header at the number of a PUT that found it taken, if there is an object.
    pub(super) fn read_back(&mut self, seq: WalSeq, found: Option<&WalHeader>) {
        let next = self.writer.read_back(seq, found);
        self.go_on(seq, next);
    }

    /// Takes note of what no writer of this version wrote, at an own number.
    pub(super) fn stranger(&mut self, seq: WalSeq) {
        let next = self.writer.stranger(seq);
        self.go_on(seq, next);
    }

    /// Takes the floor, read after an EPOCH was seen at `seq`.
    pub(super) fn fence(&mut self, seq: WalSeq, floor: WalSeq) {
        self.writer.fence(seq, floor);
        self.go_on(seq, Next::Stop);
    }

    fn go_on(&mut self, seq: WalSeq, next: Next) {
        match next {
            Next::Resolved => self.settle(),
            Next::PutAgain => {
                if let Some(frozen) = self.frozen.get_mut(&seq) {
                    frozen.pause = next_pause(frozen.pause.max(limits::PUT_BACKOFF_MIN / 2));
                }
                self.put(seq);
            }
            Next::ReadBack => self.actions.push_back(Action::ReadBack(seq)),
            Next::ReadFloor => self.actions.push_back(Action::ReadFloor(seq)),
            Next::Stop => self.end(),
        }
    }

    /// Acknowledges and settles what the contiguous resolved prefix now covers.
    fn settle(&mut self) {
        let below = self.writer.resolved_below();
        let (mut topics, mut needed) = (Vec::new(), Vec::new());
        for mut frame in self.pending.stored(below) {
            frame.publish(&mut topics);
            frame.acknowledge(Durability::Object);
            needed.extend(frame.needed());
        }
        // Only now, so that no extent of what is in a tail reaches above a high watermark.
        while let Some(entry) = self.frozen.first_entry().filter(|entry| *entry.key() < below) {
            let (_, frozen) = entry.remove_entry();
            self.actions.push_back(Action::Stored(Box::new(frozen.object)));
        }
        // Behind them: what is in no tail is seen from then on.
        self.wake(topics);
        self.settled(&needed);
        self.append_leftovers();
        let may_go_on = self.journal.is_some() && self.journal_is_paused() && self.pending.is_empty();
        if may_go_on && !self.journal_is_dead() {
            self.ack_from = AckFrom::Journal;
            tracing::info!(shard.id = %self.shard, "journal acknowledges again");
        }
        self.answer_refusals();
    }

    /// Returns the number of the oldest object that waits for the store.
    pub(super) fn oldest_frozen(&self) -> Option<WalSeq> {
        self.frozen.keys().next().copied()
    }

    /// Ends the leadership although not everything is stored.
    pub(super) fn give_all_up(&mut self) {
        self.writer.give_up();
        self.end();
    }

    pub(super) fn end(&mut self) {
        let Some(ended) = self.writer.ended() else { return };
        let not_stored_from = match ended {
            Ended::Fenced { not_stored_from } => not_stored_from,
            Ended::GivenUp { seq } => Some(seq),
            Ended::Impossible { .. } => None,
        };
        self.refusals.fail_all();
        for frame in self.pending.take_all() {
            self.give_up(frame, not_stored_from);
        }
        // Whoever leads next on this node finds them there, in order.
        if let Some(mut leftovers) = self.leftovers.take() {
            leftovers.make_contiguous().sort_unstable_by_key(Leftover::number);
        }
        if let Some(shared) = &self.journal {
            let progress = *shared.journal().synced().borrow();
            self.answer_lingering(progress);
        }
        self.actions.push_back(Action::Ended(ended));
    }

    /// Answers those who wait for a frame at the end of the leadership. On a store that others may write, what is in the
    /// journal will be appended again, so that whoever waits for the journal alone still may.
    fn give_up(&mut self, frame: PendingFrame, not_stored_from: Option<WalSeq>) {
        let lost = frame.is_lost(not_stored_from);
        let (number, needed) = (frame.number, frame.needed());
        match (&mut self.leftovers, frame.to_leftover(self.nonce)) {
            (Some(leftovers), Some(leftover)) => leftovers.push_back(leftover),
            // What nobody was told to be durable by the journal is not needed.
            _ if number.is_none() || frame.reached.is_none() => self.release(needed.as_slice()),
            _ => {}
        }
        for waiter in frame.waiters {
            match number.filter(|_| !self.exclusive && waiter.level == Durability::Local) {
                Some(number) => self.lingering.push((number, waiter)),
                None => waiter.fail(lost),
            }
        }
    }
}
