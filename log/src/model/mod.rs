//! The vocabulary: newtypes that cannot hold invalid values, and the record.
//!
//! Kafka's words keep Kafka's meaning. Ranges of offsets are half open: "end" is exclusive, "last" inclusive.

mod id;
mod offset;
mod record;
mod time;
mod topic;

pub use id::{ClusterId, Incarnation, JobId, NodeId, Nonce, TopicId};
pub use offset::{LeaderEpoch, Offset, PartitionId, ShardId, TopicPartition, WalSeq};
pub use record::{Durability, Header, Record};
pub use time::Timestamp;
pub use topic::{CleanupPolicy, Compression, InvalidTopicName, Settings, TimestampType, Topic, TopicName};
