//! Requests that nobody would send, against the whole service: each is answered, none panics, and every refusal is a
//! problem document.

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, Request, StatusCode};
use proptest::collection::vec;
use proptest::prelude::*;
use tower::ServiceExt as _;

use crate::http::problem::PROBLEM_JSON;
use crate::http::service;
use crate::testing;

const METHODS: [&str; 6] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"];
const NAMES: [&str; 19] = [
    "accept",
    "content-type",
    "content-encoding",
    "if-match",
    "if-none-match",
    "last-event-id",
    "idempotency-key",
    "producer-id",
    "producer-epoch",
    "producer-seq",
    "forebay-key",
    "forebay-partition",
    "forebay-timestamp",
    "forebay-header-a",
    "ce-specversion",
    "ce-id",
    "ce-time",
    "expect",
    "host",
];
const PARAMETERS: [&str; 21] = [
    "after",
    "until",
    "offset",
    "limit",
    "max_bytes",
    "partition",
    "key",
    "header.a",
    "at_least",
    "format",
    "event",
    "on_gap",
    "last_event_id",
    "topics",
    "key_path",
    "timestamp",
    "tombstone",
    "receipt",
    "durability",
    "at",
    "prefix",
];

fn path() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        Just("orders".to_owned()),
        Just("0".to_owned()),
        Just("records".to_owned()),
        Just("partitions".to_owned()),
        Just("truncate".to_owned()),
        "[a-z0-9._%-]{0,8}",
    ];
    let known = prop_oneof![
        Just("/v1/topics/orders/records".to_owned()),
        Just("/v1/topics/orders/partitions/0/records".to_owned()),
        Just("/v1/topics/orders/partitions/0/records/0".to_owned()),
        Just("/v1/topics/orders/offsets".to_owned()),
        Just("/v1/topics/orders/partitions".to_owned()),
        Just("/v1/topics/other".to_owned()),
        Just("/v1/topics".to_owned()),
        Just("/v1/records".to_owned()),
    ];
    prop_oneof![3 => known, 1 => vec(part, 0..6).prop_map(|parts| format!("/v1/{}", parts.join("/")))]
}

fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        "[0-9]{1,20}",
        "-?[0-9]{1,3}",
        "a0\\.p?[0-9]-[0-9]{1,3}(\\.end)?",
        "earliest|latest|true|false|object|local|full|summary|record|value|lines|records|cloudevents|reset|orders",
        "20[0-9]{2}-0[1-9]-[0-9]{2}T[0-9]{2}:00:00Z",
        "(/[a-z0-9~]{0,3}){0,3}",
        "[a-zA-Z0-9.,:;*/\"=+_-]{0,24}",
        "(%[0-9a-f]{2}){0,4}",
    ]
}

fn query() -> impl Strategy<Value = String> {
    let pair =
        (prop::sample::select(&PARAMETERS[..]), value()).prop_map(|(name, value)| format!("{name}={value}"));
    vec(pair, 0..4).prop_map(|pairs| pairs.join("&"))
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(Vec::new()),
        "[\\[\\]{}\",:0-9a-z \n]{0,60}".prop_map(String::into_bytes),
        Just(b"{\"records\":[{\"value\":1,\"key\":\"a\"}]}".to_vec()),
        Just(b"[{\"specversion\":\"1.0\",\"id\":\"1\",\"source\":\"/\",\"type\":\"t\"}]".to_vec()),
        Just(b"{\"partitions\":2,\"retention.ms\":null}".to_vec()),
        vec(any::<u8>(), 0..60),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_500, ..ProptestConfig::default() })]

    #[test]
    fn every_request_is_answered_and_every_refusal_is_a_problem(
        method in prop::sample::select(&METHODS[..]),
        path in path(),
        query in query(),
        headers in vec((prop::sample::select(&NAMES[..]), prop_oneof![
            value(),
            Just("application/x-ndjson".to_owned()),
            Just("application/vnd.forebay.records+json".to_owned()),
            Just("application/cloudevents+json".to_owned()),
            Just("application/cloudevents-batch+json".to_owned()),
            Just("application/json".to_owned()),
            Just("gzip".to_owned()),
        ]), 0..4),
        body in body(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        let target = format!("{path}?{query}");
        // What is no URI never gets past the HTTP library.
        prop_assume!(target.parse::<axum::http::Uri>().is_ok());
        let mut request = Request::builder().method(method).uri(&target).body(Body::from(body)).unwrap();
        for (name, value) in headers {
            request.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_str(&value).unwrap());
        }
        runtime.block_on(async {
            let node = testing::node(2).await;
            let topic = testing::topic(&node, "orders", 2).await;
            testing::append(&node, &topic, [testing::record(0, "one"), testing::record(1, "{}")]).await;
            let answer = service(node).oneshot(request).await.unwrap();
            let status = answer.status();
            prop_assert_ne!(status, StatusCode::INTERNAL_SERVER_ERROR, "{} {}", method, target);
            if status.is_client_error() || status.is_server_error() {
                let media_type = answer.headers().get("content-type").map(HeaderValue::as_bytes);
                prop_assert_eq!(media_type, Some(PROBLEM_JSON.as_bytes()), "{} {}", method, target);
            }
            Ok(())
        })?;
    }
}
