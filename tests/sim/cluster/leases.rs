//! The lease machine of each node, and what carries out its actions: calls to Redis, probes, announcements.

use std::collections::BTreeSet;

use forebay_log::coordinator::Lease;
use forebay_log::coordinator::lease::{self, Action, Probe};
use forebay_log::limits::{PROBE_MAX, REDIS_CALL_MAX};
use forebay_log::model::{Incarnation, ShardId};

use super::node::{Node, id, incarnation, number as number_of};
use super::redis::{Answer, Call};
use super::{Cluster, Event, Led};
use crate::config::{MILLI, Micros};

/// How often a node looks whether the leaders it follows are there, as a broken stream would tell it.
const FOLLOW_EVERY: Micros = 200 * MILLI;
/// How long a successor has to answer.
const TELL_MAX: Micros = 2_000 * MILLI;

impl Cluster {
    /// Returns the node that should lead a shard, by what itself says.
    pub(crate) fn best(&self, shard: usize) -> Option<usize> {
        let says = |node: &Node| {
            let process = node.process.as_ref()?;
            process.leases.best(id(shard))
        };
        let says: BTreeSet<Option<Incarnation>> = self.nodes.iter().map(says).collect();
        let [Some(best)] = says.into_iter().collect::<Vec<_>>()[..] else { return None };
        (0..self.nodes.len()).find(|node| incarnation(*node, self.nodes[*node].life) == best)
    }

    /// Tells the lease machine something, and begins what it wants done.
    pub(crate) fn tell(&mut self, number: usize, event: lease::Event) {
        let now = self.at();
        let Some(process) = &mut self.nodes[number].process else { return };
        let actions = process.leases.handle(event, now);
        for action in actions {
            self.begin(number, action);
        }
        let node = &mut self.nodes[number];
        let life = node.life;
        let Some(process) = &mut node.process else { return };
        let at = process.leases.wake().as_nanos().div_ceil(1_000).min(u128::from(u64::MAX)) as Micros;
        if at < process.wake_at || process.wake_at <= self.now {
            process.wake_at = at;
            self.schedule(at.max(self.now), Event::Wake { node: number, life });
        }
    }

    fn begin(&mut self, number: usize, action: Action) {
        let node = &mut self.nodes[number];
        let life = node.life;
        let Some(process) = &mut node.process else { return };
        let (me, held) = (process.leases.me().clone(), process.leases.held());
        if action != Action::Beat {
            self.note(|_| format!("node {number}: {action:?}"));
        }
        let after = self.network();
        match action {
            Action::Beat => self.call(number, Call::Beat(me, held)),
            Action::Probe { shard, whom } => {
                self.after(after, Event::Probe { node: number, life, shard, whom })
            }
            Action::Acquire { shard, instead_of } => self.call(number, Call::Acquire(shard, me, instead_of)),
            Action::TakeOver { shard } => {
                let after = self.rng.log_between(5 * MILLI, 300 * MILLI);
                self.after(after, Event::TakeOver { node: number, life, shard: number_of(shard) });
            }
            Action::HandOver { shard, epoch, to, stopped } => {
                if stopped {
                    return self.pass_lease_on(number, (shard, epoch), to);
                }
                let led = Led { node: number, life, shard: number_of(shard), epoch: epoch.get() };
                self.after(2 * after, Event::HandOver { led, to });
            }
            Action::Release { shard } => self.call(number, Call::Release(shard, me.incarnation)),
            Action::Announce { shard } => self.announce(number, shard),
            Action::Doubt { shard, epoch } => {
                self.stats.doubts += 1;
                let led = Led { node: number, life, shard: number_of(shard), epoch: epoch.get() };
                self.after(after, Event::Doubt { led });
            }
            Action::Leave => {
                self.call(number, Call::Leave(me));
                self.nodes[number].process = None;
                self.nodes[number].life += 1;
                self.nodes[number].disk.get().kill();
                let after = self.rng.log_between(100 * MILLI, 10_000 * MILLI);
                self.after(after, Event::Start { node: number });
            }
        }
    }

    fn announce(&mut self, number: usize, shard: ShardId) {
        for node in 0..self.nodes.len() {
            let heard = self.nodes[node].redis == self.nodes[number].redis && !self.rng.chance(self.lossy);
            if heard && self.redis[self.nodes[node].redis].gone_until <= self.now {
                let (life, after) = (self.nodes[node].life, self.network());
                self.after(after, Event::Told { node, life, event: lease::Event::LeaderChanged { shard } });
            }
        }
    }

    pub(crate) fn call(&mut self, node: usize, call: Call) {
        let (life, after) = (self.nodes[node].life, self.network());
        self.after(after, Event::Call { node, life, call });
    }

    pub(crate) fn call_lands(&mut self, node: usize, life: u64, call: &Call) {
        let redis = self.nodes[node].redis;
        let is_there = self.redis[redis].gone_until <= self.now && !self.rng.chance(self.lossy);
        let answer = is_there.then(|| self.redis[redis].apply(call, self.now));
        let answer = answer.filter(|_| !self.rng.chance(self.lossy));
        let after = if answer.is_some() { self.network() } else { REDIS_CALL_MAX.as_micros() as Micros };
        let event = match (call, answer) {
            (Call::Beat(..), Some(Answer::View(view))) => lease::Event::Viewed(view),
            (Call::Beat(..), _) => lease::Event::BeatFailed,
            (Call::Acquire(shard, ..), answer) => {
                lease::Event::Acquired { shard: *shard, won: matches!(answer, Some(Answer::Won(true))) }
            }
            (Call::HandOver((shard, epoch), _, to), _) => {
                // Whether or not the lease could be handed over, the successor is told.
                let successor = to.address.parse().expect("addresses are numbers");
                if self.reaches(node, successor) && !self.rng.chance(self.lossy) {
                    let later = after + self.network();
                    let from = Led { node, life, shard: number_of(*shard), epoch: epoch.get() };
                    let life = self.nodes[successor].life;
                    self.after(later, Event::Lead { node: successor, life, from });
                }
                // It may stand still, and answer later than anybody waits.
                let given_up = lease::Event::HandedOver { shard: *shard, epoch: *epoch };
                return self.after(after + TELL_MAX, Event::Told { node, life, event: given_up });
            }
            (Call::Release(..) | Call::Leave(_), _) => return,
        };
        self.after(after, Event::Told { node, life, event });
    }

    pub(crate) fn probe_lands(&mut self, node: usize, life: u64, shard: ShardId, whom: Lease) {
        let target: usize = whom.address.parse().expect("addresses are numbers");
        let other = &self.nodes[target];
        let silent = !self.reaches(node, target) || other.stalled_until > self.now;
        let probe = match &other.process {
            _ if silent => Probe::Silent,
            None => Probe::Refused,
            Some(process) => Probe::Answered(process.leases.standing(shard)),
        };
        let after = if silent { PROBE_MAX.as_micros() as Micros } else { self.network() };
        let event = lease::Event::Probed { shard, whom: whom.incarnation, probe };
        self.after(after, Event::Told { node, life, event });
    }

    pub(crate) fn tell_if(&mut self, node: usize, life: u64, event: lease::Event) {
        if self.nodes[node].life == life {
            self.tell(node, event);
        }
    }

    /// Looks at the leaders this node follows, as its streams of their objects do, and at what its journal owes.
    pub(crate) fn follow(&mut self, number: usize) {
        let life = self.nodes[number].life;
        self.after(FOLLOW_EVERY, Event::Follow { node: number, life });
        for shard in 0..self.shards.len() {
            if self.shards[shard].store.manifest.is_none() {
                self.tell(number, lease::Event::NeverLed { shard: id(shard) });
            }
            let Some(process) = &self.nodes[number].process else { return };
            let Some(leader) = process.leases.leader_of(id(shard)) else { continue };
            let target: usize = leader.address.parse().expect("addresses are numbers");
            let other = &self.nodes[target];
            let is_there = self.reaches(number, target)
                && other.stalled_until <= self.now
                && other.process.as_ref().is_some_and(|other| other.leading.contains_key(&shard));
            if target != number && !is_there {
                self.tell(number, lease::Event::FollowBroken { shard: id(shard) });
            }
        }
        let leftovers = self.nodes[number].leftovers(self.shards.len());
        let told = self.nodes[number].process.as_ref().map(|process| process.leases.me().leftovers.clone());
        if told.is_some_and(|told| told != leftovers) {
            self.tell(number, lease::Event::Leftovers(leftovers));
        }
    }
}
