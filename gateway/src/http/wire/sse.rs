//! Server-Sent Events: frames appended to a buffer.
//!
//! Records use the default event name. Every frame has data: several real clients mishandle frames with only an `id`
//! or `retry`. No frame is named `error`, the name of `EventSource`'s own event.

use std::time::Duration;

use bytes::BytesMut;
use memchr::{memchr, memchr_iter};

use crate::cursor::Cursor;
use crate::http::problem::Problem;
use crate::http::wire::record_out::append_base64;

/// What a comment heartbeat is: ignored by clients, and kept alive for by proxies.
pub const HEARTBEAT: &[u8] = b":\n\n";
/// Names a value that is base64, because it is no text or its line ends would not survive.
const BINARY: &str = "binary";
/// Names a record without a value.
const TOMBSTONE: &str = "tombstone";

/// What frames other than records are called. No record is: a client would take it for one of them.
const OWN_NAMES: [&str; 11] = [
    "assigned",
    "binary",
    "bye",
    "cursor",
    "end",
    "error",
    "open",
    "problem",
    "reset",
    "revoked",
    "tombstone",
];

/// The last event id that a frame sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Id<'a> {
    /// The frame leaves it as it is.
    Keep,
    /// A place to resume from.
    Cursor(&'a Cursor),
    /// A cursor's text.
    Text(&'a [u8]),
    /// What the client sent, given back. Left out if it holds line ends or NUL.
    Sent(&'a str),
}

/// Appends a record whose data is one line. Its name may come from a producer: a name that the stream uses itself, or
/// that cannot be written, is left out, which makes it a message like any other.
pub fn record(out: &mut BytesMut, id: Id<'_>, event: Option<&str>, data: &[u8]) {
    head(out, event.filter(|name| !OWN_NAMES.contains(name)), id);
    data_lines(out, data);
    out.extend_from_slice(b"\n");
}

/// Appends a bare value, byte-exact. Text is split over `data:` lines, which clients join with LF. What is not UTF-8 or
/// holds a CR, which clients would take for a line end, is base64 with `event: binary`. A tombstone is `event: tombstone`
/// with empty data. These two names go before one that is given.
pub fn value(out: &mut BytesMut, id: Id<'_>, event: Option<&str>, value: Option<&[u8]>) {
    match value {
        None => {
            head(out, Some(TOMBSTONE), id);
            data_lines(out, b"");
            out.extend_from_slice(b"\n");
        }
        Some(bytes) if memchr(b'\r', bytes).is_none() && std::str::from_utf8(bytes).is_ok() => {
            record(out, id, event, bytes);
        }
        Some(bytes) => {
            head(out, Some(BINARY), id);
            out.extend_from_slice(b"data: ");
            append_base64(out, bytes);
            out.extend_from_slice(b"\n\n");
        }
    }
}

/// Appends the first frame of a stream, with the wait before a reconnect.
pub fn open(out: &mut BytesMut, retry_after: Duration, id: Id<'_>, data: &[u8]) {
    event(out, "open", Some(retry_after), id, data);
}

/// Appends progress without a record.
pub fn cursor(out: &mut BytesMut, cursor: &Cursor, caught_up: bool) {
    let data: &[u8] = if caught_up { b"{\"caught_up\":true}" } else { b"{\"caught_up\":false}" };
    event(out, "cursor", None, Id::Cursor(cursor), data);
}

/// Appends a jump: the stream goes on elsewhere than the client asked, because records there are gone.
pub fn reset(out: &mut BytesMut, cursor: &Cursor, data: &[u8]) {
    event(out, "reset", None, Id::Cursor(cursor), data);
}

/// Appends an error. With `retry_after` the client is to come back then, with the id given.
pub fn problem(out: &mut BytesMut, retry_after: Option<Duration>, id: Id<'_>, problem: &Problem) {
    event(out, "problem", retry_after, id, &problem.to_json());
}

/// Appends the announcement of a planned close.
pub fn bye(out: &mut BytesMut, retry_after: Duration, id: Id<'_>) {
    event(out, "bye", Some(retry_after), id, b"{}");
}

/// Appends the end of a bounded read. The id carries the mark of [`Cursor::end`], whatever the given cursor says.
pub fn end(out: &mut BytesMut, cursor: &Cursor) {
    let marked = Cursor { end: true, ..cursor.clone() };
    event(out, "end", None, Id::Cursor(&marked), b"{}");
}

/// Appends a comment that keeps the connection alive.
pub fn heartbeat(out: &mut BytesMut) {
    out.extend_from_slice(HEARTBEAT);
}

/// Appends a named frame. `retry_after` is rounded down to milliseconds.
pub fn event(out: &mut BytesMut, name: &str, retry_after: Option<Duration>, id: Id<'_>, data: &[u8]) {
    debug_assert!(name != "error", "EventSource has an event of that name");
    head(out, Some(name), Id::Keep);
    if let Some(wait) = retry_after {
        out.extend_from_slice(b"retry: ");
        out.extend_from_slice(itoa::Buffer::new().format(wait.as_millis()).as_bytes());
        out.extend_from_slice(b"\n");
    }
    head(out, None, id);
    data_lines(out, data);
    out.extend_from_slice(b"\n");
}

fn head(out: &mut BytesMut, event: Option<&str>, id: Id<'_>) {
    // An event's name may come from a record; one that cannot be written is no name.
    if let Some(name) = event.filter(|name| fits_one_line(name)) {
        out.extend_from_slice(b"event: ");
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b"\n");
    }
    match id {
        Id::Cursor(cursor) => {
            out.extend_from_slice(b"id: ");
            cursor.write_to(out);
            out.extend_from_slice(b"\n");
        }
        Id::Text(text) => {
            out.extend_from_slice(b"id: ");
            out.extend_from_slice(text);
            out.extend_from_slice(b"\n");
        }
        Id::Sent(text) if fits_one_line(text) => {
            out.extend_from_slice(b"id: ");
            out.extend_from_slice(text.as_bytes());
            out.extend_from_slice(b"\n");
        }
        Id::Sent(_) | Id::Keep => {}
    }
}

fn fits_one_line(text: &str) -> bool {
    !text.is_empty() && !text.contains(['\r', '\n', '\0'])
}

/// Appends a `data:` line for each line.
fn data_lines(out: &mut BytesMut, data: &[u8]) {
    debug_assert!(memchr(b'\r', data).is_none(), "a CR would end a line");
    let mut start = 0;
    for end in memchr_iter(b'\n', data).chain([data.len()]) {
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(data.get(start..end).unwrap_or_default());
        out.extend_from_slice(b"\n");
        start = end + 1;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::http::problem::Code;

    fn written(write: impl FnOnce(&mut BytesMut)) -> String {
        let mut out = BytesMut::new();
        write(&mut out);
        String::from_utf8(out.to_vec()).unwrap()
    }

    fn place() -> Cursor {
        "k7.0-41".parse().unwrap()
    }

    /// Reads one frame as the standard tells clients to.
    fn read(frame: &str) -> (String, Option<String>, String) {
        let (mut name, mut id, mut data) = (String::new(), None, String::new());
        let frame = frame.strip_suffix("\n\n").expect("a blank line ends a frame");
        for line in frame.split(['\r', '\n']) {
            let (field, rest) = line.split_once(':').expect("every line has a field");
            let rest = rest.strip_prefix(' ').unwrap_or(rest);
            match field {
                "event" => name = rest.to_owned(),
                "id" => id = Some(rest.to_owned()),
                "data" => data = data + rest + "\n",
                other => panic!("{other}"),
            }
        }
        data.pop().expect("every frame has data");
        (name, id, data)
    }

    #[test]
    fn frames_look_as_documented() {
        let cursor_at = place();
        let id = Id::Cursor(&cursor_at);
        assert_eq!(
            written(|out| open(out, Duration::from_secs(3), id, b"{\"resumed\":true}")),
            "event: open\nretry: 3000\nid: k7.0-41\ndata: {\"resumed\":true}\n\n"
        );
        assert_eq!(written(|out| record(out, id, None, b"{\"a\":1}")), "id: k7.0-41\ndata: {\"a\":1}\n\n");
        assert_eq!(written(|out| record(out, Id::Keep, None, b"1")), "data: 1\n\n");
        assert_eq!(
            written(|out| record(out, id, Some("paid"), b"1")),
            "event: paid\nid: k7.0-41\ndata: 1\n\n"
        );
        assert_eq!(
            written(|out| cursor(out, &cursor_at, true)),
            "event: cursor\nid: k7.0-41\ndata: {\"caught_up\":true}\n\n"
        );
        assert_eq!(written(|out| reset(out, &cursor_at, b"{}")), "event: reset\nid: k7.0-41\ndata: {}\n\n");
        assert_eq!(
            written(|out| bye(out, Duration::from_millis(750), Id::Keep)),
            "event: bye\nretry: 750\ndata: {}\n\n"
        );
        assert_eq!(written(|out| end(out, &cursor_at)), "event: end\nid: k7.0-41.end\ndata: {}\n\n");
        assert_eq!(written(heartbeat), ":\n\n");
    }

    #[test]
    fn a_problem_gives_back_the_id_it_was_sent() {
        let fault = Problem::new(Code::Overloaded, "line\nbreak");
        let text = written(|out| problem(out, None, Id::Sent("k7.0-1"), &fault));
        let (name, id, data) = read(&text);
        assert_eq!((name.as_str(), id.as_deref()), ("problem", Some("k7.0-1")));
        assert_eq!(serde_json::from_str::<serde_json::Value>(&data).unwrap()["code"], "overloaded");
        assert!(!written(|out| problem(out, None, Id::Sent("a\nevent: x"), &fault)).contains("id:"));
    }

    #[test]
    fn a_name_with_a_line_end_cannot_forge_a_frame() {
        assert_eq!(written(|out| record(out, Id::Keep, Some("a\n\ndata: x"), b"1")), "data: 1\n\n");
    }

    #[test]
    fn a_record_is_never_named_like_a_frame_of_the_stream() {
        for name in OWN_NAMES {
            assert_eq!(written(|out| record(out, Id::Keep, Some(name), b"1")), "data: 1\n\n", "{name}");
        }
        let named = |bytes| written(|out| value(out, Id::Keep, Some("paid"), Some(bytes)));
        assert_eq!(named(b"1"), "event: paid\ndata: 1\n\n");
        assert_eq!(named(b"\xff"), "event: binary\ndata: /w==\n\n", "what the data is comes first");
    }

    #[test]
    fn values_that_text_cannot_carry_are_binary() {
        let frame = |bytes| written(|out| value(out, Id::Keep, None, bytes));
        assert_eq!(frame(Some(b"a\n\nb\n")), "data: a\ndata: \ndata: b\ndata: \n\n");
        assert_eq!(frame(Some(b"a\r\nb")), "event: binary\ndata: YQ0KYg==\n\n");
        assert_eq!(frame(Some(b"\xff")), "event: binary\ndata: /w==\n\n");
        assert_eq!(frame(Some(b"")), "data: \n\n");
        assert_eq!(frame(None), "event: tombstone\ndata: \n\n");
    }

    proptest! {
        #[test]
        fn a_client_gets_the_exact_value(bytes in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..30),
            "[ a:\r\n]{0,12}".prop_map(String::into_bytes),
        ]) {
            use base64::Engine as _;
            let (name, _, data) = read(&written(|out| value(out, Id::Keep, None, Some(&bytes))));
            let got = if name == BINARY {
                base64::engine::general_purpose::STANDARD.decode(data).unwrap()
            } else {
                data.into_bytes()
            };
            prop_assert_eq!(got, bytes);
        }
    }
}
