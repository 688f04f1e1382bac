//! What each event says about the node's state. What to do about it is decided by the turn that follows.

use std::time::Duration;

use rand::Rng as _;

use super::shard::{Answer, Role, Shard};
use super::{Action, Event, Leases, Probe, Standing};
use crate::coordinator::{Lease, View};
use crate::limits::{LEASE_TTL, MOVE_AGAIN_AFTER, PROBE_PAUSE, TAKING_OVER_PAUSE};
use crate::model::{Incarnation, LeaderEpoch, ShardId};
use crate::mutation::{self, Mutation};

impl Leases {
    pub(super) fn take(&mut self, event: Event, now: Duration, actions: &mut Vec<Action>) {
        match event {
            Event::Tick => {}
            Event::Viewed(view) => self.viewed(view, now, actions),
            Event::BeatFailed => self.beat_failed(now, actions),
            Event::Probed { shard, whom, probe } => self.probed((shard, whom), probe, now, actions),
            Event::Acquired { shard, won } => self.acquired(shard, won, now, actions),
            Event::Began { shard, epoch } => self.began(shard, epoch, now, actions),
            Event::Ended { shard, superseded } => self.ended(shard, superseded, now, actions),
            Event::HandedOver { shard, epoch } => self.handed_over(shard, epoch),
            Event::Kept { shard, epoch } => self.kept(shard, epoch, now),
            Event::Declined { shard, epoch, stopped } => {
                self.declined((shard, epoch), stopped, now, actions);
            }
            Event::Lead { shard, ended } => self.lead(shard, ended, actions),
            Event::FollowBroken { shard } => self.follow_broken(shard, now, actions),
            Event::LeaderChanged { .. } => self.beats.soon(now),
            Event::NeverLed { shard } => self.never_led(shard),
            Event::Ready(ready) => {
                self.me.ready = ready;
                self.changed(now);
            }
            Event::Leftovers(shards) => {
                self.me.leftovers = shards;
                self.changed(now);
            }
            Event::Drain => {
                self.me.draining = true;
                self.shards.iter_mut().for_each(|shard| shard.stays_until = Duration::ZERO);
                self.changed(now);
            }
            Event::Leave => self.leaving = true,
        }
    }

    /// Lets the others know soon what this node says of itself now.
    fn changed(&mut self, now: Duration) {
        self.place(now);
        self.beats.soon(now);
    }

    fn viewed(&mut self, view: View, now: Duration, actions: &mut Vec<Action>) {
        self.beats.under_way = false;
        // A process that stood still has missed what happened meanwhile, just as one whose beat failed.
        let mut before = View::default();
        if self.is_sighted(now) {
            before = std::mem::take(&mut self.view);
        } else {
            self.shards.iter_mut().for_each(Shard::lose_sight);
        }
        let me = self.me.incarnation;
        for (at, shard) in self.shards.iter_mut().enumerate() {
            let id = super::shard_id(at);
            let lease = view.leases.get(&id);
            shard.see(lease, before.leases.get(&id), me, now);
            if let (Role::Leading { epoch }, Some(lease)) = (&shard.role, lease)
                && lease.epoch > *epoch
                && lease.incarnation != me
            {
                actions.extend(shard.doubt(id));
            }
        }
        self.view = view;
        self.viewed_at = Some(now);
        self.place(now);
    }

    fn beat_failed(&mut self, now: Duration, actions: &mut Vec<Action>) {
        self.beats.under_way = false;
        self.viewed_at = None;
        self.shards.iter_mut().for_each(Shard::lose_sight);
        for at in 0..self.shards.len() {
            self.seek(super::shard_id(at), now, actions);
        }
    }

    /// Asks who should lead a shard, while no view says who does: the one that takes over as far as is known, or the best
    /// leader by the last view.
    fn seek(&mut self, shard: ShardId, now: Duration, actions: &mut Vec<Action>) {
        let at = usize::from(shard.get());
        let Some(state) = self.shards.get(at) else { return };
        if self.is_sighted(now) || state.role != Role::Idle || state.is_asking(None, now) {
            return;
        }
        let me = self.me.incarnation;
        let known = state.known.as_ref().filter(|known| known.incarnation != me);
        if known.is_some_and(|known| known.leads() && !self.does_not_lead(state, known, now)) {
            return;
        }
        let best = self.view.nodes.iter().find(|node| Some(node.incarnation) == self.best[at]);
        let best = best.map(|best| best.lease(LeaderEpoch::ZERO)).filter(|best| best.incarnation != me);
        let may_say = |whom: &Lease| {
            let is_gone = self.gone.contains_key(&whom.incarnation);
            !is_gone && state.answer_of(whom, now).is_none_or(|answer| answer == Answer::Yes)
        };
        let whom = known.filter(|known| !known.leads()).cloned().into_iter().chain(best).find(may_say);
        if let Some(whom) = whom {
            self.shards[at].ask(whom.clone(), now);
            actions.push(Action::Probe { shard, whom });
        }
    }

    /// Tells whether the last view is recent enough to act upon, and to compare the next one with.
    pub(super) fn is_sighted(&self, now: Duration) -> bool {
        self.viewed_at.is_some_and(|at| now.saturating_sub(at) < LEASE_TTL)
    }

    fn probed(
        &mut self,
        (shard, whom): (ShardId, Incarnation),
        probe: Probe,
        now: Duration,
        actions: &mut Vec<Action>,
    ) {
        let pause = PROBE_PAUSE + self.draw(PROBE_PAUSE);
        let (me, is_sighted) = (self.me.incarnation, self.is_sighted(now));
        let Some(state) = self.shards.get_mut(usize::from(shard.get())) else { return };
        if state.asked.as_ref().is_none_or(|asked| asked.whom.incarnation != whom) {
            return;
        }
        match probe {
            Probe::Answered(standing) => {
                let (answer, known) = match standing {
                    Standing::Leads(lease) | Standing::TakesOver(lease) => {
                        // Another run of a process has the address now.
                        let same = lease.incarnation == whom;
                        (if same { Answer::Yes } else { Answer::No }, Some(lease))
                    }
                    Standing::Neither(known) => (Answer::No, known),
                };
                state.answered(answer, now);
                if let Some(known) = known {
                    state.learn(&known, me);
                    if answer == Answer::Yes && !known.leads() && !is_sighted {
                        state.ask_later(known, TAKING_OVER_PAUSE, now);
                    }
                }
            }
            Probe::Refused if !mutation::is(Mutation::RefusalIgnored) => {
                if state.refused(pause, now) {
                    state.answered(Answer::No, now);
                    self.gone.insert(whom, now);
                    self.place(now);
                }
            }
            Probe::Refused | Probe::Silent => state.answered(Answer::Silent, now),
        }
        self.seek(shard, now, actions);
    }

    fn acquired(&mut self, shard: ShardId, won: bool, now: Duration, actions: &mut Vec<Action>) {
        let would_lead = self.would_lead();
        let Some(state) = self.in_role(shard, |role| *role == Role::Acquiring) else { return };
        if won && would_lead {
            state.role = Role::TakingOver;
            actions.push(Action::TakeOver { shard });
            return;
        }
        state.role = Role::Idle;
        if won {
            actions.push(Action::Release { shard });
        }
        self.back_off(shard, now);
    }

    fn began(&mut self, shard: ShardId, epoch: LeaderEpoch, now: Duration, actions: &mut Vec<Action>) {
        let me = self.me.clone();
        let Some(state) = self.in_role(shard, |role| *role == Role::TakingOver) else { return };
        state.begin(&me, epoch, now);
        actions.push(Action::Announce { shard });
        self.beats.soon(now);
    }

    fn ended(&mut self, shard: ShardId, superseded: bool, now: Duration, actions: &mut Vec<Action>) {
        let would_lead = self.would_lead();
        let Some(state) = self.in_role(shard, |role| *role != Role::Idle) else { return };
        state.end(superseded, now);
        if std::mem::take(&mut state.invited) && would_lead {
            state.role = Role::TakingOver;
            actions.push(Action::TakeOver { shard });
            return;
        }
        actions.push(Action::Release { shard });
        self.back_off(shard, now);
    }

    fn handed_over(&mut self, shard: ShardId, epoch: LeaderEpoch) {
        let me = self.me.incarnation;
        let Some(state) = self.handing_over(shard, epoch) else { return };
        let role = std::mem::take(&mut state.role);
        if let Role::HandingOver { to: Some(to), .. } = role {
            state.learn(&to.lease(LeaderEpoch::ZERO), me);
        }
    }

    fn kept(&mut self, shard: ShardId, epoch: LeaderEpoch, now: Duration) {
        let Some(state) = self.handing_over(shard, epoch) else { return };
        state.role = Role::Leading { epoch };
        state.stays_until = now + MOVE_AGAIN_AFTER;
    }

    /// Leads on, or passes the shard on to the next best, which may be this node again.
    fn declined(
        &mut self,
        (shard, epoch): (ShardId, LeaderEpoch),
        stopped: bool,
        now: Duration,
        actions: &mut Vec<Action>,
    ) {
        let Some(state) = self.handing_over(shard, epoch) else { return };
        let role = std::mem::replace(&mut state.role, Role::Leading { epoch });
        let Role::HandingOver { to: Some(by), .. } = role else { return };
        // As its own entry will say with its next beat.
        let entry = self.view.nodes.iter_mut().find(|node| node.incarnation == by.incarnation);
        entry.into_iter().for_each(|entry| entry.ready = false);
        self.place(now);
        if !stopped {
            return;
        }
        let at = usize::from(shard.get());
        let best = self.best[at].filter(|best| *best != by.incarnation);
        if best == Some(self.me.incarnation) {
            self.shards[at].role = Role::TakingOver;
            actions.push(Action::TakeOver { shard });
            return;
        }
        let to = self.view.nodes.iter().find(|node| Some(node.incarnation) == best).cloned();
        self.shards[at].role = Role::HandingOver { epoch, to: to.clone().map(Box::new) };
        actions.push(Action::HandOver { shard, epoch, to, stopped: true });
    }

    fn lead(&mut self, shard: ShardId, ended: LeaderEpoch, actions: &mut Vec<Action>) {
        let would_lead = self.would_lead();
        let state = self.shards.get_mut(usize::from(shard.get())).filter(|_| would_lead);
        let Some(state) = state else { return };
        match state.role {
            // Else the message is late: somebody has led since.
            Role::Idle if state.seen() <= ended => {
                state.role = Role::TakingOver;
                state.try_at = None;
                actions.push(Action::TakeOver { shard });
            }
            // Somebody led in between, and this node does not know it.
            Role::Leading { epoch } if epoch <= ended => {
                state.invited = true;
                actions.extend(state.doubt(shard));
            }
            _ => {}
        }
    }

    /// Asks the leader whether it is there: if its process is gone, it need not be waited for until its lease expires.
    fn follow_broken(&mut self, shard: ShardId, now: Duration, actions: &mut Vec<Action>) {
        let is_other = |lease: &&Lease| lease.incarnation != self.me.incarnation;
        let held = self.view.leases.get(&shard).filter(is_other);
        let Some(state) = self.shards.get_mut(usize::from(shard.get())) else { return };
        let known = state.known.as_ref().filter(is_other);
        // A lease of a leader that has been superseded does not count.
        let candidates = [known.filter(|known| known.leads()), held, known];
        let is_there = |whom: &&Lease| !self.gone.contains_key(&whom.incarnation);
        let Some(whom) = candidates.into_iter().flatten().find(is_there).cloned() else {
            return self.seek(shard, now, actions);
        };
        if state.role == Role::Idle && !state.is_asking(Some(&whom), now) {
            state.ask(whom.clone(), now);
            actions.push(Action::Probe { shard, whom });
        }
    }

    fn never_led(&mut self, shard: ShardId) {
        if let Some(state) = self.in_role(shard, |role| *role == Role::Idle) {
            state.never_led = state.known.is_none();
        }
    }

    /// Returns a shard if the node plays such a part in it. Events that come late find it in another, and are void.
    fn in_role(&mut self, shard: ShardId, expected: impl FnOnce(&Role) -> bool) -> Option<&mut Shard> {
        let state = self.shards.get_mut(usize::from(shard.get()));
        state.filter(|state| expected(&state.role))
    }

    /// Returns a shard whose leadership of an epoch is being given away.
    fn handing_over(&mut self, shard: ShardId, epoch: LeaderEpoch) -> Option<&mut Shard> {
        self.in_role(shard, |role| matches!(role, Role::HandingOver { epoch: led, .. } if *led == epoch))
    }

    fn back_off(&mut self, shard: ShardId, now: Duration) {
        let random = &mut self.random;
        if let Some(state) = self.shards.get_mut(usize::from(shard.get())) {
            state.back_off(now, |most| random.random_range(Duration::ZERO..=most));
        }
    }

    pub(super) fn draw(&mut self, most: Duration) -> Duration {
        self.random.random_range(Duration::ZERO..=most)
    }
}
