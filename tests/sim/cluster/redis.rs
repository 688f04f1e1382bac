//! The coordinator's contract in memory: what the scripts in Redis do, by one clock. It may be wiped, rolled back, gone,
//! and there may be two of it.

use std::collections::BTreeMap;

use forebay_log::coordinator::{Held, Lease, NodeInfo, View};
use forebay_log::limits::LEASE_TTL;
use forebay_log::model::{Incarnation, LeaderEpoch, NodeId, ShardId};
use forebay_log::testing::mutation::{self, Mutation};

use crate::config::Micros;

/// One server's data.
#[derive(Debug, Clone, Default)]
pub(crate) struct Redis {
    nodes: BTreeMap<NodeId, (Micros, NodeInfo)>,
    leases: BTreeMap<ShardId, (Micros, Lease)>,
    pub(crate) gone_until: Micros,
}

/// A call to it.
#[derive(Debug, Clone)]
pub(crate) enum Call {
    Beat(NodeInfo, Vec<Held>),
    Acquire(ShardId, NodeInfo, Option<Incarnation>),
    HandOver((ShardId, LeaderEpoch), NodeInfo, NodeInfo),
    Release(ShardId, Incarnation),
    Leave(NodeInfo),
}

/// What it answers.
#[derive(Debug)]
pub(crate) enum Answer {
    View(View),
    Won(bool),
    Done,
}

impl Redis {
    pub(crate) fn apply(&mut self, call: &Call, now: Micros) -> Answer {
        self.nodes.retain(|_, (expires, _)| *expires > now);
        self.leases.retain(|_, (expires, _)| *expires > now);
        let expires = now + LEASE_TTL.as_micros() as Micros;
        match call {
            Call::Beat(me, held) => {
                self.nodes.insert(me.id, (expires, me.clone()));
                held.iter().for_each(|held| self.renew(me, *held, expires));
                let nodes = self.nodes.values().map(|(_, node)| node.clone()).collect();
                let leases = self.leases.iter().map(|(shard, (_, lease))| (*shard, lease.clone())).collect();
                Answer::View(View { nodes, leases })
            }
            Call::Acquire(shard, me, instead_of) => {
                let giving_way = [Some(me.incarnation), *instead_of];
                Answer::Won(self.claim(*shard, me, &giving_way, expires))
            }
            Call::HandOver((shard, _), me, to) => {
                let giving_way = [Some(me.incarnation), Some(to.incarnation)];
                Answer::Won(self.claim(*shard, to, &giving_way, expires))
            }
            Call::Release(shard, me) => {
                if self.holder(*shard) == Some(*me) {
                    self.leases.remove(shard);
                }
                Answer::Done
            }
            Call::Leave(me) => {
                self.nodes.retain(|_, (_, node)| node.incarnation != me.incarnation);
                self.leases.retain(|_, (_, lease)| lease.incarnation != me.incarnation);
                Answer::Done
            }
        }
    }

    fn holder(&self, shard: ShardId) -> Option<Incarnation> {
        self.leases.get(&shard).map(|(_, lease)| lease.incarnation)
    }

    fn renew(&mut self, me: &NodeInfo, held: Held, expires: Micros) {
        let mine = match self.leases.get(&held.shard) {
            None => !mutation::is(Mutation::LeaseNotMadeAgain),
            Some((_, lease)) => {
                lease.incarnation == me.incarnation || lease.leads() && lease.epoch < held.epoch
            }
        };
        if mine {
            self.leases.insert(held.shard, (expires, me.lease(held.epoch)));
        }
    }

    fn claim(
        &mut self,
        shard: ShardId,
        to: &NodeInfo,
        giving_way: &[Option<Incarnation>],
        expires: Micros,
    ) -> bool {
        let won = self.holder(shard).is_none_or(|holder| giving_way.contains(&Some(holder)));
        if won {
            self.leases.insert(shard, (expires, to.lease(LeaderEpoch::ZERO)));
        }
        won
    }

    pub(crate) fn wipe(&mut self) {
        self.nodes.clear();
        self.leases.clear();
    }

    /// A replica takes over that has what there was some time ago.
    pub(crate) fn roll_back(&mut self, older: Self) {
        (self.nodes, self.leases) = (older.nodes, older.leases);
    }
}
