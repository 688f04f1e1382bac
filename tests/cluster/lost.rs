//! Everything but the bucket is lost at once.

use harness::{Cluster, ClusterOptions, SharedStore};
use serde_json::json;
use tokio::time::Instant;

use crate::history;
use crate::load::{Load, mixed};
use crate::turn;

const NODES: usize = 3;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_acknowledged_survives_the_loss_of_all_nodes_all_disks_and_redis() {
    let _turn = turn().await;
    let options = ClusterOptions::new(NODES, &["--flush-linger", "50ms"]);
    let mut cluster = Cluster::start(SharedStore::real().await, options).await;
    cluster.node(0).create_topic("load", json!({"partitions": 8})).await;
    let mut load = Load::start(&cluster.clients(), "load", &mixed(4));
    load.each_acknowledged(20).await;

    let lost = Instant::now();
    cluster.lose_everything_but_the_bucket().await;
    let writers = load.give_up().await;
    cluster.wait_ready().await;
    let ready = lost.elapsed();
    let nodes = cluster.clients();
    let (log, verdict) = history::check(&nodes, "load", &writers).await;
    eprintln!("lost everything but the bucket: all ready after {ready:?}; {} records; {verdict}", log.len());

    cluster.node(0).create_topic("after", json!({"partitions": 8})).await;
    let mut load = Load::start(&nodes, "after", &mixed(2));
    load.each_acknowledged(5).await;
    let writers = load.finish().await;
    history::check(&nodes, "after", &writers).await;
}
