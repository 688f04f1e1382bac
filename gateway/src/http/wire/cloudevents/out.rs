//! The JSON format of CloudEvents, as consumers get it: one line, without a raw line break.
//!
//! A record that was produced as an event has its own attributes. Any other record becomes an event:
//!
//! | Attribute | Value |
//! |---|---|
//! | `source` | `/v1/topics/<topic>` |
//! | `id` | `<epoch>/<partition>/<offset>`: never the same for another record, not even of a topic made anew |
//! | `type` | `forebay.record` |
//! | `time` | the record's timestamp |
//! | `partitionkey` | the key, if it is text |
//! | `datacontenttype` | the record's content type, else what its bytes are: JSON, text, or bytes |
//! | extensions | headers whose names and values are those of extensions |
//!
//! Every event also says where it was read: `forebaytopic`, `forebaypartition`, and `forebayoffset`, which is a string,
//! for an integer has 32 bits. No stored bytes make writing fail.

use bytes::BytesMut;
use forebay_log::model::TopicName;

use crate::http::wire::cloudevents::attribute::{DataForm, check_value};
use crate::http::wire::cloudevents::{OWN, legal, stored_attributes, stored_content_type};
use crate::http::wire::ndjson::validate_json;
use crate::http::wire::record_out::{
    RecordOut, append_base64, write_on_one_line, write_string, write_timestamp,
};

/// Room for the names of attributes, numbers and times.
const EVENT_OVERHEAD: usize = 320;
/// Attributes that a header of a plain record cannot stand for.
const DEFINED: [&str; 8] =
    ["dataschema", "id", "partitionkey", "source", "specversion", "subject", "time", "type"];

/// What the events of one topic have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventSource {
    topic: TopicName,
    epoch: String,
}

impl EventSource {
    /// Names the topic, and which incarnation of it.
    pub fn new(topic: &TopicName, epoch: &str) -> Self {
        Self { topic: topic.clone(), epoch: epoch.to_owned() }
    }
}

/// Appends one event.
pub fn write_event<'a, H>(out: &mut BytesMut, source: &EventSource, record: &RecordOut<'a, H>)
where
    H: Iterator<Item = (&'a [u8], Option<&'a [u8]>)> + Clone,
{
    let len = |bytes: Option<&[u8]>| bytes.map_or(0, <[u8]>::len);
    out.reserve(EVENT_OVERHEAD + len(record.key) + len(record.value));
    out.extend_from_slice(b"{\"forebaytopic\":\"");
    // A topic's name holds nothing that JSON escapes.
    out.extend_from_slice(source.topic.as_str().as_bytes());
    out.extend_from_slice(b"\",\"forebaypartition\":");
    write_number(out, record.partition.into());
    out.extend_from_slice(b",\"forebayoffset\":\"");
    write_number(out, record.offset);
    out.extend_from_slice(b"\"");
    let declared = stored_content_type(record.headers.clone());
    match stored_attributes(record.headers.clone()) {
        Some(attributes) => {
            write_attributes(out, &attributes);
            write_data(out, declared, DataForm::of(declared), record.value);
        }
        None => {
            write_own_attributes(out, source, record);
            let (content_type, form) = plain_data(declared, record.value);
            write_data(out, content_type, form, record.value);
        }
    }
    out.extend_from_slice(b"}");
}

fn write_attributes(out: &mut BytesMut, attributes: &[(&str, &str)]) {
    for (name, value) in attributes {
        write_member(out, name);
        write_string(out, value);
    }
}

/// Appends the attributes of a record that was not produced as an event.
fn write_own_attributes<'a, H>(out: &mut BytesMut, source: &EventSource, record: &RecordOut<'a, H>)
where
    H: Iterator<Item = (&'a [u8], Option<&'a [u8]>)> + Clone,
{
    out.extend_from_slice(b",\"specversion\":\"1.0\",\"id\":\"");
    out.extend_from_slice(source.epoch.as_bytes());
    out.extend_from_slice(b"/");
    write_number(out, record.partition.into());
    out.extend_from_slice(b"/");
    write_number(out, record.offset);
    out.extend_from_slice(b"\",\"source\":\"/v1/topics/");
    out.extend_from_slice(source.topic.as_str().as_bytes());
    out.extend_from_slice(b"\",\"type\":\"forebay.record\",\"time\":\"");
    write_timestamp(out, record.timestamp);
    out.extend_from_slice(b"\"");
    let key = record.key.and_then(|key| std::str::from_utf8(key).ok());
    if let Some(key) = key.filter(|key| check_value("partitionkey", key).is_ok()) {
        write_member(out, "partitionkey");
        write_string(out, key);
    }
    let named = record.headers.clone().filter_map(|(name, value)| Some((name, value?)));
    write_attributes(out, &legal(named, |name| !DEFINED.contains(&name) && !name.starts_with(OWN)));
}

/// Decides how the value of a plain record is written: as what it declares to be, else as what it is.
fn plain_data<'a>(declared: Option<&'a str>, value: Option<&[u8]>) -> (Option<&'a str>, DataForm) {
    match (declared, value) {
        (Some(_), _) | (None, None) => (declared, DataForm::of(declared)),
        (None, Some(value)) if validate_json(value).is_ok() => (Some("application/json"), DataForm::Json),
        (None, Some(value)) if std::str::from_utf8(value).is_ok() => {
            (Some("text/plain; charset=utf-8"), DataForm::Text)
        }
        (None, Some(_)) => (Some("application/octet-stream"), DataForm::Binary),
    }
}

/// Appends content type and data. Bytes that are not what they should be are base64.
fn write_data(out: &mut BytesMut, content_type: Option<&str>, form: DataForm, value: Option<&[u8]>) {
    if let Some(content_type) = content_type {
        write_member(out, "datacontenttype");
        write_string(out, content_type);
    }
    let Some(value) = value else { return };
    match (form, std::str::from_utf8(value)) {
        (DataForm::Json, Ok(_)) if validate_json(value).is_ok() => {
            write_member(out, "data");
            write_on_one_line(out, value);
        }
        (DataForm::Text, Ok(text)) => {
            write_member(out, "data");
            write_string(out, text);
        }
        _ => {
            out.extend_from_slice(b",\"data_base64\":\"");
            append_base64(out, value);
            out.extend_from_slice(b"\"");
        }
    }
}

/// Appends the name of a member, which holds nothing that JSON escapes.
fn write_member(out: &mut BytesMut, name: &str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}

fn write_number(out: &mut BytesMut, number: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}
