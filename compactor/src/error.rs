//! What stops a compactor.

use forebay_log::error::{ErrorKind, FormatError};
use forebay_log::shard::OpenError;
use forebay_log::shard::walk::PathFault;
use forebay_log::store::StoreError;

/// Why work on a shard ended without a result. All of it may be done again: nothing is deleted before it is known
/// that the manifest no longer needs it.
#[derive(Debug, thiserror::Error)]
pub enum CompactorError {
    /// An object could not be read.
    #[error("cannot read the shard")]
    Read(#[from] OpenError),
    /// The store failed. After a failed commit the manifest may hold the result.
    #[error("object store failed")]
    Store(#[from] StoreError),
    /// The log holds what no writer could have written.
    #[error("the shard's log is damaged")]
    Path(#[from] PathFault),
    /// Stored bytes are not what was written.
    #[error("stored object is damaged: key={key}")]
    Damaged {
        /// The object.
        key: String,
        /// What is wrong with it.
        #[source]
        source: FormatError,
    },
    /// What the manifest names is not there.
    #[error("object named by the manifest is missing: key={key}")]
    Missing {
        /// The object.
        key: String,
    },
    /// The copy does not hold what its inputs hold. Nothing was stored.
    #[error("copy differs from its inputs: input_records={input_records} output_records={output_records}")]
    CopyDiffers {
        /// Records in the inputs.
        input_records: u64,
        /// Records in the copy.
        output_records: u64,
    },
    /// The result does not fit its format. Nothing was stored.
    #[error("result cannot be encoded")]
    Encode(#[source] FormatError),
    /// Others kept changing the manifest.
    #[error("lost too many races for the manifest: attempts={attempts}")]
    Contended {
        /// How many swaps were tried.
        attempts: u32,
    },
    /// The runtime is stopping.
    #[error("stopped while copying")]
    Stopped,
}

impl CompactorError {
    /// Returns the class of the error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Read(error) => error.kind(),
            Self::Store(error) => error.kind(),
            Self::Path(_) | Self::Damaged { .. } | Self::Missing { .. } => ErrorKind::Corrupt,
            Self::CopyDiffers { .. } | Self::Encode(_) => ErrorKind::Internal,
            Self::Contended { .. } | Self::Stopped => ErrorKind::Unavailable,
        }
    }
}
