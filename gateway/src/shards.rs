//! The shards that this node leads, and the way from a partition to its shard.

use std::sync::Arc;

use forebay_log::model::{PartitionId, ShardId, Topic};
use forebay_log::shard::{PartitionLog, Shard, Signals};

/// The shards of this node, by number.
#[derive(Debug)]
pub struct Shards {
    shards: Vec<Shard>,
    signals: Signals,
}

impl Shards {
    /// Takes shards in order of their numbers, from 0 without a gap.
    pub fn new(shards: Vec<Shard>, signals: Signals) -> Self {
        Self { shards, signals }
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

    /// Returns all shards, in order.
    pub fn all(&self) -> &[Shard] {
        &self.shards
    }

    /// Returns what wakes readers.
    pub fn signals(&self) -> &Signals {
        &self.signals
    }
}
