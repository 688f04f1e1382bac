use proptest::prelude::*;

use super::*;

const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

fn one(text: &str) -> Result<RecordIn, RecordError> {
    parse_record(&Bytes::copy_from_slice(text.as_bytes()), NOW)
}

fn value(text: &str) -> Option<Bytes> {
    one(text).unwrap().record.value
}

/// Returns the field at fault.
fn fault(text: &str) -> &'static str {
    match one(text).unwrap_err() {
        RecordError::Field { field, .. } => field,
        other => panic!("{other}"),
    }
}

fn json_fault(text: &str) -> String {
    match one(text).unwrap_err() {
        RecordError::Json(error) => error.reason,
        other => panic!("{other}"),
    }
}

fn header(name: &'static str, value: Option<&'static [u8]>) -> Header {
    Header { name: Bytes::from_static(name.as_bytes()), value: value.map(Bytes::from_static) }
}

#[test]
fn every_field_reaches_the_record() {
    let record = one(
        r#"{"key":"u1","value":{"id":7},"headers":{"b":"2","a":null},"timestamp":"1970-01-01T00:00:01Z","partition":2}"#,
    );
    let expected = Record {
        key: Some(Bytes::from_static(b"u1")),
        value: Some(Bytes::from_static(br#"{"id":7}"#)),
        headers: vec![header("b", Some(b"2")), header("a", None)],
        timestamp: Timestamp::from_millis(1000),
    };
    assert_eq!(record, Ok(RecordIn { record: expected, partition: Some(PartitionId::new(2)) }));
    let expected = Record { value: Some(Bytes::from_static(b"1")), timestamp: NOW, ..Record::default() };
    assert_eq!(one(r#"{"value":1}"#), Ok(RecordIn { record: expected, partition: None }));
}

#[test]
fn values_are_kept_as_sent() {
    assert_eq!(
        value(r#"{"value": { "b" : 1.50e0, "a":"\u00e4" } }"#).unwrap(),
        r#"{ "b" : 1.50e0, "a":"\u00e4" }"#
    );
    assert_eq!(value(r#"{"value":"text"}"#).unwrap(), "\"text\"", "a JSON string keeps its quotes");
    assert_eq!(value("{\"value\":[1,\r\n2]}").unwrap(), "[1,\r\n2]");
    assert_eq!(value(r#"{"value":null}"#), None, "a tombstone");
    assert_eq!(value(r#"{"value_base64":"/wA="}"#).unwrap(), &b"\xff\x00"[..]);
    assert_eq!(value(r#"{"value_base64":"/wA"}"#).unwrap(), &b"\xff\x00"[..]);
    assert_eq!(value(r#"{"value_base64":""}"#).unwrap(), "", "an empty value is no tombstone");
}

#[test]
fn values_and_keys_are_slices_of_the_body() {
    let body = Bytes::from_static(br#"{"key":"abc","value":{"id":7}}"#);
    let record = parse_record(&body, NOW).unwrap().record;
    let range = body.as_ptr_range();
    assert!(range.contains(&record.value.unwrap().as_ptr()) && range.contains(&record.key.unwrap().as_ptr()));
}

#[test]
fn keys_are_the_text_of_a_string() {
    let key = |text: &str| one(text).unwrap().record.key;
    assert_eq!(key(r#"{"key":"a\"\u00e4","value":1}"#).unwrap(), "a\"ä");
    assert_eq!(key(r#"{"key":"","value":1}"#).unwrap(), "");
    assert_eq!(key(r#"{"key":null,"value":1}"#), None);
    assert_eq!(key(r#"{"key_base64":"AAE=","value":1}"#).unwrap(), &b"\x00\x01"[..]);
}

#[test]
fn headers_may_repeat_in_a_list() {
    let headers = |text: &str| one(&format!(r#"{{"value":1,"headers":{text}}}"#)).map(|r| r.record.headers);
    let pairs = headers(r#"[["a","1"],["a",null],["b",{"base64":"/w=="}]]"#);
    assert_eq!(pairs, Ok(vec![header("a", Some(b"1")), header("a", None), header("b", Some(b"\xff"))]));
    assert_eq!(headers("null"), Ok(vec![]));
    for text in [r#"[["a"]]"#, r#"[["a","1","2"]]"#, r#"{"a":1}"#, r#"{"a":{"base64":"!"}}"#, "7"] {
        assert!(headers(text).is_err(), "{text}");
    }
    let many = (0..=RECORD_HEADERS_MAX).map(|n| format!("[\"{n}\",null]")).collect::<Vec<_>>().join(",");
    assert!(
        headers(&format!("[{many}]")).unwrap_err().to_string().starts_with("too many headers, limit 256")
    );
}

#[test]
fn timestamps_are_times_or_milliseconds() {
    let time = |text: &str| one(&format!(r#"{{"value":1,"timestamp":{text}}}"#)).map(|r| r.record.timestamp);
    assert_eq!(time("1500"), Ok(Timestamp::from_millis(1500)));
    assert_eq!(time("-1"), Ok(Timestamp::from_millis(-1)));
    assert_eq!(time("null"), Ok(NOW));
    assert_eq!(time(r#""1970-01-01T02:00:00+02:00""#), Ok(Timestamp::from_millis(0)));
    for text in ["1.5", "true", "\"monday\"", "9223372036854775807", "[]", "1e3"] {
        assert!(time(text).is_err(), "{text}");
    }
}

#[test]
fn a_fault_is_named() {
    assert_eq!(fault(r#"{"key":"a"}"#), "value");
    assert_eq!(fault(r#"{"key":1,"value":1}"#), "key");
    assert_eq!(fault(r#"{"key":"a","key_base64":"AA==","value":1}"#), "key_base64");
    assert_eq!(fault(r#"{"value":null,"value_base64":"AA=="}"#), "value_base64");
    assert_eq!(fault(r#"{"value_base64":"*"}"#), "value_base64");
    assert_eq!(fault(r#"{"value":1,"partition":512}"#), "partition");
    assert!(json_fault(r#"{"value":1,"offset":3}"#).starts_with("unknown field `offset`"));
    assert!(json_fault(r#"{"value":1,"value":2}"#).starts_with("duplicate field"));
    assert!(json_fault(r#"{"value":1} {}"#).starts_with("trailing characters"));
    assert!(one(r#"{"value":1,"partition":-1}"#).is_err());
    assert!(one("[]").is_err());
    let deep = format!(r#"{{"value":{}{}}}"#, "[".repeat(200), "]".repeat(200));
    assert!(json_fault(&deep).contains("nested too deep"));
}

#[test]
fn a_list_of_records_names_the_record_at_fault() {
    let parse = |text: &str| parse_records(&Bytes::copy_from_slice(text.as_bytes()), NOW);
    assert_eq!(parse(r#"{"records":[{"value":1},{"value":2}]}"#).unwrap().len(), 2);
    assert_eq!(parse(r#"{"records":[]}"#), Ok(vec![]));
    let problem = parse(r#"{"records":[{"value":1},{"key":"a"}]}"#).unwrap_err().into_problem(None);
    assert_eq!(problem.code, Code::BadJson);
    assert_eq!((&problem.extra["record"], &problem.extra["field"]), (&1.into(), &"value".into()));
    let many = |more: &str| {
        format!(r#"{{"records":[{}{more}]}}"#, vec![r#"{"value":1}"#; UNIT_RECORDS_MAX].join(","))
    };
    assert_eq!(parse(&many("")).unwrap().len(), UNIT_RECORDS_MAX);
    assert_eq!(parse(&many(",{}")).unwrap_err().into_problem(None).code, Code::TooLarge);
    assert!(parse(r#"{"records":[],"more":1}"#).is_err());
    assert!(parse_records(&Bytes::from_static(b"{\"records\":[{\"value\":\"\xff\"}]}"), NOW).is_err());
}

#[test]
fn the_problem_of_a_line_names_the_line() {
    let problem = one(r#"{"value":}"#).unwrap_err().into_problem(Some(12));
    assert_eq!((&problem.extra["line"], &problem.extra["column"]), (&12.into(), &10.into()));
}

proptest! {
    #[test]
    fn no_bytes_panic(text in "[{}\\[\\]\",:a-z0-9 ]{0,60}", bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
        let wrapped = format!(r#"{{"value":{text},"timestamp":{text},"headers":{text}}}"#);
        let _ = one(&wrapped);
        let _ = parse_records(&Bytes::from(bytes), NOW);
    }
}
