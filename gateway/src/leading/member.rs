//! Taking part in a cluster of nodes: everything that runs for it, from joining to leaving.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::Context as _;
use forebay_log::coordinator::{Coordinator, Leases, NodeInfo, RedisCoordinator};
use forebay_log::model::{ClusterId, Incarnation, NodeId};
use forebay_log::shard::Signals;
use futures::stream::FuturesUnordered;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::driver::{Course, Driver, Inbox, Reins};
use super::health::StoreHealth;
use super::keeper::{Common, Keeper};
use super::local::{Local, Standings};
use super::{Means, Readiness};
use crate::cluster::follow::Wanted;
use crate::cluster::{PeerConfig, PeerListener, Peers};
use crate::config::ClusterConfig;
use crate::limits;
use crate::produce::route::Routes;
use crate::shards::ShardSlot;

/// A node's part in a cluster.
#[derive(Debug)]
pub struct Member {
    course: watch::Sender<Course>,
    ready: watch::Receiver<Readiness>,
    driver: JoinHandle<()>,
    keepers: Vec<JoinHandle<()>>,
    stop_serving: watch::Sender<bool>,
    serving: Vec<JoinHandle<()>>,
}

impl Member {
    /// Joins: other nodes can call this one, and it sees who leads. It leads nothing before [`Self::take_part`].
    ///
    /// # Errors
    /// Whatever keeps the node from taking part, in words for the operator.
    pub async fn join(
        settings: &ClusterConfig,
        (id, cluster): (NodeId, ClusterId),
        means: Means,
        routes: &Arc<Routes>,
        rng: &mut StdRng,
    ) -> anyhow::Result<Self> {
        let (listener, advertise) = listen(settings).await?;
        let config = peer_config(settings, cluster, &advertise)?;
        let coordinator: Arc<dyn Coordinator> = Arc::new(connect(settings, cluster).await?);
        let (tell, told) = mpsc::channel(limits::TOLD_MAX);
        let standings = Standings::default();
        let incarnation = Incarnation::random(rng);
        let local = Local {
            me: (id, incarnation),
            routes: Arc::clone(routes),
            topics: Arc::clone(&means.topics),
            standings: Arc::clone(&standings),
            told: tell,
        };
        let peers = Peers::new(&config, cluster, Arc::new(local)).context("cannot speak with other nodes")?;
        let (stop_serving, stops) = watch::channel(false);
        let (want, wanted) = watch::channel(Wanted::default());
        let signals = means.shards.signals().clone();
        let serving = vec![
            tokio::spawn(PeerListener::new(listener, peers.clone()).serve(stops.clone())),
            tokio::spawn(look_what_is_wanted(signals, want, stops)),
        ];
        let (news, heard) = mpsc::channel(limits::TOLD_MAX);
        let common = Common {
            me: id,
            means: means.clone(),
            routes: Arc::clone(routes),
            peers: peers.clone(),
            wanted,
            news,
        };
        let (keepers, reins) = keep(&common, rng);
        let (course, courses) = watch::channel(Course::Watches);
        let (set_ready, ready) = watch::channel(Readiness::Begins);
        let inbox = Inbox {
            news: heard,
            told,
            hints: coordinator.hints(),
            topics: means.topics.written(),
            truncated: means.shards.truncated(),
            course: courses,
        };
        let shards = u16::try_from(reins.len()).expect("there are as many as the cluster's root counts");
        let driver = Driver {
            leases: Leases::new(newcomer(id, incarnation, advertise), shards, StdRng::from_rng(rng)),
            coordinator,
            peers,
            means,
            routes: Arc::clone(routes),
            reins,
            standings,
            ready: set_ready,
            began: Instant::now(),
            tasks: FuturesUnordered::new(),
            leftovers: BTreeSet::new(),
            health: StoreHealth::new(Instant::now()),
            unannounced: Vec::new(),
            announced: Vec::new(),
            refreshing: BTreeSet::new(),
            takes_part: false,
            stops_since: None,
            left: false,
        };
        Ok(Self { course, ready, driver: tokio::spawn(driver.run(inbox)), keepers, stop_serving, serving })
    }

    /// Returns what tells whether the node serves: once every shard has a leader and it has caught up with all, for as long
    /// as it can use the store.
    pub fn ready(&self) -> watch::Receiver<Readiness> {
        self.ready.clone()
    }

    /// Leads shards from now on, once it has seen what there is: the store is fit.
    pub fn take_part(&self) {
        self.go_on(Course::TakesPart);
    }

    /// Begins to give away what is led here.
    pub fn drain(&self) {
        self.go_on(Course::Drains);
    }

    fn go_on(&self, next: Course) {
        self.course.send_if_modified(|course| next > std::mem::replace(course, next.max(*course)));
    }

    /// Gives away what is led here, and leaves.
    pub async fn leave(self) {
        self.go_on(Course::Leaves);
        // A task that died has said so already.
        let _ = self.driver.await;
        for keeper in self.keepers {
            let _ = keeper.await;
        }
        self.stop_serving.send_replace(true);
        for serving in self.serving {
            let _ = serving.await;
        }
    }
}

/// Returns what a node says of itself that has seen nothing yet.
fn newcomer(id: NodeId, incarnation: Incarnation, address: String) -> NodeInfo {
    NodeInfo { id, incarnation, address, ready: false, draining: false, leftovers: Vec::new() }
}

/// Listens for other nodes. Returns where they reach this one, too.
async fn listen(settings: &ClusterConfig) -> anyhow::Result<(TcpListener, String)> {
    let listener = TcpListener::bind(settings.listen).await;
    let listener =
        listener.with_context(|| format!("cannot listen on {} for other nodes", settings.listen))?;
    let bound = listener.local_addr()?;
    let advertise = settings.advertise.as_ref().map_or(bound.to_string(), |said| said.as_str().to_owned());
    tracing::info!("cluster listener on http://{bound}, known to others as {advertise}");
    Ok((listener, advertise))
}

/// Begins to keep all shards.
fn keep(common: &Common, rng: &mut StdRng) -> (Vec<JoinHandle<()>>, Vec<Reins>) {
    let start = |slot: &ShardSlot| {
        let (orders, ordered) = mpsc::channel(limits::ORDERS_MAX);
        let (lease, leased) = watch::channel(None);
        let rng = StdRng::from_rng(rng);
        let keeper = Keeper::new(slot.id(), common.clone(), leased, ordered, rng);
        (tokio::spawn(keeper.run()), Reins { orders, lease, there: None, caught_up: false })
    };
    common.means.shards.all().iter().map(start).unzip()
}

/// Connects to Redis. One that does not answer now is no reason to refuse: the node follows what others lead, and leads as
/// soon as Redis is there.
async fn connect(settings: &ClusterConfig, cluster: ClusterId) -> anyhow::Result<RedisCoordinator> {
    let unusable = || format!("cannot use the Redis {}", settings.redis);
    match RedisCoordinator::connect(&settings.redis, cluster).await {
        Err(error) if error.is_retriable() => {
            tracing::warn!(%error, redis = %settings.redis, "Redis does not answer; the node leads nothing until it does");
            RedisCoordinator::unconnected(&settings.redis, cluster).with_context(unusable)
        }
        connected => connected.with_context(unusable),
    }
}

/// Nodes that share a machine may do without a secret: then it is what the store says that the cluster is called.
fn peer_config(settings: &ClusterConfig, cluster: ClusterId, advertise: &str) -> anyhow::Result<PeerConfig> {
    let secret = settings.secret.clone().map_or_else(|| cluster.to_string().parse(), Ok)?;
    let (listen, advertise) = (settings.listen, advertise.to_owned());
    Ok(PeerConfig { listen, advertise, secret, tls: settings.tls.clone() })
}

/// Looks again and again which topics have readers here: of those, leaders send their batches along.
async fn look_what_is_wanted(
    signals: Signals,
    want: watch::Sender<Wanted>,
    mut stopping: watch::Receiver<bool>,
) {
    let looking = async {
        let mut looks = tokio::time::interval(limits::WANTED_LOOK);
        loop {
            looks.tick().await;
            let now: Wanted = Arc::new(signals.subscribed().into_iter().collect());
            want.send_if_modified(|wanted| {
                let changed = *wanted != now;
                *wanted = now;
                changed
            });
        }
    };
    tokio::select! {
        () = looking => {}
        _ = stopping.wait_for(|stopping| *stopping) => {}
    }
}
