//! CloudEvents 1.0: from an event to a record and back.
//!
//! A record is an event as the Kafka binding stores it in binary mode: each attribute is a header `ce_<name>` with the
//! attribute's text, `datacontenttype` is the header `content-type`, `data` is the value, and an event without data has
//! no value.
//!
//! - [`attribute`] is what names and values may be.
//! - [`structured`] reads the JSON format: one event, a batch, or one event per line.
//! - [`binary`] reads and writes events whose attributes are HTTP headers.
//! - [`out`] writes the JSON format.
//!
//! What is kept and what is not: every attribute comes back with the text it came with, data with its bytes. Booleans
//! and integers come back as their text, for a record header has no type. An extension whose name begins with
//! `forebay` says where an event was read ([`out`]), so one that is sent is checked and dropped: an event may be read
//! from one topic and sent to another.

pub mod attribute;
pub mod binary;
pub mod out;
pub mod structured;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use forebay_log::limits::{RECORD_HEADERS_MAX, UNIT_RECORDS_MAX};
use forebay_log::model::{Header, Timestamp};

use crate::http::extract::{echo, parse_time};
use crate::http::problem::{Code, Problem};
use crate::http::wire::ndjson::JsonError;
use crate::limits;

/// What the Kafka binding puts before an attribute's name.
pub const PREFIX: &str = "ce_";
/// The record header that holds `datacontenttype`.
const CONTENT_TYPE: &str = "content-type";
/// The attributes that every event has.
const REQUIRED: [&str; 4] = ["id", "source", "specversion", "type"];
/// Begins the names of extensions that the server adds.
const OWN: &str = "forebay";

/// A CloudEvent in JSON. Further members are extensions.
#[derive(Debug, utoipa::ToSchema)]
#[expect(dead_code, reason = "describes what is read and written by hand")]
#[schema(example = json!({"specversion": "1.0", "id": "A234", "source": "/shop", "type": "com.example.order.paid",
    "time": "2024-06-01T10:00:00Z", "partitionkey": "u1", "datacontenttype": "application/json", "data": {"id": 7}}))]
pub struct CloudEvent {
    /// `1.0`.
    specversion: String,
    /// With `source` it names the event.
    id: String,
    /// A URI-reference.
    source: String,
    #[schema(rename = "type", example = "com.example.order.paid")]
    event_type: String,
    subject: Option<String>,
    /// RFC 3339.
    time: Option<String>,
    /// An absolute URI.
    dataschema: Option<String>,
    /// Without it data is JSON.
    datacontenttype: Option<String>,
    /// The key of the record.
    partitionkey: Option<String>,
    /// JSON, or a string where `datacontenttype` is not JSON.
    data: Option<serde_json::Value>,
    /// Instead of `data`.
    data_base64: Option<String>,
    /// Added on read: the topic.
    forebaytopic: Option<String>,
    /// Added on read: the partition.
    forebaypartition: Option<u16>,
    /// Added on read: the offset.
    forebayoffset: Option<String>,
}

/// An event as sent, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventIn {
    /// The extension `partitionkey`; it stays an attribute too.
    pub key: Option<Bytes>,
    /// The attribute `time`; it stays an attribute too.
    pub time: Option<Timestamp>,
    /// The attributes as record headers.
    pub headers: Vec<Header>,
    /// The data.
    pub value: Option<Bytes>,
}

/// An attribute that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    attribute: String,
    reason: &'static str,
}

impl Fault {
    fn new(attribute: &str, reason: &'static str) -> Self {
        Self { attribute: attribute.to_owned(), reason }
    }
}

/// Why a request does not give events.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    /// Not JSON, or not of the expected form.
    #[error("{0}")]
    Json(#[from] JsonError),
    /// More events than one unit holds.
    #[error("too many events: limit={UNIT_RECORDS_MAX}")]
    TooMany,
    /// An attribute in JSON.
    #[error("attribute {}: attribute={}", .0.reason, echo(&.0.attribute))]
    Attribute(Fault),
    /// An attribute in a header.
    #[error("attribute {}: header={}", .0.reason, echo(&format!("ce-{}", .0.attribute)))]
    Header(Fault),
}

impl EventError {
    /// Makes the problem of it. `place` names where the event was, such as `line` or `event`, and its number there.
    pub fn into_problem(self, place: Option<(&'static str, u64)>) -> Problem {
        let detail = self.to_string();
        let detail = match (&self, place) {
            (Self::TooMany, _) | (_, None) => detail,
            (_, Some((name, number))) => format!("{detail} {name}={number}"),
        };
        let problem = match self {
            Self::TooMany => return Problem::new(Code::TooLarge, detail).with("limit", UNIT_RECORDS_MAX),
            Self::Json(error) => Problem::new(Code::BadJson, detail).with("column", error.column),
            Self::Attribute(fault) => Problem::new(Code::BadJson, detail).with("attribute", fault.attribute),
            Self::Header(fault) => {
                let header = format!("ce-{}", fault.attribute);
                let problem = Problem::new(Code::BadParameter, detail).with("attribute", fault.attribute);
                problem.with("header", header)
            }
        };
        match place {
            Some((name, number)) => problem.with(name, number),
            None => problem,
        }
    }
}

/// The attributes of one event, as they are read. The caller sees to it that names do not repeat.
#[derive(Debug, Default)]
struct Attributes {
    headers: Vec<Header>,
    key: Option<Bytes>,
    time: Option<Timestamp>,
    size_bytes: usize,
}

impl Attributes {
    /// Adds an attribute by its text, `datacontenttype` apart.
    fn add(&mut self, name: &str, value: Bytes) -> Result<(), Fault> {
        let fault = |reason| Fault::new(name, reason);
        attribute::check_name(name).map_err(fault)?;
        let text = std::str::from_utf8(&value).map_err(|_| fault("is not UTF-8"))?;
        attribute::check_value(name, text).map_err(fault)?;
        if name.starts_with(OWN) {
            return Ok(());
        }
        match name {
            "partitionkey" => self.key = Some(value.clone()),
            "time" => self.time = parse_time(text),
            _ => {}
        }
        self.push(name, stored_name(name), value)
    }

    /// Adds `datacontenttype`.
    fn add_content_type(&mut self, value: Bytes) -> Result<(), Fault> {
        let text = std::str::from_utf8(&value).ok().filter(|text| attribute::is_media_type(text));
        if text.is_none() {
            return Err(Fault::new("datacontenttype", "must be a media type"));
        }
        self.push("datacontenttype", Bytes::from_static(CONTENT_TYPE.as_bytes()), value)
    }

    fn push(&mut self, attribute: &str, name: Bytes, value: Bytes) -> Result<(), Fault> {
        self.size_bytes += name.len() + value.len();
        if self.size_bytes > limits::EVENT_ATTRIBUTES_BYTES_MAX {
            return Err(Fault::new(attribute, "makes the attributes larger than 64 KiB"));
        }
        if self.headers.len() == RECORD_HEADERS_MAX {
            return Err(Fault::new(attribute, "is one too many"));
        }
        self.headers.push(Header { name, value: Some(value) });
        Ok(())
    }

    /// Makes the event, if nothing is missing.
    fn with_data(self, value: Option<Bytes>) -> Result<EventIn, Fault> {
        for required in REQUIRED {
            let name = stored_name(required);
            if !self.headers.iter().any(|header| header.name == name) {
                return Err(Fault::new(required, "is missing"));
            }
        }
        Ok(EventIn { key: self.key, time: self.time, headers: self.headers, value })
    }
}

/// Returns the name of the record header that holds an attribute.
fn stored_name(attribute: &str) -> Bytes {
    Bytes::from_static(match attribute {
        "id" => b"ce_id",
        "source" => b"ce_source",
        "specversion" => b"ce_specversion",
        "type" => b"ce_type",
        "subject" => b"ce_subject",
        "time" => b"ce_time",
        other => return Bytes::from([PREFIX, other].concat()),
    })
}

/// Returns the attributes of a record that is an event, in order of their names, `datacontenttype` apart. Stored
/// headers that are no attributes are left out; a record that lacks a required one is no event.
pub fn stored_attributes<'a>(
    headers: impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)>,
) -> Option<Vec<(&'a str, &'a str)>> {
    let named = headers.filter_map(|(name, value)| Some((name.strip_prefix(PREFIX.as_bytes())?, value?)));
    let attributes = legal(named, |name| !name.starts_with(OWN));
    let has = |name: &str| attributes.binary_search_by_key(&name, |(name, _)| name).is_ok();
    REQUIRED.into_iter().all(has).then_some(attributes)
}

/// Returns what can be written as attributes, sorted; of a name that repeats, the first.
fn legal<'a>(
    pairs: impl Iterator<Item = (&'a [u8], &'a [u8])>,
    wanted: impl Fn(&str) -> bool,
) -> Vec<(&'a str, &'a str)> {
    let checked = |(name, value): (&'a [u8], &'a [u8])| {
        let (name, value) = (std::str::from_utf8(name).ok()?, std::str::from_utf8(value).ok()?);
        let fits = wanted(name)
            && attribute::check_name(name).is_ok()
            && attribute::check_value(name, value).is_ok();
        fits.then_some((name, value))
    };
    let mut attributes: Vec<_> = pairs.filter_map(checked).collect();
    attributes.sort_by_key(|(name, _)| *name);
    attributes.dedup_by_key(|(name, _)| *name);
    attributes
}

/// Returns a record's content type, if it can be written as a media type.
fn stored_content_type<'a>(
    mut headers: impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)>,
) -> Option<&'a str> {
    let (_, value) = headers.find(|(name, _)| name.eq_ignore_ascii_case(CONTENT_TYPE.as_bytes()))?;
    std::str::from_utf8(value?).ok().filter(|text| attribute::is_media_type(text))
}
