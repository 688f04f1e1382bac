//! A cluster: gateways as processes, each with a data folder of its own, over one bucket and one Redis. Each can be
//! killed, stopped, frozen and started again by its index, and so can everything but the bucket at once.

use std::ffi::OsString;
use std::time::Duration;

use tokio::time::Instant;

use crate::ports::free_port;
use crate::{Client, Links, Options, Redis, Server, SharedStore, eventually};

/// What the gateways know each other by.
const SECRET: &str = "known-to-the-nodes-of-tests";
/// Longer than a gateway has to be ready before leaderships are moved to it, and than such a move takes.
const SETTLED: Duration = Duration::from_secs(8);
const SETTLED_MAX: Duration = Duration::from_secs(90);

/// How to start a cluster.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    /// Gateways.
    pub nodes: usize,
    /// More arguments of each gateway's command line.
    pub args: Vec<OsString>,
    /// Whether the gateways reach each other over [`Links`]. What goes through them takes longer.
    pub linked: bool,
}

impl ClusterOptions {
    /// So many gateways with these arguments, that reach each other directly.
    pub fn new(nodes: usize, args: &[&str]) -> Self {
        Self { nodes, args: args.iter().map(OsString::from).collect(), linked: false }
    }
}

/// A running cluster; all its processes and their data are gone when it is dropped.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Server>,
    links: Option<Links>,
    args: Vec<OsString>,
    /// The bucket.
    pub store: SharedStore,
    /// The coordinator.
    pub redis: Redis,
}

impl Cluster {
    /// Starts all gateways at the same time, and waits until they are ready.
    pub async fn start(store: SharedStore, options: ClusterOptions) -> Self {
        let links = options.linked.then(Links::new);
        let redis = Redis::start().await;
        let mut cluster = Self { nodes: Vec::new(), links, args: options.args, store, redis };
        for _ in 0..options.nodes {
            cluster.launch().await;
        }
        cluster.wait_ready().await;
        cluster
    }

    /// Starts one more gateway, and answers its index.
    pub async fn launch(&mut self) -> usize {
        let (node, port) = (self.nodes.len(), free_port());
        let mut args = self.store.args();
        args.extend(["--redis", &self.redis.url(), "--cluster-secret", SECRET].map(OsString::from));
        args.extend(["--cluster-listen".into(), format!("127.0.0.1:{port}").into()]);
        if let Some(links) = &mut self.links {
            args.extend(["--advertise".into(), links.add(port).into()]);
        }
        args.extend_from_slice(&self.args);
        let listen = format!("127.0.0.1:{}", free_port());
        let server = Server::launch(Options { args }, &self.store.variables(), &listen).await;
        self.open_door(node, server.pid()).await;
        self.nodes.push(server);
        node
    }

    async fn open_door(&mut self, node: usize, process: u32) {
        if let Some(links) = &mut self.links {
            links.open(node, process).await;
        }
    }

    fn close_door(&mut self, node: usize) {
        if let Some(links) = &mut self.links {
            links.close(node);
        }
    }

    /// How many gateways there are, running or not.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// A gateway.
    pub fn node(&self, node: usize) -> &Server {
        &self.nodes[node]
    }

    /// A gateway whose process is to be asked for its state.
    pub fn node_mut(&mut self, node: usize) -> &mut Server {
        &mut self.nodes[node]
    }

    /// Clients of all gateways.
    pub fn clients(&self) -> Vec<Client> {
        self.nodes.iter().map(|node| (**node).clone()).collect()
    }

    /// The links between the gateways.
    ///
    /// # Panics
    /// They reach each other directly.
    pub fn links(&self) -> &Links {
        self.links.as_ref().expect("the cluster was started with links")
    }

    /// Waits until every gateway is ready.
    pub async fn wait_ready(&mut self) {
        for node in &mut self.nodes {
            node.wait_ready().await;
        }
    }

    /// Kills a gateway at once, as a crash does.
    pub async fn kill9(&mut self, node: usize) {
        self.nodes[node].kill9().await;
        self.close_door(node);
    }

    /// Asks a gateway to end, waits for it, and tells whether it says that all went well.
    pub async fn terminate(&mut self, node: usize) -> bool {
        let status = self.nodes[node].terminate().await;
        self.close_door(node);
        status.success()
    }

    /// Starts a gateway again that has ended.
    pub async fn relaunch(&mut self, node: usize) {
        self.nodes[node].relaunch();
        self.open_door(node, self.nodes[node].pid()).await;
    }

    /// Starts a gateway again that has ended, and waits until it is ready.
    pub async fn restart(&mut self, node: usize) {
        self.relaunch(node).await;
        self.nodes[node].wait_ready().await;
    }

    /// Kills every gateway and Redis, deletes what they had on disk, and starts as many new gateways with a new Redis on
    /// the same bucket. They need not be ready yet.
    pub async fn lose_everything_but_the_bucket(&mut self) {
        let count = self.nodes.len();
        for node in 0..count {
            self.kill9(node).await;
        }
        self.nodes.clear();
        self.links = self.links.is_some().then(Links::new);
        self.redis = Redis::start().await;
        for _ in 0..count {
            self.launch().await;
        }
    }

    /// Waits until nobody has begun or ended leading a partition of a topic for so long that no planned move is due.
    ///
    /// # Panics
    /// They take turns all the time.
    pub async fn settled(&self, topic: &str) {
        let mut last = self.leaders(0, topic).await;
        let (start, mut since) = (Instant::now(), Instant::now());
        while since.elapsed() < SETTLED {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let now = self.leaders(0, topic).await;
            if now != last {
                (last, since) = (now, Instant::now());
            }
            assert!(
                start.elapsed() < SETTLED_MAX,
                "the leaders of {topic} do not stay who they are: {last:?}"
            );
        }
    }

    /// Who leads each partition of a topic, as this gateway says.
    pub async fn leaders(&self, asked: usize, topic: &str) -> Vec<Option<usize>> {
        let ids: Vec<String> = self.nodes.iter().map(Server::node_id).collect();
        let answer =
            self.nodes[asked].get(&format!("/v1/topics/{topic}/partitions")).await.expect(200).json();
        let partitions = answer["partitions"].as_array().expect("a list");
        partitions.iter().map(|one| ids.iter().position(|id| one["leader"] == *id)).collect()
    }

    /// Waits until a partition has a leader, as this gateway says, and answers which.
    pub async fn leader(&self, asked: usize, topic: &str, partition: usize) -> usize {
        let look = || async move { self.leaders(asked, topic).await[partition] };
        eventually("the partition has a leader", look).await
    }
}
