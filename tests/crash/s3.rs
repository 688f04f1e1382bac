//! A node on S3: what is acknowledged is in the bucket, whatever happens to the node and to its disk.

use std::time::Duration;

use harness::{S3Faults, Server, SharedStore, eventually};
use serde_json::json;
use tokio::time::Instant;

use crate::load::{Load, Log};
use crate::{PARTITIONS, survives_kills};

const ROUNDS: usize = 10;
/// Fewer: racing writers of one name, as in the probe at each start, take SeaweedFS seconds.
const ROUNDS_REAL: usize = 4;
/// Keeps rounds short.
const LINGER: Duration = Duration::from_millis(20);

async fn node_on(store: &SharedStore, linger: Duration) -> Server {
    let server = Server::start_on(store, &[&format!("--flush-linger={}ms", linger.as_millis())]).await;
    server.create_topic("load", json!({"partitions": PARTITIONS})).await;
    server
}

/// Lets the load run until the node is killed.
async fn killed_under_load(server: &mut Server, load: &mut Load) {
    load.start(server);
    load.acknowledged(200).await;
    server.kill9().await;
    load.stop().await;
}

/// Takes the name of the owner out of a refusal, as the operator would.
fn replacement(refusal: &str) -> String {
    let (_, rest) = refusal.split_once("--replace-node ").expect("the refusal says what to do");
    format!("--replace-node={}", rest.split_whitespace().next().expect("it names the node"))
}

#[tokio::test]
async fn kill_9_on_a_failing_s3_loses_repeats_and_reorders_nothing_acknowledged() {
    let store = SharedStore::in_process().await;
    let mut server = node_on(&store, LINGER).await;
    store.s3().set_faults(S3Faults { conflict: 0.05, unavailable: 0.01, reset: 0.01, ..S3Faults::default() });
    survives_kills(&mut server, 4, ROUNDS).await;
}

#[tokio::test]
async fn kill_9_on_a_real_s3_loses_nothing_and_neither_does_the_loss_of_everything_but_the_bucket() {
    let mut store = SharedStore::real().await;
    let mut server = node_on(&store, LINGER).await;
    let (mut load, mut log) = survives_kills(&mut server, 5, ROUNDS_REAL).await;
    killed_under_load(&mut server, &mut load).await;
    server.lose_data();
    if let SharedStore::Seaweed(seaweed) = &mut store {
        seaweed.kill9_and_restart().await;
    }

    let refusal = server.refuses_to_restart().await;
    server.restart_with(&replacement(&refusal)).await;
    log.read_on(&server).await;
    log.check(&load, "after the loss of all disks but that of the bucket");
    load.start(&server);
    load.acknowledged(100).await;
    assert!(server.terminate().await.success());
    load.stop().await;
    // The argument is still there, and does nothing any more.
    server.restart().await;
    log.read_on(&server).await;
    log.check(&load, "after a graceful stop");
}

/// The journal alone has them: the store takes nothing until the node is gone.
#[tokio::test]
async fn what_is_acknowledged_at_local_on_s3_survives_a_kill_once_and_in_order() {
    let store = SharedStore::in_process().await;
    let mut server = node_on(&store, LINGER).await;
    store.s3().set_faults(S3Faults { conflict: 1.0, ..S3Faults::default() });
    for value in 0..50 {
        let call =
            server.post("/v1/topics/load/records?durability=local&partition=0").body(value.to_string());
        let receipt = call.await.expect(201).json();
        assert_eq!(receipt["provisional"], true, "{receipt}");
    }
    server.kill9().await;
    store.s3().set_faults(S3Faults::default());
    for when in ["after the kill", "after another one"] {
        server.restart().await;
        // Readers see them once the store has them.
        let records = eventually("all are stored", async || {
            let records = server.read_all("/v1/topics/load/partitions/0/records").await;
            (records.len() >= 50).then_some(records)
        });
        let records = records.await;
        let values: Vec<u64> = records.iter().filter_map(|record| record["value"].as_u64()).collect();
        assert_eq!(values, (0..50).collect::<Vec<_>>(), "{when}");
        server.kill9().await;
    }
}

#[tokio::test]
async fn a_node_that_was_replaced_while_it_runs_acknowledges_nothing_more() {
    let store = SharedStore::in_process().await;
    let old = node_on(&store, LINGER).await;
    let mut load = Load::new();
    load.start(&old);
    load.acknowledged(100).await;

    let mut elsewhere = node_elsewhere(&store, &old).await;
    // The load ends with the first request that the old node refuses.
    load.stop().await;
    old.get("/readyz").await.problem(503, "no-leader");
    let mut log = Log::default();
    log.read_on(&elsewhere).await;
    log.check(&load, "after the takeover");
    load.start(&elsewhere);
    load.acknowledged(100).await;
    assert!(elsewhere.terminate().await.success());
    load.stop().await;
    elsewhere.restart().await;
    log.read_on(&elsewhere).await;
    log.check(&load, "after the restart of the new node");
}

/// Starts a node with another data folder in the place of one that still runs.
async fn node_elsewhere(store: &SharedStore, old: &Server) -> Server {
    let id = std::fs::read_to_string(old.data_dir().join("node")).expect("a node has a name");
    Server::start_on(store, &["--flush-linger=20ms", "--replace-node", id.trim()]).await
}

#[tokio::test]
async fn a_store_that_ignores_conditions_is_refused_at_the_start() {
    let store = SharedStore::in_process().await;
    let mut server = node_on(&store, LINGER).await;
    assert!(server.terminate().await.success());
    store.s3().set_faults(S3Faults { unconditional: true, ..S3Faults::default() });
    let refusal = server.refuses_to_restart().await;
    assert!(refusal.contains("If-None-Match") && refusal.contains("s3://bucket/team/events"), "{refusal}");
}

#[tokio::test]
async fn puts_do_not_grow_with_partitions_and_an_idle_node_sends_none() {
    let linger = Duration::from_millis(100);
    let store = SharedStore::in_process().await;
    let server = node_on(&store, linger).await;
    for (topic, partitions) in [("one", 1), ("hundred", 100)] {
        server.create_topic(topic, json!({"partitions": partitions})).await;
        let (before, start) = (store.s3().puts(), Instant::now());
        for round in 0..10 {
            let lines: Vec<String> = (0..200).map(|line| format!("{{\"id\":\"{round}-{line}\"}}")).collect();
            server.produce_lines(&format!("/v1/topics/{topic}/records?key_path=/id"), &lines).await;
        }
        let (puts, took) = (store.s3().puts() - before, start.elapsed());
        let most = took.as_millis() / linger.as_millis() + 1;
        assert!(u128::from(puts) <= most, "{topic}: {puts} PUTs in {took:?}");
        eprintln!("{partitions} partitions: {puts} PUTs in {} ms", took.as_millis());
    }
    let before = store.s3().puts();
    // Nothing happens: there is nothing else to wait for.
    tokio::time::sleep(20 * linger).await;
    assert_eq!(store.s3().puts(), before);
}

#[tokio::test]
async fn a_node_waits_out_an_outage_of_its_store() {
    let store = SharedStore::in_process().await;
    let server = node_on(&store, LINGER).await;
    store.s3().set_faults(S3Faults { unavailable: 1.0, ..S3Faults::default() });
    let puts = store.s3().puts();
    let call = server.post("/v1/topics/load/records").body("during the outage").try_send();
    let waiting = tokio::spawn(call);
    eventually("it is sent", async || (store.s3().puts() > puts + 1).then_some(())).await;
    store.s3().set_faults(S3Faults::default());
    let answer = waiting.await.expect("no panic").expect("an answer");
    answer.expect(201);
    let records = server.read_all("/v1/topics/load/records").await;
    assert_eq!(records.len(), 1, "sent again and again, stored once: {records:?}");
}
