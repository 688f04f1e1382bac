//! Random 128-bit identifiers, written as 32 lower-case hexadecimal digits.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A text that is not 32 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("identifier is not 32 hexadecimal digits")]
pub struct InvalidId;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(u128);

        impl $name {
            /// Wraps a number.
            pub const fn new(value: u128) -> Self {
                Self(value)
            }

            /// Draws a fresh identifier from the given generator.
            pub fn random(rng: &mut impl rand::Rng) -> Self {
                Self(rng.random())
            }

            /// Returns the number.
            pub const fn get(self) -> u128 {
                self.0
            }

            /// Returns the bytes as stored: big endian.
            pub const fn to_bytes(self) -> [u8; 16] {
                self.0.to_be_bytes()
            }

            /// Reads the bytes as stored: big endian.
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(u128::from_be_bytes(bytes))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({:032x})", stringify!($name), self.0)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                let digits = text.len() == 32
                    && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
                if !digits {
                    return Err(InvalidId);
                }
                u128::from_str_radix(text, 16).map(Self).map_err(|_| InvalidId)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

id!(
    /// One cluster: one prefix in one bucket.
    ClusterId
);
id!(
    /// One incarnation of a topic: a topic deleted and created again has another id.
    TopicId
);
id!(
    /// Fresh for each attempt at an EPOCH record; the DATA of an epoch carries the nonce of its EPOCH.
    Nonce
);
id!(
    /// One attempt of a compactor; part of the name of what it writes.
    JobId
);
id!(
    /// One gateway's data folder: drawn when the folder is made, kept over restarts.
    NodeId
);
id!(
    /// One run of a node's process: drawn at its start, so that a node that comes back is told from the one before.
    Incarnation
);
