//! Numbers that must not be mixed up.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name($inner);

        impl $name {
            /// The smallest value.
            pub const ZERO: Self = Self(0);

            /// Wraps a number.
            pub const fn new(value: $inner) -> Self {
                Self(value)
            }

            /// Returns the number.
            pub const fn get(self) -> $inner {
                self.0
            }

            /// Returns the value `n` further on. Saturates: no stored number comes near the maximum.
            #[must_use]
            pub const fn plus(self, n: $inner) -> Self {
                Self(self.0.saturating_add(n))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }
    };
}

number!(
    /// Position of a record in its partition. Strictly increases; never carries two different records.
    Offset(u64)
);
number!(
    /// Number of an object in a shard's write-ahead log.
    WalSeq(u64)
);
number!(
    /// Number of a shard leadership, from the EPOCH record in the shard's log. 0 = before the first leader.
    LeaderEpoch(u32)
);
number!(
    /// One of the cluster's shards.
    ShardId(u16)
);
number!(
    /// One of a topic's partitions; a topic has at most [`crate::limits::PARTITIONS_MAX`].
    PartitionId(u16)
);

/// One partition of one incarnation of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// The topic's incarnation.
    pub topic: crate::model::TopicId,
    /// The partition's number in its topic.
    pub partition: PartitionId,
}
