//! Producers that send each request through another node, and repeat it by name until it is acknowledged.

use forebay_log::model::Durability;
use forebay_log::shard::append::{Append, Dedupe};

use super::{Cluster, Event};
use crate::config::{MILLI, Micros, PARTITIONS, SECOND};
use crate::exclusive::Sent;
use crate::store::RecordId;

/// A client waits so long for an answer.
const PATIENCE: Micros = 5 * SECOND;

/// One attempt on its way.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) client: usize,
    pub(crate) attempt: u64,
    pub(crate) shard: usize,
    pub(crate) sent: Sent,
    pub(crate) local: bool,
    /// When the first attempt was sent.
    pub(crate) invoked: Micros,
}

impl Request {
    pub(crate) fn to_append(&self) -> Append {
        let level = if self.local { Durability::Local } else { Durability::Object };
        Append { level, ..self.sent.to_append(self.invoked) }
    }

    pub(crate) fn records(&self) -> &[(usize, Vec<RecordId>)] {
        &self.sent.records
    }
}

/// One producer.
#[derive(Debug, Default)]
pub(crate) struct Client {
    active: Option<Request>,
    sequence: u32,
    attempts: u64,
}

impl Cluster {
    /// Begins an append, or sends the one that is not acknowledged yet once more.
    pub(crate) fn client_acts(&mut self, client: usize) {
        let fresh = self.clients[client].active.is_none();
        if fresh {
            let request = self.new_request(client);
            self.clients[client].active = Some(request);
        }
        let state = &mut self.clients[client];
        state.attempts += 1;
        let attempt = state.attempts;
        let Some(request) = &mut state.active else { return };
        request.attempt = attempt;
        let request = request.clone();
        self.shards[request.shard].judge.sent(request.records());
        let (node, after) = (self.rng.index(self.nodes.len()), self.network());
        self.after(after, Event::Request { node, request, hops: 0 });
        self.after(PATIENCE, Event::Result { client, attempt, result: None });
    }

    fn new_request(&mut self, client: usize) -> Request {
        let idle = usize::from(self.idle && self.calm);
        let shard = idle + self.rng.index(self.shards.len() - idle);
        let partition = self.rng.index(PARTITIONS);
        let first = self.records + 1;
        self.records += self.rng.between(1, 3);
        let local = self.rng.chance(self.local);
        let state = &mut self.clients[client];
        state.sequence += 1;
        let id = 1 + client as u128 + 1_000 * shard as u128;
        let name = Dedupe { id, producer_epoch: None, first_sequence: state.sequence, body_hash: first };
        let sent = Sent { records: vec![(partition, (first..=self.records).collect())], name: Some(name) };
        Request { client, attempt: 0, shard, sent, local, invoked: self.now }
    }

    pub(crate) fn client_hears(&mut self, client: usize, attempt: u64, result: Option<bool>) {
        let state = &mut self.clients[client];
        if state.attempts != attempt || state.active.is_none() {
            return;
        }
        if result == Some(true) {
            state.active = None;
        }
        // What comes after this belongs to no attempt.
        state.attempts += 1;
        let pause = if result == Some(true) { 300 * MILLI } else { 50 * MILLI };
        let after = self.rng.between(pause, 3 * pause);
        self.after(after, Event::Client { client });
    }
}
