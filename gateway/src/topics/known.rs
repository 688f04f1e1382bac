//! This node's copy of the register, and how far it may be trusted.
//!
//! A copy is *as of* a moment: it holds every change that was stored before that. The moment is when the call began that
//! showed the content, so that a slow answer makes a copy older, never younger than it is.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use forebay_log::format::topics::TopicsFile;
use forebay_log::model::{Topic, TopicId, TopicName};
use forebay_log::store::Revision;
use tokio::time::Instant;

/// The newest content of the register that this node has seen.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) file: Arc<TopicsFile>,
    /// None while nobody has written the register.
    pub(super) revision: Option<Revision>,
    pub(super) by_name: BTreeMap<TopicName, Arc<Topic>>,
    pub(super) by_id: HashMap<TopicId, Arc<Topic>>,
    as_of: Instant,
    /// When somebody said that there is a newer content.
    outdated: Option<Instant>,
}

impl Known {
    pub(super) fn new(file: TopicsFile, revision: Option<Revision>, as_of: Instant) -> Self {
        let file = Arc::new(file);
        let (by_name, by_id) = index(&file);
        Self { file, revision, by_name, by_id, as_of, outdated: None }
    }

    /// Tells whether the copy is fit for somebody who asked at a moment and trusts copies of this age.
    pub(super) fn is_as_of(&self, asked: Instant, trust: Duration) -> bool {
        self.as_of + trust >= asked && self.outdated.is_none_or(|outdated| self.as_of >= outdated)
    }

    /// Notes that the register has this version or a later one.
    pub(super) fn hint(&mut self, version: u64, now: Instant) {
        if version > self.file.version {
            self.outdated = Some(now);
        }
    }

    /// Notes that at a moment the register held nothing newer.
    pub(super) fn confirm(&mut self, as_of: Instant) {
        self.as_of = self.as_of.max(as_of);
    }

    /// Takes a content over, unless it is older than what is known, and returns the topics that it shows to be gone.
    pub(super) fn take(&mut self, file: TopicsFile, revision: Revision, as_of: Instant) -> Vec<TopicId> {
        self.confirm(as_of);
        if file.version < self.file.version {
            return Vec::new();
        }
        let gone = gone(&self.file, &file);
        self.file = Arc::new(file);
        self.revision = Some(revision);
        (self.by_name, self.by_id) = index(&self.file);
        gone
    }
}

/// Returns the topics that an older content had or never showed, and that a newer one says are deleted.
fn gone(older: &TopicsFile, newer: &TopicsFile) -> Vec<TopicId> {
    let live: HashSet<TopicId> = newer.topics.values().map(|topic| topic.id).collect();
    let told: HashSet<TopicId> = older.deleted.iter().map(|topic| topic.id).collect();
    let vanished = older.topics.values().map(|topic| topic.id).filter(|id| !live.contains(id));
    let mut gone: Vec<TopicId> = vanished.collect();
    let seen: HashSet<TopicId> = gone.iter().copied().collect();
    let new = newer.deleted.iter().map(|topic| topic.id);
    gone.extend(new.filter(|id| !told.contains(id) && !seen.contains(id)));
    gone
}

type Index = (BTreeMap<TopicName, Arc<Topic>>, HashMap<TopicId, Arc<Topic>>);

fn index(file: &TopicsFile) -> Index {
    let by_name: BTreeMap<_, _> =
        file.topics.iter().map(|(name, topic)| (name.clone(), Arc::new(topic.clone()))).collect();
    let by_id = by_name.values().map(|topic| (topic.id, Arc::clone(topic))).collect();
    (by_name, by_id)
}
