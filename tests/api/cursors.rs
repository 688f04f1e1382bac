//! Cursors: what they resume, and what becomes of those whose place is gone.

use harness::{Event, EventStream, Server, in_time};
use serde_json::{Value, json};

const RECORDS: &str = "/v1/topics/orders/records";
const TRUNCATE: &str = "/v1/topics/orders/truncate";

async fn server(partitions: u16) -> Server {
    let server = Server::start().await;
    server.create_topic("orders", json!({"partitions": partitions})).await;
    server
}

async fn produce(server: &Server, partition: u16, value: &str) {
    let path = format!("{RECORDS}?partition={partition}");
    server.post(&path).body(value.to_owned()).await.expect(201);
}

async fn page(server: &Server, query: &str) -> Value {
    server.get(&format!("{RECORDS}?{query}")).await.expect(200).json()
}

fn next(page: &Value) -> String {
    page["next"].as_str().expect("a cursor").to_owned()
}

fn values(page: &Value) -> Vec<Value> {
    page["records"].as_array().expect("a list").iter().map(|record| record["value"].clone()).collect()
}

/// Reads up to the next event of this name; records before it are returned too.
async fn until(stream: &mut EventStream, name: &str) -> (Vec<Event>, Event) {
    let mut records = Vec::new();
    loop {
        let event = stream.next().await.expect("the stream goes on");
        if event.name == name {
            return (records, event);
        }
        records.extend(Some(event).filter(|event| event.name == "message"));
    }
}

#[tokio::test]
async fn a_cursor_of_512_partitions_resumes_all_of_them() {
    let server = server(512).await;
    let start = next(&page(&server, "after=latest").await);
    assert!(start.contains(".z"), "it is packed: {start}");
    let unpacked_part = "vnd.forebay.records+json";
    let records: Vec<Value> = (0..512).map(|p| json!({"partition": p, "value": p})).collect();
    let call = server.post(RECORDS).header("content-type", &format!("application/{unpacked_part}"));
    let receipt = call.body(json!({"records": records}).to_string()).await.expect(201).json();
    let written = receipt["cursor"].as_str().expect("a cursor");
    assert!(written.contains(".pz"), "{written}");
    let (mut after, mut found) = (start, Vec::new());
    while found.len() < 512 {
        let page = page(&server, &format!("limit=100&after={after}&at_least={written}")).await;
        found.extend(values(&page));
        after = next(&page);
    }
    found.sort_by_key(Value::as_u64);
    assert_eq!(found, (0..512).map(|p| json!(p)).collect::<Vec<_>>());
    assert_eq!(values(&page(&server, &format!("after={after}")).await), Vec::<Value>::new());
    let mut stream = server.get(RECORDS).header("last-event-id", &after).stream().await;
    produce(&server, 511, "1").await;
    let event = stream.next_named("message").await;
    assert_eq!(event.json()["partition"], 511);
    let mut resumed = server.get(RECORDS).header("last-event-id", &event.id).stream().await;
    until(&mut resumed, "cursor").await;
}

#[tokio::test]
async fn owner_epochs_mean_nothing_to_a_read_and_partial_cursors_read_what_they_name() {
    let server = server(3).await;
    for partition in 0..3 {
        produce(&server, partition, "1").await;
        produce(&server, partition, "2").await;
    }
    let full = next(&page(&server, "").await);
    let epoch = full.split_once('.').expect("a cursor").0;
    let group = format!("{epoch}.p0-1-7_2-1-3");
    assert_eq!(values(&page(&server, &format!("partition=0,2&after={group}")).await), [json!(2), json!(2)]);
    server.get(&format!("{RECORDS}?after={group}")).await.problem(400, "bad-cursor");
    server.get(&format!("{RECORDS}?partition=0,1&after={group}")).await.problem(400, "bad-cursor");
    assert_eq!(values(&page(&server, &format!("at_least={group}")).await).len(), 6);
    let hole = format!("{epoch}.0-1_2-1");
    server.get(&format!("{RECORDS}?after={hole}")).await.problem(400, "bad-cursor");
    let ahead = format!("{epoch}.0-1_1-900_2-1");
    let page = page(&server, &format!("after={ahead}")).await;
    assert_eq!((values(&page).len(), &page["caught_up"]), (2, &json!(false)));
    server.get(&format!("{RECORDS}?at_least=zz9.p0-1")).await.problem(410, "topic-recreated");
}

#[tokio::test]
async fn a_stream_that_a_truncation_overtakes_is_told_and_goes_on() {
    let server = server(2).await;
    let large = format!("\"{}\"", "x".repeat(100_000));
    let lines: Vec<String> = (0..400).map(|_| large.clone()).collect();
    for chunk in lines.chunks(20) {
        server.produce_lines(&format!("{RECORDS}?partition=0"), chunk).await;
    }
    produce(&server, 1, "1").await;
    let mut stream = server.get(&format!("{RECORDS}?after=earliest")).stream().await;
    stream.next_named("message").await;
    server.post(TRUNCATE).json(&json!({"offsets": {"0": 400}})).await.expect(200);
    produce(&server, 0, "2").await;
    // What was on its way when the records went is delivered; far more than the connection's buffers hold is not.
    let (before, reset) = until(&mut stream, "reset").await;
    assert!(before.len() < 400, "{} records", before.len());
    let problem = reset.json();
    assert_eq!((&problem["code"], &problem["topic"]), (&json!("cursor-expired"), &json!("orders")));
    assert!(problem["earliest"].is_string(), "{problem}");
    let (after, _) = until(&mut stream, "cursor").await;
    assert!(after.iter().any(|event| event.json()["value"] == 2), "{after:?}");
    let ones = before.iter().chain(&after).filter(|event| event.json()["value"] == 1).count();
    assert_eq!(ones, 1, "the other partition goes on where it was");
    assert_eq!(stream.parser().frames_without_data(), 0);
}

#[tokio::test]
async fn an_expired_id_resets_only_the_partitions_that_lost_records() {
    let server = server(2).await;
    for partition in [0, 0, 0, 1, 1, 1] {
        produce(&server, partition, "1").await;
    }
    let full = next(&page(&server, "").await);
    let epoch = full.split_once('.').expect("a cursor").0;
    let id = format!("{epoch}.0-1_1-2");
    server.post(TRUNCATE).json(&json!({"offsets": {"0": 2, "1": 1}})).await.expect(200);
    let mut stream = server.get(RECORDS).header("last-event-id", &id).stream().await;
    let open = stream.next_named("open").await;
    assert_eq!(open.json()["resumed"], false);
    let reset = stream.next_named("reset").await;
    assert_eq!(reset.json()["code"], "cursor-expired");
    assert_eq!(reset.id, format!("{epoch}.0-2_1-2"));
    assert_eq!(stream.records(2).await.len(), 2);
    let strict = server.get(&format!("{RECORDS}?on_gap=error")).header("last-event-id", &id);
    strict.header("accept", "text/event-stream").await.problem(410, "cursor-expired");
}

#[tokio::test]
async fn a_topic_made_anew_resets_an_open_stream_or_ends_it() {
    let server = server(2).await;
    produce(&server, 0, "1").await;
    let mut resets = server.get(&format!("{RECORDS}?after=earliest")).stream().await;
    let mut filtered = server.get(&format!("{RECORDS}?after=earliest&partition=0")).stream().await;
    let mut ends = server.get(&format!("{RECORDS}?after=earliest&on_gap=error")).stream().await;
    for stream in [&mut resets, &mut filtered, &mut ends] {
        until(stream, "cursor").await;
    }
    // Two requests in a row leave the streams no time to notice the topic's absence, or they end with a 404.
    let (deleted, created) = (server.delete("/v1/topics/orders"), server.put("/v1/topics/orders"));
    deleted.await.expect(204);
    created.json(&json!({"partitions": 1})).await.expect(201);
    produce(&server, 0, "2").await;
    for stream in [&mut resets, &mut filtered] {
        let event = stream.next().await.expect("an event");
        if event.name == "problem" {
            assert_eq!(event.json()["code"], "topic-not-found");
            continue;
        }
        assert_eq!((event.name.as_str(), &event.json()["code"]), ("reset", &json!("topic-recreated")));
        assert_eq!(stream.next_named("message").await.json()["value"], 2);
    }
    let (_, problem) = until(&mut ends, "problem").await;
    assert!(
        ["topic-recreated", "topic-not-found"].contains(&problem.json()["code"].as_str().expect("a code"))
    );
}

#[tokio::test]
async fn several_topics_are_reset_by_themselves() {
    let server = Server::start().await;
    for topic in ["a", "b"] {
        server.create_topic(topic, json!({})).await;
        for value in ["1", "2"] {
            server.post(&format!("/v1/topics/{topic}/records")).body(value).await.expect(201);
        }
    }
    let path = "/v1/records?topics=a,b";
    let cursor = server.read_on(path, None).await.1;
    server.delete("/v1/topics/a").await.expect(204);
    server.create_topic("a", json!({})).await;
    server.post("/v1/topics/a/records").body("3").await.expect(201);
    let problem = server.get(&format!("{path}&after={cursor}")).await.problem(410, "topic-recreated");
    assert_eq!(problem["topic"], "a");
    let earliest = problem["earliest"].as_str().expect("a cursor").to_owned();
    assert_eq!(server.read_on(path, Some(earliest)).await.0.len(), 3);
    let mut stream = server.get(path).header("last-event-id", &cursor).stream().await;
    assert_eq!(stream.next_named("reset").await.json()["topic"], "a");
    let records = stream.records(1).await;
    assert_eq!((&records[0].json()["topic"], &records[0].json()["value"]), (&json!("a"), &json!(3)));
    assert_eq!(
        stream.next().await.map(|event| event.name),
        Some("cursor".to_owned()),
        "b goes on where it was"
    );
}

#[tokio::test]
async fn new_partitions_reach_long_polls_and_endless_lines() {
    let server = server(1).await;
    let url = format!("{}{RECORDS}?follow=true&after=earliest", server.url());
    let call = reqwest::Client::new().get(url).header("accept", "application/x-ndjson").send();
    let mut lines = in_time("the lines begin", call).await.expect("an answer");
    let poll = server.get(&format!("{RECORDS}?after=latest&wait=60s"));
    let poll = tokio::spawn(async move { poll.await });
    let mut stream = server.get(&format!("{RECORDS}?key=none")).stream().await;
    until(&mut stream, "cursor").await;
    server.patch("/v1/topics/orders").json(&json!({"partitions": 2})).await.expect(200);
    produce(&server, 1, "7").await;
    let chunk =
        in_time("the new partition's record", lines.chunk()).await.expect("it is open").expect("a chunk");
    let line: Value = serde_json::from_slice(&chunk).expect("one line");
    assert_eq!((&line["partition"], &line["value"]), (&json!(1), &json!(7)));
    let page = in_time("the poll ends", poll).await.expect("no panic").expect(200).json();
    if page["records"] == json!([]) {
        panic!("a poll that wakes has a record: {page}");
    }
    assert!(next(&page).contains("_1-"), "{page}");
    let (_, progress) = until(&mut stream, "cursor").await;
    assert!(progress.id.ends_with("_1-1"), "{progress:?}");
}
