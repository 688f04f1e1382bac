//! Producers that send each request through another node, and repeat it by name until it is acknowledged or its topic is
//! missing. Some requests are long: unit after unit to one topic, each judged by the node anew.

use forebay_log::model::TopicId;

use super::{Cluster, Event};
use crate::config::{MILLI, Micros, SECOND};
use crate::store::RecordId;
use crate::world::TOPIC_PARTITIONS_MAX;

/// A client waits so long for an answer.
const PATIENCE: Micros = 5 * SECOND;
/// Most units of a long request.
const UNITS_MAX: u64 = 5;

/// One attempt on its way.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) client: usize,
    pub(crate) attempt: u64,
    /// The topic, by the number of its name.
    pub(crate) name: usize,
    pub(crate) partition: u16,
    pub(crate) records: Vec<RecordId>,
    pub(crate) sequence: u32,
    pub(crate) local: bool,
    /// When the first attempt was sent.
    pub(crate) invoked: Micros,
    /// When this attempt was sent.
    pub(crate) sent: Micros,
    /// The topic that earlier units of the same request went to.
    pub(crate) begun_with: Option<TopicId>,
}

/// What a client hears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heard {
    /// It is in this topic.
    Acked(TopicId),
    /// There is no such topic or partition.
    Missing,
    /// It may be repeated.
    Failed,
}

/// A request whose next unit goes to the same node.
#[derive(Debug, Clone, Copy)]
struct Long {
    node: usize,
    topic: Option<TopicId>,
    /// The name and partition of its units, once there was one.
    to: Option<(usize, u16)>,
    units: u64,
}

/// One producer.
#[derive(Debug, Default)]
pub(crate) struct Client {
    active: Option<Request>,
    long: Option<Long>,
    sequence: u32,
    attempts: u64,
}

impl Cluster {
    /// Begins an append, or sends the one that is not acknowledged yet once more.
    pub(crate) fn client_acts(&mut self, client: usize) {
        if self.clients[client].active.is_none() {
            let request = self.new_request(client);
            self.clients[client].active = Some(request);
        }
        let (any, now) = (self.rng.index(self.nodes.len()), self.now);
        let state = &mut self.clients[client];
        state.attempts += 1;
        let attempt = state.attempts;
        let (node, begun_with) = state.long.map_or((any, None), |long| (long.node, long.topic));
        let Some(request) = &mut state.active else { return };
        *request = Request { attempt, sent: now, begun_with, ..request.clone() };
        let request = request.clone();
        let after = self.network();
        self.after(after, Event::Request { node, request });
        self.after(PATIENCE, Event::Result { client, attempt, result: None });
    }

    fn new_request(&mut self, client: usize) -> Request {
        let goes_on = self.clients[client].long.and_then(|long| long.to);
        let (name, partition) = goes_on.unwrap_or_else(|| self.any_partition());
        let first = self.records + 1;
        self.records += self.rng.between(1, 3);
        let local = self.rng.chance(self.local);
        if self.clients[client].long.is_none() && self.rng.chance(0.2) {
            let node = self.rng.index(self.nodes.len());
            let units = self.rng.between(2, UNITS_MAX);
            self.clients[client].long = Some(Long { node, topic: None, to: None, units });
        }
        let state = &mut self.clients[client];
        state.sequence += 1;
        Request {
            client,
            attempt: 0,
            name,
            partition,
            records: (first..=self.records).collect(),
            sequence: state.sequence,
            local,
            invoked: self.now,
            sent: self.now,
            begun_with: None,
        }
    }

    /// Draws what a client appends to. Now and then it is a partition that does not exist yet.
    fn any_partition(&mut self) -> (usize, u16) {
        if self.idle && self.calm {
            let beside = |partition: &u16| usize::from(*partition) % self.shards.len() != 0;
            let all: Vec<u16> = (0..TOPIC_PARTITIONS_MAX).filter(beside).collect();
            return (0, all[self.rng.index(all.len())]);
        }
        let name = if self.rng.chance(0.5) { 0 } else { 1 + self.rng.index(super::history::NAMES - 1) };
        let there = self.register.partitions(name).unwrap_or(1);
        let most = (there + u16::from(self.rng.chance(0.1))).min(TOPIC_PARTITIONS_MAX);
        (name, self.rng.below(u64::from(most)) as u16)
    }

    pub(crate) fn client_hears(&mut self, client: usize, attempt: u64, result: Option<Heard>) {
        let state = &mut self.clients[client];
        if state.attempts != attempt || state.active.is_none() {
            return;
        }
        let to = state.active.as_ref().map(|unit| (unit.name, unit.partition));
        state.long = match (state.long, result) {
            (Some(long), Some(Heard::Acked(topic))) if long.units > 1 => {
                Some(Long { topic: Some(topic), to, units: long.units - 1, ..long })
            }
            _ => None,
        };
        let is_over = matches!(result, Some(Heard::Acked(_) | Heard::Missing));
        if is_over {
            state.active = None;
        }
        // What comes after this belongs to no attempt.
        state.attempts += 1;
        let pause = if is_over { 300 * MILLI } else { 50 * MILLI };
        let after = self.rng.between(pause, 3 * pause);
        self.after(after, Event::Client { client });
    }
}
