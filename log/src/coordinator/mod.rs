//! Who leads what, as far as nodes need to agree on it to be fast: a registry of nodes, a lease per shard, and hints.
//!
//! A *node* registers with each *beat*, under its id and the *incarnation* of its process; an entry that is not renewed
//! expires. A *lease* says who leads a shard, or tries to. A *hint* tells other nodes that something has changed, before
//! they would see it by themselves.
//!
//! Nothing acknowledged depends on any of this. The log in the store decides who leads; a lease decides who tries. So a
//! coordinator may lose all it knows, may show something old, or may not answer: leaders go on leading, and make their
//! leases again with their next beat. What is lost meanwhile is the election of new leaders.
//!
//! [`Coordinator`] is the seam, [`RedisCoordinator`] keeps it in Redis, and [`Leases`] decides what a node does: it is
//! pure, so that a simulator can run it.

mod hint;
pub mod lease;
mod redis;

use std::collections::BTreeMap;
use std::fmt::Debug;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

use crate::error::ErrorKind;
use crate::model::{Incarnation, LeaderEpoch, NodeId, ShardId};

pub use self::hint::{Hint, InvalidHint};
pub use self::lease::Leases;
pub use self::redis::{InvalidRedisUrl, RedisCoordinator, RedisUrl};

/// What a node says of itself with each beat.
///
/// Fields that a later version adds are ignored, so that nodes of two versions see each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInfo {
    /// The node.
    pub id: NodeId,
    /// The run of its process.
    pub incarnation: Incarnation,
    /// Where other nodes reach it, as `host:port`; at most [`ADDRESS_LEN_MAX`](crate::limits::ADDRESS_LEN_MAX) bytes.
    pub address: String,
    /// Whether it has come up and may lead.
    pub ready: bool,
    /// Whether it is stopping and gives away what it leads.
    pub draining: bool,
    /// Shards of which its journal holds acknowledged appends that must be appended again: it leads them first.
    #[serde(default)]
    pub leftovers: Vec<ShardId>,
}

impl NodeInfo {
    /// Returns the lease by which this node holds a shard.
    pub fn lease(&self, epoch: LeaderEpoch) -> Lease {
        Lease { node: self.id, incarnation: self.incarnation, address: self.address.clone(), epoch }
    }
}

/// Who leads a shard, or is taking it over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The holder.
    pub node: NodeId,
    /// The run of its process.
    pub incarnation: Incarnation,
    /// Where other nodes reach it.
    pub address: String,
    /// The epoch it leads; zero while it is taking over.
    pub epoch: LeaderEpoch,
}

impl Lease {
    /// Tells whether the holder leads already. Otherwise it is taking over.
    pub fn leads(&self) -> bool {
        self.epoch > LeaderEpoch::ZERO
    }
}

/// A lease that a node renews with a beat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// The shard.
    pub shard: ShardId,
    /// The epoch in which the node leads it; zero while it is taking over.
    pub epoch: LeaderEpoch,
}

/// The live nodes and the leases of one moment, by the coordinator's own clock.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    /// The nodes, in the order of their ids, the one that asked included.
    pub nodes: Vec<NodeInfo>,
    /// The leases that have not expired.
    pub leases: BTreeMap<ShardId, Lease>,
}

/// Holds nodes and leases, and passes hints on.
///
/// All calls end within [`REDIS_CALL_MAX`](crate::limits::REDIS_CALL_MAX). A call that fails may still have been done;
/// each may be repeated. Calls of one node need no order among them, since nothing but speed depends on leases; what a
/// late one leaves behind is mended by the beats or expires after [`LEASE_TTL`](crate::limits::LEASE_TTL).
#[async_trait]
pub trait Coordinator: Debug + Send + Sync {
    /// Registers the node, renews the leases it holds, and returns what there is: one round trip.
    ///
    /// A held lease that is missing is made again. One that another node holds stays, unless that node claims to lead
    /// an epoch below ours: then it has been superseded and does not know it yet.
    ///
    /// # Errors
    /// [`CoordinatorError`]. The next beat is the retry.
    async fn beat(&self, me: &NodeInfo, held: &[Held]) -> Result<View, CoordinatorError>;

    /// Takes the lease of a shard in order to take it over, if it is absent, already mine, or held by `instead_of`:
    /// a run of a process that is known not to lead.
    ///
    /// Returns whether the node holds it now.
    ///
    /// # Errors
    /// [`CoordinatorError`]: the lease may be taken. The next view shows it.
    async fn acquire(
        &self,
        shard: ShardId,
        me: &NodeInfo,
        instead_of: Option<Incarnation>,
    ) -> Result<bool, CoordinatorError>;

    /// Gives the lease of a shard that the node has stopped leading to its successor, if it is absent or mine.
    ///
    /// Returns whether the successor holds it now.
    ///
    /// # Errors
    /// [`CoordinatorError`]: the successor may still be told directly.
    async fn hand_over(&self, shard: ShardId, me: &NodeInfo, to: &NodeInfo)
    -> Result<bool, CoordinatorError>;

    /// Drops the lease of a shard if it is mine.
    ///
    /// # Errors
    /// [`CoordinatorError`]: it expires by itself.
    async fn release(&self, shard: ShardId, me: &NodeInfo) -> Result<(), CoordinatorError>;

    /// Drops the node's entry and all leases of this run of its process.
    ///
    /// # Errors
    /// [`CoordinatorError`]: they expire by themselves.
    async fn leave(&self, me: &NodeInfo) -> Result<(), CoordinatorError>;

    /// Sends a hint to all nodes, this one included. It may be lost, and it may come more than once.
    ///
    /// # Errors
    /// [`CoordinatorError`]: what changed is seen later.
    async fn publish(&self, hint: Hint) -> Result<(), CoordinatorError>;

    /// Returns the hints from now on. A receiver that lags loses the oldest.
    fn hints(&self) -> broadcast::Receiver<Hint>;
}

/// A call to the coordinator that was not answered, or whose answer is of no use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CoordinatorError {
    /// It could not be reached, is still loading, or is no primary any more.
    #[error("coordinator is not available: {reason}")]
    Unavailable {
        /// What it said, or what became of the connection.
        reason: String,
    },
    /// It gave no answer in time.
    #[error("coordinator gave no answer: limit_ms={}", limit.as_millis())]
    TimedOut {
        /// How long it was waited for.
        limit: std::time::Duration,
    },
    /// It answered that the call cannot be done: a key of ours holds something else, or the user may not do it.
    #[error("coordinator refused: {reason}")]
    Refused {
        /// What it said.
        reason: String,
    },
    /// It is no server that a cluster can use. Needs the operator.
    #[error("{reason}")]
    Unsuitable {
        /// Why not.
        reason: &'static str,
    },
    /// As many nodes are registered as may be.
    #[error("cluster is full: nodes_max={}", crate::limits::NODES_MAX)]
    Full,
    /// What the node says of itself is longer than any reader takes.
    #[error("node entry is too large: size={size} limit={limit}")]
    TooLarge {
        /// Its bytes.
        size: usize,
        /// The cap.
        limit: usize,
    },
}

impl CoordinatorError {
    /// Returns the class of this error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Unavailable { .. } | Self::TimedOut { .. } => ErrorKind::Unavailable,
            Self::Full => ErrorKind::Throttled,
            Self::Refused { .. } => ErrorKind::Corrupt,
            Self::Unsuitable { .. } => ErrorKind::Invalid,
            Self::TooLarge { .. } => ErrorKind::Internal,
        }
    }

    /// Tells whether the same call may succeed later.
    pub fn is_retriable(&self) -> bool {
        self.kind().is_retriable()
    }
}
