//! Redis forgets everything, goes away, and comes back: nobody moves, and everybody goes on.

use forebay_log::limits::LEASE_TTL;
use harness::{Cluster, ClusterOptions, Leadership, SharedStore};
use serde_json::json;

use crate::history;
use crate::load::{Load, mixed};
use crate::pulse::Pulse;
use crate::turn;

const NODES: usize = 3;
const PARTITIONS: usize = 12;
const TOPIC: &str = "load";

/// Lets two lives of a lease pass, and checks that the leaders lead on meanwhile, as every node says and serves.
async fn nobody_moves(cluster: &Cluster, load: &mut Load, before: &[Leadership], when: &str) {
    // That nobody moves is no event that could be waited for.
    tokio::time::sleep(2 * LEASE_TTL).await;
    load.each_acknowledged(5).await;
    for node in 0..NODES {
        for partition in 0..PARTITIONS {
            let path = format!("/v1/topics/aside/records?partition={partition}");
            cluster.node(node).post(&path).body("1").await.expect(201);
        }
        let now = cluster.leaderships(node, TOPIC).await;
        assert_eq!(now, before, "{when}, as node {node} says");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_is_wiped_away_or_back_moves_nobody_and_leaders_lead_on() {
    let _turn = turn().await;
    // A shard for each partition, so that every node leads some.
    let options = ClusterOptions::new(NODES, &["--flush-linger", "50ms", "--shards", "12"]);
    let mut cluster = Cluster::start(SharedStore::in_process().await, options).await;
    for topic in [TOPIC, "aside", "pulse"] {
        cluster.node(0).create_topic(topic, json!({"partitions": PARTITIONS})).await;
    }
    cluster.settled(TOPIC).await;
    let nodes = cluster.clients();
    let mut load = Load::start(&nodes, TOPIC, &mixed(2));
    load.each_acknowledged(2).await;
    let pulse = Pulse::start(&nodes, "pulse");
    let before = cluster.agreed_leaderships(TOPIC).await;
    for node in 0..NODES {
        assert!(before.iter().any(|one| one.node == Some(node)), "node {node} leads nothing: {before:?}");
    }

    cluster.redis.flush_all().await;
    nobody_moves(&cluster, &mut load, &before, "after Redis was wiped").await;
    cluster.redis.kill9().await;
    nobody_moves(&cluster, &mut load, &before, "while Redis is away").await;
    cluster.redis.restart().await;
    nobody_moves(&cluster, &mut load, &before, "after Redis came back").await;

    let silence = pulse.longest_silence();
    let writers = load.finish().await;
    let (_, verdict) = history::check(&nodes, TOPIC, &writers).await;
    eprintln!("through the loss of Redis: nothing acknowledged for {silence:.1?} at most; {verdict}");
    assert_eq!((verdict.refused, verdict.unknown), (0, 0), "{verdict}");
}
