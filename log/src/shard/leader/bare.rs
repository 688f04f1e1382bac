//! A leader without a driver: the turns, pending frames, writer and recovery of [`run`](super::run), with every request
//! handed to the caller.
//!
//! For the simulator, which owns store, disk and time. Everything that decides is the code that the real leader runs;
//! what this file adds is the wiring that `run` does between its channels and futures.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use tokio::sync::{Semaphore, oneshot};

use crate::format::wal_object::{EncodedObject, ObjectIdentity, ObjectKind, WalHeader};
use crate::journal::{Frame, FrameNumber, Progress, Replayed, Settlement};
use crate::limits;
use crate::model::{
    ClusterId, Durability, LeaderEpoch, Nonce, Offset, ShardId, Timestamp, TopicPartition, WalSeq,
};
use crate::mutation::{self, Mutation};
use crate::shard::append::{Append, AppendError, Appended};
use crate::shard::frames::SharedJournal;
use crate::shard::leader::pending::{self, PendingFrame, PendingFrames, PlacedBatch};
use crate::shard::leader::recover::{Standing, standing};
use crate::shard::leader::run::{AckFrom, REPLAY};
use crate::shard::leader::turn::{Judged, Turn};
use crate::shard::leader::{Queued, RecoverError};
use crate::shard::partition::{Located, PartitionLog, TailBatch};
use crate::shard::state::ShardState;
use crate::shard::taker::{Leadership, PutAnswer};
use crate::shard::writer::{Ended, Next, Writer};

/// Where the answer to an append will be.
pub type Reply = oneshot::Receiver<Result<Appended, AppendError>>;

/// What the caller is to do about an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Todo {
    /// Nothing.
    Nothing,
    /// PUT these bytes, create-only, after a pause.
    Put(WalSeq, Bytes),
    /// Read the header at this number.
    ReadBack(WalSeq),
    /// Read the floor; an EPOCH stands at this number.
    ReadFloor(WalSeq),
    /// The leadership has ended; everybody who waited was answered.
    Ended(Ended),
}

/// One leadership.
#[derive(Debug)]
pub struct BareLeader {
    cluster: ClusterId,
    shard: ShardId,
    epoch: LeaderEpoch,
    nonce: Nonce,
    state: ShardState,
    append_time: Timestamp,
    pending: PendingFrames,
    writer: Writer,
    ack_from: AckFrom,
    journal: Option<SharedJournal>,
    frozen: BTreeMap<WalSeq, Bytes>,
    logs: BTreeMap<TopicPartition, Arc<PartitionLog>>,
    room: Arc<Semaphore>,
    gap_found: bool,
}

impl BareLeader {
    /// Begins to lead. With a journal the store is exclusive, and the journal acknowledges.
    pub fn new(leadership: Leadership, journal: Option<SharedJournal>) -> Self {
        if let Some(shared) = &journal {
            shared.need(REPLAY);
        }
        let Leadership { epoch, nonce, first_seq, span, state, manifest, append_time, .. } = leadership;
        let mut leader = Self {
            cluster: manifest.cluster,
            shard: manifest.shard,
            epoch,
            nonce,
            state,
            append_time,
            pending: PendingFrames::default(),
            writer: Writer::new(first_seq, span),
            ack_from: if journal.is_some() { AckFrom::Journal } else { AckFrom::Store },
            journal,
            frozen: BTreeMap::new(),
            logs: BTreeMap::new(),
            room: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)),
            gap_found: false,
        };
        let ends: Vec<_> = leader.state.partitions().map(|end| (end.partition, end.next_offset)).collect();
        for (partition, end) in ends {
            leader.log(partition).publish(end);
        }
        leader
    }

    /// Returns the epoch led.
    pub fn epoch(&self) -> LeaderEpoch {
        self.epoch
    }

    /// Returns where each partition goes on, appends on their way included.
    pub fn next_offset(&self, partition: TopicPartition) -> Offset {
        self.state.next_offset(partition)
    }

    /// Returns the first offset that readers of this leader do not see yet.
    pub fn high_watermark(&self, partition: TopicPartition) -> Offset {
        self.logs.get(&partition).map_or(Offset::ZERO, |log| log.high_watermark())
    }

    /// Returns the batches below the high watermark that this leader holds in memory, from an offset on; none when
    /// they do not reach back so far.
    pub fn tail(&self, partition: TopicPartition, from: Offset) -> Option<Vec<Bytes>> {
        match self.logs.get(&partition)?.locate(from, usize::MAX) {
            Located::Tail { batches, .. } => Some(batches),
            _ => None,
        }
    }

    /// Tells whether everything is stored.
    pub fn is_idle(&self) -> bool {
        self.pending.is_empty()
    }

    /// Tells whether the journal acknowledges.
    pub fn is_journalled(&self) -> bool {
        self.ack_from == AckFrom::Journal
    }

    /// Tells whether the leadership has ended.
    pub fn ended(&self) -> Option<Ended> {
        self.writer.ended()
    }

    /// Takes appends in one turn.
    pub fn append(&mut self, now: Timestamp, appends: Vec<Append>) -> Vec<Reply> {
        for batch in appends.iter().flat_map(|append| &append.batches) {
            self.log(batch.partition);
        }
        let append_time = self.append_time.max(now);
        self.state.dedupe_mut().expire(append_time);
        let mut turn = Turn::new(&mut self.state, append_time);
        let mut replies = Vec::with_capacity(appends.len());
        let mut duplicates = Vec::new();
        for append in appends {
            let (reply, receiver) = oneshot::channel();
            replies.push(receiver);
            let room = Arc::clone(&self.room).try_acquire_owned();
            let room = room.expect("the semaphore is never closed nor used up");
            if let Judged::Duplicate(waiter) =
                turn.take(Queued { append, reply, repeats: Arc::default(), room })
            {
                duplicates.push(waiter);
            }
        }
        if !turn.is_empty() {
            let logs = &self.logs;
            let mut frame = turn.finish(self.epoch, |partition| Arc::clone(&logs[&partition]));
            self.append_time = append_time;
            if let Some(shared) = self.journal.clone().filter(|_| self.ack_from == AckFrom::Journal) {
                let appended = shared.append(frame.to_journal(self.shard, self.nonce), true);
                match appended.now_or_never() {
                    Some(Ok(number)) => frame.number = Some(number),
                    _ => self.ack_from = AckFrom::Store,
                }
            }
            self.admit(frame);
        }
        duplicates.into_iter().for_each(|waiter| self.pending.attach(waiter));
        replies
    }

    /// Freezes the oldest pending frames, up to about `max_bytes`, into one object to PUT; none while the window is
    /// full or nothing waits.
    pub fn freeze(&mut self, max_bytes: usize) -> Option<(WalSeq, Bytes)> {
        let seq = self.writer.may_freeze().filter(|_| self.pending.has_unfrozen())?;
        let identity = self.identity(seq);
        let frames = self.pending.freeze(seq, max_bytes);
        let with_records = frames.iter().filter(|frame| frame.size_bytes > 0);
        let numbers: Vec<FrameNumber> = with_records.filter_map(|frame| frame.number).collect();
        let object = object(identity, &frames);
        if let (Some(shared), Some(first), Some(last)) = (&self.journal, numbers.first(), numbers.last()) {
            let (shard, nonce, first, last) = (self.shard, self.nonce, *first, *last);
            shared.mark(Frame::Frozen { shard, nonce, seq, first, last });
        }
        self.writer.freeze(object.header.clone());
        Some((seq, self.keep(object)))
    }

    /// Takes the answer to a PUT.
    pub fn put_answered(&mut self, seq: WalSeq, answer: PutAnswer) -> Todo {
        let next = self.writer.put_answered(seq, answer);
        self.do_next(seq, next)
    }

    /// Takes the header at a number, if there is an object.
    pub fn read_back(&mut self, seq: WalSeq, found: Option<&WalHeader>) -> Todo {
        let next = self.writer.read_back(seq, found);
        self.do_next(seq, next)
    }

    /// Takes the floor, read after an EPOCH was seen.
    pub fn fence(&mut self, seq: WalSeq, floor: WalSeq) -> Todo {
        self.writer.fence(seq, floor);
        self.do_next(seq, Next::Stop)
    }

    /// Takes how far the journal has got.
    pub fn journal_moved(&mut self, progress: Progress) {
        if progress.dead {
            self.ack_from = AckFrom::Store;
        }
        let mut topics = Vec::new();
        for frame in self.pending.synced(progress.below) {
            frame.publish(&mut topics);
            frame.acknowledge(Durability::Object);
        }
    }

    /// Takes back a frame of the journal, at its old offsets.
    ///
    /// # Errors
    /// [`RecoverError::Contradiction`]; the node must not become ready.
    pub fn recover(&mut self, replayed: Replayed) -> Result<(), RecoverError> {
        let Replayed { number, frame, .. } = replayed;
        let Frame::Append { append_time, batches, .. } = frame else { return Ok(()) };
        let standing = standing(&self.state, &batches)?;
        if standing == Standing::Stored {
            return Ok(());
        }
        let jump = standing == Standing::BehindGap;
        self.gap_found |= jump;
        self.append_time = self.append_time.max(append_time);
        let mut placed = Vec::with_capacity(batches.len());
        for batch in batches {
            let end = batch.base_offset.plus(u64::from(batch.count));
            self.state.advance(batch.partition, end, batch.max_timestamp);
            for entry in &batch.dedupe {
                self.state.dedupe_mut().insert(batch.partition, *entry);
            }
            placed.push(PlacedBatch {
                log: self.log(batch.partition),
                base: batch.base_offset,
                end,
                count: batch.count,
                max_timestamp: batch.max_timestamp,
                bytes: batch.bytes,
                dedupe: batch.dedupe,
            });
        }
        if let Some(shared) = &self.journal {
            shared.need(number);
        }
        self.admit_recovered(placed, Some(number), jump);
        Ok(())
    }

    /// Ends recovery. After damage offsets go on further up.
    pub fn recovered(&mut self, damaged: bool, partitions: &[TopicPartition]) {
        if !damaged && !self.gap_found {
            return self.release(&[REPLAY]);
        }
        let mut all: Vec<TopicPartition> = self.state.partitions().map(|end| end.partition).collect();
        all.extend_from_slice(partitions);
        all.sort_unstable();
        all.dedup();
        let mut placed = Vec::with_capacity(all.len());
        for partition in all {
            let base = self.state.next_offset(partition).plus(limits::OFFSET_JUMP);
            self.state.advance(partition, base, Timestamp::MIN);
            placed.push(PlacedBatch {
                log: self.log(partition),
                base,
                end: base,
                count: 0,
                max_timestamp: Timestamp::MIN,
                bytes: Bytes::new(),
                dedupe: Vec::new(),
            });
        }
        if placed.is_empty() {
            self.release(&[REPLAY]);
        } else {
            if !mutation::is(Mutation::AckBeforeJump) {
                self.ack_from = AckFrom::Store;
            }
            self.admit_recovered(placed, Some(REPLAY), true);
        }
    }

    fn release(&self, numbers: &[FrameNumber]) {
        if let Some(shared) = &self.journal {
            shared.stored(numbers);
        }
    }

    fn admit_recovered(&mut self, batches: Vec<PlacedBatch>, number: Option<FrameNumber>, jump: bool) {
        let ends: Vec<_> = batches.iter().map(|batch| (batch.log.clone(), batch.end)).collect();
        let size_bytes = batches.iter().map(|batch| batch.bytes.len()).sum();
        self.admit(PendingFrame {
            number,
            append_time: self.append_time,
            batches,
            waiters: Vec::new(),
            size_bytes,
            frozen: None,
            published: true,
            jump,
            reached: Some(Durability::Object),
            _room: None,
        });
        ends.into_iter().for_each(|(log, end)| log.publish(end));
    }

    fn admit(&mut self, frame: PendingFrame) {
        for batch in frame.batches.iter().filter(|batch| batch.count > 0) {
            batch.log.push(TailBatch {
                base: batch.base,
                end: batch.end,
                max_timestamp: batch.max_timestamp,
                bytes: batch.bytes.clone(),
            });
        }
        self.pending.push(frame);
    }

    fn do_next(&mut self, seq: WalSeq, next: Next) -> Todo {
        match next {
            Next::Resolved => {
                self.settle();
                Todo::Nothing
            }
            Next::PutAgain => self.put_again(seq),
            Next::ReadBack => Todo::ReadBack(seq),
            Next::ReadFloor => Todo::ReadFloor(seq),
            Next::Stop => {
                let Some(ended) = self.writer.ended() else { return Todo::Nothing };
                let not_stored_from = match ended {
                    Ended::Fenced { not_stored_from } => not_stored_from,
                    Ended::Impossible { .. } => None,
                };
                let unneeded = self.pending.fail_all(not_stored_from);
                self.release(&unneeded);
                Todo::Ended(ended)
            }
        }
    }

    /// The same bytes at the same number, unless that very rule is broken.
    fn put_again(&mut self, seq: WalSeq) -> Todo {
        let broken = mutation::is(Mutation::RebatchedByNonce) || mutation::is(Mutation::RebatchedByContent);
        let identity = self.identity(seq);
        let rebatched = if broken { self.pending.freeze_again(seq) } else { None };
        if let Some(frames) = rebatched {
            let object = object(identity, &frames);
            self.writer.freeze_again(object.header.clone());
            return Todo::Put(seq, self.keep(object));
        }
        self.frozen.get(&seq).map_or(Todo::Nothing, |bytes| Todo::Put(seq, bytes.clone()))
    }

    fn settle(&mut self) {
        let below = self.writer.resolved_below();
        let (mut topics, mut numbers) = (Vec::new(), Vec::new());
        for mut frame in self.pending.stored(below) {
            frame.publish(&mut topics);
            frame.acknowledge(Durability::Object);
            numbers.extend(frame.number);
        }
        let kept = self.frozen.split_off(&below);
        let stored = std::mem::replace(&mut self.frozen, kept);
        let Some(shared) = &self.journal else { return };
        for seq in stored.into_keys() {
            let (shard, nonce, outcome) = (self.shard, self.nonce, Settlement::Stored);
            shared.mark(Frame::Settled { shard, nonce, seq, outcome });
        }
        shared.stored(&numbers);
        // Once a frame could not be journalled none behind it is, until all of them are stored.
        if self.pending.is_empty() && !shared.journal().synced().borrow().dead {
            self.ack_from = AckFrom::Journal;
        }
    }

    fn identity(&self, seq: WalSeq) -> ObjectIdentity {
        ObjectIdentity {
            kind: ObjectKind::Data,
            jump: false,
            cluster: self.cluster,
            shard: self.shard,
            epoch: self.epoch,
            seq,
            last_seq: seq,
            nonce: self.nonce,
            append_time: self.append_time,
        }
    }

    fn keep(&mut self, object: EncodedObject) -> Bytes {
        let bytes: Bytes = object.parts.concat().into();
        self.frozen.insert(object.header.seq, bytes.clone());
        bytes
    }

    fn log(&mut self, partition: TopicPartition) -> Arc<PartitionLog> {
        let log = self.logs.entry(partition).or_insert_with(|| Arc::new(PartitionLog::new(partition)));
        Arc::clone(log)
    }
}

fn object(mut identity: ObjectIdentity, frames: &[&PendingFrame]) -> EncodedObject {
    identity.jump = frames.first().is_some_and(|frame| frame.jump);
    identity.append_time = frames.last().map_or(identity.append_time, |frame| frame.append_time);
    pending::object(identity, frames)
}
