//! What a node knows of one shard, and what it does about it.

use std::collections::VecDeque;
use std::time::Duration;

use super::Action;
use crate::coordinator::{Lease, NodeInfo};
use crate::limits::{
    LEAD_BACKOFF_MAX, LEAD_BACKOFF_MIN, LEASE_ABSENT_MIN, PROBE_AGE_MAX, PROBE_ANSWERS_MAX,
    PROBE_DENIAL_AGE_MAX, PROBES_REFUSED,
};
use crate::model::{Incarnation, LeaderEpoch, ShardId};

/// What the node does with the shard.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) enum Role {
    /// Follows, at most.
    #[default]
    Idle,
    /// Asks for the lease.
    Acquiring,
    /// Holds the lease, and writes its EPOCH.
    TakingOver,
    /// Leads, whatever the coordinator says.
    Leading { epoch: LeaderEpoch },
    /// Stops leading in favour of another node, or of nobody.
    HandingOver { epoch: LeaderEpoch, to: Option<Box<NodeInfo>> },
}

/// A question to a node whether it leads the shard, under way.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) whom: Lease,
    at: Duration,
    refused: u32,
    /// When to ask again after a refusal.
    pub(super) again_at: Option<Duration>,
}

/// What a node answered.
#[derive(Debug)]
struct Answered {
    whom: Lease,
    answer: Answer,
    at: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// It leads or takes over.
    Yes,
    /// It does neither.
    No,
    /// It did not answer.
    Silent,
}

/// How long there has been no lease that counts.
#[derive(Debug, Clone, Copy)]
struct Absent {
    since: Duration,
    /// Whether the view before still had one, so that it has just expired, was given back, or was wiped.
    vanished: bool,
}

/// One shard.
#[derive(Debug, Default)]
pub(super) struct Shard {
    pub(super) role: Role,
    /// Who leads, as far as is known.
    pub(super) known: Option<Lease>,
    /// The highest epoch of which is known that somebody led it. Leases below it are those of superseded leaders.
    seen: LeaderEpoch,
    /// Whether the shard never had a leader.
    pub(super) never_led: bool,
    absent: Option<Absent>,
    pub(super) asked: Option<Asked>,
    /// The newest answers, one for each leadership that was asked about: two that send us to each other are asked once.
    answers: VecDeque<Answered>,
    /// When an attempt to lead begins that has been decided on.
    pub(super) try_at: Option<Duration>,
    /// When the leadership began.
    began_at: Duration,
    /// Whether the leadership was told to look whether it still is one.
    doubted: bool,
    /// Whether one that leads was given the shard by a successor of its own: it has been superseded.
    pub(super) invited: bool,
    /// Attempts that failed, or did not last.
    failures: u32,
    /// Before this no attempt to lead is made.
    pub(super) not_before: Duration,
    /// The better leader, and since when it has been that.
    pub(super) better: Option<(Incarnation, Duration)>,
    /// Before this the shard is not moved.
    pub(super) stays_until: Duration,
}

impl Shard {
    /// Notes who else leads or takes over, unless something newer is known. What `me` does the node knows best: whoever
    /// names it is late.
    pub(super) fn learn(&mut self, lease: &Lease, me: Incarnation) {
        if lease.incarnation == me {
            return;
        }
        let takes_over =
            !lease.leads() && self.known.as_ref().is_none_or(|known| known.incarnation != lease.incarnation);
        if takes_over || (lease.leads() && lease.epoch >= self.seen) {
            self.seen = self.seen.max(lease.epoch);
            self.never_led &= !lease.leads();
            self.known = Some(lease.clone());
        }
    }

    /// Tells whether a lease counts: it is not one of a leader that has been superseded.
    pub(super) fn counts(&self, lease: &Lease) -> bool {
        !lease.leads() || lease.epoch >= self.seen
    }

    /// Takes note of the lease in a view, and of the one in the view before if nothing was missed in between.
    pub(super) fn see(
        &mut self,
        lease: Option<&Lease>,
        before: Option<&Lease>,
        me: Incarnation,
        now: Duration,
    ) {
        if let Some(lease) = lease {
            self.learn(lease, me);
            if before != Some(lease) {
                // What its holder said before it took this lease is of no use any more.
                self.answers.retain(|answered| answered.whom.incarnation != lease.incarnation);
            }
        }
        if lease.is_some_and(|lease| self.counts(lease)) {
            self.absent = None;
        } else if self.absent.is_none() {
            self.absent = Some(Absent { since: now, vanished: before.is_some() });
            // Answers count from now on: before, the way there may have been cut, or one was about to lead.
            self.answers.clear();
        }
    }

    /// Forgets for how long things have been as they are: nothing was seen for a while.
    pub(super) fn lose_sight(&mut self) {
        self.absent = None;
        self.better = None;
        self.try_at = None;
    }

    /// Tells whether the lease has been absent for long enough, at the time of a view, to ask and to try.
    pub(super) fn is_vacant(&self, viewed_at: Duration) -> bool {
        self.absent.is_some_and(|absent| {
            absent.vanished || viewed_at.saturating_sub(absent.since) >= LEASE_ABSENT_MIN
        })
    }

    /// Returns what the holder of a lease answered lately about just this leadership.
    pub(super) fn answer_of(&self, whom: &Lease, now: Duration) -> Option<Answer> {
        let about = self.answers.iter().find(|answered| answered.whom == *whom)?;
        let counts = if about.answer == Answer::Yes { PROBE_AGE_MAX } else { PROBE_DENIAL_AGE_MAX };
        (now.saturating_sub(about.at) < counts).then_some(about.answer)
    }

    /// Tells whether a question is under way; with `whom`, to that one.
    pub(super) fn is_asking(&self, whom: Option<&Lease>, now: Duration) -> bool {
        self.asked.as_ref().is_some_and(|asked| {
            whom.is_none_or(|whom| *whom == asked.whom) && now.saturating_sub(asked.at) < PROBE_AGE_MAX
        })
    }

    /// Notes that a node is asked.
    pub(super) fn ask(&mut self, whom: Lease, now: Duration) {
        self.asked = Some(Asked { whom, at: now, refused: 0, again_at: None });
    }

    /// Has a node that takes over asked again after a pause: it may lead by then.
    pub(super) fn ask_later(&mut self, whom: Lease, pause: Duration, now: Duration) {
        self.asked = Some(Asked { whom, at: now, refused: 0, again_at: Some(now + pause) });
    }

    /// Takes the answer of the one that was asked.
    pub(super) fn answered(&mut self, answer: Answer, now: Duration) {
        let Some(Asked { whom, .. }) = self.asked.take() else { return };
        self.answers.retain(|answered| answered.whom != whom);
        if self.answers.len() >= PROBE_ANSWERS_MAX {
            self.answers.pop_front();
        }
        self.answers.push_back(Answered { whom, answer, at: now });
    }

    /// Notes that the one that was asked refused the connection. Returns whether it has done so often enough;
    /// otherwise it is asked again after a pause.
    pub(super) fn refused(&mut self, pause: Duration, now: Duration) -> bool {
        let Some(asked) = &mut self.asked else { return false };
        asked.refused += 1;
        (asked.at, asked.again_at) = (now, Some(now + pause));
        asked.refused >= PROBES_REFUSED
    }

    /// Notes which other node would lead better, if any.
    pub(super) fn placed(&mut self, better: Option<Incarnation>, now: Duration) {
        self.better = better.map(|better| match self.better {
            Some((before, since)) if before == better => (better, since),
            _ => (better, now),
        });
    }

    /// Tells whether the node is on the way to lead.
    pub(super) fn is_taking_over(&self) -> bool {
        matches!(self.role, Role::Acquiring | Role::TakingOver)
    }

    /// Notes that the node leads.
    pub(super) fn begin(&mut self, me: &NodeInfo, epoch: LeaderEpoch, now: Duration) {
        self.role = Role::Leading { epoch };
        self.began_at = now;
        self.seen = self.seen.max(epoch);
        self.known = Some(me.lease(epoch));
        self.never_led = false;
        self.asked = None;
        self.answers.clear();
        self.doubted = false;
        self.invited = false;
    }

    /// Returns the highest epoch of which is known that somebody led it.
    pub(super) fn seen(&self) -> LeaderEpoch {
        self.seen
    }

    /// Lets the leader look whether it still leads, unless it was told to before.
    pub(super) fn doubt(&mut self, shard: ShardId) -> Option<Action> {
        let Role::Leading { epoch } = self.role else { return None };
        (!std::mem::replace(&mut self.doubted, true)).then_some(Action::Doubt { shard, epoch })
    }

    /// Begins to give the shard away, if the node leads it.
    pub(super) fn hand_over(&mut self, shard: ShardId, to: Option<NodeInfo>) -> Option<Action> {
        let Role::Leading { epoch } = self.role else { return None };
        self.role = Role::HandingOver { epoch, to: to.clone().map(Box::new) };
        Some(Action::HandOver { shard, epoch, to, stopped: false })
    }

    /// Notes that an attempt failed or a leadership ended. Who superseded it will be seen.
    pub(super) fn end(&mut self, superseded: bool, now: Duration) {
        let role = std::mem::take(&mut self.role);
        let (Role::Leading { epoch } | Role::HandingOver { epoch, .. }) = role else { return };
        if now.saturating_sub(self.began_at) >= LEAD_BACKOFF_MAX {
            self.failures = 0;
        }
        if superseded {
            self.seen = self.seen.max(epoch.plus(1));
            self.known.take_if(|known| known.epoch < self.seen);
            self.absent = Some(Absent { since: now, vanished: false });
        }
    }

    /// Puts off the next attempt. `draw` chooses from zero up to what it is given.
    pub(super) fn back_off(&mut self, now: Duration, draw: impl FnOnce(Duration) -> Duration) {
        let doubled = LEAD_BACKOFF_MIN.saturating_mul(2u32.saturating_pow(self.failures.min(16)));
        let half = doubled.min(LEAD_BACKOFF_MAX) / 2;
        self.failures = self.failures.saturating_add(1);
        self.not_before = now + half + draw(half);
        self.try_at = None;
    }
}
