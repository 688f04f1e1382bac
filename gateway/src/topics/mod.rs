//! The topics of the cluster: read from memory, changed by compare-and-swap of one register.
//!
//! Where no other node uses the store, what is in memory is what is stored. Where others do (*shared*), this node's copy
//! is trusted for [`limits::TOPICS_TRUST`] after the register was last seen to hold it. A topic, partition or id that the
//! copy lacks is looked for in the store before it is called missing. `DELETE` is answered when no node trusts a copy
//! any more that shows the topic.
//!
//! When the store does not answer, reads and appends at `local` go on with what is known. Appends at `object` are
//! refused: they promise to be in the topic as it is, and this node cannot tell any more whether it is that one.

mod change;
mod commit;
mod error;
mod look;
pub mod replica;
mod settings;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use forebay_log::clock::Clock;
use forebay_log::format::topics::TopicsFile;
use forebay_log::keys::Keys;
use forebay_log::model::{Durability, PartitionId, Topic, TopicId, TopicName};
use forebay_log::store::{Revision, Store};
use parking_lot::{Mutex, RwLock};
use rand::rngs::StdRng;
use serde_json::{Map, Value};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::limits;

use change::Change;
use commit::Pending;
pub use error::{TopicVersion, TopicsError};
use replica::Replica;
pub use settings::describe;

/// Settings by name, `partitions` among them, as a client sends them. Null stands for the default.
pub type Changes = Map<String, Value>;

/// Entity tags, one of which a topic must have to be changed.
pub type Expected = Vec<String>;

/// Who is told of deleted topics.
struct Forget(Box<dyn Fn(TopicId) + Send + Sync>);

impl fmt::Debug for Forget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Forget(..)")
    }
}

/// The topics of a cluster.
#[derive(Debug)]
pub struct Topics {
    store: Store,
    keys: Keys,
    clock: Arc<dyn Clock>,
    shards: u16,
    shared: bool,
    replica: RwLock<Replica<Revision>>,
    /// Sees each end of a look.
    looked: watch::Sender<()>,
    waiting: Mutex<Vec<Pending>>,
    /// Held by whoever swaps the register, with what new topics' ids are drawn from.
    writer: tokio::sync::Mutex<StdRng>,
    forget: OnceLock<Forget>,
    /// The version that this node wrote last.
    written: watch::Sender<u64>,
}

/// What a cluster's topics are opened with.
#[derive(Debug)]
pub struct TopicsOptions {
    /// Number of the cluster's shards.
    pub shards: u16,
    /// Whether other nodes change topics too.
    pub shared: bool,
    /// What ids of new topics are drawn from.
    pub ids: StdRng,
}

impl Topics {
    /// Reads the register; none yet means no topics.
    ///
    /// # Errors
    /// [`TopicsError`]; a retry is safe.
    ///
    /// # Cost
    /// 1 GET.
    pub async fn open(
        store: Store,
        keys: Keys,
        clock: Arc<dyn Clock>,
        options: TopicsOptions,
    ) -> Result<Arc<Self>, TopicsError> {
        let began = Instant::now();
        let (file, revision) = match store.read_register(&keys.topics()).await? {
            Some(found) => (TopicsFile::decode(&found.body)?, Some(found.revision)),
            None => (TopicsFile::new(), None),
        };
        let TopicsOptions { shards, shared, ids } = options;
        Ok(Arc::new(Self {
            store,
            keys,
            clock,
            shards,
            shared,
            replica: RwLock::new(Replica::new(file, revision, began)),
            looked: watch::Sender::new(()),
            waiting: Mutex::new(Vec::new()),
            writer: tokio::sync::Mutex::new(ids),
            forget: OnceLock::new(),
            written: watch::Sender::new(0),
        }))
    }

    /// Calls this with each topic that is deleted, by whichever node: those deleted before, now; others as soon as this
    /// node knows. Only the first call has an effect. It may be told of one twice.
    pub fn on_deleted(&self, forget: impl Fn(TopicId) + Send + Sync + 'static) {
        if self.forget.set(Forget(Box::new(forget))).is_ok() {
            self.tell_gone(self.deleted());
        }
    }

    /// Returns a topic as far as this node knows, without a look at the store.
    pub fn get(&self, name: &TopicName) -> Option<Arc<Topic>> {
        self.replica.read().get(name)
    }

    /// Returns a topic, for a request that begins.
    ///
    /// # Errors
    /// [`TopicsError::NotFound`], or [`TopicsError::Stale`] where the topic is not known and the store does not answer.
    ///
    /// # Cost
    /// None on a store that is not shared, and while the copy is trusted; else one conditional GET, which all who want
    /// it share. At most one each [`limits::TOPICS_LOOK_PAUSE`].
    pub async fn find(self: &Arc<Self>, name: &TopicName) -> Result<Arc<Topic>, TopicsError> {
        self.find_where(name, |_| true).await
    }

    /// Returns a topic, for a request that names one of its partitions. The topic may lack it all the same.
    ///
    /// # Errors
    /// As [`Self::find`].
    ///
    /// # Cost
    /// As [`Self::find`].
    pub async fn find_with(
        self: &Arc<Self>,
        name: &TopicName,
        partition: Option<PartitionId>,
    ) -> Result<Arc<Topic>, TopicsError> {
        self.find_where(name, |topic| partition.is_none_or(|p| p.get() < topic.partitions)).await
    }

    /// Returns a topic, for a request that needs it in some state. Where the copy shows another, the store is asked
    /// first; the topic may be in another state all the same.
    ///
    /// # Errors
    /// As [`Self::find`]; [`TopicsError::Stale`] also where the topic is known in another state only.
    ///
    /// # Cost
    /// As [`Self::find`].
    pub async fn find_where(
        self: &Arc<Self>,
        name: &TopicName,
        fits: impl Fn(&Topic) -> bool,
    ) -> Result<Arc<Topic>, TopicsError> {
        if !self.shared {
            return self.get_or_missing(name);
        }
        let asked = Instant::now();
        self.ask_anew(asked, |replica, now| replica.find(name, &fits, asked, now)).await
    }

    /// Returns a topic to append to, at a level or at the topic's own.
    ///
    /// An append at `object` needs more than what is known. When `DELETE` of a topic was answered, no request that
    /// begins afterwards may be acknowledged in it. Its leader may not know of the deletion yet, and store and leader
    /// may answer while the register does not; so a copy that is older than the trust could acknowledge one.
    ///
    /// # Errors
    /// As [`Self::find`]; [`TopicsError::Stale`] for `object` also where the copy cannot be confirmed.
    ///
    /// # Cost
    /// As [`Self::find`].
    pub async fn find_to_append(
        self: &Arc<Self>,
        name: &TopicName,
        partition: Option<PartitionId>,
        level: Option<Durability>,
    ) -> Result<Arc<Topic>, TopicsError> {
        if !self.shared {
            return self.get_or_missing(name);
        }
        let asked = Instant::now();
        let fits = |topic: &Topic| partition.is_none_or(|partition| partition.get() < topic.partitions);
        self.ask_anew(asked, |replica, now| replica.find_to_append(name, fits, level, (asked, now))).await
    }

    fn get_or_missing(&self, name: &TopicName) -> Result<Arc<Topic>, TopicsError> {
        self.get(name).ok_or_else(|| TopicsError::NotFound { name: name.clone() })
    }

    /// Returns the topic of this id; none if it was deleted, or never was.
    ///
    /// # Errors
    /// [`TopicsError::Stale`] where it is not known and the store does not answer.
    ///
    /// # Cost
    /// None while it is known; else as [`Self::find`].
    pub async fn find_id(self: &Arc<Self>, id: TopicId) -> Result<Option<Arc<Topic>>, TopicsError> {
        if !self.shared {
            return Ok(self.replica.read().get_id(id));
        }
        let asked = Instant::now();
        self.ask(|replica, now| replica.find_id(id, asked, now)).await
    }

    /// Brings what this node knows up to date, for a request that begins and looks at many topics.
    ///
    /// # Cost
    /// As [`Self::find`].
    pub async fn refresh(self: &Arc<Self>) {
        if self.shared {
            let asked = Instant::now();
            if let Err(error) = self.ask_anew(asked, |replica, now| replica.catch_up(asked, now)).await {
                tracing::debug!(%error, "a request goes on with what is known of the topics");
            }
        }
    }

    /// Has the topics read again in the background, if what is known is older than the trust. For streams, which last.
    ///
    /// # Cost
    /// At most one conditional GET each [`limits::TOPICS_TRUST`], however many ask.
    pub fn nudge(self: &Arc<Self>) {
        if self.shared && !self.is_as_of(Instant::now(), limits::TOPICS_TRUST) {
            self.look();
        }
    }

    /// Tells whether other nodes change topics too.
    pub fn is_shared(&self) -> bool {
        self.shared
    }

    /// Returns the version of the register that this node knows: what calls between nodes carry.
    pub fn version(&self) -> u64 {
        self.replica.read().version()
    }

    /// Returns what changes with each version of the register that this node writes, so that others can be told.
    pub fn written(&self) -> watch::Receiver<u64> {
        self.written.subscribe()
    }

    /// Notes that the register has this version or a later one: an older copy is not trusted any more. Costs nothing.
    pub fn hint(&self, version: u64) {
        self.replica.write().hint(version, Instant::now());
    }

    /// Waits until this node knows a version of the register, which another node has seen.
    ///
    /// # Errors
    /// [`TopicsError::Stale`] if the store does not answer, or knows of no such version.
    ///
    /// # Cost
    /// None if it is known; else as [`Self::find`].
    pub async fn at_least(self: &Arc<Self>, version: u64) -> Result<(), TopicsError> {
        if !self.shared {
            return if self.version() < version { Err(TopicsError::Stale) } else { Ok(()) };
        }
        let asked = Instant::now();
        self.ask(|replica, now| replica.at_least(version, asked, now)).await
    }

    /// Returns up to `limit` topics whose names start with a prefix and come after a name, in order, and whether
    /// there are more.
    pub fn list(
        &self,
        prefix: &str,
        after: Option<&TopicName>,
        limit: usize,
    ) -> (Vec<(TopicName, Arc<Topic>)>, bool) {
        let known = self.replica.read();
        let mut found = known
            .by_name
            .iter()
            .filter(|(name, _)| name.as_str().starts_with(prefix) && after.is_none_or(|after| *name > after))
            .map(|(name, topic)| (name.clone(), Arc::clone(topic)));
        let page = found.by_ref().take(limit).collect();
        (page, found.next().is_some())
    }

    /// Returns all topics.
    pub fn all(&self) -> Vec<Arc<Topic>> {
        self.replica.read().by_name.values().cloned().collect()
    }

    /// Returns the topics that were deleted and whose records may still be stored.
    pub fn deleted(&self) -> Vec<TopicId> {
        self.replica.read().file.deleted.iter().map(|topic| topic.id).collect()
    }

    /// Creates a topic, or confirms one that has the settings named. Tells whether it is new.
    ///
    /// # Errors
    /// [`TopicsError`]; a retry is safe.
    ///
    /// # Cost
    /// 1 PUT for a new topic, shared with the changes that wait on this node. Else none, or on a shared store one
    /// conditional GET.
    pub async fn create(
        self: &Arc<Self>,
        name: &TopicName,
        settings: &Changes,
    ) -> Result<(Arc<Topic>, bool), TopicsError> {
        let (name, settings) = (name.clone(), settings.clone());
        let applied = self.change(Change::Create { name, settings, only_new: false }).await?;
        Ok((applied.topic, applied.changed))
    }

    /// Creates a topic that does not exist.
    ///
    /// # Errors
    /// [`TopicsError`], [`TopicsError::Version`] for one that does; a retry may meet what an earlier attempt created.
    ///
    /// # Cost
    /// As [`Self::create`].
    pub async fn create_new(
        self: &Arc<Self>,
        name: &TopicName,
        settings: &Changes,
    ) -> Result<Arc<Topic>, TopicsError> {
        let (name, settings) = (name.clone(), settings.clone());
        Ok(self.change(Change::Create { name, settings, only_new: true }).await?.topic)
    }

    /// Changes settings of a topic, if it is in the state that the caller saw. Other nodes may go by the old ones for
    /// [`limits::TOPICS_TRUST`]; a new partition they look for.
    ///
    /// # Errors
    /// [`TopicsError`]; a retry is safe.
    ///
    /// # Cost
    /// As [`Self::create`].
    pub async fn alter(
        self: &Arc<Self>,
        name: &TopicName,
        changes: &Changes,
        expected: Option<Expected>,
    ) -> Result<Arc<Topic>, TopicsError> {
        let (name, changes) = (name.clone(), changes.clone());
        Ok(self.change(Change::Alter { name, changes, expected }).await?.topic)
    }

    /// Deletes a topic and returns it. Its records are removed later. On a shared store it returns when no node trusts
    /// a copy any more that shows the topic.
    ///
    /// # Errors
    /// [`TopicsError`]; a retry is safe.
    ///
    /// # Cost
    /// As [`Self::create`].
    pub async fn delete(
        self: &Arc<Self>,
        name: &TopicName,
        expected: Option<Expected>,
    ) -> Result<Arc<Topic>, TopicsError> {
        let deleted = self.change(Change::Delete { name: name.clone(), expected }).await?;
        if self.shared {
            tokio::time::sleep(limits::TOPICS_TRUST + limits::TOPICS_TRUST_DRIFT).await;
        }
        Ok(deleted.topic)
    }

    fn is_as_of(&self, asked: Instant, trust: Duration) -> bool {
        self.replica.read().is_as_of(asked, trust)
    }

    /// Readers that are told of a deletion find it in the copy.
    fn tell_gone(&self, gone: Vec<TopicId>) {
        if let Some(Forget(forget)) = self.forget.get() {
            gone.into_iter().for_each(forget);
        }
    }
}
