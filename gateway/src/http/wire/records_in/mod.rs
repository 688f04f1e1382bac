//! Record objects as producers send them.
//!
//! ```json
//! {"key": "u1", "value": {"id": 7}, "headers": {"trace": "a1"}, "timestamp": "2024-06-01T10:00:00Z", "partition": 2}
//! ```
//!
//! - `value` is any JSON text and is stored byte for byte as sent, a string with its quotes; `null` is a tombstone. Of a
//!   string whose record has a `content-type` that is not JSON, the text is stored: so a page reads it.
//!   `value_base64` gives other bytes. One of the two must be there.
//! - `key` is a string, of which the text is stored, or `null`; `key_base64` gives other bytes.
//! - `headers` is an object, or a list of `[name, value]` where names repeat. A header's value is a string, `null`, or
//!   `{"base64": "…"}`.
//! - `timestamp` is an RFC 3339 time or a number of milliseconds since 1970-01-01 UTC.
//! - An unknown or repeated field is an error: a typo must not silently drop a key.

use std::fmt;
use std::marker::PhantomData;

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use forebay_log::limits::{PARTITIONS_MAX, RECORD_HEADERS_MAX, UNIT_RECORDS_MAX};
use forebay_log::model::{Header, PartitionId, Record, Timestamp};
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::http::extract::parse_time;
use crate::http::problem::{Code, Problem};
use crate::http::wire::ndjson::{JsonError, check_depth, json_error, not_utf8};
use crate::http::wire::record_out::{TIMESTAMP_MAX, TIMESTAMP_MIN, declares_text};

/// Base64 with or without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// One record as sent, and the partition it is meant for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordIn {
    pub record: Record,
    pub partition: Option<PartitionId>,
}

/// Why a body does not give records.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Not JSON, or not of the expected form.
    #[error("{0}")]
    Json(#[from] JsonError),
    /// More records than one unit holds.
    #[error("too many records: limit={UNIT_RECORDS_MAX}")]
    TooMany,
    /// A field of one record cannot be used.
    #[error("{reason}: field={field} record={index}")]
    Field {
        /// The record, counted from 0; always 0 for a single object.
        index: usize,
        field: &'static str,
        reason: &'static str,
    },
}

impl RecordError {
    /// Makes the problem of it. `line` is the number of the line that held the object.
    pub fn into_problem(self, line: Option<u64>) -> Problem {
        let detail = self.to_string();
        match self {
            Self::Json(error) => error.into_problem(line),
            Self::TooMany => Problem::new(Code::TooLarge, detail).with("limit", UNIT_RECORDS_MAX),
            Self::Field { index, field, .. } => {
                let problem = Problem::new(Code::BadJson, detail).with("field", field);
                match line {
                    Some(line) => problem.with("line", line),
                    None => problem.with("record", index),
                }
            }
        }
    }
}

/// Reads `{"records": […]}`, of at most [`UNIT_RECORDS_MAX`] records. Values are slices of the body. A record without a
/// timestamp gets `now`.
///
/// # Errors
/// [`RecordError`] with the first fault; no record is usable then.
pub fn parse_records(body: &Bytes, now: Timestamp) -> Result<Vec<RecordIn>, RecordError> {
    let Object::<Document<'_>>(document) = parse(body)?;
    if document.records.overflow {
        return Err(RecordError::TooMany);
    }
    let records = document.records.list.into_iter().enumerate();
    records.map(|(index, entry)| entry.into_record(body, now).map_err(|fault| fault.at(index))).collect()
}

/// Reads one record object.
///
/// # Errors
/// [`RecordError`].
pub fn parse_record(line: &Bytes, now: Timestamp) -> Result<RecordIn, RecordError> {
    let Object::<Entry<'_>>(entry) = parse(line)?;
    entry.into_record(line, now).map_err(|fault| fault.at(0))
}

fn parse<'a, T: Deserialize<'a>>(body: &'a Bytes) -> Result<T, JsonError> {
    let parsed = parse_json(body)?;
    check_depth(body)?;
    Ok(parsed)
}

/// Parses a body whose depth is still to be checked: raw values in it may be nested deeper than can be kept.
pub(super) fn parse_json<'a, T: Deserialize<'a>>(body: &'a Bytes) -> Result<T, JsonError> {
    let text = std::str::from_utf8(body).map_err(|error| not_utf8(error.valid_up_to()))?;
    serde_json::from_str(text).map_err(|error| json_error(&error))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document<'a> {
    #[serde(borrow)]
    records: Entries<'a>,
}

/// An object, and nothing but one: without it a list would do, member by member.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Members<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map))
            }
        }

        deserializer.deserialize_map(Members(PhantomData)).map(Self)
    }
}

/// The list of records, cut off at its limit so that small objects cannot fill the memory.
struct Entries<'a> {
    list: Vec<Entry<'a>>,
    overflow: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry<'a> {
    #[serde(borrow, default)]
    key: Option<&'a RawValue>,
    #[serde(borrow, default)]
    key_base64: Option<&'a RawValue>,
    /// Tells `null`, a tombstone, from a value that is missing.
    #[serde(borrow, default, deserialize_with = "present")]
    value: Option<&'a RawValue>,
    #[serde(borrow, default)]
    value_base64: Option<&'a RawValue>,
    #[serde(default)]
    headers: Option<Headers>,
    #[serde(borrow, default)]
    timestamp: Option<&'a RawValue>,
    #[serde(default)]
    partition: Option<u64>,
}

fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// A field that cannot be used.
struct Fault {
    field: &'static str,
    reason: &'static str,
}

impl Fault {
    fn at(self, index: usize) -> RecordError {
        RecordError::Field { index, field: self.field, reason: self.reason }
    }
}

impl Entry<'_> {
    fn into_record(self, body: &Bytes, now: Timestamp) -> Result<RecordIn, Fault> {
        let key = match (self.key, self.key_base64) {
            (None, None) => None,
            (Some(raw), None) => {
                Some(string_text(raw, body).ok_or(Fault { field: "key", reason: "must be a string" })?)
            }
            (None, Some(raw)) => Some(base64_string(raw, "key_base64")?),
            (Some(_), Some(_)) => {
                return Err(Fault { field: "key_base64", reason: "cannot stand beside key" });
            }
        };
        let headers = self.headers.map_or_else(Vec::new, |headers| headers.0);
        let value = match (self.value, self.value_base64) {
            (None, None) => return Err(Fault { field: "value", reason: "is missing; null is a tombstone" }),
            (Some(raw), None) if raw.get() == "null" => None,
            (Some(raw), None) => {
                let text = if declares_text(pairs(&headers)) { string_text(raw, body) } else { None };
                Some(text.unwrap_or_else(|| body.slice_ref(raw.get().as_bytes())))
            }
            (None, Some(raw)) => Some(base64_string(raw, "value_base64")?),
            (Some(_), Some(_)) => {
                return Err(Fault { field: "value_base64", reason: "cannot stand beside value" });
            }
        };
        let timestamp = self.timestamp.map_or(Ok(now), timestamp)?;
        let partition = self.partition.map(partition).transpose()?;
        Ok(RecordIn { record: Record { key, value, headers, timestamp }, partition })
    }
}

fn pairs(headers: &[Header]) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
    headers.iter().map(|header| (header.name.as_ref(), header.value.as_deref()))
}

/// Returns the text of a JSON string, as a slice of the body where nothing in it is escaped.
pub(super) fn string_text(raw: &RawValue, body: &Bytes) -> Option<Bytes> {
    let inner = raw.get().strip_prefix('"')?.strip_suffix('"')?;
    if inner.contains('\\') {
        return serde_json::from_str::<String>(raw.get()).ok().map(Bytes::from);
    }
    Some(body.slice_ref(inner.as_bytes()))
}

fn base64_string(raw: &RawValue, field: &'static str) -> Result<Bytes, Fault> {
    base64_text(raw).ok_or(Fault { field, reason: "must be a base64 string" })
}

/// Returns the bytes of a JSON string in base64.
pub(super) fn base64_text(raw: &RawValue) -> Option<Bytes> {
    let text = serde_json::from_str::<String>(raw.get()).ok()?;
    BASE64.decode(text).ok().map(Bytes::from)
}

fn timestamp(raw: &RawValue) -> Result<Timestamp, Fault> {
    let reason = "must be an RFC 3339 time or milliseconds since 1970, in the years 0 to 9999";
    let parsed = match serde_json::from_str::<String>(raw.get()) {
        Ok(text) => parse_time(&text),
        Err(_) => raw.get().parse().ok().map(Timestamp::from_millis),
    };
    parsed
        .filter(|time| (TIMESTAMP_MIN..=TIMESTAMP_MAX).contains(time))
        .ok_or(Fault { field: "timestamp", reason })
}

fn partition(number: u64) -> Result<PartitionId, Fault> {
    let partition = u16::try_from(number).ok().filter(|partition| *partition < PARTITIONS_MAX);
    partition
        .map(PartitionId::new)
        .ok_or(Fault { field: "partition", reason: "is larger than every partition" })
}

impl<'de: 'a, 'a> Deserialize<'de> for Entries<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;

        impl<'de> Visitor<'de> for List {
            type Value = Entries<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of record objects")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Entries<'de>, A::Error> {
                let mut list = Vec::new();
                while list.len() < UNIT_RECORDS_MAX {
                    match seq.next_element()? {
                        Some(Object(entry)) => list.push(entry),
                        None => return Ok(Entries { list, overflow: false }),
                    }
                }
                let mut overflow = false;
                while seq.next_element::<IgnoredAny>()?.is_some() {
                    overflow = true;
                }
                Ok(Entries { list, overflow })
            }
        }

        deserializer.deserialize_seq(List)
    }
}

/// Headers in the order sent.
struct Headers(Vec<Header>);

impl Headers {
    fn push<E: de::Error>(&mut self, name: String, value: HeaderValue) -> Result<(), E> {
        if self.0.len() == RECORD_HEADERS_MAX {
            return Err(E::custom(format_args!("too many headers, limit {RECORD_HEADERS_MAX}")));
        }
        self.0.push(Header { name: Bytes::from(name), value: value.0 });
        Ok(())
    }
}

impl<'de> Deserialize<'de> for Headers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;

        impl<'de> Visitor<'de> for Pairs {
            type Value = Headers;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("headers as an object or a list of [name, value]")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Headers, A::Error> {
                let mut headers = Headers(Vec::new());
                while let Some((name, value)) = map.next_entry()? {
                    headers.push(name, value)?;
                }
                Ok(headers)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Headers, A::Error> {
                let mut headers = Headers(Vec::new());
                while let Some((name, value)) = list.next_element()? {
                    headers.push(name, value)?;
                }
                Ok(headers)
            }
        }

        deserializer.deserialize_any(Pairs)
    }
}

/// A string, `null`, or `{"base64": "…"}`.
struct HeaderValue(Option<Bytes>);

impl<'de> Deserialize<'de> for HeaderValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a header's value must be a string, null or {\"base64\": \"…\"}")]
        enum Form {
            Text(String),
            Base64 { base64: String },
            Null,
        }

        let bytes = match Form::deserialize(deserializer)? {
            Form::Text(text) => text.into_bytes(),
            Form::Base64 { base64 } => {
                BASE64.decode(base64).map_err(|_| de::Error::custom("a header's base64 is damaged"))?
            }
            Form::Null => return Ok(Self(None)),
        };
        Ok(Self(Some(bytes.into())))
    }
}

#[cfg(test)]
mod tests;
