//! The root of a cluster: a JSON register written when the cluster is made and read by every node at its start.
//!
//! It decides who belongs here: a node with another cluster's journal, or with another coordinator, must not start.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::error::FormatError;
use crate::format::codec::{decode_json, encode_json, ensure};
use crate::limits::SHARDS_MAX;
use crate::model::{ClusterId, NodeId};

const WHAT: &str = "cluster";
const FORMAT: u32 = 1;

/// Who holds committed offsets, group membership and leases.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum CoordinatorKind {
    /// One node, in its data folder; no other may start.
    Embedded {
        /// The node.
        node: NodeId,
    },
    /// A Redis primary. Its address is configuration, for it may change.
    Redis {},
}

/// The root of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterFile {
    format: u32,
    /// 1 at creation, one more with each swap.
    pub version: u64,
    /// The cluster's id, drawn at creation.
    pub id: ClusterId,
    /// Number of shards; may only grow, and counts for topics created later.
    pub shards: u16,
    /// Who coordinates.
    pub coordinator: CoordinatorKind,
}

impl ClusterFile {
    /// Returns the register of a new cluster.
    pub fn new(id: ClusterId, shards: u16, coordinator: CoordinatorKind) -> Self {
        Self { format: FORMAT, version: 1, id, shards, coordinator }
    }

    /// Encodes the register.
    ///
    /// # Errors
    /// [`FormatError::Field`] for what no reader would accept. A retry does not help.
    pub fn encode(&self) -> Result<Bytes, FormatError> {
        self.check()?;
        encode_json(WHAT, self)
    }

    /// Decodes the register.
    ///
    /// # Errors
    /// Any [`FormatError`]; the node must not start.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let file: Self = decode_json(WHAT, FORMAT, bytes)?;
        file.check()?;
        Ok(file)
    }

    fn check(&self) -> Result<(), FormatError> {
        ensure(self.version > 0, WHAT, "version")?;
        ensure((1..=SHARDS_MAX).contains(&self.shards), WHAT, "shards")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_coordinators_come_back() {
        let id = ClusterId::new(5);
        for coordinator in [CoordinatorKind::Redis {}, CoordinatorKind::Embedded { node: NodeId::new(6) }] {
            let file = ClusterFile::new(id, SHARDS_MAX, coordinator);
            assert_eq!(ClusterFile::decode(&file.encode().unwrap()), Ok(file));
        }
    }

    #[test]
    fn what_no_version_wrote_is_refused() {
        let text = |format: u32, shards: u32, coordinator: &str| {
            let id = ClusterId::new(5);
            let head = format!(r#"{{"format":{format},"version":1,"id":"{id}","shards":{shards}"#);
            format!(r#"{head},"coordinator":{coordinator}}}"#)
        };
        let decode = |text: String| ClusterFile::decode(text.as_bytes());
        let redis = r#"{"kind":"redis"}"#;
        assert!(decode(text(1, 4, redis)).is_ok());
        assert_eq!(decode(text(2, 4, redis)), Err(FormatError::Version { what: WHAT, version: 2 }));
        assert!(decode(text(1, 0, redis)).is_err());
        assert!(decode(text(1, 1025, redis)).is_err());
        assert!(decode(text(1, 4, r#"{"kind":"redis","url":"x"}"#)).is_err());
        assert!(decode(text(1, 4, r#"{"kind":"embedded"}"#)).is_err());
        assert!(decode(text(1, 4, r#"{"kind":"zookeeper"}"#)).is_err());
    }
}
