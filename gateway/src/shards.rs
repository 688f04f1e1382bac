//! The shards of the cluster as this node sees them: what readers go by, who leads, and the way from a partition to its
//! shard.

use std::collections::BTreeMap;
use std::sync::Arc;

use forebay_log::model::{Offset, PartitionId, ShardId, Topic, TopicId, TopicPartition};
use forebay_log::shard::{FetchError, Fetched, PartitionLog, Shard, ShardIndex, Signals, TruncateError};
use futures::future::join_all;
use tokio::sync::{Semaphore, SemaphorePermit, watch};

use crate::limits;

/// Who leads a shard, as far as this node knows.
#[derive(Debug, Clone, Default)]
pub enum Leader {
    /// This node.
    Here(Shard),
    /// Nobody that it knows of.
    #[default]
    Nobody,
}

/// One shard.
#[derive(Debug)]
pub struct ShardSlot {
    id: ShardId,
    index: Arc<ShardIndex>,
    leader: watch::Sender<Leader>,
}

impl ShardSlot {
    /// Returns a shard that nobody leads yet.
    pub fn new(id: ShardId, index: Arc<ShardIndex>) -> Self {
        Self { id, index, leader: watch::Sender::new(Leader::Nobody) }
    }

    /// Returns which shard this is.
    pub fn id(&self) -> ShardId {
        self.id
    }

    /// Returns what readers go by, whoever leads.
    pub fn index(&self) -> &Arc<ShardIndex> {
        &self.index
    }

    /// Returns who leads, and what changes when another does.
    pub fn leader(&self) -> watch::Receiver<Leader> {
        self.leader.subscribe()
    }

    /// Notes who leads.
    pub fn led_by(&self, leader: Leader) {
        self.leader.send_replace(leader);
    }

    /// Returns the shard's leader if it is here.
    pub fn here(&self) -> Option<Shard> {
        match &*self.leader.borrow() {
            Leader::Here(shard) => Some(shard.clone()),
            Leader::Nobody => None,
        }
    }
}

/// The shards of the cluster, by number.
#[derive(Debug)]
pub struct Shards {
    slots: Vec<ShardSlot>,
    signals: Signals,
    fetches: Semaphore,
}

/// Stored batches, with the place among all fetches that they take until they are dropped.
#[derive(Debug)]
pub struct Fetch<'a> {
    /// What was found.
    pub fetched: Fetched,
    _place: SemaphorePermit<'a>,
}

impl Shards {
    /// Takes shards in order of their numbers, from 0 without a gap.
    pub fn new(slots: Vec<ShardSlot>, signals: Signals) -> Self {
        Self { slots, signals, fetches: Semaphore::new(limits::FETCHES_MAX) }
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
        self.of(topic, partition).map(|slot| slot.index().log(topic.partition(partition)))
    }

    /// Moves log starts of a topic's partitions forward.
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
    ) -> Result<(), TruncateError> {
        let mut by_shard: BTreeMap<ShardId, Vec<(TopicPartition, Offset)>> = BTreeMap::new();
        for (partition, start) in starts {
            let of_shard = by_shard.entry(topic.shard_of(*partition)).or_default();
            of_shard.push((topic.partition(*partition), *start));
        }
        let mut moves = Vec::with_capacity(by_shard.len());
        for (id, starts) in by_shard {
            let shard = self.get(id).and_then(ShardSlot::here).ok_or(TruncateError::NoLeader)?;
            moves.push(async move { shard.truncate(&starts).await });
        }
        join_all(moves).await.into_iter().collect()
    }

    /// Forgets a deleted topic: its readers are woken, appends to it are refused, nothing of it stays in memory.
    pub fn forget(&self, topic: TopicId) {
        self.slots.iter().for_each(|slot| slot.index().forget(topic));
        self.signals.forget(topic);
    }

    /// Returns batches of a partition from an offset on; none if the cluster has no such shard. Waits while as many others
    /// hold theirs as may: batches and what is decoded of them are the largest thing a read holds.
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
        let place = self.fetches.acquire().await.expect("the semaphore is never closed");
        let fetched = slot.index().fetch(topic.partition(partition), at, limits::FETCH_BYTES).await?;
        Ok(Some(Fetch { fetched, _place: place }))
    }

    /// Returns all shards, in order.
    pub fn all(&self) -> &[ShardSlot] {
        &self.slots
    }

    /// Returns the leaders that are here.
    pub fn led_here(&self) -> Vec<Shard> {
        self.slots.iter().filter_map(ShardSlot::here).collect()
    }

    /// Returns what wakes readers.
    pub fn signals(&self) -> &Signals {
        &self.signals
    }
}
