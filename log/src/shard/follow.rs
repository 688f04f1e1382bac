//! Runs a [`Reader`] against the store: follows a shard's log without leading it.

use crate::error::ErrorKind;
use crate::format::manifest::Manifest;
use crate::model::WalSeq;
use crate::shard::open::{OpenError, ShardStore};
use crate::shard::reader::{Answer, Ask, Reader, ReaderError};
use crate::shard::taker::PathObject;

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
}

impl Follower {
    /// Begins at the floor of the shard's manifest.
    pub fn new(at: ShardStore) -> Self {
        let (reader, ask) = Reader::new();
        Self { at, reader, ask: Some(ask) }
    }

    /// Returns what comes next. At the tail the caller waits for news as it likes, and calls again.
    ///
    /// # Errors
    /// [`FollowError`]; after [`FollowError::Open`] the same call may be made again.
    ///
    /// # Cost
    /// As [`ShardStore::wal_object`], and a GET of the manifest at an EPOCH and at the tail.
    pub async fn next(&mut self) -> Result<Followed, FollowError> {
        let mut ask = self.ask.take().unwrap_or_else(|| self.reader.go_on());
        loop {
            let answer = match &ask {
                Ask::Manifest => {
                    self.at.manifest().await.map(|found| Answer::Manifest(found.map(|(m, _)| m)))
                }
                Ask::Object(seq) => {
                    self.at.wal_object(*seq).await.map(|found| Answer::Object(found.map(Box::new)))
                }
                _ => break,
            };
            ask = match answer {
                Ok(answer) => self.reader.next(answer)?,
                Err(error) => {
                    self.ask = Some(ask);
                    return Err(error.into());
                }
            };
        }
        Ok(match ask {
            Ask::Restart(manifest) => Followed::Restart(manifest),
            Ask::Deliver(object) => Followed::Data(object),
            Ask::Wait(seq) => Followed::Tail(seq),
            Ask::Manifest | Ask::Object(_) => return Err(ReaderError::Answer.into()),
        })
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
