//! The JSON format of CloudEvents, as producers send it.
//!
//! ```json
//! {"specversion": "1.0", "id": "7", "source": "/shop", "type": "com.example.order", "data": {"id": 7}}
//! ```
//!
//! - `data` is JSON and is stored byte for byte as sent, a string with its quotes, unless `datacontenttype` says that it
//!   is not JSON: then it is a string, of which the text is stored. `data_base64` gives other bytes.
//! - Extensions are strings, booleans, or integers of 32 bits. `null` stands for an attribute that is not there.
//! - A repeated member is an error.

use std::fmt;

use bytes::Bytes;
use forebay_log::limits::{RECORD_HEADERS_MAX, UNIT_RECORDS_MAX};
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::http::wire::cloudevents::attribute::{has_foreign_charset, is_string};
use crate::http::wire::cloudevents::{Attributes, EventError, EventIn, Fault};
use crate::http::wire::ndjson::check_depth;
use crate::http::wire::record_out::is_json_type;
use crate::http::wire::records_in::{base64_text, parse_json, string_text};

/// Members of one event that are read: attributes, `datacontenttype` and data.
const MEMBERS_MAX: usize = RECORD_HEADERS_MAX + 2;

/// Cuts a batch into its events, of at most [`UNIT_RECORDS_MAX`], as slices of the body.
///
/// # Errors
/// [`EventError`] for what is no list, and for too many events.
pub fn split_batch(body: &Bytes) -> Result<Vec<Bytes>, EventError> {
    let Batch { events, overflow } = parse_json(body)?;
    if overflow {
        return Err(EventError::TooMany);
    }
    Ok(events.into_iter().map(|event| body.slice_ref(event.get().as_bytes())).collect())
}

/// Reads one event.
///
/// # Errors
/// [`EventError`] with the first fault.
pub fn parse_event(body: &Bytes) -> Result<EventIn, EventError> {
    let members: Members<'_> = parse_json(body)?;
    check_depth(body)?;
    let members = members.set()?;
    event(&members, body).map_err(EventError::Attribute)
}

fn event(members: &[(String, &RawValue)], body: &Bytes) -> Result<EventIn, Fault> {
    let mut attributes = Attributes::default();
    let (mut data, mut data_base64, mut content_type) = (None, None, None);
    for (name, raw) in members {
        match name.as_str() {
            "data" => data = Some(*raw),
            "data_base64" => data_base64 = Some(*raw),
            name => {
                let value = attribute_text(name, raw, body)?;
                if name == "datacontenttype" {
                    content_type = Some(value.clone());
                    attributes.add_content_type(value)?;
                } else {
                    attributes.add(name, value)?;
                }
            }
        }
    }
    let content_type = content_type.as_deref().map(String::from_utf8_lossy);
    let value = match (data, data_base64) {
        (None, None) => None,
        (Some(raw), None) => data_value(raw, content_type.as_deref(), body)?,
        (None, Some(raw)) => {
            Some(base64_text(raw).ok_or_else(|| Fault::new("data_base64", "must be a base64 string"))?)
        }
        (Some(_), Some(_)) => return Err(Fault::new("data_base64", "cannot stand beside data")),
    };
    attributes.with_data(value)
}

/// Returns the canonical text of an attribute's value.
fn attribute_text(name: &str, raw: &RawValue, body: &Bytes) -> Result<Bytes, Fault> {
    let text = raw.get();
    if text.starts_with('"') {
        return string_text(raw, body).ok_or_else(|| Fault::new(name, "must be a string of Unicode text"));
    }
    if is_string(name) {
        return Err(Fault::new(name, "must be a string"));
    }
    match text {
        "true" | "false" => Ok(body.slice_ref(text.as_bytes())),
        number => match number.parse::<i32>() {
            Ok(number) => Ok(Bytes::from(number.to_string())),
            Err(_) => Err(Fault::new(name, "must be a string, a boolean or an integer of 32 bits")),
        },
    }
}

fn data_value(raw: &RawValue, content_type: Option<&str>, body: &Bytes) -> Result<Option<Bytes>, Fault> {
    let Some(content_type) = content_type.filter(|text| !is_json_type(text.as_bytes())) else {
        return Ok(Some(body.slice_ref(raw.get().as_bytes())));
    };
    if raw.get() == "null" {
        return Ok(None);
    }
    if has_foreign_charset(content_type) {
        return Err(Fault::new("data", "must be sent as data_base64, for its charset is not UTF-8"));
    }
    let text = string_text(raw, body);
    text.map(Some).ok_or_else(|| Fault::new("data", "must be a string, for datacontenttype is not JSON"))
}

/// The events of a batch, cut off at their limit so that small ones cannot fill the memory.
struct Batch<'a> {
    events: Vec<&'a RawValue>,
    overflow: bool,
}

impl<'de: 'a, 'a> Deserialize<'de> for Batch<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;

        impl<'de> Visitor<'de> for List {
            type Value = Batch<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of events")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Batch<'de>, A::Error> {
                let mut events = Vec::new();
                while events.len() < UNIT_RECORDS_MAX {
                    match seq.next_element()? {
                        Some(event) => events.push(event),
                        None => return Ok(Batch { events, overflow: false }),
                    }
                }
                let mut overflow = false;
                while seq.next_element::<IgnoredAny>()?.is_some() {
                    overflow = true;
                }
                Ok(Batch { events, overflow })
            }
        }

        deserializer.deserialize_seq(List)
    }
}

/// The members of one event in the order sent, up to their limit.
struct Members<'a> {
    list: Vec<(String, &'a RawValue)>,
    /// The first one past the limit.
    overflow: Option<String>,
}

impl<'a> Members<'a> {
    /// Returns the members that are set, after a look for repeated ones.
    fn set(mut self) -> Result<Vec<(String, &'a RawValue)>, EventError> {
        if let Some(name) = self.overflow {
            return Err(EventError::Attribute(Fault::new(&name, "is one too many")));
        }
        let mut names: Vec<&str> = self.list.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        if let Some(pair) = names.windows(2).find(|pair| pair.first() == pair.last()) {
            let name = pair.first().copied().unwrap_or_default();
            return Err(EventError::Attribute(Fault::new(name, "is there more than once")));
        }
        // JSON `null` as data is data.
        self.list.retain(|(name, value)| value.get() != "null" || name == "data");
        Ok(self.list)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an event")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let (mut list, mut overflow) = (Vec::new(), None);
                while let Some((name, value)) = map.next_entry::<String, &RawValue>()? {
                    if list.len() < MEMBERS_MAX {
                        list.push((name, value));
                    } else {
                        overflow.get_or_insert(name);
                    }
                }
                Ok(Members { list, overflow })
            }
        }

        deserializer.deserialize_map(Object)
    }
}
