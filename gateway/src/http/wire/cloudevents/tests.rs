use bytes::{Bytes, BytesMut};
use forebay_log::model::Timestamp;
use http::{HeaderMap, HeaderName, HeaderValue};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::attribute::{check_value, is_media_type};
use super::out::{EventSource, write_event};
use super::structured::{parse_event, split_batch};
use super::*;
use crate::http::wire::record_out::RecordOut;

fn parse(event: &Value) -> Result<EventIn, EventError> {
    parse_event(&Bytes::from(event.to_string()))
}

/// The least that an event has.
fn minimal() -> Map<String, Value> {
    let event = json!({"specversion": "1.0", "id": "1", "source": "/s", "type": "t"});
    event.as_object().unwrap().clone()
}

fn with(members: &Value) -> Value {
    let mut event = minimal();
    event.extend(members.as_object().unwrap().clone());
    Value::Object(event)
}

fn header<'a>(event: &'a EventIn, name: &str) -> Option<&'a [u8]> {
    event.headers.iter().find(|header| header.name == name).and_then(|header| header.value.as_deref())
}

fn write(key: Option<&[u8]>, value: Option<&[u8]>, headers: &[Header]) -> String {
    let mut out = BytesMut::new();
    let record = RecordOut {
        partition: 2,
        offset: 17,
        timestamp: Timestamp::from_millis(1_717_236_000_123),
        key,
        value,
        headers: headers.iter().map(|header| (header.name.as_ref(), header.value.as_deref())),
    };
    write_event(&mut out, &EventSource::new(&"orders".parse().unwrap(), "a0"), &record);
    String::from_utf8(out.to_vec()).expect("an event is UTF-8")
}

fn written(event: &EventIn) -> Value {
    let text = write(event.key.as_deref(), event.value.as_deref(), &event.headers);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// The event as a consumer gets it, without what the server added.
fn back(event: &Value) -> Value {
    let mut back = written(&parse(event).unwrap());
    let added = ["forebaytopic", "forebaypartition", "forebayoffset"]
        .map(|name| back.as_object_mut().unwrap().remove(name).unwrap_or_else(|| panic!("{name} is there")));
    assert_eq!(added, [json!("orders"), json!(2), json!("17")]);
    back
}

fn fault(event: &Value) -> (String, Code) {
    let problem = parse(event).expect_err(&event.to_string()).into_problem(None);
    (problem.extra["attribute"].as_str().unwrap().to_owned(), problem.code)
}

#[test]
fn attributes_become_headers_as_in_the_kafka_binding() {
    let event = parse(&with(&json!({
        "time": "2018-04-05T17:31:00.5+02:00", "subject": "ä", "partitionkey": "u1", "number": -5, "yes": true,
        "unset": null, "datacontenttype": "application/xml", "data": "<a/>",
    })));
    let event = event.unwrap();
    let pairs = [
        ("ce_specversion", "1.0"),
        ("ce_subject", "ä"),
        ("ce_time", "2018-04-05T17:31:00.5+02:00"),
        ("ce_partitionkey", "u1"),
        ("ce_number", "-5"),
        ("ce_yes", "true"),
        ("content-type", "application/xml"),
    ];
    for (name, value) in pairs {
        assert_eq!(header(&event, name), Some(value.as_bytes()), "{name}");
    }
    assert_eq!(header(&event, "ce_unset"), None);
    assert_eq!(event.key.as_deref(), Some(&b"u1"[..]));
    assert_eq!(event.time, Some(Timestamp::from_millis(1_522_942_260_500)));
    assert_eq!(event.value.as_deref(), Some(&b"<a/>"[..]));
}

#[test]
fn data_is_stored_as_the_content_type_says() {
    let value = |members: Value| parse(&with(&members)).unwrap().value;
    assert_eq!(value(json!({"data": "text"})).unwrap(), "\"text\"", "JSON without a content type");
    assert_eq!(value(json!({"datacontenttype": "text/plain", "data": "te\nxt"})).unwrap(), "te\nxt");
    assert_eq!(value(json!({"data": null})).unwrap(), "null");
    assert_eq!(value(json!({"datacontenttype": "text/plain", "data": null})), None);
    assert_eq!(value(json!({"data_base64": "AP8="})).unwrap(), &b"\x00\xff"[..]);
    assert_eq!(value(json!({"data_base64": null})), None);
    assert_eq!(value(json!({})), None);
    let exact =
        br#"{"specversion":"1.0","id":"1","source":"/","type":"t","data": { "b" : 1.50,"a":"\u00e4" } }"#;
    let value = parse_event(&Bytes::from_static(exact)).unwrap().value.unwrap();
    assert_eq!(value, r#"{ "b" : 1.50,"a":"\u00e4" }"#);
}

#[test]
fn each_fault_names_its_attribute() {
    for missing in REQUIRED {
        let mut event = minimal();
        event.remove(missing);
        assert_eq!(fault(&Value::Object(event)), (missing.to_owned(), Code::BadJson));
    }
    for (name, value) in [
        ("id", json!("")),
        ("id", json!(5)),
        ("source", json!("a b")),
        ("specversion", json!("0.3")),
        ("specversion", json!(1.0)),
        ("type", json!(["t"])),
        ("time", json!("yesterday")),
        ("time", json!(0)),
        ("subject", json!("")),
        ("dataschema", json!("/relative")),
        ("datacontenttype", json!("json")),
        ("datacontenttype", json!("text/plain\r\nx: y")),
        ("partitionkey", json!("")),
        ("Upper", json!("x")),
        ("snake_case", json!("x")),
        ("", json!("x")),
        ("x", json!(1.5)),
        ("x", json!(2_147_483_648_i64)),
        ("x", json!({"a": 1})),
        ("x", json!("a\u{0}")),
        ("data_base64", json!("%")),
        ("data_base64", json!({})),
    ] {
        assert_eq!(fault(&with(&json!({ name: value }))).0, name, "{value}");
    }
    assert_eq!(fault(&with(&json!({"data": 1, "data_base64": ""}))).0, "data_base64");
    assert_eq!(fault(&with(&json!({"datacontenttype": "text/plain", "data": {}}))).0, "data");
    let latin = json!({"datacontenttype": "text/plain; charset=iso-8859-1", "data": "ä"});
    assert_eq!(fault(&with(&latin)).0, "data");
}

#[test]
fn hostile_events_are_refused() {
    let twice = br#"{"specversion":"1.0","id":"1","source":"/","type":"t","x":"1","\u0078":null}"#;
    let problem = parse_event(&Bytes::from_static(twice)).unwrap_err().into_problem(Some(("event", 3)));
    assert_eq!((&problem.extra["attribute"], &problem.extra["event"]), (&json!("x"), &json!(3)));
    assert_eq!(problem.detail, "attribute is there more than once: attribute='x' event=3");

    let many: Map<String, Value> = (0..=RECORD_HEADERS_MAX).map(|n| (format!("x{n}"), json!(""))).collect();
    assert!(matches!(parse(&with(&many.into())), Err(EventError::Attribute(_))));
    let large = with(&json!({"x": "x".repeat(limits::EVENT_ATTRIBUTES_BYTES_MAX)}));
    assert_eq!(fault(&large).0, "x");
    let long = "n".repeat(1000);
    assert!(parse(&with(&json!({ &long: "" }))).unwrap_err().to_string().len() < 200, "not repeated whole");

    let deep = |depth| {
        format!(
            r#"{{"id":"1","source":"/","type":"t","specversion":"1.0","data":{}1{}}}"#,
            "[".repeat(depth),
            "]".repeat(depth)
        )
    };
    assert!(parse_event(&deep(127).into()).is_ok());
    assert!(matches!(parse_event(&deep(128).into()), Err(EventError::Json(_))));
    assert!(matches!(parse_event(&"[".repeat(1_000_000).into()), Err(EventError::Json(_))));
    for text in [&b""[..], b"[]", b"1", b"{", b"{} {}", b"\xff", b"{\"id\":\"\\ud800\"}"] {
        assert!(parse_event(&Bytes::copy_from_slice(text)).is_err(), "{}", text.escape_ascii());
    }
}

#[test]
fn a_batch_is_cut_into_its_events() {
    let body = Bytes::from_static(b" [ {\"id\" : \"1\"} ,\n{} , 5 ] ");
    assert_eq!(split_batch(&body).unwrap(), ["{\"id\" : \"1\"}", "{}", "5"]);
    assert_eq!(split_batch(&Bytes::from_static(b"[]")).unwrap(), Vec::<Bytes>::new());
    assert!(matches!(split_batch(&Bytes::from_static(b"{}")), Err(EventError::Json(_))));
    let full = format!("[{}1]", "1,".repeat(UNIT_RECORDS_MAX - 1));
    assert_eq!(split_batch(&full.clone().into()).unwrap().len(), UNIT_RECORDS_MAX);
    let over = full.replacen('1', "1,1", 1);
    assert_eq!(split_batch(&over.into()), Err(EventError::TooMany));
}

#[test]
fn an_event_comes_back_as_it_was_sent() {
    for members in [
        json!({}),
        json!({"data": {"a": [1, null]}, "subject": "x", "comexample": "y"}),
        json!({"data": "I'm just a string"}),
        json!({"data": null}),
        json!({"datacontenttype": "application/json", "data": "{}"}),
        json!({"datacontenttype": "text/plain; charset=utf-8", "data": "a\r\nb"}),
        json!({"datacontenttype": "application/xml", "data": ""}),
        json!({"datacontenttype": "application/octet-stream", "data_base64": "YWJj"}),
        json!({"data_base64": "AP8="}),
        json!({"time": "2018-04-05t17:31:00.123456789+02:00", "dataschema": "urn:x#y", "partitionkey": "ä"}),
    ] {
        let event = with(&members);
        assert_eq!(back(&event), event);
    }
    assert_eq!(back(&with(&json!({"n": 5, "b": true}))), with(&json!({"n": "5", "b": "true"})));
}

#[test]
fn where_an_event_was_read_is_not_kept() {
    let event = json!({"forebaytopic": "other", "forebaypartition": 7, "forebayoffset": "9", "x": "y"});
    let stored = parse(&with(&event)).unwrap();
    assert!(!stored.headers.iter().any(|header| header.name.starts_with(b"ce_forebay")), "{stored:?}");
    assert_eq!(back(&with(&event)), with(&json!({"x": "y"})));
    assert_eq!(fault(&with(&json!({"forebayoffset": []}))).0, "forebayoffset");
}

#[test]
fn a_plain_record_is_an_event_of_the_server() {
    let headers = |pairs: &[(&'static str, &'static str)]| -> Vec<Header> {
        let header = |&(name, value): &(&'static str, &'static str)| Header {
            name: Bytes::from_static(name.as_bytes()),
            value: Some(Bytes::from_static(value.as_bytes())),
        };
        pairs.iter().map(header).collect()
    };
    let plain =
        headers(&[("trace", "a1"), ("trace", "a2"), ("Trace", "no"), ("subject", "no"), ("ce_id", "no")]);
    let expected = concat!(
        r#"{"forebaytopic":"orders","forebaypartition":2,"forebayoffset":"17","specversion":"1.0","#,
        r#""id":"a0/2/17","source":"/v1/topics/orders","type":"forebay.record","#,
        r#""time":"2024-06-01T10:00:00.123Z","partitionkey":"u1","trace":"a1","#,
        r#""datacontenttype":"application/json","data":{"id": 7, "a":1}}"#,
    );
    assert_eq!(write(Some(b"u1"), Some(b"{\"id\":\n7,\r\"a\":1}"), &plain), expected);
    assert!(parse_event(&Bytes::from_static(expected.as_bytes())).is_ok(), "it can be sent on");

    let event = |key: Option<&[u8]>,
                 value: Option<&[u8]>,
                 declared: &[(&'static str, &'static str)]|
     -> Value { serde_json::from_str(&write(key, value, &headers(declared))).unwrap() };
    let text = event(Some(b"\xff"), Some(b"hello"), &[]);
    assert_eq!(
        (&text["data"], &text["datacontenttype"]),
        (&json!("hello"), &json!("text/plain; charset=utf-8"))
    );
    assert_eq!(text.get("partitionkey"), None);
    let bytes = event(Some(b""), Some(b"\xff"), &[]);
    assert_eq!(
        (&bytes["data_base64"], &bytes["datacontenttype"]),
        (&json!("/w=="), &json!("application/octet-stream"))
    );
    let declared = event(None, Some(b"7"), &[("content-type", "text/csv")]);
    assert_eq!((&declared["data"], &declared["datacontenttype"]), (&json!("7"), &json!("text/csv")));
    let wrong = event(None, Some(b"{oops"), &[("content-type", "application/json")]);
    assert_eq!(wrong["data_base64"], "e29vcHM=");
    let tombstone = event(Some(b"k"), None, &[]);
    assert!(tombstone.get("data").is_none() && tombstone.get("data_base64").is_none(), "{tombstone}");
}

#[test]
fn headers_that_are_no_attributes_do_not_spoil_an_event() {
    let mut event = parse(&Value::Object(minimal())).unwrap();
    for (name, value) in
        [("ce_Bad", "x"), ("ce_data", "x"), ("ce_time", "soon"), ("ce_id", "2"), ("other", "x")]
    {
        let (name, value) = (Bytes::from_static(name.as_bytes()), Some(Bytes::from_static(value.as_bytes())));
        event.headers.push(Header { name, value });
    }
    let back = written(&event);
    assert_eq!(back["id"], "1", "the first of a name counts");
    for name in ["Bad", "data", "time", "other"] {
        assert_eq!(back.get(name), None);
    }
}

#[test]
fn binary_mode_reads_headers() {
    let mut headers = HeaderMap::new();
    for (name, value) in
        [("ce-specversion", "1.0"), ("CE-Id", "\"1\""), ("ce-source", "/s"), ("ce-type", "t")]
    {
        headers.insert(HeaderName::try_from(name).unwrap(), HeaderValue::from_static(value));
    }
    headers.insert("ce-subject", HeaderValue::from_static("Euro%20%E2%82%AC"));
    headers.insert("ce-partitionkey", HeaderValue::from_static("u%201"));
    headers.insert("other", HeaderValue::from_static("x"));
    assert!(binary::is_event(&headers));
    let event = binary::parse_event(&headers, Some("text/plain"), Bytes::from_static(b"hi")).unwrap();
    assert_eq!(header(&event, "ce_id"), Some(&b"1"[..]));
    assert_eq!(header(&event, "ce_subject"), Some("Euro €".as_bytes()));
    assert_eq!(header(&event, "content-type"), Some(&b"text/plain"[..]));
    assert_eq!(event.key.as_deref(), Some(&b"u 1"[..]));
    assert_eq!(event.headers.len(), 7);

    let empty = |content_type| binary::parse_event(&headers, content_type, Bytes::new()).unwrap().value;
    assert_eq!(empty(None), None);
    assert_eq!(empty(Some("application/json; charset=utf-8")), None, "JSON is never empty");
    assert_eq!(empty(Some("text/plain")), Some(Bytes::new()));

    for (name, value) in [
        ("ce-datacontenttype", "text/plain"),
        ("ce-data", "x"),
        ("ce-a-b", "x"),
        ("ce-", "x"),
        ("ce-x", "%FF"),
        ("ce-x", "%0A"),
        ("ce-time", "now"),
        ("ce-id", ""),
    ] {
        let mut headers = headers.clone();
        headers.insert(HeaderName::try_from(name).unwrap(), HeaderValue::from_static(value));
        let problem = binary::parse_event(&headers, None, Bytes::new()).unwrap_err().into_problem(None);
        assert_eq!((problem.code, &problem.extra["header"]), (Code::BadParameter, &json!(name)));
    }
    headers.append("ce-subject", HeaderValue::from_static("again"));
    assert!(binary::parse_event(&headers, None, Bytes::new()).is_err());
    headers.remove("ce-subject");
    headers.remove("ce-type");
    let problem = binary::parse_event(&headers, None, Bytes::new()).unwrap_err().into_problem(None);
    assert_eq!(problem.extra["attribute"], "type");
}

fn text() -> impl Strategy<Value = String> {
    "\\PC{1,12}".prop_filter("allowed", |text| check_value("x", text).is_ok())
}

/// Content type and data as a sender may put them together.
fn data() -> impl Strategy<Value = Value> {
    let json = proptest::option::of(prop_oneof![
        any::<i64>().prop_map(Value::from),
        text().prop_map(Value::from),
        Just(Value::Null),
        proptest::collection::vec(text(), 0..3).prop_map(Value::from),
    ]);
    let types = proptest::sample::select(vec!["text/plain", "application/xml; charset=utf-8", "a/b"]);
    prop_oneof![
        Just(json!({})),
        (json, any::<bool>()).prop_map(|(data, declared)| {
            let mut members = Map::new();
            members.extend(data.map(|data| ("data".to_owned(), data)));
            members.extend(declared.then(|| ("datacontenttype".to_owned(), json!("application/vnd.x+json"))));
            Value::Object(members)
        }),
        (types, "\\PC{0,12}|[ \r\n\t\"\\\\]{0,9}")
            .prop_map(|(kind, data)| json!({"datacontenttype": kind, "data": data})),
        proptest::collection::vec(any::<u8>(), 0..12).prop_map(|bytes| {
            use base64::Engine as _;
            let data = base64::engine::general_purpose::STANDARD.encode(bytes);
            json!({"datacontenttype": "image/png", "data_base64": data})
        }),
    ]
}

proptest! {
    #[test]
    fn every_event_comes_back_with_its_attributes_and_data(
        id in text(),
        subject in proptest::option::of(text()),
        extensions in proptest::collection::btree_map("[a-e][a-z0-9]{0,3}", text(), 0..4),
        data in data(),
    ) {
        let mut event = with(&data);
        let members = event.as_object_mut().unwrap();
        for (name, value) in extensions {
            if !matches!(name.as_str(), "data") {
                members.insert(name, value.into());
            }
        }
        members.insert("id".to_owned(), id.into());
        members.extend(subject.map(|subject| ("subject".to_owned(), subject.into())));
        prop_assert_eq!(back(&event), event);
    }

    #[test]
    fn every_record_is_one_line_that_is_a_valid_event(
        key in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..9)),
        value in proptest::option::of(prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..20),
            "[\\[\\]{}\",:0-9a-z\\\\\r\n ]{0,20}".prop_map(String::into_bytes),
        ]),
        headers in proptest::collection::vec((
            "(ce_)?(id|source|specversion|type|time|data|x|forebayx|datacontenttype)|content-type|[a-c]{0,2}",
            proptest::option::of(prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..9),
                "1\\.0|/s|text/plain|application/json".prop_map(String::into_bytes),
            ]),
        ), 0..9),
    ) {
        let headers: Vec<Header> = headers
            .into_iter()
            .map(|(name, value)| Header { name: name.into(), value: value.map(Bytes::from) })
            .collect();
        let text = write(key.as_deref(), value.as_deref(), &headers);
        prop_assert!(!text.contains(['\r', '\n']));
        let event = parse_event(&Bytes::from(text.clone()));
        let event = event.map_err(|error| TestCaseError::fail(format!("{error}: {text}")))?;
        let declared = header(&event, "content-type").map(String::from_utf8_lossy);
        prop_assert!(declared.as_deref().is_none_or(is_media_type));
        // JSON text with raw line breaks has spaces there.
        let spaced = |bytes: &[u8]| -> Vec<u8> {
            bytes.iter().map(|byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { *byte }).collect()
        };
        let trimmed = |bytes: &[u8]| spaced(bytes).trim_ascii().to_vec();
        prop_assert_eq!(event.value.as_deref().map(trimmed), value.as_deref().map(trimmed));
    }

    #[test]
    fn no_body_panics(body in proptest::collection::vec(any::<u8>(), 0..60), text in "[\\[\\]{}\",:a-z\\\\ 0-9]{0,40}") {
        for body in [Bytes::from(body), Bytes::from(text)] {
            let _ = (parse_event(&body), split_batch(&body));
        }
    }
}
