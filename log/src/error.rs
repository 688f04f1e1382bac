//! What went wrong, and what a caller may conclude.

/// What a caller may conclude about a failed write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It is not stored and never will be: doing it again cannot duplicate it.
    NotApplied,
    /// It may be stored, now or later.
    Unknown,
}

/// The class of an error: decides the HTTP status and whether a retry helps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The caller's input is wrong.
    Invalid,
    /// What was named does not exist.
    NotFound,
    /// The state is another than the caller assumed.
    Conflict,
    /// A newer leader or owner has taken over.
    Fenced,
    /// A bound is reached; try later.
    Throttled,
    /// A component is not there now; try later.
    Unavailable,
    /// Stored bytes are not what was written.
    Corrupt,
    /// A fault of our own.
    Internal,
}

impl ErrorKind {
    /// Tells whether the same call may succeed later.
    pub fn is_retriable(self) -> bool {
        matches!(self, Self::Throttled | Self::Unavailable | Self::Fenced)
    }
}

/// Stored bytes that are not what this version of the software writes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// The bytes end before the structure does.
    #[error("{what} is truncated")]
    Truncated {
        /// The structure.
        what: &'static str,
    },
    /// The first bytes are those of something else.
    #[error("{what} has another magic number")]
    Magic {
        /// The structure.
        what: &'static str,
    },
    /// Written by a newer or unknown version.
    #[error("{what} has an unknown version: version={version}")]
    Version {
        /// The structure.
        what: &'static str,
        /// The version found.
        version: u32,
    },
    /// A checksum does not match.
    #[error("{what} fails its checksum")]
    Checksum {
        /// The structure.
        what: &'static str,
    },
    /// A field holds a value that no writer produces.
    #[error("{what} has an invalid field: {field}")]
    Field {
        /// The structure.
        what: &'static str,
        /// The field.
        field: &'static str,
    },
    /// Larger than its cap in [`crate::limits`].
    #[error("{what} is too large: size={size} limit={limit}")]
    TooLarge {
        /// The structure.
        what: &'static str,
        /// Its size, in bytes or entries.
        size: usize,
        /// The cap.
        limit: usize,
    },
}
