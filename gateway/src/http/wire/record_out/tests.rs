use forebay_log::model::Header;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::http::wire::records_in::parse_record;

type Pair<'a> = (&'a [u8], Option<&'a [u8]>);

fn write(key: Option<&[u8]>, value: Option<&[u8]>, headers: &[Pair<'_>]) -> String {
    let topic = TopicPrefix::new(&"orders".parse().unwrap());
    let timestamp = Timestamp::from_millis(1_717_236_000_123);
    let record =
        RecordOut { partition: 2, offset: 17, timestamp, key, value, headers: headers.iter().copied() };
    let mut out = BytesMut::new();
    write_record(&mut out, &topic, &record);
    String::from_utf8(out.to_vec()).expect("an object is UTF-8")
}

/// Returns the value's field as written, without the braces.
fn value(bytes: &[u8], headers: &[Pair<'_>]) -> String {
    let text = write(None, Some(bytes), &[]);
    let start = write(None, None, &[]).len() - ",\"value\":null}".len() + 1;
    let text = if headers.is_empty() { text } else { write(None, Some(bytes), headers) };
    let end = text.find(",\"headers\":").unwrap_or(text.len() - 1);
    text[start..end].to_owned()
}

#[test]
fn fields_are_written_in_the_documented_order() {
    let text = write(Some(b"u1"), Some(br#"{"id":7}"#), &[(b"trace", Some(b"a1")), (b"none", None)]);
    let expected = concat!(
        r#"{"topic":"orders","partition":2,"offset":17,"timestamp":"2024-06-01T10:00:00.123Z","#,
        r#""key":"u1","value":{"id":7},"headers":{"trace":"a1","none":null}}"#,
    );
    assert_eq!(text, expected);
    let bare =
        r#"{"topic":"orders","partition":2,"offset":17,"timestamp":"2024-06-01T10:00:00.123Z","value":null}"#;
    assert_eq!(write(None, None, &[]), bare);
}

#[test]
fn json_is_spliced_as_stored_on_one_line() {
    assert_eq!(
        value(b"{\"b\" : 1.50,\r\n \"a\":\"\\u00e4\"}", &[]),
        "\"value\":{\"b\" : 1.50,   \"a\":\"\\u00e4\"}"
    );
    assert_eq!(value(b"\"text\"", &[]), r#""value":"text""#);
    assert_eq!(value(b"7", &[(b"Content-Type", Some(b"application/json; charset=utf-8"))]), r#""value":7"#);
    assert_eq!(value(b"7", &[(b"content-type", Some(b"application/vnd.x+JSON"))]), r#""value":7"#);
    assert_eq!(value(b"7", &[(b"content-type", None)]), r#""value":7"#);
}

#[test]
fn other_text_is_a_string_and_other_bytes_are_base64() {
    assert_eq!(value(b"hello \"you\"\n\x01", &[]), r#""value":"hello \"you\"\n\u0001""#);
    assert_eq!(value(b"7", &[(b"content-type", Some(b"text/plain"))]), r#""value":"7""#);
    assert_eq!(value(b"{oops", &[(b"content-type", Some(b"application/json"))]), r#""value":"{oops""#);
    assert_eq!(value(b"", &[]), r#""value":"""#);
    assert_eq!(value(b"\xff\x00", &[]), r#""value_base64":"/wA=""#);
    let deep = "[".repeat(200) + &"]".repeat(200);
    assert_eq!(value(deep.as_bytes(), &[]), format!("\"value\":\"{deep}\""));
}

#[test]
fn keys_are_text_or_base64() {
    assert!(write(Some(b"42"), None, &[]).contains(r#","key":"42","value""#));
    assert!(write(Some(b""), None, &[]).contains(r#","key":"","value""#));
    assert!(write(Some(b"\xff"), None, &[]).contains(r#","key_base64":"/w==","value""#));
}

#[test]
fn headers_are_a_list_where_names_repeat() {
    let headers = |pairs: &[Pair<'_>]| {
        let object: Value = serde_json::from_str(&write(None, None, pairs)).unwrap();
        object["headers"].clone()
    };
    assert_eq!(headers(&[(b"a", Some(b"1")), (b"a", None)]), json!([["a", "1"], ["a", null]]));
    assert_eq!(headers(&[(b"a", Some(b"\xff"))]), json!({"a": {"base64": "/w=="}}));
    assert_eq!(headers(&[(b"a\xff", Some(b"1")), (b"b", None)]), json!([["a\u{fffd}", "1"], ["b", null]]));
}

#[test]
fn times_beyond_what_rfc_3339_writes_are_the_nearest_within() {
    let text = |millis| {
        let mut out = BytesMut::new();
        write_timestamp(&mut out, Timestamp::from_millis(millis));
        String::from_utf8(out.to_vec()).unwrap()
    };
    assert_eq!(text(i64::MIN), "0000-01-01T00:00:00.000Z");
    assert_eq!(text(i64::MAX), "9999-12-31T23:59:59.999Z");
    assert_eq!(text(-1), "1969-12-31T23:59:59.999Z");
    assert_eq!(text(951_782_400_000), "2000-02-29T00:00:00.000Z");
}

proptest! {
    #[test]
    fn times_agree_with_the_library(millis in TIMESTAMP_MIN.as_millis()..=TIMESTAMP_MAX.as_millis()) {
        let mut out = BytesMut::new();
        write_timestamp(&mut out, Timestamp::from_millis(millis));
        let expected = jiff::Timestamp::from_millisecond(millis).unwrap();
        prop_assert_eq!(std::str::from_utf8(&out).unwrap(), format!("{expected:.3}"));
    }

    #[test]
    fn every_record_is_one_line_of_json_that_keeps_its_bytes(
        key in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..20)),
        value in proptest::option::of(prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..40),
            "[\\[\\]{}\",:0-9a-z\\\\\r\n ]{0,20}".prop_map(String::into_bytes),
            "\\PC{0,20}".prop_map(String::into_bytes),
        ]),
        headers in proptest::collection::vec(
            ("[a-c]{1,2}|content-type", proptest::option::of(proptest::collection::vec(any::<u8>(), 0..9))),
            0..4,
        ),
    ) {
        let pairs: Vec<Pair<'_>> = headers.iter().map(|(name, value)| (name.as_bytes(), value.as_deref())).collect();
        let text = write(key.as_deref(), value.as_deref(), &pairs);
        prop_assert!(!text.contains(['\r', '\n']));
        let mut object: Value = serde_json::from_str(&text).map_err(|e| TestCaseError::fail(format!("{e}: {text}")))?;
        if let Some(text) = object["value"].as_str().filter(|_| !value.as_deref().is_some_and(|v| v.trim_ascii().starts_with(b"\""))) {
            // Text is stored without the quotes it is read with.
            prop_assert_eq!(Some(text.as_bytes()), value.as_deref());
        }
        object.as_object_mut().unwrap().retain(|name, _| !matches!(name.as_str(), "topic" | "offset"));
        let sent_back = parse_record(&object.to_string().into(), Timestamp::default()).unwrap().record;
        prop_assert_eq!(sent_back.key.as_deref(), key.as_deref());
        let same = |(header, (name, value)): (&Header, &Pair<'_>)| header.name == *name && header.value.as_deref() == *value;
        prop_assert_eq!(sent_back.headers.len(), pairs.len());
        let repeats = text.contains("\"headers\":[");
        prop_assert!(!repeats || sent_back.headers.iter().zip(&pairs).all(same));
        if object.get("value_base64").is_some() {
            prop_assert_eq!(sent_back.value.as_deref(), value.as_deref());
        }
    }
}
