//! Takes a record's key out of its JSON value.

use std::borrow::Cow;
use std::collections::HashMap;

use bytes::Bytes;
use serde_json::value::RawValue;

/// A JSON Pointer (RFC 6901).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KeyPath(Vec<String>);

impl KeyPath {
    /// Reads a pointer: empty, or steps that each begin with a slash.
    pub(super) fn parse(text: &str) -> Option<Self> {
        if text.is_empty() {
            return Some(Self(Vec::new()));
        }
        let steps = text.strip_prefix('/')?.split('/');
        Some(Self(steps.map(|step| step.replace("~1", "/").replace("~0", "~")).collect()))
    }

    /// Returns the key: a string's text, any other value as it was sent; none where there is nothing, or null.
    pub(super) fn key(&self, value: &[u8]) -> Option<Bytes> {
        let mut at: &RawValue = serde_json::from_slice(value).ok()?;
        for step in &self.0 {
            at = enter(at, step)?;
        }
        match at.get() {
            "null" => None,
            text if text.starts_with('"') => serde_json::from_str::<String>(text).ok().map(Bytes::from),
            other => Some(Bytes::copy_from_slice(other.as_bytes())),
        }
    }
}

fn enter<'a>(value: &'a RawValue, step: &str) -> Option<&'a RawValue> {
    if value.get().starts_with('{') {
        let members: HashMap<Cow<'a, str>, &'a RawValue> = serde_json::from_str(value.get()).ok()?;
        return members.get(step).copied();
    }
    let canonical = step == "0" || !step.starts_with(['0', '+']);
    let index: usize = step.parse().ok().filter(|_| canonical)?;
    let members: Vec<&'a RawValue> = serde_json::from_str(value.get()).ok()?;
    members.get(index).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(path: &str, value: &str) -> Option<String> {
        let key = KeyPath::parse(path).unwrap().key(value.as_bytes())?;
        Some(String::from_utf8(key.to_vec()).unwrap())
    }

    #[test]
    fn a_key_is_a_strings_text_or_a_values_json_as_sent() {
        assert_eq!(key("/user/id", r#"{"user":{"id":"u\n1"}}"#).as_deref(), Some("u\n1"));
        assert_eq!(
            key("/id", r#"{"id":12345678901234567890123}"#).as_deref(),
            Some("12345678901234567890123")
        );
        assert_eq!(key("/id", r#"{"id":1.0}"#).as_deref(), Some("1.0"));
        assert_eq!(key("", "7").as_deref(), Some("7"));
        assert_eq!(key("/a~1b/m~0n", r#"{"a/b":{"m~n":true}}"#).as_deref(), Some("true"));
        assert_eq!(key("/l/1", r#"{"l":[1,"x"]}"#).as_deref(), Some("x"));
        assert_eq!(key("/\u{e4}", r#"{"\u00e4":"y"}"#).as_deref(), Some("y"));
    }

    #[test]
    fn where_there_is_nothing_there_is_no_key() {
        for (path, value) in
            [("/id", "{}"), ("/id", r#"{"id":null}"#), ("/l/01", r#"{"l":[1,2]}"#), ("/a/b", "[]")]
        {
            assert_eq!(key(path, value), None, "{path} of {value}");
        }
    }

    #[test]
    fn a_pointer_begins_with_a_slash() {
        assert_eq!(KeyPath::parse("user.id"), None);
    }
}
