//! One gateway process: what it opens at its start, what it shares, how it stops.

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use forebay_log::clock::Clock;
use forebay_log::format::cluster::{ClusterFile, CoordinatorKind};
use forebay_log::journal::{Frame, Journal, JournalOptions, Replay};
use forebay_log::keys::Keys;
use forebay_log::model::{ClusterId, NodeId, Offset, PartitionId, ShardId, Topic, TopicName, TopicPartition};
use forebay_log::shard::{LeaderOptions, Shard, ShardStore, SharedJournal, Signals, TruncateError};
use forebay_log::store::{FolderLock, Path as StorePath, ProbeError, Revision, Store, StoreUrl, Swap};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::budget::Budget;
use crate::config::{Config, CorsOrigins};
use crate::fetch::ring::Rings;
use crate::http::admission::Admission;
use crate::limits;
use crate::produce::Producer;
use crate::shards::{Leader, ShardSlot, Shards};
use crate::topics::{Expected, Topics, TopicsError, to_the_end};

/// A running node.
#[derive(Debug)]
pub struct Node {
    /// This node, over restarts.
    pub id: NodeId,
    /// The topics of the cluster.
    pub topics: Arc<Topics>,
    /// The shards it leads.
    pub shards: Arc<Shards>,
    /// The way in.
    pub producer: Producer,
    /// The way out, at the tail.
    pub rings: Rings,
    /// Spreads what clients would otherwise do at the same time.
    pub rng: Mutex<StdRng>,
    /// How much it has in hand at once.
    pub admission: Admission,
    /// Memory for request bodies.
    pub bodies: Budget,
    /// Memory for answers that wait for their readers.
    pub reads: Budget,
    /// Origins whose pages may call from a browser.
    pub cors_origins: CorsOrigins,
    /// Most connections at a time.
    pub connections_max: usize,
    stopping: watch::Sender<bool>,
    running: Mutex<Option<Running>>,
}

/// What a stop has to end.
#[derive(Debug)]
struct Running {
    journal: Option<SharedJournal>,
    leaders: Vec<JoinHandle<()>>,
    compactor: JoinHandle<()>,
    /// Held until the last file is closed.
    _lock: Option<FolderLock>,
}

impl Node {
    /// Opens the store, takes its shards over, and brings back what only the journal holds. Ready when it returns.
    ///
    /// # Errors
    /// Whatever keeps the node from serving safely, in words for the operator.
    pub async fn open(config: &Config, clock: Arc<dyn Clock>, seed: u64) -> anyhow::Result<Arc<Self>> {
        let mut rng = StdRng::seed_from_u64(seed);
        let persistent = config.store != StoreUrl::Memory;
        let lock = persistent.then(|| lock_data_dir(&config.data_dir)).transpose()?;
        let id = if persistent { node_id(&config.data_dir, &mut rng)? } else { NodeId::random(&mut rng) };
        let store = Store::open_with(&config.store, &config.s3).await.context("cannot open the store")?;
        let keys = Keys::new(config.store.prefix());
        if !store.is_exclusive() {
            let probed = probe(&store, &keys, &mut rng).await;
            probed.with_context(|| format!("the store {} is not fit for use", config.store))?;
        }
        let cluster = open_cluster(&store, &keys, id, config, &mut rng).await?;
        let (journal, replay) = match persistent {
            true => open_journal(config, cluster.id, store.is_exclusive())
                .await
                .map(|(journal, replay)| (Some(journal), Some(replay)))?,
            false => (None, None),
        };
        let topics = Topics::open(
            store.clone(),
            keys.clone(),
            Arc::clone(&clock),
            cluster.shards,
            StdRng::from_rng(&mut rng),
        );
        let topics = Arc::new(topics.await.context("cannot read the topics")?);
        let signals = Signals::default();
        let options = LeaderOptions {
            clock: Arc::clone(&clock),
            journal: journal.clone(),
            signals: signals.clone(),
            flush_linger: config.flush_linger,
            unflushed_bytes_max: forebay_log::limits::SHARD_UNFLUSHED_BYTES_MAX,
        };
        let deleted = topics.deleted().await;
        let (mut shards, mut leaders, mut stores) = (Vec::new(), Vec::new(), Vec::new());
        for shard in (0..cluster.shards).map(ShardId::new) {
            let at = ShardStore { store: store.clone(), keys: keys.clone(), cluster: cluster.id, shard };
            let opened = Shard::open(at.clone(), options.clone(), StdRng::from_rng(&mut rng)).await;
            let (shard, leader) = opened.with_context(|| format!("cannot lead shard {shard}"))?;
            deleted.iter().for_each(|topic| shard.index().forget(*topic));
            shards.push(shard);
            leaders.push(leader);
            stores.push(at);
        }
        recover(&shards, replay, &topics).await?;
        let (stopping, stops) = watch::channel(false);
        let compactor =
            forebay_compactor::embedded::run(shards.clone(), stores, Arc::clone(&clock), rng.random(), stops);
        let running = Running { journal, leaders, compactor: tokio::spawn(compactor), _lock: lock };
        let slots = shards.into_iter().map(|shard| {
            let slot = ShardSlot::new(shard.id(), Arc::clone(shard.index()));
            slot.led_by(Leader::Here(shard));
            slot
        });
        let shards = Arc::new(Shards::new(slots.collect(), signals));
        Ok(Arc::new(Self {
            id,
            topics,
            producer: Producer::new(Arc::clone(&shards), clock),
            shards,
            rings: Rings::default(),
            rng: Mutex::new(rng),
            admission: Admission::new(config.max_requests, config.max_streams),
            bodies: Budget::new(limits::BODIES_IN_FLIGHT_BYTES, limits::BODY_FREE_BYTES),
            reads: Budget::new(limits::READS_IN_FLIGHT_BYTES, limits::READ_FREE_BYTES),
            cors_origins: config.cors_origins.clone(),
            connections_max: config.max_connections,
            stopping,
            running: Mutex::new(Some(running)),
        }))
    }

    /// Deletes a topic, so that nothing of it is read and nothing is appended to it once this returns.
    ///
    /// # Errors
    /// [`TopicsError`]; a retry is safe.
    pub async fn delete_topic(
        self: &Arc<Self>,
        name: &TopicName,
        expected: Option<Expected>,
    ) -> Result<(), TopicsError> {
        let (node, name) = (Arc::clone(self), name.clone());
        to_the_end(async move {
            let deleted = node.topics.delete(&name, expected).await?;
            node.shards.forget(deleted.id);
            Ok(())
        })
        .await
    }

    /// Moves log starts of a topic's partitions forward: nothing below them is read once this returns.
    ///
    /// # Errors
    /// [`TruncateError`]; a retry is safe.
    pub async fn truncate(
        self: &Arc<Self>,
        topic: &Arc<Topic>,
        starts: Vec<(PartitionId, Offset)>,
    ) -> Result<(), TruncateError> {
        let (node, topic) = (Arc::clone(self), Arc::clone(topic));
        let whole = tokio::spawn(async move {
            let done = node.shards.truncate(&topic, &starts).await;
            // Also after an error: some may have moved.
            node.rings.discard(topic.id);
            done
        });
        // As for a shard's own task.
        whole.await.unwrap_or(Err(TruncateError::NoLeader))
    }

    /// Returns what turns true when the node begins to stop.
    pub fn stopping(&self) -> watch::Receiver<bool> {
        self.stopping.subscribe()
    }

    /// Tells whether the node stops.
    pub fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }

    /// Begins to stop: streams say goodbye, appends are refused.
    pub fn begin_stop(&self) {
        self.stopping.send_replace(true);
        self.shards.led_here().iter().for_each(Shard::drain);
    }

    /// Stores what only the journal holds and closes everything. After it the store alone is the cluster.
    ///
    /// # Errors
    /// When it cannot be done in time; nothing acknowledged is lost, for the journal is still there.
    pub async fn stop(&self, within: Duration) -> anyhow::Result<()> {
        self.begin_stop();
        let running = self.running.lock().take();
        let Some(Running { journal, leaders, compactor, _lock }) = running else { return Ok(()) };
        let flushed = async {
            // The compactor ends by itself; one that died has said so already.
            let _ = compactor.await;
            for shard in self.shards.led_here() {
                shard.flush().await;
            }
            for shard in self.shards.led_here() {
                shard.stop().await;
            }
            for leader in leaders {
                // As for the compactor.
                let _ = leader.await;
            }
            match journal {
                Some(journal) => journal.close().await,
                None => true,
            }
        };
        match tokio::time::timeout(within, flushed).await {
            Ok(true) => Ok(()),
            Ok(false) => bail!("the journal could not be closed; it is replayed at the next start"),
            Err(_) => {
                bail!("not everything could be flushed in time; the journal is replayed at the next start")
            }
        }
    }
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

/// Probes the store, again when it fails in the middle of it.
async fn probe(store: &Store, keys: &Keys, rng: &mut StdRng) -> Result<(), ProbeError> {
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
    if store.read_register(&key).await?.is_none() {
        let fresh =
            ClusterFile::new(ClusterId::random(rng), config.shards, CoordinatorKind::Embedded { node });
        match store.swap(&key, None, fresh.encode()?).await.context("cannot create the cluster")? {
            Swap::Swapped(_) | Swap::Conflict => {}
        }
    }
    let found = store.read_register(&key).await?.context("the cluster's root is gone")?;
    let cluster = ClusterFile::decode(&found.body).context("cannot read the cluster's root")?;
    match &cluster.coordinator {
        CoordinatorKind::Embedded { node: owner } if *owner == node => Ok(cluster),
        CoordinatorKind::Embedded { node: owner } if config.replace_node == Some(*owner) => {
            replace_owner(store, &key, found.revision, cluster, node).await
        }
        CoordinatorKind::Embedded { node: owner } if store.is_exclusive() => bail!(
            "the store belongs to another node: {owner}, this one is {node}; a store without a Redis coordinator \
             serves the one data folder it was created with"
        ),
        CoordinatorKind::Embedded { node: owner } => bail!(
            "the store belongs to another node: {owner}, this one is {node}; a store without a Redis coordinator \
             serves one node; if the data folder of the other is lost, take its place with --replace-node {owner}"
        ),
        CoordinatorKind::Redis {} => {
            bail!("the cluster is coordinated by Redis, which this release cannot use")
        }
    }
}

/// Makes this node the one that the cluster's root names, instead of one whose data folder is lost. No harm comes from
/// it if that node still runs: this one's EPOCHs end its leaderships, and what it acknowledged at `object` is stored.
async fn replace_owner(
    store: &Store,
    key: &StorePath,
    revision: Revision,
    mut cluster: ClusterFile,
    node: NodeId,
) -> anyhow::Result<ClusterFile> {
    cluster.version += 1;
    let owner = std::mem::replace(&mut cluster.coordinator, CoordinatorKind::Embedded { node });
    match store.swap(key, Some(&revision), cluster.encode()?).await.context("cannot replace the node")? {
        Swap::Swapped(_) => {
            tracing::warn!(?owner, %node, "this node takes the place of the one that the store belonged to");
            Ok(cluster)
        }
        Swap::Conflict => bail!("another node changed the cluster's root just now; start again"),
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

/// Brings back what the journal holds and the store does not.
async fn recover(shards: &[Shard], replay: Option<Replay>, topics: &Topics) -> anyhow::Result<()> {
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
    let topics = topics.all();
    for shard in shards {
        let on_shard = |topic: &Arc<Topic>| -> Vec<TopicPartition> {
            let ids = topic.partition_ids().filter(|partition| topic.shard_of(*partition) == shard.id());
            ids.map(|partition| topic.partition(partition)).collect()
        };
        let partitions = topics.iter().flat_map(on_shard).collect();
        shard.recovered(damaged, partitions).await.context("cannot lead the shard")?;
    }
    Ok(())
}
