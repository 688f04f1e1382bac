//! Producers that number their records: `Producer-Id`, `Producer-Epoch`, `Producer-Seq`.

use harness::{Answer, Call, Options, Server, eventually};
use serde_json::{Value, json};

const RECORDS: &str = "/v1/topics/orders/records";
const NDJSON: &str = "application/x-ndjson";

fn call(server: &Server, path: &str, epoch: u32, sequence: u64) -> Call {
    let call = server.post(path).header("producer-id", "p1").header("producer-epoch", &epoch.to_string());
    call.header("producer-seq", &sequence.to_string())
}

/// Sends one record per value, keyless.
async fn send(server: &Server, epoch: u32, sequence: u64, values: &[&str]) -> Answer {
    let lines = values.iter().map(|value| format!("\"{value}\"\n")).collect::<String>();
    call(server, RECORDS, epoch, sequence).header("content-type", NDJSON).body(lines).await
}

async fn values(server: &Server) -> Vec<String> {
    let records = server.read_all(RECORDS).await;
    records.iter().map(|record| record["value"].as_str().expect("a string").to_owned()).collect()
}

async fn server(partitions: u16) -> Server {
    let server = Server::start().await;
    server.create_topic("orders", json!({ "partitions": partitions })).await;
    server
}

#[tokio::test]
async fn a_producer_goes_on_where_it_ended_and_a_retry_is_answered_as_the_first_time() {
    let server = server(4).await;
    let first = send(&server, 0, 100, &["a", "b"]).await.expect(201).json();
    let second = send(&server, 0, 102, &["c"]).await.expect(201).json();
    assert_eq!(first["records"][0]["partition"], second["records"][0]["partition"], "one partition for all");
    for (sequence, values, answer) in [(100, &["a", "b"][..], &first), (102, &["c"], &second)] {
        let again = send(&server, 0, sequence, values).await.expect(200);
        assert_eq!(again.header("idempotency-replayed"), "true");
        assert_eq!(&again.json(), answer);
    }
    assert_eq!(values(&server).await, ["a", "b", "c"]);
}

#[tokio::test]
async fn what_is_neither_next_nor_a_retry_is_a_gap_with_the_sequence_that_is_expected() {
    let server = server(1).await;
    send(&server, 0, 0, &["a", "b", "c"]).await.expect(201);
    for (sequence, values) in [(4, &["x"][..]), (1, &["b"]), (2, &["c"]), (4_294_967_295, &["x"])] {
        let problem = send(&server, 0, sequence, values).await.problem(409, "sequence-gap");
        assert_eq!(problem["expected_sequence"], 3, "{problem}");
        assert_eq!((&problem["effect"], &problem["retryable"]), (&json!("none"), &json!(false)));
        assert_eq!(problem["kafka_error"], "OUT_OF_ORDER_SEQUENCE_NUMBER");
    }
    for other in [&["a"][..], &["a", "b", "other"]] {
        let problem = send(&server, 0, 0, other).await.problem(422, "idempotency-mismatch");
        assert_eq!(problem["effect"], "none");
    }
    send(&server, 0, 3, &["d"]).await.expect(201);
    assert_eq!(values(&server).await, ["a", "b", "c", "d"]);
}

#[tokio::test]
async fn a_newer_epoch_begins_anew_and_shuts_the_older_out() {
    let server = server(1).await;
    send(&server, 0, 0, &["a"]).await.expect(201);
    send(&server, 2, 0, &["b"]).await.expect(201);
    for (epoch, sequence) in [(0, 1), (1, 1), (0, 0)] {
        let problem = send(&server, epoch, sequence, &["a"]).await.problem(403, "producer-fenced");
        assert_eq!((&problem["current_epoch"], &problem["effect"]), (&json!(2), &json!("none")));
        assert_eq!(problem["kafka_error"], "INVALID_PRODUCER_EPOCH");
    }
    send(&server, 2, 0, &["b"]).await.expect(200);
    send(&server, 32_767, 4_294_967_295, &["c"]).await.expect(201);
    send(&server, 32_767, 0, &["d"]).await.expect(201);
    assert_eq!(values(&server).await, ["a", "b", "c", "d"]);
}

#[tokio::test]
async fn sequences_are_those_of_a_partition() {
    let server = server(3).await;
    for partition in [0, 1, 2] {
        let path = format!("/v1/topics/orders/partitions/{partition}/records");
        call(&server, &path, 0, 10 * partition).body("x").await.expect(201);
        call(&server, &format!("{RECORDS}?partition={partition}"), 0, 10 * partition + 1)
            .body("y")
            .await
            .expect(201);
        let problem = call(&server, &path, 0, 7).body("z").await.problem(409, "sequence-gap");
        assert_eq!(problem["expected_sequence"], 10 * partition + 2);
    }
    // A key chooses the partition; records of several need one to be named.
    call(&server, &format!("{RECORDS}?key=a"), 1, 0).body("x").await.expect(201);
    let lines = "{\"k\":\"a\"}\n{\"k\":\"b\"}\n{\"k\":\"c\"}\n{\"k\":\"d\"}\n{\"k\":\"e\"}\n";
    let keyed = |query: &str| {
        let path = format!("{RECORDS}?key_path=/k{query}");
        call(&server, &path, 2, 0).header("content-type", NDJSON).body(lines)
    };
    let problem = keyed("").await.problem(400, "bad-parameter");
    assert_eq!((&problem["parameter"], &problem["effect"]), (&json!("partition"), &json!("none")));
    assert_eq!(keyed("&partition=1").await.expect(201).json()["records"][4]["partition"], 1);
}

#[tokio::test]
async fn a_long_body_counts_on_over_its_units_and_is_completed_by_sending_it_again() {
    let server = server(2).await;
    let lines = |bad: bool| {
        let line = |number: u32| if bad && number == 25_000 { "{".to_owned() } else { number.to_string() };
        (0..30_000).map(|number| line(number) + "\n").collect::<String>()
    };
    let post = |sequence, body: String| {
        call(&server, RECORDS, 0, sequence).header("content-type", NDJSON).body(body)
    };
    let problem = post(5, lines(true)).await.problem(400, "bad-json");
    assert_eq!(
        (&problem["effect"], &problem["stored_lines"]),
        (&json!("partial"), &json!(20_000)),
        "{problem}"
    );
    post(5, lines(false)).await.expect(201);
    assert_eq!(post(5, lines(false)).await.expect(200).json()["count"], 30_000);
    let problem = post(30_000, "1".to_owned()).await.problem(409, "sequence-gap");
    assert_eq!(problem["expected_sequence"], 30_005);
    let found: Vec<Value> =
        server.read_all(RECORDS).await.iter().map(|record| record["value"].clone()).collect();
    assert_eq!(found, (0..30_000).map(Value::from).collect::<Vec<_>>());
}

#[tokio::test]
async fn requests_that_arrive_at_the_same_time_are_taken_in_sequence_or_told_what_is_expected() {
    let server = server(1).await;
    let one = async |sequence: u64| loop {
        let answer = send(&server, 0, sequence, &[&sequence.to_string()]).await;
        match answer.status.as_u16() {
            200 | 201 => break,
            _ => assert!(answer.problem(409, "sequence-gap")["expected_sequence"].as_u64() < Some(sequence)),
        }
    };
    send(&server, 0, 0, &["0"]).await.expect(201);
    futures::future::join_all((1..20).map(one)).await;
    assert_eq!(values(&server).await, (0..20).map(|number| number.to_string()).collect::<Vec<_>>());
}

/// From the journal after a kill, from the log after a stop, from a snapshot after a roll.
#[tokio::test]
async fn what_is_known_of_a_producer_survives_a_kill_a_restart_and_a_roll() {
    let args = ["--flush-linger", "0s"].map(Into::into).to_vec();
    let mut server = Server::start_with(Options { args }).await;
    server.create_topic("orders", json!({})).await;
    let first = send(&server, 1, 0, &["a", "b"]).await.expect(201).json();
    let check = async |server: &Server, when: &str| {
        assert_eq!(send(server, 1, 0, &["a", "b"]).await.expect(200).json(), first, "{when}");
        send(server, 1, 0, &["other"]).await.problem(422, "idempotency-mismatch");
        let problem = send(server, 1, 9, &["x"]).await.problem(409, "sequence-gap");
        assert_eq!(problem["expected_sequence"], 2, "{when}");
        send(server, 0, 2, &["x"]).await.problem(403, "producer-fenced");
    };
    server.kill9().await;
    server.restart().await;
    check(&server, "after a kill").await;
    assert!(server.terminate().await.success());
    server.restart().await;
    check(&server, "after a stop").await;
    // More objects than a start leaves unrolled.
    for number in 0..80 {
        server.post(&format!("{RECORDS}?key=k")).body(number.to_string()).await.expect(201);
    }
    server.kill9().await;
    server.restart().await;
    let snapshots = server.data_dir().join("store/shards/0000/snapshots");
    let held = || std::fs::read_dir(&snapshots).is_ok_and(|mut files| files.next().is_some());
    eventually("a roll", || async { held().then_some(()) }).await;
    check(&server, "after a roll").await;
    for graceful in [false, true] {
        if graceful {
            assert!(server.terminate().await.success());
        } else {
            server.kill9().await;
        }
        server.restart().await;
        check(&server, "from a snapshot").await;
    }
    send(&server, 1, 2, &["c"]).await.expect(201);
}

#[tokio::test]
async fn headers_that_do_not_name_a_producer_and_its_place_are_refused() {
    let server = server(1).await;
    let long = "x".repeat(257);
    let cases: [(&[(&str, &str)], &str); 12] = [
        (&[("producer-id", "p")], "Producer-Seq"),
        (&[("producer-seq", "0")], "Producer-Seq"),
        (&[("producer-epoch", "0")], "Producer-Epoch"),
        (&[("producer-id", ""), ("producer-seq", "0")], "Producer-Id"),
        (&[("producer-id", "a b"), ("producer-seq", "0")], "Producer-Id"),
        (&[("producer-id", &long), ("producer-seq", "0")], "Producer-Id"),
        (&[("producer-id", "p"), ("producer-seq", "-1")], "Producer-Seq"),
        (&[("producer-id", "p"), ("producer-seq", "+1")], "Producer-Seq"),
        (&[("producer-id", "p"), ("producer-seq", "4294967296")], "Producer-Seq"),
        (&[("producer-id", "p"), ("producer-seq", "0"), ("producer-epoch", "32768")], "Producer-Epoch"),
        (&[("producer-id", "p"), ("producer-seq", "0"), ("idempotency-key", "k")], "Idempotency-Key"),
        (&[("producer-seq", "0"), ("idempotency-key", "k")], "Producer-Seq"),
    ];
    for (headers, at_fault) in cases {
        let call = headers.iter().fold(server.post(RECORDS), |call, (name, value)| call.header(name, value));
        let problem = call.body("x").await.problem(400, "bad-parameter");
        assert_eq!(
            (&problem["header"], &problem["effect"]),
            (&json!(at_fault), &json!("none")),
            "{headers:?}"
        );
    }
    assert!(values(&server).await.is_empty());
}
