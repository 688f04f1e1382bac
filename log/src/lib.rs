//! The log under Forebay: partitions of topics, kept as record batches in a write-ahead log per shard on object storage.
//!
//! A *shard* is a group of partitions that share one write-ahead log and one leader. The leader assigns offsets,
//! writes a local *journal*, and PUTs *WAL objects* that hold batches of many partitions. A *manifest* per shard says
//! what has been rolled into larger objects, and the *floor*: the first WAL object still needed. Readers see offsets
//! below the *high watermark*. Nothing here knows HTTP.

pub mod clock;
pub mod coordinator;
pub mod error;
pub mod format;
pub mod journal;
pub mod keys;
pub mod limits;
pub mod model;
#[doc(hidden)]
pub mod mutation;
pub mod partitioner;
pub mod shard;
pub mod store;
#[cfg(any(test, feature = "test-util"))]
pub mod testing;
