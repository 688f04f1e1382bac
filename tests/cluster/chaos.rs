//! Everything goes wrong, at random and at the same time, while writers write and readers read through every node.

use std::collections::BTreeMap;
use std::time::Duration;

use harness::{Client, Cluster, ClusterOptions, LinkFault, SharedStore};
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};
use serde_json::json;
use tokio::time::Instant;

use crate::history::{self, Observers};
use crate::load::{Load, mixed};
use crate::{is_full, turn};

const TOPIC: &str = "load";
const PARTITIONS: usize = 8;
const NODES: usize = 3;
const SECONDS: u64 = 45;
const SECONDS_FULL: u64 = 600;
/// How long a gateway is frozen: past every lease and every deadline between nodes.
const FROZEN: Duration = Duration::from_secs(15);
/// Pause between two looks at all gateways.
const LOOK_PAUSE: Duration = Duration::from_millis(50);
/// Longest look at whether a gateway is ready.
const LOOK_MAX: Duration = Duration::from_millis(500);
/// Gateways that are down, frozen or cut off at the same time, at most.
const AFFECTED_MAX: usize = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    KillGateway,
    StopGateway,
    FreezeGateway,
    CutLink,
    SilenceLink,
    KillRedis,
    FlushRedis,
    KillStore,
}

const FAULTS: [Fault; 8] = [
    Fault::KillGateway,
    Fault::StopGateway,
    Fault::FreezeGateway,
    Fault::CutLink,
    Fault::SilenceLink,
    Fault::KillRedis,
    Fault::FlushRedis,
    Fault::KillStore,
];

/// What ends a fault.
#[derive(Debug, Clone, Copy)]
enum Cure {
    Start(usize),
    Thaw(usize),
    Heal(usize, usize),
    StartRedis,
}

impl Cure {
    fn affects(self, node: usize) -> bool {
        match self {
            Self::Start(one) | Self::Thaw(one) => one == node,
            Self::Heal(one, other) => one == node || other == node,
            Self::StartRedis => false,
        }
    }
}

/// A cluster and what is wrong with it.
struct Chaos {
    cluster: Cluster,
    random: StdRng,
    cures: Vec<(Instant, Cure)>,
    /// Nodes that have been ready since they were started last: these must not end by themselves.
    seen_ready: [bool; NODES],
    /// Faults that have begun.
    begun: BTreeMap<Fault, u32>,
    /// Starts that ended before the node was ready, as without a store they do.
    failed_starts: u32,
}

impl Chaos {
    /// Begins a fault; false if there is nothing just now that it could befall.
    async fn step(&mut self, fault: Fault) -> bool {
        let lasts = Duration::from_millis(self.random.random_range(500..6000));
        let cure = match fault {
            Fault::KillGateway => self.healthy_node().map(Cure::Start),
            Fault::StopGateway => self.healthy_node().map(Cure::Start),
            Fault::FreezeGateway => self.healthy_node().map(Cure::Thaw),
            Fault::CutLink | Fault::SilenceLink => self.healthy_pair(),
            Fault::KillRedis | Fault::FlushRedis if self.is_redis_down() => None,
            Fault::KillRedis | Fault::FlushRedis => Some(Cure::StartRedis),
            Fault::KillStore => None,
        };
        match (fault, cure) {
            (Fault::KillStore, _) => {
                let SharedStore::Seaweed(store) = &mut self.cluster.store else { return true };
                store.kill9_and_restart().await;
            }
            (_, None) => return false,
            (Fault::FlushRedis, _) => self.cluster.redis.flush_all().await,
            (_, Some(cure)) => {
                self.begin(fault, cure).await;
                let lasts = if fault == Fault::FreezeGateway { FROZEN } else { lasts };
                self.cures.push((Instant::now() + lasts, cure));
            }
        }
        eprintln!("chaos: {fault:?} {cure:?} for {lasts:?}");
        *self.begun.entry(fault).or_default() += 1;
        true
    }

    async fn begin(&mut self, fault: Fault, cure: Cure) {
        match cure {
            Cure::Start(node) if fault == Fault::KillGateway => self.cluster.kill9(node).await,
            // It may well end without having handed over everything, when the store is away.
            Cure::Start(node) => _ = self.cluster.terminate(node).await,
            Cure::Thaw(node) => self.cluster.node(node).freeze(),
            Cure::Heal(one, other) => {
                let kind = if fault == Fault::CutLink { LinkFault::Cut } else { LinkFault::Silence };
                self.cluster.links().set(one, other, Some(kind));
            }
            Cure::StartRedis => self.cluster.redis.kill9().await,
        }
    }

    async fn end(&mut self, cure: Cure) {
        match cure {
            Cure::Start(node) => {
                self.seen_ready[node] = false;
                self.cluster.relaunch(node).await;
            }
            Cure::Thaw(node) => self.cluster.node(node).thaw(),
            Cure::Heal(one, other) => self.cluster.links().set(one, other, None),
            Cure::StartRedis => self.cluster.redis.restart().await,
        }
    }

    fn is_redis_down(&self) -> bool {
        self.cures.iter().any(|(_, cure)| matches!(cure, Cure::StartRedis))
    }

    fn is_healthy(&self, node: usize) -> bool {
        !self.cures.iter().any(|(_, cure)| cure.affects(node))
    }

    fn healthy_node(&mut self) -> Option<usize> {
        let healthy: Vec<usize> = (0..NODES).filter(|&node| self.is_healthy(node)).collect();
        if healthy.len() + AFFECTED_MAX <= NODES {
            return None;
        }
        Some(healthy[self.random.random_range(0..healthy.len())])
    }

    fn healthy_pair(&mut self) -> Option<Cure> {
        let one = self.healthy_node()?;
        let other = (0..NODES).find(|&other| other != one && self.is_healthy(other))?;
        Some(Cure::Heal(one, other))
    }

    /// Lets time pass, and looks again and again.
    async fn look_for(&mut self, time: Duration) {
        let until = Instant::now() + time;
        while Instant::now() < until {
            self.look(false).await;
            tokio::time::sleep(LOOK_PAUSE).await;
        }
    }

    /// Ends what is over, and starts gateways again that could not start.
    async fn look(&mut self, everything: bool) {
        let now = Instant::now();
        let is_over = |(at, _): &mut (Instant, Cure)| everything || *at <= now;
        let over: Vec<(Instant, Cure)> = self.cures.extract_if(.., is_over).collect();
        for (_, cure) in over {
            self.end(cure).await;
        }
        for node in 0..NODES {
            if self.cures.iter().any(|(_, cure)| cure.affects(node) && !matches!(cure, Cure::Heal(..))) {
                continue;
            }
            if self.cluster.node_mut(node).is_running() {
                // A node that is not open yet takes the connection and does not answer.
                let client = Client::with_timeout(&self.cluster.node(node).url(), LOOK_MAX);
                let answer = client.get("/readyz").try_send().await;
                self.seen_ready[node] |= answer.is_ok_and(|answer| answer.status == 200);
            } else {
                let log = self.cluster.node(node).log();
                assert!(!self.seen_ready[node], "node {node} ended by itself\n{log}");
                eprintln!("chaos: node {node} could not start\n{log}");
                self.failed_starts += 1;
                self.cluster.relaunch(node).await;
            }
        }
    }
}

fn duration() -> Duration {
    let minutes = std::env::var("CHAOS_MINUTES").ok().and_then(|minutes| minutes.parse::<f64>().ok());
    let seconds = if is_full() { SECONDS_FULL } else { SECONDS };
    minutes.map_or(Duration::from_secs(seconds), |minutes| Duration::from_secs_f64(minutes * 60.0))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_repeated_or_reordered_whatever_fails() {
    let _turn = turn().await;
    let seed = std::env::var("CHAOS_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    eprintln!("chaos: CHAOS_SEED={seed}");
    let options = ClusterOptions { linked: true, ..ClusterOptions::new(NODES, &["--flush-linger", "50ms"]) };
    let cluster = Cluster::start(SharedStore::real().await, options).await;
    cluster.node(0).create_topic(TOPIC, json!({"partitions": PARTITIONS})).await;
    let nodes = cluster.clients();
    let mut load = Load::start(&nodes, TOPIC, &mixed(4));
    let observers = Observers::start(&nodes, TOPIC);
    load.each_acknowledged(5).await;

    let random = StdRng::seed_from_u64(seed);
    let seen_ready = [true; NODES];
    let mut chaos =
        Chaos { cluster, random, cures: Vec::new(), seen_ready, begun: BTreeMap::new(), failed_starts: 0 };
    let end = Instant::now() + duration();
    load.take_longest_silence();
    while Instant::now() < end {
        let mut deck = FAULTS;
        deck.shuffle(&mut chaos.random);
        for fault in deck {
            while !chaos.step(fault).await {
                chaos.look_for(LOOK_PAUSE).await;
            }
            let pause = Duration::from_millis(chaos.random.random_range(200..4000));
            chaos.look_for(pause).await;
        }
    }
    chaos.look(true).await;
    chaos.cluster.wait_ready().await;
    load.each_acknowledged(2).await;

    let silence = load.take_longest_silence();
    let writers = load.finish().await;
    let (log, verdict) = history::check(&nodes, TOPIC, &writers).await;
    eprintln!("chaos: {verdict}");
    let observers = observers.check(&nodes[0], TOPIC).await;
    let Chaos { begun, failed_starts, .. } = &chaos;
    eprintln!(
        "chaos: {begun:?}, {failed_starts} starts failed; {verdict}; {} records read the same through {NODES} nodes \
         and by {observers} observers; nothing acknowledged for {silence:?} at most",
        log.len()
    );
    for fault in FAULTS {
        let cannot = fault == Fault::KillStore && !matches!(chaos.cluster.store, SharedStore::Seaweed(_));
        assert!(cannot || begun.contains_key(&fault), "{fault:?} never happened: the test shows nothing");
    }
}
