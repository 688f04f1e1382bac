//! CloudEvents 1.0: produced in all three modes, read as pages, lines, streams and single records.

use harness::{Answer, Client, Server};
use serde_json::{Value, json};

const RECORDS: &str = "/v1/topics/orders/records";
const ONE: &str = "application/cloudevents+json";
const BATCH: &str = "application/cloudevents-batch+json";

async fn server() -> Server {
    let server = Server::start().await;
    server.create_topic("orders", json!({"partitions": 4})).await;
    server
}

fn event(id: &str, members: &Value) -> Value {
    let mut event = json!({"specversion": "1.0", "id": id, "source": "/shop", "type": "com.example.paid"});
    let more = members.as_object().expect("members").clone();
    event.as_object_mut().expect("an object").extend(more);
    event
}

async fn send(client: &Client, media_type: &str, body: &Value) -> Answer {
    client.post(RECORDS).header("content-type", media_type).body(body.to_string()).await
}

/// All events, without the extensions that say where they were read.
async fn read(client: &Client) -> Vec<Value> {
    let answer = client.get(RECORDS).header("accept", BATCH).await.expect(200);
    assert_eq!(answer.header("content-type"), BATCH);
    let mut events = answer.json();
    for event in events.as_array_mut().expect("a batch is a list") {
        let event = event.as_object_mut().expect("an event is an object");
        assert_eq!(event.remove("forebaytopic"), Some(json!("orders")));
        assert!(event.remove("forebaypartition").is_some_and(|partition| partition.is_u64()));
        assert!(event.remove("forebayoffset").is_some_and(|offset| offset.is_string()));
    }
    events.as_array().expect("a list").clone()
}

#[tokio::test]
async fn a_structured_event_comes_back_and_its_partitionkey_is_the_key() {
    let server = server().await;
    let sent = event(
        "1",
        &json!({"time": "2018-04-05T17:31:00.5+02:00", "partitionkey": "21", "data": {"b": 1, "a": [2]}}),
    );
    let receipt =
        send(&server, "application/cloudevents+json; charset=UTF-8", &sent).await.expect(201).json();
    assert_eq!(receipt["records"][0]["timestamp"], "2018-04-05T15:31:00.500Z", "the event's own time");
    assert_eq!(read(&server).await, [sent]);
    let record = server.read_all(RECORDS).await.remove(0);
    let partition = (-973_932_308_i32 & 0x7fff_ffff) % 4;
    assert_eq!((&record["key"], &record["partition"]), (&json!("21"), &json!(partition)));
    assert_eq!(record["headers"]["ce_time"], "2018-04-05T17:31:00.5+02:00");
    assert_eq!(record["value"], json!({"b": 1, "a": [2]}));
}

#[tokio::test]
async fn a_binary_event_is_its_body_and_its_headers_both_ways() {
    let server = server().await;
    let bytes: &[u8] = b"\x00\xffpng";
    let call = server.post(&format!("{RECORDS}?partition=1")).header("content-type", "image/png");
    let call =
        call.header("ce-specversion", "1.0").header("CE-ID", "\"a \\\"1\\\"\"").header("ce-source", "/shop");
    let call = call.header("ce-type", "com.example.paid").header("ce-subject", "Euro%20%e2%82%ac%20%25");
    call.header("forebay-header-trace", "t1").body(bytes).await.expect(201);

    let expected = event(
        "a \"1\"",
        &json!({"subject": "Euro € %", "datacontenttype": "image/png", "data_base64": "AP9wbmc="}),
    );
    assert_eq!(read(&server).await, [expected]);
    let record = server.get("/v1/topics/orders/partitions/1/records/0").await.expect(200);
    assert_eq!(&record.body[..], bytes);
    for (name, value) in [
        ("content-type", "image/png"),
        ("ce-specversion", "1.0"),
        ("ce-id", "a%20%221%22"),
        ("ce-source", "/shop"),
        ("ce-type", "com.example.paid"),
        ("ce-subject", "Euro%20%E2%82%AC%20%25"),
        ("forebay-header-trace", "t1"),
    ] {
        assert_eq!(record.header(name), value, "{name}");
    }
    assert!(!record.headers.keys().any(|name| name.as_str().starts_with("forebay-header-ce")));
    assert!(!record.headers.contains_key("ce-datacontenttype"));
}

#[tokio::test]
async fn a_batch_is_stored_in_order_and_an_empty_one_is_no_mistake() {
    let server = server().await;
    let sent = json!([
        event("1", &json!({"data": "text"})),
        event("2", &json!({"datacontenttype": "text/plain", "data": "te\nxt"})),
        event("3", &json!({"data_base64": "AP8="})),
        event("4", &json!({"subject": "no data"})),
    ]);
    let receipt = send(&server, BATCH, &sent).await.expect(201).json();
    assert_eq!(receipt["count"], 4);
    assert_eq!(json!(read(&server).await), sent);
    let receipt = send(&server, BATCH, &json!([])).await.expect(200).json();
    assert_eq!(receipt, json!({"topic": "orders", "records": [], "count": 0}));
}

#[tokio::test]
async fn the_format_parameter_stands_for_a_media_type_that_cannot_be_set() {
    let server = server().await;
    let path = format!("{RECORDS}?format=cloudevents&partition=0");
    let form = "application/x-www-form-urlencoded";
    for body in [event("1", &json!({})), json!([event("2", &json!({})), event("3", &json!({}))])] {
        server.post(&path).header("content-type", form).body(format!("\n {body}")).await.expect(201);
    }
    let lines = format!("{}\n\n{}\n", event("4", &json!({})), event("5", &json!({})));
    server.post(&path).header("content-type", "application/x-ndjson").body(lines).await.expect(201);
    let ids: Vec<_> = read(&server).await.iter().map(|event| event["id"].clone()).collect();
    assert_eq!(ids, ["1", "2", "3", "4", "5"]);
    let bad = format!("{}\n{{\"id\":1}}\n", event("6", &json!({})));
    let call = server.post(&path).header("content-type", "application/x-ndjson").body(bad).await;
    assert_eq!(call.problem(400, "bad-json")["line"], 2);
}

#[tokio::test]
async fn a_fault_names_event_and_attribute_and_nothing_is_stored() {
    let server = server().await;
    let bad = event("2", &json!({"source": "not a uri"}));
    let problem = send(&server, BATCH, &json!([event("1", &json!({})), bad])).await.problem(400, "bad-json");
    assert_eq!((&problem["attribute"], &problem["event"]), (&json!("source"), &json!(1)));
    assert_eq!(problem["effect"], "none");
    let problem = send(&server, ONE, &json!({"id": "1"})).await.problem(400, "bad-json");
    assert_eq!(problem["attribute"], "source");
    send(&server, ONE, &json!([])).await.problem(400, "bad-json");
    send(&server, BATCH, &json!({})).await.problem(400, "bad-json");
    let twice = r#"{"specversion":"1.0","id":"1","id":"2","source":"/","type":"t"}"#;
    let answer = server.post(RECORDS).header("content-type", ONE).body(twice).await;
    assert_eq!(answer.problem(400, "bad-json")["attribute"], "id");
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    server.post(RECORDS).header("content-type", BATCH).body(deep).await.problem(400, "bad-json");

    let binary = |name: &str, value: &str| {
        let call = server.post(RECORDS).header("ce-id", "1").header("ce-source", "/s").header("ce-type", "t");
        call.header(name, value).body("x")
    };
    let problem = binary("ce-x", "1").await.problem(400, "bad-parameter");
    assert_eq!(
        (&problem["attribute"], &problem["header"]),
        (&json!("specversion"), &json!("ce-specversion"))
    );
    for (name, value) in [("ce-id", "2"), ("ce-subject", "%C0%A0"), ("ce-datacontenttype", "text/plain")] {
        let answer = binary(name, value).header("ce-specversion", "1.0").await;
        assert_eq!(answer.problem(400, "bad-parameter")["header"], name);
    }
    let large = send(&server, ONE, &event("1", &json!({"x": "x".repeat(80 * 1024)}))).await;
    assert_eq!(large.problem(400, "bad-json")["attribute"], "x");
    let forged = binary("forebay-header-ce_y", "1").header("ce-specversion", "1.0").await;
    assert_eq!(forged.problem(400, "bad-parameter")["parameter"], "header");
    assert!(read(&server).await.is_empty());
}

#[tokio::test]
async fn a_batch_past_the_size_of_a_unit_is_refused_whole() {
    let server = server().await;
    let small: Vec<Value> = (0..10_001).map(|n| event(&n.to_string(), &json!({}))).collect();
    send(&server, BATCH, &Value::from(small)).await.problem(413, "too-large");
    let large: Vec<Value> =
        (0..9).map(|n| event(&n.to_string(), &json!({"data": "x".repeat(600_000)}))).collect();
    send(&server, BATCH, &Value::from(large)).await.problem(413, "too-large");
    assert!(read(&server).await.is_empty());
}

#[tokio::test]
async fn the_request_goes_before_the_event_in_key_and_time() {
    let server = server().await;
    let sent = event("1", &json!({"partitionkey": "a", "time": "2018-04-05T17:31:00Z"}));
    let path = format!("{RECORDS}?key=b&timestamp=2024-01-01T00:00:00Z&format=cloudevents");
    server.post(&path).body(sent.to_string()).await.expect(201);
    assert_eq!(read(&server).await, std::slice::from_ref(&sent), "the event stays as it is");
    let record = server.read_all(RECORDS).await.remove(0);
    assert_eq!((&record["key"], &record["timestamp"]), (&json!("b"), &json!("2024-01-01T00:00:00.000Z")));
    let future = event("2", &json!({"time": "9999-01-01T00:00:00Z"}));
    let receipt = send(&server, ONE, &future).await.expect(201).json();
    let stamped = receipt["records"][0]["timestamp"].as_str().expect("a time");
    assert!(stamped < "9000", "a time more than an hour ahead is not the record's: {stamped}");
    let call = server.post(&format!("{RECORDS}?format=cloudevents&tombstone=true&key=b"));
    call.body(sent.to_string()).await.problem(400, "bad-parameter");
}

#[tokio::test]
async fn a_retry_with_the_same_key_is_stored_once() {
    let server = server().await;
    let sent = json!([event("1", &json!({"partitionkey": "a"})), event("2", &json!({"partitionkey": "b"}))]);
    let call = || server.post(RECORDS).header("content-type", BATCH).header("idempotency-key", "k1");
    let first = call().body(sent.to_string()).await.expect(201).json();
    let again = call().body(sent.to_string()).await.expect(201);
    assert_eq!(again.header("idempotency-replayed"), "true");
    assert_eq!(again.json()["records"], first["records"]);
    assert_eq!(read(&server).await.len(), 2);
}

#[tokio::test]
async fn any_record_is_read_as_an_event_of_its_own_name() {
    let server = Server::start().await;
    server.create_topic("orders", json!({})).await;
    server.post(&format!("{RECORDS}?key=u1&header.trace=a1")).body("{\"id\": 7}").await.expect(201);
    server.post(RECORDS).body(&b"\xff"[..]).await.expect(201);
    server.post(&format!("{RECORDS}?tombstone=true&key=u1")).await.expect(201);
    let events = server.get(&format!("{RECORDS}?format=cloudevents")).await.expect(200);
    assert_eq!(events.header("content-type"), BATCH, "whoever takes anything gets a batch");
    let events = events.json();
    let first = &events[0];
    for (name, value) in [
        ("specversion", json!("1.0")),
        ("source", json!("/v1/topics/orders")),
        ("type", json!("forebay.record")),
        ("partitionkey", json!("u1")),
        ("trace", json!("a1")),
        ("datacontenttype", json!("application/json")),
        ("data", json!({"id": 7})),
        ("forebayoffset", json!("0")),
    ] {
        assert_eq!(first[name], value, "{name}");
    }
    assert_eq!(events[1]["data_base64"], "/w==");
    assert!(events[2].get("data").is_none());

    // The same offset of a topic made anew is another event.
    server.delete("/v1/topics/orders").await.expect(204);
    server.create_topic("orders", json!({})).await;
    server.post(RECORDS).body("x").await.expect(201);
    let anew = server.get(&format!("{RECORDS}?format=cloudevents")).await.expect(200).json();
    assert_ne!(anew[0]["id"], first["id"]);
}

#[tokio::test]
async fn accept_and_format_choose_container_and_form() {
    let server = server().await;
    send(&server, ONE, &event("1", &json!({"data": 1}))).await.expect(201);
    let path = format!("{RECORDS}?format=cloudevents");
    let page = server.get(&path).header("accept", "application/json").await.expect(200).json();
    assert_eq!((&page["records"][0]["id"], &page["caught_up"]), (&json!("1"), &json!(true)));
    let lines = server.get(&path).header("accept", "application/x-ndjson").await.expect(200);
    assert_eq!(lines.json_lines()[0]["type"], "com.example.paid");
    for format in ["value", "record"] {
        let path = format!("{RECORDS}?format={format}");
        server.get(&path).header("accept", BATCH).await.problem(406, "not-acceptable");
    }
    server.get(&format!("{RECORDS}?format=avro")).await.problem(400, "bad-parameter");
    let batch = server.get(RECORDS).header("accept", BATCH).await.expect(200);
    let rest = server.get(&format!("{RECORDS}?after={}", batch.header("forebay-next")));
    assert_eq!(rest.header("accept", BATCH).await.expect(200).text(), "[]");
}

#[tokio::test]
async fn a_stream_sends_events_and_names_frames_by_their_type() {
    let server = server().await;
    let named = format!("{RECORDS}?after=earliest&format=cloudevents&event=type");
    let mut replayed = server.get(&named).stream().await;
    let mut values = server.get(&format!("{RECORDS}?after=earliest&format=value&event=type")).stream().await;
    // Both have caught up, so that what follows comes from what all subscribers share.
    replayed.next_named("cursor").await;
    values.next_named("cursor").await;
    send(&server, ONE, &event("1", &json!({"data": {"a": 1}}))).await.expect(201);
    let frame = replayed.next_named("com.example.paid").await;
    assert_eq!((&frame.json()["id"], &frame.json()["data"]), (&json!("1"), &json!({"a": 1})));
    assert_eq!(values.next_named("com.example.paid").await.data, "{\"a\":1}");

    for name in ["error", "open", "cursor", "reset", "problem", "bye", "end", "binary", "tombstone"] {
        let mut event = event(name, &json!({"data": 1}));
        event["type"] = json!(name);
        send(&server, ONE, &event).await.expect(201);
        assert_eq!(replayed.next_named("message").await.json()["type"], name);
    }
    server.post(RECORDS).body("plain").await.expect(201);
    assert_eq!(replayed.next_named("message").await.json()["data"], "plain");
    let mut unnamed = server.get(&format!("{RECORDS}?after=earliest")).stream().await;
    assert_eq!(unnamed.records(1).await[0].json()["headers"]["ce_type"], "com.example.paid");
    server.get(&format!("{RECORDS}?event=key")).await.problem(400, "bad-parameter");
}
