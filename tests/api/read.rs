//! Plain reads: pages, cursors, filters, long polls.

use harness::{Server, in_time};
use serde_json::{Value, json};

const RECORDS: &str = "/v1/topics/orders/records";

/// A topic of two partitions with the values 0 to 9: even ones in partition 0, odd ones in partition 1.
async fn server() -> Server {
    let server = Server::start().await;
    server.create_topic("orders", json!({"partitions": 2})).await;
    for value in 0..10 {
        let path = format!("{RECORDS}?partition={}&key=k{}", value % 2, value % 5);
        let call = server.post(&path).header("forebay-timestamp", &format!("2024-01-01T00:00:0{value}Z"));
        call.header("forebay-header-parity", if value % 2 == 0 { "even" } else { "odd" })
            .body(value.to_string())
            .await
            .expect(201);
    }
    server
}

fn values(records: &[Value]) -> Vec<u64> {
    let mut values: Vec<u64> =
        records.iter().map(|record| record["value"].as_u64().expect("a number")).collect();
    values.sort_unstable();
    values
}

async fn page(server: &Server, query: &str) -> Value {
    server.get(&format!("{RECORDS}?{query}")).await.expect(200).json()
}

async fn found(server: &Server, query: &str) -> Vec<u64> {
    values(page(server, query).await["records"].as_array().expect("a list"))
}

#[tokio::test]
async fn pages_cover_everything_once_and_keep_each_partitions_order() {
    let server = server().await;
    let (mut records, mut after) = (Vec::new(), "earliest".to_owned());
    for _ in 0..5 {
        let page = page(&server, &format!("limit=3&after={after}")).await;
        let found = page["records"].as_array().expect("a list");
        assert!(found.len() <= 3, "{page}");
        records.extend(found.clone());
        page["next"].as_str().expect("a cursor").clone_into(&mut after);
        assert_eq!(page["caught_up"], records.len() == 10, "{page}");
        if records.len() == 10 {
            break;
        }
    }
    assert_eq!(values(&records), (0..10).collect::<Vec<_>>());
    for partition in 0..2 {
        let offsets: Vec<u64> = records
            .iter()
            .filter(|r| r["partition"] == partition)
            .filter_map(|r| r["offset"].as_u64())
            .collect();
        assert_eq!(offsets, [0, 1, 2, 3, 4]);
    }
}

#[tokio::test]
async fn ndjson_holds_the_same_records_one_per_line() {
    let server = server().await;
    let answer = server.get(RECORDS).header("accept", "application/x-ndjson").await.expect(200);
    assert!(answer.header("content-type").starts_with("application/x-ndjson"), "{:?}", answer.headers);
    assert_eq!(json!(answer.json_lines()), page(&server, "").await["records"]);
}

#[tokio::test]
async fn max_bytes_bounds_a_page_but_never_to_nothing() {
    let server = server().await;
    let wide = found(&server, "max_bytes=1000000").await.len();
    let narrow = found(&server, "max_bytes=1").await.len();
    assert_eq!(wide, 10);
    assert!((1..10).contains(&narrow), "{narrow} records within one byte");
}

#[tokio::test]
async fn after_takes_positions_times_and_distances() {
    let server = server().await;
    assert_eq!(found(&server, "after=earliest").await.len(), 10);
    assert_eq!(found(&server, "after=latest").await, Vec::<u64>::new());
    assert_eq!(found(&server, "after=-2").await, [6, 7, 8, 9]);
    assert_eq!(found(&server, "after=-100").await.len(), 10);
    assert_eq!(found(&server, "after=2024-01-01T00:00:06Z").await, [6, 7, 8, 9]);
    assert_eq!(found(&server, "after=2030-01-01T00:00:00Z").await, Vec::<u64>::new());
    assert_eq!(found(&server, "after=2024-01-01T00:00:02Z&until=2024-01-01T00:00:05Z").await, [2, 3, 4]);
}

#[tokio::test]
async fn until_is_an_exclusive_end() {
    let server = server().await;
    let end = page(&server, "after=latest").await["next"].as_str().expect("a cursor").to_owned();
    server.post(RECORDS).body("10").await.expect(201);
    assert_eq!(found(&server, &format!("until={end}")).await, (0..10).collect::<Vec<_>>());
    let nothing = page(&server, &format!("after={end}&until={end}")).await;
    assert_eq!(nothing["records"], json!([]));
}

#[tokio::test]
async fn filters_are_exact_or_by_prefix() {
    let server = server().await;
    assert_eq!(found(&server, "partition=1").await, [1, 3, 5, 7, 9]);
    assert_eq!(found(&server, "key=k3").await, [3, 8]);
    assert_eq!(found(&server, "key=k*").await.len(), 10);
    assert_eq!(found(&server, "key=k").await, Vec::<u64>::new());
    assert_eq!(found(&server, "header.parity=odd").await, [1, 3, 5, 7, 9]);
    assert_eq!(found(&server, "header.parity=e*&key=k4").await, [4]);
    assert_eq!(found(&server, "header.absent=x").await, Vec::<u64>::new());
}

#[tokio::test]
async fn a_filtered_read_still_moves_its_cursor_to_the_end() {
    let server = server().await;
    let page = page(&server, "key=nobody").await;
    assert_eq!((&page["records"], &page["caught_up"]), (&json!([]), &json!(true)));
    let next = page["next"].as_str().expect("a cursor");
    server.post(&format!("{RECORDS}?key=nobody")).body("11").await.expect(201);
    assert_eq!(found(&server, &format!("after={next}")).await, [11]);
}

#[tokio::test]
async fn one_partition_is_read_by_offset() {
    let server = server().await;
    let path = "/v1/topics/orders/partitions/1/records?offset=3";
    let page = server.get(path).await.expect(200).json();
    assert_eq!(values(page["records"].as_array().expect("a list")), [7, 9]);
    let beyond = server.get("/v1/topics/orders/partitions/1/records?offset=5").await.expect(200).json();
    assert_eq!(beyond["records"], json!([]));
}

#[tokio::test]
async fn a_page_below_the_tail_can_be_cached_and_the_tail_can_not() {
    let server = server().await;
    let below = "/v1/topics/orders/partitions/0/records?offset=0&limit=2";
    let answer = server.get(below).await.expect(200);
    assert!(answer.header("etag").starts_with('"'), "{:?}", answer.headers);
    assert!(answer.header("cache-control").contains("private"), "{:?}", answer.headers);
    server.get(below).header("if-none-match", answer.header("etag")).await.expect(304);
    let tail = server.get("/v1/topics/orders/partitions/0/records?offset=0").await.expect(200);
    assert!(!tail.header("cache-control").contains("max-age=3600"), "{:?}", tail.headers);
}

#[tokio::test]
async fn a_long_poll_wakes_when_a_record_comes() {
    let server = server().await;
    let next = page(&server, "after=latest").await["next"].as_str().expect("a cursor").to_owned();
    let path = format!("{RECORDS}?after={next}&wait=60s");
    let poll = tokio::spawn({
        let call = server.get(&path);
        async move { call.try_send().await }
    });
    server.post(RECORDS).body("10").await.expect(201);
    let answer = in_time("the long poll wakes long before its 60 s", poll)
        .await
        .expect("no panic")
        .expect("an answer");
    assert_eq!(values(answer.expect(200).json()["records"].as_array().expect("a list")), [10]);
}

#[tokio::test]
async fn a_long_poll_without_news_answers_an_empty_page_and_the_same_cursor() {
    let server = server().await;
    let next = page(&server, "after=latest").await["next"].clone();
    let query = format!("after={}&wait=1s", next.as_str().expect("a cursor"));
    assert_eq!(page(&server, &query).await, json!({"records": [], "next": next, "caught_up": true}));
}

#[tokio::test]
async fn follow_is_ndjson_without_end() {
    let server = server().await;
    let url = format!("{}{RECORDS}?follow=true&after=earliest", server.url());
    let call = reqwest::Client::new().get(url).header("accept", "application/x-ndjson").send();
    let mut response = in_time("the answer begins", call).await.expect("an answer");
    assert_eq!(response.status(), 200);
    let (mut body, mut produced) = (Vec::new(), false);
    while body.iter().filter(|&&byte| byte == b'\n').count() < 11 {
        let chunk = in_time("the next record", response.chunk()).await.expect("the stream is open");
        body.extend_from_slice(&chunk.expect("the stream goes on"));
        if !produced && body.iter().filter(|&&byte| byte == b'\n').count() == 10 {
            produced = true;
            server.post(RECORDS).body("10").await.expect(201);
        }
    }
    let records: Vec<Value> =
        body.split(|&b| b == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect();
    assert_eq!(values(&records), (0..11).collect::<Vec<_>>());
}

#[tokio::test]
async fn at_least_reads_your_own_writes() {
    let server = server().await;
    for value in 10..30 {
        let receipt = server.post(RECORDS).body(value.to_string()).await.expect(201).json();
        let cursor = receipt["cursor"].as_str().expect("a cursor");
        assert!(found(&server, &format!("at_least={cursor}&limit=100")).await.contains(&value));
    }
}

#[tokio::test]
async fn bare_values_are_byte_exact() {
    let server = Server::start().await;
    server.create_topic("orders", json!({})).await;
    let lines = ["{\"id\" : 1.0}".to_owned(), "{ \"id\":2 }".to_owned()];
    server.produce_lines(RECORDS, &lines).await;
    let call = server.get(&format!("{RECORDS}?format=value")).header("accept", "application/x-ndjson");
    assert_eq!(call.await.expect(200).text(), "{\"id\" : 1.0}\n{ \"id\":2 }\n");
}

#[tokio::test]
async fn one_odd_record_does_not_fail_a_read() {
    let server = Server::start().await;
    server.create_topic("orders", json!({})).await;
    for body in [&b"plain"[..], b"\xff\xfe", b"{\"a\":\r\n1}", b"", b"\"quoted\"", b"{broken", b"null"] {
        server.post(RECORDS).body(body).await.expect(201);
    }
    let records = server.read_all(RECORDS).await;
    let values: Vec<&Value> = records.iter().map(|record| &record["value"]).collect();
    let expected = [
        json!("plain"),
        Value::Null,
        json!({"a": 1}),
        json!(""),
        json!("quoted"),
        json!("{broken"),
        Value::Null,
    ];
    assert_eq!(values, expected.iter().collect::<Vec<_>>());
    assert_eq!(records[1]["value_base64"], "//4=");
    assert!(records[1].get("value").is_none(), "{}", records[1]);
}

#[tokio::test]
async fn many_topics_are_read_on_one_connection_and_resumed_by_one_cursor() {
    let server = Server::start().await;
    for topic in ["a", "b"] {
        server.create_topic(topic, json!({"partitions": 2})).await;
        for value in 0..4 {
            let path = format!("/v1/topics/{topic}/records?partition={}", value % 2);
            server.post(&path).body(value.to_string()).await.expect(201);
        }
    }
    let (records, cursor) = server.read_on("/v1/records?topics=a,b", None).await;
    for topic in ["a", "b"] {
        let of_topic: Vec<Value> =
            records.iter().filter(|record| record["topic"] == topic).cloned().collect();
        assert_eq!(values(&of_topic), [0, 1, 2, 3], "{topic}");
    }
    server.post("/v1/topics/b/records").body("9").await.expect(201);
    let (records, _) = server.read_on("/v1/records?topics=a,b", Some(cursor)).await;
    assert_eq!(values(&records), [9]);
    server.get("/v1/records?topics=a,none").await.problem(404, "topic-not-found");
}

#[tokio::test]
async fn a_cursor_of_one_partition_is_refused_by_a_wider_read() {
    let server = server().await;
    let page = server.get("/v1/topics/orders/partitions/1/records?limit=1").await.expect(200).json();
    let next = page["next"].as_str().expect("a cursor");
    assert_eq!(found(&server, &format!("partition=1&after={next}")).await, [3, 5, 7, 9]);
    server.get(&format!("{RECORDS}?after={next}")).await.problem(400, "bad-cursor");
}

#[tokio::test]
async fn a_cursor_above_the_high_watermark_is_an_empty_page_with_the_same_cursor() {
    let server = Server::start().await;
    server.create_topic("orders", json!({})).await;
    let next = page(&server, "after=earliest").await["next"].as_str().expect("a cursor").to_owned();
    let (start, offset) = next.rsplit_once('-').expect("the documented form");
    assert_eq!(offset, "0");
    let ahead = format!("{start}-1000");
    let page = page(&server, &format!("after={ahead}")).await;
    assert_eq!((&page["records"], &page["next"]), (&json!([]), &json!(ahead)));
}

#[tokio::test]
async fn a_cursor_of_an_earlier_topic_of_that_name_is_gone() {
    let server = server().await;
    let next = page(&server, "").await["next"].as_str().expect("a cursor").to_owned();
    server.delete("/v1/topics/orders").await.expect(204);
    server.create_topic("orders", json!({"partitions": 2})).await;
    let problem = server.get(&format!("{RECORDS}?after={next}")).await.problem(410, "topic-recreated");
    assert!(problem["earliest"].is_string(), "{problem}");
}

#[tokio::test]
async fn offsets_are_found_by_time() {
    let server = server().await;
    for (at, expected) in [("earliest", 10), ("latest", 0), ("2024-01-01T00:00:07Z", 3)] {
        let body = server.get(&format!("/v1/topics/orders/offsets?at={at}")).await.expect(200).json();
        let cursor = body["cursor"].as_str().unwrap_or_else(|| panic!("a cursor: {body}"));
        assert_eq!(found(&server, &format!("after={cursor}")).await.len(), expected, "{at}");
    }
}
