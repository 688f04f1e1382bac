//! What the shards of a node share of its journal: which frames are still needed, and which appends wait for the next
//! leadership of their shard.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use crate::journal::{Frame, FrameNumber, Journal, JournalEntry, JournalError, Replay};
use crate::model::{Durability, ShardId};
use crate::mutation::{self, Mutation};
use crate::shard::leader::leftover::{Leftover, Sent};
use crate::shard::leader::spill::Loaded;

/// The leftovers of a shard, oldest first. Whoever leads the shard on this node holds them.
pub(crate) type Leftovers = OwnedMutexGuard<VecDeque<Leftover>>;

/// Leftovers that may be held by a leader.
type OfShard = Arc<AsyncMutex<VecDeque<Leftover>>>;

/// The node's journal, shared by its shards. Frames are dropped once every frame before them is stored too.
#[derive(Debug, Clone)]
pub struct SharedJournal {
    journal: Arc<Journal>,
    needed: Arc<Mutex<BTreeMap<FrameNumber, u32>>>,
    leftovers: Arc<Mutex<HashMap<ShardId, OfShard>>>,
}

impl SharedJournal {
    /// Shares a journal.
    pub fn new(journal: Journal) -> Self {
        Self { journal: Arc::new(journal), needed: Arc::default(), leftovers: Arc::default() }
    }

    /// Returns the journal itself.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Keeps what the journal held when it was opened for the leaderships to come: on a store that others may write,
    /// before any shard is opened. (On an exclusive store [`Shard::recover`](crate::shard::Shard::recover) takes it.)
    ///
    /// # Errors
    /// [`JournalError`]; the node must not lead. The journal keeps every frame.
    ///
    /// # Cost
    /// Reads the whole journal, and blocks on it: call it where blocking is allowed. Keeps in memory where each frame lies
    /// that is not settled, about 100 bytes; its batches are read again when they are appended.
    pub fn adopt(&self, replay: &mut Replay) -> Result<(), JournalError> {
        let mut found: HashMap<ShardId, VecDeque<Leftover>> = HashMap::new();
        while let Some(replayed) = replay.next()? {
            match replayed.frame {
                // What was to be stored before it is acknowledged was in the journal only to be out of memory.
                Frame::Append { level: Durability::Object, .. }
                    if !mutation::is(Mutation::ObjectAppendedAgain) => {}
                Frame::Append { shard, nonce, .. } => {
                    let leftover = Leftover { entry: replayed.entry, origin: nonce, sent: Vec::new() };
                    found.entry(shard).or_default().push_back(leftover);
                }
                Frame::Frozen { shard, nonce, seq, first, last } => {
                    let of_shard = found.get_mut(&shard).into_iter().flatten();
                    let frozen = of_shard.filter(|leftover| (first..=last).contains(&leftover.number()));
                    frozen.for_each(|leftover| leftover.sent.push(Sent { nonce, seq }));
                }
                Frame::Settled { shard, below, .. } => {
                    if let Some(of_shard) =
                        found.get_mut(&shard).filter(|_| !mutation::is(Mutation::SettledIgnored))
                    {
                        of_shard.retain(|leftover| leftover.number() >= below);
                    }
                }
            }
        }
        let mut leftovers = self.leftovers.lock();
        for (shard, of_shard) in found {
            of_shard.iter().for_each(|leftover| self.need(leftover.number()));
            leftovers.insert(shard, Arc::new(AsyncMutex::new(of_shard)));
        }
        Ok(())
    }

    /// Tells whether appends wait in the journal for this node to lead the shard again. False while it leads.
    pub fn has_leftovers(&self, shard: ShardId) -> bool {
        self.leftovers_of(shard).try_lock().is_ok_and(|leftovers| !leftovers.is_empty())
    }

    /// Waits until no leader of the shard is left on this node, and takes what those before left.
    pub(crate) async fn leftovers(&self, shard: ShardId) -> Leftovers {
        self.leftovers_of(shard).lock_owned().await
    }

    /// As [`Self::leftovers`], without waiting.
    #[cfg(feature = "test-util")]
    pub(crate) fn try_leftovers(&self, shard: ShardId) -> Option<Leftovers> {
        self.leftovers_of(shard).try_lock_owned().ok()
    }

    fn leftovers_of(&self, shard: ShardId) -> OfShard {
        Arc::clone(self.leftovers.lock().entry(shard).or_default())
    }

    /// Appends a frame that is needed until [`Self::stored`] names it. With `sync` it gets to the disk at once.
    ///
    /// # Errors
    /// As [`Journal::append`]: nothing was queued.
    pub async fn append(&self, frame: Frame, sync: bool) -> Result<JournalEntry, JournalError> {
        let reserved = self.journal.next_frame();
        self.need(reserved);
        let appended = self.journal.append(frame, sync).await;
        if let Ok(entry) = &appended {
            self.need(entry.number);
        }
        self.stored(&[reserved]);
        appended
    }

    /// Appends a mark, synced at once, which nothing needs. None when there is no room for it.
    pub(crate) fn mark(&self, frame: Frame) -> Option<FrameNumber> {
        self.journal.try_append(frame, true).ok().map(|entry| entry.number)
    }

    /// Reads frames back, each with an error of its own: of those a retry may mend [`JournalError::Io`]. Blocks on the
    /// disk.
    pub(crate) fn read(&self, entries: &[JournalEntry]) -> Loaded {
        entries.iter().map(|entry| self.journal.read(entry)).collect()
    }

    /// Notes a frame found at the start of the node, which is needed until it is stored.
    pub fn need(&self, number: FrameNumber) {
        *self.needed.lock().entry(number).or_insert(0) += 1;
    }

    /// Notes that frames are stored.
    pub fn stored(&self, numbers: &[FrameNumber]) {
        let mut needed = self.needed.lock();
        for number in numbers {
            if let Some(count) = needed.get_mut(number) {
                *count -= 1;
                if *count == 0 {
                    needed.remove(number);
                }
            }
        }
        let low = needed.keys().next().copied().unwrap_or_else(|| self.journal.next_frame());
        self.journal.release_below(low);
    }

    /// Syncs and closes the journal once the shards that shared it have ended. Tells whether it was left empty and
    /// whole: false when it is dead or still shared.
    pub async fn close(self) -> bool {
        match Arc::into_inner(self.journal) {
            Some(journal) => journal.close().await.is_ok(),
            None => false,
        }
    }
}
