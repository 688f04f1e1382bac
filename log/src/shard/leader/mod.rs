//! Leading a shard: one task per shard that assigns offsets, journals, flushes and acknowledges, in this order.
//!
//! On an *exclusive* store (a folder locked by this process, or memory) nobody can take over and the journal is
//! exactly as durable as an object: appends are acknowledged after the journal's group commit and WAL objects are
//! flushed behind. On a shared store `object` appends are acknowledged once their WAL object and all before it are
//! in the bucket, and `local` ones once the journal has them: what a leadership leaves there is appended again by the
//! next one on this node.
//!
//! What decides is pure: `core` with `objects` (WAL objects) and `recover` (the start), over `turn` (offsets), `pending`
//! (frames on their way), `flush` (when), `refusals` (what others could contradict), `marks`, `leftover` and `spill` (a journal
//! on a shared store). `run` is the task around it, `bare` what the simulator puts there instead.

#[cfg(feature = "test-util")]
pub mod bare;
mod core;
mod flush;
pub(crate) mod leftover;
mod marks;
mod objects;
mod pending;
mod recover;
mod refusals;
mod run;
pub(crate) mod spill;
#[cfg(test)]
mod tests;
mod turn;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::clock::Clock;
use crate::error::Outcome;
use crate::format::manifest::Manifest;
use crate::journal::Replayed;
use crate::limits;
use crate::model::{LeaderEpoch, ShardId, TopicPartition, WalSeq};
use crate::shard::append::{Append, AppendError, Appended};
use crate::shard::feed::Feed;
use crate::shard::fetch::ShardIndex;
use crate::shard::frames::SharedJournal;
use crate::shard::leader::run::Led;
use crate::shard::open::{OpenError, ShardStore};
use crate::shard::signal::Signals;
use crate::shard::walk::Walk;

/// Bytes that one permit of the admission semaphore stands for: no more than what is known of an append that is in the
/// journal alone.
const PERMIT_BYTES: usize = 256;
/// Permits that an append takes beside those for its batches.
const APPEND_PERMITS: usize = 4;
/// Permits that whoever waits keeps where the append itself takes no room: it was refused, or repeats another.
const WAITER_PERMITS: usize = 2;

/// What a leader works with.
#[derive(Debug, Clone)]
pub struct LeaderOptions {
    /// Stamps WAL objects.
    pub clock: Arc<dyn Clock>,
    /// The node's journal. Without one appends are acknowledged by a shared store, and at once on an exclusive one: right
    /// only where nothing outlives the process, as in memory.
    ///
    /// On an exclusive store all shards that share it are opened before it is replayed into them, and it releases nothing
    /// before each of them was told that it is [recovered](Shard::recovered). On a shared one it
    /// [adopts](SharedJournal::adopt) what it held before any shard is opened, and hands it to each that is.
    pub journal: Option<SharedJournal>,
    /// Wakes readers.
    pub signals: Signals,
    /// Longest a batch waits for its flush behind the journal; at most [`limits::FLUSH_LINGER`] of it where the store
    /// acknowledges.
    pub flush_linger: Duration,
    /// Bytes accepted, not yet in the store, and in memory. Past it appends are refused. By default
    /// [`limits::SHARD_UNFLUSHED_BYTES_MAX`].
    pub unflushed_bytes_max: usize,
    /// How many of them may be in memory on a store that others may write before the journal takes the place of memory. By
    /// default [`limits::SHARD_SPILL_BYTES`].
    pub spill_bytes: usize,
}

/// Why a journal frame could not be taken back.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// The journal and the log disagree about offsets that both hold.
    #[error("journal contradicts the log: partition={partition:?}")]
    Contradiction {
        /// Where.
        partition: TopicPartition,
    },
    /// Others may write the store: there [`SharedJournal::adopt`] takes the frames.
    #[error("store is shared: frames are not taken back one by one")]
    Shared,
    /// The leader is gone.
    #[error("shard has no leader here")]
    NoLeader,
}

#[derive(Debug)]
struct Queued {
    append: Append,
    reply: oneshot::Sender<Result<Appended, AppendError>>,
    /// Set when it is found to repeat an append.
    repeats: Arc<AtomicBool>,
    room: OwnedSemaphorePermit,
}

#[derive(Debug)]
enum Command {
    Recover { replayed: Box<Replayed>, done: oneshot::Sender<Result<(), RecoverError>> },
    Recovered { damaged: bool, partitions: Vec<TopicPartition>, done: oneshot::Sender<()> },
    Flush { done: oneshot::Sender<()> },
    Stop,
}

/// An append on its way.
#[derive(Debug)]
pub struct Receipt {
    answer: oneshot::Receiver<Result<Appended, AppendError>>,
    repeats: Arc<AtomicBool>,
}

/// The other end of a [`Receipt`]: whoever carries an append to a leader elsewhere brings its answer back here.
///
/// Dropped unused, it answers that the leader is gone and the outcome unknown.
#[derive(Debug)]
pub struct Completion {
    reply: oneshot::Sender<Result<Appended, AppendError>>,
}

impl Completion {
    /// Answers the append. Whoever waited for it may have gone.
    pub fn complete(self, answer: Result<Appended, AppendError>) {
        let _ = self.reply.send(answer);
    }

    /// Tells whether nobody waits for the answer any more.
    pub fn is_abandoned(&self) -> bool {
        self.reply.is_closed()
    }
}

impl Receipt {
    /// Returns a receipt for an append that others carry to its leader, and what completes it.
    pub fn elsewhere() -> (Self, Completion) {
        let (reply, answer) = oneshot::channel();
        (Self { answer, repeats: Arc::default() }, Completion { reply })
    }

    /// Waits until the append is as durable as it asks.
    ///
    /// # Errors
    /// [`AppendError`]; its outcome says whether a retry may duplicate.
    pub async fn acknowledged(self) -> Result<Appended, AppendError> {
        self.answer.await.unwrap_or(Err(AppendError::NoLeader { outcome: Outcome::Unknown }))
    }

    /// Waits as [`Self::acknowledged`] does, but no longer than this.
    ///
    /// # Errors
    /// [`AppendError`]; at the end of the wait [`AppendError::InProgress`] if it repeats an append that is still on its
    /// way, else [`AppendError::TimedOut`].
    pub async fn acknowledged_within(self, wait: Duration) -> Result<Appended, AppendError> {
        let repeats = Arc::clone(&self.repeats);
        let answer = tokio::time::timeout(wait, self.acknowledged()).await;
        answer.unwrap_or_else(|_| {
            let repeats = repeats.load(Ordering::Relaxed);
            Err(if repeats { AppendError::InProgress } else { AppendError::TimedOut })
        })
    }
}

/// Why a leadership ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It was [stopped](Shard::stop), or the last handle is gone; everything handed over is stored.
    Stopped,
    /// Another leader has begun a newer epoch.
    Fenced,
    /// Another object stands where only this leader may write: a clone, a restored snapshot of this process, or a bug.
    Impossible {
        /// Where.
        seq: WalSeq,
    },
    /// Its task was dropped or has failed.
    Died,
}

/// A shard led by this node.
#[derive(Debug, Clone)]
pub struct Shard {
    id: ShardId,
    epoch: LeaderEpoch,
    index: Arc<ShardIndex>,
    queue: mpsc::Sender<Queued>,
    commands: mpsc::Sender<Command>,
    room: Arc<Semaphore>,
    feed: Arc<Feed>,
    ending: watch::Receiver<Option<Ending>>,
    waits_since: watch::Receiver<Option<Instant>>,
    give_up: Arc<Notify>,
}

impl Shard {
    /// Takes a shard over and begins to lead it, over the index that this node's readers go by; meanwhile they see what it
    /// holds already. Appends wait until [`Self::recovered`] was called. An earlier leader of the shard on this node is
    /// waited for, and a [`Following`](crate::shard::Following) that walks the store.
    ///
    /// # Errors
    /// [`OpenError`]; a retry begins anew and is safe.
    pub async fn open(
        at: ShardStore,
        index: Arc<ShardIndex>,
        options: LeaderOptions,
        nonces: StdRng,
    ) -> Result<(Self, JoinHandle<()>), OpenError> {
        let leftovers = match options.journal.as_ref().filter(|_| !at.store.is_exclusive()) {
            Some(journal) => Some(journal.leftovers(at.shard).await),
            None => None,
        };
        let leadership = at.take_over(options.clock.now(), nonces).await?;
        let (id, epoch) = (at.shard, leadership.epoch);
        let feeding = index.feed_alone().await;
        index.adopt(&leadership.manifest).await?;
        for object in &leadership.objects {
            index.add_object(&object.header, &object.footer);
        }
        index.walked(Walk::of_leadership(&leadership));
        let feed = Arc::new(Feed::new(leadership.first_seq));
        let (queue, queued) = mpsc::channel(limits::SHARD_QUEUE_MAX);
        let (commands, commanded) = mpsc::channel(16);
        let room = Arc::new(Semaphore::new(options.unflushed_bytes_max / PERMIT_BYTES));
        let (ends, ending) = watch::channel(None);
        let (waits, waits_since) = watch::channel(None);
        let give_up = Arc::new(Notify::new());
        let led = Led {
            index: Arc::clone(&index),
            feed: Arc::clone(&feed),
            ends,
            feeding: Some(feeding),
            waits,
            oldest: None,
            give_up: Arc::clone(&give_up),
        };
        let leader = run::Leader::new(at, options, leadership, leftovers, led);
        let task = tokio::spawn(leader.run(queued, commanded));
        Ok((Self { id, epoch, index, queue, commands, room, feed, ending, waits_since, give_up }, task))
    }

    /// Returns which shard this is.
    pub fn id(&self) -> ShardId {
        self.id
    }

    /// Returns the epoch of this leadership.
    pub fn epoch(&self) -> LeaderEpoch {
        self.epoch
    }

    /// Returns what readers go by.
    pub fn index(&self) -> &Arc<ShardIndex> {
        &self.index
    }

    /// Returns what this leadership offers to nodes that follow.
    pub fn feed(&self) -> &Arc<Feed> {
        &self.feed
    }

    /// Tells whether this node still leads the shard.
    pub fn is_leading(&self) -> bool {
        self.ending.borrow().is_none()
    }

    /// Returns for how long the store has not taken the oldest object that it was sent: zero when nothing waits.
    pub fn stalled_for(&self) -> Duration {
        self.waits_since.borrow().map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Waits until the leadership has ended, and says why. From then on readers see nothing more of it, and a
    /// [`Following`](crate::shard::Following) or another leadership may feed the index. Its task may go on a little, for those
    /// who wait for the journal.
    pub async fn ended(&self) -> Ending {
        let mut ending = self.ending.clone();
        let ended = ending.wait_for(Option::is_some).await;
        ended.ok().and_then(|ended| *ended).unwrap_or(Ending::Died)
    }

    /// Hands a unit to the leader; units handed over one after the other are appended in this order.
    ///
    /// # Errors
    /// [`AppendError`]; nothing is stored. Without room for [`limits::ADMISSION_WAIT_MAX`] it is refused as
    /// overloaded.
    ///
    /// # Cancel safety
    /// Dropped before it returns, nothing is stored.
    pub async fn enqueue(&self, append: Append) -> Result<Receipt, AppendError> {
        append.check()?;
        if append.batches.iter().any(|batch| self.index.is_gone(batch.partition.topic)) {
            return Err(AppendError::TopicGone);
        }
        let permits = u32::try_from(append.size_bytes() / PERMIT_BYTES + APPEND_PERMITS).unwrap_or(u32::MAX);
        let (reply, answer) = oneshot::channel();
        let repeats = Arc::new(AtomicBool::new(false));
        let receipt = Receipt { answer, repeats: Arc::clone(&repeats) };
        let admitted = async {
            let room = Arc::clone(&self.room).acquire_many_owned(permits).await;
            let room = room.map_err(|_| AppendError::Draining)?;
            let no_leader = AppendError::NoLeader { outcome: Outcome::NotApplied };
            self.queue.send(Queued { append, reply, repeats, room }).await.map_err(|_| no_leader)
        };
        let admitted = tokio::time::timeout(limits::ADMISSION_WAIT_MAX, admitted).await;
        admitted.map_err(|_| AppendError::Overloaded)??;
        Ok(receipt)
    }

    /// Appends a unit, all or nothing, and waits until it is as durable as it asks.
    ///
    /// # Errors
    /// [`AppendError`]; its outcome says whether a retry may duplicate.
    pub async fn append(&self, append: Append) -> Result<Appended, AppendError> {
        self.enqueue(append).await?.acknowledged().await
    }

    /// Takes back a frame of the journal, in journal order, at its old offsets. Frames already stored are skipped. For
    /// exclusive stores.
    ///
    /// # Errors
    /// [`RecoverError`]; the node must not become ready. The journal keeps every frame, to try again.
    pub async fn recover(&self, replayed: Replayed) -> Result<(), RecoverError> {
        let (done, answer) = oneshot::channel();
        let command = Command::Recover { replayed: Box::new(replayed), done };
        self.commands.send(command).await.map_err(|_| RecoverError::NoLeader)?;
        answer.await.map_err(|_| RecoverError::NoLeader)?
    }

    /// Ends recovery: appends are taken from now on.
    ///
    /// On an exclusive store, after damage in synced frames all partitions go on [`limits::OFFSET_JUMP`] further, so that no
    /// lost offset is given out again: those that ever had a record, and `partitions`. On a shared store, where nothing
    /// asks for them, what earlier leaderships of this node left in the journal is appended again first, but for topics
    /// that the index was told to [forget](ShardIndex::forget).
    ///
    /// # Errors
    /// [`RecoverError::NoLeader`].
    pub async fn recovered(
        &self,
        damaged: bool,
        partitions: Vec<TopicPartition>,
    ) -> Result<(), RecoverError> {
        let (done, answer) = oneshot::channel();
        let command = Command::Recovered { damaged, partitions, done };
        self.commands.send(command).await.map_err(|_| RecoverError::NoLeader)?;
        answer.await.map_err(|_| RecoverError::NoLeader)
    }

    /// Waits until everything handed over before this call is in the store, or the leadership has ended.
    pub async fn flush(&self) {
        let (done, answer) = oneshot::channel();
        if self.commands.send(Command::Flush { done }).await.is_ok() {
            // A leader that ended has nothing left to flush.
            let _ = answer.await;
        }
    }

    /// Reads from now on below the floor what this manifest names.
    ///
    /// # Errors
    /// [`OpenError`]; a retry is safe.
    pub async fn adopt(&self, manifest: Manifest) -> Result<(), OpenError> {
        self.index.adopt(&manifest).await
    }

    /// Refuses appends from now on; those already taken are acknowledged.
    pub fn drain(&self) {
        self.room.close();
    }

    /// Ends the leadership once everything handed over is stored; the task returned by [`Self::open`] ends then.
    pub async fn stop(&self) {
        self.drain();
        // A leader that ended has nothing left to stop.
        let _ = self.commands.send(Command::Stop).await;
    }

    /// Ends the leadership at once, as a newer leader would: what the store has not confirmed is of unknown outcome, or not
    /// applied if it was not sent. Appends at `local` that are in the journal stay there, for the next leadership on this
    /// node.
    pub fn give_up(&self) {
        self.drain();
        self.give_up.notify_one();
    }
}
