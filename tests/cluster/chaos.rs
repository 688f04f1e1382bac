//! Everything goes wrong, at random and at the same time, while writers write and readers read through every node. In the
//! end all but the bucket is lost, and what was acknowledged is still there.
//!
//! What is printed says when each fault began and ended, in seconds since the start, and beside each time in which no
//! node accepted anything which faults were there then and what the requests met.

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
use crate::pulse::{Pulse, Silence};
use crate::{is_full, turn};

const TOPIC: &str = "load";
const PARTITIONS: usize = 8;
const NODES: usize = 3;
const SECONDS: u64 = 45;
const SECONDS_FULL: u64 = 600;
/// How long a gateway is frozen: past every lease and every deadline between nodes.
const FROZEN: Duration = Duration::from_secs(15);
/// How long Redis is away: for less than a lease, or for more than two.
const REDIS_AWAY_MS: std::ops::Range<u64> = 1_000..15_000;
/// How long other faults last.
const LASTS_MS: std::ops::Range<u64> = 500..6_000;
/// Pause between two looks at all gateways.
const LOOK_PAUSE: Duration = Duration::from_millis(50);
/// Longest look at whether a gateway is ready, or at who leads.
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

/// A fault that is there, and what will end it.
#[derive(Debug)]
struct Ill {
    fault: Fault,
    cure: Cure,
    begun: Instant,
    until: Instant,
}

/// A cluster and what is wrong with it.
struct Chaos {
    cluster: Cluster,
    random: StdRng,
    start: Instant,
    ill: Vec<Ill>,
    /// Faults that are over, in words, with their begins and ends.
    over: Vec<(Instant, Instant, String)>,
    /// Nodes that have been ready since they were started last: these must not end by themselves.
    seen_ready: [bool; NODES],
    /// Faults that have begun.
    begun: BTreeMap<Fault, u32>,
    /// Gateways that were frozen while they led.
    frozen_leaders: u32,
    /// Starts that ended before the node was ready, as without a store they do.
    failed_starts: u32,
}

impl Chaos {
    fn new(cluster: Cluster, seed: u64) -> Self {
        Self {
            cluster,
            random: StdRng::seed_from_u64(seed),
            start: Instant::now(),
            ill: Vec::new(),
            over: Vec::new(),
            seen_ready: [true; NODES],
            begun: BTreeMap::new(),
            frozen_leaders: 0,
            failed_starts: 0,
        }
    }

    /// Begins a fault; false if there is nothing just now that it could befall.
    async fn step(&mut self, fault: Fault) -> bool {
        let (leaders, begun) = (self.leaders().await, Instant::now());
        let cure = match fault {
            Fault::KillGateway | Fault::StopGateway => self.healthy_node(&[]).map(Cure::Start),
            Fault::FreezeGateway => {
                let node = self.healthy_node(&leaders);
                // One leader at least.
                node.filter(|node| self.frozen_leaders > 0 || leaders.contains(node)).map(Cure::Thaw)
            }
            Fault::CutLink | Fault::SilenceLink => self.healthy_pair(&leaders),
            Fault::KillRedis if !self.is_redis_down() => Some(Cure::StartRedis),
            Fault::FlushRedis if !self.is_redis_down() => {
                self.cluster.redis.flush_all().await;
                self.note(begun, Instant::now(), "FlushRedis".to_owned());
                *self.begun.entry(fault).or_default() += 1;
                return true;
            }
            Fault::KillStore => {
                let SharedStore::Seaweed(store) = &mut self.cluster.store else { return true };
                store.kill9_and_restart().await;
                self.note(begun, Instant::now(), "KillStore".to_owned());
                *self.begun.entry(fault).or_default() += 1;
                return true;
            }
            Fault::KillRedis | Fault::FlushRedis => None,
        };
        let Some(cure) = cure else { return false };
        if let Cure::Thaw(node) = cure {
            self.frozen_leaders += u32::from(leaders.contains(&node));
        }
        let lasts = self.draw(fault);
        let at = begun - self.start;
        eprintln!("chaos: at {at:.1?} {fault:?} for {lasts:.1?} until {cure:?}; leaders {leaders:?}");
        self.begin(fault, cure).await;
        self.ill.push(Ill { fault, cure, begun, until: Instant::now() + lasts });
        *self.begun.entry(fault).or_default() += 1;
        true
    }

    /// How long a fault is to last.
    fn draw(&mut self, fault: Fault) -> Duration {
        match fault {
            Fault::FreezeGateway => FROZEN,
            Fault::KillRedis => Duration::from_millis(self.random.random_range(REDIS_AWAY_MS)),
            _ => Duration::from_millis(self.random.random_range(LASTS_MS)),
        }
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

    async fn end(&mut self, ill: Ill) {
        match ill.cure {
            Cure::Start(node) => {
                self.seen_ready[node] = false;
                self.cluster.relaunch(node).await;
            }
            Cure::Thaw(node) => self.cluster.node(node).thaw(),
            Cure::Heal(one, other) => self.cluster.links().set(one, other, None),
            Cure::StartRedis => self.cluster.redis.restart().await,
        }
        self.note(ill.begun, Instant::now(), format!("{:?} {:?}", ill.fault, ill.cure));
    }

    /// Tells of a fault that is over, and keeps it for silences that end later.
    fn note(&mut self, begun: Instant, ended: Instant, what: String) {
        let (from, to) = (begun - self.start, ended - self.start);
        eprintln!("chaos: {what} was from {from:.1?} to {to:.1?}");
        self.over.push((begun, ended, format!("{what} {from:.1?} to {to:.1?}")));
    }

    /// Tells of long silences, and what failed meanwhile.
    fn tell(&self, silences: Vec<Silence>) {
        for Silence { begun, lasted, instead } in silences {
            let ended = begun + lasted;
            let over = self.over.iter().filter(|(from, to, _)| *from < ended && *to > begun);
            let over = over.map(|(_, _, what)| what.clone());
            let ill = self.ill.iter().filter(|ill| ill.begun < ended);
            let ill = ill.map(|Ill { fault, cure, begun, .. }| {
                format!("{fault:?} {cure:?} {:.1?} to now", *begun - self.start)
            });
            let meanwhile: Vec<String> = over.chain(ill).collect();
            let at = begun - self.start;
            eprintln!("chaos: nothing was acknowledged for {lasted:.1?} from {at:.1?} on");
            eprintln!("chaos:   beside {meanwhile:?}; requests met {instead:?}");
        }
    }

    fn is_redis_down(&self) -> bool {
        self.ill.iter().any(|ill| matches!(ill.cure, Cure::StartRedis))
    }

    fn is_healthy(&self, node: usize) -> bool {
        !self.ill.iter().any(|ill| ill.cure.affects(node))
    }

    /// The nodes that lead some partition, as one says that can be asked.
    async fn leaders(&self) -> Vec<usize> {
        for node in (0..NODES).filter(|node| self.is_healthy(*node)) {
            let client = Client::with_timeout(&self.cluster.node(node).url(), LOOK_MAX);
            if let Some(found) = self.cluster.try_leaderships(&client, TOPIC).await {
                let mut leaders: Vec<usize> = found.iter().filter_map(|one| one.node).collect();
                leaders.sort_unstable();
                leaders.dedup();
                return leaders;
            }
        }
        Vec::new()
    }

    /// A node that nothing is wrong with, one of those preferred if there is one.
    fn healthy_node(&mut self, preferred: &[usize]) -> Option<usize> {
        let mut healthy: Vec<usize> = (0..NODES).filter(|&node| self.is_healthy(node)).collect();
        if healthy.len() + AFFECTED_MAX <= NODES {
            return None;
        }
        if healthy.iter().any(|node| preferred.contains(node)) {
            healthy.retain(|node| preferred.contains(node));
        }
        Some(healthy[self.random.random_range(0..healthy.len())])
    }

    /// A leader and another node that has been ready, between which there are connections.
    fn healthy_pair(&mut self, leaders: &[usize]) -> Option<Cure> {
        let one = self.healthy_node(leaders).filter(|node| leaders.contains(node))?;
        let is_other = |other: &usize| *other != one && self.seen_ready[*other] && self.is_healthy(*other);
        (0..NODES).find(is_other).map(|other| Cure::Heal(one, other))
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
        let is_over = |ill: &mut Ill| everything || ill.until <= now;
        let over: Vec<Ill> = self.ill.extract_if(.., is_over).collect();
        for ill in over {
            self.end(ill).await;
        }
        for node in 0..NODES {
            let affects = |ill: &Ill| ill.cure.affects(node) && !matches!(ill.cure, Cure::Heal(..));
            if self.ill.iter().any(affects) {
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

    /// Begins faults until the time is over, and ends them all.
    async fn run(&mut self, pulse: &Pulse, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            let mut deck = FAULTS;
            deck.shuffle(&mut self.random);
            for fault in deck {
                while !self.step(fault).await {
                    self.look_for(LOOK_PAUSE).await;
                }
                let pause = Duration::from_millis(self.random.random_range(200..4000));
                self.look_for(pause).await;
                self.tell(pulse.take_silences());
            }
        }
        self.look(true).await;
        self.cluster.wait_ready().await;
    }

    /// Checks that everything happened that a test of this kind is about.
    fn check_that_it_happened(&self) {
        let Self { begun, frozen_leaders, failed_starts, .. } = self;
        let (cut, silenced) = self.cluster.links().hits();
        eprintln!(
            "chaos: {begun:?}; {frozen_leaders} of the frozen led, {cut} connections were cut and {silenced} fell \
             silent, {failed_starts} starts failed"
        );
        for fault in FAULTS {
            let cannot = fault == Fault::KillStore && !matches!(self.cluster.store, SharedStore::Seaweed(_));
            assert!(cannot || begun.contains_key(&fault), "{fault:?} never happened: the test shows nothing");
        }
        assert!(cut > 0 && silenced > 0, "no connection was hit: the test shows nothing");
        assert!(*frozen_leaders > 0, "no leader was frozen: the test shows nothing");
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
    for topic in [TOPIC, "pulse"] {
        cluster.node(0).create_topic(topic, json!({"partitions": PARTITIONS})).await;
    }
    cluster.settled(TOPIC).await;
    let nodes = cluster.clients();
    let mut load = Load::start(&nodes, TOPIC, &mixed(4));
    let observers = Observers::start(&nodes, TOPIC);
    load.each_acknowledged(5).await;

    let mut chaos = Chaos::new(cluster, seed);
    let pulse = Pulse::start(&nodes, "pulse");
    chaos.run(&pulse, duration()).await;
    load.each_acknowledged(2).await;
    chaos.tell(pulse.take_silences());

    let silence = pulse.longest_silence();
    drop(pulse);
    let writers = load.finish().await;
    let (log, verdict) = history::check(&nodes, TOPIC, &writers).await;
    eprintln!("chaos: {verdict}");
    let observers = observers.check(&nodes[0], TOPIC).await;
    eprintln!(
        "chaos: {verdict}; {} records read the same through {NODES} nodes and by {observers} observers; nothing \
         acknowledged for {silence:.1?} at most",
        log.len()
    );
    chaos.check_that_it_happened();

    chaos.cluster.lose_everything_but_the_bucket().await;
    chaos.cluster.wait_ready().await;
    let (bare, _) = history::check(&chaos.cluster.clients(), TOPIC, &writers).await;
    assert_eq!(bare.contradiction(&log), None, "the bucket alone holds another log than was read before");
    assert!(bare.reaches(&log.ends()), "the bucket alone holds less than was read before");
}
