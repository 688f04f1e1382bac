//! The names by which the log recognises a retry: of a request, or of a producer's records.

use forebay_log::format::codec::{Hash64, hash128};
use forebay_log::model::{PartitionId, Topic, TopicName};

use super::route::Lanes;

/// How a request is told from others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Idempotency {
    /// By a name of its own, `Idempotency-Key`.
    Request {
        /// Hash of topic and key: the same for every retry through any gateway.
        id: u128,
    },
    /// By the place of its records among all that a producer sends to a partition, `Producer-Seq`.
    Producer {
        /// Hash of topic and producer.
        id: u128,
        /// The producer's epoch.
        epoch: i16,
        /// The sequence of the first record.
        sequence: u32,
    },
}

impl Idempotency {
    /// Names a request by its key.
    pub fn of_request(name: &TopicName, topic: &Topic, key: &str) -> Self {
        let mut hash = Hash64::new();
        let mut half = |salt: u8| {
            hash.update(&[salt]);
            hash.update(&topic.id.to_bytes());
            hash.update(name.as_str().as_bytes());
            hash.update(&[0]);
            hash.update(key.as_bytes());
            hash.clone().finish()
        };
        let (high, low) = (u128::from(half(1)), u128::from(half(2)));
        Self::Request { id: (high << 64) | low }
    }

    /// Names records by their producer.
    pub fn of_producer(topic: &Topic, producer: &str, epoch: i16, sequence: u32) -> Self {
        let id = hash128(&[b"producer\0", &topic.id.to_bytes()[..], producer.as_bytes()].concat());
        Self::Producer { id, epoch, sequence }
    }

    /// Returns what the partition of keyless records follows from: a retry through any gateway goes where the first
    /// attempt went.
    pub fn id(&self) -> u128 {
        match self {
            Self::Request { id } | Self::Producer { id, .. } => *id,
        }
    }

    /// Tells whether all records have to be in one partition: those in which a producer's sequences continue.
    pub fn is_producer(&self) -> bool {
        matches!(self, Self::Producer { .. })
    }
}

/// Returns the id under which the log knows a producer in one partition.
pub(super) fn id_in_partition(producer: u128, partition: PartitionId) -> u128 {
    hash128(&[&producer.to_be_bytes()[..], &partition.get().to_be_bytes()].concat())
}

/// How far a request has got: the units before the next one.
#[derive(Debug, Default)]
pub struct Progress {
    /// Their number.
    pub(super) units: u32,
    /// Their records; sequences wrap as this does.
    pub(super) records: u32,
    /// Where a producer's records went.
    pub(super) partition: Option<PartitionId>,
    /// Which of them are on their way, and how.
    pub(super) lanes: Lanes,
}
