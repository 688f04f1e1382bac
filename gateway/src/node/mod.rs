//! One gateway process: what it opens at its start, what it shares, how it stops.

mod open;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use forebay_log::clock::Clock;
use forebay_log::keys::Keys;
use forebay_log::model::{LeaderEpoch, NodeId, Offset, PartitionId, ShardId, Topic};
use forebay_log::shard::{
    BlockCache, LeaderOptions, Shard, ShardStore, SharedJournal, Signals, TruncateError,
};
use forebay_log::store::{FolderLock, Store};
use parking_lot::Mutex;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::sync::watch;

use crate::budget::Budget;
use crate::config::{Config, CorsOrigins};
use crate::fetch::ring::Rings;
use crate::http::admission::Admission;
use crate::leading::{Alone, Compactor, Means, Member, Readiness};
use crate::limits;
use crate::produce::Producer;
use crate::produce::route::Routes;
use crate::shards::{ShardSlot, Shards};
use crate::topics::{Topics, TopicsOptions};

use self::open::Opened;

/// A running node.
#[derive(Debug)]
pub struct Node {
    /// This node, over restarts.
    pub id: NodeId,
    /// The topics of the cluster.
    pub topics: Arc<Topics>,
    /// The shards of the cluster.
    pub shards: Arc<Shards>,
    /// Who leads them.
    pub routes: Arc<Routes>,
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
    ready: watch::Receiver<Readiness>,
    stopping: watch::Sender<bool>,
    closing: watch::Sender<bool>,
    is_one_of_many: bool,
    running: Mutex<Option<Running>>,
}

/// How the node comes to lead shards.
#[derive(Debug)]
enum Leading {
    /// It is the only one, and leads all of them.
    Alone(Alone),
    /// It is one of many.
    Among(Member),
}

impl Leading {
    fn begin_stop(&self) {
        match self {
            Self::Alone(alone) => alone.shards().iter().for_each(Shard::drain),
            Self::Among(member) => member.drain(),
        }
    }
}

/// What a stop has to end.
#[derive(Debug)]
struct Running {
    journal: Option<SharedJournal>,
    leading: Leading,
    /// Held until the last file is closed.
    _lock: Option<FolderLock>,
}

impl Node {
    /// Opens the store and what is needed to lead shards. One node alone leads all of them when it returns, with what only
    /// its journal held; one of many takes part in leading them from then on.
    ///
    /// # Errors
    /// Whatever keeps the node from serving safely, in words for the operator.
    pub async fn open(config: &Config, clock: Arc<dyn Clock>, seed: u64) -> anyhow::Result<Arc<Self>> {
        let mut rng = StdRng::seed_from_u64(seed);
        let Opened { id, store, keys, cluster, journal, replay, lock, is_probed } =
            open::open(config, &mut rng).await?;
        let options = TopicsOptions {
            shards: cluster.shards,
            shared: config.cluster.is_some(),
            ids: StdRng::from_rng(&mut rng),
        };
        let topics = Topics::open(store.clone(), keys.clone(), Arc::clone(&clock), options).await;
        let topics = topics.context("cannot read the topics")?;
        let signals = Signals::default();
        let at = |shard| ShardStore { store: store.clone(), keys: keys.clone(), cluster: cluster.id, shard };
        let blocks = BlockCache::new(config.cache_bytes);
        let slots = (0..cluster.shards).map(|shard| ShardSlot::new(at(ShardId::new(shard)), blocks.clone()));
        let shards = Arc::new(Shards::new(slots.collect(), signals.clone()));
        let forgetting = Arc::clone(&shards);
        topics.on_deleted(move |topic| forgetting.forget(topic));
        let means = Means {
            options: LeaderOptions {
                clock: Arc::clone(&clock),
                journal: journal.clone(),
                signals,
                flush_linger: config.flush_linger,
                unflushed_bytes_max: forebay_log::limits::SHARD_UNFLUSHED_BYTES_MAX,
                spill_bytes: forebay_log::limits::SHARD_SPILL_BYTES,
            },
            topics: Arc::clone(&topics),
            shards: Arc::clone(&shards),
            compactor: Compactor::new(config.compactor, Arc::clone(&clock)),
        };
        let (leading, routes) = match &config.cluster {
            None => {
                let alone = Alone::lead(means, replay, &mut rng).await?;
                let routes = Arc::new(Routes::fixed(alone.shards().to_vec()));
                (Leading::Alone(alone), routes)
            }
            Some(settings) => {
                let routes = Arc::new(Routes::moving(cluster.shards));
                let member = Member::join(settings, (id, cluster.id), means, &routes, &mut rng).await?;
                take_part(&member, (!is_probed).then_some((&store, &keys)), config, &mut rng).await?;
                (Leading::Among(member), routes)
            }
        };
        let ready = match &leading {
            Leading::Alone(_) => watch::Sender::new(Readiness::Ready).subscribe(),
            Leading::Among(member) => member.ready(),
        };
        let running = Running { journal, leading, _lock: lock };
        Ok(Arc::new(Self {
            id,
            topics,
            producer: Producer::new(Arc::clone(&shards), Arc::clone(&routes), clock),
            shards,
            routes,
            ready,
            rings: Rings::default(),
            rng: Mutex::new(rng),
            admission: Admission::new(config.max_requests, config.max_streams),
            bodies: Budget::new(limits::BODIES_IN_FLIGHT_BYTES, limits::BODY_FREE_BYTES),
            reads: Budget::new(limits::READS_IN_FLIGHT_BYTES, limits::READ_FREE_BYTES),
            cors_origins: config.cors_origins.clone(),
            connections_max: config.max_connections,
            stopping: watch::Sender::new(false),
            closing: watch::Sender::new(false),
            is_one_of_many: config.cluster.is_some(),
            running: Mutex::new(Some(running)),
        }))
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
            let done = node.shards.truncate(&topic, &starts, |shard| node.routes.here(shard)).await;
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

    /// Tells whether every shard has a leader that this node can reach, and it can use the store. Among others the first is
    /// not asked again once it was so: a shard without a leader is no reason to take all nodes out of service.
    pub fn readiness(&self) -> Readiness {
        let led_here = self.routes.led_here();
        match *self.ready.borrow() {
            Readiness::Ready if !led_here.iter().all(Shard::is_leading) => Readiness::Begins,
            readiness => readiness,
        }
    }

    /// Returns which node leads a shard, so far as this one knows, and its epoch.
    pub fn leader_of(&self, shard: ShardId) -> Option<(NodeId, LeaderEpoch)> {
        let here = self.routes.here(shard).map(|leader| (self.id, leader.epoch()));
        here.or_else(|| self.routes.there(shard))
    }

    /// Tells whether the node stops.
    pub fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }

    /// Begins to stop: the node is not ready any more, and streams say goodbye. What it leads among other nodes goes to
    /// them while requests are served as before; alone, it refuses appends.
    pub fn begin_stop(&self) {
        self.stopping.send_replace(true);
        if !self.is_one_of_many {
            self.close();
        }
        if let Some(running) = &*self.running.lock() {
            running.leading.begin_stop();
        }
    }

    /// Ends the way in: connections are closed once they are idle, and requests that begin are refused.
    pub fn close(&self) {
        self.closing.send_replace(true);
        self.routes.refuse();
    }

    /// Returns what turns true when the node takes no connections any more.
    pub fn closing(&self) -> watch::Receiver<bool> {
        self.closing.subscribe()
    }

    /// Stores what only the journal holds and closes everything. After it the store alone is the cluster.
    ///
    /// # Errors
    /// When it cannot be done in time; nothing acknowledged is lost, for the journal is still there.
    pub async fn stop(&self, within: Duration) -> anyhow::Result<()> {
        self.begin_stop();
        self.close();
        let running = self.running.lock().take();
        let Some(Running { journal, leading, _lock }) = running else { return Ok(()) };
        let stopped = async {
            match leading {
                Leading::Alone(alone) => alone.stop().await,
                Leading::Among(member) => member.leave().await,
            }
            match journal {
                Some(journal) => journal.close().await,
                None => true,
            }
        };
        match tokio::time::timeout(within, stopped).await {
            Ok(true) => Ok(()),
            Ok(false) => bail!("the journal could not be closed; it is replayed at the next start"),
            Err(_) => {
                bail!("not everything could be flushed in time; the journal is replayed at the next start")
            }
        }
    }
}

/// Has a node that has joined lead, once the store is probed if it is not yet.
async fn take_part(
    member: &Member,
    unprobed: Option<(&Store, &Keys)>,
    config: &Config,
    rng: &mut StdRng,
) -> anyhow::Result<()> {
    if let Some((store, keys)) = unprobed {
        open::probe(store, keys, config, rng).await?;
    }
    member.take_part();
    Ok(())
}
