//! What the names and values of attributes may be, by the CloudEvents specification, section "Context Attributes".

use forebay_log::model::Timestamp;

use crate::http::extract::parse_time;
use crate::http::wire::record_out::is_json_type;
use crate::limits;

/// Checks a name. `datacontenttype` is refused: each binding has its own place for it.
///
/// # Errors
/// What is wrong with it.
pub fn check_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()) {
        return Err("must have a name of lower-case letters and digits");
    }
    if name.len() > limits::EVENT_ATTRIBUTE_NAME_LEN_MAX {
        return Err("has too long a name");
    }
    match name {
        "data" => Err("is a reserved name"),
        "datacontenttype" => Err("is the content type here"),
        _ => Ok(()),
    }
}

/// Checks a value by its attribute's type and constraints.
///
/// # Errors
/// What is wrong with it.
pub fn check_value(name: &str, value: &str) -> Result<(), &'static str> {
    if value.is_empty() && is_never_empty(name) {
        return Err("must not be empty");
    }
    if !value.chars().all(is_allowed) {
        return Err("must hold no control characters and no noncharacters");
    }
    match name {
        "specversion" if value != "1.0" => Err("must be 1.0"),
        "source" if !is_uri_reference(value) => Err("must be a URI-reference"),
        "dataschema" if !is_uri(value) => Err("must be an absolute URI"),
        "time" if parse_rfc3339(value).is_none() => Err("must be an RFC 3339 time"),
        _ => Ok(()),
    }
}

/// Tells whether an attribute is a string, in JSON too.
pub fn is_string(name: &str) -> bool {
    is_never_empty(name) || name == "datacontenttype"
}

fn is_never_empty(name: &str) -> bool {
    matches!(
        name,
        "id" | "source" | "specversion" | "type" | "subject" | "time" | "dataschema" | "partitionkey"
    )
}

/// Tells whether a string may hold a character: no control characters, no noncharacters.
fn is_allowed(c: char) -> bool {
    match c {
        ' '..='~' => true,
        '\u{fdd0}'..='\u{fdef}' => false,
        c => !c.is_control() && u32::from(c) & 0xfffe != 0xfffe,
    }
}

/// Reads a time of exactly the form of RFC 3339; the parser takes more.
fn parse_rfc3339(text: &str) -> Option<Timestamp> {
    let bytes = text.as_bytes();
    let (date, rest) = bytes.split_at_checked(19)?;
    let shape = date.iter().zip(b"0000-00-00T00:00:00").all(|(byte, form)| match form {
        b'0' => byte.is_ascii_digit(),
        form => byte.eq_ignore_ascii_case(form),
    });
    let fraction = match rest.strip_prefix(b".") {
        Some(rest) => 1 + rest.iter().take_while(|byte| byte.is_ascii_digit()).count(),
        None => 0,
    };
    let zone = match rest.get(fraction..)? {
        [b'Z' | b'z'] => true,
        [b'+' | b'-', h1, h2, b':', m1, m2] => [h1, h2, m1, m2].iter().all(|byte| byte.is_ascii_digit()),
        _ => false,
    };
    (shape && fraction != 1 && zone).then(|| parse_time(text)).flatten()
}

/// Tells whether a text is a URI-reference of RFC 3986: its characters, its escapes, and where `:`, `#`, `[` and `]`
/// may stand.
fn is_uri_reference(text: &str) -> bool {
    const PUNCTUATION: &[u8] = b"-._~:/?#[]@!$&'()*+,;=%";
    let known = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || PUNCTUATION.contains(&byte));
    let escapes = text
        .split('%')
        .skip(1)
        .all(|rest| rest.as_bytes().get(..2).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)));
    let first_segment = text.split(['/', '?', '#']).next().unwrap_or_default();
    let colon = !first_segment.contains(':') || after_scheme(text).is_some();
    let after_scheme = after_scheme(text).unwrap_or(text);
    let path = match after_scheme.strip_prefix("//") {
        Some(rest) => rest.find(['/', '?', '#']).and_then(|end| rest.get(end..)).unwrap_or_default(),
        None => after_scheme,
    };
    let brackets = !path.contains(['[', ']']);
    known && escapes && colon && brackets && text.bytes().filter(|byte| *byte == b'#').count() <= 1
}

/// Tells whether a text is a URI. A fragment is let pass, though an absolute URI of RFC 3986 has none: schemas are
/// named with them.
fn is_uri(text: &str) -> bool {
    after_scheme(text).is_some() && is_uri_reference(text)
}

/// Returns what follows the scheme of a URI.
fn after_scheme(text: &str) -> Option<&str> {
    let (scheme, after) = text.split_once(':')?;
    let of_scheme = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
    let legal = scheme.starts_with(|c: char| c.is_ascii_alphabetic()) && scheme.bytes().all(of_scheme);
    legal.then_some(after)
}

/// Tells whether a text is a media type that an HTTP header can carry.
pub fn is_media_type(text: &str) -> bool {
    let token = |part: &str| {
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        !part.is_empty() && part.bytes().all(legal)
    };
    let essence = text.split(';').next().unwrap_or_default().trim_ascii_end();
    text.len() <= limits::CONTENT_TYPE_LEN_MAX
        && text.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\t'))
        && essence.split_once('/').is_some_and(|(kind, subtype)| token(kind) && token(subtype))
}

/// How data of a content type is written in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataForm {
    /// `data` is the JSON value.
    Json,
    /// `data` is a string.
    Text,
    /// `data_base64`.
    Binary,
}

impl DataForm {
    /// Decides by the content type; without one data is JSON. A type that says nothing of bytes is text: whether it is
    /// UTF-8 has to be seen.
    pub fn of(content_type: Option<&str>) -> Self {
        let Some(content_type) = content_type else { return Self::Json };
        if is_json_type(content_type.as_bytes()) {
            Self::Json
        } else if is_binary_type(content_type) || has_foreign_charset(content_type) {
            Self::Binary
        } else {
            Self::Text
        }
    }
}

/// Tells whether a type is known to be of bytes. Some of its values may happen to be UTF-8, and a consumer is better
/// off when all of them come the same way.
fn is_binary_type(content_type: &str) -> bool {
    const KINDS: [&str; 4] = ["image", "audio", "video", "font"];
    const SUBTYPES: [&str; 7] = ["octet-stream", "protobuf", "avro", "thrift", "cbor", "msgpack", "zip"];
    let essence = content_type.split(';').next().unwrap_or_default().trim_ascii().to_ascii_lowercase();
    let Some((kind, subtype)) = essence.split_once('/') else { return false };
    let is_xml = subtype.ends_with("+xml");
    !is_xml && (KINDS.contains(&kind) || SUBTYPES.iter().any(|name| subtype.contains(name)))
}

/// Tells whether a type names a charset in which text has other bytes than in UTF-8.
pub fn has_foreign_charset(content_type: &str) -> bool {
    let mut parameters = content_type.split(';').skip(1).filter_map(|parameter| parameter.split_once('='));
    let charset = parameters.find(|(name, _)| name.trim().eq_ignore_ascii_case("charset"));
    charset.is_some_and(|(_, value)| {
        let value = value.trim().trim_matches('"');
        !["utf-8", "utf8", "us-ascii"].iter().any(|known| value.eq_ignore_ascii_case(known))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_lower_case_letters_and_digits() {
        for name in ["id", "comexampleothervalue", "0", "x1"] {
            assert_eq!(check_name(name), Ok(()), "{name}");
        }
        let long = "a".repeat(limits::EVENT_ATTRIBUTE_NAME_LEN_MAX + 1);
        for name in ["", "Id", "a-b", "a_b", "ä", "data", "datacontenttype", long.as_str()] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }

    #[test]
    fn strings_hold_no_control_characters_and_no_noncharacters() {
        for text in ["", "a b\"%", "ä€😀", "\u{fffd}"] {
            assert_eq!(check_value("x", text), Ok(()), "{text}");
        }
        for text in ["a\nb", "\0", "\u{7f}", "\u{85}", "\u{fdd0}", "\u{ffff}", "\u{1fffe}"] {
            assert!(check_value("x", text).is_err(), "{}", text.escape_debug());
        }
    }

    #[test]
    fn sources_are_uri_references_and_schemas_are_uris() {
        for text in [
            "https://github.com/cloudevents",
            "mailto:cncf-wg-serverless@lists.cncf.io",
            "urn:uuid:6e8bc430-9c3a-11d9-9669-0800200c9a66",
            "/cloudevents/spec/pull/123",
            "1-555-123-4567",
            "//[::1]:80/a?b=c#d",
            "http://[2001:db8::7]",
            "./a:b",
            "a%20b",
        ] {
            assert_eq!(check_value("source", text), Ok(()), "{text}");
        }
        for text in ["", "a b", "ä", "a%2", "a%zz", ":a", "1a:b", "a#b#c", "/a[0]", "<a>", "a\\b", "x:/[a]"]
        {
            assert!(check_value("source", text).is_err(), "{text}");
        }
        assert_eq!(check_value("dataschema", "https://example.com/a.json#/b"), Ok(()));
        assert!(check_value("dataschema", "/relative").is_err());
    }

    #[test]
    fn times_are_of_the_form_of_rfc_3339() {
        for text in [
            "2018-04-05T17:31:00Z",
            "2018-04-05t17:31:00.123456789z",
            "1990-12-31T15:59:60-08:00",
            "0001-01-01T00:00:00+23:59",
        ] {
            assert_eq!(check_value("time", text), Ok(()), "{text}");
        }
        for text in [
            "",
            "2018-04-05",
            "2018-04-05T17:31:00",
            "2018-04-05 17:31:00Z",
            "2018-04-05T17:31Z",
            "2018-04-05T17:31:00.Z",
            "2018-04-05T17:31:00+0200",
            "2018-13-05T17:31:00Z",
            "2018-04-05T17:31:00Z[UTC]",
            "2018-04-05T17:31:00,5Z",
        ] {
            assert!(check_value("time", text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_content_type_decides_how_data_is_written() {
        use DataForm::*;
        assert_eq!(DataForm::of(None), Json);
        for (content_type, form) in [
            ("application/json; charset=utf-8", Json),
            ("application/vnd.x+JSON", Json),
            ("text/plain", Text),
            ("text/plain; charset=\"UTF-8\"", Text),
            ("application/xml", Text),
            ("image/svg+xml", Text),
            ("text/plain; charset=iso-8859-1", Binary),
            ("application/octet-stream", Binary),
            ("application/x-protobuf", Binary),
            ("image/png", Binary),
        ] {
            assert_eq!(DataForm::of(Some(content_type)), form, "{content_type}");
        }
    }

    #[test]
    fn a_media_type_fits_into_a_header() {
        for text in ["application/json", "text/plain; charset=\"utf 8\"", "a/b ;c=d"] {
            assert!(is_media_type(text), "{text}");
        }
        let long = format!("text/{}", "x".repeat(limits::CONTENT_TYPE_LEN_MAX));
        for text in ["", "json", "/json", "text/", "te xt/plain", "text/plain\r\nx: y", "text/plän", &long] {
            assert!(!is_media_type(text), "{text}");
        }
    }
}
