//! The leader's loop.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::error::Outcome;
use crate::format::wal_object::{EncodedObject, ObjectIdentity, ObjectKind};
use crate::journal::{Frame, FrameNumber, Progress, Settlement};
use crate::limits;
use crate::model::{Durability, LeaderEpoch, Nonce, Offset, Timestamp, TopicId, WalSeq};
use crate::shard::append::AppendError;
use crate::shard::fetch::ShardIndex;
use crate::shard::leader::pending::{self, PendingFrame, PendingFrames};
use crate::shard::leader::turn::{Judged, Turn};
use crate::shard::leader::{Command, LeaderOptions, Queued};
use crate::shard::open::{ShardStore, next_pause};
use crate::shard::partition::{PartitionLog, TailBatch};
use crate::shard::state::ShardState;
use crate::shard::taker::Leadership;
use crate::shard::upload::{self, Found, Step};
use crate::shard::writer::{Ended, Next, Writer};

/// Stands for all frames that the journal held at the start: needed until recovery has ended, and after damage until
/// the log itself says where offsets go on. Otherwise a crash in between would forget that there was damage.
pub(super) const REPLAY: FrameNumber = FrameNumber::ZERO;

/// What makes an append durable at `object`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AckFrom {
    /// The sync of the journal: exclusive store.
    Journal,
    /// The store: shared store, or a dead journal.
    Store,
    /// Nothing outlives the process anyway: exclusive store in memory.
    Memory,
}

/// A frozen object whose PUT is under way.
#[derive(Debug)]
struct Frozen {
    object: EncodedObject,
    pause: Duration,
}

/// One leadership.
#[derive(Debug)]
pub(super) struct Leader {
    pub(super) at: ShardStore,
    pub(super) options: LeaderOptions,
    pub(super) index: Arc<ShardIndex>,
    pub(super) epoch: LeaderEpoch,
    pub(super) nonce: Nonce,
    pub(super) state: ShardState,
    pub(super) append_time: Timestamp,
    pub(super) pending: PendingFrames,
    leads: watch::Sender<bool>,
    writer: Writer,
    ack_from: AckFrom,
    frozen: BTreeMap<WalSeq, Frozen>,
    pub(super) uploads: FuturesUnordered<BoxFuture<'static, Step>>,
    flush_due: Option<Instant>,
    flush_started: Option<Instant>,
    flushes: Vec<(u64, oneshot::Sender<()>)>,
    pub(super) recovering: bool,
    pub(super) gap_found: bool,
    tail: VecDeque<(Arc<PartitionLog>, Offset, usize)>,
    tail_bytes: usize,
}

impl Leader {
    pub(super) fn new(
        at: ShardStore,
        options: LeaderOptions,
        leadership: Leadership,
        index: Arc<ShardIndex>,
        leads: watch::Sender<bool>,
    ) -> Self {
        if let Some(shared) = &options.journal {
            shared.need(REPLAY);
        }
        let ack_from = match (at.store.is_exclusive(), options.journal.is_some()) {
            (true, true) => AckFrom::Journal,
            (true, false) => AckFrom::Memory,
            (false, _) => AckFrom::Store,
        };
        Self {
            at,
            options,
            index,
            epoch: leadership.epoch,
            nonce: leadership.nonce,
            state: leadership.state,
            append_time: leadership.append_time,
            pending: PendingFrames::default(),
            leads,
            writer: Writer::new(leadership.first_seq, leadership.span),
            ack_from,
            frozen: BTreeMap::new(),
            uploads: FuturesUnordered::new(),
            flush_due: None,
            flush_started: None,
            flushes: Vec::new(),
            recovering: true,
            gap_found: false,
            tail: VecDeque::new(),
            tail_bytes: 0,
        }
    }

    /// Leads until the queue closes and everything is stored, or until the leadership ends.
    pub(super) async fn run(
        mut self,
        mut queue: mpsc::Receiver<Queued>,
        mut commands: mpsc::Receiver<Command>,
    ) {
        let mut taken = Vec::with_capacity(limits::SHARD_TURN_MAX);
        let mut progress = self.options.journal.as_ref().map(|shared| shared.journal().synced());
        let mut open = true;
        while self.writer.ended().is_none() && (open || !self.pending.is_empty()) {
            let flush_at = self.flush_due.filter(|_| self.writer.may_freeze().is_some());
            tokio::select! {
                synced = changed(&mut progress) => self.journal_moved(synced),
                Some(step) = self.uploads.next(), if !self.uploads.is_empty() => self.step_done(step),
                () = sleep_until(flush_at) => {}
                command = commands.recv(), if open => {
                    if !self.recovering {
                        // What was handed over before the command comes before it.
                        let waiting = queue.len();
                        taken.extend(std::iter::from_fn(|| queue.try_recv().ok()).take(waiting));
                        self.turn(&mut taken).await;
                    }
                    open = self.command(command).await;
                }
                count = queue.recv_many(&mut taken, limits::SHARD_TURN_MAX), if open && !self.recovering => {
                    open = count > 0;
                    self.turn(&mut taken).await;
                }
            }
            self.freeze_what_is_due(!open);
        }
        self.leads.send_replace(false);
        queue.close();
        while let Ok(queued) = queue.try_recv() {
            // Nothing of it was staged; the caller may have gone.
            let _ = queued.reply.send(Err(AppendError::NoLeader { outcome: Outcome::NotApplied }));
        }
    }

    async fn turn(&mut self, taken: &mut Vec<Queued>) {
        let mut waiting = taken.drain(..);
        loop {
            let mut duplicates = Vec::new();
            let append_time = self.append_time.max(self.options.clock.now());
            self.state.dedupe_mut().expire(append_time);
            let mut turn = Turn::new(&mut self.state, append_time);
            let mut more = false;
            for queued in waiting.by_ref() {
                if let Judged::Duplicate(waiter) = turn.take(queued) {
                    duplicates.push(waiter);
                }
                more = turn.size_bytes() >= limits::UNIT_BYTES_MAX;
                if more {
                    break;
                }
            }
            if !turn.is_empty() {
                let frame = turn.finish(self.epoch, |partition| self.index.log(partition));
                self.append_time = append_time;
                self.append(frame).await;
            }
            for waiter in duplicates {
                self.pending.attach(waiter);
            }
            if !more {
                return;
            }
        }
    }

    /// Journals a frame and takes it among the pending ones.
    async fn append(&mut self, mut frame: PendingFrame) {
        let journal = self.options.journal.clone().filter(|_| !self.journal_is_paused());
        if let Some(shared) = journal {
            let sync = self.ack_from == AckFrom::Journal || frame.has_waiter(Durability::Local);
            match shared.append(frame.to_journal(self.at.shard, self.nonce), sync).await {
                Ok(number) => frame.number = Some(number),
                Err(error) => self.journal_failed(&error),
            }
        }
        self.admit(frame);
    }

    fn journal_is_dead(&self) -> bool {
        self.options.journal.as_ref().is_some_and(|shared| shared.journal().synced().borrow().dead)
    }

    /// Tells whether the journal is left out for now: once a frame could not be journalled, none behind it is, until
    /// all of them are stored. A replay would take the missing one for lost. So it is after damage too.
    fn journal_is_paused(&self) -> bool {
        self.ack_from == AckFrom::Store && self.at.store.is_exclusive()
    }

    /// Takes a frame among the pending ones: its batches can be read once they are published.
    pub(super) fn admit(&mut self, mut frame: PendingFrame) {
        for batch in frame.batches.iter().filter(|batch| batch.count > 0) {
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
            self.wake(&topics);
        }
        self.pending.push(frame);
        self.schedule_flush();
    }

    /// Leaves the journal out until everything before is stored.
    pub(super) fn pause_journal(&mut self) {
        if self.ack_from == AckFrom::Journal {
            self.ack_from = AckFrom::Store;
        }
    }

    /// Goes on without a journal, dead or full: the store acknowledges from now on.
    fn journal_failed(&mut self, error: &dyn std::fmt::Display) {
        if self.ack_from == AckFrom::Journal {
            self.pause_journal();
            tracing::error!(shard.id = %self.at.shard, error = %error, "journal failed; the store acknowledges now");
            self.flush_due = None;
            self.schedule_flush();
        }
    }

    fn journal_moved(&mut self, progress: Progress) {
        if progress.dead {
            self.journal_failed(&"dead");
        }
        let exclusive = self.at.store.is_exclusive();
        let mut topics = Vec::new();
        for frame in self.pending.synced(progress.below) {
            if exclusive {
                frame.publish(&mut topics);
                frame.acknowledge(Durability::Object);
            } else {
                frame.acknowledge(Durability::Local);
            }
        }
        self.wake(&topics);
    }

    fn wake(&self, topics: &[TopicId]) {
        for topic in topics {
            self.options.signals.raise(*topic);
        }
    }

    /// Behind a journal, and in memory, objects are flushed late; where the store acknowledges, on the leading edge
    /// and then once per linger.
    fn schedule_flush(&mut self) {
        if self.flush_due.is_some() || !self.pending.has_unfrozen() {
            return;
        }
        let now = Instant::now();
        self.flush_due = Some(match (self.ack_from, self.flush_started) {
            (AckFrom::Store, Some(started)) => {
                now.max(started + self.options.flush_linger.min(limits::FLUSH_LINGER))
            }
            (AckFrom::Store, None) => now,
            (AckFrom::Journal | AckFrom::Memory, _) => now + self.options.flush_linger,
        });
    }

    fn freeze_what_is_due(&mut self, all: bool) {
        let asked = all || !self.flushes.is_empty();
        loop {
            let due = asked
                || self.pending.unfrozen_bytes() >= limits::WAL_OBJECT_BYTES_MAX
                || self.flush_due.is_some_and(|due| due <= Instant::now());
            if !due || !self.pending.has_unfrozen() || !self.freeze() {
                break;
            }
        }
        if !self.pending.has_unfrozen() {
            self.flush_due = None;
        }
        let stored = self.pending.stored_count();
        for (_, done) in self.flushes.extract_if(.., |(target, _)| *target <= stored) {
            // Whoever asked may have gone.
            let _ = done.send(());
        }
    }

    /// Freezes the oldest pending frames into one object and sends it off, if the window allows.
    pub(super) fn freeze(&mut self) -> bool {
        let Some(seq) = self.writer.may_freeze() else { return false };
        let frames = self.pending.freeze(seq, limits::WAL_OBJECT_BYTES_MAX);
        let with_records = frames.iter().filter(|frame| frame.size_bytes > 0);
        let numbers: Vec<FrameNumber> = with_records.filter_map(|frame| frame.number).collect();
        let object = pending::object(
            ObjectIdentity {
                kind: ObjectKind::Data,
                jump: frames.first().is_some_and(|frame| frame.jump),
                cluster: self.at.cluster,
                shard: self.at.shard,
                epoch: self.epoch,
                seq,
                last_seq: seq,
                nonce: self.nonce,
                append_time: frames.last().map_or(self.append_time, |frame| frame.append_time),
            },
            &frames,
        );
        self.writer.freeze(object.header.clone());
        if let (Some(shared), Some(first), Some(last)) =
            (&self.options.journal, numbers.first(), numbers.last())
        {
            let (shard, nonce, first, last) = (self.at.shard, self.nonce, *first, *last);
            shared.mark(Frame::Frozen { shard, nonce, seq, first, last });
        }
        self.flush_started = Some(Instant::now());
        self.flush_due = None;
        self.frozen.insert(seq, Frozen { object, pause: Duration::ZERO });
        self.put(seq);
        self.schedule_flush();
        true
    }

    fn put(&mut self, seq: WalSeq) {
        let Some(frozen) = self.frozen.get(&seq) else { return };
        let (parts, pause): (Vec<Bytes>, Duration) = (frozen.object.parts.clone(), frozen.pause);
        self.uploads.push(Box::pin(upload::put(self.at.clone(), seq, parts, pause)));
    }

    pub(super) fn step_done(&mut self, step: Step) {
        let Step { seq, found } = step;
        let next = match found {
            Found::Put(answer) => self.writer.put_answered(seq, answer),
            Found::Header(header) => self.writer.read_back(seq, header.as_ref()),
            Found::Stranger => self.writer.stranger(seq),
            Found::Floor(floor) => {
                self.writer.fence(seq, floor);
                Next::Stop
            }
        };
        match next {
            Next::Resolved => self.settle_resolved(),
            Next::PutAgain => {
                if let Some(frozen) = self.frozen.get_mut(&seq) {
                    frozen.pause = next_pause(frozen.pause.max(limits::PUT_BACKOFF_MIN / 2));
                }
                self.put(seq);
            }
            Next::ReadBack => self.uploads.push(Box::pin(upload::read_back(self.at.clone(), seq))),
            Next::ReadFloor => self.uploads.push(Box::pin(upload::read_floor(self.at.clone(), seq))),
            Next::Stop => self.end(),
        }
    }

    fn end(&mut self) {
        let Some(ended) = self.writer.ended() else { return };
        tracing::error!(shard.id = %self.at.shard, epoch = %self.epoch, ended = ?ended, "leadership ended");
        let not_stored_from = match ended {
            Ended::Fenced { not_stored_from } => not_stored_from,
            Ended::Impossible { .. } => None,
        };
        let unneeded = self.pending.fail_all(not_stored_from);
        self.release(&unneeded);
    }

    /// Tells the journal that frames are not needed any more.
    pub(super) fn release(&self, numbers: &[FrameNumber]) {
        if let Some(shared) = &self.options.journal {
            shared.stored(numbers);
        }
    }

    /// Acknowledges and settles what the contiguous resolved prefix now covers.
    fn settle_resolved(&mut self) {
        let below = self.writer.resolved_below();
        let mut topics = Vec::new();
        let mut numbers = Vec::new();
        for mut frame in self.pending.stored(below) {
            frame.publish(&mut topics);
            frame.acknowledge(Durability::Object);
            numbers.extend(frame.number);
            for batch in frame.batches {
                self.tail_bytes += batch.bytes.len();
                self.tail.push_back((batch.log, batch.end, batch.bytes.len()));
            }
        }
        self.wake(&topics);
        // Only now, so that no extent ever reaches above a high watermark.
        while let Some(entry) = self.frozen.first_entry().filter(|entry| *entry.key() < below) {
            let (seq, frozen) = entry.remove_entry();
            self.index.add_object(&frozen.object.header, &frozen.object.footer);
            if let Some(shared) = &self.options.journal {
                let (shard, nonce, outcome) = (self.at.shard, self.nonce, Settlement::Stored);
                shared.mark(Frame::Settled { shard, nonce, seq, outcome });
            }
        }
        self.release(&numbers);
        if self.journal_is_paused() && self.pending.is_empty() && !self.journal_is_dead() {
            self.ack_from = AckFrom::Journal;
            tracing::info!(shard.id = %self.at.shard, "journal acknowledges again");
        }
        while self.tail_bytes > limits::SHARD_TAIL_BYTES_MAX {
            let Some((log, end, size)) = self.tail.pop_front() else { break };
            log.evict_below(end);
            self.tail_bytes -= size;
        }
    }

    /// Does what was asked; tells whether the shard stays open. Without a handle left nobody can ask.
    async fn command(&mut self, command: Option<Command>) -> bool {
        // Whoever asked may have gone; the work is done all the same.
        match command {
            Some(Command::Recover { replayed, done }) => {
                let _ = done.send(self.recover(*replayed).await);
            }
            Some(Command::Recovered { damaged, partitions, done }) => {
                self.recovered(damaged, &partitions);
                let _ = done.send(());
            }
            Some(Command::Flush { done }) => self.flushes.push((self.pending.pushed(), done)),
            Some(Command::Stop) | None => return false,
        }
        true
    }
}

/// Waits for news of the journal; for ever without one.
async fn changed(progress: &mut Option<watch::Receiver<Progress>>) -> Progress {
    if let Some(receiver) = progress {
        if receiver.changed().await.is_ok() {
            return *receiver.borrow_and_update();
        }
        *progress = None;
    }
    std::future::pending().await
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
