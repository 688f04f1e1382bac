//! What is acknowledged at `local` is on one node's disk: it comes back with that node, once and in order.

use harness::{Cluster, ClusterOptions, S3Faults, SharedStore, eventually};
use serde_json::{Value, json};

use crate::turn;

const RECORDS: u64 = 50;

/// Produces at `local`, one request after the other.
async fn produce(cluster: &Cluster, node: usize, values: std::ops::Range<u64>) {
    for value in values {
        let call = cluster.node(node).post("/v1/topics/load/records?durability=local&partition=0");
        let receipt = call.body(value.to_string()).await.expect(201).json();
        assert_eq!(receipt["provisional"], true, "{receipt}");
    }
}

/// Waits until a node shows this many records, and answers their values.
async fn values(cluster: &Cluster, node: usize, count: usize) -> Vec<u64> {
    eventually("all records are stored", || async move {
        let records = cluster.node(node).read_all("/v1/topics/load/partitions/0/records").await;
        let value = |record: &Value| record["value"].as_u64().expect("a value of ours");
        (records.len() >= count).then(|| records.iter().map(value).collect())
    })
    .await
}

#[tokio::test]
async fn local_records_come_back_with_the_disk_of_a_killed_leader_that_nobody_replaced() {
    let _turn = turn().await;
    let mut cluster = Cluster::start(SharedStore::in_process().await, ClusterOptions::new(1, &[])).await;
    cluster.node(0).create_topic("load", json!({})).await;
    for round in 1..=3 {
        cluster.store.s3().set_faults(S3Faults { hold_puts: true, ..S3Faults::default() });
        produce(&cluster, 0, (round - 1) * RECORDS..round * RECORDS).await;
        cluster.kill9(0).await;
        cluster.store.s3().set_faults(S3Faults::default());
        cluster.restart(0).await;
        let all = round * RECORDS;
        assert_eq!(values(&cluster, 0, all as usize).await, (0..all).collect::<Vec<_>>(), "round {round}");
    }
}

#[tokio::test]
async fn local_records_come_back_with_the_disk_of_a_killed_leader_that_was_replaced() {
    let _turn = turn().await;
    let mut cluster = Cluster::start(SharedStore::in_process().await, ClusterOptions::new(3, &[])).await;
    cluster.node(0).create_topic("load", json!({})).await;
    cluster.node(0).post("/v1/topics/load/records").body("0").await.expect(201);
    cluster.settled("load").await;
    let killed = cluster.leader(0, "load", 0).await;
    let other = (killed + 1) % cluster.len();
    cluster.store.s3().set_faults(S3Faults { hold_puts: true, ..S3Faults::default() });
    // Through the leader itself and through another node.
    for value in (1..=RECORDS).step_by(2) {
        produce(&cluster, killed, value..value + 1).await;
        produce(&cluster, other, value + 1..value + 2).await;
    }
    cluster.kill9(killed).await;
    cluster.store.s3().set_faults(S3Faults::default());

    // The others go on without them.
    let between = RECORDS + 1;
    let accepted = async || {
        let call = cluster.node(other).post("/v1/topics/load/records?partition=0").body(between.to_string());
        // Named, so that it may be sent again whatever became of it.
        let call = call.header("idempotency-key", "between");
        call.try_send().await.ok().filter(|answer| answer.status == 201)
    };
    eventually("another leads", accepted).await;
    assert_eq!(values(&cluster, other, 2).await, [0, between]);

    for round in 0..2 {
        cluster.restart(killed).await;
        let mut expected = vec![0, between];
        expected.extend(1..=RECORDS);
        for node in [other, killed] {
            assert_eq!(values(&cluster, node, expected.len()).await, expected, "round {round}, node {node}");
        }
        cluster.kill9(killed).await;
    }
}
