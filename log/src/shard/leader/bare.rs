//! The leader without its task: the same [`LeaderCore`] with every request handed to the caller.
//!
//! For the simulator, which owns store, disk and time. What this file adds is where readers look, an answer that can be
//! polled, and the one rule that is broken where bytes are sent.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, oneshot};

use crate::format::wal_object::WalHeader;
use crate::journal::{JournalEntry, Progress, Replayed};
use crate::model::{LeaderEpoch, Offset, Timestamp, TopicId, TopicPartition, WalSeq};
use crate::mutation::{self, Mutation};
use crate::shard::append::{Append, AppendError, Appended};
use crate::shard::frames::SharedJournal;
use crate::shard::leader::core::{AckFrom, LeaderCore, Logs, Setup};
use crate::shard::leader::spill::is_unread;
use crate::shard::leader::{Queued, RecoverError};
use crate::shard::partition::{Extent, Located, PartitionLog, Source};
use crate::shard::taker::{Leadership, PutAnswer};
use crate::shard::writer::Ended;

pub use crate::shard::leader::core::Action;

/// Where the answer to an append will be.
pub type Reply = oneshot::Receiver<Result<Appended, AppendError>>;

/// How a leader is set up.
#[derive(Debug, Clone)]
pub struct BareOptions {
    /// Whether nobody else can write the store.
    pub exclusive: bool,
    /// The node's journal.
    pub journal: Option<SharedJournal>,
    /// Longest a batch waits for its flush.
    pub flush_linger: Duration,
    /// Size at which an object is frozen.
    pub object_bytes: usize,
    /// Bytes in memory past which more are spilled.
    pub spill_bytes: usize,
}

/// One leadership.
#[derive(Debug)]
pub struct BareLeader {
    core: LeaderCore,
    journal: Option<SharedJournal>,
    logs: Arc<Memory>,
    room: Arc<Semaphore>,
}

/// All partitions, in memory.
#[derive(Debug, Default)]
struct Memory(Mutex<BTreeMap<TopicPartition, Arc<PartitionLog>>>);

impl Logs for Memory {
    fn log(&self, partition: TopicPartition) -> Arc<PartitionLog> {
        let mut logs = self.0.lock();
        Arc::clone(logs.entry(partition).or_insert_with(|| Arc::new(PartitionLog::new(partition))))
    }

    fn is_gone(&self, _: TopicId) -> bool {
        false
    }
}

impl LeaderCore {
    /// Builds the object of a number anew, with what waits besides, as no leader may.
    fn rebatch(&mut self, seq: WalSeq) -> Option<Vec<Bytes>> {
        if !self.pending.freeze_again(seq) {
            return None;
        }
        let object = self.build(seq);
        self.writer.freeze_again(object.header.clone());
        let frozen = self.frozen.get_mut(&seq)?;
        frozen.object = object;
        Some(frozen.object.parts.clone())
    }
}

impl BareLeader {
    /// Begins to lead.
    pub fn new(leadership: Leadership, options: BareOptions) -> Self {
        let BareOptions { exclusive, journal, flush_linger, object_bytes, spill_bytes } = options;
        let logs = Arc::new(Memory::default());
        let shared = journal.as_ref().filter(|_| !exclusive);
        let shard = leadership.manifest.shard;
        let leftovers =
            shared.map(|journal| journal.try_leftovers(shard).expect("a node leads a shard once at a time"));
        let setup = Setup {
            logs: Arc::clone(&logs) as Arc<dyn Logs>,
            exclusive,
            journal: journal.clone(),
            leftovers,
            flush_linger,
            object_bytes,
            recovered_bytes_max: usize::MAX,
            spill_bytes,
        };
        let room = Arc::new(Semaphore::new(Semaphore::MAX_PERMITS));
        Self { core: LeaderCore::new(leadership, setup), journal, logs, room }
    }

    /// Returns the epoch led.
    pub fn epoch(&self) -> LeaderEpoch {
        self.core.epoch
    }

    /// Returns where each partition goes on, appends on their way included.
    pub fn next_offset(&self, partition: TopicPartition) -> Offset {
        self.core.state.next_offset(partition)
    }

    /// Returns the first offset that readers of this leader do not see yet.
    pub fn high_watermark(&self, partition: TopicPartition) -> Offset {
        self.logs.log(partition).high_watermark()
    }

    /// Returns the batches below the high watermark that this leader holds in memory, from an offset on; none when
    /// they do not reach back so far.
    pub fn tail(&self, partition: TopicPartition, from: Offset) -> Option<Vec<Bytes>> {
        match self.logs.log(partition).locate(from, usize::MAX) {
            Located::Tail { batches, .. } => Some(batches),
            _ => None,
        }
    }

    /// Tells whether nothing is on its way.
    pub fn is_idle(&self) -> bool {
        !self.core.is_busy()
    }

    /// Tells whether the journal acknowledges.
    pub fn is_journalled(&self) -> bool {
        self.core.ack_from == AckFrom::Journal
    }

    /// Tells whether the leadership has ended.
    pub fn ended(&self) -> Option<Ended> {
        self.core.ended()
    }

    /// Returns what is to be done next; none until something else happens.
    pub fn next_action(&mut self) -> Option<Action> {
        let action = self.core.next_action()?;
        let broken = mutation::is(Mutation::RebatchedByNonce) || mutation::is(Mutation::RebatchedByContent);
        match action {
            Action::Put { seq, parts, pause } if broken && !pause.is_zero() => {
                let parts = self.core.rebatch(seq).unwrap_or(parts);
                Some(Action::Put { seq, parts, pause })
            }
            Action::Stored(object) => {
                // What was spilled is in no tail: only now do readers see it.
                for entry in object.footer.entries.iter().filter(|entry| entry.count > 0) {
                    let source = Source::Wal(object.header.seq);
                    self.logs.log(entry.partition).add_extent(Extent { source, entry: *entry }, || None);
                }
                Some(Action::Stored(object))
            }
            action => Some(action),
        }
    }

    /// Tells whether appends are taken: everything that was left in the journal is appended again.
    pub fn takes_appends(&self) -> bool {
        self.core.takes_appends()
    }

    /// Reads what [`Action::Load`] asked for, and takes it. False if the journal cannot be read just now.
    pub fn load(&mut self, at: Duration, entries: &[JournalEntry]) -> bool {
        let Some(loaded) = self.journal.as_ref().map(|journal| journal.read(entries)) else { return false };
        if loaded.iter().any(|loaded| loaded.as_ref().is_err_and(is_unread)) {
            return false;
        }
        self.core.loaded(at, loaded);
        true
    }

    /// Takes appends. Answers come in any order.
    pub fn append(&mut self, at: Duration, now: Timestamp, appends: Vec<Append>) -> Vec<Reply> {
        let mut replies = Vec::with_capacity(appends.len());
        let queued = appends.into_iter().map(|append| {
            let (reply, receiver) = oneshot::channel();
            replies.push(receiver);
            let room = Arc::clone(&self.room).try_acquire_owned();
            Queued {
                append,
                reply,
                repeats: Arc::default(),
                room: room.expect("the semaphore is never closed nor used up"),
            }
        });
        let queued: Vec<Queued> = queued.collect();
        let mut waiting = queued.into_iter().peekable();
        while waiting.peek().is_some() {
            let mut staged = self.core.stage(now, &mut waiting);
            let entry = match (&self.journal, staged.entry.take()) {
                (Some(shared), Some((frame, sync))) => {
                    let appended = shared.append(frame, sync).now_or_never();
                    appended.unwrap_or(Err(crate::journal::JournalError::Full)).map(Some)
                }
                _ => Ok(None),
            };
            self.core.admit(at, staged, entry);
        }
        replies
    }

    /// Returns when something is to be frozen.
    pub fn flush_at(&self) -> Option<Duration> {
        self.core.flush_at()
    }

    /// Freezes what is due; with `all`, whatever waits.
    pub fn freeze_due(&mut self, at: Duration, all: bool) {
        self.core.freeze_due(at, all);
    }

    /// Takes the answer to a PUT.
    pub fn put_answered(&mut self, seq: WalSeq, answer: PutAnswer) {
        self.core.put_answered(seq, answer);
    }

    /// Takes the header at a number, if there is an object.
    pub fn read_back(&mut self, seq: WalSeq, found: Option<&WalHeader>) {
        self.core.read_back(seq, found);
    }

    /// Takes the header at the number of a proof, if there is an object.
    pub fn proof_read(&mut self, seq: WalSeq, found: Option<&WalHeader>) {
        self.core.proof_read(seq, found);
    }

    /// Tells whether somebody waits for the journal after the end of the leadership.
    pub fn is_lingering(&self) -> bool {
        self.core.is_lingering()
    }

    /// Ends the leadership although not everything is stored.
    pub fn give_up(&mut self) {
        self.core.give_all_up();
    }

    /// Takes the floor, read after an EPOCH was seen.
    pub fn fence(&mut self, seq: WalSeq, floor: WalSeq) {
        self.core.fence(seq, floor);
    }

    /// Takes how far the journal has got.
    pub fn journal_moved(&mut self, at: Duration, progress: Progress) {
        self.core.journal_moved(at, progress);
    }

    /// Takes back a frame of the journal, at its old offsets.
    ///
    /// # Errors
    /// [`RecoverError::Contradiction`]; the node must not become ready.
    pub fn recover(&mut self, at: Duration, replayed: Replayed) -> Result<(), RecoverError> {
        self.core.recover(at, replayed)
    }

    /// Ends recovery. After damage offsets go on further up.
    pub fn recovered(&mut self, at: Duration, damaged: bool, partitions: &[TopicPartition]) {
        self.core.recovered(at, damaged, partitions);
    }
}
