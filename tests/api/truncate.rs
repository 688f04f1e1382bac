//! Truncate: the oldest records go, at once and for good.

use harness::{Answer, Server};
use reqwest::Method;
use serde_json::{Value, json};

const TRUNCATE: &str = "/v1/topics/orders/truncate";
const RECORDS: &str = "/v1/topics/orders/records";

/// A topic of three partitions with ten records each; the values are 10 · partition + offset.
async fn server() -> Server {
    let server = Server::start().await;
    server.create_topic("orders", json!({"partitions": 3})).await;
    for partition in 0..3 {
        for offset in 0..10 {
            let call = server.post(&format!("{RECORDS}?partition={partition}"));
            let call = call.header("forebay-timestamp", &format!("2024-01-01T00:00:0{offset}Z"));
            call.body((10 * partition + offset).to_string()).await.expect(201);
        }
    }
    server
}

async fn truncate(server: &Server, body: Value) -> Answer {
    server.post(TRUNCATE).json(&body).await
}

async fn log_starts(server: &Server) -> Vec<u64> {
    let body = server.get("/v1/topics/orders/partitions").await.expect(200).json();
    let partitions = body["partitions"].as_array().expect("a list").iter();
    partitions.map(|partition| partition["log_start_offset"].as_u64().expect("a number")).collect()
}

async fn values(server: &Server, query: &str) -> Vec<u64> {
    let body = server.get(&format!("{RECORDS}?limit=100&{query}")).await.expect(200).json();
    let records = body["records"].as_array().expect("a list").iter();
    let mut values: Vec<u64> = records.map(|record| record["value"].as_u64().expect("a number")).collect();
    values.sort_unstable();
    values
}

#[tokio::test]
async fn offsets_move_the_log_starts_of_the_partitions_they_name() {
    let server = server().await;
    let answer = truncate(&server, json!({"offsets": {"0": 7, "2": 10}})).await.expect(200).json();
    let partition = |partition: u64, log_start: u64| json!({"partition": partition, "log_start_offset": log_start, "high_watermark": 10});
    assert_eq!(answer["topic"], "orders");
    assert_eq!(answer["partitions"], json!([partition(0, 7), partition(1, 0), partition(2, 10)]));
    let earliest = answer["earliest"].as_str().expect("a cursor");
    assert_eq!(
        values(&server, &format!("after={earliest}")).await,
        [7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19]
    );
    assert_eq!(log_starts(&server).await, [7, 0, 10]);
    let offsets = server.get("/v1/topics/orders/offsets?at=earliest").await.expect(200).json();
    assert_eq!(offsets["cursor"], answer["earliest"]);
    let again = truncate(&server, json!({"offsets": {"0": 3, "2": 10}})).await.expect(200).json();
    assert_eq!(again, answer, "it never moves back, and again is the same");
}

#[tokio::test]
async fn nothing_below_a_log_start_is_served_in_any_way() {
    let server = server().await;
    let old = server.get("/v1/topics/orders/offsets?at=earliest").await.expect(200).json();
    let old = old["cursor"].as_str().expect("a cursor").to_owned();
    let path = "/v1/topics/orders/partitions/0/records";
    let etag = server.get(&format!("{path}/6")).await.expect(200).header("etag").to_owned();
    truncate(&server, json!({"offsets": {"0": 7}})).await.expect(200);
    let gone = server.get(&format!("{path}/6")).header("if-none-match", &etag).await;
    assert_eq!(gone.problem(410, "cursor-expired")["log_start_offset"], 7);
    assert_eq!(gone.json()["kafka_error"], "OFFSET_OUT_OF_RANGE");
    server.get(&format!("{path}/7")).await.expect(200);
    server.get(&format!("{path}/10")).await.problem(404, "record-not-found");
    for query in ["offset=6", "offset=0&limit=2"] {
        let problem = server.get(&format!("{path}?{query}")).await.problem(410, "cursor-expired");
        assert!(
            problem["earliest"].as_str().is_some_and(|earliest| earliest.ends_with(".p0-7")),
            "{problem}"
        );
    }
    let problem = server.get(&format!("{RECORDS}?after={old}")).await.problem(410, "cursor-expired");
    let earliest = problem["earliest"].as_str().expect("a cursor");
    assert_eq!(values(&server, &format!("after={earliest}")).await.len(), 23);
    assert_eq!(values(&server, "after=-8&partition=0").await, [7, 8, 9]);
    assert_eq!(values(&server, "after=2024-01-01T00:00:03Z&partition=0").await, [7, 8, 9]);
    let offsets = server.get("/v1/topics/orders/offsets?at=2024-01-01T00:00:03Z").await.expect(200).json();
    assert_eq!(offsets["offsets"][0]["offset"], 7);
    let call = server.get(&format!("{RECORDS}?after={old}&on_gap=reset"));
    let answer = call.await.expect(200);
    assert_eq!(answer.header("forebay-reset"), "cursor-expired");
    let partitions = server.get("/v1/topics/orders/partitions").await.expect(200).json();
    assert!(partitions["partitions"][0]["bytes"].as_u64() < partitions["partitions"][1]["bytes"].as_u64());
}

#[tokio::test]
async fn a_cursor_or_a_time_says_what_goes() {
    let server = server().await;
    let time = json!({"before": "2024-01-01T00:00:04Z"});
    truncate(&server, time.clone()).await.expect(200);
    truncate(&server, time).await.expect(200);
    assert_eq!(log_starts(&server).await, [4, 4, 4]);
    let page = server.get("/v1/topics/orders/partitions/1/records?offset=4&limit=2").await.expect(200).json();
    truncate(&server, json!({"before": page["next"]})).await.expect(200);
    assert_eq!(log_starts(&server).await, [4, 6, 4], "a partial cursor touches its partitions alone");
    let ahead = page["next"].as_str().expect("a cursor").replace("1-6", "1-5000");
    truncate(&server, json!({"before": ahead})).await.expect(200);
    assert_eq!(log_starts(&server).await, [4, 10, 4], "above the high watermark there is nothing to delete");
    truncate(&server, json!({"before": "2030-01-01T00:00:00Z"})).await.expect(200);
    assert_eq!(values(&server, "").await, Vec::<u64>::new());
    server.post(&format!("{RECORDS}?partition=1")).body("77").await.expect(201);
    assert_eq!(values(&server, "").await, [77]);
    let record = server.get("/v1/topics/orders/partitions/1/records/10").await.expect(200);
    assert_eq!(record.text(), "77", "offsets go on");
}

#[tokio::test]
async fn what_makes_no_sense_moves_nothing() {
    let server = server().await;
    for (body, status, code) in [
        (json!({}), 400, "bad-json"),
        (json!([]), 400, "bad-json"),
        (json!({"before": "2024-01-01T00:00:04Z", "offsets": {"0": 1}}), 400, "bad-json"),
        (json!({"offset": {"0": 1}}), 400, "bad-json"),
        (json!({"offsets": {"0": -1}}), 400, "bad-json"),
        (json!({"offsets": {"x": 1}}), 400, "bad-json"),
        (json!({"offsets": {"0": 5, "1": 11}}), 400, "bad-parameter"),
        (json!({"offsets": {"0": 5, "3": 1}}), 404, "partition-not-found"),
        (json!({"before": "earliest"}), 400, "bad-parameter"),
        (json!({"before": "-5"}), 400, "bad-parameter"),
        (json!({"before": "nonsense"}), 400, "bad-cursor"),
        (json!({"before": "a0.p7-1"}), 400, "bad-cursor"),
        (json!({"before": "zz9.0-1"}), 410, "topic-recreated"),
    ] {
        let problem = truncate(&server, body.clone()).await.problem(status, code);
        assert_eq!(problem["effect"], "none", "{body}");
    }
    let problem = truncate(&server, json!({"offsets": {"1": 11}})).await.problem(400, "bad-parameter");
    assert_eq!((&problem["partition"], &problem["high_watermark"]), (&json!(1), &json!(10)));
    let twice = server.post(TRUNCATE).body("{\"offsets\":{\"0\":1,\"0\":2}}");
    twice.header("content-type", "application/json").await.problem(400, "bad-json");
    server
        .post(TRUNCATE)
        .header("content-type", "text/csv")
        .body("0,1")
        .await
        .problem(415, "unsupported-media-type");
    server
        .post("/v1/topics/none/truncate")
        .json(&json!({"offsets": {}}))
        .await
        .problem(404, "topic-not-found");
    server.call(Method::GET, TRUNCATE).await.problem(405, "method-not-allowed");
    assert_eq!(log_starts(&server).await, [0, 0, 0]);
}

#[tokio::test]
async fn log_starts_outlive_a_kill_and_a_stop() {
    let mut server = server().await;
    truncate(&server, json!({"offsets": {"0": 7, "1": 10}})).await.expect(200);
    server.post(&format!("{RECORDS}?partition=1")).body("77").await.expect(201);
    server.kill9().await;
    server.restart().await;
    assert_eq!(log_starts(&server).await, [7, 10, 0]);
    truncate(&server, json!({"offsets": {"2": 1}})).await.expect(200);
    assert!(server.terminate().await.success());
    server.restart().await;
    assert_eq!(log_starts(&server).await, [7, 10, 1]);
    assert_eq!(values(&server, "").await, [7, 8, 9, 21, 22, 23, 24, 25, 26, 27, 28, 29, 77]);
}

#[tokio::test]
async fn racing_truncations_and_appends_lose_nothing() {
    let server = server().await;
    let moves = (1..=10).map(|start| truncate_one(&server, start));
    let appends = (0..20).map(|_| async {
        server.post(&format!("{RECORDS}?partition=1")).body("1").await.expect(201);
    });
    futures::future::join(futures::future::join_all(moves), futures::future::join_all(appends)).await;
    assert_eq!(log_starts(&server).await, [10, 0, 0]);
    assert_eq!(values(&server, "partition=1").await.len(), 30);
}

async fn truncate_one(server: &Server, start: u64) {
    let answer = truncate(server, json!({"offsets": {"0": start}})).await.expect(200).json();
    assert!(answer["partitions"][0]["log_start_offset"].as_u64() >= Some(start));
}
