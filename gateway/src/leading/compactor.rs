//! Compacting what is led here.

use std::sync::Arc;

use forebay_compactor::embedded::{Embedded, Mode};
use forebay_log::clock::Clock;
use forebay_log::shard::{Shard, ShardStore};
use rand::Rng as _;
use rand::rngs::StdRng;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::config::CompactorMode;

/// Compacts the shards that this node leads.
#[derive(Debug, Clone)]
pub struct Compactor(Embedded);

impl Compactor {
    /// Compacts in this mode.
    pub fn new(mode: CompactorMode, clock: Arc<dyn Clock>) -> Self {
        let mode = match mode {
            CompactorMode::Embedded => Mode::Whole,
            CompactorMode::Off => Mode::SelfRoll,
        };
        Self(Embedded::new(clock, mode))
    }

    /// Compacts a shard for as long as it is led here.
    pub(super) fn compact(&self, shard: &Shard, at: &ShardStore, rng: &mut StdRng) -> Compaction {
        let (stop, stops) = watch::channel(false);
        let (embedded, shard, at, seed) = (self.0.clone(), shard.clone(), at.clone(), rng.random());
        let task = tokio::spawn(async move { embedded.run(shard, at, seed, stops).await });
        Compaction { stop, task }
    }
}

/// The compaction of one shard.
#[derive(Debug)]
pub(super) struct Compaction {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Compaction {
    /// Ends it.
    pub(super) async fn stop(self) {
        self.stop.send_replace(true);
        // One that died has said so already.
        let _ = self.task.await;
    }
}
