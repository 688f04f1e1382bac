//! A takeover stays bounded without a compactor.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use forebay_log::limits::SELF_ROLL_OBJECTS;
use harness::{Client, Cluster, ClusterOptions, S3Server, SharedStore, eventually, in_time};
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::{is_full, turn};

/// WAL objects written before the leader is killed.
const OBJECTS: usize = 3000;
/// As many as a shard under load writes in two hours.
const OBJECTS_FULL: usize = 28_800;
/// GETs of a takeover beside those of the objects on its path: of registers, snapshots and rolled objects, and of its
/// readers.
const GETS_BESIDE: u64 = 200;
const WRITERS: usize = 6;

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

/// The number that a text of digits begins with.
fn number(text: &str) -> u64 {
    let digits = text.split(|letter: char| !letter.is_ascii_digit()).next();
    digits.and_then(|digits| digits.parse().ok()).expect("it begins with a number")
}

/// How many WAL objects of a cluster's only shard are not rolled, if no roll is under way.
pub(crate) fn not_rolled(s3: &S3Server) -> Option<usize> {
    let rolled = s3.keys("/rolled/");
    // The first is of the shard's first taker.
    let commits = s3.puts_since(0).iter().filter(|path| path.ends_with("/manifest")).count();
    if commits <= rolled.len() {
        return None;
    }
    let file = |key: &str| key.rsplit('/').next().unwrap_or_default().to_owned();
    let last = |key: &String| number(file(key).split('-').nth(1).expect("a rolled object names its last"));
    let last = rolled.iter().map(last).max();
    Some(s3.keys("/wal/").iter().filter(|key| Some(number(&file(key))) > last).count())
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
    // Each step by itself, so that it is no matter how long all of them take.
    for objects in (0..=if is_full() { OBJECTS_FULL } else { OBJECTS }).step_by(100) {
        let written = async || (cluster.store.s3().count_objects("/wal/") >= objects).then_some(());
        eventually("more objects are written", written).await;
    }
    finish.store(true, Ordering::Relaxed);
    let acknowledged: u64 = in_time("the writers end", writers.join_all()).await.iter().sum();

    let short = || async { not_rolled(cluster.store.s3()).filter(|count| *count < SELF_ROLL_OBJECTS) };
    let not_rolled = eventually("the leader rolls by itself", short).await;

    let killed = cluster.leader(0, "load", 0).await;
    let other = 1 - killed;
    let gets = cluster.store.s3().gets();
    cluster.kill9(killed).await;
    let start = Instant::now();
    let call =
        || cluster.node(other).post("/v1/topics/load/records").header("idempotency-key", "after").body("2");
    eventually("the other takes over", || {
        let call = call().try_send();
        async move { call.await.ok().filter(|answer| answer.status == 201) }
    })
    .await;
    let (took, gets) = (start.elapsed(), cluster.store.s3().gets() - gets);
    let (wal, rolled) =
        (cluster.store.s3().count_objects("/wal/"), cluster.store.s3().count_objects("/rolled/"));
    eprintln!(
        "a takeover over {wal} WAL objects, all but {not_rolled} rolled into {rolled}, took {gets} GETs and {took:?}"
    );
    assert!(gets <= not_rolled as u64 + GETS_BESIDE, "{gets} GETs, {not_rolled} objects not rolled");
    let records = cluster.node(other).read_all("/v1/topics/load/records").await;
    assert!(records.len() as u64 > acknowledged, "{} of {acknowledged} and one more", records.len());

    let gets = cluster.store.s3().gets();
    cluster.restart(killed).await;
    eprintln!("the start of a node took {} GETs", cluster.store.s3().gets() - gets);
    let again = cluster.node(killed).read_all("/v1/topics/load/records").await;
    assert!(again == records, "the node that came back shows another log");
}
