//! What writing costs, in requests and in time.

use std::time::Duration;

use harness::{Client, Cluster, ClusterOptions, S3Faults, SharedStore, eventually};
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::bounded::not_rolled;
use crate::{is_full, percentiles, turn};

/// The linger of a node by default, by which the PUTs of a shard are counted.
const LINGER: Duration = Duration::from_millis(250);
const SECONDS: u32 = 4;
const SECONDS_FULL: u32 = 20;
/// Requests a second to all topics of a case together, and their lines.
const REQUESTS: u32 = 20;
const LINES: u32 = 500;
const IDLE: Duration = Duration::from_secs(10);
/// How often a window is repeated in which a leader changed.
const WINDOWS_MAX: usize = 5;

fn lines(round: u32) -> String {
    (0..LINES).map(|line| format!("{{\"id\":\"{round}-{line}\",\"padding\":\"{:050}\"}}\n", line)).collect()
}

/// Writes at the same rate to these topics in turn, through all nodes in turn.
async fn write(nodes: &[Client], topics: &[String], seconds: u32) {
    let mut calls = JoinSet::new();
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / REQUESTS);
    for round in 0..seconds * REQUESTS {
        ticks.tick().await;
        let topic = &topics[round as usize % topics.len()];
        let call =
            nodes[round as usize % nodes.len()].post(&format!("/v1/topics/{topic}/records?key_path=/id"));
        let call = call.header("content-type", "application/x-ndjson").body(lines(round));
        calls.spawn(async move { drop(call.await.expect(201)) });
    }
    calls.join_all().await;
}

/// The PUTs of a time in which no leader changed, and how long it was. One that was disturbed is repeated.
async fn undisturbed(cluster: &Cluster, act: impl AsyncFn()) -> (Vec<String>, Duration) {
    for _ in 0..WINDOWS_MAX {
        let (leaderships, before) = (cluster.leaderships(0, "any").await, cluster.store.s3().puts());
        let start = Instant::now();
        act().await;
        let (puts, took) = (cluster.store.s3().puts_since(before), start.elapsed());
        if cluster.leaderships(0, "any").await == leaderships {
            return (puts, took);
        }
    }
    panic!("leaders changed each time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn puts_do_not_grow_with_partitions_and_an_idle_cluster_sends_none() {
    let _turn = turn().await;
    // With a compactor it takes a minute until the last records are rolled and nothing is left to do.
    let compactor = if is_full() { "embedded" } else { "off" };
    let options = ClusterOptions::new(2, &["--shards", "1", "--compactor", compactor]);
    let cluster = Cluster::start(SharedStore::in_process().await, options).await;
    // No move of the shard's leader disturbs what follows.
    cluster.node(0).create_topic("any", json!({})).await;
    cluster.settled("any").await;
    let nodes = cluster.clients();
    let seconds = if is_full() { SECONDS_FULL } else { SECONDS };
    let cases =
        [(1, vec![("one", 1)]), (100, vec![("hundred", 100)]), (1000, vec![("many", 500), ("more", 500)])];
    let mut counts = Vec::new();
    for (partitions, topics) in cases {
        for &(topic, partitions) in &topics {
            cluster.node(0).create_topic(topic, json!({"partitions": partitions})).await;
        }
        let topics: Vec<String> = topics.iter().map(|(topic, _)| (*topic).to_owned()).collect();
        let (puts, took) = undisturbed(&cluster, async || write(&nodes, &topics, seconds).await).await;
        let (wal, rest): (Vec<&String>, Vec<&String>) = puts.iter().partition(|path| path.contains("/wal/"));
        eprintln!("{partitions} active partitions: {} PUTs in {took:?}, and of rolls {rest:?}", wal.len());
        assert!(is_full() || rest.is_empty(), "{rest:?}");
        let most = took.as_millis() / LINGER.as_millis() + 2;
        assert!(wal.len() as u128 <= most, "{partitions} partitions: {} PUTs in {took:?}", wal.len());
        counts.push(wal.len());
    }
    if is_full() {
        let rolled = async || not_rolled(cluster.store.s3()).filter(|count| *count == 0).map(drop);
        eventually("everything is rolled", rolled).await;
    }
    // Nothing happens: there is nothing else to wait for.
    let (idle, _) = undisturbed(&cluster, async || tokio::time::sleep(IDLE).await).await;
    eprintln!(
        "PUTs with 1, 100 and 1,000 active partitions: {counts:?}; of an idle cluster in {IDLE:?}: {idle:?}"
    );
    assert!(idle.is_empty(), "{idle:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_after_a_pause_waits_for_one_put_and_records_under_load_for_the_linger() {
    let _turn = turn().await;
    let store = SharedStore::in_process().await;
    let put_delay = Duration::from_millis(60);
    store.s3().set_faults(S3Faults { put_delay, ..S3Faults::default() });
    let cluster = Cluster::start(store, ClusterOptions::new(2, &["--compactor", "off"])).await;
    cluster.node(0).create_topic("load", json!({})).await;
    cluster.settled("load").await;
    let leader = cluster.leader(0, "load", 0).await;
    for (name, node) in [("its leader", leader), ("another node", 1 - leader)] {
        let client: Client = (**cluster.node(node)).clone();
        let mut alone = Vec::new();
        for _ in 0..if is_full() { 20 } else { 6 } {
            // Longer than the linger, so that the next record finds the shard idle.
            tokio::time::sleep(2 * LINGER).await;
            alone.push(timed(&client).await);
        }
        let mut writers = JoinSet::new();
        for _ in 0..16 {
            let client = client.clone();
            writers.spawn(async move {
                let mut times = Vec::new();
                for _ in 0..if is_full() { 40 } else { 8 } {
                    times.push(timed(&client).await);
                }
                times
            });
        }
        let loaded: Vec<Duration> = writers.join_all().await.into_iter().flatten().collect();
        assert!(
            alone.iter().chain(&loaded).all(|time| *time >= put_delay),
            "nothing is answered before it is stored"
        );
        eprintln!("a PUT takes {put_delay:?}; produce through {name}, alone: {}", percentiles(alone));
        eprintln!("produce through {name}, 16 writers: {}", percentiles(loaded));
    }
}

/// How long one record takes until it is acknowledged.
async fn timed(client: &Client) -> Duration {
    let start = Instant::now();
    client.post("/v1/topics/load/records").body("1").await.expect(201);
    start.elapsed()
}
