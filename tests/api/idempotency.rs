//! Retries under an `Idempotency-Key`: stored once, answered as the first time.

use harness::{Answer, Options, Server, raw};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

const RECORDS: &str = "/v1/topics/orders/records";
const NDJSON: &str = "application/x-ndjson";

async fn post(server: &Server, key: &str, media: &str, body: impl Into<reqwest::Body>) -> Answer {
    server.post(RECORDS).header("idempotency-key", key).header("content-type", media).body(body).await
}

async fn values(server: &Server) -> Vec<Value> {
    server.read_all(RECORDS).await.iter().map(|record| record["value"].clone()).collect()
}

fn lines(numbers: std::ops::Range<u32>) -> String {
    numbers.map(|number| format!("{number}\n")).collect()
}

#[tokio::test]
async fn a_retry_gets_the_first_answer_again_also_after_a_kill() {
    let mut server = Server::start().await;
    server.create_topic("orders", json!({"partitions": 4})).await;
    let first = post(&server, "k1", "application/json", "{\"a\":1}").await.expect(201).json();
    post(&server, "k2", "application/json", "{\"a\":1}").await.expect(201);
    for kill in [false, true] {
        if kill {
            server.kill9().await;
            server.restart().await;
        }
        let again = post(&server, "k1", "application/json", "{\"a\":1}").await.expect(201);
        assert_eq!(again.header("idempotency-replayed"), "true");
        assert_eq!(again.json(), first, "after a kill: {kill}");
    }
    assert_eq!(values(&server).await.len(), 2, "one record per key");
}

#[tokio::test]
async fn another_body_under_a_used_key_is_refused() {
    let server = Server::start().await;
    server.create_topic("orders", json!({})).await;
    post(&server, "k1", "text/plain", "one").await.expect(201);
    let problem = post(&server, "k1", "text/plain", "two").await.problem(422, "idempotency-mismatch");
    assert_eq!((&problem["effect"], &problem["retryable"]), (&json!("none"), &json!(false)));
    assert_eq!(values(&server).await, ["one"]);
}

#[tokio::test]
async fn a_long_body_under_a_used_key_stores_nothing_behind_the_first_difference() {
    let server = Server::start().await;
    server.create_topic("orders", json!({})).await;
    post(&server, "short", NDJSON, lines(0..3)).await.expect(201);
    post(&server, "long", NDJSON, lines(0..25_000)).await.expect(201);
    let before = values(&server).await.len();
    let problem = post(&server, "short", NDJSON, lines(0..40_000)).await;
    assert_eq!(problem.problem(422, "idempotency-mismatch")["effect"], "none");
    let other = lines(0..15_000) + "\"other\"\n" + &lines(15_001..60_000);
    let problem = post(&server, "long", NDJSON, other).await.problem(422, "idempotency-mismatch");
    assert_eq!(
        (&problem["effect"], &problem["stored_lines"]),
        (&json!("partial"), &json!(10_000)),
        "{problem}"
    );
    assert_eq!(values(&server).await.len(), before);
}

#[tokio::test]
async fn a_long_body_that_failed_midway_is_completed_by_sending_it_again() {
    let server = Server::start().await;
    server.create_topic("orders", json!({})).await;
    let lines = |bad: bool| {
        let line = |number: u32| if bad && number == 25_000 { "{".to_owned() } else { number.to_string() };
        (0..30_000).map(|number| line(number) + "\n").collect::<String>()
    };
    let problem = post(&server, "k", NDJSON, lines(true)).await.problem(400, "bad-json");
    assert_eq!((&problem["line"], &problem["effect"]), (&json!(25_001), &json!("partial")), "{problem}");
    assert_eq!(problem["stored_lines"], 20_000);
    let whole = post(&server, "k", NDJSON, lines(false)).await.expect(201).json();
    assert_eq!(
        (&whole["count"], &whole["partitions"][0]["count"]),
        (&json!(30_000), &json!(30_000)),
        "{whole}"
    );
    assert_eq!(values(&server).await, (0..30_000).map(Value::from).collect::<Vec<_>>());
}

#[tokio::test]
async fn requests_with_one_key_at_the_same_time_are_stored_once() {
    let server = Server::start().await;
    server.create_topic("orders", json!({"partitions": 3})).await;
    let body = lines(0..25_000);
    let answers = futures::future::join_all((0..8).map(|_| post(&server, "k", NDJSON, body.clone()))).await;
    let mut statuses: Vec<u16> = answers.iter().map(|answer| answer.status.as_u16()).collect();
    statuses.sort_unstable();
    assert!(statuses.iter().all(|status| *status == 201), "{statuses:?}");
    assert!(answers.iter().all(|answer| answer.json() == answers[0].json()), "all with the same places");
    assert_eq!(values(&server).await, (0..25_000).map(Value::from).collect::<Vec<_>>());
}

#[tokio::test]
async fn what_does_not_name_a_request_is_refused() {
    let server = Server::start().await;
    server.create_topic("orders", json!({})).await;
    for key in ["", "two words", &"x".repeat(257)] {
        let problem = post(&server, key, "text/plain", "x").await.problem(400, "bad-parameter");
        assert_eq!(problem["header"], "Idempotency-Key", "{key}");
    }
    post(&server, &"x".repeat(256), "text/plain", "x").await.expect(201);
}

/// An upload of unknown length, cut at random places again and again, sometimes together with the server.
#[tokio::test]
async fn an_upload_that_is_cut_and_sent_again_stores_each_line_once() {
    let args = ["--flush-linger", "5ms"].map(Into::into).to_vec();
    let mut server = Server::start_with(Options { args }).await;
    server.create_topic("orders", json!({"partitions": 3})).await;
    let mut random = StdRng::seed_from_u64(5);
    let count = 45_000;
    let headers = [("content-type", NDJSON), ("idempotency-key", "upload")];
    let whole = raw::post_chunked(RECORDS, &headers, lines(0..count).as_bytes(), 7_919);
    for attempt in 0..12 {
        let cut = random.random_range(0..whole.len());
        raw::send_and_cut(server.address(), &whole[..cut]).await;
        if attempt % 3 == 2 {
            server.kill9().await;
            server.restart().await;
        }
    }
    let (mut send, mut answers) = raw::connect(server.address()).await.expect("it listens");
    let sending = tokio::spawn(async move {
        use tokio::io::AsyncWriteExt as _;
        send.write_all(&whole).await.map(|()| send)
    });
    let answer = answers.next().await.expect("an answer");
    sending.await.expect("no panic").expect("it is sent");
    assert_eq!(answer.status, 201, "{answer:?}");
    assert_eq!(answer.body["count"], count, "{answer:?}");
    assert_eq!(values(&server).await, (0..count).map(Value::from).collect::<Vec<_>>());
}
