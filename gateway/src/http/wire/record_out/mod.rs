//! Record objects as consumers get them: the hot path of every read.
//!
//! ```json
//! {"topic":"orders","partition":2,"offset":17,"timestamp":"2024-06-01T10:00:00.000Z","key":"u1","value":{"id":7}}
//! ```
//!
//! - `key` is a string when its bytes are UTF-8, else `key_base64`. A record without a key has neither field.
//! - `value` is JSON when the header `content-type` says JSON, or there is no such header, and the bytes are valid
//!   JSON: checked, then copied as stored with CR and LF as spaces, which between tokens they stand for. Other UTF-8
//!   text is a string, other bytes are `value_base64`, a tombstone is `null`.
//! - `headers` is an object of strings, or a list of `[name, value]` where names repeat. A value that is not UTF-8 is
//!   `{"base64":"…"}`, a missing one `null`. A record without headers lacks the field. A name that is not UTF-8, which
//!   only a foreign writer can have stored, has its bad bytes replaced.
//!
//! An object never holds a raw line break, so that it is one line of NDJSON and one `data:` line of SSE. No stored
//! bytes make writing fail. Base64 is the standard alphabet with padding.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, BytesMut};
use forebay_log::model::{Timestamp, TopicName};
use memchr::memchr2;

use crate::http::wire::ndjson::validate_json;

/// The first time RFC 3339 can write: the year 0.
pub const TIMESTAMP_MIN: Timestamp = Timestamp::from_millis(-62_167_219_200_000);
/// The last time RFC 3339 can write: the end of the year 9999.
pub const TIMESTAMP_MAX: Timestamp = Timestamp::from_millis(253_402_300_799_999);

const CONTENT_TYPE: &[u8] = b"content-type";
/// Room for field names, numbers and the timestamp.
const OBJECT_OVERHEAD: usize = 160;

/// The start of all record objects of a topic, encoded once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicPrefix(Box<[u8]>);

impl TopicPrefix {
    /// Encodes the prefix. A topic's name holds nothing that JSON escapes.
    pub fn new(topic: &TopicName) -> Self {
        Self(format!("{{\"topic\":\"{topic}\",\"partition\":").into_bytes().into())
    }
}

/// One record, borrowed from its batch. `headers` is walked more than once.
#[derive(Debug, Clone)]
pub struct RecordOut<'a, H> {
    pub partition: u16,
    pub offset: u64,
    /// Outside the years 0 to 9999 the nearest time within is written.
    pub timestamp: Timestamp,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    pub headers: H,
}

/// Appends one record object.
pub fn write_record<'a, H>(out: &mut BytesMut, topic: &TopicPrefix, record: &RecordOut<'a, H>)
where
    H: Iterator<Item = (&'a [u8], Option<&'a [u8]>)> + Clone,
{
    let len = |bytes: Option<&[u8]>| bytes.map_or(0, <[u8]>::len);
    out.reserve(topic.0.len() + OBJECT_OVERHEAD + len(record.key) + len(record.value));
    let mut digits = itoa::Buffer::new();
    out.extend_from_slice(&topic.0);
    out.extend_from_slice(digits.format(record.partition).as_bytes());
    out.extend_from_slice(b",\"offset\":");
    out.extend_from_slice(digits.format(record.offset).as_bytes());
    out.extend_from_slice(b",\"timestamp\":\"");
    write_timestamp(out, record.timestamp);
    out.extend_from_slice(b"\"");
    if let Some(key) = record.key {
        match std::str::from_utf8(key) {
            Ok(text) => {
                out.extend_from_slice(b",\"key\":");
                write_string(out, text);
            }
            Err(_) => {
                out.extend_from_slice(b",\"key_base64\":");
                write_base64(out, key);
            }
        }
    }
    write_value(out, record.value, declares_text(record.headers.clone()));
    write_headers(out, record.headers.clone());
    out.extend_from_slice(b"}");
}

/// Tells whether a record declares a content type that is not JSON.
pub(super) fn declares_text<'a>(mut headers: impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)>) -> bool {
    let content_type = headers.find(|(name, _)| name.eq_ignore_ascii_case(CONTENT_TYPE));
    content_type.and_then(|(_, value)| value).is_some_and(|value| !is_json_type(value))
}

/// Tells whether a media type is `…/json` or `…+json`.
pub(super) fn is_json_type(content_type: &[u8]) -> bool {
    let essence = content_type.split(|b| *b == b';').next().unwrap_or_default().trim_ascii();
    let tail = essence.len().checked_sub(5).and_then(|start| essence.get(start..)).unwrap_or_default();
    tail.eq_ignore_ascii_case(b"/json") || tail.eq_ignore_ascii_case(b"+json")
}

fn write_value(out: &mut BytesMut, value: Option<&[u8]>, declared_text: bool) {
    let Some(value) = value else {
        out.extend_from_slice(b",\"value\":null");
        return;
    };
    let is_null = value.trim_ascii() == b"null";
    if !declared_text && !is_null && validate_json(value).is_ok() {
        out.extend_from_slice(b",\"value\":");
        write_on_one_line(out, value);
    } else if let Ok(text) = std::str::from_utf8(value)
        && (declared_text || !is_null)
    {
        out.extend_from_slice(b",\"value\":");
        write_string(out, text);
    } else {
        out.extend_from_slice(b",\"value_base64\":");
        write_base64(out, value);
    }
}

/// Appends only a value, as a member of a JSON list: text that is not JSON as a string, other bytes as base64 in one.
pub fn write_bare_value(out: &mut BytesMut, value: Option<&[u8]>) {
    match value.map(|value| (value, validate_json(value), std::str::from_utf8(value))) {
        None => out.extend_from_slice(b"null"),
        Some((value, Ok(()), _)) => write_on_one_line(out, value),
        Some((_, _, Ok(text))) => write_string(out, text),
        Some((value, _, Err(_))) => write_base64(out, value),
    }
}

/// Copies valid JSON, with raw CR and LF as spaces.
pub(super) fn write_on_one_line(out: &mut BytesMut, mut json: &[u8]) {
    while let Some((head, tail)) = memchr2(b'\r', b'\n', json).and_then(|at| json.split_at_checked(at)) {
        out.extend_from_slice(head);
        out.extend_from_slice(b" ");
        json = tail.get(1..).unwrap_or_default();
    }
    out.extend_from_slice(json);
}

fn write_headers<'a, H>(out: &mut BytesMut, headers: H)
where
    H: Iterator<Item = (&'a [u8], Option<&'a [u8]>)> + Clone,
{
    if headers.clone().next().is_none() {
        return;
    }
    let [open, close, before, between, after]: [&[u8]; 5] =
        if names_are_unique(headers.clone().map(|(name, _)| name)) {
            [b",\"headers\":{", b"}", b"", b":", b""]
        } else {
            [b",\"headers\":[", b"]", b"[", b",", b"]"]
        };
    out.extend_from_slice(open);
    for (index, (name, value)) in headers.enumerate() {
        if index > 0 {
            out.extend_from_slice(b",");
        }
        out.extend_from_slice(before);
        write_string(out, &String::from_utf8_lossy(name));
        out.extend_from_slice(between);
        match value.map(|value| (value, std::str::from_utf8(value))) {
            None => out.extend_from_slice(b"null"),
            Some((_, Ok(text))) => write_string(out, text),
            Some((value, Err(_))) => {
                out.extend_from_slice(b"{\"base64\":");
                write_base64(out, value);
                out.extend_from_slice(b"}");
            }
        }
        out.extend_from_slice(after);
    }
    out.extend_from_slice(close);
}

/// Tells whether names are UTF-8 and differ, so that they can be the keys of an object.
fn names_are_unique<'a>(names: impl Iterator<Item = &'a [u8]>) -> bool {
    let mut names: Vec<&[u8]> = names.collect();
    names.sort_unstable();
    names.iter().all(|name| std::str::from_utf8(name).is_ok())
        && names.windows(2).all(|pair| pair.first() != pair.last())
}

/// Appends a JSON string.
pub(super) fn write_string(out: &mut BytesMut, text: &str) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.extend_from_slice(b"\"");
    let mut rest = text.as_bytes();
    let special = |byte: &u8| *byte < 0x20 || matches!(byte, b'"' | b'\\');
    while let Some(at) = rest.iter().position(special) {
        let (head, tail) = rest.split_at(at);
        out.extend_from_slice(head);
        let Some((&byte, tail)) = tail.split_first() else { break };
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            _ => {
                out.extend_from_slice(b"\\u00");
                out.put_u8(HEX[usize::from(byte >> 4)]);
                out.put_u8(HEX[usize::from(byte & 15)]);
            }
        }
        rest = tail;
    }
    out.extend_from_slice(rest);
    out.extend_from_slice(b"\"");
}

fn write_base64(out: &mut BytesMut, bytes: &[u8]) {
    out.extend_from_slice(b"\"");
    append_base64(out, bytes);
    out.extend_from_slice(b"\"");
}

/// Appends base64 without quotes.
pub(super) fn append_base64(out: &mut BytesMut, bytes: &[u8]) {
    let start = out.len();
    let len = bytes.len().div_ceil(3) * 4;
    out.resize(start + len, 0);
    let written = STANDARD.encode_slice(bytes, &mut out[start..]);
    debug_assert_eq!(written, Ok(len), "padded base64 has four digits for each three bytes");
}

/// Appends a time as RFC 3339 in UTC with milliseconds, such as `2024-06-01T10:00:00.000Z`.
pub fn write_timestamp(out: &mut BytesMut, time: Timestamp) {
    const DAY_MS: i64 = 24 * 60 * 60 * 1000;
    let millis = time.clamp(TIMESTAMP_MIN, TIMESTAMP_MAX).as_millis();
    let (year, month, day) = civil_date(millis.div_euclid(DAY_MS));
    let in_day = millis.rem_euclid(DAY_MS) as u32;
    let (seconds, millis) = (in_day / 1000, in_day % 1000);
    let (minutes, second) = (seconds / 60, seconds % 60);
    let mut text = *b"0000-00-00T00:00:00.000Z";
    let mut put = |at: usize, mut number: u32, width: usize| {
        for digit in text[at..at + width].iter_mut().rev() {
            *digit = b'0' + (number % 10) as u8;
            number /= 10;
        }
    };
    put(0, year, 4);
    put(5, month, 2);
    put(8, day, 2);
    put(11, minutes / 60, 2);
    put(14, minutes % 60, 2);
    put(17, second, 2);
    put(20, millis, 3);
    out.extend_from_slice(&text);
}

/// Returns a time as [`write_timestamp`] writes it.
pub fn format_timestamp(time: Timestamp) -> String {
    let mut out = BytesMut::with_capacity(24);
    write_timestamp(&mut out, time);
    String::from_utf8_lossy(&out).into_owned()
}

/// Returns year, month and day of a day counted from 1970-01-01, from the year 0 on.
///
/// Counts days from 0000-03-01, so that the leap day ends a year: 146,097 days make 400 years, and from March on the
/// months' lengths repeat every 153 days.
fn civil_date(day_since_1970: i64) -> (u32, u32, u32) {
    const ERA_DAYS: i64 = 146_097;
    // One era more keeps January and February of the year 0 from going below zero.
    let day = day_since_1970 + 719_468 + ERA_DAYS;
    let era = day / ERA_DAYS - 1;
    let of_era = day % ERA_DAYS;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year as u32, month as u32, day as u32)
}

#[cfg(test)]
mod tests;
