//! A produce on its way: the node it reaches finds the topic, and passes it on until it is where the shard is led.

use std::sync::Arc;

use forebay_gateway::topics::TopicsError;
use forebay_log::coordinator::lease::Standing;
use forebay_log::model::{Durability, PartitionId, Topic, TopicId};
use forebay_log::shard::append::{Append, Dedupe};

use super::client::{Heard, Request};
use super::history::name;
use super::node::id;
use super::topics::{Broken, Purpose};
use super::{Cluster, Event, Led};
use crate::check::{Check, violation};
use crate::client::Sent;
use crate::config::Micros;
use crate::store::{RecordId, in_topic};
use crate::world::{number, timestamp, topic_number};

/// How often a request is passed on before it is refused.
const HOPS_MAX: u32 = 3;

/// A request that has found its topic.
#[derive(Debug, Clone)]
pub(crate) struct Routed {
    pub(crate) request: Request,
    pub(crate) topic: TopicId,
    pub(crate) shard: usize,
    pub(crate) sent: Sent,
    /// The node that the client sent it to.
    through: usize,
    hops: u32,
    /// The version of the register that the next node is told of; 0 if it need not look again.
    pub(crate) version: u64,
    /// The version that the first node knew.
    seen: u64,
    /// It looked for that version in vain.
    in_vain: bool,
}

impl Routed {
    fn to_append(&self) -> Append {
        let level = if self.request.local { Durability::Local } else { Durability::Object };
        Append { level, ..self.sent.to_append(self.request.invoked) }
    }

    /// The leader need not look again, whether or not it knows now what it should.
    pub(crate) fn after_a_look(self, succeeded: bool) -> Self {
        Self { version: 0, in_vain: !succeeded, ..self }
    }

    pub(crate) fn records(&self) -> &[(usize, Vec<RecordId>)] {
        &self.sent.records
    }
}

impl Cluster {
    /// A request reaches a node from its client.
    pub(crate) fn request(&mut self, number: usize, request: Request) -> Check {
        if self.nodes[number].is_down() {
            self.answer(&request, Heard::Failed);
            return Ok(());
        }
        let begun_with = request.begun_with.and_then(|id| self.register.topic(id));
        match begun_with.filter(|_| self.broken == Some(Broken::UnitNotAsked)) {
            Some(topic) => self.routed(number, request, Ok(topic)),
            None => self.ask(number, Purpose::Route(request)),
        }
    }

    pub(crate) fn answer(&mut self, request: &Request, heard: Heard) {
        let (client, attempt, after) = (request.client, request.attempt, self.network());
        self.after(after, Event::Result { client, attempt, result: Some(heard) });
    }

    fn missing(&mut self, request: &Request) -> Check {
        self.stats.missing += 1;
        self.stats.units_refused += u64::from(request.begun_with.is_some());
        self.note(|_| format!("a topic or partition is called missing: {request:?}"));
        let partition = (name(request.name), request.partition);
        self.register.missing(partition, request.begun_with, (request.sent, self.now))?;
        self.answer(request, Heard::Missing);
        Ok(())
    }

    /// A node has found the topic of a request, or not.
    pub(crate) fn routed(
        &mut self,
        through: usize,
        request: Request,
        found: Result<Arc<Topic>, TopicsError>,
    ) -> Check {
        let topic = match found {
            Ok(topic) => topic,
            Err(TopicsError::NotFound { .. }) => return self.missing(&request),
            Err(_) => {
                self.stats.unconfirmed += 1;
                self.answer(&request, Heard::Failed);
                return Ok(());
            }
        };
        let is_another = request.begun_with.is_some_and(|begun_with| begun_with != topic.id);
        if is_another || request.partition >= topic.partitions {
            return self.missing(&request);
        }
        let partition = PartitionId::new(request.partition);
        let slot = number(topic.partition(partition));
        let of_topic = topic_number(topic.id);
        let records: Vec<RecordId> =
            request.records.iter().map(|record| in_topic(*record, of_topic)).collect();
        let name = Dedupe {
            id: 1 + request.client as u128 + 1_000 * slot as u128,
            producer_epoch: None,
            first_sequence: request.sequence,
            body_hash: request.records[0],
        };
        let shard = usize::from(topic.shard_of(partition).get());
        let sent = Sent { records: vec![(slot, records)], name: Some(name) };
        self.shards[shard].judge.sent(&sent.records);
        let seen = self.copy(through).map_or(0, |copy| copy.replica.version());
        let (topic, hops) = (topic.id, 0);
        let routed =
            Routed { request, topic, shard, sent, through, hops, version: seen, seen, in_vain: false };
        self.forwarded(through, routed)
    }

    /// A leader knew the topic to be gone, which this request was sent to: what has its name now is another, or none.
    pub(crate) fn routed_again(
        &mut self,
        request: &Request,
        gone: TopicId,
        found: Result<Arc<Topic>, TopicsError>,
    ) -> Check {
        match found {
            Err(TopicsError::NotFound { .. }) => self.missing(request),
            Ok(topic) if request.begun_with.is_some() && topic.id != gone => self.missing(request),
            _ => {
                self.answer(request, Heard::Failed);
                Ok(())
            }
        }
    }

    /// A request is at a node that may lead its shard.
    pub(crate) fn forwarded(&mut self, number: usize, routed: Routed) -> Check {
        let (after, now, shard) = (self.network(), self.at(), routed.shard);
        let node = &mut self.nodes[number];
        let life = node.life;
        let Some(process) = &mut node.process else {
            self.answer(&routed.request, Heard::Failed);
            return Ok(());
        };
        if let Some(leading) = process.leading.get_mut(&shard).filter(|leading| leading.resigns.is_none()) {
            if routed.version > process.topics.replica.version() {
                return self.ask(number, Purpose::Append(routed));
            }
            if process.topics.gone.contains(&routed.topic) {
                self.stats.stale_refusals += 1;
                if self.broken == Some(Broken::GoneIsMissing) {
                    return self.missing(&routed.request);
                }
                let event = Event::Gone { node: routed.through, request: routed.request, gone: routed.topic };
                self.after(after, event);
                return Ok(());
            }
            let knows = process.topics.replica.version();
            if knows < routed.seen && !routed.in_vain {
                let detail =
                    format!("a leader that knows version {knows} appends for one that knew {}", routed.seen);
                return violation("behind", detail);
            }
            if !leading.leader.takes_appends() {
                self.after(after, Event::Forwarded { node: number, routed });
                return Ok(());
            }
            if routed.request.local {
                self.shards[shard].judge.sent_local(routed.records());
            }
            let epoch = leading.leader.epoch().get();
            let replies = leading.leader.append(now, timestamp(self.now), vec![routed.to_append()]);
            leading.waiting.extend(replies.into_iter().map(|reply| (reply, routed.clone())));
            return self.act(Led { node: number, life, shard, epoch });
        }
        // Whoever sent it learns whom this node knows.
        let known = match process.leases.standing(id(shard)) {
            Standing::Neither(known) => known,
            Standing::Leads(_) | Standing::TakesOver(_) => None,
        };
        let to = known.map(|known| known.address.parse::<usize>().expect("addresses are numbers"));
        match to.filter(|to| *to != number && routed.hops < HOPS_MAX && self.reaches(number, *to)) {
            Some(to) => self.pass_on(to, after, routed),
            None => self.answer(&routed.request, Heard::Failed),
        }
        Ok(())
    }

    fn pass_on(&mut self, to: usize, after: Micros, routed: Routed) {
        self.stats.forwarded += 1;
        let carried = self.broken != Some(Broken::VersionNotCarried);
        let version = if carried { routed.seen } else { 0 };
        let routed = Routed { hops: routed.hops + 1, version, in_vain: false, ..routed };
        self.after(after, Event::Forwarded { node: to, routed });
    }
}
