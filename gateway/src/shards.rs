//! The shards of the cluster: what readers of this node go by, whoever leads, and the way from a partition to its shard.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use forebay_log::model::{Offset, PartitionId, ShardId, Topic, TopicId, TopicPartition};
use forebay_log::shard::{
    BlockCache, FetchError, Fetched, PartitionLog, Shard, ShardIndex, ShardStore, Signals, TruncateError,
};
use futures::future::join_all;
use tokio::sync::{Semaphore, SemaphorePermit, watch};

use crate::limits;

/// One shard.
#[derive(Debug)]
pub struct ShardSlot {
    at: ShardStore,
    index: Arc<ShardIndex>,
    asked: AtomicBool,
}

impl ShardSlot {
    /// Returns a shard of which nothing is known yet. `blocks` is the node's.
    pub fn new(at: ShardStore, blocks: BlockCache) -> Self {
        let index = Arc::new(ShardIndex::new(at.clone(), blocks));
        Self { at, index, asked: AtomicBool::new(false) }
    }

    /// Returns the shard of an index that is there.
    #[cfg(test)]
    pub(crate) fn over(at: ShardStore, index: Arc<ShardIndex>) -> Self {
        Self { at, index, asked: AtomicBool::new(false) }
    }

    /// Returns which shard this is.
    pub fn id(&self) -> ShardId {
        self.at.shard
    }

    /// Returns where its objects are.
    pub fn at(&self) -> &ShardStore {
        &self.at
    }

    /// Returns what readers go by, whoever leads.
    pub fn index(&self) -> &Arc<ShardIndex> {
        &self.index
    }

    /// Tells whether somebody has read of it since the last call.
    pub fn was_asked(&self) -> bool {
        self.asked.swap(false, Ordering::Relaxed)
    }

    fn ask(&self) {
        // Most reads find it set, and leave the line of memory to all cores.
        if !self.asked.load(Ordering::Relaxed) {
            self.asked.store(true, Ordering::Relaxed);
        }
    }
}

/// The shards of the cluster, by number.
#[derive(Debug)]
pub struct Shards {
    slots: Vec<ShardSlot>,
    signals: Signals,
    fetches: Semaphore,
    truncated: watch::Sender<BTreeSet<ShardId>>,
}

/// Stored batches, with the place among all fetches from the store that they take until they are dropped.
#[derive(Debug)]
pub struct Fetch<'a> {
    /// What was found.
    pub fetched: Fetched,
    /// None for what was in memory anyway.
    _place: Option<SemaphorePermit<'a>>,
}

impl Shards {
    /// Takes shards in order of their numbers, from 0 without a gap.
    pub fn new(slots: Vec<ShardSlot>, signals: Signals) -> Self {
        let (fetches, truncated) = (Semaphore::new(limits::FETCHES_MAX), watch::Sender::default());
        Self { slots, signals, fetches, truncated }
    }

    /// Returns a shard, if the cluster has it.
    pub fn get(&self, id: ShardId) -> Option<&ShardSlot> {
        self.slots.get(usize::from(id.get()))
    }

    /// Returns the shard of a partition.
    pub fn of(&self, topic: &Topic, partition: PartitionId) -> Option<&ShardSlot> {
        self.get(topic.shard_of(partition))
    }

    /// Returns the index of a partition.
    pub fn log(&self, topic: &Topic, partition: PartitionId) -> Option<Arc<PartitionLog>> {
        let slot = self.of(topic, partition)?;
        slot.ask();
        Some(slot.index().log(topic.partition(partition)))
    }

    /// Moves log starts of a topic's partitions forward. `here` finds the leaders that are on this node.
    ///
    /// # Errors
    /// The first [`TruncateError`], once all shards are done; others may have moved theirs. A retry is safe.
    ///
    /// # Cancel safety
    /// As [`Shard::truncate`].
    ///
    /// # Cost
    /// As [`Shard::truncate`], for each shard that holds one of the partitions, all at once.
    pub async fn truncate(
        &self,
        topic: &Topic,
        starts: &[(PartitionId, Offset)],
        here: impl Fn(ShardId) -> Option<Shard>,
    ) -> Result<(), TruncateError> {
        let mut by_shard: BTreeMap<ShardId, Vec<(TopicPartition, Offset)>> = BTreeMap::new();
        for (partition, start) in starts {
            let of_shard = by_shard.entry(topic.shard_of(*partition)).or_default();
            of_shard.push((topic.partition(*partition), *start));
        }
        let mut moves = Vec::with_capacity(by_shard.len());
        for (id, starts) in by_shard {
            let (slot, leader) = (self.get(id).ok_or(TruncateError::NoLeader)?, here(id));
            moves.push(async move {
                let done = match leader {
                    Some(leader) => leader.truncate(&starts).await,
                    None => slot.index().truncate(&starts).await,
                };
                // Also after an error: it may have been done.
                self.truncated.send_if_modified(|truncated| truncated.insert(id));
                done
            });
        }
        join_all(moves).await.into_iter().collect()
    }

    /// Returns what changes when a shard is truncated through this node.
    pub fn truncated(&self) -> watch::Receiver<BTreeSet<ShardId>> {
        self.truncated.subscribe()
    }

    /// Returns the shards that were truncated through this node since the last call.
    pub fn take_truncated(&self) -> BTreeSet<ShardId> {
        let mut taken = BTreeSet::new();
        self.truncated.send_if_modified(|truncated| {
            taken = std::mem::take(truncated);
            false
        });
        taken
    }

    /// Forgets a deleted topic: its readers are woken, appends to it are refused, nothing of it stays in memory.
    pub fn forget(&self, topic: TopicId) {
        self.slots.iter().for_each(|slot| slot.index().forget(topic));
        self.signals.forget(topic);
    }

    /// Returns batches of a partition from an offset on; none if the cluster has no such shard. What is in memory is read
    /// at once, whatever others do. Else waits while as many others as may hold what they read from the store.
    ///
    /// # Errors
    /// [`FetchError`].
    pub async fn fetch(
        &self,
        topic: &Topic,
        partition: PartitionId,
        at: Offset,
    ) -> Result<Option<Fetch<'_>>, FetchError> {
        let Some(slot) = self.of(topic, partition) else { return Ok(None) };
        let (index, partition) = (slot.index(), topic.partition(partition));
        if let Some(fetched) = index.fetch_from_memory(partition, at, limits::FETCH_BYTES)? {
            return Ok(Some(Fetch { fetched, _place: None }));
        }
        let place = self.fetches.acquire().await.expect("the semaphore is never closed");
        let fetched = index.fetch(partition, at, limits::FETCH_BYTES).await?;
        Ok(Some(Fetch { fetched, _place: Some(place) }))
    }

    /// Returns all shards, in order.
    pub fn all(&self) -> &[ShardSlot] {
        &self.slots
    }

    /// Returns what wakes readers.
    pub fn signals(&self) -> &Signals {
        &self.signals
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use forebay_log::clock::SystemClock;
    use forebay_log::keys::Keys;
    use forebay_log::limits as log_limits;
    use forebay_log::model::{ClusterId, Durability, Record, TopicPartition};
    use forebay_log::shard::{Append, BatchSource, BlockCache, LeaderOptions, NewBatch, ShardStore};
    use forebay_log::store::{Operation, Store, StoreUrl};
    use forebay_log::testing::{FaultyStore, Moment};
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::*;
    use crate::testing::{node, topic};

    async fn lead(at: &ShardStore, seed: u64) -> Shard {
        let options = LeaderOptions {
            clock: Arc::new(SystemClock),
            journal: None,
            signals: Signals::default(),
            flush_linger: log_limits::FLUSH_LINGER,
            unflushed_bytes_max: log_limits::SHARD_UNFLUSHED_BYTES_MAX,
            spill_bytes: log_limits::SHARD_SPILL_BYTES,
        };
        let index = Arc::new(ShardIndex::new(at.clone(), BlockCache::new(log_limits::CACHE_BYTES_MIN)));
        let (shard, _task) =
            Shard::open(at.clone(), index, options, StdRng::seed_from_u64(seed)).await.unwrap();
        shard.recovered(false, Vec::new()).await.unwrap();
        shard
    }

    async fn append(shard: &Shard, partition: TopicPartition) {
        let source = BatchSource::Records {
            records: vec![Record { value: Some("value".into()), ..Record::default() }],
            compression: Default::default(),
            timestamp_type: Default::default(),
        };
        let batch = NewBatch { partition, source, expected: None };
        let append = Append { batches: vec![batch], dedupe: None, level: Durability::Object };
        shard.append(append).await.unwrap();
    }

    #[tokio::test]
    async fn reads_of_a_store_that_does_not_answer_hold_up_none_at_the_tail() {
        let faulty = FaultyStore::new(Store::open(&StoreUrl::Memory).await.unwrap().objects(), 1);
        let store = Store::with_objects(Arc::new(faulty.clone()), false);
        let at =
            ShardStore { store, keys: Keys::new(""), cluster: ClusterId::new(1), shard: ShardId::new(0) };
        let (node, number) = (node(1).await, PartitionId::new(0));
        let orders = topic(&node, "orders", 1).await;
        append(&lead(&at, 1).await, orders.partition(number)).await;
        let leading = lead(&at, 2).await;
        append(&leading, orders.partition(number)).await;
        let slot = ShardSlot::over(at, Arc::clone(leading.index()));
        let shards = Shards::new(vec![slot], Signals::default());
        let hold = faulty.hold(Operation::Get, Moment::Request);
        let stored = || shards.fetch(&orders, number, Offset::new(0));
        let mut held = pin!(join_all((0..2 * limits::FETCHES_MAX).map(|_| stored())));
        assert!(futures::poll!(held.as_mut()).is_pending());
        hold.arrived(1).await;
        let tail = shards.fetch(&orders, number, Offset::new(1)).await.unwrap().unwrap();
        assert_eq!(tail.fetched.next, Offset::new(2));
        hold.release();
        drop(tail);
    }
}
