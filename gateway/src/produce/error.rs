//! Why records were not appended, and what a producer may conclude.

use forebay_log::error::{ErrorKind, FormatError, Outcome};
use forebay_log::shard::AppendError;

/// Why records were not appended.
#[derive(Debug, thiserror::Error)]
pub enum ProduceError {
    /// A record is larger than the topic allows.
    #[error("record is too large: size={size} limit={limit}")]
    RecordTooLarge {
        /// Which record of the unit.
        index: usize,
        /// Key, value and headers, in bytes.
        size: usize,
        /// `max.message.bytes`.
        limit: usize,
    },
    /// A record of a compacted topic has no key.
    #[error("a topic with log compaction takes only records with a key")]
    KeyMissing {
        /// Which record of the unit.
        index: usize,
    },
    /// A record's timestamp is too far ahead.
    #[error("timestamp is more than an hour ahead")]
    TimestampAhead {
        /// Which record of the unit.
        index: usize,
    },
    /// A record names a partition that the topic does not have.
    #[error("partition does not exist: partition={partition} partitions={partitions}")]
    Partition {
        /// Which record of the unit.
        index: usize,
        /// What it names.
        partition: u16,
        /// What there is.
        partitions: u16,
    },
    /// A record names another partition than the request.
    #[error("record names another partition than the request: record={named} request={partition}")]
    OtherPartition {
        /// Which record of the unit.
        index: usize,
        /// What it names.
        named: u16,
        /// What the request names.
        partition: u16,
    },
    /// A producer's records would go to several partitions, each of which counts its own sequence.
    #[error("records of a Producer-Id go to one partition: name it")]
    SeveralPartitions {
        /// The first record of the unit that goes elsewhere.
        index: usize,
    },
    /// The log refused it, or did not acknowledge it in time.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// Some shards stored their share of the unit; another did not, or may not have.
    #[error("unit is stored in part")]
    Partly(#[source] AppendError),
    /// A batch could not be encoded.
    #[error("batch cannot be encoded")]
    Encode(#[from] FormatError),
}

impl ProduceError {
    /// Returns the class of the error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::RecordTooLarge { .. }
            | Self::KeyMissing { .. }
            | Self::TimestampAhead { .. }
            | Self::OtherPartition { .. }
            | Self::SeveralPartitions { .. } => ErrorKind::Invalid,
            Self::Partition { .. } => ErrorKind::NotFound,
            Self::Append(error) | Self::Partly(error) => error.kind(),
            Self::Encode(_) => ErrorKind::Internal,
        }
    }

    /// Returns what the caller may conclude; of [`Self::Partly`], about the shards that failed.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Append(error) | Self::Partly(error) => error.outcome(),
            _ => Outcome::NotApplied,
        }
    }

    /// Returns which record of the unit is to blame.
    pub fn index(&self) -> Option<usize> {
        match self {
            Self::RecordTooLarge { index, .. }
            | Self::KeyMissing { index }
            | Self::TimestampAhead { index }
            | Self::Partition { index, .. }
            | Self::OtherPartition { index, .. }
            | Self::SeveralPartitions { index } => Some(*index),
            _ => None,
        }
    }
}
