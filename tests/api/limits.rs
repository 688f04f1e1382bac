//! Overload: what is past a limit is refused at once, says when to come back, and harms nobody else.

use std::collections::BTreeSet;

use futures::StreamExt as _;
use harness::{Answer, Options, Server, eventually, in_time};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const RECORDS: &str = "/v1/topics/orders/records";

async fn server(flag: &str, limit: usize) -> Server {
    let args = vec![flag.into(), limit.to_string().into()];
    let server = Server::start_with(Options { args }).await;
    server.create_topic("orders", json!({})).await;
    server
}

/// Checks that a refusal says what is used up and when to come back.
#[track_caller]
fn check_refusal(answer: &Answer, name: &str, limit: usize) {
    let problem = answer.problem(503, "overloaded");
    assert_eq!((&problem["retryable"], &problem["effect"]), (&json!(true), &json!("none")), "{problem}");
    let wait: u64 = answer.header("retry-after").parse().expect("a number of seconds");
    assert!((1..=10).contains(&wait), "{wait}");
    let policy = format!("\"{name}\";q={limit};qu=\"concurrent-requests\"");
    assert_eq!(answer.header("ratelimit-policy"), policy);
    assert_eq!(answer.header("ratelimit"), format!("\"{name}\";r=0"));
}

/// Begins a produce whose body is still to come, and waits until the server asks for the body: then it has its place.
async fn slow_produce(server: &Server) -> TcpStream {
    let mut stream = TcpStream::connect(server.address()).await.expect("the server takes connections");
    let head = format!(
        "POST {RECORDS} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nexpect: 100-continue\r\n\
         transfer-encoding: chunked\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.expect("the server reads");
    let asked = b"HTTP/1.1 100 Continue\r\n\r\n";
    let mut answer = vec![0; asked.len()];
    let read = in_time("the server asks for the body", stream.read_exact(&mut answer)).await;
    read.expect("the server answers");
    assert_eq!(answer, asked, "{}", String::from_utf8_lossy(&answer));
    stream
}

#[tokio::test]
async fn requests_past_the_limit_are_refused_at_once_and_the_others_end_well() {
    const LIMIT: usize = 4;
    let server = server("--max-requests", LIMIT).await;
    let mut busy = Vec::new();
    for _ in 0..LIMIT {
        busy.push(slow_produce(&server).await);
    }
    check_refusal(&server.get(RECORDS).await, "requests", LIMIT);
    check_refusal(&server.post(RECORDS).body("x").await, "requests", LIMIT);
    let mut events = server.get(RECORDS).stream().await;
    let event = events.next().await.expect("an event");
    assert_eq!((event.name.as_str(), &event.json()["code"]), ("problem", &json!("overloaded")));
    assert!(events.parser().retry().is_some_and(|retry| retry >= 1000), "{event:?}");
    assert_eq!(events.next().await, None);
    for path in ["/livez", "/readyz"] {
        server.get(path).await.expect(200);
    }
    for mut stream in busy {
        stream.write_all(b"6\r\nstored\r\n0\r\n\r\n").await.expect("the request is under way");
        let mut answer = String::new();
        in_time("the answer", stream.read_to_string(&mut answer)).await.expect("it is text");
        assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    }
    assert_eq!(server.read_all(RECORDS).await.len(), LIMIT);
}

#[tokio::test]
async fn a_flood_meets_only_success_and_refusal_and_leaves_the_server_well() {
    let server = server("--max-requests", 8).await;
    let calls = (0..2000).map(|number| server.post(RECORDS).body(number.to_string()).try_send());
    let mut answers = futures::stream::iter(calls).buffer_unordered(200);
    let (mut stored, mut refused) = (0, 0);
    while let Some(answer) = in_time("an answer", answers.next()).await {
        let answer = answer.expect("every request gets an answer");
        match answer.status.as_u16() {
            201 => stored += 1,
            503 => refused += 1,
            _ => panic!("{}: {}", answer.status, answer.text()),
        }
    }
    println!("a flood of 2000 requests, 8 at a time: {stored} stored, {refused} refused");
    let records = server.read_all(RECORDS).await;
    let values: BTreeSet<_> = records.iter().filter_map(|record| record["value"].as_u64()).collect();
    assert_eq!((values.len(), records.len()), (stored, stored), "what was refused was not stored");
    assert!(stored > 0);
    server.post(RECORDS).body("after").await.expect(201);
}

#[tokio::test]
async fn streams_past_the_limit_are_refused_and_pages_are_not() {
    const LIMIT: usize = 2;
    let server = server("--max-streams", LIMIT).await;
    let mut open = Vec::new();
    for _ in 0..LIMIT {
        let mut stream = server.get(RECORDS).stream().await;
        stream.next_named("open").await;
        open.push(stream);
    }
    for query in ["after=a0.0-0", "lastEventId=a0.0-0&after=latest"] {
        let mut refused = server.get(&format!("{RECORDS}?{query}")).stream().await;
        let event = refused.next().await.expect("an event");
        assert_eq!((event.name.as_str(), event.id.as_str()), ("problem", "a0.0-0"), "the place sent is kept");
    }
    let refused = server.get(RECORDS).header("accept", "text/event-stream").await.expect(200);
    assert_eq!(refused.header("x-accel-buffering"), "no");
    let mut refused = server.get(RECORDS).header("last-event-id", "a0.0-0").stream().await;
    let event = refused.next().await.expect("an event");
    assert_eq!((event.name.as_str(), event.id.as_str()), ("problem", "a0.0-0"));
    assert_eq!((&event.json()["code"], &event.json()["limit"]), (&json!("overloaded"), &json!(LIMIT)));
    assert!(refused.parser().retry().is_some());
    assert_eq!(refused.next().await, None, "the stream closes");
    for query in ["follow=true", "after=latest&wait=20s"] {
        check_refusal(&server.get(&format!("{RECORDS}?{query}")).await, "streams", LIMIT);
    }
    server.post(RECORDS).body("1").await.expect(201);
    server.get(&format!("{RECORDS}?wait=20s")).await.expect(200);
    for stream in &mut open {
        stream.records(1).await;
    }
    open.pop();
    eventually("the place is free again", || async {
        let mut stream = server.get(RECORDS).stream().await;
        stream.next().await.filter(|event| event.name == "open")
    })
    .await;
}

/// An idle connection that was served.
async fn connection(server: &Server) -> TcpStream {
    let url = server.url();
    let address = url.strip_prefix("http://").expect("a URL");
    let mut stream = TcpStream::connect(address).await.expect("the server accepts");
    stream.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("the server reads");
    let mut answer = [0; 12];
    in_time("an answer", stream.read_exact(&mut answer)).await.expect("the server answers");
    assert_eq!(&answer, b"HTTP/1.1 200");
    stream
}

#[tokio::test]
async fn connections_past_the_limit_are_told_so_and_closed() {
    const LIMIT: usize = 3;
    let args = vec!["--max-connections".into(), LIMIT.to_string().into()];
    let server = Server::start_with(Options { args }).await;
    // The harness has one of them.
    let mut open = Vec::new();
    while open.len() < LIMIT - 1 {
        open.push(connection(&server).await);
    }
    let other = harness::Client::new(&server.url());
    let refused = other.get("/v1/topics").await;
    check_refusal(&refused, "connections", LIMIT);
    assert_eq!(refused.header("connection"), "close");
    let mut events = other.get("/v1/records?topics=a").stream().await;
    assert_eq!(events.next().await.expect("an event").name, "problem");
    open.pop();
    eventually("the place is free again", || async {
        other.get("/v1/topics").try_send().await.ok().filter(|answer| answer.status == 200)
    })
    .await;
}

#[tokio::test]
async fn a_head_past_its_size_is_refused() {
    let server = Server::start().await;
    let answer = server.get("/v1/topics").header("x", &"x".repeat(100 * 1024)).try_send().await;
    // A client that is still sending may find the connection closed.
    if let Ok(answer) = answer {
        answer.expect(431);
    }
    server.get(&format!("/v1/topics/{}", "x".repeat(20_000))).await.problem(400, "bad-parameter");
    server.get("/v1/topics").await.expect(200);
}
