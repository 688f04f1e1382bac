//! What the register of topics held, and when: what clients are told of topics is judged by it, apart from the code
//! under test.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use forebay_log::format::topics::TopicsFile;
use forebay_log::model::{ShardId, Topic, TopicId, TopicName};

use crate::check::{Check, Violation, violation};
use crate::config::Micros;
use crate::world::{TOPIC_PARTITIONS_MAX, topic};

/// Names of topics. The first always exists, and has partitions in all shards.
pub(crate) const NAMES: usize = 3;

pub(crate) fn name(number: usize) -> TopicName {
    format!("topic-{number}").parse().expect("a topic may be called so")
}

/// One content of the register, as it is stored.
#[derive(Debug, Clone)]
pub(crate) struct Content {
    pub(crate) version: u64,
    pub(crate) revision: u64,
    pub(crate) body: Bytes,
}

/// One topic, from its creation on.
#[derive(Debug)]
struct Incarnation {
    name: TopicName,
    /// As it was last.
    topic: Arc<Topic>,
    /// Since when it has had so many partitions.
    partitions: Vec<(Micros, u16)>,
    deleted: Option<Micros>,
    /// When the `DELETE` was answered.
    answered: Option<Micros>,
}

impl Incarnation {
    fn had(&self, partition: u16, from: Micros, to: Micros) -> bool {
        let was_there = self.partitions.iter().any(|(at, count)| *at <= from && partition < *count);
        was_there && self.deleted.is_none_or(|deleted| deleted > to)
    }
}

/// What a swap did.
#[derive(Debug, Default)]
pub(crate) struct Swapped {
    pub(crate) deleted: Vec<TopicId>,
    /// Topics that have the name of a deleted one.
    pub(crate) recreated: u64,
    pub(crate) grown: u64,
}

/// The register, and all that it ever held.
#[derive(Debug)]
pub(crate) struct Register {
    pub(crate) file: TopicsFile,
    /// The newest last.
    pub(crate) contents: Vec<Content>,
    incarnations: BTreeMap<TopicId, Incarnation>,
    /// Topics that somebody meant to create.
    made: u64,
}

impl Register {
    /// Holds the topic that always exists.
    pub(crate) fn new(shards: usize) -> Self {
        let mut register =
            Self { file: TopicsFile::new(), contents: Vec::new(), incarnations: BTreeMap::new(), made: 0 };
        let mut file = TopicsFile::new();
        let base = register.make(&mut file, TOPIC_PARTITIONS_MAX, (0, shards));
        file.topics.insert(name(0), base);
        register.swap(file, 0).expect("it is the first topic");
        register
    }

    /// Makes a topic that no other is.
    pub(crate) fn make(
        &mut self,
        file: &mut TopicsFile,
        partitions: u16,
        (first, shards): (usize, usize),
    ) -> Topic {
        let id = topic(self.made);
        self.made += 1;
        Topic {
            id,
            epoch: file.take_epoch(),
            partitions,
            first_shard: ShardId::new(first as u16),
            shard_count: shards as u16,
            version: 1,
            settings: Default::default(),
        }
    }

    pub(crate) fn content(&self) -> &Content {
        self.contents.last().expect("there is a first content")
    }

    /// Returns the number of partitions that a topic has.
    pub(crate) fn partitions(&self, number: usize) -> Option<u16> {
        self.file.topics.get(&name(number)).map(|topic| topic.partitions)
    }

    /// Returns a topic that is or was there, as it was last.
    pub(crate) fn topic(&self, id: TopicId) -> Option<Arc<Topic>> {
        self.incarnations.get(&id).map(|incarnation| Arc::clone(&incarnation.topic))
    }

    /// Takes another content.
    pub(crate) fn swap(&mut self, file: TopicsFile, now: Micros) -> Result<Swapped, Violation> {
        let mut swapped = Swapped::default();
        for (name, topic) in &file.topics {
            let is_new = !self.incarnations.contains_key(&topic.id);
            let had_name = self.incarnations.values().any(|incarnation| incarnation.name == *name);
            swapped.recreated += u64::from(is_new && had_name);
            let of_id = self.incarnations.entry(topic.id).or_insert_with(|| Incarnation {
                name: name.clone(),
                topic: Arc::new(topic.clone()),
                partitions: Vec::new(),
                deleted: None,
                answered: None,
            });
            if of_id.name != *name || of_id.deleted.is_some() {
                return violation("topics", format!("{name} has the id of {}", of_id.name));
            }
            of_id.topic = Arc::new(topic.clone());
            if of_id.partitions.last().is_none_or(|(_, count)| *count != topic.partitions) {
                of_id.partitions.push((now, topic.partitions));
                swapped.grown += u64::from(!is_new);
            }
        }
        let live: Vec<TopicId> = file.topics.values().map(|topic| topic.id).collect();
        for (id, incarnation) in &mut self.incarnations {
            if incarnation.deleted.is_none() && !live.contains(id) {
                incarnation.deleted = Some(now);
                swapped.deleted.push(*id);
            }
        }
        let revision = self.contents.len() as u64 + 1;
        let body = file.encode().expect("it is small");
        self.contents.push(Content { version: file.version, revision, body });
        self.file = file;
        Ok(swapped)
    }

    /// Somebody is told that a topic is deleted.
    pub(crate) fn answered(&mut self, id: TopicId, now: Micros) {
        if let Some(incarnation) = self.incarnations.get_mut(&id) {
            incarnation.answered.get_or_insert(now);
        }
    }

    /// An append at `object` is acknowledged, of which this attempt was sent at a moment.
    pub(crate) fn acknowledged(&self, id: TopicId, sent: Micros) -> Check {
        let answered = self.incarnations.get(&id).and_then(|incarnation| incarnation.answered);
        match answered.filter(|answered| *answered < sent) {
            Some(answered) => violation(
                "deleted",
                format!(
                    "an append sent at {sent} is acknowledged in {id}, whose DELETE was answered at {answered}"
                ),
            ),
            None => Ok(()),
        }
    }

    /// A request that was sent at a moment is told now that a partition is missing. Only a request that began with one
    /// topic is told so of another.
    pub(crate) fn missing(
        &self,
        (name, partition): (TopicName, u16),
        begun_with: Option<TopicId>,
        (sent, now): (Micros, Micros),
    ) -> Check {
        let of_name = |(id, incarnation): &(&TopicId, &Incarnation)| {
            incarnation.name == name && begun_with.is_none_or(|begun_with| begun_with == **id)
        };
        let had = |(_, incarnation): &(&TopicId, &Incarnation)| incarnation.had(partition, sent, now);
        match self.incarnations.iter().filter(of_name).find(had) {
            Some((id, _)) => violation(
                "missing",
                format!("{name}/{partition} was called missing, and was there as {id} since before {sent}"),
            ),
            None => Ok(()),
        }
    }
}
