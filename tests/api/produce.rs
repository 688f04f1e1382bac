//! Produce: formats, keys, headers, receipts, durability.

use std::io::Write;

use harness::{Server, in_time};
use serde_json::{Value, json};

const RECORDS: &str = "/v1/topics/orders/records";

async fn server() -> Server {
    let server = Server::start().await;
    server.create_topic("orders", json!({"partitions": 4})).await;
    server
}

/// The one record of the topic.
async fn only_record(server: &Server) -> Value {
    let mut records = server.read_all(RECORDS).await;
    assert_eq!(records.len(), 1, "{records:?}");
    records.remove(0)
}

#[tokio::test]
async fn a_body_of_any_type_is_one_record_and_keeps_its_type() {
    let server = server().await;
    server.post(RECORDS).header("content-type", "text/csv").body("a,b\n1,2\n").await.expect(201);
    let record = only_record(&server).await;
    assert_eq!(record["value"], "a,b\n1,2\n");
    assert_eq!(record["headers"]["content-type"], "text/csv");
}

#[tokio::test]
async fn curls_form_type_is_not_kept() {
    let server = server().await;
    let form = "application/x-www-form-urlencoded";
    server.post(RECORDS).header("content-type", form).body("a=1&b=2").await.expect(201);
    let record = only_record(&server).await;
    assert_eq!(record["value"], "a=1&b=2");
    assert!(record["headers"]["content-type"].is_null(), "{record}");
}

#[tokio::test]
async fn ndjson_is_one_record_per_line_in_order() {
    let server = server().await;
    let body = "{\"id\":1}\r\n\n {\"id\":2}\n[3]";
    let receipt = server
        .post(RECORDS)
        .header("content-type", "application/x-ndjson")
        .body(body)
        .await
        .expect(201)
        .json();
    let offsets: Vec<u64> =
        receipt["records"].as_array().expect("a list").iter().filter_map(|r| r["offset"].as_u64()).collect();
    assert_eq!(offsets, [0, 1, 2], "{receipt}");
    let values: Vec<Value> =
        server.read_all(RECORDS).await.iter().map(|record| record["value"].clone()).collect();
    assert_eq!(values, [json!({"id": 1}), json!({"id": 2}), json!([3])]);
}

#[tokio::test]
async fn record_objects_carry_key_headers_timestamp_and_partition() {
    let server = server().await;
    let object = json!({
        "key": "u1", "value": {"id": 7}, "headers": {"trace": "abc"},
        "timestamp": "2024-05-06T07:08:09.123Z", "partition": 2,
    });
    for (media, body) in [
        ("application/vnd.forebay.records+json", json!({"records": [object]}).to_string()),
        ("application/vnd.forebay.records+x-ndjson", format!("{object}\n")),
    ] {
        server.post(RECORDS).header("content-type", media).body(body).await.expect(201);
    }
    let records = server.read_all(RECORDS).await;
    assert_eq!(records.len(), 2);
    for (offset, record) in records.iter().enumerate() {
        let expected = json!({
            "topic": "orders", "partition": 2, "offset": offset, "timestamp": "2024-05-06T07:08:09.123Z",
            "key": "u1", "value": {"id": 7}, "headers": {"trace": "abc"},
        });
        assert_eq!(record, &expected);
    }
}

#[tokio::test]
async fn base64_values_are_byte_exact() {
    let server = server().await;
    let body = json!({"records": [{"key": "k", "value_base64": "AP+A"}]}).to_string();
    let media = "application/vnd.forebay.records+json";
    server.post(RECORDS).header("content-type", media).body(body).await.expect(201);
    let record = only_record(&server).await;
    assert_eq!(record["value_base64"], "AP+A");
    assert!(record.get("value").is_none(), "{record}");
    let path = format!("/v1/topics/orders/partitions/{}/records/0", record["partition"]);
    assert_eq!(&server.get(&path).await.expect(200).body[..], [0x00, 0xff, 0x80]);
}

#[tokio::test]
async fn query_and_headers_say_what_a_single_record_carries() {
    let server = server().await;
    let by_query = format!("{RECORDS}?key=u%201&partition=1&timestamp=2024-05-06T07:08:09Z");
    server.post(&by_query).body("x").await.expect(201);
    let by_header = server.post(RECORDS).header("forebay-key", "u 1").header("forebay-partition", "1");
    let by_header =
        by_header.header("forebay-timestamp", "2024-05-06T07:08:09Z").header("forebay-header-trace", "abc");
    by_header.body("x").await.expect(201);
    let records = server.read_all(RECORDS).await;
    for record in &records {
        assert_eq!((&record["key"], &record["partition"]), (&json!("u 1"), &json!(1)));
        assert!(
            record["timestamp"].as_str().is_some_and(|time| time.starts_with("2024-05-06T07:08:09")),
            "{record}"
        );
    }
    assert_eq!(records[1]["headers"]["trace"], "abc");
}

/// Kafka's own test vectors: murmur2 of these keys, modulo 4, by its Java client.
#[tokio::test]
async fn keys_go_where_kafkas_java_client_sends_them() {
    let server = server().await;
    for (key, hash) in
        [("21", -973_932_308_i32), ("foobar", -790_332_482), ("a-little-bit-long-string", -985_981_536)]
    {
        let receipt = server.post(&format!("{RECORDS}?key={key}")).body("x").await.expect(201).json();
        assert_eq!(receipt["records"][0]["partition"], (hash & 0x7fff_ffff) % 4, "{key}");
    }
}

#[tokio::test]
async fn key_path_takes_the_key_from_each_line() {
    let server = server().await;
    let lines = ["{\"user\":{\"id\":\"a\"}}", "{\"user\":{\"id\":\"b\"}}", "{\"user\":{\"id\":\"a\"}}"];
    server.produce_lines(&format!("{RECORDS}?key_path=/user/id"), &lines.map(str::to_owned)).await;
    for record in server.read_all(RECORDS).await {
        assert_eq!(record["key"], record["value"]["user"]["id"]);
    }
}

#[tokio::test]
async fn null_and_the_tombstone_parameter_delete_a_key() {
    let server = server().await;
    let media = "application/vnd.forebay.records+json";
    let body = json!({"records": [{"key": "k", "value": null}]}).to_string();
    server.post(RECORDS).header("content-type", media).body(body).await.expect(201);
    server.post(&format!("{RECORDS}?tombstone=true&key=k")).await.expect(201);
    let records = server.read_all(RECORDS).await;
    assert_eq!(records.len(), 2);
    for record in records {
        assert_eq!(record["key"], "k");
        assert!(record.get("value").is_some_and(Value::is_null), "a tombstone shows as null: {record}");
    }
}

#[tokio::test]
async fn a_receipt_names_every_record_up_to_a_hundred_and_sums_up_above() {
    let server = server().await;
    let lines: Vec<String> = (0..101).map(|number| number.to_string()).collect();
    let full = server.produce_lines(&format!("{RECORDS}?partition=0"), &lines[..100]).await;
    assert_eq!(full["records"].as_array().map(Vec::len), Some(100));
    assert_eq!(full["topic"], "orders");
    assert!(full["records"][0]["timestamp"].is_string() && full["cursor"].is_string(), "{full}");
    let summary = server.produce_lines(&format!("{RECORDS}?partition=0"), &lines).await;
    let expected = json!({"partition": 0, "base_offset": 100, "count": 101});
    assert!(summary.to_string().contains(&expected.to_string()), "{summary}");
    assert!(summary["records"].is_null(), "{summary}");
    let asked = server.produce_lines(&format!("{RECORDS}?partition=0&receipt=summary"), &lines[..1]).await;
    let expected = json!({"partition": 0, "base_offset": 201, "count": 1});
    assert!(asked.to_string().contains(&expected.to_string()), "{asked}");
}

#[tokio::test]
async fn a_local_receipt_is_provisional_and_names_no_offset() {
    let server = server().await;
    let receipt =
        server.post(&format!("{RECORDS}?durability=local&partition=2")).body("x").await.expect(201).json();
    assert_eq!(receipt["provisional"], true, "{receipt}");
    assert_eq!(receipt["records"][0]["partition"], 2);
    assert!(receipt["records"][0]["offset"].is_null() && receipt["cursor"].is_null(), "{receipt}");
    let page = server.get(&format!("{RECORDS}?after=earliest&wait=20s")).await.expect(200).json();
    assert_eq!(page["records"][0]["value"], "x");
}

#[tokio::test]
async fn compressed_bodies_are_stored_plain() {
    let server = server().await;
    let body = gzip(b"{\"id\":1}\n{\"id\":2}\n").await;
    let call = server
        .post(RECORDS)
        .header("content-type", "application/x-ndjson")
        .header("content-encoding", "gzip");
    call.body(body).await.expect(201);
    let values: Vec<Value> =
        server.read_all(RECORDS).await.iter().map(|record| record["value"].clone()).collect();
    assert_eq!(values, [json!({"id": 1}), json!({"id": 2})]);
}

async fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut file = tempfile::NamedTempFile::new().expect("the temporary folder can be written");
    file.write_all(bytes).expect("the temporary folder can be written");
    let gzip = tokio::process::Command::new("gzip").arg("-c").arg(file.path()).output();
    in_time("gzip", gzip).await.expect("gzip runs").stdout
}

#[tokio::test]
async fn the_format_parameter_stands_in_for_a_media_type() {
    let server = server().await;
    server.post(&format!("{RECORDS}?format=lines&partition=0")).body("one\n{broken\n").await.expect(201);
    server.post(&format!("{RECORDS}?format=ndjson&partition=0")).body("1\n2\n").await.expect(201);
    server.post(&format!("{RECORDS}?format=value&partition=0")).body("3\n4\n").await.expect(201);
    let values: Vec<Value> =
        server.read_all(RECORDS).await.iter().map(|record| record["value"].clone()).collect();
    assert_eq!(values, [json!("one"), json!("{broken"), json!(1), json!(2), json!("3\n4\n")]);
}

#[tokio::test]
async fn a_body_without_end_is_stored_whenever_it_pauses() {
    let server = Server::start().await;
    server.create_topic("orders", json!({})).await;
    let (lines, body) = tokio::sync::mpsc::channel::<&'static str>(1);
    let pieces = futures::stream::unfold(body, |mut body| async {
        let piece = body.recv().await?;
        Some((Ok::<_, std::io::Error>(piece), body))
    });
    let body = reqwest::Body::wrap_stream(pieces);
    let request = tokio::spawn({
        let call = server.post(&format!("{RECORDS}?format=lines")).body(body);
        async move { call.try_send().await }
    });
    let mut after = "earliest".to_owned();
    for (piece, expected) in [("one\n", vec!["one"]), ("two\nthree\n", vec!["two", "three"])] {
        lines.send(piece).await.expect("the request reads on");
        let page = server.get(&format!("{RECORDS}?after={after}&wait=60s")).await.expect(200).json();
        let found: Vec<Value> =
            page["records"].as_array().expect("a list").iter().map(|r| r["value"].clone()).collect();
        assert_eq!(found, expected, "while the request is open");
        page["next"].as_str().expect("a cursor").clone_into(&mut after);
    }
    drop(lines);
    let answer = request.await.expect("no panic").expect("an answer").expect(201).json();
    assert_eq!(answer["count"], 3, "{answer}");
}

#[tokio::test]
async fn curl_uploads_lines_with_put() {
    let server = Server::start().await;
    server.create_topic("logs", json!({})).await;
    let folder = tempfile::tempdir().expect("the temporary folder can be written");
    let file = folder.path().join("app.log");
    std::fs::write(&file, "one\ntwo\n").expect("it can be written");
    let url = format!("{}/v1/topics/logs/records?format=lines", server.url());
    let mut curl = std::process::Command::new("curl");
    curl.args(["-sS", "--fail", "-T", "-", &url]).stdin(std::fs::File::open(&file).expect("it was written"));
    let output = curl.output().expect("curl runs");
    assert!(output.status.success(), "{output:?}");
    let values: Vec<_> = server.read_all("/v1/topics/logs/records").await;
    assert_eq!(values.iter().map(|record| &record["value"]).collect::<Vec<_>>(), ["one", "two"]);
}
