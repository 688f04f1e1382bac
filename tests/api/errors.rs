//! Bad input: a problem document that says what is wrong, and nothing stored.

use harness::{Answer, Server};
use reqwest::Method;
use serde_json::{Value, json};

const RECORDS: &str = "/v1/topics/orders/records";
const NDJSON: &str = "application/x-ndjson";
const RECORDS_JSON: &str = "application/vnd.forebay.records+json";

async fn server() -> Server {
    let server = Server::start().await;
    server.create_topic("orders", json!({"partitions": 2, "max.message.bytes": 1000})).await;
    server.post(RECORDS).body("first").await.expect(201);
    server
}

/// The cursor after the last record: it moves if anything is stored.
async fn tail(server: &Server) -> Value {
    server.get(&format!("{RECORDS}?after=latest")).await.expect(200).json()["next"].clone()
}

async fn post(server: &Server, path: &str, media: &str, body: impl Into<reqwest::Body>) -> Answer {
    server.post(path).header("content-type", media).body(body).await
}

#[tokio::test]
async fn a_line_that_is_not_json_is_named_and_nothing_is_stored() {
    let server = server().await;
    let before = tail(&server).await;
    for (body, line) in
        [("{\"a\":1}\n{\"b\":\n{\"c\":3}\n", 2), ("[1]\n\n{]\n", 3), ("01\n", 1), ("{} {}\n", 1)]
    {
        let answer = post(&server, RECORDS, NDJSON, body).await;
        let problem = answer.problem(400, "bad-json");
        assert_eq!((&problem["line"], &problem["effect"]), (&json!(line), &json!("none")), "{problem}");
    }
    post(&server, RECORDS, NDJSON, &b"\"\xff\"\n"[..]).await.problem(400, "bad-json");
    let deep = "[".repeat(200) + &"]".repeat(200);
    post(&server, RECORDS, NDJSON, deep).await.problem(400, "bad-json");
    assert_eq!(tail(&server).await, before);
}

#[tokio::test]
async fn record_objects_that_make_no_sense_are_refused_whole() {
    let server = server().await;
    let before = tail(&server).await;
    let good = json!({"value": 1});
    for bad in [
        json!({"value": 1, "value_base64": "AA=="}),
        json!({"value_base64": "not base64!"}),
        json!({"value": 1, "kye": "a"}),
        json!({"value": 1, "partition": "first"}),
        json!({"value": 1, "headers": ["a"]}),
        json!(7),
    ] {
        let answer = post(&server, RECORDS, RECORDS_JSON, json!({"records": [good, bad]}).to_string()).await;
        assert_eq!(answer.status, 400, "{bad}: {}", answer.text());
        assert_eq!(answer.header("content-type"), "application/problem+json");
    }
    let lists = ["[[{\"value\":1}]]", "{\"records\":[[\"k\",null,1,null,null,null,null]]}"];
    for bad in ["{\"records\":", "[]", "{\"records\":{}}", ""].into_iter().chain(lists) {
        assert_eq!(post(&server, RECORDS, RECORDS_JSON, bad).await.status, 400, "{bad}");
    }
    assert_eq!(tail(&server).await, before);
}

#[tokio::test]
async fn parameters_that_are_unknown_or_out_of_range_are_refused() {
    let server = server().await;
    let before = tail(&server).await;
    for query in
        ["ky=a", "partition=x", "timestamp=yesterday", "durability=hope", "receipt=long", "format=xml"]
    {
        server.post(&format!("{RECORDS}?{query}")).body("x").await.problem(400, "bad-parameter");
    }
    for query in
        ["aftr=earliest", "limit=0", "limit=x", "max_bytes=-1", "wait=soon", "wait=61s", "partition=x"]
    {
        server.get(&format!("{RECORDS}?{query}")).await.problem(400, "bad-parameter");
    }
    server.get("/v1/topics?limt=3").await.problem(400, "bad-parameter");
    server.get("/v1/topics/orders?verbose=true").await.problem(400, "bad-parameter");
    server.put("/v1/topics/new?partitions=3").await.problem(400, "bad-parameter");
    server.post(&format!("{RECORDS}?partition=2")).body("x").await.problem(404, "partition-not-found");
    assert_eq!(tail(&server).await, before);
}

#[tokio::test]
async fn cursors_that_no_server_gave_are_refused() {
    let server = server().await;
    let next = tail(&server).await.as_str().expect("a cursor").to_owned();
    let (epoch, vector) = next.split_once('.').expect("the documented form");
    let wrong = ["", "0-x", "0--1", "0-0_0-0", "0-0_9-0", "0", &format!("{vector}_{vector}")];
    let wrong = wrong.iter().map(|vector| format!("{epoch}.{vector}"));
    for bad in wrong.chain(["nonsense", ".", "k7.", "%00", "a:b,c:d"].map(str::to_owned)) {
        server.get(&format!("{RECORDS}?after={bad}")).await.problem(400, "bad-cursor");
    }
    for parameter in ["until", "at_least"] {
        server.get(&format!("{RECORDS}?{parameter}=nonsense")).await.problem(400, "bad-cursor");
    }
}

#[tokio::test]
async fn what_is_too_large_is_refused_and_not_stored() {
    let server = server().await;
    let before = tail(&server).await;
    let problem = server.post(RECORDS).body("x".repeat(1001)).await.problem(413, "too-large");
    assert_eq!((&problem["limit"], &problem["effect"]), (&json!(1000), &json!("none")), "{problem}");
    let lines = format!("1\n\"{}\"\n3\n", "x".repeat(1000));
    let problem = post(&server, RECORDS, NDJSON, lines).await.problem(413, "too-large");
    assert_eq!(problem["line"], 2, "{problem}");
    server.post(RECORDS).body("x".repeat(5 << 20)).await.problem(413, "too-large");
    let many = format!("{{\"records\":[{}{{\"value\":1}}]}}", "{\"value\":1},".repeat(10_000));
    post(&server, RECORDS, RECORDS_JSON, many).await.problem(413, "too-large");
    assert_eq!(tail(&server).await, before);
    server.post(RECORDS).body("x".repeat(1000)).await.expect(201);
}

#[tokio::test]
async fn unknown_topics_are_not_created_by_use() {
    let server = server().await;
    server.post("/v1/topics/none/records").body("x").await.problem(404, "topic-not-found");
    server.get("/v1/topics/none/records").await.problem(404, "topic-not-found");
    server.get("/v1/topics/none/partitions").await.problem(404, "topic-not-found");
    server.get("/v1/topics/none/offsets?at=latest").await.problem(404, "topic-not-found");
    let names = server.get("/v1/topics").await.expect(200).json();
    assert_eq!(names["topics"].as_array().map(Vec::len), Some(1), "{names}");
}

#[tokio::test]
async fn bad_topic_names_are_refused() {
    let server = server().await;
    for name in ["__internal", "a%20b", "%C3%BCber", "a*b", "a%2Fb", &"x".repeat(250)] {
        let answer = server.put(&format!("/v1/topics/{name}")).await;
        assert_eq!(answer.status, 400, "{name}: {}", answer.text());
        assert_eq!(answer.header("content-type"), "application/problem+json");
    }
    server.put(&format!("/v1/topics/{}", "x".repeat(249))).await.expect(201);
    server.put("/v1/topics/a.B_c-9").await.expect(201);
}

#[tokio::test]
async fn other_methods_are_problems_that_name_the_allowed_ones() {
    let server = server().await;
    let before = tail(&server).await;
    for (method, path, allowed) in [
        (Method::DELETE, RECORDS, ["GET", "POST"]),
        (Method::PATCH, RECORDS, ["GET", "PUT"]),
        (Method::POST, "/v1/topics/orders", ["GET", "PUT"]),
    ] {
        let answer = server.call(method, path).await;
        assert_eq!(answer.status, 405, "{path}: {}", answer.text());
        assert_eq!(answer.header("content-type"), "application/problem+json", "{path}");
        assert_eq!(answer.json()["status"], 405);
        for name in allowed {
            assert!(answer.header("allow").contains(name), "{path}: {:?}", answer.headers);
        }
    }
    assert_eq!(tail(&server).await, before);
}

#[tokio::test]
async fn paths_that_lead_nowhere_are_problems() {
    let server = server().await;
    for path in ["/nowhere", "/v1", "/v1/topics/orders/record", "/v2/topics"] {
        let answer = server.get(path).await;
        assert_eq!(answer.status, 404, "{path}: {}", answer.text());
        assert_eq!(answer.header("content-type"), "application/problem+json", "{path}");
    }
}

#[tokio::test]
async fn media_types_that_are_not_spoken_are_refused() {
    let server = server().await;
    let before = tail(&server).await;
    server.get(RECORDS).header("accept", "image/png").await.problem(406, "not-acceptable");
    let alter = server.patch("/v1/topics/orders").header("content-type", "text/csv").body("a,b");
    alter.await.problem(415, "unsupported-media-type");
    let brotli = server.post(RECORDS).header("content-encoding", "br").body("x");
    brotli.await.problem(415, "unsupported-media-type");
    let broken = server.post(RECORDS).header("content-encoding", "gzip").body("not gzip").await;
    assert_eq!(broken.status, 400, "{}", broken.text());
    assert_eq!(tail(&server).await, before);
}

#[tokio::test]
async fn a_body_of_settings_that_is_not_an_object_is_refused() {
    let server = server().await;
    for body in ["{", "[]", "7", "{\"partitions\":1,}"] {
        let answer = server.put("/v1/topics/new").header("content-type", "application/json").body(body).await;
        assert_eq!(answer.status, 400, "{body}: {}", answer.text());
        assert_eq!(answer.header("content-type"), "application/problem+json");
    }
    server.get("/v1/topics/new").await.problem(404, "topic-not-found");
}

#[tokio::test]
async fn a_timestamp_far_ahead_is_refused() {
    let server = server().await;
    let before = tail(&server).await;
    let answer = server.post(&format!("{RECORDS}?timestamp=2999-01-01T00:00:00Z")).body("x").await;
    answer.problem(400, "bad-parameter");
    assert_eq!(tail(&server).await, before);
}

#[tokio::test]
async fn a_compacted_topic_refuses_records_without_a_key() {
    let server = Server::start().await;
    server.create_topic("users", json!({"cleanup.policy": "compact"})).await;
    let answer = server.post("/v1/topics/users/records").body("x").await;
    assert_eq!(answer.status, 400, "{}", answer.text());
    server.post("/v1/topics/users/records?key=a").body("x").await.expect(201);
    assert_eq!(server.read_all("/v1/topics/users/records").await.len(), 1);
}

#[tokio::test]
async fn bodies_in_a_form_that_nobody_reads_are_refused_as_such() {
    let server = server().await;
    let before = tail(&server).await;
    let xml = post(&server, RECORDS, "application/cloudevents+xml", "<event/>").await;
    xml.problem(415, "unsupported-media-type");
    let settings = server.put("/v1/topics/other").header("content-encoding", "gzip");
    settings.json(&json!({})).await.problem(415, "unsupported-media-type");
    server.get("/v1/topics/other").await.problem(404, "topic-not-found");
    assert_eq!(tail(&server).await, before);
}
