//! Bodies: from bytes to records and back.
//!
//! - [`ndjson`] cuts bodies into lines and checks that text is JSON.
//! - [`records_in`] reads record objects as producers send them.
//! - [`record_out`] writes record objects as consumers get them: the hot path of every read.
//! - [`cloudevents`] reads and writes records as CloudEvents.
//! - [`sse`] wraps them in Server-Sent Events.
//!
//! A JSON value is never parsed into a tree and never written anew: it is checked, then copied as it was sent. In
//! record objects a JSON *string* is a JSON value like any other, so the stored value includes its quotes. What the
//! read side prints for a record can be sent back as it is, apart from `topic` and `offset`.

pub mod cloudevents;
pub mod ndjson;
pub mod record_out;
pub mod records_in;
pub mod sse;
