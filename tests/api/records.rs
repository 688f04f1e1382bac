//! One record by its offset.

use harness::Server;
use serde_json::json;

#[tokio::test]
async fn a_record_is_its_bytes_with_its_type_and_never_changes() {
    let server = Server::start().await;
    server.create_topic("files", json!({})).await;
    let bytes: &[u8] = b"\x89PNG\r\n\x1a\n\x00";
    let produce = server.post("/v1/topics/files/records?key=logo").header("content-type", "image/png");
    produce.body(bytes).await.expect(201);
    let path = "/v1/topics/files/partitions/0/records/0";
    let answer = server.get(path).await.expect(200);
    assert_eq!(&answer.body[..], bytes);
    assert_eq!(answer.header("content-type"), "image/png");
    assert!(answer.header("cache-control").contains("private"), "{:?}", answer.headers);
    let etag = answer.header("etag");
    assert!(etag.starts_with('"'), "{etag}");
    let again = server.get(path).header("if-none-match", etag).await.expect(304);
    assert!(again.body.is_empty());
    server.get(path).header("if-none-match", "\"other\"").await.expect(200);
}

#[tokio::test]
async fn json_is_not_rewritten() {
    let server = Server::start().await;
    server.create_topic("orders", json!({})).await;
    let value = "{\"b\" : 1.10,  \"a\":12345678901234567890123}";
    server
        .post("/v1/topics/orders/records")
        .header("content-type", "application/json")
        .body(value)
        .await
        .expect(201);
    let answer = server.get("/v1/topics/orders/partitions/0/records/0").await.expect(200);
    assert_eq!(answer.text(), value);
    assert_eq!(answer.header("content-type"), "application/json");
    let page = server.get("/v1/topics/orders/records").await.expect(200).text();
    assert!(page.contains(value), "{page}");
}

#[tokio::test]
async fn a_missing_record_or_partition_is_not_found() {
    let server = Server::start().await;
    server.create_topic("orders", json!({})).await;
    server.get("/v1/topics/orders/partitions/0/records/0").await.problem(404, "record-not-found");
    server.get("/v1/topics/orders/partitions/7/records/0").await.problem(404, "partition-not-found");
    server.get("/v1/topics/none/partitions/0/records/0").await.problem(404, "topic-not-found");
    server.get("/v1/topics/orders/partitions/0/records/-1").await.problem(400, "bad-parameter");
}

/// Whoever copies a topic by its pages has the same topic: text stays text, and data does not turn into deletions.
#[tokio::test]
async fn what_a_page_reads_can_be_produced_again() {
    const COPY: &str = "/v1/topics/copy/records";
    let server = Server::start().await;
    server.create_topic("orders", json!({})).await;
    server.create_topic("copy", json!({})).await;
    let sent: [(&str, &str); 4] = [
        ("application/json", "null"),
        ("application/json", "\"quoted\""),
        ("text/plain", "plain"),
        ("text/plain", "null"),
    ];
    for (media, value) in sent {
        let call = server.post("/v1/topics/orders/records").header("content-type", media);
        call.body(value).await.expect(201);
    }
    server.post("/v1/topics/orders/records?tombstone=true&key=k").await.expect(201);
    let read = server.read_all("/v1/topics/orders/records").await;
    assert_eq!(read[0]["value_base64"], "bnVsbA==", "{}", read[0]);
    assert!(read[4].get("value").is_some_and(serde_json::Value::is_null), "{}", read[4]);
    for record in &read {
        let mut record = record.clone();
        for place in ["topic", "offset"] {
            record.as_object_mut().expect("a record is an object").remove(place);
        }
        let call = server.post(COPY).header("content-type", "application/vnd.forebay.records+json");
        call.body(json!({"records": [record]}).to_string()).await.expect(201);
    }
    for (offset, (_, value)) in sent.iter().enumerate() {
        let copied = server.get(&format!("/v1/topics/copy/partitions/0/records/{offset}")).await.expect(200);
        assert_eq!(copied.text(), *value, "{offset}");
    }
    server.get("/v1/topics/copy/partitions/0/records/4").await.expect(204);
}
