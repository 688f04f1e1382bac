//! From one node to many: nodes of a cluster take the place of a single node, and what it acknowledged is there.

use harness::{Cluster, ClusterOptions, Server, SharedStore};
use serde_json::json;

use crate::history;
use crate::load::{Load, mixed};
use crate::turn;

const NODES: usize = 3;
const LINGER: [&str; 2] = ["--flush-linger", "50ms"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_takes_the_place_of_a_single_node_that_was_killed() {
    takes_the_place_of_a_single_node(true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_takes_the_place_of_a_single_node_that_was_stopped() {
    takes_the_place_of_a_single_node(false).await;
}

async fn takes_the_place_of_a_single_node(killed: bool) {
    let _turn = turn().await;
    let store = SharedStore::real().await;
    let mut single = Server::start_on(&store, &LINGER).await;
    single.create_topic("load", json!({"partitions": 8})).await;
    let mut load = Load::start(&[(*single).clone()], "load", &mixed(4));
    load.each_acknowledged(20).await;
    if killed {
        single.kill9().await;
    } else {
        assert!(single.terminate().await.success(), "it ends well");
    }
    let before = load.give_up().await;

    let id = single.node_id();
    let args = [&LINGER[..], &["--replace-node", &id]].concat();
    let mut cluster = Cluster::start(store, ClusterOptions::new(1, &args)).await;
    for _ in 1..NODES {
        cluster.launch().await;
    }
    cluster.wait_ready().await;
    let nodes = cluster.clients();
    let (log, verdict) = history::check(&nodes, "load", &before).await;
    eprintln!("from one node to many: {} records; {verdict}", log.len());
    for (sequence, node) in nodes.iter().enumerate() {
        let value = json!({"writer": "after", "sequence": sequence});
        node.post("/v1/topics/load/records").json(&value).await.expect(201);
    }
    let more = history::Log::read(&nodes[0], "load").await;
    assert_eq!(more.contradiction(&log), None, "what comes later follows what was there");
    assert_eq!(more.len(), log.len() + NODES);
    cluster.node(0).create_topic("after", json!({"partitions": 8})).await;
    let mut load = Load::start(&nodes, "after", &mixed(2));
    load.each_acknowledged(10).await;
    history::check(&nodes, "after", &load.finish().await).await;

    let refusal = Server::refuses_to_start_on(&cluster.store, &["--replace-node", &id]).await;
    assert!(refusal.contains("--redis"), "{refusal}");
    let refusal = Server::refuses_to_start_on(&cluster.store, &[]).await;
    assert!(refusal.contains("--redis"), "{refusal}");
}
