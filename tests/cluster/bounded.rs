//! A takeover stays bounded without a compactor.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use harness::{Client, Cluster, ClusterOptions, SharedStore, in_time};
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::turn;

/// WAL objects written before the leader is killed.
const OBJECTS: usize = 3000;
/// A leader rolls by itself past 1,024 objects; more are written while it does.
const GETS_MAX: u64 = 2000;
const WRITERS: usize = 6;
/// Longest time until so many objects are there. Long, because it only decides when a failure is reported.
const WRITING_MAX: Duration = Duration::from_secs(120);

/// Writes one small request after the other, to whoever is there.
async fn write(nodes: Vec<Client>, finish: Arc<AtomicBool>) -> u64 {
    let mut acknowledged = 0;
    for node in nodes.iter().cycle() {
        if finish.load(Ordering::Relaxed) {
            break;
        }
        let answer = node.post("/v1/topics/load/records").body("1").try_send().await;
        acknowledged += u64::from(answer.is_ok_and(|answer| answer.status == 201));
    }
    acknowledged
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_takeover_reads_a_bounded_path_after_many_small_flushes_without_a_compactor() {
    let _turn = turn().await;
    let args = ["--compactor", "off", "--flush-linger", "1ms", "--shards", "1"];
    let mut cluster = Cluster::start(SharedStore::in_process().await, ClusterOptions::new(2, &args)).await;
    cluster.node(0).create_topic("load", json!({})).await;
    let finish = Arc::new(AtomicBool::new(false));
    let write = |_| write(cluster.clients(), Arc::clone(&finish));
    let writers: JoinSet<u64> = (0..WRITERS).map(write).collect();
    let start = Instant::now();
    while cluster.store.s3().count_objects("/wal/") < OBJECTS {
        assert!(start.elapsed() < WRITING_MAX, "{} objects only", cluster.store.s3().count_objects("/wal/"));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    finish.store(true, Ordering::Relaxed);
    let acknowledged: u64 = in_time("the writers end", writers.join_all()).await.iter().sum();

    let killed = cluster.leader(0, "load", 0).await;
    let other = 1 - killed;
    let gets = cluster.store.s3().gets();
    cluster.kill9(killed).await;
    let start = Instant::now();
    let call =
        || cluster.node(other).post("/v1/topics/load/records").header("idempotency-key", "after").body("2");
    harness::eventually("the other takes over", || {
        let call = call().try_send();
        async move { call.await.ok().filter(|answer| answer.status == 201) }
    })
    .await;
    let (took, gets) = (start.elapsed(), cluster.store.s3().gets() - gets);
    let (wal, rolled) =
        (cluster.store.s3().count_objects("/wal/"), cluster.store.s3().count_objects("/rolled/"));
    eprintln!("a takeover over {wal} WAL objects, rolled into {rolled}, took {gets} GETs and {took:?}");
    assert!(rolled > 0, "the leader rolled by itself");
    assert!(gets < GETS_MAX, "{gets} GETs");
    let records = cluster.node(other).read_all("/v1/topics/load/records").await;
    assert!(records.len() as u64 > acknowledged, "{} of {acknowledged} and one more", records.len());

    let gets = cluster.store.s3().gets();
    cluster.restart(killed).await;
    eprintln!("the start of a node took {} GETs", cluster.store.s3().gets() - gets);
    let again = cluster.node(killed).read_all("/v1/topics/load/records").await;
    assert!(again == records, "the node that came back shows another log");
}
