//! Values of options: each is parsed by one rule, wherever it comes from.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use forebay_log::limits::{JOURNAL_FILE_BYTES, SHARDS_MAX};
use serde::Deserialize;

use crate::limits::CONCURRENCY_MAX;

/// Longest linger: past it a crash leaves too much to replay.
const LINGER_MAX: Duration = Duration::from_secs(60);

/// Why a text is not the value of an option.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidValue(String);

impl InvalidValue {
    pub(super) fn new(rule: impl Into<String>) -> Self {
        Self(rule.into())
    }
}

fn invalid<T>(rule: impl Into<String>) -> Result<T, InvalidValue> {
    Err(InvalidValue::new(rule))
}

/// Who may call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Auth {
    /// Everyone who reaches the address.
    #[default]
    None,
}

impl fmt::Display for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
        })
    }
}

/// Form of the log on standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One object per line.
    Json,
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// A number of shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "u64")]
pub(super) struct Shards(pub(super) u16);

impl TryFrom<u64> for Shards {
    type Error = InvalidValue;

    fn try_from(number: u64) -> Result<Self, InvalidValue> {
        match u16::try_from(number) {
            Ok(shards) if (1..=SHARDS_MAX).contains(&shards) => Ok(Self(shards)),
            _ => invalid(format!("must be a whole number from 1 to {SHARDS_MAX}")),
        }
    }
}

impl FromStr for Shards {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        // Zero is out of range, so it gives the one error for what is no number, too.
        Self::try_from(text.parse().unwrap_or(0))
    }
}

/// A flush linger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Linger(pub(super) Duration);

impl FromStr for Linger {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        match humantime::parse_duration(text) {
            Ok(linger) if linger <= LINGER_MAX => Ok(Self(linger)),
            _ => invalid("must be a duration such as 250ms or 5s, at most 60s"),
        }
    }
}

/// A size in bytes: a number with an optional KiB, MiB, GiB or TiB, not below what is of any use: one file of the journal,
/// a cache that holds the largest run of batches twice in a quarter of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "NumberOrText")]
pub struct ByteSize(pub u64);

const UNITS: [(&str, u32); 4] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];

impl ByteSize {
    /// Returns the size as one of memory.
    pub(super) fn in_memory(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }

    fn checked(bytes: Option<u64>) -> Result<Self, InvalidValue> {
        match bytes {
            Some(bytes) if bytes >= JOURNAL_FILE_BYTES => Ok(Self(bytes)),
            _ => invalid(format!(
                "must be a size such as 512MiB or 10GiB, at least {}",
                Self(JOURNAL_FILE_BYTES)
            )),
        }
    }
}

impl FromStr for ByteSize {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let unit = UNITS.iter().find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, *shift)));
        let (number, shift) = unit.unwrap_or((text, 0));
        let number: Option<u64> = number.trim_end().parse().ok();
        Self::checked(number.and_then(|number| number.checked_mul(1 << shift)))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match UNITS.iter().find(|(_, shift)| self.0 > 0 && self.0.trailing_zeros() >= *shift) {
            Some((unit, shift)) => write!(f, "{}{unit}", self.0 >> shift),
            None => write!(f, "{}", self.0),
        }
    }
}

/// A size in the file: a number of bytes, or a text with a unit.
#[derive(Deserialize)]
#[serde(untagged, expecting = "must be a number of bytes or a size such as \"10GiB\"")]
enum NumberOrText {
    Number(u64),
    Text(String),
}

impl TryFrom<NumberOrText> for ByteSize {
    type Error = InvalidValue;

    fn try_from(value: NumberOrText) -> Result<Self, InvalidValue> {
        match value {
            NumberOrText::Number(bytes) => Self::checked(Some(bytes)),
            NumberOrText::Text(text) => text.parse(),
        }
    }
}

impl TryFrom<String> for Linger {
    type Error = InvalidValue;

    fn try_from(text: String) -> Result<Self, InvalidValue> {
        text.parse()
    }
}

/// A number of things at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "u64")]
pub(super) struct Concurrency(pub(super) usize);

impl TryFrom<u64> for Concurrency {
    type Error = InvalidValue;

    fn try_from(number: u64) -> Result<Self, InvalidValue> {
        match usize::try_from(number) {
            Ok(number) if (1..=CONCURRENCY_MAX).contains(&number) => Ok(Self(number)),
            _ => invalid(format!("must be a whole number from 1 to {CONCURRENCY_MAX}")),
        }
    }
}

impl FromStr for Concurrency {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        // As for shards.
        Self::try_from(text.parse().unwrap_or(0))
    }
}
