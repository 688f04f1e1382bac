//! What each event says about the node's state. What to do about it is decided by the turn that follows.

use std::time::Duration;

use rand::Rng as _;

use super::shard::{Answer, Role, Shard};
use super::{Action, Event, Leases, Probe, Standing};
use crate::coordinator::{Lease, View};
use crate::limits::{LEASE_TTL, MOVE_AGAIN_AFTER, PROBE_PAUSE};
use crate::model::{Incarnation, LeaderEpoch, ShardId};
use crate::mutation::{self, Mutation};

impl Leases {
    pub(super) fn take(&mut self, event: Event, now: Duration, actions: &mut Vec<Action>) {
        match event {
            Event::Tick => {}
            Event::Viewed(view) => self.viewed(view, now, actions),
            Event::BeatFailed => self.beat_failed(),
            Event::Probed { shard, whom, probe } => self.probed(shard, whom, probe, now),
            Event::Acquired { shard, won } => self.acquired(shard, won, now, actions),
            Event::Began { shard, epoch } => self.began(shard, epoch, now, actions),
            Event::Ended { shard, superseded } => self.ended(shard, superseded, now, actions),
            Event::HandedOver { shard } => self.handed_over(shard),
            Event::Kept { shard } => self.kept(shard, now),
            Event::Lead { shard } => self.lead(shard, now, actions),
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
                actions.push(Action::Doubt { shard: id });
            }
        }
        self.view = view;
        self.viewed_at = Some(now);
        self.place(now);
    }

    fn beat_failed(&mut self) {
        self.beats.under_way = false;
        self.viewed_at = None;
        self.shards.iter_mut().for_each(Shard::lose_sight);
    }

    /// Tells whether the last view is recent enough to act upon, and to compare the next one with.
    pub(super) fn is_sighted(&self, now: Duration) -> bool {
        self.viewed_at.is_some_and(|at| now.saturating_sub(at) < LEASE_TTL)
    }

    fn probed(&mut self, shard: ShardId, whom: Incarnation, probe: Probe, now: Duration) {
        let pause = PROBE_PAUSE + self.draw(PROBE_PAUSE);
        let me = self.me.incarnation;
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
    }

    fn acquired(&mut self, shard: ShardId, won: bool, now: Duration, actions: &mut Vec<Action>) {
        let draining = self.me.draining;
        let Some(state) = self.in_role(shard, |role| *role == Role::Acquiring) else { return };
        if won && !draining {
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
        let may_lead = self.me.ready && !self.me.draining;
        let Some(state) = self.in_role(shard, |role| *role != Role::Idle) else { return };
        state.end(superseded, now);
        if std::mem::take(&mut state.invited) && may_lead {
            state.role = Role::TakingOver;
            actions.push(Action::TakeOver { shard });
            return;
        }
        actions.push(Action::Release { shard });
        self.back_off(shard, now);
    }

    fn handed_over(&mut self, shard: ShardId) {
        let me = self.me.incarnation;
        let Some(state) = self.in_role(shard, |role| matches!(role, Role::HandingOver { .. })) else {
            return;
        };
        let role = std::mem::take(&mut state.role);
        if let Role::HandingOver { to: Some(to), .. } = role {
            state.learn(&to.lease(LeaderEpoch::ZERO), me);
        }
    }

    fn kept(&mut self, shard: ShardId, now: Duration) {
        let Some(state) = self.in_role(shard, |role| matches!(role, Role::HandingOver { .. })) else {
            return;
        };
        if let Role::HandingOver { epoch, .. } = state.role {
            state.role = Role::Leading { epoch };
            state.stays_until = now + MOVE_AGAIN_AFTER;
        }
    }

    fn lead(&mut self, shard: ShardId, now: Duration, actions: &mut Vec<Action>) {
        if self.me.draining || !self.me.ready {
            return;
        }
        let Some(state) = self.shards.get_mut(usize::from(shard.get())) else { return };
        match state.role {
            Role::Idle => {
                state.role = Role::TakingOver;
                state.try_at = None;
                actions.push(Action::TakeOver { shard });
            }
            // Somebody led in between, and this node does not know it. (Else the message is late.)
            Role::Leading { .. } if state.has_led_for(now) >= LEASE_TTL => {
                state.invited = true;
                actions.push(Action::Doubt { shard });
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
        let whom = known.filter(|known| known.leads()).or(held).or(known).cloned();
        let Some(whom) = whom.filter(|whom| !self.gone.contains_key(&whom.incarnation)) else { return };
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
