//! What a node opens before it leads anything: its folder, the store, the cluster's root, the journal.

use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, bail};
use forebay_log::format::cluster::{ClusterFile, CoordinatorKind};
use forebay_log::journal::{Journal, JournalOptions, Replay};
use forebay_log::keys::Keys;
use forebay_log::model::{ClusterId, NodeId};
use forebay_log::shard::SharedJournal;
use forebay_log::store::{FolderLock, Path as StorePath, ProbeError, Revision, Store, StoreUrl, Swap};
use rand::rngs::StdRng;

use crate::config::Config;
use crate::limits;

/// What a node is made of before it leads anything.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) id: NodeId,
    pub(super) store: Store,
    pub(super) keys: Keys,
    pub(super) cluster: ClusterFile,
    pub(super) journal: Option<SharedJournal>,
    pub(super) replay: Option<Replay>,
    /// Held until the last file is closed.
    pub(super) lock: Option<FolderLock>,
    /// Whether the store is known to be fit for use.
    pub(super) is_probed: bool,
}

/// Opens the folder, the store, the cluster and the journal, in this order. The store is not probed yet where the node
/// joins others in what they have made: that goes on meanwhile.
pub(super) async fn open(config: &Config, rng: &mut StdRng) -> anyhow::Result<Opened> {
    let persistent = config.store != StoreUrl::Memory;
    let lock = persistent.then(|| lock_data_dir(&config.data_dir)).transpose()?;
    let id = if persistent { node_id(&config.data_dir, rng)? } else { NodeId::random(rng) };
    let store = Store::open_with(&config.store, &config.s3).await.context("cannot open the store")?;
    let keys = Keys::new(config.store.prefix());
    let joins = match config.cluster {
        Some(_) => {
            let root = store.read_register(&keys.cluster()).await;
            root.context("cannot read the cluster's root")?.is_some()
        }
        None => false,
    };
    let is_probed = !joins;
    if !store.is_exclusive() && !joins {
        probe(&store, &keys, config, rng).await?;
    }
    let cluster = open_cluster(&store, &keys, id, config, rng).await?;
    let (journal, replay) = match persistent {
        true => open_journal(config, cluster.id, store.is_exclusive())
            .await
            .map(|(journal, replay)| (Some(journal), Some(replay)))?,
        false => (None, None),
    };
    Ok(Opened { id, store, keys, cluster, journal, replay, lock, is_probed })
}

fn lock_data_dir(dir: &Path) -> anyhow::Result<FolderLock> {
    std::fs::create_dir_all(dir)
        .with_context(|| format!("cannot create the data folder {}", dir.display()))?;
    FolderLock::acquire(dir, &dir.join("lock"))
        .with_context(|| format!("cannot use the data folder {}", dir.display()))
}

/// Reads the node's id from its data folder, or draws one.
fn node_id(dir: &Path, rng: &mut StdRng) -> anyhow::Result<NodeId> {
    let path = dir.join("node");
    match std::fs::read_to_string(&path) {
        Ok(text) => text.trim().parse().with_context(|| format!("{} holds no node id", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let id = NodeId::random(rng);
            write_synced(dir, &path, &format!("{id}\n"))
                .with_context(|| format!("cannot write {}", path.display()))?;
            Ok(id)
        }
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Writes a small file so that a crash of the machine leaves all of it or nothing.
fn write_synced(dir: &Path, path: &Path, text: &str) -> std::io::Result<()> {
    let staged = path.with_extension("new");
    let mut file = std::fs::File::create(&staged)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&staged, path)?;
    std::fs::File::open(dir)?.sync_all()?;
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::File::open(parent)?.sync_all()
}

/// Probes the store.
///
/// # Errors
/// It is not fit for use, in words for the operator.
pub(super) async fn probe(
    store: &Store,
    keys: &Keys,
    config: &Config,
    rng: &mut StdRng,
) -> anyhow::Result<()> {
    let probed = probe_patiently(store, keys, rng).await;
    probed.with_context(|| format!("the store {} is not fit for use", config.store))
}

/// Probes the store, again when it fails in the middle of it.
async fn probe_patiently(store: &Store, keys: &Keys, rng: &mut StdRng) -> Result<(), ProbeError> {
    for _ in 1..limits::PROBE_ATTEMPTS_MAX {
        match store.probe(&keys.probes(), rng).await {
            Err(ProbeError::Store(error)) if error.is_retriable() => {
                tracing::warn!(%error, "the store could not be probed; trying again");
            }
            probed => return probed,
        }
        tokio::time::sleep(limits::PROBE_PAUSE).await;
    }
    store.probe(&keys.probes(), rng).await
}

/// Reads the cluster's root, or creates it.
async fn open_cluster(
    store: &Store,
    keys: &Keys,
    node: NodeId,
    config: &Config,
    rng: &mut StdRng,
) -> anyhow::Result<ClusterFile> {
    let key = keys.cluster();
    let mine = match config.cluster {
        Some(_) => CoordinatorKind::Redis {},
        None => CoordinatorKind::Embedded { node },
    };
    if store.read_register(&key).await?.is_none() {
        let fresh = ClusterFile::new(ClusterId::random(rng), config.shards, mine.clone());
        match store.swap(&key, None, fresh.encode()?).await.context("cannot create the cluster")? {
            Swap::Swapped(_) | Swap::Conflict => {}
        }
    }
    open_root(store, &key, (node, mine), config).await
}

/// Reads the cluster's root, which names this node, or a cluster of nodes; or makes it do so.
async fn open_root(
    store: &Store,
    key: &StorePath,
    (node, mine): (NodeId, CoordinatorKind),
    config: &Config,
) -> anyhow::Result<ClusterFile> {
    let found = store.read_register(key).await?.context("the cluster's root is gone")?;
    let cluster = ClusterFile::decode(&found.body).context("cannot read the cluster's root")?;
    match (&cluster.coordinator, &mine) {
        (there, mine) if there == mine => Ok(cluster),
        (CoordinatorKind::Embedded { node: owner }, mine)
            if config.replace_node == Some(*owner)
                || (*mine == CoordinatorKind::Redis {} && *owner == node) =>
        {
            if let Some(cluster) =
                replace_owner(store, key, found.revision, cluster.clone(), mine.clone()).await?
            {
                return Ok(cluster);
            }
            // Another node that starts at the same time came first: what it wrote decides, and is written once.
            let found = store.read_register(key).await?.context("the cluster's root is gone")?;
            let cluster = ClusterFile::decode(&found.body).context("cannot read the cluster's root")?;
            if cluster.coordinator == *mine {
                return Ok(cluster);
            }
            bail!("another node took the place of {owner} just now")
        }
        (CoordinatorKind::Embedded { node: owner }, _) if store.is_exclusive() => bail!(
            "the store belongs to another node: {owner}, this one is {node}; a store without a Redis coordinator \
             serves the one data folder it was created with"
        ),
        (CoordinatorKind::Embedded { node: owner }, _) => bail!(
            "the store belongs to another node: {owner}, this one is {node}; a store without a Redis coordinator \
             serves one node; if the data folder of the other is lost, or the other joins a cluster from now on, \
             take its place with --replace-node {owner}"
        ),
        (CoordinatorKind::Redis {}, _) => bail!("the store belongs to a cluster of nodes: say its --redis"),
    }
}

/// Makes this node, or a cluster of nodes, the owner that the cluster's root names, instead of a single node. No harm
/// comes from it if that node still runs: EPOCHs of others end its leaderships, and what it acknowledged at `object` is
/// stored. None if somebody else has changed the root meanwhile.
async fn replace_owner(
    store: &Store,
    key: &StorePath,
    revision: Revision,
    mut cluster: ClusterFile,
    owner: CoordinatorKind,
) -> anyhow::Result<Option<ClusterFile>> {
    cluster.version += 1;
    let before = std::mem::replace(&mut cluster.coordinator, owner);
    match store.swap(key, Some(&revision), cluster.encode()?).await.context("cannot replace the node")? {
        Swap::Swapped(_) => {
            tracing::warn!(?before, now = ?cluster.coordinator, "the store has another owner from now on");
            Ok(Some(cluster))
        }
        Swap::Conflict => Ok(None),
    }
}

/// Opens the journal. Where others may write the store, the leaders take over what it holds, all of it, and nothing is
/// left to replay.
async fn open_journal(
    config: &Config,
    cluster: ClusterId,
    exclusive: bool,
) -> anyhow::Result<(SharedJournal, Replay)> {
    let mut options = JournalOptions::new(config.data_dir.join("journal"), cluster);
    options.bytes_max = config.journal_bytes;
    let (journal, mut replay) = Journal::open(options).await.context("cannot open the journal")?;
    let journal = SharedJournal::new(journal);
    if exclusive {
        return Ok((journal, replay));
    }
    let adopting =
        tokio::task::spawn_blocking(move || journal.adopt(&mut replay).map(|()| (journal, replay)));
    adopting.await?.context("cannot read the journal")
}
