//! The topics of the cluster: read from memory, changed by compare-and-swap of one register.
//!
//! On an exclusive store nobody else changes the register, so that what is in memory is what is stored.

mod settings;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use forebay_log::clock::Clock;
use forebay_log::error::{ErrorKind, FormatError};
use forebay_log::format::topics::TopicsFile;
use forebay_log::keys::Keys;
use forebay_log::limits;
use forebay_log::model::{Settings, ShardId, Topic, TopicId, TopicName};
use forebay_log::store::{Revision, Store, StoreError, Swap};
use parking_lot::RwLock;
use rand::rngs::StdRng;
use serde_json::{Map, Value};

pub use settings::describe;
use settings::{apply, first_difference};

/// Why a change of topics was refused.
#[derive(Debug, thiserror::Error)]
pub enum TopicsError {
    /// There is no topic of this name.
    #[error("topic does not exist: topic={name}")]
    NotFound {
        /// The name.
        name: TopicName,
    },
    /// There is one, with other settings.
    #[error("topic exists with another value: topic={name} setting={setting}")]
    Exists {
        /// The name.
        name: TopicName,
        /// The first setting that differs.
        setting: String,
    },
    /// A setting is unknown or out of range.
    #[error("{0}")]
    Settings(String),
    /// The topic is in another state than the caller's.
    #[error("topic is not in the expected state: current={}", current.etag())]
    Version {
        /// The state it is in.
        current: TopicVersion,
    },
    /// The cluster has [`limits::TOPICS_MAX`] topics.
    #[error("cluster has no room for another topic: limit={limit}", limit = limits::TOPICS_MAX)]
    Full,
    /// The store did not answer.
    #[error("store is unavailable")]
    Store(#[from] StoreError),
    /// The register is damaged.
    #[error("register of topics is damaged")]
    Format(#[from] FormatError),
    /// Others changed the register again and again.
    #[error("register of topics is contended")]
    Contended,
}

impl TopicsError {
    /// Returns the class of the error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::Exists { .. } | Self::Version { .. } => ErrorKind::Conflict,
            Self::Settings(_) => ErrorKind::Invalid,
            Self::Full => ErrorKind::Throttled,
            Self::Store(error) => error.kind(),
            Self::Format(_) => ErrorKind::Corrupt,
            Self::Contended => ErrorKind::Unavailable,
        }
    }
}

/// Settings by name, `partitions` among them, as a client sends them. Null stands for the default.
pub type Changes = Map<String, Value>;

/// Names one state of one incarnation of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicVersion {
    /// The incarnation.
    pub epoch: String,
    /// Raised by each change.
    pub version: u64,
}

impl TopicVersion {
    /// Names the state of a topic.
    pub fn of(topic: &Topic) -> Self {
        Self { epoch: topic.epoch.clone(), version: topic.version }
    }

    /// Returns the strong entity tag of the state.
    pub fn etag(&self) -> String {
        format!("\"{}-{}\"", self.epoch, self.version)
    }
}

/// Entity tags, one of which a topic must have to be changed.
pub type Expected = Vec<String>;

#[derive(Debug)]
struct Writer {
    file: TopicsFile,
    revision: Option<Revision>,
    ids: StdRng,
}

/// The topics of a cluster.
#[derive(Debug)]
pub struct Topics {
    store: Store,
    keys: Keys,
    clock: Arc<dyn Clock>,
    shards: u16,
    by_name: RwLock<BTreeMap<TopicName, Arc<Topic>>>,
    writer: tokio::sync::Mutex<Writer>,
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
        shards: u16,
        ids: StdRng,
    ) -> Result<Self, TopicsError> {
        let found = store.read_register(&keys.topics()).await?;
        let (file, revision) = match found {
            Some(found) => (TopicsFile::decode(&found.body)?, Some(found.revision)),
            None => (TopicsFile::new(), None),
        };
        let by_name = RwLock::new(index(&file));
        let writer = tokio::sync::Mutex::new(Writer { file, revision, ids });
        Ok(Self { store, keys, clock, shards, by_name, writer })
    }

    /// Returns a topic.
    pub fn get(&self, name: &TopicName) -> Option<Arc<Topic>> {
        self.by_name.read().get(name).map(Arc::clone)
    }

    /// Returns up to `limit` topics whose names start with a prefix and come after a name, in order, and whether
    /// there are more.
    pub fn list(
        &self,
        prefix: &str,
        after: Option<&TopicName>,
        limit: usize,
    ) -> (Vec<(TopicName, Arc<Topic>)>, bool) {
        let topics = self.by_name.read();
        let mut found = topics
            .iter()
            .filter(|(name, _)| name.as_str().starts_with(prefix) && after.is_none_or(|after| *name > after))
            .map(|(name, topic)| (name.clone(), Arc::clone(topic)));
        let page = found.by_ref().take(limit).collect();
        (page, found.next().is_some())
    }

    /// Returns all topics.
    pub fn all(&self) -> Vec<Arc<Topic>> {
        self.by_name.read().values().cloned().collect()
    }

    /// Returns the topics that were deleted and whose records may still be stored.
    pub async fn deleted(&self) -> Vec<TopicId> {
        self.writer.lock().await.file.deleted.iter().map(|topic| topic.id).collect()
    }

    /// Creates a topic, or confirms one that has the settings named. Tells whether it is new.
    ///
    /// # Errors
    /// [`TopicsError`]; a retry is safe.
    ///
    /// # Cost
    /// 1 PUT for a new topic, none else.
    pub async fn create(
        self: &Arc<Self>,
        name: &TopicName,
        changes: &Changes,
    ) -> Result<(Arc<Topic>, bool), TopicsError> {
        let (topics, name, changes) = (Arc::clone(self), name.clone(), changes.clone());
        to_the_end(async move { topics.create_one(&name, &changes, false).await }).await
    }

    /// Creates a topic that does not exist.
    ///
    /// # Errors
    /// [`TopicsError`], [`TopicsError::Version`] for one that does; a retry may meet what an earlier attempt created.
    ///
    /// # Cost
    /// 1 PUT.
    pub async fn create_new(
        self: &Arc<Self>,
        name: &TopicName,
        changes: &Changes,
    ) -> Result<Arc<Topic>, TopicsError> {
        let (topics, name, changes) = (Arc::clone(self), name.clone(), changes.clone());
        let created = to_the_end(async move { topics.create_one(&name, &changes, true).await }).await;
        created.map(|(topic, _)| topic)
    }

    async fn create_one(
        &self,
        name: &TopicName,
        changes: &Changes,
        only_new: bool,
    ) -> Result<(Arc<Topic>, bool), TopicsError> {
        let (partitions, settings) = apply(1, &Settings::default(), changes)?;
        let mut writer = self.writer.lock().await;
        for _ in 0..limits::SWAP_ATTEMPTS_MAX {
            if let Some(topic) = writer.file.topics.get(name) {
                if only_new {
                    return Err(TopicsError::Version { current: TopicVersion::of(topic) });
                }
                return match first_difference(topic, partitions, &settings, changes)? {
                    None => Ok((Arc::new(topic.clone()), false)),
                    Some(setting) => Err(TopicsError::Exists { name: name.clone(), setting }),
                };
            }
            if writer.file.topics.len() >= limits::TOPICS_MAX {
                return Err(TopicsError::Full);
            }
            let mut file = writer.file.clone();
            let id = TopicId::random(&mut writer.ids);
            let first = u16::try_from(id.get() % u128::from(self.shards.max(1)));
            let topic = Topic {
                id,
                epoch: file.take_epoch(),
                partitions,
                first_shard: ShardId::new(first.expect("a remainder of a u16 fits in a u16")),
                shard_count: self.shards,
                version: 1,
                settings: settings.clone(),
            };
            file.topics.insert(name.clone(), topic.clone());
            if self.swap(&mut writer, file).await? {
                return Ok((Arc::new(topic), true));
            }
        }
        Err(TopicsError::Contended)
    }

    /// Changes settings of a topic, if it is in the state that the caller saw.
    ///
    /// # Errors
    /// [`TopicsError`]; a retry is safe.
    ///
    /// # Cost
    /// 1 PUT, none when nothing changes.
    pub async fn alter(
        self: &Arc<Self>,
        name: &TopicName,
        changes: &Changes,
        expected: Option<Expected>,
    ) -> Result<Arc<Topic>, TopicsError> {
        let (topics, name, changes) = (Arc::clone(self), name.clone(), changes.clone());
        to_the_end(async move { topics.alter_one(&name, &changes, expected.as_ref()).await }).await
    }

    async fn alter_one(
        &self,
        name: &TopicName,
        changes: &Changes,
        expected: Option<&Expected>,
    ) -> Result<Arc<Topic>, TopicsError> {
        let mut writer = self.writer.lock().await;
        for _ in 0..limits::SWAP_ATTEMPTS_MAX {
            let not_found = || TopicsError::NotFound { name: name.clone() };
            let current = writer.file.topics.get(name).ok_or_else(not_found)?;
            check_version(current, expected)?;
            let (partitions, settings) = apply(current.partitions, &current.settings, changes)?;
            if partitions < current.partitions {
                let detail = format!("partitions may only grow: current={}", current.partitions);
                return Err(TopicsError::Settings(detail));
            }
            if (partitions, &settings) == (current.partitions, &current.settings) {
                return Ok(Arc::new(current.clone()));
            }
            let topic = Topic { partitions, settings, version: current.version + 1, ..current.clone() };
            let mut file = writer.file.clone();
            file.topics.insert(name.clone(), topic.clone());
            if self.swap(&mut writer, file).await? {
                return Ok(Arc::new(topic));
            }
        }
        Err(TopicsError::Contended)
    }

    /// Deletes a topic and returns it. Its records are removed later.
    ///
    /// # Errors
    /// [`TopicsError`]; a retry is safe.
    ///
    /// # Cost
    /// 1 PUT.
    pub async fn delete(
        self: &Arc<Self>,
        name: &TopicName,
        expected: Option<Expected>,
    ) -> Result<Topic, TopicsError> {
        let (topics, name) = (Arc::clone(self), name.clone());
        to_the_end(async move { topics.delete_one(&name, expected.as_ref()).await }).await
    }

    async fn delete_one(&self, name: &TopicName, expected: Option<&Expected>) -> Result<Topic, TopicsError> {
        let mut writer = self.writer.lock().await;
        for _ in 0..limits::SWAP_ATTEMPTS_MAX {
            if let Some(current) = writer.file.topics.get(name) {
                check_version(current, expected)?;
            }
            let mut file = writer.file.clone();
            let deleted = file.delete(name, self.clock.now());
            let topic = deleted.ok_or_else(|| TopicsError::NotFound { name: name.clone() })?;
            if self.swap(&mut writer, file).await? {
                return Ok(topic);
            }
        }
        Err(TopicsError::Contended)
    }

    /// Swaps the register; after a lost race it is read again and false is returned.
    async fn swap(&self, writer: &mut Writer, mut file: TopicsFile) -> Result<bool, TopicsError> {
        file.version += 1;
        let body: Bytes = file.encode()?;
        match self.store.swap(&self.keys.topics(), writer.revision.as_ref(), body).await {
            Ok(Swap::Swapped(revision)) => {
                writer.file = file;
                writer.revision = Some(revision);
                *self.by_name.write() = index(&writer.file);
                Ok(true)
            }
            Ok(Swap::Conflict) => self.reload(writer).await.map(|()| false),
            Err(error) => {
                // It may have happened. Should the store not say, the next change meets a conflict and looks again.
                if let Err(error) = self.reload(writer).await {
                    tracing::warn!(error = %error, "the topics are as they were before a change of unknown outcome");
                }
                Err(error.into())
            }
        }
    }

    async fn reload(&self, writer: &mut Writer) -> Result<(), TopicsError> {
        let found = self.store.read_register(&self.keys.topics()).await?;
        writer.file =
            found.as_ref().map_or_else(|| Ok(TopicsFile::new()), |found| TopicsFile::decode(&found.body))?;
        writer.revision = found.map(|found| found.revision);
        *self.by_name.write() = index(&writer.file);
        Ok(())
    }
}

/// Does a change to its end, even if the request that asked for it is gone: what is in memory would no longer be what
/// is stored.
pub(crate) async fn to_the_end<T: Send + 'static>(
    change: impl Future<Output = Result<T, TopicsError>> + Send + 'static,
) -> Result<T, TopicsError> {
    match tokio::spawn(change).await {
        Ok(done) => done,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // The process ends, and the request with it.
        Err(_) => Err(TopicsError::Contended),
    }
}

fn check_version(topic: &Topic, expected: Option<&Expected>) -> Result<(), TopicsError> {
    let current = TopicVersion::of(topic);
    match expected {
        Some(tags) if !tags.contains(&current.etag()) => Err(TopicsError::Version { current }),
        _ => Ok(()),
    }
}

fn index(file: &TopicsFile) -> BTreeMap<TopicName, Arc<Topic>> {
    file.topics.iter().map(|(name, topic)| (name.clone(), Arc::new(topic.clone()))).collect()
}
