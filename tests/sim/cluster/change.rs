//! Changes of topics: clients create, delete and grow some through any node, which swaps the register and tells the others.

use std::time::Duration;

use forebay_gateway::limits::{TOPICS_LOOK_MAX, TOPICS_TRUST, TOPICS_TRUST_DRIFT};
use forebay_log::format::topics::TopicsFile;
use forebay_log::limits::SWAP_ATTEMPTS_MAX;
use forebay_log::model::TopicId;
use tokio::time::Instant;

use super::history::{NAMES, name};
use super::topics::{Broken, Purpose};
use super::{Cluster, Event};
use crate::check::Check;
use crate::config::{MILLI, Micros, SECOND};
use crate::world::{TOPIC_PARTITIONS_MAX, timestamp};

/// What somebody wants done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    Create,
    Delete,
    Grow,
}

/// A change on its way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Change {
    wish: Wish,
    name: usize,
    asked: Instant,
    attempts: u32,
}

/// A swap of the register that is not answered yet.
#[derive(Debug)]
pub(crate) struct Swap {
    change: Change,
    /// The topic that it deletes.
    deletes: Option<TopicId>,
    file: TopicsFile,
    began: Instant,
}

/// How it ended.
#[derive(Debug, Clone, Copy)]
pub(crate) enum SwapAnswer {
    Swapped(u64),
    Conflict,
    Unknown,
}

impl Cluster {
    /// Somebody changes a topic, now and then.
    pub(crate) fn somebody_changes(&mut self) -> Check {
        let again = self.rng.log_between(500 * MILLI, 15 * SECOND);
        self.after(again, Event::Somebody);
        let name = 1 + self.rng.index(NAMES - 1);
        let wish = match self.register.partitions(name) {
            None => Wish::Create,
            Some(_) if self.rng.chance(0.6) => Wish::Delete,
            Some(_) => Wish::Grow,
        };
        // Whoever creates a topic anew may do so while its deletion is not answered yet.
        if wish == Wish::Delete && self.rng.chance(0.5) {
            let after = self.rng.log_between(MILLI, 3 * SECOND);
            let node = self.rng.index(self.nodes.len());
            self.after(after, Event::Change { node, wish: Wish::Create, name });
        }
        let (node, after) = (self.rng.index(self.nodes.len()), self.network());
        self.after(after, Event::Change { node, wish, name });
        Ok(())
    }

    /// A change arrives at a node.
    pub(crate) fn change_arrives(&mut self, node: usize, wish: Wish, name: usize) -> Check {
        let change = Change { wish, name, asked: self.clock(node), attempts: 0 };
        self.change(node, change)
    }

    /// Makes a change of what the node knows, if there is one to make; else the register must say so itself.
    pub(crate) fn change(&mut self, node: usize, change: Change) -> Check {
        let (began, life, attempts) = (self.clock(node), self.nodes[node].life, change.attempts + 1);
        let Some(copy) = self.copy(node) else { return Ok(()) };
        let (base, revision) = copy.replica.base();
        let is_current = copy.replica.is_as_of(change.asked, Duration::ZERO);
        let change = Change { attempts, ..change };
        let mut file = TopicsFile::clone(&base);
        let deletes = base.topics.get(&name(change.name)).map(|topic| topic.id);
        let deletes = deletes.filter(|_| change.wish == Wish::Delete);
        if !self.apply(change, &mut file) {
            // Nobody is told anything that is judged.
            let tried = is_current || attempts > SWAP_ATTEMPTS_MAX;
            return if tried { Ok(()) } else { self.ask(node, Purpose::Change(change)) };
        }
        file.version += 1;
        let swap = Swap { change, deletes, file: file.clone(), began };
        let Some(copy) = self.copy(node) else { return Ok(()) };
        copy.calls += 1;
        let call = copy.calls;
        copy.swaps.insert(call, swap);
        let late = self.rng.chance(self.lossy);
        let after = if late { self.rng.log_between(MILLI, 30 * SECOND) } else { self.network() };
        let revision = revision.unwrap_or_default();
        self.after(after, Event::SwapLands { node, life, call, revision, file });
        let at = self.when(node, began + TOPICS_LOOK_MAX);
        self.schedule(at, Event::SwapAnswered { node, life, call, answer: SwapAnswer::Unknown });
        Ok(())
    }

    /// Applies a change to a content; false if it changes nothing.
    fn apply(&mut self, change: Change, file: &mut TopicsFile) -> bool {
        let (called, now) = (name(change.name), timestamp(self.now));
        match change.wish {
            Wish::Create if file.topics.contains_key(&called) => false,
            Wish::Create => {
                let partitions = self.rng.between(1, 2) as u16;
                let shards = self.shards.len();
                let first = self.rng.index(shards);
                let topic = self.register.make(file, partitions, (first, shards));
                file.topics.insert(called, topic);
                true
            }
            Wish::Delete => file.delete(&called, now).is_some(),
            Wish::Grow => {
                let topic = file.topics.get_mut(&called);
                let topic = topic.filter(|topic| topic.partitions < TOPIC_PARTITIONS_MAX);
                let Some(topic) = topic else { return false };
                topic.partitions += 1;
                topic.version += 1;
                true
            }
        }
    }

    /// A swap arrives at the store.
    pub(crate) fn swap_lands(
        &mut self,
        (node, life, call): (usize, u64, u64),
        revision: u64,
        file: TopicsFile,
    ) -> Check {
        if self.nodes[node].blind_until > self.now && self.rng.chance(0.5) {
            return Ok(());
        }
        let answer = if revision == self.register.content().revision {
            let swapped = self.register.swap(file, self.now)?;
            self.note(|world| format!("node {node} swapped the register: {:?}", world.register.file.topics));
            self.stats.deletions += swapped.deleted.len() as u64;
            self.stats.recreations += swapped.recreated;
            self.stats.grown += swapped.grown;
            self.note_deleted(&swapped.deleted);
            SwapAnswer::Swapped(self.register.content().revision)
        } else {
            SwapAnswer::Conflict
        };
        if let Some(after) = self.store_answers_after() {
            self.after(after, Event::SwapAnswered { node, life, call, answer });
        }
        Ok(())
    }

    /// A node hears of its swap.
    pub(crate) fn swap_answered(&mut self, node: usize, call: u64, answer: SwapAnswer) -> Check {
        let (now, life, broken) = (self.clock(node), self.nodes[node].life, self.broken);
        let Some(copy) = self.copy(node) else { return Ok(()) };
        let Some(Swap { change, deletes, file, began }) = copy.swaps.remove(&call) else { return Ok(()) };
        match answer {
            SwapAnswer::Swapped(revision) => {
                let version = file.version;
                let as_of = if broken == Some(Broken::AsOfTheAnswer) { now } else { began };
                let gone = copy.replica.swapped(file, revision, as_of);
                copy.gone.extend(gone);
                self.tell_others(node, version);
                if let Some(id) = deletes {
                    let waits = match broken {
                        Some(Broken::DeleteNotWaited) => now,
                        _ => now + TOPICS_TRUST + TOPICS_TRUST_DRIFT,
                    };
                    let at = self.when(node, waits);
                    self.schedule(at, Event::DeleteAnswered { node, life, id });
                }
            }
            SwapAnswer::Conflict if change.attempts < SWAP_ATTEMPTS_MAX => {
                self.stats.conflicts += 1;
                self.read_again(node, Some(change));
            }
            SwapAnswer::Conflict | SwapAnswer::Unknown => self.read_again(node, None),
        }
        Ok(())
    }

    pub(crate) fn delete_answered(&mut self, node: usize, id: TopicId) {
        self.note(|_| format!("node {node} answers the DELETE of {id}"));
        self.register.answered(id, self.now);
    }

    /// Tells the other nodes that the register has another version, as far as Redis passes it on.
    fn tell_others(&mut self, number: usize, version: u64) {
        for node in (0..self.nodes.len()).filter(|node| *node != number) {
            let redis = self.nodes[node].redis;
            let heard = redis == self.nodes[number].redis
                && self.redis[redis].gone_until <= self.now
                && !self.rng.chance(0.2);
            if !heard {
                self.stats.hints_lost += 1;
                continue;
            }
            let late = !self.calm && self.rng.chance(0.1);
            let most: Micros = if late { 5 * SECOND } else { 20 * MILLI };
            let (life, after) = (self.nodes[node].life, self.rng.log_between(MILLI / 5, most));
            self.after(after, Event::Hint { node, life, version });
        }
    }

    pub(crate) fn hinted(&mut self, node: usize, version: u64) {
        let now = self.clock(node);
        if let Some(copy) = self.copy(node) {
            copy.replica.hint(version, now);
        }
    }
}
