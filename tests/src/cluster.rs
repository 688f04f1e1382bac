//! A cluster: gateways as processes, each with a data folder of its own, over one bucket and one Redis. Each can be
//! killed, stopped, frozen and started again by its index, and so can everything but the bucket at once.

use std::ffi::OsString;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use crate::ports::free_port;
use crate::{Client, Links, Redis, Server, SharedStore, eventually};

/// What the gateways know each other by.
const SECRET: &str = "known-to-the-nodes-of-tests";
/// Longer than a gateway has to be ready before leaderships are moved to it, and than such a move takes.
const SETTLED: Duration = Duration::from_secs(8);
/// Longest wait for that. Long, because it only decides when a failure is reported.
const SETTLED_MAX: Duration = Duration::from_secs(600);

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

/// Who leads a partition, and in which epoch, as some gateway says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leadership {
    /// The leader, if one is known that runs.
    pub node: Option<usize>,
    /// Its epoch; 0 without a leader.
    pub epoch: u64,
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

    /// Starts one more gateway, which need not be ready yet, and answers its index.
    pub async fn launch(&mut self) -> usize {
        let (node, port) = (self.nodes.len(), free_port());
        let mut options = self.store.options(&[]);
        let args = &mut options.args;
        args.extend(["--redis", &self.redis.url(), "--cluster-secret", SECRET].map(OsString::from));
        args.extend(["--cluster-listen".into(), format!("127.0.0.1:{port}").into()]);
        if let Some(links) = &mut self.links {
            args.extend(["--advertise".into(), links.add(port).into()]);
        }
        args.extend_from_slice(&self.args);
        let server = Server::launch(options, self.store.variables());
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

    /// Waits until nobody has begun or ended leading a partition of a topic for so long that no planned move is due. One
    /// that did not come off may still be tried again later, so what a move would disturb is to be done again if
    /// [`leaderships`](Self::leaderships) say that there was one.
    ///
    /// # Panics
    /// They take turns all the time.
    pub async fn settled(&self, topic: &str) {
        let mut last = self.leaderships(0, topic).await;
        let (start, mut since) = (Instant::now(), Instant::now());
        while since.elapsed() < SETTLED {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let now = self.leaderships(0, topic).await;
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
    ///
    /// # Panics
    /// It does not say.
    pub async fn leaderships(&self, asked: usize, topic: &str) -> Vec<Leadership> {
        self.try_leaderships(&self.nodes[asked], topic).await.expect("the gateway knows the topic")
    }

    /// Who leads each partition of a topic, as a gateway says; nothing if it does not say.
    pub async fn try_leaderships(&self, asked: &Client, topic: &str) -> Option<Vec<Leadership>> {
        let ids: Vec<String> = self.nodes.iter().map(Server::node_id).collect();
        let answer = asked.get(&format!("/v1/topics/{topic}/partitions")).try_send().await.ok()?;
        let answer = (answer.status == 200).then(|| answer.json())?;
        let partitions = answer["partitions"].as_array().expect("a list").iter();
        let leadership = |one: &Value| Leadership {
            node: ids.iter().position(|id| one["leader"] == *id),
            epoch: one["leader_epoch"].as_u64().unwrap_or_default(),
        };
        Some(partitions.map(leadership).collect())
    }

    /// Waits until all gateways say the same of who leads each partition of a topic, and that somebody does; all have to
    /// run.
    pub async fn agreed_leaderships(&self, topic: &str) -> Vec<Leadership> {
        eventually("all gateways agree on who leads", async || {
            let first = self.leaderships(0, topic).await;
            for asked in 1..self.nodes.len() {
                if self.leaderships(asked, topic).await != first {
                    return None;
                }
            }
            first.iter().all(|one| one.node.is_some()).then_some(first)
        })
        .await
    }

    /// Waits until a partition has a leader, as this gateway says, and answers which.
    pub async fn leader(&self, asked: usize, topic: &str, partition: usize) -> usize {
        let look = || async move { self.leaderships(asked, topic).await[partition].node };
        eventually("the partition has a leader", look).await
    }
}
