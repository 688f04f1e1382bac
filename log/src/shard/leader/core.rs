//! What a leader decides, without IO, without a clock, without a task: events in, [`Action`]s out.
//!
//! Offsets, the journal's entries, what is frozen when, what each answer of the store means, who is answered what and
//! when: all of it is here and nowhere else. [`run`](super::run) drives it over channels, timers and the store; the
//! simulator drives it over its own. What concerns WAL objects is in [`objects`](super::objects), what concerns a start in
//! [`recover`](super::recover). The journal takes frames without waiting where there is room, and its queue is
//! memory; only the append of a turn's frame may have to wait, so that the driver does it, between
//! [`LeaderCore::stage`] and [`LeaderCore::admit`].
//!
//! Invariants
//! - Frames are staged, admitted, frozen, stored and acknowledged in one order: that of their offsets.
//! - Nothing is answered that another leader could contradict: appends once they are as durable as they ask.
//! - After the end of the leadership nothing is sent and nothing more is acknowledged from the store.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Debug;
use std::iter::Peekable;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;

use crate::error::Outcome;
use crate::format::manifest::EpochEntry;
use crate::format::wal_object::{EncodedObject, WalHeader};
use crate::journal::{Frame, FrameNumber, JournalEntry, JournalError, Progress};
use crate::limits;
use crate::model::{
    ClusterId, Durability, LeaderEpoch, Nonce, ShardId, Timestamp, TopicId, TopicPartition, WalSeq,
};
use crate::mutation::{self, Mutation};
use crate::shard::append::{Append, AppendError};
use crate::shard::frames::{Leftovers, SharedJournal};
use crate::shard::leader::flush::FlushTimer;
use crate::shard::leader::leftover::Leftover;
use crate::shard::leader::marks::Marks;
use crate::shard::leader::objects::Frozen;
use crate::shard::leader::pending::{self, PendingFrame, PendingFrames, Waiter};
use crate::shard::leader::refusals::{Refusal, Refusals};
use crate::shard::leader::spill::Loading;
use crate::shard::leader::turn::{Judged, Turn};
use crate::shard::leader::{Queued, WAITER_PERMITS};
use crate::shard::partition::{PartitionLog, TailBatch};
use crate::shard::state::ShardState;
use crate::shard::taker::Leadership;
use crate::shard::writer::{Ended, Writer};

/// Stands for all frames that the journal held at the start: needed until recovery has ended, and after damage until
/// the log itself says where offsets go on. Otherwise a crash in between would forget that there was damage.
pub(super) const REPLAY: FrameNumber = FrameNumber::ZERO;

/// What makes an append durable at `object`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AckFrom {
    /// The sync of the journal: exclusive store.
    Journal,
    /// The store: shared store, or a journal that failed.
    Store,
    /// Nothing outlives the process anyway: exclusive store in memory.
    Memory,
}

/// Where readers look for a partition's batches.
pub(super) trait Logs: Debug + Send + Sync {
    /// Returns a partition's; an empty one when it never had a record.
    fn log(&self, partition: TopicPartition) -> Arc<PartitionLog>;

    /// Tells whether a topic is known to be deleted.
    fn is_gone(&self, topic: TopicId) -> bool;
}

/// What a leader works with.
#[derive(Debug)]
pub(super) struct Setup {
    pub(super) logs: Arc<dyn Logs>,
    /// Whether nobody else can write the store.
    pub(super) exclusive: bool,
    pub(super) journal: Option<SharedJournal>,
    /// On a store that others may write: what earlier leaderships on this node left in the journal.
    pub(super) leftovers: Option<Leftovers>,
    pub(super) flush_linger: Duration,
    /// Size at which an object is frozen.
    pub(super) object_bytes: usize,
    /// Bytes that recovered frames may hold before recovery waits for the store.
    pub(super) recovered_bytes_max: usize,
    /// Bytes of pending frames in memory before more are spilled.
    pub(super) spill_bytes: usize,
}

/// What the driver is to do.
#[derive(Debug)]
#[cfg_attr(
    not(feature = "test-util"),
    expect(unreachable_pub, reason = "the simulator's driver lies outside")
)]
pub enum Action {
    /// PUT these bytes, create-only, after a pause; the answer goes to [`LeaderCore::put_answered`].
    Put {
        /// The object's number.
        seq: WalSeq,
        /// Its bytes, in order.
        parts: Vec<Bytes>,
        /// Zero for the first attempt.
        pause: Duration,
    },
    /// Read the header of the object at this number, for [`LeaderCore::read_back`].
    ReadBack(WalSeq),
    /// Read the floor, the read starting now, for [`LeaderCore::fence`]; an EPOCH stands at this number.
    ReadFloor(WalSeq),
    /// Read the header at this number, the read starting now, for [`LeaderCore::proof_read`]: is a newer leader's EPOCH
    /// there?
    Prove(WalSeq),
    /// Read these frames of the journal, for [`LeaderCore::loaded`].
    Load {
        /// The number of the object that waits for them, if one does.
        seq: WalSeq,
        /// Where they are.
        entries: Vec<JournalEntry>,
    },
    /// Readers find this object in the store from now on.
    Stored(Box<EncodedObject>),
    /// Wake the topic's readers.
    Wake(TopicId),
    /// The leadership has ended; everybody who waited was answered.
    Ended(Ended),
}

/// A turn that was judged; its frame goes to the journal before it is admitted.
#[derive(Debug)]
pub(super) struct Staged {
    frame: Option<PendingFrame>,
    duplicates: Vec<Waiter>,
    refused: Vec<Refusal>,
    /// The journal's entry, and whether somebody waits for its sync; none when it goes without.
    pub(super) entry: Option<(Frame, bool)>,
    /// Whether the entry acknowledges it, and is not there to be out of memory alone.
    acknowledges: bool,
}

/// One leadership.
#[derive(Debug)]
pub(super) struct LeaderCore {
    pub(super) cluster: ClusterId,
    pub(super) shard: ShardId,
    pub(super) epoch: LeaderEpoch,
    pub(super) nonce: Nonce,
    /// All that are known.
    pub(super) epochs: Vec<EpochEntry>,
    pub(super) exclusive: bool,
    pub(super) state: ShardState,
    pub(super) append_time: Timestamp,
    pub(super) logs: Arc<dyn Logs>,
    pub(super) pending: PendingFrames,
    pub(super) writer: Writer,
    pub(super) ack_from: AckFrom,
    pub(super) journal: Option<SharedJournal>,
    /// Whether the last frame for it was not taken.
    journal_fails: bool,
    /// With a journal, on a store that others may write.
    pub(super) marks: Option<Marks>,
    pub(super) leftovers: Option<Leftovers>,
    /// How many of them, the oldest, could not be read: they wait for a later leadership.
    pub(super) unread: usize,
    /// Whether leftovers are being appended again.
    pub(super) resuming: bool,
    /// What is being read back from the journal: one thing at a time.
    pub(super) loading: Option<Loading>,
    pub(super) spill_bytes: usize,
    /// Those who wait for the journal alone, after the end of the leadership.
    pub(super) lingering: Vec<(FrameNumber, Waiter)>,
    pub(super) frozen: BTreeMap<WalSeq, Frozen>,
    pub(super) flush: FlushTimer,
    pub(super) object_bytes: usize,
    recovered_bytes_max: usize,
    pub(super) recovering: bool,
    pub(super) gap_found: bool,
    pub(super) refusals: Refusals,
    pub(super) actions: VecDeque<Action>,
}

impl LeaderCore {
    pub(super) fn new(leadership: Leadership, setup: Setup) -> Self {
        let (shard, nonce) = (leadership.manifest.shard, leadership.nonce);
        let shared = setup.journal.clone().filter(|_| !setup.exclusive);
        let marks = shared.map(|journal| Marks::new(journal, shard, nonce));
        if let Some(journal) = setup.journal.as_ref().filter(|_| setup.exclusive) {
            journal.need(REPLAY);
        }
        let ack_from = match (setup.exclusive, setup.journal.is_some()) {
            (true, true) => AckFrom::Journal,
            (true, false) => AckFrom::Memory,
            (false, _) => AckFrom::Store,
        };
        for end in leadership.state.partitions() {
            setup.logs.log(end.partition).publish(end.next_offset);
        }
        Self {
            cluster: leadership.manifest.cluster,
            shard,
            epoch: leadership.epoch,
            nonce,
            epochs: leadership.epochs,
            exclusive: setup.exclusive,
            state: leadership.state,
            append_time: leadership.append_time,
            logs: setup.logs,
            pending: PendingFrames::default(),
            writer: Writer::new(leadership.first_seq, leadership.span),
            ack_from,
            journal: setup.journal,
            journal_fails: false,
            marks,
            leftovers: setup.leftovers,
            unread: 0,
            resuming: false,
            loading: None,
            spill_bytes: setup.spill_bytes,
            lingering: Vec::new(),
            frozen: BTreeMap::new(),
            flush: FlushTimer::new(setup.flush_linger),
            object_bytes: setup.object_bytes,
            recovered_bytes_max: setup.recovered_bytes_max,
            recovering: true,
            gap_found: false,
            refusals: Refusals::new(setup.exclusive),
            actions: VecDeque::new(),
        }
    }

    /// Returns what is to be done next; none until something else happens.
    pub(super) fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Returns how the leadership ended, if it has.
    pub(super) fn ended(&self) -> Option<Ended> {
        self.writer.ended()
    }

    /// Tells whether anything is on its way.
    pub(super) fn is_busy(&self) -> bool {
        !self.pending.is_empty() || !self.refusals.is_empty() || self.resuming
    }

    /// Tells whether somebody waits for the journal after the end of the leadership.
    pub(super) fn is_lingering(&self) -> bool {
        !self.lingering.is_empty()
    }

    /// Tells whether recovered frames wait for the store in such numbers that no more should be taken.
    pub(super) fn is_crowded(&self) -> bool {
        self.pending.recovered_bytes() > self.recovered_bytes_max
    }

    /// Tells whether commands are taken: what came before them is among the pending frames.
    pub(super) fn takes_commands(&self) -> bool {
        !self.resuming && !self.is_crowded()
    }

    /// Tells whether appends are taken: recovery has ended.
    pub(super) fn takes_appends(&self) -> bool {
        !self.recovering && !self.is_crowded()
    }

    /// Judges appends, up to a unit's worth of them, and gives them their offsets. Where others may write the store all in
    /// a frame are of one level: the journal acknowledges those at `local`, and has the others only to spill them.
    pub(super) fn stage(
        &mut self,
        now: Timestamp,
        waiting: &mut Peekable<impl Iterator<Item = Queued>>,
    ) -> Staged {
        let append_time = self.append_time.max(now);
        self.state.dedupe_mut().expire(append_time);
        let mut turn = Turn::new(&mut self.state, append_time);
        let (mut waiters, mut duplicates, mut refused) = (Vec::new(), Vec::new(), Vec::new());
        let (mut room, mut of_frame) = (None, None);
        let local_apart = self.marks.is_some();
        while let Some(Queued { append, reply, repeats, room: mut held }) = waiting.next_if(|next| {
            !local_apart || of_frame.is_none_or(|level| level == level_of(&next.append, local_apart))
        }) {
            let level = level_of(&append, local_apart);
            match turn.take(append) {
                Judged::Staged(appended) => {
                    waiters.push(Waiter { reply, appended, level, _room: None });
                    of_frame = Some(level);
                    room = pending::merge(room, held);
                }
                Judged::Duplicate(appended) => {
                    repeats.store(true, Ordering::Relaxed);
                    let kept = pending::keep(&mut held, WAITER_PERMITS + appended.placements.len());
                    duplicates.push(Waiter { reply, appended, level, _room: kept });
                }
                Judged::Refused(error) => {
                    let kept = pending::keep(&mut held, WAITER_PERMITS);
                    refused.push(Refusal { reply, error, _room: kept });
                }
            }
            if turn.size_bytes() >= limits::UNIT_BYTES_MAX {
                break;
            }
        }
        let mut staged = Staged { frame: None, duplicates, refused, entry: None, acknowledges: true };
        if turn.is_empty() {
            return staged;
        }
        let logs = &self.logs;
        let mut frame = turn.finish(self.epoch, self.nonce, |partition| logs.log(partition));
        (frame.waiters, frame.room) = (waiters, room);
        self.append_time = append_time;
        let wants_local = frame.has_waiter(Durability::Local);
        staged.acknowledges = wants_local || !local_apart;
        let journalled = if local_apart { wants_local || self.spills() } else { !self.journal_is_paused() };
        if self.journal.is_some() && journalled {
            let sync = self.ack_from == AckFrom::Journal || wants_local;
            staged.entry = Some((frame.to_journal(self.shard), sync));
        }
        staged.frame = Some(frame);
        staged
    }

    /// Takes a turn's frame among the pending ones. `entry` is its place in the journal, none if it has none.
    pub(super) fn admit(
        &mut self,
        at: Duration,
        staged: Staged,
        entry: Result<Option<JournalEntry>, JournalError>,
    ) {
        let entry = entry.unwrap_or_else(|error| {
            self.journal_failed(at, &error);
            None
        });
        if let Some(mut frame) = staged.frame {
            frame.number = entry.as_ref().filter(|_| staged.acknowledges).map(|entry| entry.number);
            if let (Some(marks), Some(number)) = (&mut self.marks, frame.number) {
                marks.journalled(number);
            }
            self.journal_fails &= entry.is_none();
            frame.entry = entry;
            self.push(at, frame);
        }
        for waiter in staged.duplicates {
            self.pending.attach(waiter);
        }
        for refusal in staged.refused {
            self.refusals.push(refusal, self.pending.pushed(), self.writer.next_seq());
        }
        self.answer_refusals();
    }

    pub(super) fn answer_refusals(&mut self) {
        if self.refusals.is_empty() {
            return;
        }
        let broken = mutation::is(Mutation::RefusalBeforeDurable);
        let durable = if broken { u64::MAX } else { self.pending.durable_count() };
        self.refusals.settle(durable, self.writer.resolved_below());
        if let Some(seq) = self.refusals.prove(durable, self.writer.unused()) {
            self.actions.push_back(Action::Prove(seq));
        }
    }

    /// Takes the header at the number that [`Action::Prove`] named, if there is an object.
    pub(super) fn proof_read(&mut self, seq: WalSeq, found: Option<&WalHeader>) {
        match found {
            Some(header) if self.writer.unused() == Some(seq) => self.read_back(seq, Some(header)),
            // What was frozen there meanwhile says by itself how it ended.
            _ => {
                self.refusals.proved(seq, self.writer.next_seq());
                self.answer_refusals();
            }
        }
    }

    /// Adds a frame behind the others: its batches can be read once they are published, or stored where it is to be spilled.
    pub(super) fn push(&mut self, at: Duration, mut frame: PendingFrame) {
        frame.in_tail = !self.spills();
        for batch in frame.batches.iter().filter(|batch| frame.in_tail && batch.count > 0) {
            batch.log.push(TailBatch {
                base: batch.base,
                end: batch.end,
                max_timestamp: batch.max_timestamp,
                bytes: batch.bytes.clone(),
            });
        }
        if self.ack_from == AckFrom::Memory {
            let mut topics = Vec::new();
            frame.publish(&mut topics);
            frame.acknowledge(Durability::Object);
            self.wake(topics);
        }
        self.pending.push(frame);
        self.flush.schedule(at, self.ack_from);
    }

    pub(super) fn wake(&mut self, topics: Vec<TopicId>) {
        self.actions.extend(topics.into_iter().map(Action::Wake));
    }

    pub(super) fn journal_is_dead(&self) -> bool {
        self.journal.as_ref().is_some_and(|shared| shared.journal().synced().borrow().dead)
    }

    /// Tells whether the journal is left out for now: once a frame could not be journalled, none behind it is, until
    /// all of them are stored. A replay would take the missing one for lost. So it is after damage too.
    pub(super) fn journal_is_paused(&self) -> bool {
        self.ack_from == AckFrom::Store && self.exclusive
    }

    /// Leaves the journal out until everything before is stored.
    pub(super) fn pause_journal(&mut self) {
        if self.ack_from == AckFrom::Journal {
            self.ack_from = AckFrom::Store;
        }
    }

    /// Goes on without a journal, dead or full: the store acknowledges from now on. Where it acknowledges the rest anyway
    /// the next frame tries again.
    fn journal_failed(&mut self, at: Duration, error: &dyn std::fmt::Display) {
        if self.ack_from == AckFrom::Journal {
            self.pause_journal();
            tracing::error!(shard.id = %self.shard, error = %error, "journal failed; the store acknowledges now");
            if self.pending.has_unfrozen() {
                self.flush.cancel();
                self.flush.schedule(at, self.ack_from);
            }
        } else if self.marks.is_some() && !std::mem::replace(&mut self.journal_fails, true) {
            tracing::error!(shard.id = %self.shard, error = %error, "journal failed; the store acknowledges local appends now");
        }
    }

    /// Takes how far the journal has got.
    pub(super) fn journal_moved(&mut self, at: Duration, progress: Progress) {
        if progress.dead {
            self.journal_failed(at, &"dead");
        }
        let exclusive = self.exclusive;
        let mut topics = Vec::new();
        for frame in self.pending.synced(progress.below, !exclusive) {
            if exclusive {
                frame.publish(&mut topics);
                frame.acknowledge(Durability::Object);
            } else {
                frame.acknowledge(Durability::Local);
            }
        }
        self.spill(progress);
        self.wake(topics);
        self.answer_lingering(progress);
        let marked = self.marks.as_mut().and_then(|marks| marks.moved(progress));
        // A leader that has ended sends nothing more.
        if let Some(marked) = marked.filter(|marked| self.writer.may_freeze() == Some(marked.seq)) {
            self.send(marked);
        }
        self.append_leftovers();
        self.answer_refusals();
    }

    /// What is synced will be appended again: it can be acknowledged, whoever leads. Of the rest nothing is known once
    /// the journal is dead.
    pub(super) fn answer_lingering(&mut self, progress: Progress) {
        let synced = |number| number < progress.below || mutation::is(Mutation::LingeringUnsynced);
        let done = self.lingering.extract_if(.., |(number, _)| synced(*number) || progress.dead);
        for (number, waiter) in done {
            if synced(number) { waiter.acknowledge() } else { waiter.fail(false) }
        }
    }

    /// Tells the journal that frames are not needed any more.
    pub(super) fn release(&self, numbers: &[FrameNumber]) {
        if let Some(shared) = &self.journal {
            shared.stored(numbers);
        }
    }

    /// Nothing is left to do for these frames of the journal.
    pub(super) fn settled(&mut self, numbers: &[FrameNumber]) {
        self.release(numbers);
        if let Some(marks) = self.marks.as_mut().filter(|_| !numbers.is_empty()) {
            let waiting = self.leftovers.iter().flat_map(|leftovers| leftovers.front()).map(Leftover::number);
            marks.settle(self.pending.first_number().into_iter().chain(waiting).min());
        }
    }
}

/// Returns when an append is acknowledged. Where a local one may yet get another place (`local_apart`), a conditional one
/// is none: its place is what it asked for.
fn level_of(append: &Append, local_apart: bool) -> Durability {
    let conditional = append.batches.iter().any(|batch| batch.expected.is_some());
    let stored = conditional && local_apart && !mutation::is(Mutation::ConditionalLocal);
    if stored { Durability::Object } else { append.level }
}

/// Says of an append that nothing of it was staged.
pub(super) fn never_staged() -> AppendError {
    AppendError::NoLeader { outcome: Outcome::NotApplied }
}
