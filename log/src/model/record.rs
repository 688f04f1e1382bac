//! One record, as a producer hands it over and a consumer gets it back.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::model::Timestamp;

/// One header of a record. Names may repeat and keep their order.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Header {
    /// The name, UTF-8.
    pub name: Bytes,
    /// The value; Kafka allows none.
    pub value: Option<Bytes>,
}

/// One record without its place in the log.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Record {
    /// Decides the partition, and what log compaction keeps.
    pub key: Option<Bytes>,
    /// The payload; none is a tombstone.
    pub value: Option<Bytes>,
    /// In the order in which the producer sent them.
    pub headers: Vec<Header>,
    /// Milliseconds since 1970-01-01 UTC.
    pub timestamp: Timestamp,
}

impl Record {
    /// Returns the bytes of key, value and headers, as limits count them.
    pub fn size_bytes(&self) -> usize {
        let len = |b: &Option<Bytes>| b.as_ref().map_or(0, Bytes::len);
        let headers: usize = self.headers.iter().map(|h| h.name.len() + len(&h.value)).sum();
        len(&self.key) + len(&self.value) + headers
    }
}

/// When an append is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// After the sync of the leader's journal. Survives a crash of the process and a restart of the node with its disk.
    Local,
    /// In the bucket, in order. Survives everything but the loss of the bucket.
    #[default]
    Object,
}
