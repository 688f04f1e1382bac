//! The leader's task: drives [`LeaderCore`] over channels, timers and the store. It decides nothing.

use std::sync::Arc;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::sync::{Notify, OwnedMutexGuard, mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::clock::Clock;
use crate::journal::Progress;
use crate::limits;
use crate::model::{TopicId, TopicPartition, WalSeq};
use crate::shard::feed::{Feed, StoredObject};
use crate::shard::fetch::ShardIndex;
use crate::shard::frames::{Leftovers, SharedJournal};
use crate::shard::leader::core::{Action, LeaderCore, Logs, Setup, never_staged};
use crate::shard::leader::{Command, Ending, LeaderOptions, Queued};
use crate::shard::open::ShardStore;
use crate::shard::partition::PartitionLog;
use crate::shard::signal::Signals;
use crate::shard::taker::Leadership;
use crate::shard::upload::{self, Found, Step};
use crate::shard::writer::Ended;

impl Logs for ShardIndex {
    fn log(&self, partition: TopicPartition) -> Arc<PartitionLog> {
        self.log(partition)
    }

    fn is_gone(&self, topic: TopicId) -> bool {
        self.is_gone(topic)
    }
}

/// What a leadership leaves in order, however it ends.
#[derive(Debug)]
pub(super) struct Led {
    pub(super) index: Arc<ShardIndex>,
    pub(super) feed: Arc<Feed>,
    pub(super) ends: watch::Sender<Option<Ending>>,
    /// Keeps others from adding to the index; none after the end.
    pub(super) feeding: Option<OwnedMutexGuard<()>>,
    /// Since when `oldest` has been the oldest object that waits for the store.
    pub(super) waits: watch::Sender<Option<Instant>>,
    pub(super) oldest: Option<WalSeq>,
    pub(super) give_up: Arc<Notify>,
}

impl Led {
    fn end(&mut self, ending: Ending) {
        if self.feeding.is_none() {
            return;
        }
        self.index.drop_unpublished();
        self.feed.end();
        self.feeding = None;
        self.note_oldest(None);
        self.ends.send_replace(Some(ending));
    }

    fn note_oldest(&mut self, oldest: Option<WalSeq>) {
        if self.oldest != oldest {
            self.oldest = oldest;
            self.waits.send_replace(oldest.map(|_| Instant::now()));
        }
    }
}

impl Drop for Led {
    fn drop(&mut self) {
        self.end(Ending::Died);
    }
}

/// One leadership.
#[derive(Debug)]
pub(super) struct Leader {
    at: ShardStore,
    clock: Arc<dyn Clock>,
    journal: Option<SharedJournal>,
    signals: Signals,
    led: Led,
    core: LeaderCore,
    uploads: FuturesUnordered<BoxFuture<'static, Step>>,
    flushes: Vec<(u64, oneshot::Sender<()>)>,
    begun: Instant,
}

impl Leader {
    pub(super) fn new(
        at: ShardStore,
        options: LeaderOptions,
        leadership: Leadership,
        leftovers: Option<Leftovers>,
        led: Led,
    ) -> Self {
        let LeaderOptions { clock, journal, signals, flush_linger, unflushed_bytes_max, spill_bytes } =
            options;
        let logs: Arc<dyn Logs> = Arc::clone(&led.index) as Arc<dyn Logs>;
        let setup = Setup {
            logs,
            exclusive: at.store.is_exclusive(),
            journal: journal.clone(),
            leftovers,
            flush_linger,
            object_bytes: limits::WAL_OBJECT_BYTES_MAX,
            recovered_bytes_max: unflushed_bytes_max / 2,
            spill_bytes,
        };
        let core = LeaderCore::new(leadership, setup);
        // What the takeover found is news to readers who went by what another leader had offered.
        led.index.topics().into_iter().for_each(|topic| signals.raise(topic));
        let (uploads, flushes) = (FuturesUnordered::new(), Vec::new());
        Self { at, clock, journal, signals, led, core, uploads, flushes, begun: Instant::now() }
    }

    /// Leads until the queue closes and everything is stored, or until the leadership ends.
    pub(super) async fn run(
        mut self,
        mut queue: mpsc::Receiver<Queued>,
        mut commands: mpsc::Receiver<Command>,
    ) {
        let mut taken = Vec::with_capacity(limits::SHARD_TURN_MAX);
        let mut progress = self.journal.as_ref().map(|shared| shared.journal().synced());
        let mut open = true;
        while self.core.ended().is_none() && (open || self.core.is_busy()) {
            let takes_appends = open && self.core.takes_appends();
            tokio::select! {
                synced = changed(&mut progress) => self.core.journal_moved(self.begun.elapsed(), synced),
                Some(step) = self.uploads.next(), if !self.uploads.is_empty() => self.step_done(step),
                () = self.led.give_up.notified() => self.core.give_all_up(),
                () = sleep_until(self.core.flush_at().map(|at| self.begun + at)) => {}
                command = commands.recv(), if open && self.core.takes_commands() => {
                    if takes_appends {
                        // What was handed over before the command comes before it.
                        let waiting = queue.len();
                        taken.extend(std::iter::from_fn(|| queue.try_recv().ok()).take(waiting));
                        self.turn(&mut taken).await;
                    }
                    open = self.command(command);
                }
                count = queue.recv_many(&mut taken, limits::SHARD_TURN_MAX), if takes_appends => {
                    open = count > 0;
                    self.turn(&mut taken).await;
                }
            }
            self.core.freeze_due(self.begun.elapsed(), !open || !self.flushes.is_empty());
            self.act();
            self.led.note_oldest(self.core.oldest_frozen());
        }
        self.led.end(self.core.ended().map_or(Ending::Stopped, Ending::from));
        queue.close();
        while let Ok(queued) = queue.try_recv() {
            // The caller may have gone.
            let _ = queued.reply.send(Err(never_staged()));
        }
        while self.core.is_lingering() {
            let synced = changed(&mut progress).await;
            self.core.journal_moved(self.begun.elapsed(), synced);
        }
    }

    async fn turn(&mut self, taken: &mut Vec<Queued>) {
        let mut waiting = taken.drain(..).peekable();
        while waiting.peek().is_some() {
            let mut staged = self.core.stage(self.clock.now(), &mut waiting);
            let entry = match (&self.journal, staged.entry.take()) {
                (Some(shared), Some((frame, sync))) => shared.append(frame, sync).await.map(Some),
                _ => Ok(None),
            };
            self.core.admit(self.begun.elapsed(), staged, entry);
        }
    }

    fn step_done(&mut self, Step { seq, found }: Step) {
        match found {
            Found::Put(answer) => self.core.put_answered(seq, answer),
            Found::Header(header) => self.core.read_back(seq, header.as_ref()),
            Found::Proof(header) => self.core.proof_read(seq, header.as_ref()),
            Found::Stranger => self.core.stranger(seq),
            Found::Floor(floor) => self.core.fence(seq, floor),
            Found::Loaded(loaded) => self.core.loaded(self.begun.elapsed(), loaded),
        }
    }

    /// Does what was decided.
    fn act(&mut self) {
        while let Some(action) = self.core.next_action() {
            match action {
                Action::Put { seq, parts, pause } => {
                    self.uploads.push(Box::pin(upload::put(self.at.clone(), seq, parts, pause)));
                }
                Action::ReadBack(seq) => {
                    self.uploads.push(Box::pin(upload::read_back(self.at.clone(), seq)));
                }
                Action::ReadFloor(seq) => {
                    self.uploads.push(Box::pin(upload::read_floor(self.at.clone(), seq)));
                }
                Action::Prove(seq) => self.uploads.push(Box::pin(upload::prove(self.at.clone(), seq))),
                Action::Load { seq, entries } => {
                    if let Some(journal) = self.journal.clone() {
                        self.uploads.push(Box::pin(upload::load(journal, seq, entries)));
                    }
                }
                Action::Stored(object) => {
                    let object = Arc::new(StoredObject::from(*object));
                    self.led.index.add_stored(&object);
                    self.led.feed.push(object);
                }
                Action::Wake(topic) => self.signals.raise(topic),
                Action::Ended(ended) => {
                    let epoch = self.core.epoch;
                    tracing::error!(shard.id = %self.at.shard, epoch = %epoch, ended = ?ended, "leadership ended");
                }
            }
        }
        let stored = self.core.pending.stored_count();
        for (_, done) in self.flushes.extract_if(.., |(target, _)| *target <= stored) {
            // Whoever asked may have gone.
            let _ = done.send(());
        }
    }

    /// Does what was asked; tells whether the shard stays open. Without a handle left nobody can ask.
    fn command(&mut self, command: Option<Command>) -> bool {
        let at = self.begun.elapsed();
        // Whoever asked may have gone; the work is done all the same.
        match command {
            Some(Command::Recover { replayed, done }) => {
                let _ = done.send(self.core.recover(at, *replayed));
            }
            Some(Command::Recovered { damaged, partitions, done }) => {
                self.core.recovered(at, damaged, &partitions);
                let _ = done.send(());
            }
            Some(Command::Flush { done }) => self.flushes.push((self.core.pending.pushed(), done)),
            Some(Command::Stop) | None => return false,
        }
        true
    }
}

impl From<Ended> for Ending {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::Fenced { .. } => Self::Fenced,
            Ended::Impossible { seq } => Self::Impossible { seq },
            Ended::GivenUp { .. } => Self::Died,
        }
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
