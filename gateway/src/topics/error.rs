//! Why a topic cannot be had or changed.

use std::sync::Arc;

use forebay_log::error::{ErrorKind, FormatError};
use forebay_log::limits;
use forebay_log::model::{Topic, TopicName};
use forebay_log::store::StoreError;

/// Why a topic cannot be had, or a change of topics was refused. One error may be told to all who wait for one call.
#[derive(Debug, Clone, thiserror::Error)]
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
    /// The store did not answer a change: it may have happened.
    #[error("store is unavailable")]
    Store(#[source] Arc<StoreError>),
    /// The store did not say whether what this node knows still holds. Nothing was changed.
    #[error("topics cannot be confirmed with the store")]
    Stale,
    /// The register is damaged.
    #[error("register of topics is damaged")]
    Format(#[from] FormatError),
    /// The register is older than it was: somebody has brought back an old copy of the bucket.
    #[error("register of topics went back: version={found} known={known}")]
    WentBack {
        /// The version that was read.
        found: u64,
        /// The version that this node has seen before.
        known: u64,
    },
    /// Others changed the register again and again.
    #[error("register of topics is contended")]
    Contended,
    /// Too many changes wait for the store.
    #[error("too many changes of topics are waiting")]
    Overloaded,
}

impl TopicsError {
    /// Returns the class of the error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::Exists { .. } | Self::Version { .. } => ErrorKind::Conflict,
            Self::Settings(_) => ErrorKind::Invalid,
            Self::Full | Self::Overloaded => ErrorKind::Throttled,
            Self::Store(error) => error.kind(),
            Self::Format(_) | Self::WentBack { .. } => ErrorKind::Corrupt,
            Self::Contended | Self::Stale => ErrorKind::Unavailable,
        }
    }
}

impl From<StoreError> for TopicsError {
    fn from(error: StoreError) -> Self {
        Self::Store(Arc::new(error))
    }
}

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
