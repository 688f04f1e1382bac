//! Several nodes that share several shards and agree by leases: the real lease machine over a simulated Redis, with the
//! real leaders and takers over simulated stores, and one journal per node for all that it leads (`leases`, `leading`,
//! `journal`).
//!
//! Three acts. In the first nodes crash, stop in order, stand still and lose sight of each other, while Redis is wiped,
//! rolled back, gone, or two. In the second nothing fails any more: within a bounded time each shard has exactly one
//! leader, the best. In the third Redis is wiped, and nobody moves; a leader loses the way to the store, and others lead;
//! then a leader is killed, and is replaced long before its lease would expire. Safety is judged as in the other world, for
//! each shard.
//!
//! Meanwhile clients delete, create and grow topics through any node, each of which has its own copy of their register
//! (`topics`, `change`) and finds by it where a produce goes (`produce`). What clients are told of topics is judged by what
//! the register held, and when (`history`). Once nothing fails copies are never older than their trust allows.

mod change;
mod client;
mod event;
mod faults;
mod history;
mod journal;
mod leading;
mod leases;
mod node;
mod produce;
mod redis;
mod stats;
mod topics;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use bytes::Bytes;
use forebay_log::coordinator::lease;
use forebay_log::shard::taker::PutAnswer;
use tokio::time::Instant;

use self::client::Client;
use self::event::{Event, Led, Read, Scheduled};
use self::history::Register;
use self::node::Node;
use self::redis::Redis;
pub(crate) use self::stats::ClusterStats;
pub(crate) use self::topics::Broken;
use self::topics::Purpose;
use crate::check::{Check, Judge, violation};
use crate::config::{MILLI, Micros, SECOND};
use crate::rng::Rng;
use crate::store::{Changed, Key, Op, Store};
use crate::takeover::GAP;

/// How long the cluster may take to settle once nothing fails any more.
const SETTLES_WITHIN: Micros = 120 * SECOND;
/// How long it may be without a leader after a process was killed: less than a lease lives.
const REPLACED_WITHIN: Micros = 2 * SECOND;
/// How long one that lost the way to the store may lead on.
const GIVEN_AWAY_WITHIN: Micros = 20 * SECOND;
/// How long nobody may move after Redis was wiped.
const STAYS_FOR: Micros = 30 * SECOND;

/// A cluster is settled when it is so at so many looks, a second apart: each node has beaten and seen it meanwhile.
const LOOKS: u32 = 4;
/// So much does not happen in one instant, unless two set each other off for ever.
const AT_ONCE_MAX: u64 = 10_000;

/// One shard's log, and what is known to be true of it.
#[derive(Debug)]
pub(crate) struct ShardLog {
    pub(crate) store: Store,
    pub(crate) judge: Judge,
    /// The newest epoch that anybody began to lead.
    pub(crate) epoch: u32,
}

/// All of it.
#[derive(Debug)]
pub(crate) struct Cluster {
    rng: Rng,
    now: Micros,
    queue: BinaryHeap<Reverse<Scheduled>>,
    tie: u64,
    /// Events without time between them.
    at_once: u64,
    records: u64,
    shards: Vec<ShardLog>,
    redis: [Redis; 2],
    nodes: Vec<Node>,
    clients: Vec<Client>,
    register: Register,
    /// Where all clocks began.
    origin: Instant,
    broken: Option<Broken>,
    /// Two nodes that do not reach each other.
    cut: Option<(usize, usize)>,
    /// Nothing fails any more.
    calm: bool,
    /// Share of what goes wrong with single calls.
    lossy: f64,
    local: f64,
    /// Once nothing fails nobody appends to the first shard: no PUT tells a leader that it was superseded.
    idle: bool,
    stats: ClusterStats,
    trace: Option<Vec<String>>,
}

/// How a run ended.
#[derive(Debug)]
pub(crate) struct ClusterRun {
    pub(crate) stats: ClusterStats,
    pub(crate) result: Check,
    pub(crate) trace: Vec<String>,
}

/// Plays one seed.
pub(crate) fn run(seed: u64, traced: bool, broken: Option<Broken>) -> ClusterRun {
    let mut rng = Rng::new(seed ^ 0xc105);
    let shards = rng.between(2, 4) as usize;
    let log = || ShardLog { store: Store::default(), judge: Judge::new(GAP), epoch: 0 };
    let nodes = rng.between(2, 4) as usize;
    let mut cluster = Cluster {
        now: 0,
        queue: BinaryHeap::new(),
        tie: 0,
        at_once: 0,
        records: 0,
        shards: (0..shards).map(|_| log()).collect(),
        redis: Default::default(),
        nodes: (0..nodes).map(|number| Node::new(number, &mut rng)).collect(),
        clients: (0..rng.between(1, 3)).map(|_| Client::default()).collect(),
        register: Register::new(shards),
        origin: Instant::now(),
        broken,
        cut: None,
        calm: false,
        lossy: [0.0, 0.01, 0.05][rng.index(3)],
        local: [0.0, 0.3, 0.8][rng.index(3)],
        idle: rng.chance(0.5),
        stats: ClusterStats::default(),
        trace: traced.then(Vec::new),
        rng,
    };
    let result = cluster.play();
    ClusterRun { stats: cluster.stats, result, trace: cluster.trace.unwrap_or_default() }
}

impl Cluster {
    fn play(&mut self) -> Check {
        for node in 0..self.nodes.len() {
            let after = if node == 0 { 0 } else { self.rng.below(20 * SECOND) };
            self.after(after, Event::Start { node });
        }
        for client in 0..self.clients.len() {
            self.after(SECOND, Event::Client { client });
        }
        self.after(5 * SECOND, Event::Fault);
        self.after(SECOND, Event::Somebody);
        let act = self.rng.log_between(20 * SECOND, 180 * SECOND);
        self.play_for(act)?;
        self.mend();
        self.settle()?;
        self.copies_agree()?;
        self.wiped()?;
        self.cut_off()?;
        self.settle()?;
        self.replaced()?;
        self.settle()?;
        for log in &self.shards {
            if let Some(record) = log.judge.missing_local() {
                return violation("I1", format!("{record} was acknowledged at local and is lost"));
            }
            log.judge.all_acked_are_there(&log.store)?;
        }
        Ok(())
    }

    fn play_for(&mut self, time: Micros) -> Check {
        let until = self.now + time;
        while self.queue.peek().is_some_and(|Reverse(next)| next.at <= until) {
            self.step()?;
        }
        self.now = until;
        Ok(())
    }

    /// Waits until each shard has one leader, the best, which acknowledges, and nothing acknowledged is missing.
    fn settle(&mut self) -> Check {
        let deadline = self.now + SETTLES_WITHIN;
        let acked: Vec<usize> = self.shards.iter().map(|log| log.judge.acked_since(0)).collect();
        let mut settled = 0;
        while settled < LOOKS {
            self.play_for(SECOND)?;
            let why = (0..self.shards.len()).find_map(|shard| self.unsettled(shard, acked[shard]));
            settled = if why.is_none() { settled + 1 } else { 0 };
            if let Some(why) = why.filter(|_| self.now > deadline) {
                return violation("liveness", why);
            }
        }
        Ok(())
    }

    fn unsettled(&self, shard: usize, acked: usize) -> Option<String> {
        let leaders: Vec<usize> =
            (0..self.nodes.len()).filter(|node| self.nodes[*node].leads(shard)).collect();
        let [leader] = leaders[..] else { return Some(format!("shard {shard} is led by {leaders:?}")) };
        let log = &self.shards[shard];
        // Without appends it cannot know that a later leader was there, and is gone: its next PUT will tell it.
        let is_idle = self.idle && shard == 0;
        if !is_idle && self.nodes[leader].epoch_of(shard) != Some(log.epoch) {
            return Some(format!("{leader} leads shard {shard} in an old epoch"));
        }
        let best = self.best(shard);
        if best != Some(leader) {
            return Some(format!("{leader} leads shard {shard} and {best:?} should"));
        }
        if self.nodes.iter().any(Node::is_leaving) {
            return Some("a node is about to leave".into());
        }
        // A node that owes something to a shard is its best leader until it has paid.
        if self.nodes.iter().any(Node::owes) {
            return Some("a node owes a shard what it acknowledged".into());
        }
        if !is_idle && log.judge.acked_since(0) <= acked {
            return Some(format!("nothing is acknowledged in shard {shard}"));
        }
        log.judge.missing_local().map(|record| format!("{record} in shard {shard} is not stored yet"))
    }

    /// Redis forgets everything: no leadership ends by that.
    fn wiped(&mut self) -> Check {
        let before: Vec<u32> = self.shards.iter().map(|log| log.epoch).collect();
        self.note(|_| "Redis is wiped".into());
        self.redis[0].wipe();
        self.play_for(STAYS_FOR)?;
        let after: Vec<u32> = self.shards.iter().map(|log| log.epoch).collect();
        if before != after {
            return violation(
                "stays",
                format!("a wiped Redis moved leaders: {before:?} before, {after:?} after"),
            );
        }
        Ok(())
    }

    /// A leader loses the way to the store, and says so: others lead what it led, though it could not store what it took.
    fn cut_off(&mut self) -> Check {
        let Some(node) = (0..self.nodes.len()).find(|node| self.nodes[*node].leads(0)) else {
            return violation("liveness", "shard 0 has no leader");
        };
        self.note(|_| format!("node {node} loses the way to the store"));
        self.nodes[node].cut_off = true;
        self.tell(node, lease::Event::Ready(false));
        self.play_for(GIVEN_AWAY_WITHIN)?;
        for shard in 0..self.shards.len() {
            if !(0..self.nodes.len()).any(|other| other != node && self.nodes[other].leads(shard)) {
                return violation("liveness", format!("nobody leads shard {shard} in the place of {node}"));
            }
        }
        self.nodes[node].cut_off = false;
        self.tell(node, lease::Event::Ready(true));
        Ok(())
    }

    /// A leader is killed: another takes its place at once.
    fn replaced(&mut self) -> Check {
        let Some(killed) = (0..self.nodes.len()).find(|node| self.nodes[*node].leads(0)) else {
            return violation("liveness", "shard 0 has no leader");
        };
        self.crash(killed);
        self.play_for(REPLACED_WITHIN)?;
        for shard in 0..self.shards.len() {
            if !self.nodes.iter().any(|node| node.leads(shard)) {
                return violation("liveness", format!("nobody has taken shard {shard} over from {killed}"));
            }
        }
        if self.nodes[killed].is_down() {
            self.after(MILLI, Event::Start { node: killed });
        }
        Ok(())
    }

    fn step(&mut self) -> Check {
        let Some(Reverse(Scheduled { event, at, .. })) = self.queue.pop() else { return Ok(()) };
        self.at_once = if at > self.now { 0 } else { self.at_once + 1 };
        self.now = self.now.max(at);
        if self.at_once > AT_ONCE_MAX {
            return violation("liveness", format!("time stands still: {event:?}"));
        }
        if let Some(node) = event.at_node()
            && self.nodes[node].stalled_until > self.now
        {
            self.schedule(self.nodes[node].stalled_until, event);
            return Ok(());
        }
        self.stats.steps += 1;
        match event {
            Event::Fault => self.fault(),
            Event::Start { node } => self.start(node),
            Event::Request { node, request } => self.request(node, request),
            Event::Forwarded { node, routed } => self.forwarded(node, routed),
            Event::Gone { node, request, gone } => self.ask(node, Purpose::RouteAgain(request, gone)),
            Event::Somebody => self.somebody_changes(),
            Event::Change { node, wish, name } => self.change_arrives(node, wish, name),
            Event::RegisterRead { node, life, call, revision, version } => {
                self.register_read((node, life, call), revision, version);
                Ok(())
            }
            Event::SwapLands { node, life, call, revision, file } => {
                self.swap_lands((node, life, call), revision, file)
            }
            Event::RollBack { copy } => {
                self.roll_back(*copy);
                Ok(())
            }
            Event::Client { client } => {
                self.client_acts(client);
                Ok(())
            }
            Event::Result { client, attempt, result } => {
                self.client_hears(client, attempt, result);
                Ok(())
            }
            Event::Put { led, seq, bytes, answered } => self.put_lands(led, seq, bytes, answered),
            Event::Call { node, life, call } => {
                self.call_lands(node, life, &call);
                Ok(())
            }
            Event::Probe { node, life, shard, whom } => {
                self.probe_lands(node, life, shard, whom);
                Ok(())
            }
            event => self.node_event(event),
        }
    }

    fn put_lands(&mut self, led: Led, seq: u64, bytes: Bytes, answered: bool) -> Check {
        let log = &mut self.shards[led.shard];
        let (answer, changed) = log.store.apply(&Op::Create(Key::Wal(seq), bytes));
        log.judge.now = self.now;
        log.judge.changed(&log.store, changed)?;
        let answer = match answer {
            crate::store::Answer::Put(answer) if answered => answer,
            _ => PutAnswer::Unknown,
        };
        let after = self.network();
        self.after(after, Event::PutAnswered { led, seq, answer });
        Ok(())
    }

    /// Notes in the judge what a taker did to the store.
    fn taken(&mut self, shard: usize, epoch: u32, seq: u64) -> Check {
        let log = &mut self.shards[shard];
        log.epoch = log.epoch.max(epoch);
        log.judge.now = self.now;
        log.judge.changed(&log.store, Changed::Manifest)?;
        log.judge.changed(&log.store, Changed::Created(Key::Wal(seq)))
    }

    /// Tells whether two nodes reach each other.
    fn reaches(&self, one: usize, other: usize) -> bool {
        self.cut.is_none_or(|cut| cut != (one, other) && cut != (other, one))
    }

    fn after(&mut self, after: Micros, event: Event) {
        self.schedule(self.now.saturating_add(after), event);
    }

    fn schedule(&mut self, at: Micros, event: Event) {
        self.tie += 1;
        self.queue.push(Reverse(Scheduled { event, at, tie: self.tie }));
    }

    /// The time of one way over the network.
    fn network(&mut self) -> Micros {
        self.rng.log_between(MILLI / 5, 20 * MILLI)
    }

    fn at(&self) -> Duration {
        Duration::from_micros(self.now)
    }

    fn note(&mut self, line: impl FnOnce(&Self) -> String) {
        if self.trace.is_some() {
            let line = format!("{:>12.6} {}", self.now as f64 / SECOND as f64, line(self));
            self.trace.iter_mut().for_each(|trace| trace.push(line.clone()));
        }
    }
}
