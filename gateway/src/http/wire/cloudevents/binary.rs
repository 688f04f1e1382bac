//! Events in binary mode: attributes are HTTP headers `ce-<name>`, `datacontenttype` is `Content-Type`, and the body is
//! the data.
//!
//! Header values are percent-encoded as the HTTP binding says in section 3.1.3.2: space, `"`, `%`, and what is not
//! printable ASCII. A value that is one quoted string, as older senders write it, is read too.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::{AsciiSet, CONTROLS, percent_decode, utf8_percent_encode};

use crate::http::wire::cloudevents::attribute::DataForm;
use crate::http::wire::cloudevents::{Attributes, EventError, EventIn, Fault};

/// What the HTTP binding puts before an attribute's name.
const PREFIX: &str = "ce-";
/// Any of them says that a request is an event in binary mode.
const REQUIRED: [&str; 4] = ["ce-id", "ce-source", "ce-specversion", "ce-type"];
/// What is encoded, beside all that is not ASCII.
const ENCODED: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'%');

/// Tells whether a request has a required attribute as a header. One is enough: a sender that forgot another wants to
/// know, and not to have lost its attributes.
pub fn is_event(headers: &HeaderMap) -> bool {
    REQUIRED.iter().any(|name| headers.contains_key(*name))
}

/// Reads an event. An empty body is no data, unless the content type is there and is not JSON, which is never empty.
///
/// # Errors
/// [`EventError::Header`] with the first fault, in order of names.
pub fn parse_event(
    headers: &HeaderMap,
    content_type: Option<&str>,
    body: Bytes,
) -> Result<EventIn, EventError> {
    let mut names: Vec<&str> = headers.keys().filter_map(|name| name.as_str().strip_prefix(PREFIX)).collect();
    // Proxies may change the order: sorted, a retry is the same request.
    names.sort_unstable();
    let event = || {
        let mut attributes = Attributes::default();
        for name in names {
            let mut values = headers.get_all([PREFIX, name].concat()).iter();
            let (value, second) = (values.next(), values.next());
            if second.is_some() {
                return Err(Fault::new(name, "is there more than once"));
            }
            let value = value.map(HeaderValue::as_bytes).unwrap_or_default();
            attributes.add(name, decode(value).map_err(|reason| Fault::new(name, reason))?)?;
        }
        if let Some(content_type) = content_type {
            attributes.add_content_type(Bytes::copy_from_slice(content_type.as_bytes()))?;
        }
        let no_data = body.is_empty() && DataForm::of(content_type) == DataForm::Json;
        attributes.with_data((!no_data).then_some(body))
    };
    event().map_err(EventError::Header)
}

/// Returns the header of an attribute.
pub fn header(name: &str, value: &str) -> Option<(HeaderName, HeaderValue)> {
    let name = HeaderName::try_from([PREFIX, name].concat()).ok()?;
    let value = utf8_percent_encode(value, ENCODED).to_string();
    Some((name, HeaderValue::try_from(value).ok()?))
}

/// Returns the text of a header's value, still to be checked to be UTF-8.
fn decode(value: &[u8]) -> Result<Bytes, &'static str> {
    let unquoted = unquote(value);
    let value = unquoted.as_deref().unwrap_or(value);
    let whole = value
        .split(|byte| *byte == b'%')
        .skip(1)
        .all(|rest| rest.get(..2).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)));
    if !whole {
        return Err("must have '%' only before two hexadecimal digits; '%' itself is %25");
    }
    Ok(Bytes::from(percent_decode(value).collect::<Vec<u8>>()))
}

/// Returns the content of a value that is one quoted string.
fn unquote(value: &[u8]) -> Option<Vec<u8>> {
    let inner = value.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    let mut content = Vec::with_capacity(inner.len());
    let mut bytes = inner.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => return None,
            b'\\' => content.push(*bytes.next()?),
            byte => content.push(*byte),
        }
    }
    Some(content)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::http::wire::cloudevents::attribute::check_value;

    fn decoded(value: &[u8]) -> Option<String> {
        String::from_utf8(decode(value).ok()?.to_vec()).ok()
    }

    #[test]
    fn the_bindings_own_example_is_encoded_and_decoded() {
        let (name, value) = header("subject", "Euro € 😀").unwrap();
        assert_eq!(
            (name.as_str(), value.as_bytes()),
            ("ce-subject", &b"Euro%20%E2%82%AC%20%F0%9F%98%80"[..])
        );
        assert_eq!(decoded(value.as_bytes()).as_deref(), Some("Euro € 😀"));
    }

    #[test]
    fn what_need_not_be_encoded_is_decoded_too_and_damage_is_refused() {
        assert_eq!(decoded(b"%41%e2%82%ac").as_deref(), Some("A\u{20ac}"));
        assert_eq!(decoded(b"a b").as_deref(), Some("a b"));
        assert_eq!(decoded(b"%2541").as_deref(), Some("%41"), "one round");
        for value in [&b"%C0%A0"[..], b"%", b"%4", b"100% sure", b"%FF", b"\xe4"] {
            assert_eq!(decoded(value), None, "{}", value.escape_ascii());
        }
    }

    #[test]
    fn a_quoted_string_is_unquoted_before_it_is_decoded() {
        assert_eq!(decoded(br#""a \"b\" \\ %20""#).as_deref(), Some(r#"a "b" \  "#));
        assert_eq!(decoded(br#""""#).as_deref(), Some(""));
        for literal in [r#"say "hi""#, r#""a" and "b""#, r#"""#, r#""a\""#] {
            assert_eq!(decoded(literal.as_bytes()).as_deref(), Some(literal));
        }
    }

    proptest! {
        #[test]
        fn every_text_survives_a_header(text in "\\PC{0,30}") {
            let (_, value) = header("x", &text).unwrap();
            prop_assert!(value.as_bytes().iter().all(|byte| matches!(byte, b'!'..=b'~')));
            prop_assert_eq!(decoded(value.as_bytes()), Some(text));
        }

        #[test]
        fn no_header_panics(value in proptest::collection::vec(any::<u8>(), 0..30)) {
            if let Some(text) = decoded(&value) {
                let _ = check_value("source", &text);
            }
        }
    }
}
