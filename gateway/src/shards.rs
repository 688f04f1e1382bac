//! The shards that this node leads, and the way from a partition to its shard.

use std::collections::BTreeMap;
use std::sync::Arc;

use forebay_log::model::{Offset, PartitionId, ShardId, Topic, TopicId, TopicPartition};
use forebay_log::shard::{FetchError, Fetched, PartitionLog, Shard, Signals, TruncateError};
use futures::future::join_all;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::limits;

/// The shards of this node, by number.
#[derive(Debug)]
pub struct Shards {
    shards: Vec<Shard>,
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
    pub fn new(shards: Vec<Shard>, signals: Signals) -> Self {
        Self { shards, signals, fetches: Semaphore::new(limits::FETCHES_MAX) }
    }

    /// Returns a shard, if the cluster has it.
    pub fn get(&self, id: ShardId) -> Option<&Shard> {
        self.shards.get(usize::from(id.get()))
    }

    /// Returns the shard of a partition.
    pub fn of(&self, topic: &Topic, partition: PartitionId) -> Option<&Shard> {
        self.get(topic.shard_of(partition))
    }

    /// Returns the index of a partition.
    pub fn log(&self, topic: &Topic, partition: PartitionId) -> Option<Arc<PartitionLog>> {
        self.of(topic, partition).map(|shard| shard.index().log(topic.partition(partition)))
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
            let shard = self.get(id).ok_or(TruncateError::NoLeader)?;
            moves.push(async move { shard.truncate(&starts).await });
        }
        join_all(moves).await.into_iter().collect()
    }

    /// Forgets a deleted topic: its readers are woken, appends to it are refused, nothing of it stays in memory.
    pub fn forget(&self, topic: TopicId) {
        self.shards.iter().for_each(|shard| shard.index().forget(topic));
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
        let Some(shard) = self.of(topic, partition) else { return Ok(None) };
        let place = self.fetches.acquire().await.expect("the semaphore is never closed");
        let fetched = shard.index().fetch(topic.partition(partition), at, limits::FETCH_BYTES).await?;
        Ok(Some(Fetch { fetched, _place: place }))
    }

    /// Returns all shards, in order.
    pub fn all(&self) -> &[Shard] {
        &self.shards
    }

    /// Returns what wakes readers.
    pub fn signals(&self) -> &Signals {
        &self.signals
    }
}
