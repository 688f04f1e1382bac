//! Which records a read wants.

use forebay_log::format::record_batch::RecordView;

/// An exact text, or a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pattern {
    /// Equal to this.
    Exact(String),
    /// Begins with this.
    Prefix(String),
}

impl Pattern {
    /// Reads a parameter: a trailing `*` makes a prefix of it.
    pub fn parse(text: &str) -> Self {
        match text.strip_suffix('*') {
            Some(prefix) => Self::Prefix(prefix.to_owned()),
            None => Self::Exact(text.to_owned()),
        }
    }

    fn matches(&self, bytes: &[u8]) -> bool {
        match self {
            Self::Exact(text) => bytes == text.as_bytes(),
            Self::Prefix(prefix) => bytes.starts_with(prefix.as_bytes()),
        }
    }
}

/// Conditions that must all hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// On the key; a record without one does not match.
    pub key: Option<Pattern>,
    /// On headers, by name: one header of that name must match.
    pub headers: Vec<(String, Pattern)>,
}

impl Filter {
    /// Tells whether every record passes.
    pub fn is_empty(&self) -> bool {
        self.key.is_none() && self.headers.is_empty()
    }

    /// Tells whether a record passes.
    pub fn matches(&self, record: &RecordView) -> bool {
        let key = self.key.as_ref().is_none_or(|p| record.key.as_deref().is_some_and(|key| p.matches(key)));
        key && self.headers.iter().all(|(name, pattern)| {
            let same_name = record.headers.clone().filter(|header| header.name == name.as_bytes());
            same_name.into_iter().any(|header| pattern.matches(header.value.as_deref().unwrap_or_default()))
        })
    }
}
