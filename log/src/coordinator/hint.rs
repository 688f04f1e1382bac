//! What nodes tell each other by the coordinator: that something changed, and where to look. A few words of text.
//!
//! A hint carries no state, only a reason to look earlier: it may be lost, doubled, late or wrong.

use std::fmt;
use std::str::FromStr;

use crate::limits::HINT_BYTES_MAX;
use crate::model::ShardId;

/// Something that changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Hint {
    /// The register of topics has this version or a later one.
    TopicsChanged {
        /// The version.
        version: u64,
    },
    /// A shard has a new leader.
    LeaderChanged {
        /// The shard.
        shard: ShardId,
    },
    /// A shard's manifest has this version or a later one.
    ManifestChanged {
        /// The shard.
        shard: ShardId,
        /// The version.
        version: u64,
    },
}

/// A text that is no hint, or one of a later version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("text is no hint")]
pub struct InvalidHint;

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TopicsChanged { version } => write!(f, "topics {version}"),
            Self::LeaderChanged { shard } => write!(f, "leader {shard}"),
            Self::ManifestChanged { shard, version } => write!(f, "manifest {shard} {version}"),
        }
    }
}

impl FromStr for Hint {
    type Err = InvalidHint;

    fn from_str(text: &str) -> Result<Self, InvalidHint> {
        if text.len() > HINT_BYTES_MAX {
            return Err(InvalidHint);
        }
        let mut words = text.split(' ');
        let kind = words.next().ok_or(InvalidHint)?;
        let hint = match kind {
            "topics" => Self::TopicsChanged { version: number(words.next())? },
            "leader" => Self::LeaderChanged { shard: ShardId::new(number(words.next())?) },
            "manifest" => {
                let shard = ShardId::new(number(words.next())?);
                Self::ManifestChanged { shard, version: number(words.next())? }
            }
            _ => return Err(InvalidHint),
        };
        words.next().map_or(Ok(hint), |_| Err(InvalidHint))
    }
}

fn number<T: FromStr>(word: Option<&str>) -> Result<T, InvalidHint> {
    word.and_then(|word| word.parse().ok()).ok_or(InvalidHint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_come_back_from_their_text() {
        let shard = ShardId::new(1023);
        for (hint, text) in [
            (Hint::TopicsChanged { version: u64::MAX }, "topics 18446744073709551615"),
            (Hint::LeaderChanged { shard }, "leader 1023"),
            (Hint::ManifestChanged { shard, version: 7 }, "manifest 1023 7"),
        ] {
            assert_eq!(hint.to_string(), text);
            assert_eq!(text.parse(), Ok(hint));
        }
    }

    #[test]
    fn what_no_version_sends_is_no_hint() {
        let long = format!("topics {}", "0".repeat(HINT_BYTES_MAX));
        for text in [
            "",
            " ",
            "topics",
            "topics x",
            "topics 1 2",
            "topics -1",
            "leader 65536",
            "manifest 1",
            "other 1",
            &long,
        ] {
            assert_eq!(text.parse::<Hint>(), Err(InvalidHint), "{text}");
        }
    }
}
