//! Follows a shard's log without leading it: a [`Follower`] runs a [`Reader`] against the store, a [`Following`] feeds an
//! index with what it finds, and with what the shard's leader offers.
//!
//! An offered object is taken where it fits the reader's position (see [`Reader::offer`]); otherwise the store is walked
//! until it does. Both ways give the same log, for a leader offers only what is in it.

use std::collections::HashSet;
use std::sync::Arc;

use crate::error::ErrorKind;
use crate::format::manifest::Manifest;
use crate::format::wal_object::Footer;
use crate::model::{TopicId, WalSeq};
use crate::shard::ahead::ReadAhead;
use crate::shard::feed::StoredObject;
use crate::shard::fetch::ShardIndex;
use crate::shard::open::{OpenError, ShardStore};
use crate::shard::reader::{Answer, Ask, Reader, ReaderError};
use crate::shard::signal::Signals;
use crate::shard::taker::PathObject;
use crate::shard::walk::PathFault;

/// Why a follower stopped.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// An object could not be read. A retry goes on at the same place.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The log is not what its writers write. The follower is of no use any more.
    #[error(transparent)]
    Reader(#[from] ReaderError),
}

impl FollowError {
    /// Returns the class of the error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Open(error) => error.kind(),
            Self::Reader(ReaderError::Path(_)) => ErrorKind::Corrupt,
            Self::Reader(ReaderError::Answer) => ErrorKind::Internal,
        }
    }
}

impl From<PathFault> for FollowError {
    fn from(fault: PathFault) -> Self {
        Self::Reader(fault.into())
    }
}

/// What a follower comes upon.
#[derive(Debug)]
pub enum Followed {
    /// Begin anew: everything below this manifest's floor is in the rolled objects and the snapshot it names.
    Restart(Box<Manifest>),
    /// The next DATA object.
    Data(Box<PathObject>),
    /// Nothing stands at this number yet.
    Tail(WalSeq),
}

/// Follows one shard's log.
#[derive(Debug)]
pub struct Follower {
    at: ShardStore,
    reader: Reader,
    ask: Option<Ask>,
    ahead: ReadAhead,
    /// The manifest that was read last.
    manifest: Option<Manifest>,
}

impl Follower {
    /// Begins at the floor of the shard's manifest.
    pub fn new(at: ShardStore) -> Self {
        let (reader, ask) = Reader::new();
        Self { ahead: ReadAhead::new(at.clone()), at, reader, ask: Some(ask), manifest: None }
    }

    /// Begins where a reader stands.
    fn on(at: ShardStore, reader: Reader) -> Self {
        Self { ahead: ReadAhead::new(at.clone()), at, reader, ask: None, manifest: None }
    }

    /// Returns what comes next. At the tail the caller waits for news as it likes, and calls again.
    ///
    /// # Errors
    /// [`FollowError`]; after [`FollowError::Open`] the same call may be made again.
    ///
    /// # Cancel safety
    /// A call that was dropped may be made again.
    ///
    /// # Cost
    /// As [`ShardStore::wal_object`], and a GET of the manifest at an EPOCH and at the tail. Behind DATA up to
    /// [`limits::READ_AHEAD_MAX`](crate::limits::READ_AHEAD_MAX) objects are read ahead.
    pub async fn next(&mut self) -> Result<Followed, FollowError> {
        loop {
            let ask = self.ask.take().unwrap_or_else(|| self.reader.go_on());
            let answer = match ask {
                Ask::Restart(manifest) => return Ok(Followed::Restart(manifest)),
                Ask::Deliver(object) => return Ok(Followed::Data(object)),
                Ask::Wait(seq) => return Ok(Followed::Tail(seq)),
                Ask::Manifest => {
                    self.ask = Some(Ask::Manifest);
                    self.ahead.forget();
                    self.manifest = self.at.manifest().await?.map(|(manifest, _)| manifest);
                    Answer::Manifest(self.manifest.clone())
                }
                Ask::Object(seq) => {
                    self.ask = Some(Ask::Object(seq));
                    Answer::Object(self.ahead.object(seq).await?.map(Box::new))
                }
            };
            self.ask = Some(self.reader.next(answer)?);
        }
    }

    /// Takes an object that is offered by who knows that it is in the log, if it is the next one.
    fn offer(&mut self, object: &StoredObject) -> bool {
        let is_taken = self.reader.offer(object.header());
        if is_taken {
            self.ask = None;
        }
        is_taken
    }
}

/// What became of an object that was offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offered {
    /// Readers of this node see it.
    Applied,
    /// It lies below the position: nothing to do.
    Known,
    /// It does not follow on the position, perhaps because an EPOCH lies between: [`Following::catch_up`] is due.
    Gap,
}

/// Feeds an index with a log that another node leads.
#[derive(Debug)]
pub struct Following {
    follower: Follower,
    index: Arc<ShardIndex>,
    signals: Signals,
}

impl Following {
    /// Goes on where the index stands: at the floor when it is new, else where an earlier following or leadership of this
    /// node got to.
    pub fn new(at: ShardStore, index: Arc<ShardIndex>, signals: Signals) -> Self {
        let follower = match index.path() {
            Some(walk) => Follower::on(at, Reader::on(walk)),
            None => Follower::new(at),
        };
        Self { follower, index, signals }
    }

    /// Returns the number at which it goes on; none before the shard has a manifest.
    pub fn position(&self) -> Option<WalSeq> {
        self.follower.reader.walk().map(|walk| walk.position())
    }

    /// Walks the store to the tail of the log and returns its number. Readers see each object as soon as it is found.
    /// While this node leads the shard it waits.
    ///
    /// # Errors
    /// [`FollowError`]; after [`FollowError::Open`] a retry goes on.
    ///
    /// # Cancel safety
    /// A call that was dropped may be made again.
    ///
    /// # Cost
    /// As [`Follower::next`] for each object; at the tail one GET of its number and one of the manifest, and where that is
    /// new what [`ShardIndex::adopt`] costs.
    pub async fn catch_up(&mut self) -> Result<WalSeq, FollowError> {
        let _feeding = self.index.feed_alone().await;
        loop {
            match self.follower.next().await? {
                Followed::Restart(manifest) => self.restart(&manifest).await?,
                Followed::Data(object) => self.take_in(&object)?,
                Followed::Tail(seq) => {
                    self.note_path();
                    self.take_over_manifest().await?;
                    return Ok(seq);
                }
            }
        }
    }

    fn take_in(&mut self, object: &PathObject) -> Result<(), FollowError> {
        if let Err(fault) = self.index.check_offsets(&object.header, &object.footer) {
            // A later walk must not go on behind it.
            self.follower = Follower::new(self.follower.at.clone());
            return Err(fault.into());
        }
        self.index.add_object(&object.header, &object.footer);
        self.wake(&object.footer);
        Ok(())
    }

    /// Adopts the manifest from which the walk begins anew. Without it nothing above may be shown, so that after a failure,
    /// or when it is dropped, the next walk begins with a manifest again.
    async fn restart(&mut self, manifest: &Manifest) -> Result<(), FollowError> {
        let anew = Follower::new(self.follower.at.clone());
        let walked = std::mem::replace(&mut self.follower, anew);
        self.index.adopt(manifest).await?;
        self.follower = walked;
        self.note_path();
        self.wake_all();
        Ok(())
    }

    /// Adopts the manifest that was read at the tail, if it is new: log starts that others moved, or what they rolled.
    async fn take_over_manifest(&mut self) -> Result<(), FollowError> {
        let read = self.follower.manifest.take();
        if let Some(manifest) = read.filter(|manifest| self.index.is_behind(manifest)) {
            self.index.adopt(&manifest).await?;
            self.wake_all();
        }
        Ok(())
    }

    /// Takes an object from a leader's [`Feed`](crate::shard::Feed), if it is the next one. Readers see it at once, and the
    /// batches that came with it are kept in memory.
    pub fn offer(&mut self, object: &StoredObject) -> Offered {
        let Some(position) = self.position() else { return Offered::Gap };
        if object.seq() < position {
            return Offered::Known;
        }
        let Some(_feeding) = self.index.try_feed_alone() else { return Offered::Gap };
        let continues = self.index.check_offsets(object.header(), object.footer()).is_ok();
        if !continues || !self.follower.offer(object) {
            return Offered::Gap;
        }
        self.index.add_stored(object);
        self.wake(object.footer());
        Offered::Applied
    }

    /// Looks at the root of the shard: what others rolled, and log starts that they moved, shows from now on.
    ///
    /// # Errors
    /// [`FollowError::Open`]; a retry is safe.
    ///
    /// # Cost
    /// As [`ShardIndex::refresh`].
    pub async fn refresh_manifest(&mut self) -> Result<(), FollowError> {
        if self.index.refresh().await? {
            self.wake_all();
        }
        Ok(())
    }

    fn note_path(&self) {
        if let Some(walk) = self.follower.reader.walk() {
            self.index.walked(walk.clone());
        }
    }

    fn wake(&self, footer: &Footer) {
        let topics: HashSet<TopicId> = footer.entries.iter().map(|entry| entry.partition.topic).collect();
        topics.into_iter().for_each(|topic| self.signals.raise(topic));
    }

    fn wake_all(&self) {
        self.index.topics().into_iter().for_each(|topic| self.signals.raise(topic));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::wal_object::encode_epoch;
    use crate::keys::Keys;
    use crate::limits;
    use crate::model::{ClusterId, LeaderEpoch, Nonce, ShardId, Timestamp};
    use crate::store::{Store, StoreUrl, Swap};

    #[tokio::test]
    async fn a_follower_jumps_the_gap_of_each_epoch_and_waits_at_the_tail() {
        let store = Store::open(&StoreUrl::Memory).await.unwrap();
        let (cluster, shard) = (ClusterId::new(1), ShardId::new(0));
        let at = ShardStore { store, keys: Keys::new(""), cluster, shard };
        let mut follower = Follower::new(at.clone());
        assert!(matches!(follower.next().await.unwrap(), Followed::Tail(WalSeq::ZERO)), "no manifest yet");
        let manifest = Manifest::new(cluster, shard);
        let created = at.store.swap(&at.keys.manifest(shard), None, manifest.encode().unwrap()).await;
        assert!(matches!(created, Ok(Swap::Swapped(_))));
        assert!(matches!(follower.next().await.unwrap(), Followed::Restart(found) if *found == manifest));
        for epoch in 0..2 {
            let seq = WalSeq::new(u64::from(epoch) * limits::EPOCH_GAP);
            assert!(matches!(follower.next().await.unwrap(), Followed::Tail(tail) if tail == seq));
            let (number, nonce) = (LeaderEpoch::new(epoch + 1), Nonce::new(7));
            let body = encode_epoch(cluster, shard, number, seq, nonce, Timestamp::from_millis(0));
            at.put(seq, vec![body]).await;
        }
        let tail = WalSeq::new(2 * limits::EPOCH_GAP);
        assert!(matches!(follower.next().await.unwrap(), Followed::Tail(found) if found == tail));
    }
}
