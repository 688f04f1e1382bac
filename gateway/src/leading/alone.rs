//! Leading all shards, from the node's start to its end: nobody else uses the store.

use std::sync::Arc;

use anyhow::Context as _;
use forebay_log::journal::{Frame, Replay};
use forebay_log::shard::Shard;
use futures::future::join_all;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::task::JoinHandle;

use super::compactor::Compaction;
use super::{Means, partitions_of};
use crate::shards::ShardSlot;

/// The leaders of a node that is the only one.
#[derive(Debug)]
pub struct Alone {
    shards: Vec<Shard>,
    leaders: Vec<JoinHandle<()>>,
    compactions: Vec<Compaction>,
}

impl Alone {
    /// Leads all shards, and brings back what only the journal holds.
    ///
    /// # Errors
    /// Whatever keeps the node from serving safely, in words for the operator.
    pub async fn lead(means: Means, replay: Option<Replay>, rng: &mut StdRng) -> anyhow::Result<Self> {
        let (mut shards, mut leaders) = (Vec::new(), Vec::new());
        for slot in means.shards.all() {
            let (at, index, options) = (slot.at().clone(), Arc::clone(slot.index()), means.options.clone());
            let opened = Shard::open(at, index, options, StdRng::from_rng(rng)).await;
            let (shard, leader) = opened.with_context(|| format!("cannot lead shard {}", slot.id()))?;
            shards.push(shard);
            leaders.push(leader);
        }
        recover(&shards, replay, &means).await?;
        let compact = |(shard, slot): (&Shard, &ShardSlot)| means.compactor.compact(shard, slot.at(), rng);
        let compactions = shards.iter().zip(means.shards.all()).map(compact).collect();
        Ok(Self { shards, leaders, compactions })
    }

    /// Returns the leaders, by number.
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// Stores what was handed over, and ends.
    pub async fn stop(self) {
        join_all(self.compactions.into_iter().map(Compaction::stop)).await;
        for shard in &self.shards {
            shard.flush().await;
        }
        for shard in &self.shards {
            shard.stop().await;
        }
        for leader in self.leaders {
            // One that died has said so already.
            let _ = leader.await;
        }
    }
}

/// Brings back what the journal holds and the store does not.
async fn recover(shards: &[Shard], replay: Option<Replay>, means: &Means) -> anyhow::Result<()> {
    let mut damaged = false;
    if let Some(mut replay) = replay {
        for damage in &replay.damage {
            tracing::error!(?damage, "the journal is damaged: acknowledged records are lost");
        }
        damaged = !replay.damage.is_empty();
        while let Some(replayed) = replay.next().context("cannot read the journal")? {
            let Frame::Append { shard, .. } = &replayed.frame else { continue };
            let shard = shards.get(usize::from(shard.get())).context("the journal names an unknown shard")?;
            shard.recover(replayed).await.context("cannot bring back a frame of the journal")?;
        }
    }
    for shard in shards {
        let partitions = partitions_of(&means.topics, shard.id());
        shard.recovered(damaged, partitions).await.context("cannot lead the shard")?;
    }
    Ok(())
}
