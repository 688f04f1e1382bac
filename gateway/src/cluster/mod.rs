//! Nodes among each other: appends on their way to the leader of their shard, what a leader has stored on its way to
//! those who follow it, and the questions that decide who leads.
//!
//! A node listens on an address of its own for the others ([`listener`]) and speaks HTTP/2 and nothing else there. Each
//! request carries a proof of the cluster's secret ([`secret`]). There are two calls, *probe* and *lead* ([`call`]), and
//! two kinds of streams, both of binary frames in both directions ([`frame`]): *append* ([`append`]) and *follow*
//! ([`follow`]). A stream has a connection of its own, so that nothing that stalls one shard stalls another, and a
//! stream that ends takes its connection along.
//!
//! Invariants
//! - What is refused on an append stream for want of a leadership stays refused: all later appends on it are.
//! - An append whose stream breaks is of unknown outcome if it was written, and not applied if it was not.
//! - Nothing is believed of a peer but what its log objects prove: hints only say where to ask.

pub mod append;
pub mod call;
mod dial;
mod error;
pub mod follow;
mod frame;
mod listener;
mod quiet;
mod secret;
#[cfg(test)]
mod tests;
mod tls;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use forebay_log::model::{ClusterId, LeaderEpoch, NodeId, ShardId, WalSeq};
use forebay_log::shard::Shard;
use futures::future::BoxFuture;
use tokio::sync::watch;

use append::RemoteShard;
use call::Probe;
use dial::Dialer;
use follow::{FollowStream, Wanted};

pub use error::PeerError;
pub use listener::PeerListener;
pub use secret::{InvalidSecret, Secret};
pub use tls::{PeerTls, TlsError};

/// How a node is reached by the others, and how it knows them.
#[derive(Debug, Clone)]
pub struct PeerConfig {
    /// Where it listens for them.
    pub listen: SocketAddr,
    /// `host:port` under which they reach it.
    pub advertise: String,
    /// What all nodes of the cluster know, and nobody else.
    pub secret: Secret,
    /// Certificates; without them nothing between the nodes is encrypted.
    pub tls: Option<PeerTls>,
}

/// Where a shard is led, by hearsay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaderHint {
    /// The leader.
    pub node: NodeId,
    /// Which of its processes.
    pub incarnation: u128,
    /// Where other nodes reach it.
    pub address: String,
    /// The epoch it leads with; zero while it takes over.
    pub epoch: LeaderEpoch,
}

/// What other nodes may ask of this one, and what it learns from them.
pub trait LocalShards: fmt::Debug + Send + Sync {
    /// Returns the leader of a shard, while this node leads it.
    fn leader(&self, shard: ShardId) -> Option<Shard>;

    /// Tells whether this node is about to lead a shard.
    fn is_taking_over(&self, shard: ShardId) -> bool;

    /// Returns who leads a shard or takes it over, as far as this node knows.
    fn hint(&self, shard: ShardId) -> Option<LeaderHint>;

    /// Takes note of who leads a shard, as another node says.
    fn learned(&self, shard: ShardId, hint: LeaderHint);

    /// Begins to lead a shard that was handed over to this node by who led it in this epoch. False if it will not.
    fn lead_now(&self, shard: ShardId, ended: LeaderEpoch) -> bool;

    /// Returns which node this is, and which of its processes.
    fn me(&self) -> (NodeId, u128);

    /// Tells whether this node would lead what is handed over to it.
    fn would_lead(&self) -> bool;

    /// Returns the version of the register of topics that this node knows.
    fn topics_version(&self) -> u64;

    /// Reads the register of topics, if this node knows an older version than this. Failing that, appends are judged by
    /// what it knows.
    fn refresh_topics(&self, version: u64) -> BoxFuture<'_, ()>;

    /// Returns what changes with the version of a shard's manifest, while this node leads the shard.
    fn manifest_versions(&self, shard: ShardId) -> Option<watch::Receiver<u64>>;
}

/// The other nodes of the cluster, as this one reaches them.
#[derive(Debug, Clone)]
pub struct Peers {
    dialer: Arc<Dialer>,
    local: Arc<dyn LocalShards>,
}

impl Peers {
    /// Prepares to call other nodes; reads the certificates.
    ///
    /// # Errors
    /// [`TlsError`], in words for the operator.
    pub fn new(
        config: &PeerConfig,
        cluster: ClusterId,
        local: Arc<dyn LocalShards>,
    ) -> Result<Self, TlsError> {
        Ok(Self { dialer: Arc::new(Dialer::new(config, cluster)?), local })
    }

    /// Asks a node whether it leads a shard. Answers within [`PROBE_MAX`](forebay_log::limits::PROBE_MAX).
    pub async fn probe(&self, address: &str, shard: ShardId) -> Probe {
        call::probe(&self.dialer, address, shard).await
    }

    /// Tells a node that the lease of a shard is its own now; `ended` is the epoch that was led before.
    ///
    /// # Errors
    /// [`PeerError::Declined`]: another one has to be found. After others the node finds the lease itself, only later.
    pub async fn lead(&self, address: &str, shard: ShardId, ended: LeaderEpoch) -> Result<(), PeerError> {
        call::lead(&self.dialer, address, shard, ended).await
    }

    /// Returns the way to a shard's leader on another node. Connects when something is sent.
    pub fn shard(&self, address: &str, shard: ShardId, epoch: LeaderEpoch) -> RemoteShard {
        RemoteShard::new(Arc::clone(&self.dialer), Arc::clone(&self.local), address, shard, epoch)
    }

    /// Follows a shard's leader on another node from a number of its log on, with the batches of the topics wanted.
    ///
    /// # Errors
    /// [`PeerError`].
    pub async fn follow(
        &self,
        address: &str,
        (shard, epoch): (ShardId, LeaderEpoch),
        from: WalSeq,
        wanted: watch::Receiver<Wanted>,
    ) -> Result<FollowStream, PeerError> {
        FollowStream::open(&self.dialer, address, (shard, epoch), from, wanted).await
    }
}

/// What tells one way to a leader from all others: a leadership on this node, or one stream to a leader elsewhere.
///
/// What is refused for want of a leadership on one way stays refused there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Via(u64);

impl Via {
    /// Names a new way.
    pub fn fresh() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}
