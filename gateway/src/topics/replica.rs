//! What a node decides about its copy of the register: what it answers from it, when it looks at the store again, and
//! what a look shows. Pure; [`Topics`](super::Topics) drives it with tasks and the store, and the simulator without.
//!
//! A copy is *as of* a moment: it holds every change that was stored before that. The moment is when the call began that
//! showed the content, so that a slow answer makes a copy older, never younger than it is.
//!
//! A *look* is one conditional read. At most one is under way, whoever wants it waits for the same one, and two begin at
//! least [`limits::TOPICS_LOOK_PAUSE`] apart. Nobody looks unless a request or an open stream asks.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use forebay_log::format::topics::TopicsFile;
use forebay_log::model::{Durability, Topic, TopicId, TopicName};
use tokio::time::Instant;

use crate::limits;
use crate::topics::TopicsError;

/// What comes next for somebody who needs something of the copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step<T> {
    /// It is answered.
    Done(T),
    /// A look may begin now, and it takes one: begin it, then ask again.
    Look,
    /// Ask again when a look has ended, at this moment at the latest.
    Wait(Instant),
}

impl<T> Step<T> {
    /// Goes on from an answer.
    fn then<U>(self, next: impl FnOnce(T) -> U) -> Step<U> {
        match self {
            Self::Done(answer) => Step::Done(next(answer)),
            Self::Look => Step::Look,
            Self::Wait(until) => Step::Wait(until),
        }
    }
}

/// What becomes of looks.
#[derive(Debug, Clone, Copy, Default)]
struct Looks {
    /// When the one under way began.
    running: Option<Instant>,
    /// When the last one began.
    begun: Option<Instant>,
    /// If the last one failed, when it began and when it ended.
    failed: Option<(Instant, Instant)>,
}

impl Looks {
    /// Tells whether for somebody who asked at a moment waiting was likely to be in vain.
    fn was_hopeless(&self, asked: Instant) -> bool {
        self.failed.is_some_and(|(_, ended)| ended <= asked)
            || self.running.is_some_and(|began| began + limits::TOPICS_WAIT_MAX <= asked)
    }

    fn next(&self, now: Instant) -> Instant {
        self.begun.map_or(now, |begun| begun + limits::TOPICS_LOOK_PAUSE)
    }
}

/// A read of the register under way, and what was known when it began.
#[derive(Debug, Clone)]
pub struct Reading<R> {
    began: Instant,
    version: u64,
    /// The revision that the read need not show again.
    pub revision: Option<R>,
}

/// What a read of the register found.
#[derive(Debug)]
pub enum Found<R> {
    /// The revision that was known.
    Unchanged,
    /// Another.
    Content(TopicsFile, R),
    /// Nothing.
    Absent,
}

/// The newest content of the register that a node has seen, and what it does to see newer ones. `R` is what names a
/// content in the store.
#[derive(Debug)]
pub struct Replica<R> {
    pub(super) file: Arc<TopicsFile>,
    /// None while nobody has written the register.
    revision: Option<R>,
    pub(super) by_name: BTreeMap<TopicName, Arc<Topic>>,
    by_id: HashMap<TopicId, Arc<Topic>>,
    as_of: Instant,
    /// When somebody said that there is a newer content.
    outdated: Option<Instant>,
    looks: Looks,
}

impl<R: Clone> Replica<R> {
    /// Starts from a content, which a read showed that began at a moment.
    pub fn new(file: TopicsFile, revision: Option<R>, as_of: Instant) -> Self {
        let file = Arc::new(file);
        let (by_name, by_id) = index(&file);
        Self { file, revision, by_name, by_id, as_of, outdated: None, looks: Looks::default() }
    }

    /// Returns the content, for a change of it, and its revision.
    pub fn base(&self) -> (Arc<TopicsFile>, Option<R>) {
        (Arc::clone(&self.file), self.revision.clone())
    }

    /// Returns the version of the content.
    pub fn version(&self) -> u64 {
        self.file.version
    }

    /// Returns a topic as far as is known.
    pub fn get(&self, name: &TopicName) -> Option<Arc<Topic>> {
        self.by_name.get(name).map(Arc::clone)
    }

    /// Returns the topic of an id as far as is known.
    pub fn get_id(&self, id: TopicId) -> Option<Arc<Topic>> {
        self.by_id.get(&id).map(Arc::clone)
    }

    /// Tells whether the copy is fit for somebody who asked at a moment and trusts copies of this age.
    pub fn is_as_of(&self, asked: Instant, trust: Duration) -> bool {
        self.as_of + trust >= asked && self.outdated.is_none_or(|outdated| self.as_of >= outdated)
    }

    /// Tells whether a request that begins is to have a look begin: past half of the trust the next begins before
    /// anybody has to wait for it.
    pub fn is_due(&self, asked: Instant) -> bool {
        !self.is_as_of(asked, limits::TOPICS_TRUST / 2)
    }

    /// Brings the copy up to date for a request that asked at a moment and trusts it for [`limits::TOPICS_TRUST`].
    /// Nobody waits for a store that has just failed to answer: what is known is what there is. The error says that
    /// the copy could not be confirmed.
    pub fn catch_up(&self, asked: Instant, now: Instant) -> Step<Result<(), TopicsError>> {
        if !self.is_as_of(asked, limits::TOPICS_TRUST) && self.looks.was_hopeless(asked) {
            return Step::Done(Err(TopicsError::Stale));
        }
        self.confirm(asked, limits::TOPICS_TRUST, now)
    }

    /// Waits until the copy is fit for somebody who asked at a moment and trusts copies of this age. It is
    /// [`TopicsError::Stale`] once a look that began later has failed, or after [`limits::TOPICS_WAIT_MAX`].
    pub fn confirm(&self, asked: Instant, trust: Duration, now: Instant) -> Step<Result<(), TopicsError>> {
        if self.is_as_of(asked, trust) {
            return Step::Done(Ok(()));
        }
        let deadline = asked + limits::TOPICS_WAIT_MAX;
        if now >= deadline || self.looks.failed.is_some_and(|(began, _)| began >= asked) {
            return Step::Done(Err(TopicsError::Stale));
        }
        let wake = match self.looks.running {
            Some(_) => deadline,
            None => self.looks.next(now).min(deadline),
        };
        if wake <= now { Step::Look } else { Step::Wait(wake) }
    }

    /// Returns a topic that a request asked for at a moment. One that is not known, or not as it `fits`, is missing
    /// only once a look that began later says so.
    pub fn find(
        &self,
        name: &TopicName,
        fits: impl Fn(&Topic) -> bool,
        asked: Instant,
        now: Instant,
    ) -> Step<Result<Arc<Topic>, TopicsError>> {
        self.find_confirmed(name, fits, |_| None, (asked, now))
    }

    /// Returns a topic to append to at a level, or at the topic's own. For `object` the copy must be confirmed.
    pub fn find_to_append(
        &self,
        name: &TopicName,
        fits: impl Fn(&Topic) -> bool,
        level: Option<Durability>,
        (asked, now): (Instant, Instant),
    ) -> Step<Result<Arc<Topic>, TopicsError>> {
        let trust = |topic: &Topic| match level.unwrap_or(topic.settings.durability) {
            Durability::Local => None,
            _ => Some(limits::TOPICS_TRUST),
        };
        self.find_confirmed(name, fits, trust, (asked, now))
    }

    fn find_confirmed(
        &self,
        name: &TopicName,
        fits: impl Fn(&Topic) -> bool,
        trust: impl Fn(&Topic) -> Option<Duration>,
        (asked, now): (Instant, Instant),
    ) -> Step<Result<Arc<Topic>, TopicsError>> {
        match self.catch_up(asked, now) {
            // What could not be confirmed is good enough, or confirmed below.
            Step::Done(_) => {}
            pending => return pending.then(|_| Err(TopicsError::Stale)),
        }
        let trust = match self.by_name.get(name).filter(|topic| fits(topic)) {
            Some(topic) => trust(topic),
            None => Some(Duration::ZERO),
        };
        let confirmed = trust.map_or(Step::Done(Ok(())), |trust| self.confirm(asked, trust, now));
        let found = || self.get(name).ok_or_else(|| TopicsError::NotFound { name: name.clone() });
        confirmed.then(|confirmed| confirmed.and_then(|()| found()))
    }

    /// Returns the topic of an id that somebody asked for at a moment. One that is not known is missing only once a
    /// look that began later says so.
    pub fn find_id(
        &self,
        id: TopicId,
        asked: Instant,
        now: Instant,
    ) -> Step<Result<Option<Arc<Topic>>, TopicsError>> {
        match self.get_id(id) {
            Some(topic) => Step::Done(Ok(Some(topic))),
            None => self.confirm(asked, Duration::ZERO, now).then(|confirmed| confirmed.map(|()| None)),
        }
    }

    /// Waits until a version is known, which another node has seen.
    pub fn at_least(&self, version: u64, asked: Instant, now: Instant) -> Step<Result<(), TopicsError>> {
        if self.version() >= version {
            return Step::Done(Ok(()));
        }
        self.confirm(asked, Duration::ZERO, now).then(|_| Err(TopicsError::Stale))
    }

    /// Notes that the register has this version or a later one: an older copy is not trusted any more.
    pub fn hint(&mut self, version: u64, now: Instant) {
        if version > self.version() {
            self.outdated = Some(now);
        }
    }

    /// Begins a look, unless one is under way or one began a moment ago.
    pub fn begin_look(&mut self, now: Instant) -> bool {
        let free = self.looks.running.is_none() && self.looks.next(now) <= now;
        if free {
            self.looks = Looks { running: Some(now), begun: Some(now), ..self.looks };
        }
        free
    }

    /// Ends the look under way: those who waited for it are to ask again.
    pub fn end_look(&mut self, succeeded: bool, now: Instant) {
        let failed = self.looks.running.filter(|_| !succeeded).map(|began| (began, now));
        self.looks = Looks { running: None, failed, ..self.looks };
    }

    /// Begins a read of the register.
    pub fn read(&self, now: Instant) -> Reading<R> {
        Reading { began: now, version: self.version(), revision: self.revision.clone() }
    }

    /// Takes over what a read found, and returns the topics that it shows to be gone.
    ///
    /// # Errors
    /// [`TopicsError::WentBack`]; the copy is as it was.
    pub fn take(&mut self, reading: &Reading<R>, found: Found<R>) -> Result<Vec<TopicId>, TopicsError> {
        let Reading { began, version: known, ref revision } = *reading;
        match found {
            Found::Absent if revision.is_some() => Err(TopicsError::WentBack { found: 0, known }),
            Found::Absent | Found::Unchanged => {
                self.as_of = self.as_of.max(began);
                Ok(Vec::new())
            }
            Found::Content(file, _) if file.version < known => {
                Err(TopicsError::WentBack { found: file.version, known })
            }
            Found::Content(file, revision) => Ok(self.swapped(file, revision, began)),
        }
    }

    /// Takes over a content that the register held after a moment, unless it is older than what is known, and returns
    /// the topics that it shows to be gone.
    pub fn swapped(&mut self, file: TopicsFile, revision: R, as_of: Instant) -> Vec<TopicId> {
        self.as_of = self.as_of.max(as_of);
        if file.version < self.version() {
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
