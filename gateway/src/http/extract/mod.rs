//! What a request says, read strictly: a mistake gets a problem that names it, never a silent default.

mod accept;
mod accept_encoding;
mod after;
mod content_type;
mod json_body;
mod path;
mod query;
mod rejection;

pub use accept::{Representation, negotiate};
pub use accept_encoding::{Coding, content_coding};
pub use after::{After, parse_time};
pub use content_type::{EventDocument, ProduceFormat, produce_format};
pub use json_body::json_body;
pub use path::{PartitionPath, RecordPath, TopicPath};
pub use query::Query;
pub use rejection::{body_too_large, method_not_allowed, no_such_path, stuck_body, unreadable_body};

/// Characters of a client's own text that are repeated in a problem.
const ECHO_MAX: usize = 64;

/// Shortens a client's text for a problem.
pub(in crate::http) fn echo(text: &str) -> String {
    match text.char_indices().nth(ECHO_MAX) {
        Some((at, _)) => format!("'{}…'", text[..at].escape_debug()),
        None => format!("'{}'", text.escape_debug()),
    }
}
