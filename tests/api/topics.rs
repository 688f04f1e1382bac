//! Topics as resources: create, describe, alter, list, delete.

use harness::{Server, eventually};
use serde_json::json;

#[tokio::test]
async fn creating_twice_confirms_and_other_settings_conflict() {
    let server = Server::start().await;
    let made = server.put("/v1/topics/orders").json(&json!({"partitions": 3})).await.expect(201).json();
    assert_eq!(made["partitions"], 3);
    server.put("/v1/topics/orders").json(&json!({"partitions": 3})).await.expect(200);
    server.put("/v1/topics/orders").await.expect(200);
    let other = server.put("/v1/topics/orders").json(&json!({"partitions": 4})).await;
    assert_eq!(other.problem(409, "topic-exists")["effect"], "none");
    assert_eq!(server.get("/v1/topics/orders").await.expect(200).json()["partitions"], 3);
}

#[tokio::test]
async fn a_topic_has_the_documented_defaults() {
    let server = Server::start().await;
    server.put("/v1/topics/orders").await.expect(201);
    let text = server.get("/v1/topics/orders").await.expect(200).text();
    let defaults = [
        ("durability", json!("object")),
        ("retention.ms", json!(604_800_000)),
        ("retention.bytes", json!(-1)),
        ("cleanup.policy", json!("delete")),
        ("delete.retention.ms", json!(86_400_000)),
        ("min.compaction.lag.ms", json!(0)),
        ("max.message.bytes", json!(1_048_576)),
        ("compression.type", json!("zstd")),
        ("message.timestamp.type", json!("CreateTime")),
        ("segment.bytes", json!(67_108_864)),
        ("segment.ms", json!(3_600_000)),
    ];
    for (name, value) in defaults {
        let member = format!("{:?}:{value}", name);
        assert!(text.replace(' ', "").contains(&member), "{member} is not in {text}");
    }
}

#[tokio::test]
async fn invalid_settings_are_refused_and_create_nothing() {
    let server = Server::start().await;
    let invalid = [
        json!({"partitions": 0}),
        json!({"partitions": 513}),
        json!({"partitions": -1}),
        json!({"partitions": "many"}),
        json!({"no.such.setting": 1}),
        json!({"durability": "hope"}),
        json!({"retention.ms": -2}),
        json!({"cleanup.policy": "burn"}),
        json!({"max.message.bytes": 4_194_305}),
        json!({"message.timestamp.type": "Never"}),
    ];
    for settings in invalid {
        let answer = server.put("/v1/topics/orders").json(&settings).await;
        assert_eq!(answer.problem(422, "invalid-config")["effect"], "none", "{settings}");
    }
    server.get("/v1/topics/orders").await.problem(404, "topic-not-found");
}

#[tokio::test]
async fn a_patch_merges_and_needs_the_current_etag_when_one_is_given() {
    let server = Server::start().await;
    server.create_topic("orders", json!({"retention.ms": 1000, "partitions": 2})).await;
    let first = server.get("/v1/topics/orders").await.expect(200).header("etag").to_owned();
    assert!(first.starts_with('"'), "{first}");
    let patch = |body: serde_json::Value| {
        let call = server.patch("/v1/topics/orders").header("content-type", "application/merge-patch+json");
        call.body(body.to_string())
    };
    patch(json!({"retention.bytes": 5_000_000})).header("if-match", &first).await.expect(200);
    patch(json!({"retention.bytes": 6_000_000}))
        .header("if-match", &first)
        .await
        .problem(412, "precondition-failed");
    let text = server.get("/v1/topics/orders").await.expect(200).text().replace(' ', "");
    assert!(text.contains("\"retention.bytes\":5000000"), "{text}");
    assert!(text.contains("\"retention.ms\":1000"), "the patch changed what it does not name: {text}");
    patch(json!({"retention.ms": null})).await.expect(200);
    let text = server.get("/v1/topics/orders").await.expect(200).text().replace(' ', "");
    assert!(text.contains("\"retention.ms\":604800000"), "null means the default: {text}");
}

#[tokio::test]
async fn partitions_only_grow() {
    let server = Server::start().await;
    server.create_topic("orders", json!({"partitions": 2})).await;
    server.patch("/v1/topics/orders").json(&json!({"partitions": 1})).await.problem(422, "invalid-config");
    server.patch("/v1/topics/orders").json(&json!({"partitions": 4})).await.expect(200);
    let made = server.post("/v1/topics/orders/partitions/3/records").body("x").await.expect(201).json();
    assert_eq!(made["records"][0]["partition"], 3);
    let missing = server.post("/v1/topics/orders/partitions/4/records").body("x").await;
    missing.problem(404, "partition-not-found");
}

#[tokio::test]
async fn a_cursor_from_before_the_topic_grew_reads_the_new_partitions_from_their_start() {
    let server = Server::start().await;
    server.create_topic("orders", json!({"partitions": 1})).await;
    server.post("/v1/topics/orders/records").body("old").await.expect(201);
    let cursor = server.read_on("/v1/topics/orders/records", None).await.1;
    server.patch("/v1/topics/orders").json(&json!({"partitions": 2})).await.expect(200);
    server.post("/v1/topics/orders/partitions/1/records").body("new").await.expect(201);
    let (records, _) = server.read_on("/v1/topics/orders/records", Some(cursor)).await;
    assert_eq!(records.len(), 1, "{records:?}");
    assert_eq!(records[0]["value"], "new");
}

#[tokio::test]
async fn a_deleted_topic_is_gone_with_its_records_and_its_name_is_free() {
    let server = Server::start().await;
    server.create_topic("orders", json!({})).await;
    server.post("/v1/topics/orders/records").body("old").await.expect(201);
    server.delete("/v1/topics/orders").await.expect(204);
    server.get("/v1/topics/orders").await.problem(404, "topic-not-found");
    server.get("/v1/topics/orders/records").await.problem(404, "topic-not-found");
    server.delete("/v1/topics/orders").await.problem(404, "topic-not-found");
    server.create_topic("orders", json!({})).await;
    assert!(server.read_all("/v1/topics/orders/records").await.is_empty());
    let made = server.post("/v1/topics/orders/records").body("new").await.expect(201).json();
    assert_eq!(made["records"][0]["offset"], 0);
}

#[tokio::test]
async fn listing_pages_through_all_topics_of_a_prefix() {
    let server = Server::start().await;
    for number in 0..5 {
        server.create_topic(&format!("pay.{number}"), json!({})).await;
    }
    server.create_topic("orders", json!({})).await;
    let (mut names, mut page) = (Vec::new(), String::new());
    for _ in 0..4 {
        let body = server.get(&format!("/v1/topics?prefix=pay.&limit=2{page}")).await.expect(200).json();
        let topics = body["topics"].as_array().expect("a list").clone();
        assert!(topics.len() <= 2, "{body}");
        names.extend(topics.iter().map(|topic| topic["name"].as_str().expect("a name").to_owned()));
        match body["next"].as_str() {
            Some(next) => page = format!("&page={next}"),
            None => break,
        }
    }
    assert_eq!(names, ["pay.0", "pay.1", "pay.2", "pay.3", "pay.4"]);
}

#[tokio::test]
async fn topics_and_records_outlive_a_restart() {
    let mut server = Server::start().await;
    server.create_topic("orders", json!({"partitions": 2, "retention.ms": -1})).await;
    server.post("/v1/topics/orders/records?key=a").body("1").await.expect(201);
    let before = server.get("/v1/topics/orders/records").await.expect(200).text();
    let described = server.get("/v1/topics/orders").await.expect(200).text();
    assert!(server.terminate().await.success());
    server.restart().await;
    assert_eq!(server.get("/v1/topics/orders/records").await.expect(200).text(), before);
    assert_eq!(server.get("/v1/topics/orders").await.expect(200).text(), described);
}

#[tokio::test]
async fn what_is_appended_after_a_deletion_is_refused_and_not_taken_by_the_successor() {
    let server = Server::start().await;
    for round in 0..5 {
        server.create_topic("orders", json!({})).await;
        let (body, sent) = tokio::sync::mpsc::channel::<Result<String, std::io::Error>>(1);
        let lines = futures::stream::unfold(sent, |mut sent| async move { Some((sent.recv().await?, sent)) });
        let call = server.post("/v1/topics/orders/records?format=lines");
        let call = call.body(reqwest::Body::wrap_stream(lines));
        let produce = tokio::spawn(async move { call.await });
        body.send(Ok("stored\n".to_owned())).await.expect("the request reads its body");
        eventually("the line is stored while the body is open", || async {
            let page = server.get("/v1/topics/orders/records").await.expect(200).json();
            (page["records"] != json!([])).then_some(())
        })
        .await;
        server.delete("/v1/topics/orders").await.expect(204);
        server.create_topic("orders", json!({})).await;
        body.send(Ok("too late\n".to_owned())).await.expect("the request reads its body");
        drop(body);
        let problem = produce.await.expect("no panic").problem(404, "topic-not-found");
        assert_eq!(
            (&problem["effect"], &problem["stored_lines"]),
            (&json!("partial"), &json!(1)),
            "{problem}"
        );
        assert!(server.read_all("/v1/topics/orders/records").await.is_empty(), "round {round}");
        server.delete("/v1/topics/orders").await.expect(204);
    }
}

#[tokio::test]
async fn appends_that_race_a_deletion_land_in_the_incarnation_they_name_or_nowhere() {
    let server = Server::start().await;
    for round in 0..20 {
        server.create_topic("orders", json!({})).await;
        let appends = (0..8).map(|_| {
            let call = server.post("/v1/topics/orders/records").body(format!("round {round}"));
            tokio::spawn(async move { call.await })
        });
        let appends: Vec<_> = appends.collect();
        server.delete("/v1/topics/orders").await.expect(204);
        server.create_topic("orders", json!({})).await;
        let epoch = server.get("/v1/topics/orders").await.expect(200).json()["epoch"].clone();
        let epoch = format!("{}.", epoch.as_str().expect("a word"));
        let mut landed = 0;
        for append in appends {
            let answer = append.await.expect("no panic");
            if answer.status != 201 {
                answer.problem(404, "topic-not-found");
                continue;
            }
            landed += usize::from(answer.json()["cursor"].as_str().expect("a cursor").starts_with(&epoch));
        }
        assert_eq!(server.read_all("/v1/topics/orders/records").await.len(), landed, "round {round}");
        server.delete("/v1/topics/orders").await.expect(204);
    }
}
