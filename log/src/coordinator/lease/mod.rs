//! Which shards a node tries to lead, and which it gives away: a state machine without clock and IO.
//!
//! A driver hands in what happens as [`Event`]s, together with the time since it started, and carries out the
//! [`Action`]s that come back. It calls again at [`Leases::wake`] with [`Event::Tick`]. Each action but [`Action::Release`],
//! [`Action::Announce`], [`Action::Doubt`] and [`Action::Leave`] is answered by exactly one event, which its
//! description names; an action is bounded in time, so its answer comes.
//!
//! The *best* leader of a shard follows from the view of the live nodes, the same at every node. Only the best leader
//! tries, and only with a reason to think that nobody leads:
//!
//! - the lease is absent and the shard never had a leader; or
//! - the lease vanished between two views, or was absent in all views for [`LEASE_ABSENT_MIN`](crate::limits::LEASE_ABSENT_MIN), and the last known leader
//!   does not say that it leads; or
//! - the lease is held, and the holder's address refuses connections, or its process says that it does not lead.
//!
//! A leader goes on until the store ends its leadership, or until it gives the shard away: to the node that has been the
//! better leader for [`MOVE_AFTER`](crate::limits::MOVE_AFTER), or to any other when it stops.
//!
//! A node that cannot use the store says that it is not ready. Nobody gives it a shard, and it gives away what it leads,
//! unless no node is ready: then the store is away for all, and nothing moves.
//!
//! While no view comes, nobody tries to lead, but leaders may still give shards away. Who looks for such a leader asks
//! whom the last one names, and who should lead by the last view.
//!
//! Invariants: nothing here is needed for safety. Without a fresh view no attempt begins. At most one shard is being
//! moved at a time for the sake of balance, and [`TAKEOVERS_MAX`](crate::limits::TAKEOVERS_MAX) are being taken over, those
//! that a predecessor gave away apart.

mod events;
mod place;
mod shard;
#[cfg(test)]
mod tests;
mod turn;

use std::collections::BTreeMap;
use std::time::Duration;

use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};

use self::shard::{Role, Shard};
use super::{Held, Lease, NodeInfo, View};
use crate::limits::SUCCESSORS_WAIT_MAX;
use crate::model::{Incarnation, LeaderEpoch, ShardId};

/// Something that happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// Nothing but time has passed.
    Tick,
    /// A beat was answered.
    Viewed(View),
    /// A beat failed.
    BeatFailed,
    /// A probe ended.
    Probed {
        /// The shard it asked about.
        shard: ShardId,
        /// The run of a process it was to ask.
        whom: Incarnation,
        /// What came of it.
        probe: Probe,
    },
    /// The lease was asked for.
    Acquired {
        /// The shard.
        shard: ShardId,
        /// Whether it is held now. A call that failed counts as lost.
        won: bool,
    },
    /// The store has made this node the leader.
    Began {
        /// The shard.
        shard: ShardId,
        /// The epoch it leads.
        epoch: LeaderEpoch,
    },
    /// An attempt to lead failed, or a leadership has ended.
    Ended {
        /// The shard.
        shard: ShardId,
        /// Whether the store showed a newer leader.
        superseded: bool,
    },
    /// The leadership has ended in favour of the successor, whether or not it could be told.
    HandedOver {
        /// The shard.
        shard: ShardId,
        /// The epoch that was led.
        epoch: LeaderEpoch,
    },
    /// The successor did not answer, or what waits for the store takes too long; this node has not stopped leading.
    Kept {
        /// The shard.
        shard: ShardId,
        /// The epoch that is led.
        epoch: LeaderEpoch,
    },
    /// The successor says that it will not lead.
    Declined {
        /// The shard.
        shard: ShardId,
        /// The epoch that is or was led.
        epoch: LeaderEpoch,
        /// Whether the leadership has ended.
        stopped: bool,
    },
    /// The predecessor has stopped in favour of this node, and says so.
    Lead {
        /// The shard.
        shard: ShardId,
        /// The epoch that it led.
        ended: LeaderEpoch,
    },
    /// The stream of objects from the shard's leader broke, or could not be made.
    FollowBroken {
        /// The shard.
        shard: ShardId,
    },
    /// A hint says that the shard has a new leader.
    LeaderChanged {
        /// The shard.
        shard: ShardId,
    },
    /// The store shows that the shard never had a leader.
    NeverLed {
        /// The shard.
        shard: ShardId,
    },
    /// This node may lead from now on, or may not: it has not caught up, or cannot use the store.
    Ready(bool),
    /// The shards of which this node's journal has something to append again.
    Leftovers(Vec<ShardId>),
    /// This node is to stop: it gives everything away and leaves, once it knows who leads instead.
    Drain,
    /// Nobody waits for this node any more: it need not know who leads instead.
    Leave,
}

/// Something to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Beat, with [`Leases::me`] and [`Leases::held`]. Answered by [`Event::Viewed`] or [`Event::BeatFailed`].
    Beat,
    /// Ask the holder of a lease what it does with the shard. Answered by [`Event::Probed`].
    Probe {
        /// The shard.
        shard: ShardId,
        /// Whom to ask.
        whom: Lease,
    },
    /// Take the lease, if it is absent or held by the run of a process that is named. Answered by [`Event::Acquired`].
    Acquire {
        /// The shard.
        shard: ShardId,
        /// Who may be replaced.
        instead_of: Option<Incarnation>,
    },
    /// Become leader by the rules of the log. Answered by [`Event::Began`] or [`Event::Ended`]; the end of a leadership
    /// is one more [`Event::Ended`], unless it is handed over.
    TakeOver {
        /// The shard.
        shard: ShardId,
    },
    /// Give the shard away: see that the successor answers; then refuse new work, flush, and stop; hand over the lease,
    /// and tell the successor to lead. Answered by [`Event::HandedOver`], by [`Event::Kept`] if the successor does not
    /// answer at first, by [`Event::Declined`] if it will not lead, or by [`Event::Ended`] if the leadership was lost
    /// before.
    HandOver {
        /// The shard.
        shard: ShardId,
        /// The epoch that is led.
        epoch: LeaderEpoch,
        /// The successor. Without one the lease is dropped.
        to: Option<NodeInfo>,
        /// Whether the leadership has ended already, and the successor chosen before declined.
        stopped: bool,
    },
    /// Drop the lease.
    Release {
        /// The shard.
        shard: ShardId,
    },
    /// Publish that the shard has a new leader.
    Announce {
        /// The shard.
        shard: ShardId,
    },
    /// Let the leader look at the store whether it still leads: somebody claims a later epoch. Once for each leadership.
    Doubt {
        /// The shard.
        shard: ShardId,
        /// The epoch that it leads.
        epoch: LeaderEpoch,
    },
    /// Leave the registry. The node gives and takes nothing any more.
    Leave,
}

/// What a node does with a shard, as it tells others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// It leads.
    Leads(Lease),
    /// It is taking over.
    TakesOver(Lease),
    /// Neither; perhaps it knows who does.
    Neither(Option<Lease>),
}

/// What came of a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// The process at the address answered.
    Answered(Standing),
    /// The connection was refused: nobody listens there.
    Refused,
    /// No answer came within [`PROBE_MAX`](crate::limits::PROBE_MAX), or nothing that could be understood.
    Silent,
}

/// The leases of one node: what it holds, and what it knows of others'.
#[derive(Debug)]
pub struct Leases {
    me: NodeInfo,
    shards: Vec<Shard>,
    view: View,
    /// When the view came; nothing if the last beat failed.
    viewed_at: Option<Duration>,
    /// The best leaders by the view.
    best: Vec<Option<Incarnation>>,
    beats: Beats,
    /// Runs of processes that are gone although the registry still has them, and since when that is known.
    gone: BTreeMap<Incarnation, Duration>,
    /// When it was decided last what to do.
    turned_at: Duration,
    /// Since when a node that stops leads nothing.
    given_at: Option<Duration>,
    /// Nobody waits for a node that stops.
    leaving: bool,
    left: bool,
    random: StdRng,
}

/// When to beat: one beat at a time.
#[derive(Debug, Default)]
struct Beats {
    under_way: bool,
    last: Option<Duration>,
    next: Duration,
}

impl Leases {
    /// Begins with no lease and no view. `me` is the node as it registers at first.
    pub fn new(me: NodeInfo, shards: u16, random: StdRng) -> Self {
        Self {
            me,
            shards: (0..shards).map(|_| Shard::default()).collect(),
            view: View::default(),
            viewed_at: None,
            best: vec![None; usize::from(shards)],
            beats: Beats::default(),
            gone: BTreeMap::new(),
            turned_at: Duration::ZERO,
            given_at: None,
            leaving: false,
            left: false,
            random,
        }
    }

    /// Returns what this node says of itself.
    pub fn me(&self) -> &NodeInfo {
        &self.me
    }

    /// Tells whether this node would lead a shard that is given to it.
    pub fn would_lead(&self) -> bool {
        self.me.ready && !self.me.draining
    }

    /// Returns the leases to renew.
    pub fn held(&self) -> Vec<Held> {
        let epoch = |shard: &Shard| match shard.role {
            Role::Idle | Role::Acquiring => None,
            Role::TakingOver => Some(LeaderEpoch::ZERO),
            Role::Leading { epoch } | Role::HandingOver { epoch, .. } => Some(epoch),
        };
        let held = self.numbered().filter_map(|(shard, state)| Some(Held { shard, epoch: epoch(state)? }));
        held.collect()
    }

    /// Returns who leads a shard or is taking it over, as far as this node knows. May be wrong: whoever is asked says
    /// what it does, and whom it knows.
    pub fn leader_of(&self, shard: ShardId) -> Option<Lease> {
        match self.standing(shard) {
            Standing::Leads(lease) | Standing::TakesOver(lease) => Some(lease),
            Standing::Neither(known) => known,
        }
    }

    /// Returns what this node does with a shard: the answer to a probe.
    pub fn standing(&self, shard: ShardId) -> Standing {
        let Some(state) = self.shards.get(usize::from(shard.get())) else { return Standing::Neither(None) };
        match state.role {
            Role::Leading { epoch } | Role::HandingOver { epoch, .. } => {
                Standing::Leads(self.me.lease(epoch))
            }
            Role::Acquiring | Role::TakingOver => Standing::TakesOver(self.me.lease(LeaderEpoch::ZERO)),
            Role::Idle => {
                let is_other = |lease: &&Lease| lease.incarnation != self.me.incarnation;
                Standing::Neither(state.known.as_ref().filter(is_other).cloned())
            }
        }
    }

    /// Takes note of what another node says about a shard's leader.
    pub fn hint(&mut self, shard: ShardId, lease: &Lease) {
        if let Some(state) = self.shards.get_mut(usize::from(shard.get())) {
            state.learn(lease, self.me.incarnation);
        }
    }

    /// Returns the run of a process that should lead a shard, by the last view.
    pub fn best(&self, shard: ShardId) -> Option<Incarnation> {
        self.best.get(usize::from(shard.get())).copied().flatten()
    }

    /// Returns when to call [`Self::handle`] next if nothing happens before.
    pub fn wake(&self) -> Duration {
        if self.left {
            return Duration::MAX;
        }
        let beat = if self.beats.under_way { Duration::MAX } else { self.beats.next };
        let of_shard = |shard: &Shard| {
            let again_at = shard.asked.as_ref().and_then(|asked| asked.again_at);
            let retry_at = (shard.role == Role::Idle).then_some(shard.not_before);
            let due = [again_at, shard.try_at, retry_at];
            due.into_iter().flatten().filter(|at| *at > self.turned_at).min()
        };
        let leave = self.given_at.map_or(Duration::MAX, |given_at| given_at + SUCCESSORS_WAIT_MAX);
        self.shards.iter().filter_map(of_shard).fold(beat.min(leave), Duration::min)
    }

    /// Takes an event in and returns what to do. `now` is the time since the driver started; it never goes back.
    pub fn handle(&mut self, event: Event, now: Duration) -> Vec<Action> {
        let mut actions = Vec::new();
        self.take(event, now, &mut actions);
        self.turn(now, &mut actions);
        actions
    }

    fn numbered(&self) -> impl Iterator<Item = (ShardId, &Shard)> {
        self.shards.iter().enumerate().map(|(at, state)| (shard_id(at), state))
    }
}

/// Returns the number of the shard at a place in the list of all.
fn shard_id(at: usize) -> ShardId {
    ShardId::new(u16::try_from(at).expect("there are at most as many shards as numbers"))
}
