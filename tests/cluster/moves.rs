//! Leaders that change: how long nothing is accepted, and that nothing is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use harness::{Client, Cluster, ClusterOptions, S3Faults, SharedStore, eventually, in_time};
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::load::{Load, Naming};
use crate::{history, is_full, percentiles, turn};

/// How long each request to the store takes.
const STORE_DELAY: Duration = Duration::from_millis(30);
const ROUNDS: usize = 5;
const ROUNDS_FULL: usize = 20;
/// Enough that each node should lead some.
const SHARDS: usize = 24;
/// Pause between two probes.
const PROBE: Duration = Duration::from_millis(20);
const NAMINGS: [(Naming, usize); 3] = [(Naming::Plain, 2), (Naming::Key, 2), (Naming::Sequence, 2)];

async fn slow_store() -> SharedStore {
    let store = SharedStore::in_process().await;
    store.s3().set_faults(S3Faults { delay: STORE_DELAY, ..S3Faults::default() });
    store
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_node_takes_over_from_a_killed_leader_and_nothing_is_lost() {
    let _turn = turn().await;
    let mut cluster = Cluster::start(slow_store().await, ClusterOptions::new(3, &[])).await;
    for topic in ["load", "probe"] {
        cluster.node(0).create_topic(topic, json!({"partitions": 4})).await;
    }
    let mut load = Load::start(&cluster.clients(), "load", &NAMINGS);
    load.each_acknowledged(2).await;
    let mut times = Vec::new();
    for round in 0..if is_full() { ROUNDS_FULL } else { ROUNDS } {
        let before = cluster.agreed_leaderships("probe").await[0];
        let leader = before.node.expect("somebody leads");
        let other = (leader + 1) % 3;
        let killed = Instant::now();
        cluster.kill9(leader).await;
        let accepted = || {
            let call = cluster.node(other).post("/v1/topics/probe/records?partition=0");
            let call = call.header("idempotency-key", &round.to_string()).body(round.to_string());
            async move { call.try_send().await.ok().filter(|answer| answer.status == 201) }
        };
        eventually("another node takes over", accepted).await;
        times.push(killed.elapsed());
        // The epoch of a leader is known a moment after its name.
        let began =
            async || (cluster.leaderships(other, "probe").await[0].epoch > before.epoch).then_some(());
        eventually("a later epoch began", began).await;
        cluster.restart(leader).await;
        load.each_acknowledged(2).await;
    }
    let rounds = times.len();
    eprintln!(
        "kill -9 of a leader to the first accepted write, store at {STORE_DELAY:?}: {}",
        percentiles(times)
    );
    let writers = load.finish().await;
    let nodes = cluster.clients();
    let (_, verdict) = history::check(&nodes, "load", &writers).await;
    eprintln!("through {rounds} takeovers: {verdict}");
    let probes = cluster.node(0).read_all("/v1/topics/probe/partitions/0/records").await;
    let found: Vec<u64> = probes.iter().filter_map(|record| record["value"].as_u64()).collect();
    assert_eq!(found, (0..rounds as u64).collect::<Vec<_>>(), "each probe once and in order");
}

/// Probes that are on their way one beside the other, so that each pause is felt by those sent in it.
struct Probes {
    finish: Arc<AtomicBool>,
    sending: tokio::task::JoinHandle<Vec<Result<Duration, String>>>,
}

impl Probes {
    fn start(node: Client) -> Self {
        let finish = Arc::new(AtomicBool::new(false));
        let sending = tokio::spawn(Self::send(node, Arc::clone(&finish)));
        Self { finish, sending }
    }

    /// Sends to one partition after the other.
    async fn send(node: Client, finish: Arc<AtomicBool>) -> Vec<Result<Duration, String>> {
        let mut calls = JoinSet::new();
        for number in 0.. {
            if finish.load(Ordering::Relaxed) {
                break;
            }
            let path = format!("/v1/topics/probe/records?partition={}", number % SHARDS);
            let call = node.post(&path).body(number.to_string());
            calls.spawn(async move {
                let start = Instant::now();
                match call.try_send().await {
                    Ok(answer) if answer.status == 201 => Ok(start.elapsed()),
                    Ok(answer) => Err(format!("after {:?}: {}", start.elapsed(), answer.text())),
                    Err(error) => Err(format!("after {:?}: {error:?}", start.elapsed())),
                }
            });
            tokio::time::sleep(PROBE).await;
        }
        calls.join_all().await
    }

    /// Ends them, checks that each was acknowledged, and says how long they took.
    async fn figures(self) -> String {
        self.finish.store(true, Ordering::Relaxed);
        let probes = in_time("the probes end", self.sending).await.expect("no panic");
        let failed: Vec<&String> = probes.iter().filter_map(|probe| probe.as_ref().err()).collect();
        assert!(failed.is_empty(), "{} of {} probes failed: {failed:?}", failed.len(), probes.len());
        percentiles(probes.into_iter().flatten().collect())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaderships_move_to_a_node_that_joins_and_away_from_one_that_leaves() {
    let _turn = turn().await;
    let shards = SHARDS.to_string();
    let options = ClusterOptions::new(2, &["--shards", &shards]);
    let mut cluster = Cluster::start(slow_store().await, options).await;
    for topic in ["load", "probe"] {
        cluster.node(0).create_topic(topic, json!({"partitions": SHARDS})).await;
    }
    cluster.settled("probe").await;
    let nodes = cluster.clients();
    let mut load = Load::start(&nodes, "load", &NAMINGS);
    load.each_acknowledged(2).await;

    let probes = Probes::start(nodes[0].clone());
    load.each_acknowledged(10).await;
    eprintln!("nothing moves: {}", probes.figures().await);

    let probes = Probes::start(nodes[0].clone());
    let joined = cluster.launch().await;
    cluster.node_mut(joined).wait_ready().await;
    let leads = async |node: usize| {
        let leaderships = cluster.leaderships(0, "probe").await;
        leaderships.iter().filter(|one| one.node == Some(node)).count()
    };
    eventually("the new node leads", async || (leads(joined).await > 0).then_some(())).await;
    cluster.settled("probe").await;
    let moved = leads(joined).await;
    eprintln!("a node joined and took {moved} of {SHARDS} shards: {}", probes.figures().await);

    let probes = Probes::start(nodes[0].clone());
    let start = Instant::now();
    assert!(cluster.terminate(joined).await, "it ends well");
    let drained = start.elapsed();
    load.each_acknowledged(2).await;
    eprintln!("a node with {moved} shards ended in {drained:?}: {}", probes.figures().await);
    let writers = load.finish().await;
    let (_, verdict) = history::check(&nodes, "load", &writers).await;
    eprintln!("through planned moves: {verdict}");
}
