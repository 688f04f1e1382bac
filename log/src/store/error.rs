//! What a call to the store can fail with.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use object_store::path::Path;

use super::InvalidStoreUrl;
use crate::error::{ErrorKind, Outcome};

/// One kind of call to the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// A create-only PUT.
    Create,
    /// A compare-and-swap of a register.
    Swap,
    /// A GET of a whole object, of a range, or of its size.
    Get,
    /// A listing.
    List,
    /// A delete.
    Delete,
}

impl Operation {
    fn writes(self) -> bool {
        matches!(self, Self::Create | Self::Swap | Self::Delete)
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Create => "create",
            Self::Swap => "swap",
            Self::Get => "get",
            Self::List => "list",
            Self::Delete => "delete",
        })
    }
}

/// A call to the store that was not answered, or whose answer is of no use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The store answered with an error, or could not be reached.
    #[error("object store failed: operation={operation} key={key}")]
    Failed {
        /// What was asked.
        operation: Operation,
        /// Of which object; of which folder for a listing.
        key: Path,
        /// The error below.
        #[source]
        source: object_store::Error,
    },
    /// The store gave no answer in time: [`STORE_CALL_MAX`](crate::limits::STORE_CALL_MAX), or less for a small PUT.
    #[error("object store gave no answer: operation={operation} key={key} limit_ms={}", limit.as_millis())]
    TimedOut {
        /// What was asked.
        operation: Operation,
        /// Of which object; of which folder for a listing.
        key: Path,
        /// How long it was waited for.
        limit: Duration,
    },
    /// More bytes than are ever read or swapped at once.
    #[error("object is too large: operation={operation} key={key} size={size} limit={limit}")]
    TooLarge {
        /// What was asked.
        operation: Operation,
        /// Of which object.
        key: Path,
        /// Bytes found or given.
        size: u64,
        /// The cap, [`METADATA_BYTES_MAX`](crate::limits::METADATA_BYTES_MAX).
        limit: u64,
    },
    /// An object named by its content holds other bytes.
    #[error("name holds other bytes: key={key}")]
    Differs {
        /// The object.
        key: Path,
    },
    /// No attempt settled whether the write is stored.
    #[error("write is not settled: operation={operation} key={key}")]
    Unsettled {
        /// What was asked.
        operation: Operation,
        /// Of which object.
        key: Path,
        /// The last attempt's error, if it had one.
        #[source]
        source: Option<Box<StoreError>>,
    },
}

impl StoreError {
    /// Returns the class of this error.
    pub fn kind(&self) -> ErrorKind {
        use object_store::Error as Below;
        match self {
            Self::TimedOut { .. } | Self::Unsettled { .. } => ErrorKind::Unavailable,
            Self::TooLarge { operation: Operation::Swap, .. } => ErrorKind::Internal,
            Self::TooLarge { .. } | Self::Differs { .. } => ErrorKind::Corrupt,
            Self::Failed { source, .. } => match source {
                Below::NotFound { .. } => ErrorKind::NotFound,
                Below::AlreadyExists { .. } | Below::Precondition { .. } | Below::NotModified { .. } => {
                    ErrorKind::Conflict
                }
                Below::InvalidPath { .. }
                | Below::JoinError { .. }
                | Below::NotSupported { .. }
                | Below::NotImplemented { .. }
                | Below::UnknownConfigurationKey { .. } => ErrorKind::Internal,
                // Credentials and permissions are mended at the store, without a restart here.
                _ => ErrorKind::Unavailable,
            },
        }
    }

    /// Tells what may be concluded about the write that failed. A failed read has changed nothing.
    pub fn outcome(&self) -> Outcome {
        use object_store::Error as Below;
        match self {
            Self::TimedOut { operation, .. }
            | Self::Unsettled { operation, .. }
            | Self::Failed { operation, source: Below::Generic { .. } | Below::JoinError { .. }, .. }
                if operation.writes() =>
            {
                Outcome::Unknown
            }
            _ => Outcome::NotApplied,
        }
    }

    /// Tells whether the same call may succeed later.
    pub fn is_retriable(&self) -> bool {
        self.kind().is_retriable()
    }
}

/// A store that cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another program, or another part of this one, has the folder open.
    #[error(
        "store folder is locked by another process: path={} pid={}",
        path.display(),
        holder.map_or_else(|| "unknown".to_owned(), |pid| pid.to_string())
    )]
    Locked {
        /// The folder.
        path: PathBuf,
        /// The process that holds it, if it could be told.
        holder: Option<u32>,
    },
    /// The folder or something in it cannot be used.
    #[error("cannot {action}: path={}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With which file or folder.
        path: PathBuf,
        /// The error below.
        #[source]
        source: io::Error,
    },
    /// The S3 client refuses its settings, such as half a pair of keys.
    #[error("cannot use the settings of the S3 store: bucket={bucket}")]
    S3 {
        /// The bucket.
        bucket: String,
        /// The error below.
        #[source]
        source: object_store::Error,
    },
    /// The environment names an S3 server that is none.
    #[error("cannot use AWS_ENDPOINT_URL")]
    Endpoint {
        /// The error below.
        #[source]
        source: InvalidStoreUrl,
    },
    /// The folder cannot be served as an object store.
    #[error("cannot serve the store folder: path={}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// The error below.
        #[source]
        source: object_store::Error,
    },
}

impl OpenError {
    /// Returns the class of this error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Locked { .. } => ErrorKind::Conflict,
            Self::S3 { .. } | Self::Endpoint { .. } => ErrorKind::Invalid,
            Self::Io { .. } | Self::Folder { .. } => ErrorKind::Unavailable,
        }
    }
}
