//! A topic: its name, its settings, and where its partitions lie.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::limits;
use crate::model::{Durability, PartitionId, ShardId, TopicId, TopicPartition};

/// Why a text is no topic name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTopicName {
    /// Empty, or longer than [`limits::TOPIC_NAME_LEN_MAX`].
    #[error("topic name must have 1 to {max} characters", max = limits::TOPIC_NAME_LEN_MAX)]
    Length,
    /// A character outside `[a-zA-Z0-9._-]`.
    #[error("topic name may hold only letters, digits, '.', '_' and '-'")]
    Character,
    /// `.`, `..`, or a leading `__`.
    #[error("topic name is reserved: '.', '..' and names that start with '__'")]
    Reserved,
}

/// A valid topic name: `[a-zA-Z0-9._-]{1,249}`, not `.` or `..`, no leading `__`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TopicName(String);

impl TopicName {
    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TopicName {
    type Err = InvalidTopicName;

    fn from_str(text: &str) -> Result<Self, InvalidTopicName> {
        Self::try_from(text.to_owned())
    }
}

impl TryFrom<String> for TopicName {
    type Error = InvalidTopicName;

    fn try_from(text: String) -> Result<Self, InvalidTopicName> {
        if text.is_empty() || text.len() > limits::TOPIC_NAME_LEN_MAX {
            return Err(InvalidTopicName::Length);
        }
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if !text.bytes().all(allowed) {
            return Err(InvalidTopicName::Character);
        }
        if text == "." || text == ".." || text.starts_with("__") {
            return Err(InvalidTopicName::Reserved);
        }
        Ok(Self(text))
    }
}

impl From<TopicName> for String {
    fn from(name: TopicName) -> Self {
        name.0
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What retention does with old records. Kafka's `cleanup.policy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum CleanupPolicy {
    /// Records past retention go.
    #[default]
    #[serde(rename = "delete")]
    Delete,
    /// The last value of each key stays.
    #[serde(rename = "compact")]
    Compact,
    /// Both.
    #[serde(rename = "compact,delete")]
    CompactDelete,
}

/// How record batches are stored. Kafka's `compression.type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// As they are.
    None,
    /// zstd, where it makes the batch smaller.
    #[default]
    Zstd,
}

/// Whose clock a record's timestamp is from. Kafka's `message.timestamp.type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum TimestampType {
    /// The producer's, or the gateway's where the producer sends none.
    #[default]
    CreateTime,
    /// Always the gateway's.
    LogAppendTime,
}

/// The settings of a topic, by Kafka's names. Milliseconds and bytes; -1 = no bound.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// When a produce is acknowledged, unless the request says otherwise.
    pub durability: Durability,
    /// How long records are kept.
    #[serde(rename = "retention.ms")]
    pub retention_ms: i64,
    /// How many bytes of a partition are kept.
    #[serde(rename = "retention.bytes")]
    pub retention_bytes: i64,
    /// What retention does.
    #[serde(rename = "cleanup.policy")]
    pub cleanup_policy: CleanupPolicy,
    /// How long a tombstone is kept.
    #[serde(rename = "delete.retention.ms")]
    pub delete_retention_ms: i64,
    /// How long every value is kept before log compaction may drop it.
    #[serde(rename = "min.compaction.lag.ms")]
    pub min_compaction_lag_ms: i64,
    /// Largest record: key, value and headers.
    #[serde(rename = "max.message.bytes")]
    pub max_message_bytes: u32,
    /// How batches are stored.
    #[serde(rename = "compression.type")]
    pub compression_type: Compression,
    /// Whose clock stamps records.
    #[serde(rename = "message.timestamp.type")]
    pub message_timestamp_type: TimestampType,
    /// Size at which a partition's batches are merged into a segment.
    #[serde(rename = "segment.bytes")]
    pub segment_bytes: u64,
    /// Age at which they are.
    #[serde(rename = "segment.ms")]
    pub segment_ms: u64,
}

impl Default for Settings {
    fn default() -> Self {
        const DAY_MS: i64 = 24 * 60 * 60 * 1000;
        Self {
            durability: Durability::Object,
            retention_ms: 7 * DAY_MS,
            retention_bytes: -1,
            cleanup_policy: CleanupPolicy::Delete,
            delete_retention_ms: DAY_MS,
            min_compaction_lag_ms: 0,
            max_message_bytes: limits::MESSAGE_BYTES_DEFAULT,
            compression_type: Compression::Zstd,
            message_timestamp_type: TimestampType::CreateTime,
            segment_bytes: 64 * 1024 * 1024,
            segment_ms: 60 * 60 * 1000,
        }
    }
}

/// One incarnation of a topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Topic {
    /// This incarnation's id.
    pub id: TopicId,
    /// Names the incarnation in cursors: a short lower-case word, another for each incarnation.
    pub epoch: String,
    /// Number of partitions; may only grow.
    pub partitions: u16,
    /// Shard of partition 0.
    pub first_shard: ShardId,
    /// The cluster's shard count when the topic was created.
    pub shard_count: u16,
    /// Changes with every alteration.
    pub version: u64,
    /// What the producer and the compactor go by.
    pub settings: Settings,
}

impl Topic {
    /// Returns the shard that holds a partition: (first + p) mod the shard count at creation.
    pub fn shard_of(&self, partition: PartitionId) -> ShardId {
        let sum = u32::from(self.first_shard.get()) + u32::from(partition.get());
        let shard = sum % u32::from(self.shard_count.max(1));
        ShardId::new(u16::try_from(shard).expect("a remainder of a u16 fits in a u16"))
    }

    /// Returns the full name of one of its partitions.
    pub fn partition(&self, partition: PartitionId) -> TopicPartition {
        TopicPartition { topic: self.id, partition }
    }

    /// Returns the numbers of all its partitions, in order.
    pub fn partition_ids(&self) -> impl Iterator<Item = PartitionId> + use<> {
        (0..self.partitions).map(PartitionId::new)
    }
}
