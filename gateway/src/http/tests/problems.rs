//! Every problem code with the request that provokes it.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::body::Body;
use axum::http::Request;
use serde_json::Value;

use crate::http::openapi;
use crate::http::problem::Code;
use crate::node::Node;
use crate::testing::{Answer, busy_node, call, node, node_in, topic};

/// Codes of what this release does not have: credentials, groups, quotas, a coordinator.
const LATER: [Code; 9] = [
    Code::Unauthenticated,
    Code::TokenExpired,
    Code::Forbidden,
    Code::GroupNotFound,
    Code::Fenced,
    Code::GroupActive,
    Code::RateLimited,
    Code::QuotaExceeded,
    Code::CoordinatorUnavailable,
];

/// A request: method, URI, headers, body.
type Sent = (&'static str, &'static str, &'static [(&'static str, &'static str)], &'static str);

/// What the node is in when the request comes.
#[derive(Debug, Clone, Copy)]
enum State {
    Serving,
    Draining,
    /// Nothing is left of the budget for bodies.
    Full,
}

/// One row: the code, what goes before, the request, and the state in which it comes.
type Row = (Code, &'static [Sent], Sent, State);

const RECORDS: &str = "/v1/topics/orders/records";
const PARTITION: &str = "/v1/topics/orders/partitions/0/records";
const NDJSON: (&str, &str) = ("content-type", "application/x-ndjson");
const KEYED: &[(&str, &str)] = &[("idempotency-key", "k")];
const PRODUCER: &[(&str, &str)] = &[("producer-id", "p"), ("producer-epoch", "1"), ("producer-seq", "0")];
const OLDER: &[(&str, &str)] = &[("producer-id", "p"), ("producer-epoch", "0"), ("producer-seq", "1")];
const AHEAD: &[(&str, &str)] = &[("producer-id", "p"), ("producer-epoch", "1"), ("producer-seq", "7")];

const TABLE: &[Row] = &[
    (Code::BadParameter, &[], ("GET", "/v1/topics/orders/records?aftr=earliest", &[], ""), State::Serving),
    (Code::BadCursor, &[], ("GET", "/v1/topics/orders/records?after=a0.p0-1", &[], ""), State::Serving),
    (Code::BadJson, &[], ("POST", RECORDS, &[NDJSON], "{\"id\":\n"), State::Serving),
    (
        Code::ProducerFenced,
        &[("POST", RECORDS, PRODUCER, "a")],
        ("POST", RECORDS, OLDER, "b"),
        State::Serving,
    ),
    (Code::NotFound, &[], ("GET", "/v1/nothing", &[], ""), State::Serving),
    (Code::TopicNotFound, &[], ("GET", "/v1/topics/absent", &[], ""), State::Serving),
    (
        Code::PartitionNotFound,
        &[],
        ("GET", "/v1/topics/orders/partitions/9/records", &[], ""),
        State::Serving,
    ),
    (Code::RecordNotFound, &[], ("GET", "/v1/topics/orders/partitions/0/records/9", &[], ""), State::Serving),
    (Code::MethodNotAllowed, &[], ("POST", "/livez", &[], ""), State::Serving),
    (Code::NotAcceptable, &[], ("GET", RECORDS, &[("accept", "image/png")], ""), State::Serving),
    (Code::TopicExists, &[], ("PUT", "/v1/topics/orders", &[], "{\"partitions\":7}"), State::Serving),
    (Code::SequenceGap, &[("POST", RECORDS, PRODUCER, "a")], ("POST", RECORDS, AHEAD, "b"), State::Serving),
    (
        Code::CursorExpired,
        &[
            ("POST", PARTITION, &[], "a"),
            ("POST", "/v1/topics/orders/truncate", &[], "{\"offsets\":{\"0\":1}}"),
        ],
        ("GET", "/v1/topics/orders/partitions/0/records?offset=0", &[], ""),
        State::Serving,
    ),
    (
        Code::TopicRecreated,
        &[("DELETE", "/v1/topics/orders", &[], ""), ("PUT", "/v1/topics/orders", &[], "{\"partitions\":2}")],
        ("GET", "/v1/topics/orders/records?after=a0.0-0_1-0", &[], ""),
        State::Serving,
    ),
    (Code::PreconditionFailed, &[], ("POST", PARTITION, &[("if-match", "\"9\"")], "x"), State::Serving),
    (
        Code::TooLarge,
        &[("PUT", "/v1/topics/small", &[], "{\"max.message.bytes\":3}")],
        ("POST", "/v1/topics/small/records", &[], "four"),
        State::Serving,
    ),
    (
        Code::UnsupportedMediaType,
        &[],
        ("PUT", "/v1/topics/other", &[("content-type", "text/csv")], "partitions,2"),
        State::Serving,
    ),
    (
        Code::IdempotencyMismatch,
        &[("POST", RECORDS, KEYED, "a")],
        ("POST", RECORDS, KEYED, "b"),
        State::Serving,
    ),
    (Code::InvalidConfig, &[], ("PUT", "/v1/topics/other", &[], "{\"retention.hours\":1}"), State::Serving),
    (Code::Overloaded, &[], ("POST", RECORDS, &[], "x"), State::Full),
    (Code::Draining, &[], ("POST", RECORDS, &[], "x"), State::Draining),
    // The cursor of a record that this node does not get to see.
    (
        Code::StorageUnavailable,
        &[],
        ("GET", "/v1/topics/orders/records?at_least=a0.p0-9", &[], ""),
        State::Serving,
    ),
];

async fn send(node: &Arc<Node>, (method, uri, headers, body): Sent) -> Answer {
    let mut request = Request::builder().method(method).uri(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    call(node, request.body(Body::from(body)).unwrap()).await
}

async fn provoke(before: &[Sent], request: Sent, state: State) -> Answer {
    let node = match state {
        State::Full => busy_node().await,
        State::Serving | State::Draining => node(1).await,
    };
    topic(&node, "orders", 2).await;
    for sent in before {
        let answer = send(&node, *sent).await;
        assert!(answer.status.is_success(), "{sent:?}: {answer:?}");
    }
    if matches!(state, State::Draining) {
        node.begin_stop();
    }
    send(&node, request).await
}

/// The codes that the document gives for the operation behind a request; none for paths it does not know.
fn documented(document: &Value, (method, uri, ..): Sent) -> Option<BTreeSet<String>> {
    let path = uri.split('?').next().unwrap();
    let matches = |template: &str| {
        let (template, path): (Vec<&str>, Vec<&str>) =
            (template.split('/').collect(), path.split('/').collect());
        let pairs = || template.iter().zip(&path);
        template.len() == path.len() && pairs().all(|(t, p)| t.starts_with('{') || t == p)
    };
    let paths = document["paths"].as_object().unwrap();
    let operation = &paths.iter().find(|(template, _)| matches(template))?.1[method.to_lowercase()];
    Some(codes_of(operation))
}

/// The codes among an operation's answers.
fn codes_of(operation: &Value) -> BTreeSet<String> {
    let answers = operation["responses"].as_object().into_iter().flat_map(|answers| answers.values());
    let examples = answers.filter_map(|answer| {
        answer["content"]["application/problem+json"]["examples"].as_object().map(|all| all.keys().cloned())
    });
    examples.flatten().collect()
}

#[tokio::test(start_paused = true)]
async fn every_code_has_a_request_that_provokes_it_and_is_documented_where_it_does() {
    let document = serde_json::to_value(openapi()).unwrap();
    for (code, before, request, state) in TABLE {
        let answer = provoke(before, *request, *state).await;
        assert_eq!(answer.status, code.status(), "{code:?} {answer:?}");
        assert_eq!(answer.headers["content-type"], "application/problem+json", "{code:?}");
        let problem = answer.json();
        assert_eq!(problem["code"], code.as_str(), "{answer:?}");
        assert_eq!(problem["effect"], "none", "{answer:?}");
        assert_eq!(problem["retryable"], code.is_retryable(), "{answer:?}");
        assert_eq!(answer.headers.contains_key("retry-after"), code.status().as_u16() == 503, "{answer:?}");
        let of_routes = matches!(code, Code::NotFound | Code::MethodNotAllowed);
        if !of_routes {
            let documented = documented(&document, *request).unwrap();
            assert!(documented.contains(code.as_str()), "{code:?} is not documented for {request:?}");
        }
    }
}

/// Something that this leader did not write stands where its next object belongs: it stops for ever.
#[tokio::test]
async fn a_shard_whose_log_was_tampered_with_has_no_leader() {
    let folder = tempfile::tempdir().unwrap();
    let node = node_in(folder.path()).await;
    topic(&node, "orders", 1).await;
    let first = forebay_log::limits::EPOCH_GAP;
    let object = folder.path().join(format!("store/shards/0000/wal/{first:020}"));
    std::fs::write(object, "written by a stranger").unwrap();
    let refused = loop {
        let answer = send(&node, ("POST", RECORDS, &[], "x")).await;
        if answer.status != 201 {
            break answer;
        }
    };
    assert_eq!((refused.status.as_u16(), &refused.json()["code"]), (503, &"no-leader".into()), "{refused:?}");
    let ready = send(&node, ("GET", "/readyz", &[], "")).await;
    assert_eq!((ready.status.as_u16(), &ready.json()["code"]), (503, &"no-leader".into()), "{ready:?}");
}

#[test]
fn no_code_is_left_out() {
    let mut provoked: BTreeSet<Code> = TABLE.iter().map(|(code, ..)| *code).collect();
    // Above; and where a store that does not answer holds the first attempt: `produce/tests.rs`.
    provoked.extend([Code::NoLeader, Code::InProgress]);
    for code in Code::ALL {
        let by_fault_only = code == Code::Internal;
        let places =
            [provoked.contains(&code), LATER.contains(&code), by_fault_only].iter().filter(|is| **is).count();
        assert_eq!(places, 1, "{code:?}");
    }
    let document = serde_json::to_value(openapi()).unwrap();
    let paths = document["paths"].as_object().unwrap();
    for operation in paths.values().flat_map(|methods| methods.as_object().unwrap().values()) {
        let later = LATER.iter().find(|code| codes_of(operation).contains(code.as_str()));
        assert_eq!(later, None, "{}", operation["operationId"]);
    }
}
