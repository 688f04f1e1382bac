//! What a producer asks of a shard's leader, and what it gets back.

use crate::error::{ErrorKind, Outcome};
use crate::format::record_batch::EncodedBatch;
use crate::limits;
use crate::model::{Compression, Durability, Offset, Record, TimestampType, TopicPartition};

/// Most bytes that the framing of a record takes in a batch: six varints and the attributes.
const RECORD_FRAMING: usize = 36;
/// Most bytes that the framing of a record's header takes: the lengths of name and value.
const HEADER_FRAMING: usize = 10;

/// Records on their way into one partition. Cloning copies the bytes of an encoded batch.
#[derive(Debug, Clone)]
pub enum BatchSource {
    /// Few records: the leader puts them into one batch with those of other requests that wait beside them.
    Records {
        /// At least one.
        records: Vec<Record>,
        /// How the batch is stored.
        compression: Compression,
        /// Whose clock stamped them.
        timestamp_type: TimestampType,
    },
    /// Many records, encoded where they came in.
    Encoded(EncodedBatch),
}

impl BatchSource {
    /// Returns the number of records.
    pub fn count(&self) -> u32 {
        match self {
            Self::Records { records, .. } => u32::try_from(records.len()).unwrap_or(u32::MAX),
            Self::Encoded(batch) => batch.count(),
        }
    }

    /// Returns the most bytes it will take in a batch.
    pub fn size_bytes(&self) -> usize {
        let encoded =
            |record: &Record| RECORD_FRAMING + record.size_bytes() + record.headers.len() * HEADER_FRAMING;
        match self {
            Self::Records { records, .. } => records.iter().map(encoded).sum(),
            Self::Encoded(batch) => batch.size_bytes(),
        }
    }
}

/// Records for one partition.
#[derive(Debug, Clone)]
pub struct NewBatch {
    /// Where to.
    pub partition: TopicPartition,
    /// What.
    pub source: BatchSource,
    /// Conditional append: only if the next offset is this one, unacknowledged appends included.
    pub expected: Option<Offset>,
}

/// Names an append, so that a retry of it is recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dedupe {
    /// Hash of what names the producer and the partition, or the request.
    pub id: u128,
    /// The epoch of a producer, whose appends continue each other; none for a request, each of whose units stands for
    /// itself.
    pub producer_epoch: Option<i16>,
    /// The sequence of a producer's first record, or the number of the unit in its request.
    pub first_sequence: u32,
    /// Tells a retry from another body under the same name.
    pub body_hash: u64,
}

/// One unit: stored all or nothing. Cloning copies the bytes of encoded batches.
#[derive(Debug, Clone, Default)]
pub struct Append {
    /// At most one per partition.
    pub batches: Vec<NewBatch>,
    /// The name of the append, if it has one. That of a producer goes with a single batch.
    pub dedupe: Option<Dedupe>,
    /// When it is acknowledged.
    pub level: Durability,
}

impl Append {
    /// Returns the most bytes its batches will take.
    pub fn size_bytes(&self) -> usize {
        self.batches.iter().map(|batch| batch.source.size_bytes()).sum()
    }

    /// Checks what the leader relies on.
    ///
    /// # Errors
    /// [`AppendError::TooLarge`] or [`AppendError::Empty`]; nothing is stored.
    pub fn check(&self) -> Result<(), AppendError> {
        let size = self.size_bytes();
        if size > limits::BATCH_BYTES_MAX / 2 {
            return Err(AppendError::TooLarge { size, limit: limits::BATCH_BYTES_MAX / 2 });
        }
        if self.batches.is_empty() || self.batches.iter().any(|batch| batch.source.count() == 0) {
            return Err(AppendError::Empty);
        }
        Ok(())
    }
}

/// Where one batch of an append is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placement {
    /// The partition.
    pub partition: TopicPartition,
    /// Offset of its first record; the others follow without a gap.
    pub base_offset: Offset,
    /// Number of records.
    pub count: u32,
}

/// An acknowledged append.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Appended {
    /// One per batch, in the order of the request.
    pub placements: Vec<Placement>,
    /// Whether it was stored before: this answers a retry.
    pub replayed: bool,
}

/// Why an append was not acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The shard holds more unstored bytes than [`limits::SHARD_UNFLUSHED_BYTES_MAX`], or its queue is full.
    #[error("shard is overloaded")]
    Overloaded,
    /// The partition's next offset is another one.
    #[error("next offset is another one: expected={expected} current={current}")]
    Expected {
        /// The offset the caller asked for.
        expected: Offset,
        /// The partition's next offset.
        current: Offset,
    },
    /// The name of the append was used for another body.
    #[error("append was seen with another body")]
    Mismatch,
    /// The producer goes on with another sequence, and this is no retry of an append that is still known. What lies
    /// between has to be sent first.
    #[error("sequence does not continue the producer's records: expected={expected}")]
    SequenceGap {
        /// The sequence of its next record.
        expected: u32,
    },
    /// Somebody goes on under the producer's id with a newer epoch.
    #[error("producer has a newer epoch: current={current}")]
    ProducerFenced {
        /// That epoch.
        current: i16,
    },
    /// It repeats an append that is still on its way. A retry waits for that again.
    #[error("the first attempt is still on its way")]
    InProgress,
    /// Not acknowledged in time.
    #[error("no acknowledgement in time")]
    TimedOut,
    /// Larger than a unit may be.
    #[error("append is too large: size={size} limit={limit}")]
    TooLarge {
        /// Its size in bytes.
        size: usize,
        /// The cap in bytes.
        limit: usize,
    },
    /// A batch without a record.
    #[error("append holds no record")]
    Empty,
    /// The topic was deleted.
    #[error("topic was deleted")]
    TopicGone,
    /// The node does not lead the shard, or no longer.
    #[error("shard has no leader here: outcome={outcome:?}")]
    NoLeader {
        /// What happened to the append.
        outcome: Outcome,
    },
    /// The node is stopping.
    #[error("shard is being drained")]
    Draining,
}

impl AppendError {
    /// Returns the class of the error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Overloaded => ErrorKind::Throttled,
            Self::Expected { .. } | Self::Mismatch | Self::SequenceGap { .. } | Self::InProgress => {
                ErrorKind::Conflict
            }
            Self::ProducerFenced { .. } => ErrorKind::Fenced,
            Self::TooLarge { .. } | Self::Empty => ErrorKind::Invalid,
            Self::TopicGone => ErrorKind::NotFound,
            Self::TimedOut | Self::NoLeader { .. } | Self::Draining => ErrorKind::Unavailable,
        }
    }

    /// Returns what the caller may conclude.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::NoLeader { outcome } => *outcome,
            Self::InProgress | Self::TimedOut => Outcome::Unknown,
            _ => Outcome::NotApplied,
        }
    }
}
