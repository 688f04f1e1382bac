//! Lines: cut from chunks as they arrive, and checked to be JSON.
//!
//! Lines end with LF or CRLF; the last one may lack its end. Blank lines count for line numbers and are skipped.

use bytes::{Bytes, BytesMut};
use memchr::memchr;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::http::problem::{Code, Problem};

/// How deep arrays and objects may be nested in each other.
pub const JSON_DEPTH_MAX: usize = 128;

/// One line without its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Counted from 1, blank lines included.
    pub number: u64,
    pub bytes: Bytes,
}

/// A line longer than the splitter's limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("line is too long: line={line} limit={limit}")]
pub struct LineTooLong {
    /// Its number, counted from 1.
    pub line: u64,
    /// Bytes a line may have.
    pub limit: usize,
}

impl From<LineTooLong> for Problem {
    fn from(error: LineTooLong) -> Self {
        Self::new(Code::TooLarge, error.to_string()).with("line", error.line).with("limit", error.limit)
    }
}

/// Cuts chunks into lines. A line that lies in one chunk is a slice of it; only one that spans chunks is copied.
///
/// Holds at most one chunk and one line. Call [`push`](Self::push), then [`next_line`](Self::next_line) until it
/// gives none; at the end of the body [`finish`](Self::finish).
#[derive(Debug)]
pub struct LineSplitter {
    limit: usize,
    /// The start of a line whose end has not arrived.
    partial: BytesMut,
    /// What has not been looked at.
    chunk: Bytes,
    /// Lines that were begun and ended.
    ended: u64,
}

impl LineSplitter {
    /// Makes a splitter for lines of at most `limit` bytes, their ends not counted.
    pub fn new(limit: usize) -> Self {
        Self { limit, partial: BytesMut::new(), chunk: Bytes::new(), ended: 0 }
    }

    /// Takes the next chunk of the body. Joins it to what is left of the last one, should lines be left in that.
    pub fn push(&mut self, chunk: Bytes) {
        if self.chunk.is_empty() {
            self.chunk = chunk;
        } else {
            self.chunk = [std::mem::take(&mut self.chunk), chunk].concat().into();
        }
    }

    /// Returns the next line that is not blank, or none until more is pushed.
    ///
    /// # Errors
    /// [`LineTooLong`], also before the line's end has arrived. It comes again on every further call.
    pub fn next_line(&mut self) -> Result<Option<Line>, LineTooLong> {
        while let Some(end) = memchr(b'\n', &self.chunk) {
            self.check_len(end)?;
            let mut line = self.chunk.split_to(end + 1);
            line.truncate(end);
            if let Some(line) = self.end_line(line)? {
                return Ok(Some(line));
            }
        }
        self.check_len(self.chunk.len())?;
        self.partial.extend_from_slice(&self.chunk);
        self.chunk = Bytes::new();
        Ok(None)
    }

    /// Returns the last line, if the body does not end with a line end. Call when `next_line` gave none.
    ///
    /// # Errors
    /// [`LineTooLong`].
    pub fn finish(&mut self) -> Result<Option<Line>, LineTooLong> {
        let rest = std::mem::take(&mut self.chunk);
        self.end_line(rest)
    }

    /// Returns what it holds: the start of a line, and lines not given out yet.
    pub fn buffered(&self) -> [&[u8]; 2] {
        [&self.partial, &self.chunk]
    }

    /// Refuses what is too long even if its last byte is the CR of a line end.
    fn check_len(&self, more: usize) -> Result<(), LineTooLong> {
        if self.partial.len() + more > self.limit.saturating_add(1) {
            return Err(self.too_long());
        }
        Ok(())
    }

    fn end_line(&mut self, tail: Bytes) -> Result<Option<Line>, LineTooLong> {
        let mut bytes = if self.partial.is_empty() {
            tail
        } else {
            self.partial.extend_from_slice(&tail);
            self.partial.split().freeze()
        };
        if bytes.last() == Some(&b'\r') {
            bytes.truncate(bytes.len() - 1);
        }
        if bytes.len() > self.limit {
            return Err(self.too_long());
        }
        self.ended += 1;
        let blank = bytes.trim_ascii().is_empty();
        Ok((!blank).then_some(Line { number: self.ended, bytes }))
    }

    fn too_long(&self) -> LineTooLong {
        LineTooLong { line: self.ended + 1, limit: self.limit }
    }
}

/// Why bytes are not JSON.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: column={column}")]
pub struct JsonError {
    /// The byte, counted from 1 in its line.
    pub column: usize,
    /// What was expected there.
    pub reason: String,
}

impl JsonError {
    /// Makes the problem of it. `line` is the number of the line that is not JSON.
    pub fn into_problem(self, line: Option<u64>) -> Problem {
        let problem = Problem::new(Code::BadJson, self.to_string()).with("column", self.column);
        match line {
            Some(line) => problem.with("line", line),
            None => problem,
        }
    }
}

/// Checks that bytes are one JSON text: UTF-8, nothing behind it, nested at most [`JSON_DEPTH_MAX`] deep.
///
/// # Errors
/// [`JsonError`] with the first place at fault.
pub fn validate_json(bytes: &[u8]) -> Result<(), JsonError> {
    let text = std::str::from_utf8(bytes).map_err(|error| not_utf8(error.valid_up_to()))?;
    let mut parser = serde_json::Deserializer::from_str(text);
    IgnoredAny::deserialize(&mut parser).and_then(|_| parser.end()).map_err(|error| json_error(&error))?;
    check_depth(bytes)
}

/// Says where UTF-8 ends.
pub(super) fn not_utf8(valid_up_to: usize) -> JsonError {
    JsonError { column: valid_up_to + 1, reason: "text is not UTF-8".to_owned() }
}

/// Takes the place out of the parser's text.
pub(super) fn json_error(error: &serde_json::Error) -> JsonError {
    let text = error.to_string();
    let reason = text.rsplit_once(" at line ").map_or(text.as_str(), |(reason, _)| reason);
    JsonError { column: error.column(), reason: reason.to_owned() }
}

/// Refuses valid JSON that is nested too deep: the parser skips over values without a limit of its own.
pub(super) fn check_depth(json: &[u8]) -> Result<(), JsonError> {
    // Each level takes two brackets, so most values need no look.
    if json.len() <= 2 * JSON_DEPTH_MAX {
        return Ok(());
    }
    let mut depth = 0_usize;
    let mut bytes = json.iter().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'[' | b'{' if depth == JSON_DEPTH_MAX => {
                let reason = format!("value is nested too deep, limit {JSON_DEPTH_MAX}");
                return Err(JsonError { column: at + 1, reason });
            }
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            b'"' => skip_string(&mut bytes),
            _ => {}
        }
    }
    Ok(())
}

fn skip_string<'a>(bytes: &mut impl Iterator<Item = (usize, &'a u8)>) {
    while let Some((_, byte)) = bytes.next() {
        match byte {
            b'"' => return,
            b'\\' => drop(bytes.next()),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn split(chunks: &[&[u8]], limit: usize) -> Result<Vec<(u64, Vec<u8>)>, LineTooLong> {
        let mut splitter = LineSplitter::new(limit);
        let mut lines = Vec::new();
        for chunk in chunks {
            splitter.push(Bytes::copy_from_slice(chunk));
            while let Some(line) = splitter.next_line()? {
                lines.push((line.number, line.bytes.to_vec()));
            }
        }
        lines.extend(splitter.finish()?.map(|line| (line.number, line.bytes.to_vec())));
        Ok(lines)
    }

    #[test]
    fn blank_lines_are_counted_and_skipped() {
        let lines = split(&[b"a\r\n\n \t\r\nb\n\nc"], 10).unwrap();
        assert_eq!(lines, [(1, b"a".to_vec()), (4, b"b".to_vec()), (6, b"c".to_vec())]);
        assert_eq!(split(&[b"", b"\n\n"], 10), Ok(vec![]));
    }

    #[test]
    fn a_line_in_one_chunk_is_a_slice_of_it() {
        let chunk = Bytes::from_static(b"one\ntwo\nthr");
        let range = chunk.as_ptr_range();
        let mut splitter = LineSplitter::new(100);
        splitter.push(chunk);
        let line = splitter.next_line().unwrap().unwrap();
        assert!(range.contains(&line.bytes.as_ptr()));
        splitter.push(Bytes::from_static(b"ee\n"));
        let rest: Vec<_> =
            std::iter::from_fn(|| splitter.next_line().unwrap()).map(|line| line.bytes).collect();
        assert_eq!(rest, ["two", "three"]);
    }

    #[test]
    fn a_line_past_the_limit_is_refused_before_its_end_arrives() {
        assert_eq!(split(&[b"ok\n12345\n"], 5).map(|lines| lines.len()), Ok(2));
        assert_eq!(split(&[b"ok\n12345\r\n"], 5).map(|lines| lines.len()), Ok(2));
        assert_eq!(split(&[b"ok\n123456\n"], 5), Err(LineTooLong { line: 2, limit: 5 }));
        assert_eq!(split(&[b"ok\n", b"1234", b"567"], 5), Err(LineTooLong { line: 2, limit: 5 }));
        assert_eq!(split(&[b"123456"], 5), Err(LineTooLong { line: 1, limit: 5 }));
        let mut splitter = LineSplitter::new(2);
        splitter.push(Bytes::from_static(b"1234567"));
        assert!(splitter.next_line().is_err());
        assert!(splitter.next_line().is_err(), "the error stays");
    }

    proptest! {
        #[test]
        fn lines_do_not_depend_on_chunks(text in "[ab \r\n]{0,40}", cut in proptest::collection::vec(0_usize..40, 0..5)) {
            let mut cuts: Vec<usize> = cut.into_iter().filter(|at| *at <= text.len()).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let chunks: Vec<&[u8]> = cuts.windows(2).map(|w| &text.as_bytes()[w[0]..w[1]]).collect();
            let expected: Vec<(u64, Vec<u8>)> = text
                .split('\n')
                .zip(1..)
                .map(|(line, number)| (number, line.strip_suffix('\r').unwrap_or(line)))
                .filter(|(_, line)| !line.trim_ascii().is_empty())
                .map(|(number, line)| (number, line.as_bytes().to_vec()))
                .collect();
            prop_assert_eq!(split(&chunks, 100), Ok(expected));
        }

        #[test]
        fn json_is_what_the_parser_takes(text in "[\\[\\]{}\",:0-9a-z\\\\ .-]{0,20}") {
            let parsed = serde_json::from_str::<serde_json::Value>(&text);
            // A tree refuses numbers out of range and lone surrogates, which are JSON all the same.
            if parsed.is_ok() {
                prop_assert!(validate_json(text.as_bytes()).is_ok(), "{text}");
            } else if validate_json(text.as_bytes()).is_ok() {
                prop_assert!(text.contains(['e', 'u']), "{text}: {parsed:?}");
            }
        }
    }

    #[test]
    fn what_is_not_json_is_refused_with_its_column() {
        assert_eq!(validate_json(br#" {"a":[1,2.5e3,"\u00e4",null]} "#), Ok(()));
        let column = |bytes: &[u8]| validate_json(bytes).map_err(|error| error.column);
        assert_eq!(column(b"{\"a\":}"), Err(6));
        assert_eq!(column(b"1 2"), Err(3));
        assert!(column(b"01").is_err());
        assert_eq!(column(b"[1,]"), Err(4));
        assert_eq!(column(b"\"\xff\""), Err(2));
        assert!(column(b"\"\x01\"").is_err());
        assert!(validate_json(b"").is_err());
        assert_eq!(validate_json(b"nul").unwrap_err().reason, "EOF while parsing a value");
    }

    #[test]
    fn nesting_has_a_limit_and_brackets_in_strings_do_not_count() {
        let nested =
            |depth: usize| format!("{}\"{}\\\"[\"{}", "[".repeat(depth), "{".repeat(300), "]".repeat(depth));
        assert_eq!(validate_json(nested(JSON_DEPTH_MAX).as_bytes()), Ok(()));
        let error = validate_json(nested(JSON_DEPTH_MAX + 1).as_bytes()).unwrap_err();
        assert_eq!((error.column, error.reason.as_str()), (129, "value is nested too deep, limit 128"));
        assert!(validate_json("[".repeat(1_000_000).as_bytes()).is_err());
    }
}
