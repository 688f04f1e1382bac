//! What is hard to see from outside, through the real routes of a node in memory.

mod problems;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use bytes::Bytes;
use forebay_log::clock::ManualClock;
use forebay_log::model::{PartitionId, Timestamp};
use futures::FutureExt as _;
use http_body_util::BodyExt as _;
use serde_json::json;
use tokio::time::Instant;

use crate::limits;
use crate::node::Node;
use crate::testing::{Events, append, call, get, node, node_at, open, post_lines, record, topic};

const RECORDS: &str = "/v1/topics/orders/records";

async fn with_orders(partitions: u16) -> Arc<Node> {
    let node = node(1).await;
    topic(&node, "orders", partitions).await;
    node
}

/// A body of more than one unit, with a blank line before each of its lines.
fn two_units() -> String {
    (0..=forebay_log::limits::UNIT_RECORDS_MAX).map(|n| format!("\n{n}\n")).collect()
}

#[tokio::test]
async fn a_mistake_behind_a_unit_names_its_line_and_what_is_stored_and_a_retry_completes_it() {
    let node = with_orders(1).await;
    let broken = format!("{}\n\n{{\n", two_units());
    let send = async |body: String| {
        let request = Request::post(RECORDS).header("content-type", "application/x-ndjson");
        call(&node, request.header("idempotency-key", "k").body(Body::from(body)).unwrap()).await
    };
    let problem = send(broken).await.expect(400).json();
    assert_eq!((&problem["effect"], &problem["line"]), (&json!("partial"), &json!(20_005)), "{problem}");
    assert_eq!(problem["stored_lines"], 20_000, "blank lines are lines");
    let receipt = send(two_units()).await.expect(201).json();
    assert_eq!(
        receipt["partitions"],
        json!([{"partition": 0, "base_offset": 0, "count": 10_001}]),
        "{receipt}"
    );
    let again = send(two_units()).await.expect(201);
    assert_eq!(again.headers["idempotency-replayed"], "true");
    assert_eq!(again.json()["cursor"], receipt["cursor"]);
    let refused = send(two_units().replacen('0', "1", 1)).await.expect(422).json();
    assert_eq!(refused["effect"], "none", "{refused}");
}

/// The client of a connection whose server does not read on has to wait.
#[tokio::test]
async fn a_body_is_read_no_further_ahead_of_the_log_than_its_units_under_way() {
    const LINES: u64 = 1_000;
    let node = with_orders(1).await;
    let orders = node.topics.get(&"orders".parse().unwrap()).unwrap();
    let log = node.shards.log(&orders, PartitionId::new(0)).unwrap();
    for key in [None, Some("k")] {
        let furthest = Arc::new(AtomicU64::new(0));
        let (log, seen, stored_before) =
            (Arc::clone(&log), Arc::clone(&furthest), log.high_watermark().get());
        let pieces = (1..=200).map(move |number| {
            let stored = log.high_watermark().get() - stored_before;
            seen.fetch_max(number * LINES - stored, Ordering::Relaxed);
            Ok::<_, std::io::Error>(Bytes::from("1\n".repeat(LINES as usize)))
        });
        let request = Request::post(RECORDS).header("content-type", "application/x-ndjson");
        let request = key.into_iter().fold(request, |request, key| request.header("idempotency-key", key));
        let body = Body::from_stream(futures::stream::iter(pieces));
        let answer = call(&node, request.body(body).unwrap()).await.expect(201).json();
        assert_eq!(answer["count"], 200 * LINES);
        let units = (limits::UNITS_IN_FLIGHT_MAX + 2) * forebay_log::limits::UNIT_RECORDS_MAX;
        let furthest = furthest.load(Ordering::Relaxed);
        assert!(furthest <= units as u64, "{furthest} lines were read and not stored");
    }
}

#[tokio::test]
async fn the_cursor_of_several_units_lies_behind_the_last_record() {
    let node = with_orders(1).await;
    let orders = node.topics.get(&"orders".parse().unwrap()).unwrap();
    append(&node, &orders, [record(0, "before")]).await;
    let receipt = post_lines(&node, RECORDS, two_units()).await.expect(201).json();
    assert_eq!(receipt["partitions"][0]["base_offset"], 1);
    assert!(receipt["cursor"].as_str().unwrap().ends_with(".p0-10002"), "{receipt}");
}

#[tokio::test]
async fn a_conditional_append_is_one_unit_or_nothing() {
    let node = with_orders(1).await;
    let request = Request::post("/v1/topics/orders/partitions/0/records")
        .header("content-type", "application/x-ndjson")
        .header("if-match", "\"0\"");
    let problem = call(&node, request.body(Body::from(two_units())).unwrap()).await.expect(413).json();
    assert_eq!(problem["effect"], "none");
    let orders = node.topics.get(&"orders".parse().unwrap()).unwrap();
    let stored = append(&node, &orders, [record(0, "a")]).await;
    assert_eq!(stored.records[0].offset.get(), 0);
}

#[tokio::test]
async fn what_has_no_effect_is_refused() {
    let node = with_orders(2).await;
    for (uri, body) in [
        (format!("{RECORDS}?tombstone=true&key=k"), "1\n"),
        (format!("{RECORDS}?key_path=id"), "{}\n"),
        (format!("{RECORDS}?format=lines&key_path=/id"), "{}\n"),
        (format!("{RECORDS}?format=records&key=k"), "{\"value\":1}\n"),
        ("/v1/topics/orders/partitions/0/records?partition=1".to_owned(), "1\n"),
        (
            "/v1/topics/orders/partitions/0/records?format=records".to_owned(),
            "{\"value\":1,\"partition\":1}\n",
        ),
    ] {
        let problem = post_lines(&node, &uri, body).await.expect(400).json();
        assert_eq!(problem["code"], "bad-parameter", "{uri}: {problem}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_budget_for_bodies_is_given_back_and_its_end_is_overload() {
    let node = with_orders(1).await;
    let whole = node.bodies.available();
    post_lines(&node, RECORDS, two_units()).await.expect(201);
    post_lines(&node, RECORDS, "{\n").await.expect(400);
    call(&node, Request::post(RECORDS).body(Body::from("x".repeat(2 << 20))).unwrap()).await.expect(413);
    assert_eq!(node.bodies.available(), whole);
    let _all = node.bodies.take(whole, Duration::ZERO).await.unwrap();
    call(&node, Request::post(RECORDS).body(Body::from("x")).unwrap()).await.expect(201);
    let large = Body::from("x".repeat(limits::BODY_FREE_BYTES + 1));
    let refused = call(&node, Request::post(RECORDS).body(large).unwrap()).await.expect(503);
    assert_eq!(refused.json()["code"], "overloaded");
    assert!(refused.headers.contains_key("retry-after"));
}

#[tokio::test(start_paused = true)]
async fn a_body_of_settings_does_not_trickle_for_ever() {
    let node = with_orders(1).await;
    let body = Body::from_stream(futures::stream::pending::<Result<Bytes, std::io::Error>>());
    let began = Instant::now();
    call(&node, Request::put("/v1/topics/pay").body(body).unwrap()).await.expect(400);
    assert_eq!(began.elapsed(), limits::BODY_IDLE_MAX);
}

#[tokio::test]
async fn pages_shrink_while_answers_take_all_the_room_and_nothing_is_missed() {
    const RECORD: usize = 1000;
    let node = with_orders(1).await;
    let line = format!("\"{}\"\n", "x".repeat(RECORD));
    post_lines(&node, RECORDS, line.repeat(40)).await.expect(201);
    assert_eq!(get(&node, RECORDS).await.json()["records"].as_array().unwrap().len(), 40);
    let all = node.reads.grant(limits::READS_IN_FLIGHT_BYTES);
    assert_eq!((all.bytes(), node.reads.available()), (limits::READS_IN_FLIGHT_BYTES, 0));
    let (mut after, mut read) = ("earliest".to_owned(), 0);
    while read < 40 {
        let answer = get(&node, &format!("{RECORDS}?after={after}")).await.expect(200);
        let page = answer.json();
        let records = page["records"].as_array().unwrap();
        assert!(answer.body.len() < limits::READ_FREE_BYTES + 2 * RECORD, "{}", answer.body.len());
        assert_eq!(records[0]["offset"], read);
        read += records.len();
        after = page["next"].as_str().unwrap().to_owned();
    }
    let mut stream = Events::open(&node, &format!("{RECORDS}?after=earliest"), None).await;
    for _ in 0..40 {
        stream.record().await;
    }
}

#[tokio::test]
async fn an_answer_keeps_its_room_until_it_is_gone() {
    let node = with_orders(1).await;
    let line = format!("\"{}\"\n", "x".repeat(1000));
    post_lines(&node, RECORDS, line.repeat(100)).await.expect(201);
    let whole = node.reads.available();
    let response = open(&node, Request::get(RECORDS).body(Body::empty()).unwrap()).await;
    let taken = whole - node.reads.available();
    assert!((100_000..200_000).contains(&taken), "what the page needs, not what it might have: {taken}");
    drop(response);
    assert_eq!(node.reads.available(), whole);
    get(&node, "/v1/topics/orders/partitions/0/records/7").await.expect(200);
    assert_eq!(node.reads.available(), whole);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_ages_for_a_chunk_is_told_to_come_back() {
    let node = with_orders(1).await;
    post_lines(&node, RECORDS, "1\n").await.expect(201);
    let mut stream = Events::open(&node, &format!("{RECORDS}?after=earliest"), None).await;
    let (_, id) = stream.record().await;
    tokio::time::sleep(limits::CHUNK_WAIT_MAX + Duration::from_secs(1)).await;
    // What was ready for it comes first.
    assert_eq!(stream.next().await.unwrap().name, "cursor");
    let frame = stream.frame().await.unwrap();
    assert!(frame.starts_with("event: bye\nretry: ") && frame.contains(&format!("id: {id}")), "{frame}");
    assert_eq!(stream.frame().await, None);
}

#[tokio::test]
async fn an_offset_names_a_place_in_one_partition_of_one_topic() {
    let node = with_orders(2).await;
    topic(&node, "pay", 2).await;
    post_lines(&node, &format!("{RECORDS}?partition=1"), "1\n2\n3\n").await.expect(201);
    let page = get(&node, "/v1/topics/orders/partitions/1/records?offset=2").await.expect(200).json();
    assert_eq!(page["records"][0]["value"], 3);
    let page = get(&node, "/v1/topics/orders/records?partition=1&offset=1").await.expect(200).json();
    assert_eq!(page["records"][0]["value"], 2);
    get(&node, "/v1/records?topics=orders,pay&partition=1&offset=1").await.expect(400);
    get(&node, "/v1/topics/orders/records?offset=1").await.expect(400);
    get(&node, "/v1/topics/orders/partitions/1/records?offset=1&after=earliest").await.expect(400);
}

#[tokio::test]
async fn a_cursor_without_names_is_not_taken_for_several_topics() {
    let node = with_orders(1).await;
    topic(&node, "pay", 1).await;
    let next = get(&node, RECORDS).await.json()["next"].as_str().unwrap().to_owned();
    let problem = get(&node, &format!("/v1/records?topics=orders,pay&after={next}")).await.expect(400).json();
    assert_eq!(problem["code"], "bad-cursor");
    let own = post_lines(&node, RECORDS, "1\n").await.json()["cursor"].as_str().unwrap().to_owned();
    let page = get(&node, &format!("/v1/records?topics=orders,pay&at_least={own}")).await.expect(200).json();
    assert_eq!(page["records"][0]["value"], 1);
}

#[tokio::test]
async fn caught_up_is_not_said_above_the_high_watermark() {
    let node = with_orders(1).await;
    let uri = "/v1/topics/orders/partitions/0/records?offset=5";
    let page = get(&node, uri).await.expect(200).json();
    assert_eq!((&page["records"], &page["caught_up"]), (&json!([]), &json!(false)));
}

#[tokio::test]
async fn an_end_is_no_place_that_must_still_be_there_and_new_partitions_are_behind_it() {
    let node = with_orders(1).await;
    post_lines(&node, RECORDS, "1\n2\n").await.expect(201);
    let next = get(&node, RECORDS).await.json()["next"].as_str().unwrap().to_owned();
    let more = json!({"partitions": 2}).as_object().unwrap().clone();
    node.topics.alter(&"orders".parse().unwrap(), &more, None).await.unwrap();
    post_lines(&node, &format!("{RECORDS}?partition=1"), "3\n").await.expect(201);
    post_lines(&node, &format!("{RECORDS}?partition=0"), "4\n").await.expect(201);
    let page = get(&node, &format!("{RECORDS}?until={next}")).await.expect(200).json();
    let values: Vec<_> = page["records"].as_array().unwrap().iter().map(|record| &record["value"]).collect();
    assert_eq!(values, [&json!(1), &json!(2)]);
    let mut events = Events::open(&node, &format!("{RECORDS}?after=earliest&until={next}"), None).await;
    assert_eq!((events.record().await.0, events.record().await.0), (json!(1), json!(2)));
    assert_eq!(events.next().await.unwrap().name, "end");
    assert_eq!(events.next().await, None);
}

#[tokio::test]
async fn only_a_place_that_stays_the_same_is_cached_and_each_representation_by_itself() {
    let node = with_orders(1).await;
    post_lines(&node, RECORDS, "1\n2\n3\n").await.expect(201);
    let read = async |query: &str, accept: &str| {
        let uri = format!("/v1/topics/orders/partitions/0/records?limit=2&{query}");
        call(&node, Request::get(uri).header("accept", accept).body(Body::empty()).unwrap()).await
    };
    let json = read("offset=0", "application/json").await;
    let ndjson = read("offset=0", "application/x-ndjson").await;
    assert_ne!(json.headers["etag"], ndjson.headers["etag"]);
    assert_eq!(json.headers["vary"], "accept, accept-encoding");
    for query in ["after=-3", "after=earliest", "after=2020-01-01T00:00:00Z"] {
        assert!(!read(query, "*/*").await.headers.contains_key("etag"), "{query}");
    }
    let uri = "/v1/topics/orders/partitions/0/records?limit=2&offset=0";
    let weak = format!("W/{}", json.headers["etag"].to_str().unwrap());
    let request = Request::get(uri).header("if-none-match", weak).header("accept", "application/json");
    call(&node, request.body(Body::empty()).unwrap()).await.expect(304);
}

#[tokio::test(start_paused = true)]
async fn a_long_poll_ends_with_a_record_at_its_deadline_or_with_the_node() {
    let node = with_orders(1).await;
    let uri = format!("{RECORDS}?after=latest&wait=60s");
    let begun = Instant::now();
    get(&node, &uri).await.expect(200);
    assert_eq!(begun.elapsed().as_secs(), 60);
    let (begun, orders) = (Instant::now(), node.topics.get(&"orders".parse().unwrap()).unwrap());
    let mut poll = Box::pin(get(&node, &uri));
    assert!(poll.as_mut().now_or_never().is_none());
    append(&node, &orders, [record(0, "7")]).await;
    assert_eq!(poll.await.json()["records"][0]["value"], 7);
    let mut poll = Box::pin(get(&node, &uri));
    assert!(poll.as_mut().now_or_never().is_none());
    node.begin_stop();
    assert_eq!(poll.await.json()["records"], json!([]));
    assert!(begun.elapsed() < Duration::from_secs(2));
}

#[tokio::test(start_paused = true)]
async fn at_least_waits_for_a_while_and_refuses_what_can_never_be_seen() {
    let node = with_orders(1).await;
    let cursor = post_lines(&node, RECORDS, "1\n").await.json()["cursor"].as_str().unwrap().to_owned();
    get(&node, &format!("{RECORDS}?at_least={cursor}")).await.expect(200);
    let begun = Instant::now();
    let beyond = cursor.replace("0-1", "0-9");
    let problem = get(&node, &format!("{RECORDS}?at_least={beyond}")).await.expect(503).json();
    assert_eq!(problem["code"], "storage-unavailable");
    assert_eq!(begun.elapsed().as_secs(), limits::AT_LEAST_WAIT_MAX.as_secs());
    let foreign = cursor.replace("0-1", "7-1");
    get(&node, &format!("{RECORDS}?at_least={foreign}")).await.expect(400);
}

#[tokio::test(start_paused = true)]
async fn a_silent_stream_beats_and_one_ahead_of_the_log_does_too() {
    let node = with_orders(1).await;
    let next = get(&node, RECORDS).await.json()["next"].as_str().unwrap().to_owned();
    for id in [next.clone(), next.replace("0-0", "0-9")] {
        let mut events = Events::open(&node, RECORDS, Some(&id)).await;
        let mut last = Instant::now();
        let mut beats = 0;
        while beats < 3 {
            let frame = events.frame().await.unwrap();
            beats += usize::from(frame == ":");
            assert!(last.elapsed() <= limits::HEARTBEAT, "{frame}");
            assert!(frame != ":" || last.elapsed() == limits::HEARTBEAT, "a beat only breaks silence");
            last = Instant::now();
        }
    }
}

#[tokio::test]
async fn a_stream_of_a_deleted_topic_ends_with_a_problem() {
    let node = with_orders(1).await;
    let mut events = Events::open(&node, RECORDS, None).await;
    assert_eq!(events.next().await.unwrap().name, "open");
    assert_eq!(events.next().await.unwrap().name, "cursor");
    call(&node, Request::delete("/v1/topics/orders").body(Body::empty()).unwrap()).await.expect(204);
    let problem = events.frame().await.unwrap();
    assert!(problem.starts_with("event: problem\n") && problem.contains("topic-not-found"), "{problem}");
    assert!(!problem.contains("retry:"), "waiting cannot cure it: {problem}");
    assert_eq!(events.next().await, None);
}

#[tokio::test]
async fn a_stop_says_goodbye_and_refuses_streams_as_events() {
    let node = with_orders(1).await;
    let mut events = Events::open(&node, RECORDS, None).await;
    assert_eq!(events.next().await.unwrap().name, "open");
    assert_eq!(events.next().await.unwrap().name, "cursor");
    let request = Request::get(format!("{RECORDS}?follow=true")).body(Body::empty()).unwrap();
    let mut lines = open(&node, request).await.into_body();
    node.begin_stop();
    let bye = events.frame().await.unwrap();
    assert!(bye.starts_with("event: bye\nretry: "), "{bye}");
    assert_eq!(events.next().await, None);
    assert!(lines.frame().await.is_none(), "lines end");
    let mut refused = Events::open(&node, RECORDS, Some("k7.0-1")).await;
    let problem = refused.next().await.unwrap();
    assert_eq!((problem.name.as_str(), problem.id.as_str()), ("problem", "k7.0-1"), "{problem:?}");
    get(&node, &format!("{RECORDS}?follow=true")).await.expect(503);
    let produce = Request::post(RECORDS).header("accept", "text/event-stream").body(Body::from("1")).unwrap();
    let refused = call(&node, produce).await.expect(503);
    assert!(refused.headers.contains_key("retry-after"));
}

#[tokio::test]
async fn a_stream_that_entered_the_ring_at_any_moment_loses_and_repeats_nothing() {
    let node = with_orders(2).await;
    let orders = node.topics.get(&"orders".parse().unwrap()).unwrap();
    let mut readers = Vec::new();
    for round in 0..20 {
        readers.push((round * 4, Events::open(&node, &format!("{RECORDS}?after=latest"), None).await));
        append(&node, &orders, (0..4).map(|n| record(n % 2, &(round * 4 + n).to_string()))).await;
    }
    for (first, events) in &mut readers {
        let mut seen = Vec::new();
        for _ in *first..80 {
            seen.push(events.record().await.0.as_u64().unwrap());
        }
        seen.sort_unstable();
        assert_eq!(seen, (*first..80).map(u64::from).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn a_reader_that_falls_out_of_the_ring_goes_on_from_the_log() {
    let node = with_orders(1).await;
    let orders = node.topics.get(&"orders".parse().unwrap()).unwrap();
    let mut slow = Events::open(&node, RECORDS, None).await;
    let mut quick = Events::open(&node, RECORDS, None).await;
    append(&node, &orders, [record(0, "0")]).await;
    assert_eq!((slow.record().await.0, quick.record().await.0), (json!(0), json!(0)));
    let large = "x".repeat(limits::RING_BYTES / 8);
    for n in 1..24 {
        append(&node, &orders, [record(0, &format!("[{n},\"{large}\"]"))]).await;
        assert_eq!(quick.record().await.0[0], n);
    }
    for n in 1..24 {
        assert_eq!(slow.record().await.0[0], n);
    }
    append(&node, &orders, [record(0, "24")]).await;
    assert_eq!(slow.record().await.0, 24);
}

#[tokio::test]
async fn what_a_ring_holds_below_a_log_start_is_not_sent() {
    let node = with_orders(1).await;
    let orders = node.topics.get(&"orders".parse().unwrap()).unwrap();
    let mut slow = Events::open(&node, RECORDS, None).await;
    let mut quick = Events::open(&node, RECORDS, None).await;
    append(&node, &orders, [record(0, "0")]).await;
    assert_eq!((slow.record().await.0, quick.record().await.0), (json!(0), json!(0)));
    assert_eq!(slow.next().await.unwrap().name, "cursor");
    assert!(slow.next().now_or_never().is_none(), "it is in the ring now");
    for n in 1..5 {
        append(&node, &orders, [record(0, &n.to_string())]).await;
        assert_eq!(quick.record().await.0, n);
    }
    let body = Body::from("{\"offsets\":{\"0\":4}}");
    call(&node, Request::post("/v1/topics/orders/truncate").body(body).unwrap()).await.expect(200);
    let reset = slow.next().await.unwrap();
    assert_eq!(reset.name, "reset");
    assert!(reset.id.ends_with(".0-4"), "{reset:?}");
    assert_eq!(slow.record().await.0, 4);
    append(&node, &orders, [record(0, "5")]).await;
    assert_eq!((slow.record().await.0, quick.record().await.0), (json!(5), json!(5)));
}

#[tokio::test]
async fn an_open_stream_goes_over_to_a_topic_made_anew() {
    let node = with_orders(1).await;
    post_lines(&node, RECORDS, "1\n").await.expect(201);
    let mut goes_on = Events::open(&node, &format!("{RECORDS}?after=earliest"), None).await;
    let mut ends = Events::open(&node, &format!("{RECORDS}?after=earliest&on_gap=error"), None).await;
    for events in [&mut goes_on, &mut ends] {
        assert_eq!(events.record().await.0, 1);
        assert_eq!(events.next().await.unwrap().name, "cursor");
    }
    node.topics.delete(&"orders".parse().unwrap(), None).await.unwrap();
    let anew = topic(&node, "orders", 2).await;
    append(&node, &anew, [record(1, "2")]).await;
    let reset = goes_on.next().await.unwrap();
    assert_eq!((reset.name.as_str(), reset.id), ("reset", format!("{}.0-0_1-0", anew.epoch)));
    assert!(reset.data.contains("topic-recreated"), "{}", reset.data);
    assert_eq!(goes_on.record().await.0, 2);
    let problem = ends.frame().await.unwrap();
    assert!(problem.contains("topic-recreated") && !problem.contains("retry:"), "{problem}");
    assert_eq!(ends.next().await, None);
}

#[tokio::test]
async fn a_deleted_topic_leaves_nothing_in_memory() {
    let node = with_orders(2).await;
    post_lines(&node, &format!("{RECORDS}?partition=1"), "1\n").await.expect(201);
    let orders = node.topics.get(&"orders".parse().unwrap()).unwrap();
    let log = node.shards.log(&orders, forebay_log::model::PartitionId::new(1)).unwrap();
    assert!(log.usage().size_bytes > 0);
    call(&node, Request::delete("/v1/topics/orders").body(Body::empty()).unwrap()).await.expect(204);
    assert_eq!((log.usage().size_bytes, log.usage().extents), (0, 0));
    for shard in node.routes.led_here() {
        shard.flush().await;
        assert!(shard.index().is_gone(orders.id));
        assert_eq!(shard.index().log(log.partition()).high_watermark().get(), 0);
    }
}

#[tokio::test]
async fn a_long_id_is_on_the_last_record_of_a_chunk() {
    let node = with_orders(40).await;
    let orders = node.topics.get(&"orders".parse().unwrap()).unwrap();
    append(&node, &orders, (0..3).map(|n| record(0, &n.to_string()))).await;
    let mut events = Events::open(&node, &format!("{RECORDS}?after=earliest"), None).await;
    let ids = [events.record().await.1, events.record().await.1, events.record().await.1];
    assert_eq!((ids[0].as_str(), ids[1].as_str()), ("", ""));
    assert!(ids[2].len() > limits::SSE_ID_LEN_MAX);
    append(&node, &orders, [record(39, "3")]).await;
    let mut resumed = Events::open(&node, RECORDS, Some(&ids[2])).await;
    assert_eq!(resumed.record().await.0, 3);
}

#[tokio::test]
async fn an_id_with_the_end_mark_stops_a_client_and_a_damaged_one_is_no_silent_latest() {
    let node = with_orders(1).await;
    post_lines(&node, RECORDS, "1\n2\n").await.expect(201);
    let uri = format!("{RECORDS}?after=earliest&limit=1");
    let mut events = Events::open(&node, &uri, None).await;
    assert_eq!(events.record().await.0, 1);
    let end = events.next().await.unwrap();
    assert_eq!(end.name, "end");
    let resume = async |id: &[u8]| {
        let request = Request::get(&uri).header("accept", "text/event-stream").header("last-event-id", id);
        call(&node, request.body(Body::empty()).unwrap()).await
    };
    resume(end.id.as_bytes()).await.expect(204);
    assert_eq!(resume(b"k7.\xff").await.expect(400).json()["code"], "bad-cursor");
}

#[tokio::test(start_paused = true)]
async fn progress_through_a_filter_is_told_but_not_with_every_record() {
    let node = with_orders(1).await;
    let orders = node.topics.get(&"orders".parse().unwrap()).unwrap();
    let mut events = Events::open(&node, &format!("{RECORDS}?key=none"), None).await;
    assert_eq!(events.next().await.unwrap().name, "open");
    assert_eq!(events.next().await.unwrap().name, "cursor");
    let begun = Instant::now();
    for n in 0..50 {
        append(&node, &orders, [record(0, &n.to_string())]).await;
        assert!(events.next().now_or_never().is_none());
    }
    let progress = events.next().await.unwrap();
    assert_eq!((progress.name.as_str(), progress.data.as_str()), ("cursor", "{\"caught_up\":true}"));
    assert!(progress.id.ends_with(".0-50"), "{progress:?}");
    assert!(begun.elapsed() <= limits::PROGRESS_INTERVAL);
}

#[tokio::test]
async fn a_followed_read_that_fails_is_cut_off_and_keeps_what_it_had() {
    let node = with_orders(1).await;
    post_lines(&node, RECORDS, "1\n").await.expect(201);
    let uri = format!("{RECORDS}?follow=true&after=earliest");
    let mut lines = open(&node, Request::get(uri).body(Body::empty()).unwrap()).await.into_body();
    let first: Bytes = lines.frame().await.unwrap().unwrap().into_data().unwrap();
    assert!(first.ends_with(b"}\n"));
    call(&node, Request::delete("/v1/topics/orders").body(Body::empty()).unwrap()).await.expect(204);
    assert!(lines.frame().await.unwrap().is_err(), "an end would say that there is no more");
}

#[tokio::test]
async fn a_version_of_a_topic_is_not_that_of_its_successor() {
    let node = with_orders(1).await;
    let etag = get(&node, "/v1/topics/orders").await.headers["etag"].clone();
    node.topics.delete(&"orders".parse().unwrap(), None).await.unwrap();
    topic(&node, "orders", 1).await;
    let request = Request::patch("/v1/topics/orders").header("if-match", etag);
    call(&node, request.body(Body::from("{\"partitions\":2}")).unwrap()).await.expect(412);
}

#[tokio::test]
async fn a_retry_gets_the_first_answer_again() {
    let clock = Arc::new(ManualClock::default());
    let node = node_at(1, clock.clone()).await;
    topic(&node, "orders", 2).await;
    let send = async || {
        let request = Request::post(RECORDS).header("content-type", "application/x-ndjson");
        call(&node, request.header("idempotency-key", "k").body(Body::from("1\n2\n")).unwrap()).await
    };
    let first = send().await.expect(201);
    clock.set(Timestamp::from_millis(60_000));
    assert_eq!(send().await.expect(201).json(), first.json());
}

#[tokio::test]
async fn a_record_that_is_a_page_cannot_act_as_one_of_this_site() {
    let node = with_orders(1).await;
    let page =
        Request::post(RECORDS).header("content-type", "text/html").body(Body::from("<script>1</script>"));
    call(&node, page.unwrap()).await.expect(201);
    let answer = get(&node, "/v1/topics/orders/partitions/0/records/0").await.expect(200);
    assert_eq!(answer.headers["content-type"], "text/html");
    assert!(answer.headers["content-security-policy"].to_str().unwrap().contains("sandbox"));
}
