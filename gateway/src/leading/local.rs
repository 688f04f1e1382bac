//! What other nodes ask of this one, and what they tell it.

use std::sync::Arc;

use forebay_log::coordinator::Lease;
use forebay_log::coordinator::lease::Standing;
use forebay_log::model::{Incarnation, LeaderEpoch, NodeId, ShardId};
use forebay_log::shard::Shard;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use parking_lot::RwLock;
use tokio::sync::{mpsc, watch};

use crate::cluster::{LeaderHint, LocalShards};
use crate::produce::route::Routes;
use crate::topics::Topics;

/// What another node says.
#[derive(Debug, Clone)]
pub(super) enum Told {
    /// It handed the shard over to this node, having led this epoch.
    Lead(ShardId, LeaderEpoch),
    /// Somebody leads the shard.
    Learned(ShardId, Lease),
}

/// What this node does; written by the driver.
#[derive(Debug, Default)]
pub(super) struct Shown {
    /// By the number of the shard.
    pub(super) standings: Vec<Standing>,
    /// Whether it would lead what is given to it.
    pub(super) would_lead: bool,
}

/// What is shown now.
pub(super) type Standings = Arc<RwLock<Shown>>;

/// The node, as others see it.
#[derive(Debug)]
pub(super) struct Local {
    pub(super) me: (NodeId, Incarnation),
    pub(super) routes: Arc<Routes>,
    pub(super) topics: Arc<Topics>,
    pub(super) standings: Standings,
    pub(super) told: mpsc::Sender<Told>,
}

impl Local {
    fn standing(&self, shard: ShardId) -> Standing {
        let shown = self.standings.read();
        shown.standings.get(usize::from(shard.get())).cloned().unwrap_or(Standing::Neither(None))
    }

    fn tell(&self, told: Told) {
        // With so much to tell already, the driver finds it with its next beat.
        let _ = self.told.try_send(told);
    }
}

impl LocalShards for Local {
    fn leader(&self, shard: ShardId) -> Option<Shard> {
        self.routes.here(shard).filter(Shard::is_leading)
    }

    fn is_taking_over(&self, shard: ShardId) -> bool {
        matches!(self.standing(shard), Standing::TakesOver(_))
    }

    fn hint(&self, shard: ShardId) -> Option<LeaderHint> {
        let Standing::Neither(lease) = self.standing(shard) else { return None };
        let Lease { node, incarnation, address, epoch } = lease?;
        Some(LeaderHint { node, incarnation: incarnation.get(), address, epoch })
    }

    fn learned(&self, shard: ShardId, hint: LeaderHint) {
        self.tell(Told::Learned(shard, lease_of(hint)));
    }

    fn lead_now(&self, shard: ShardId, ended: LeaderEpoch) -> bool {
        let would_lead = self.would_lead();
        if would_lead {
            self.tell(Told::Lead(shard, ended));
        }
        would_lead
    }

    fn me(&self) -> (NodeId, u128) {
        (self.me.0, self.me.1.get())
    }

    fn would_lead(&self) -> bool {
        self.standings.read().would_lead
    }

    fn topics_version(&self) -> u64 {
        self.topics.version()
    }

    fn refresh_topics(&self, version: u64) -> BoxFuture<'_, ()> {
        async move {
            if let Err(error) = self.topics.at_least(version).await {
                tracing::warn!(%error, "the topics may be older than those of another node");
            }
        }
        .boxed()
    }

    fn manifest_versions(&self, shard: ShardId) -> Option<watch::Receiver<u64>> {
        self.leader(shard).map(|leader| leader.index().manifest_versions())
    }
}

/// Returns the lease that another node speaks of.
pub(super) fn lease_of(hint: LeaderHint) -> Lease {
    let LeaderHint { node, incarnation, address, epoch } = hint;
    Lease { node, incarnation: Incarnation::new(incarnation), address, epoch }
}
