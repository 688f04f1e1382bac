//! Retries under an `Idempotency-Key`: stored once, answered as the first time.

use harness::{Answer, Server};
use serde_json::{Value, json};

const RECORDS: &str = "/v1/topics/orders/records";

async fn post(server: &Server, key: &str, media: &str, body: impl Into<reqwest::Body>) -> Answer {
    server.post(RECORDS).header("idempotency-key", key).header("content-type", media).body(body).await
}

async fn values(server: &Server) -> Vec<Value> {
    server.read_all(RECORDS).await.iter().map(|record| record["value"].clone()).collect()
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
        let again = post(&server, "k1", "application/json", "{\"a\":1}").await.expect(200);
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
    assert_eq!(problem["effect"], "none");
    assert_eq!(values(&server).await, ["one"]);
}

#[tokio::test]
async fn a_long_body_that_failed_midway_is_completed_by_sending_it_again() {
    let server = Server::start().await;
    server.create_topic("orders", json!({})).await;
    let lines = |bad: bool| {
        let line = |number: u32| if bad && number == 25_000 { "{".to_owned() } else { number.to_string() };
        (0..30_000).map(|number| line(number) + "\n").collect::<String>()
    };
    let problem = post(&server, "k", "application/x-ndjson", lines(true)).await.problem(400, "bad-json");
    assert_eq!((&problem["line"], &problem["effect"]), (&json!(25_001), &json!("partial")), "{problem}");
    assert_eq!(problem["stored_lines"], 20_000);
    let whole = post(&server, "k", "application/x-ndjson", lines(false)).await.expect(201).json();
    assert_eq!(
        (&whole["count"], &whole["partitions"][0]["count"]),
        (&json!(30_000), &json!(30_000)),
        "{whole}"
    );
    assert_eq!(values(&server).await, (0..30_000).map(Value::from).collect::<Vec<_>>());
}
