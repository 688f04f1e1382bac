//! What to do, given all that is known: looked at as a whole after each event, so that no event needs to know what it
//! may set off.

use std::time::Duration;

use super::place::best;
use super::shard::{Answer, Role, Shard};
use super::{Action, Beats, Leases, shard_id};
use crate::coordinator::{Lease, NodeInfo};
use crate::limits::{
    ACQUIRE_WAIT_MAX, BEAT_INTERVAL, BEAT_PAUSE_MIN, HANDOVERS_MAX, MOVE_AFTER, PROBE_AGE_MAX,
    SUCCESSORS_WAIT_MAX, TAKEOVERS_MAX,
};
use crate::model::Incarnation;
use crate::mutation::{self, Mutation};

/// What the best leader of a shard does next.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Wait,
    /// Ask whether that one leads.
    Ask(Lease),
    /// Lead, if the lease is absent or held by that one.
    Try {
        instead_of: Option<Incarnation>,
        at_once: bool,
    },
}

impl Leases {
    pub(super) fn turn(&mut self, now: Duration, actions: &mut Vec<Action>) {
        self.turned_at = now;
        if self.left {
            return;
        }
        for at in 0..self.shards.len() {
            self.ask_again(at, now, actions);
            if self.shards[at].role == Role::Idle {
                self.consider(at, now, actions);
            }
        }
        if self.me.draining {
            self.give_all_away(now, actions);
        } else {
            self.move_on(now, actions);
        }
        if !self.left && self.beats.begin(now) {
            actions.push(Action::Beat);
        }
    }

    /// Finds the best leader of each shard, by the last view.
    pub(super) fn place(&mut self, now: Duration) {
        self.gone.retain(|_, since| now.saturating_sub(*since) < PROBE_AGE_MAX);
        let Self { me, view, gone, .. } = self;
        let others = view.nodes.iter().filter(|node| node.id != me.id);
        let candidates: Vec<&NodeInfo> =
            others.filter(|node| !gone.contains_key(&node.incarnation)).chain([&*me]).collect();
        for (at, shard) in self.shards.iter_mut().enumerate() {
            let found = best(shard_id(at), candidates.iter().copied());
            shard.placed(
                found.filter(|found| found.incarnation != me.incarnation).map(|found| found.incarnation),
                now,
            );
            self.best[at] = found.map(|found| found.incarnation);
        }
    }

    fn ask_again(&mut self, at: usize, now: Duration, actions: &mut Vec<Action>) {
        if let Some(asked) = &mut self.shards[at].asked
            && asked.again_at.is_some_and(|again_at| again_at <= now)
        {
            asked.again_at = None;
            actions.push(Action::Probe { shard: shard_id(at), whom: asked.whom.clone() });
        }
    }

    /// Decides about a shard that this node does nothing with.
    fn consider(&mut self, at: usize, now: Duration, actions: &mut Vec<Action>) {
        let id = shard_id(at);
        let is_best = self.best[at] == Some(self.me.incarnation);
        if !is_best || !self.is_sighted(now) {
            self.shards[at].try_at = None;
            // It may have come with an answer that was lost.
            let is_mine = |lease: &Lease| lease.incarnation == self.me.incarnation;
            if self.is_sighted(now) && self.view.leases.get(&id).is_some_and(is_mine) {
                self.view.leases.remove(&id);
                actions.push(Action::Release { shard: id });
            }
            return;
        }
        if now < self.shards[at].not_before {
            return;
        }
        match self.step(at, now) {
            Step::Wait => self.shards[at].try_at = None,
            Step::Ask(whom) => {
                self.shards[at].ask(whom.clone(), now);
                actions.push(Action::Probe { shard: id, whom });
            }
            Step::Try { instead_of, at_once } => {
                let takeovers = self.shards.iter().filter(|shard| shard.is_taking_over()).count();
                if takeovers >= TAKEOVERS_MAX {
                    self.shards[at].try_at = None;
                    return;
                }
                let wait = if at_once { Duration::ZERO } else { self.draw(ACQUIRE_WAIT_MAX) };
                let shard = &mut self.shards[at];
                if *shard.try_at.get_or_insert(now + wait) <= now {
                    shard.try_at = None;
                    shard.role = Role::Acquiring;
                    actions.push(Action::Acquire { shard: id, instead_of });
                }
            }
        }
    }

    /// Says what the best leader of a shard does next: the rules that the module's text lists.
    fn step(&self, at: usize, now: Duration) -> Step {
        let shard = &self.shards[at];
        let held = self.view.leases.get(&shard_id(at));
        let instead_of = held.or(shard.known.as_ref()).map(|lease| lease.incarnation);
        let try_it = Step::Try { instead_of, at_once: false };
        match held.filter(|lease| shard.counts(lease)) {
            Some(lease) if lease.node == self.me.id => try_it,
            Some(lease) if self.does_not_lead(shard, lease, now) => try_it,
            Some(lease) if self.is_registered(lease) => Step::Wait,
            Some(lease) => ask_once(shard, lease, now),
            None if shard.never_led => Step::Try { instead_of, at_once: true },
            None => {
                let is_vacant = self.viewed_at.is_some_and(|viewed_at| shard.is_vacant(viewed_at));
                match &shard.known {
                    Some(known) if known.node == self.me.id => try_it,
                    _ if !is_vacant => Step::Wait,
                    None => try_it,
                    Some(_) if mutation::is(Mutation::LeaderNotAsked) => try_it,
                    Some(known) if self.does_not_lead(shard, known, now) => try_it,
                    Some(known) if shard.answer_of(known, now) == Some(Answer::Silent) => try_it,
                    Some(known) => ask_once(shard, known, now),
                }
            }
        }
    }

    pub(super) fn does_not_lead(&self, shard: &Shard, lease: &Lease, now: Duration) -> bool {
        self.gone.contains_key(&lease.incarnation) || shard.answer_of(lease, now) == Some(Answer::No)
    }

    fn is_registered(&self, lease: &Lease) -> bool {
        self.view.nodes.iter().any(|node| node.incarnation == lease.incarnation)
    }

    /// Moves a shard to its best leader, once that has been the best for a while: one at a time, but several where this
    /// node cannot store anything.
    fn move_on(&mut self, now: Duration, actions: &mut Vec<Action>) {
        if mutation::is(Mutation::NeverMoved) || !self.is_sighted(now) {
            return;
        }
        let most = if self.me.ready { 1 } else { HANDOVERS_MAX };
        while self.handing_over_count() < most && self.move_one(now, actions) {}
    }

    fn move_one(&mut self, now: Duration, actions: &mut Vec<Action>) -> bool {
        let is_due = |shard: &Shard| {
            let is_better = shard.better.is_some_and(|(_, since)| now.saturating_sub(since) >= MOVE_AFTER);
            matches!(shard.role, Role::Leading { .. }) && is_better && now >= shard.stays_until
        };
        let Some(at) = self.shards.iter().position(is_due) else { return false };
        let to = self.view.nodes.iter().find(|node| Some(node.incarnation) == self.best[at]).cloned();
        let is_there = to.is_some();
        if is_there {
            actions.extend(self.shards[at].hand_over(shard_id(at), to));
        }
        is_there
    }

    fn handing_over_count(&self) -> usize {
        self.shards.iter().filter(|shard| matches!(shard.role, Role::HandingOver { .. })).count()
    }

    /// Gives all shards to the best among the other nodes. Once nothing is left it waits until it knows who leads instead,
    /// for what it still has to pass on to them, and leaves.
    fn give_all_away(&mut self, now: Duration, actions: &mut Vec<Action>) {
        for at in 0..self.shards.len() {
            if self.handing_over_count() >= HANDOVERS_MAX {
                return;
            }
            // A successor that did not answer once is not asked again: there is no time.
            let is_known = now >= self.shards[at].stays_until;
            let to = self.view.nodes.iter().find(|node| is_known && Some(node.incarnation) == self.best[at]);
            let to = to.cloned();
            actions.extend(self.shards[at].hand_over(shard_id(at), to));
        }
        if self.shards.iter().any(|shard| shard.role != Role::Idle) {
            return;
        }
        let given_at = *self.given_at.get_or_insert(now);
        let begins = |shard: &Shard| shard.known.as_ref().is_some_and(|known| !known.leads());
        let waits = !self.leaving && now < given_at + SUCCESSORS_WAIT_MAX;
        if !(waits && self.shards.iter().any(begins)) {
            self.left = true;
            actions.push(Action::Leave);
        }
    }
}

/// Asks, unless an answer is awaited, or has come lately: then it was that it leads.
fn ask_once(shard: &Shard, whom: &Lease, now: Duration) -> Step {
    if shard.is_asking(None, now) || shard.answer_of(whom, now).is_some() {
        Step::Wait
    } else {
        Step::Ask(whom.clone())
    }
}

impl Beats {
    /// Lets the next beat come as soon as may be.
    pub(super) fn soon(&mut self, now: Duration) {
        let soonest = self.last.map_or(now, |last| last + BEAT_PAUSE_MIN);
        self.next = self.next.min(soonest.max(now));
    }

    /// Begins a beat if it is time for one.
    fn begin(&mut self, now: Duration) -> bool {
        let due = !self.under_way && now >= self.next;
        if due {
            self.under_way = true;
            self.last = Some(now);
            self.next = now + BEAT_INTERVAL;
        }
        due
    }
}
