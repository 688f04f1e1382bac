//! Nodes and leases in one Redis primary.
//!
//! Three names per cluster, with one hash tag: `forebay:{<cluster id>}:nodes` and `…:leases` are hashes, `…:hints` is a
//! channel. Each value begins with its expiry by Redis' own clock, so that no node's clock matters; a value that has
//! expired is dropped by the next beat, and both hashes vanish by themselves once nobody beats. Each call is one script,
//! hence atomic. Redis may be wiped, restarted or rolled back at any time.
//!
//! Cost: one round trip per call; a beat reads all nodes and leases, at most [`NODES_MAX`] and `SHARDS_MAX`.

mod connection;
mod hints;
mod url;

use async_trait::async_trait;
use redis::{Script, ScriptInvocation, cmd};
use tokio::sync::broadcast;
use tokio::task::JoinSet;

pub use self::url::{InvalidRedisUrl, RedisUrl};

use self::connection::Connection;
use self::hints::Subscription;
use super::{Coordinator, CoordinatorError, Held, Hint, Lease, NodeInfo, View};
use crate::limits::{ADDRESS_LEN_MAX, HINTS_MAX, LEASE_TTL, NODE_BYTES_MAX, NODES_MAX, SHARDS_MAX};
use crate::model::{ClusterId, Incarnation, LeaderEpoch, ShardId};

/// Nodes and leases of one cluster, in Redis.
#[derive(Debug)]
pub struct RedisCoordinator {
    connection: Connection,
    names: Names,
    scripts: Scripts,
    hints: broadcast::Sender<Hint>,
    /// Ends with the coordinator.
    _passing_on: JoinSet<()>,
}

#[derive(Debug)]
struct Names {
    nodes: String,
    leases: String,
    hints: String,
}

#[derive(Debug)]
struct Scripts {
    beat: Script,
    claim: Script,
    release: Script,
    leave: Script,
}

impl Names {
    fn of(cluster: ClusterId) -> Self {
        let name = |what: &str| format!("forebay:{{{cluster}}}:{what}");
        Self { nodes: name("nodes"), leases: name("leases"), hints: name("hints") }
    }
}

fn prepare(url: &RedisUrl) -> Result<Connection, CoordinatorError> {
    let tcp = url.info().tcp_settings().clone().set_nodelay(true);
    Connection::new(url.info().clone().set_tcp_settings(tcp))
}

impl RedisCoordinator {
    /// Connects, sees whether the server can be used, and subscribes to hints.
    ///
    /// # Errors
    /// [`CoordinatorError::Unsuitable`] for a Redis Cluster and for a replica: needs the operator. Otherwise a retry
    /// helps if [`CoordinatorError::is_retriable`] says so.
    pub async fn connect(url: &RedisUrl, cluster: ClusterId) -> Result<Self, CoordinatorError> {
        let connection = prepare(url)?;
        let about: String =
            connection.call(|mut server| async move { cmd("INFO").query_async(&mut server).await }).await?;
        check(&about)?;
        let names = Names::of(cluster);
        let subscription = hints::subscribe(connection.client(), &names.hints).await?;
        Ok(Self::over(connection, names, Some(subscription)))
    }

    /// Connects when it is first needed: for a node that starts while the server is away. Whether the server can be used is
    /// not looked at; one that cannot answers with errors.
    ///
    /// # Errors
    /// [`CoordinatorError`] for an address that cannot be one: needs the operator.
    pub fn unconnected(url: &RedisUrl, cluster: ClusterId) -> Result<Self, CoordinatorError> {
        Ok(Self::over(prepare(url)?, Names::of(cluster), None))
    }

    fn over(connection: Connection, names: Names, subscription: Option<Subscription>) -> Self {
        let (sender, _) = broadcast::channel(HINTS_MAX);
        let mut passing_on = JoinSet::new();
        let client = connection.client().clone();
        passing_on.spawn(hints::pass_on(client, names.hints.clone(), subscription, sender.clone()));
        Self { connection, names, scripts: Scripts::new(), hints: sender, _passing_on: passing_on }
    }

    async fn run<T: redis::FromRedisValue>(
        &self,
        script: &ScriptInvocation<'_>,
    ) -> Result<T, CoordinatorError> {
        self.connection.call(|mut server| async move { script.invoke_async(&mut server).await }).await
    }

    /// Sets a lease to its next holder's, who is taking over, if it is absent or one of `giving_way` holds it.
    async fn claim(
        &self,
        shard: ShardId,
        to: &NodeInfo,
        giving_way: &[Incarnation],
    ) -> Result<bool, CoordinatorError> {
        let mut script = self.scripts.claim.key(&self.names.leases);
        script.arg(millis(LEASE_TTL)).arg(shard.get()).arg(to.incarnation.to_string());
        script.arg(json(&to.lease(LeaderEpoch::ZERO))?).arg(to.incarnation.to_string());
        for incarnation in giving_way {
            script.arg(incarnation.to_string());
        }
        self.run(&script).await
    }
}

#[async_trait]
impl Coordinator for RedisCoordinator {
    async fn beat(&self, me: &NodeInfo, held: &[Held]) -> Result<View, CoordinatorError> {
        let mut script = self.scripts.beat.key(&self.names.nodes);
        script.key(&self.names.leases).arg(millis(LEASE_TTL)).arg(NODES_MAX);
        script.arg(me.id.to_string()).arg(me.incarnation.to_string()).arg(json(me)?);
        for held in held {
            script.arg(held.shard.get()).arg(held.epoch.get()).arg(json(&me.lease(held.epoch))?);
        }
        type Answer = Option<(Vec<Vec<u8>>, Vec<(u32, Vec<u8>)>)>;
        let (nodes, leases) = self.run::<Answer>(&script).await?.ok_or(CoordinatorError::Full)?;
        Ok(view(&nodes, &leases))
    }

    async fn acquire(
        &self,
        shard: ShardId,
        me: &NodeInfo,
        instead_of: Option<Incarnation>,
    ) -> Result<bool, CoordinatorError> {
        self.claim(shard, me, instead_of.as_slice()).await
    }

    async fn hand_over(
        &self,
        shard: ShardId,
        me: &NodeInfo,
        to: &NodeInfo,
    ) -> Result<bool, CoordinatorError> {
        self.claim(shard, to, &[me.incarnation]).await
    }

    async fn release(&self, shard: ShardId, me: &NodeInfo) -> Result<(), CoordinatorError> {
        let mut script = self.scripts.release.key(&self.names.leases);
        script.arg(me.incarnation.to_string()).arg(shard.get());
        self.run(&script).await
    }

    async fn leave(&self, me: &NodeInfo) -> Result<(), CoordinatorError> {
        let mut script = self.scripts.leave.key(&self.names.nodes);
        script.key(&self.names.leases).arg(me.id.to_string()).arg(me.incarnation.to_string());
        self.run(&script).await
    }

    async fn publish(&self, hint: Hint) -> Result<(), CoordinatorError> {
        let mut publish = cmd("PUBLISH");
        publish.arg(&self.names.hints).arg(hint.to_string());
        self.connection.call(|mut server| async move { publish.query_async(&mut server).await }).await
    }

    fn hints(&self) -> broadcast::Receiver<Hint> {
        self.hints.subscribe()
    }
}

impl Scripts {
    fn new() -> Self {
        Self {
            beat: Script::new(include_str!("beat.lua")),
            claim: Script::new(include_str!("claim.lua")),
            release: Script::new(include_str!("release.lua")),
            leave: Script::new(include_str!("leave.lua")),
        }
    }
}

/// Refuses servers that do not keep what they are told as one primary does.
fn check(about: &str) -> Result<(), CoordinatorError> {
    let says = |line: &str| about.lines().any(|found| found.trim_end() == line);
    let reason = if says("cluster_enabled:1") {
        "redis runs as a cluster; forebay needs a single primary, without cluster mode"
    } else if says("role:slave") {
        "redis is a replica; forebay needs the address of the primary"
    } else if says("loading:1") {
        return Err(CoordinatorError::Unavailable { reason: "redis is loading its data".into() });
    } else {
        return Ok(());
    };
    Err(CoordinatorError::Unsuitable { reason })
}

/// Reads a view. What cannot be read is left out: it expires, or a later version wrote it.
fn view(nodes: &[Vec<u8>], leases: &[(u32, Vec<u8>)]) -> View {
    let mut view = View::default();
    for entry in nodes {
        match read::<NodeInfo>(entry) {
            Some(node) if node.address.len() <= ADDRESS_LEN_MAX => view.nodes.push(node),
            _ => tracing::warn!(size_bytes = entry.len(), "node entry cannot be read"),
        }
    }
    view.nodes.sort_by_key(|node| node.id);
    for (shard, text) in leases {
        let number = u16::try_from(*shard).ok().filter(|number| *number < SHARDS_MAX);
        match number.zip(read::<Lease>(text)) {
            Some((number, lease)) if lease.address.len() <= ADDRESS_LEN_MAX => {
                view.leases.insert(ShardId::new(number), lease);
            }
            _ => tracing::warn!(shard, size_bytes = text.len(), "lease cannot be read"),
        }
    }
    view
}

fn read<'a, T: serde::Deserialize<'a>>(text: &'a [u8]) -> Option<T> {
    if text.len() > NODE_BYTES_MAX { None } else { serde_json::from_slice(text).ok() }
}

fn json(value: &impl serde::Serialize) -> Result<String, CoordinatorError> {
    let text = serde_json::to_string(value).expect("plain structs of ours have a text");
    if text.len() > NODE_BYTES_MAX {
        return Err(CoordinatorError::TooLarge { size: text.len(), limit: NODE_BYTES_MAX });
    }
    Ok(text)
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn clusters_and_replicas_are_refused_in_words() {
        let primary = "# Replication\r\nrole:master\r\n# Cluster\r\ncluster_enabled:0\r\nloading:0\r\n";
        assert!(check(primary).is_ok());
        for (line, other, word) in
            [("role:master", "role:slave", "primary"), ("enabled:0", "enabled:1", "cluster mode")]
        {
            let error = check(&primary.replace(line, other)).expect_err("it is refused");
            assert!(error.to_string().contains(word), "{error}");
            assert_eq!(error.kind(), ErrorKind::Invalid);
        }
        let error = check(&primary.replace("loading:0", "loading:1")).expect_err("it is refused");
        assert!(error.is_retriable());
    }

    #[test]
    fn what_cannot_be_read_is_left_out_of_a_view() {
        let id = "00000000000000000000000000000001";
        let lease = format!(r#"{{"node":"{id}","incarnation":"{id}","address":"a:1","epoch":3,"later":1}}"#);
        let node =
            format!(r#"{{"id":"{id}","incarnation":"{id}","address":"a:1","ready":true,"draining":false}}"#);
        let far = node.replace("a:1", &"a".repeat(ADDRESS_LEN_MAX + 1));
        let nodes = [
            node.into_bytes(),
            far.into_bytes(),
            b"{".to_vec(),
            vec![0xff; 4],
            vec![b' '; NODE_BYTES_MAX + 1],
        ];
        let leases =
            [(7, lease.clone().into_bytes()), (8, Vec::new()), (u32::from(SHARDS_MAX), lease.into_bytes())];
        let view = view(&nodes, &leases);
        assert_eq!(view.nodes.len(), 1);
        assert_eq!(view.leases.keys().copied().collect::<Vec<_>>(), [ShardId::new(7)]);
        assert_eq!(view.leases[&ShardId::new(7)].epoch, LeaderEpoch::new(3));
    }
}
