//! Server-Sent Events: what an `EventSource` sees.

use std::collections::BTreeSet;

use harness::{Event, Server};
use serde_json::{Value, json};

const RECORDS: &str = "/v1/topics/orders/records";

/// A topic of four partitions with the values 0 to 19, in turn.
async fn server() -> Server {
    let server = Server::start().await;
    server.create_topic("orders", json!({"partitions": 4})).await;
    for value in 0..20 {
        produce(&server, value).await;
    }
    server
}

async fn produce(server: &Server, value: u64) {
    let path = format!("{RECORDS}?partition={}&key=k{}", value % 4, value % 5);
    server.post(&path).body(value.to_string()).await.expect(201);
}

fn values(events: &[Event]) -> BTreeSet<u64> {
    events.iter().map(|event| event.json()["value"].as_u64().expect("a number")).collect()
}

#[tokio::test]
async fn a_stream_opens_replays_says_caught_up_and_follows() {
    let server = server().await;
    let mut stream = server.get(&format!("{RECORDS}?after=earliest")).stream().await;
    assert!(stream.header("content-type").starts_with("text/event-stream"));
    assert_eq!(stream.header("cache-control"), "no-cache, no-transform");
    assert_eq!(stream.header("x-accel-buffering"), "no");
    let open = stream.next().await.expect("an event");
    assert_eq!((open.name.as_str(), stream.parser().retry()), ("open", Some(3000)));
    assert!(!open.id.is_empty());
    let orders = open.json()["topics"]["orders"].clone();
    assert!(orders["earliest"].is_string() && orders["latest"].is_string(), "{open:?}");
    assert_eq!(values(&stream.records(20).await), (0..20).collect());
    let cursor = stream.next().await.expect("an event");
    assert_eq!((cursor.name.as_str(), &cursor.json()["caught_up"]), ("cursor", &json!(true)));
    produce(&server, 20).await;
    let record = stream.next_named("message").await;
    let body = record.json();
    assert_eq!(
        (&body["topic"], &body["partition"], &body["offset"]),
        (&json!("orders"), &json!(0), &json!(5))
    );
    assert_eq!((&body["key"], &body["value"]), (&json!("k0"), &json!(20)));
    assert_eq!(stream.parser().frames_without_data(), 0);
}

#[tokio::test]
async fn a_stream_starts_at_the_tail_unless_told_otherwise() {
    let server = server().await;
    let mut stream = server.get(RECORDS).stream().await;
    stream.next_named("open").await;
    produce(&server, 20).await;
    assert_eq!(values(&stream.records(1).await), BTreeSet::from([20]));
}

#[tokio::test]
async fn any_id_resumes_all_partitions_without_loss_or_repeat() {
    let server = server().await;
    let mut stream = server.get(&format!("{RECORDS}?after=earliest")).stream().await;
    let events = stream.records(20).await;
    let ids: BTreeSet<&str> = events.iter().map(|event| event.id.as_str()).collect();
    assert_eq!(ids.len(), 20, "each record has an id of its own");
    for (at, event) in events.iter().enumerate() {
        let call = server.get(&format!("{RECORDS}?after=earliest")).header("last-event-id", &event.id);
        let mut resumed = call.stream().await;
        let open = resumed.next_named("open").await;
        assert_eq!(open.json()["resumed"], true, "{open:?}");
        let rest = resumed.records(19 - at).await;
        assert_eq!(values(&rest), values(&events[at + 1..]), "resumed after {}", event.id);
        let caught_up = resumed.next().await.expect("an event");
        assert_eq!(caught_up.name, "cursor", "nothing comes twice: {caught_up:?}");
    }
}

#[tokio::test]
async fn the_id_is_also_accepted_as_a_parameter_and_as_a_cursor() {
    let server = server().await;
    let mut stream = server.get(&format!("{RECORDS}?after=earliest")).stream().await;
    let id = stream.records(15).await.pop().expect("fifteen").id;
    for parameter in ["last_event_id", "lastEventId", "after"] {
        let mut resumed = server.get(&format!("{RECORDS}?{parameter}={id}")).stream().await;
        assert_eq!(resumed.records(5).await.len(), 5, "{parameter}");
        assert_eq!(resumed.next().await.map(|event| event.name), Some("cursor".to_owned()), "{parameter}");
    }
    assert_eq!(server.read_on(RECORDS, Some(id)).await.0.len(), 5);
}

#[tokio::test]
async fn an_id_of_an_earlier_topic_resets_the_stream_to_the_earliest() {
    let server = server().await;
    let mut stream = server.get(&format!("{RECORDS}?after=earliest")).stream().await;
    let id = stream.records(20).await.pop().expect("twenty").id;
    server.delete("/v1/topics/orders").await.expect(204);
    server.create_topic("orders", json!({"partitions": 4})).await;
    produce(&server, 3).await;
    let mut stream = server.get(RECORDS).header("last-event-id", &id).stream().await;
    let reset = stream.next_named("reset").await;
    assert_ne!(reset.id, id);
    assert_eq!(values(&stream.records(1).await), BTreeSet::from([3]));
    let call = server.get(&format!("{RECORDS}?on_gap=error")).header("accept", "text/event-stream");
    call.header("last-event-id", &id).await.problem(410, "topic-recreated");
}

#[tokio::test]
async fn a_limited_stream_ends_and_its_last_id_tells_the_client_to_stop() {
    let server = server().await;
    let limited = format!("{RECORDS}?after=earliest&limit=3");
    ends_for_good(&server, &limited, 3).await;
    let latest = server.read_on(RECORDS, None).await.1;
    produce(&server, 20).await;
    ends_for_good(&server, &format!("{RECORDS}?after=earliest&until={latest}"), 20).await;
}

async fn ends_for_good(server: &Server, path: &str, count: usize) {
    let mut stream = server.get(path).stream().await;
    stream.records(count).await;
    let end = loop {
        let event = stream.next().await.expect("an end before the close");
        assert_ne!(event.name, "message", "{path}");
        if event.name == "end" {
            break event;
        }
    };
    assert_eq!(stream.next().await, None, "{path} closes after its end");
    let call = server.get(path).header("accept", "text/event-stream").header("last-event-id", &end.id);
    assert!(call.await.expect(204).body.is_empty());
}

#[tokio::test]
async fn filters_hold_while_following_and_progress_is_shown_with_data() {
    let server = server().await;
    let mut stream = server.get(&format!("{RECORDS}?after=earliest&key=k3")).stream().await;
    assert_eq!(values(&stream.records(4).await), BTreeSet::from([3, 8, 13, 18]));
    let progress = stream.next_named("cursor").await;
    produce(&server, 21).await;
    produce(&server, 23).await;
    assert_eq!(values(&stream.records(1).await), BTreeSet::from([23]));
    assert_eq!(stream.parser().frames_without_data(), 0);
    assert_eq!(server.read_on(RECORDS, Some(progress.id)).await.0.len(), 2);
}

#[tokio::test]
async fn subscribers_at_the_tail_see_the_same_events() {
    let server = server().await;
    let mut streams = Vec::new();
    for _ in 0..8 {
        let mut stream = server.get(RECORDS).stream().await;
        stream.next_named("cursor").await;
        streams.push(stream);
    }
    for value in 20..40 {
        produce(&server, value).await;
    }
    let expected = streams[0].records(20).await;
    assert_eq!(values(&expected), (20..40).collect());
    for stream in &mut streams[1..] {
        assert_eq!(stream.records(20).await, expected);
    }
}

#[tokio::test]
async fn an_open_stream_picks_up_new_partitions() {
    let server = server().await;
    let mut stream = server.get(RECORDS).stream().await;
    stream.next_named("open").await;
    server.patch("/v1/topics/orders").json(&json!({"partitions": 5})).await.expect(200);
    server.post("/v1/topics/orders/partitions/4/records").body("77").await.expect(201);
    let record = stream.next_named("message").await;
    assert_eq!((&record.json()["partition"], &record.json()["value"]), (&json!(4), &json!(77)));
    produce(&server, 20).await;
    let next = stream.next_named("message").await;
    let (rest, _) = server.read_on(RECORDS, Some(next.id)).await;
    assert!(rest.is_empty(), "the id covers the new partition: {rest:?}");
}

#[tokio::test]
async fn many_topics_share_a_stream_and_an_id() {
    let server = Server::start().await;
    for topic in ["a", "b"] {
        server.create_topic(topic, json!({"partitions": 2})).await;
    }
    for value in 0..20 {
        let path = format!("/v1/topics/{}/records?partition={}", ["a", "b"][value % 2], value / 2 % 2);
        server.post(&path).body(value.to_string()).await.expect(201);
    }
    let path = "/v1/records?topics=a,b&after=earliest";
    let events = server.get(path).stream().await.records(20).await;
    assert_eq!(values(&events), (0..20).collect());
    let mut resumed = server.get(path).header("last-event-id", &events[9].id).stream().await;
    assert_eq!(values(&resumed.records(10).await), values(&events[10..]));
    assert_eq!(resumed.next().await.map(|event| event.name), Some("cursor".to_owned()));
}

#[tokio::test]
async fn bare_values_keep_their_lines_and_binary_is_marked() {
    let server = Server::start().await;
    server.create_topic("orders", json!({})).await;
    server.post(RECORDS).body("two\nlines").await.expect(201);
    server.post(RECORDS).body(&b"\xff\x00"[..]).await.expect(201);
    let mut stream = server.get(&format!("{RECORDS}?after=earliest&format=value")).stream().await;
    assert_eq!(stream.next_named("message").await.data, "two\nlines");
    assert_eq!(stream.next_named("binary").await.data, "/wA=");
}

#[tokio::test]
async fn a_value_with_line_ends_is_one_event() {
    let server = Server::start().await;
    server.create_topic("orders", json!({})).await;
    server.post(RECORDS).body("{\"a\":\r\n  1}").await.expect(201);
    server.post(RECORDS).body("data: x\r\n\r\nid: evil\r\n\r\n").await.expect(201);
    let mut stream = server.get(&format!("{RECORDS}?after=earliest")).stream().await;
    let values: Vec<Value> =
        stream.records(2).await.iter().map(|event| event.json()["value"].clone()).collect();
    assert_eq!(values, [json!({"a": 1}), json!("data: x\r\n\r\nid: evil\r\n\r\n")]);
}

#[tokio::test]
async fn waiting_cannot_cure_a_wrong_request_so_it_keeps_its_status() {
    let server = server().await;
    let open = |path: &str| server.get(path).header("accept", "text/event-stream");
    open("/v1/topics/none/records").await.problem(404, "topic-not-found");
    open(&format!("{RECORDS}?after=nonsense")).await.problem(400, "bad-cursor");
    open(&format!("{RECORDS}?aftr=earliest")).await.problem(400, "bad-parameter");
}
