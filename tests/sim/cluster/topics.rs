//! The copy of the topics that each node has: who asks it, who waits for it, and the looks at the register by which it
//! is kept. What to do is decided by the gateway's own `Replica`; here are the store and the time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use forebay_gateway::limits::{TOPICS_LOOK_MAX, TOPICS_LOOK_PAUSE, TOPICS_TRUST};
use forebay_gateway::topics::TopicsError;
use forebay_gateway::topics::replica::{Found, Reading, Replica, Step};
use forebay_log::format::topics::TopicsFile;
use forebay_log::model::{Durability, Topic, TopicId, TopicPartition};
use tokio::time::Instant;

use super::change::{Change, Swap};
use super::client::Request;
use super::history::{Content, name};
use super::produce::Routed;
use super::{Cluster, Event};
use crate::check::{Check, violation};
use crate::config::{MILLI, Micros};
use crate::world::topic_number;

/// A rule of the gateway that is broken, to show that it would be noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broken {
    /// `DELETE` is answered at once.
    DeleteNotWaited,
    /// An append at `object` goes by a copy that was not confirmed.
    Unconfirmed,
    /// A copy is as of the answer that showed it.
    AsOfTheAnswer,
    /// What the copy lacks is called missing without a look.
    MissNotLookedFor,
    /// A leader is not told what the node knew that passes an append on.
    VersionNotCarried,
    /// A unit of a long request goes to the topic that the request began with, whatever it is by then.
    UnitNotAsked,
    /// What a leader knows to be gone is called missing, though another topic may have the name.
    GoneIsMissing,
    /// A register that went back is believed.
    OldBelieved,
}

/// One node's copy.
#[derive(Debug)]
pub(crate) struct Copy {
    pub(crate) replica: Replica<u64>,
    /// Topics that it knows to be gone.
    pub(crate) gone: BTreeSet<TopicId>,
    waiting: Vec<Asking>,
    wake_at: Micros,
    /// Reads of the register under way, by number.
    reads: BTreeMap<u64, (Reading<u64>, Reader)>,
    pub(crate) swaps: BTreeMap<u64, Swap>,
    pub(crate) calls: u64,
}

impl Copy {
    /// Starts from what the register holds.
    pub(crate) fn new(content: &Content, now: Instant) -> Self {
        let file = TopicsFile::decode(&content.body).expect("it was encoded");
        Self {
            gone: file.deleted.iter().map(|topic| topic.id).collect(),
            replica: Replica::new(file, Some(content.revision), now),
            waiting: Vec::new(),
            wake_at: 0,
            reads: BTreeMap::new(),
            swaps: BTreeMap::new(),
            calls: 0,
        }
    }
}

/// Why the register is read.
#[derive(Debug)]
enum Reader {
    Look,
    /// A change was not made, for want of the newest content or of an answer.
    Change(Option<Change>),
}

/// What the register showed.
#[derive(Debug)]
pub(crate) enum Shown {
    Failed,
    Unchanged,
    Content(Content),
}

/// Somebody who needs something of a copy.
#[derive(Debug)]
pub(crate) struct Asking {
    asked: Instant,
    what: Purpose,
}

/// What for.
#[derive(Debug)]
pub(crate) enum Purpose {
    /// To find the topic of a request.
    Route(Request),
    /// To find what has the name now of a topic that a leader knows to be gone.
    RouteAgain(Request, TopicId),
    /// To know at least what the node knew that passed an append on.
    Append(Routed),
    /// To know which partitions there are when a shard was taken over.
    Lead(usize),
    /// To confirm that a change has nothing to change.
    Change(Change),
    /// As a client that only looks.
    Look,
}

/// What it is told.
#[derive(Debug)]
enum Told {
    Topic(Result<Arc<Topic>, TopicsError>),
    Known(Result<(), TopicsError>),
}

impl Asking {
    fn step(&self, replica: &Replica<u64>, now: Instant, broken: Option<Broken>) -> Step<Told> {
        let asked = self.asked;
        match &self.what {
            Purpose::Route(request) => {
                let name = name(request.name);
                let fits = |topic: &Topic| {
                    request.partition < topic.partitions
                        && request.begun_with.is_none_or(|begun_with| begun_with == topic.id)
                };
                let there = replica.get(&name).filter(|topic| fits(topic));
                if broken == Some(Broken::MissNotLookedFor) && there.is_none() {
                    return Step::Done(Told::Topic(Err(TopicsError::NotFound { name })));
                }
                let is_local = request.local || broken == Some(Broken::Unconfirmed);
                let level = if is_local { Durability::Local } else { Durability::Object };
                told(replica.find_to_append(&name, fits, Some(level), (asked, now)), Told::Topic)
            }
            Purpose::RouteAgain(request, gone) => {
                told(replica.find(&name(request.name), |topic| topic.id != *gone, asked, now), Told::Topic)
            }
            Purpose::Append(routed) => told(replica.at_least(routed.version, asked, now), Told::Known),
            Purpose::Lead(_) => told(replica.catch_up(asked, now), Told::Known),
            Purpose::Change(_) => told(replica.confirm(asked, Duration::ZERO, now), Told::Known),
            Purpose::Look => told(replica.find(&name(0), |_| true, asked, now), Told::Topic),
        }
    }

    /// Tells whether a request begins with it.
    fn begins(&self) -> bool {
        matches!(self.what, Purpose::Route(_) | Purpose::RouteAgain(..) | Purpose::Lead(_) | Purpose::Look)
    }
}

fn told<T>(step: Step<T>, tell: impl FnOnce(T) -> Told) -> Step<Told> {
    match step {
        Step::Done(answer) => Step::Done(tell(answer)),
        Step::Look => Step::Look,
        Step::Wait(until) => Step::Wait(until),
    }
}

impl Cluster {
    pub(crate) fn copy(&mut self, node: usize) -> Option<&mut Copy> {
        Some(&mut self.nodes[node].process.as_mut()?.topics)
    }

    /// Returns what a node's clock shows.
    pub(crate) fn clock(&self, node: usize) -> Instant {
        let shows = self.now * self.nodes[node].clock_rate / 1_000;
        self.origin + Duration::from_micros(shows)
    }

    /// Returns when a node's clock will have reached a moment.
    pub(crate) fn when(&self, node: usize, moment: Instant) -> Micros {
        let shows = moment.saturating_duration_since(self.origin).as_nanos().div_ceil(1_000) as Micros;
        (shows * 1_000).div_ceil(self.nodes[node].clock_rate)
    }

    /// Asks a node's copy for somebody who begins just now.
    pub(crate) fn ask(&mut self, node: usize, what: Purpose) -> Check {
        let asking = Asking { asked: self.clock(node), what };
        let Some(copy) = self.copy(node) else { return Ok(()) };
        if asking.begins() && copy.replica.is_due(asking.asked) {
            self.look(node);
        }
        self.go_on(node, asking)
    }

    /// Answers somebody, or has him wait.
    fn go_on(&mut self, node: usize, asking: Asking) -> Check {
        let (now, broken) = (self.clock(node), self.broken);
        loop {
            let Some(copy) = self.copy(node) else { return Ok(()) };
            match asking.step(&copy.replica, now, broken) {
                Step::Done(told) => return self.told(node, asking.what, told),
                Step::Look => self.look(node),
                Step::Wait(until) => {
                    let (at, life) = (self.when(node, until), self.nodes[node].life);
                    let now = self.now;
                    let Some(copy) = self.copy(node) else { return Ok(()) };
                    copy.waiting.push(asking);
                    if at < copy.wake_at || copy.wake_at <= now {
                        copy.wake_at = at;
                        self.schedule(at, Event::AskAgain { node, life });
                    }
                    return Ok(());
                }
            }
        }
    }

    pub(crate) fn ask_again(&mut self, node: usize) -> Check {
        let waiting = self.copy(node).map(|copy| std::mem::take(&mut copy.waiting)).unwrap_or_default();
        waiting.into_iter().try_for_each(|asking| self.go_on(node, asking))
    }

    fn told(&mut self, node: usize, what: Purpose, told: Told) -> Check {
        match (what, told) {
            (Purpose::Route(request), Told::Topic(found)) => self.routed(node, request, found),
            (Purpose::RouteAgain(request, gone), Told::Topic(found)) => {
                self.routed_again(&request, gone, found)
            }
            (Purpose::Append(routed), Told::Known(known)) => {
                self.forwarded(node, routed.after_a_look(known.is_ok()))
            }
            (Purpose::Lead(shard), _) => self.take_over(node, shard),
            (Purpose::Change(change), Told::Known(known)) => {
                if known.is_ok() {
                    self.change(node, change)?;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Begins a look, if one may begin now.
    fn look(&mut self, node: usize) {
        let now = self.clock(node);
        if self.copy(node).is_some_and(|copy| copy.replica.begin_look(now)) {
            self.stats.looks += 1;
            self.read_register(node, Reader::Look);
        }
    }

    /// Reads the register again before a change is tried once more, or given up.
    pub(crate) fn read_again(&mut self, node: usize, change: Option<Change>) {
        self.read_register(node, Reader::Change(change));
    }

    fn read_register(&mut self, node: usize, reader: Reader) {
        let (now, life) = (self.clock(node), self.nodes[node].life);
        let Some(copy) = self.copy(node) else { return };
        let reading = copy.replica.read(now);
        let (revision, version) = (reading.revision, copy.replica.version());
        copy.calls += 1;
        let call = copy.calls;
        copy.reads.insert(call, (reading, reader));
        let after = self.network();
        self.after(after, Event::RegisterRead { node, life, call, revision, version });
        let at = self.when(node, now + TOPICS_LOOK_MAX);
        self.schedule(at, Event::RegisterShown { node, life, call, shown: Shown::Failed });
    }

    /// Returns how long an answer of the store takes, if it comes.
    pub(crate) fn store_answers_after(&mut self) -> Option<Micros> {
        if self.rng.chance(self.lossy) {
            return None;
        }
        let slow = !self.calm && self.rng.chance(0.05);
        Some(if slow { self.rng.log_between(20 * MILLI, 8_000 * MILLI) } else { self.network() })
    }

    /// A read of the register arrives at the store.
    pub(crate) fn register_read(
        &mut self,
        (node, life, call): (usize, u64, u64),
        revision: Option<u64>,
        version: u64,
    ) {
        let is_blind = self.nodes[node].blind_until > self.now;
        let Some(after) = self.store_answers_after() else { return };
        let older: Vec<&Content> =
            self.register.contents.iter().filter(|content| content.version < version).collect();
        let went_back = !older.is_empty() && self.lossy > 0.0 && self.rng.chance(0.01);
        let content = self.register.content();
        let shown = if is_blind {
            Shown::Failed
        } else if went_back {
            self.stats.went_back += 1;
            Shown::Content(older[self.rng.index(older.len())].clone())
        } else if revision == Some(content.revision) {
            Shown::Unchanged
        } else {
            Shown::Content(content.clone())
        };
        self.after(after, Event::RegisterShown { node, life, call, shown });
    }

    /// A node learns what the register showed.
    pub(crate) fn register_shown(&mut self, node: usize, call: u64, shown: Shown) -> Check {
        let (now, broken) = (self.clock(node), self.broken);
        let Some(copy) = self.copy(node) else { return Ok(()) };
        let Some((mut reading, reader)) = copy.reads.remove(&call) else { return Ok(()) };
        if broken == Some(Broken::AsOfTheAnswer) {
            reading = copy.replica.read(now);
        }
        let before = copy.replica.version();
        let taken = match shown {
            Shown::Failed => Err(TopicsError::Stale),
            Shown::Unchanged => copy.replica.take(&reading, Found::Unchanged),
            Shown::Content(Content { version, revision, body }) => {
                let file = TopicsFile::decode(&body).expect("it was encoded");
                if broken == Some(Broken::OldBelieved) && version < before {
                    copy.replica = Replica::new(file, Some(revision), now);
                    Ok(Vec::new())
                } else {
                    copy.replica.take(&reading, Found::Content(file, revision))
                }
            }
        };
        let succeeded = taken.is_ok();
        copy.gone.extend(taken.unwrap_or_default());
        let after = copy.replica.version();
        if after < before {
            return violation("topics", format!("node {node} went back from version {before} to {after}"));
        }
        match reader {
            Reader::Look => {
                copy.replica.end_look(succeeded, now);
                self.stats.failed_looks += u64::from(!succeeded);
                self.ask_again(node)
            }
            Reader::Change(Some(change)) if succeeded => self.change(node, change),
            Reader::Change(_) => Ok(()),
        }
    }

    /// Returns the topics' partitions in a shard, as far as a node knows.
    pub(crate) fn partitions_of(&mut self, node: usize, shard: usize) -> Vec<TopicPartition> {
        let Some(copy) = self.copy(node) else { return Vec::new() };
        let (file, _) = copy.replica.base();
        let topics = file.topics.values();
        let all = topics.flat_map(|topic| topic.partition_ids().map(move |id| (topic, id)));
        let here = all.filter(|(topic, id)| usize::from(topic.shard_of(*id).get()) == shard);
        here.map(|(topic, id)| topic.partition(id)).collect()
    }

    /// Topics are deleted from now on, for who judges what is in their partitions.
    pub(crate) fn note_deleted(&mut self, deleted: &[TopicId]) {
        for id in deleted {
            self.shards.iter_mut().for_each(|log| log.judge.deleted(topic_number(*id)));
        }
    }

    /// Where nothing fails, every copy that is asked soon shows what the register holds now.
    pub(crate) fn copies_agree(&mut self) -> Check {
        const EVERY: Micros = 100 * MILLI;
        let version = self.register.file.version;
        let within = (TOPICS_TRUST + TOPICS_LOOK_PAUSE).as_micros() as Micros;
        let until = self.now + within + within / 10;
        while self.now < until {
            for node in 0..self.nodes.len() {
                self.ask(node, Purpose::Look)?;
            }
            self.play_for(EVERY)?;
        }
        for node in 0..self.nodes.len() {
            let known = self.copy(node).map_or(version, |copy| copy.replica.version());
            if known < version {
                return violation(
                    "topics",
                    format!("node {node} was asked again and again, and knows version {known} of {version}"),
                );
            }
        }
        Ok(())
    }
}
