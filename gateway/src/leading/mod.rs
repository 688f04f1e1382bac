//! How this node comes to lead shards, and what it does with those that others lead.
//!
//! A node that has the store to itself leads all shards from its start to its end ([`Alone`]). One of many takes part in
//! deciding who leads ([`Member`]): a [`keeper`] per shard follows whoever leads it, takes it over, leads it, hands it on;
//! the [`driver`] tells keepers when, by what [`Leases`](forebay_log::coordinator::Leases) decides, and producers where
//! to send appends.
//!
//! Nothing here is needed for safety: the log in the store decides who leads. What is decided here is who tries.

mod alone;
mod compactor;
mod driver;
mod health;
mod keeper;
mod local;
mod member;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use forebay_log::model::{ShardId, Topic, TopicPartition};
use forebay_log::shard::LeaderOptions;

pub use alone::Alone;
pub use compactor::Compactor;
pub use member::Member;

use crate::shards::Shards;
use crate::topics::Topics;

/// What it takes to lead shards.
#[derive(Debug, Clone)]
pub struct Means {
    /// What a leader works with.
    pub options: LeaderOptions,
    /// The topics of the cluster.
    pub topics: Arc<Topics>,
    /// The shards of the cluster.
    pub shards: Arc<Shards>,
    /// Rolls what is led here.
    pub compactor: Compactor,
}

/// Whether a node serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// Not yet: it has not caught up, or a shard has no leader.
    Begins,
    /// It does.
    Ready,
    /// It cannot use the store.
    StoreAway,
}

/// Returns the partitions that exist on a shard.
fn partitions_of(topics: &Topics, shard: ShardId) -> Vec<TopicPartition> {
    let on_shard = |topic: &Arc<Topic>| -> Vec<TopicPartition> {
        let ids = topic.partition_ids().filter(|partition| topic.shard_of(*partition) == shard);
        ids.map(|partition| topic.partition(partition)).collect()
    };
    topics.all().iter().flat_map(on_shard).collect()
}
