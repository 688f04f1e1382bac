//! All nodes are restarted one after the other behind a load balancer, and nobody notices: neither a browser that
//! follows a topic nor producers that send again what was not answered.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use harness::{Balancer, Client, Cluster, ClusterOptions, SharedStore, Subscriber, in_time};
use serde_json::json;
use tokio::task::JoinSet;

use crate::turn;

const NODES: usize = 3;
const PRODUCERS: usize = 4;
/// Records that the browser must have seen before each restart and after the last.
const RECORDS_BETWEEN: usize = 40;
/// Most attempts of one request, and the pause between two.
const ATTEMPTS_MAX: usize = 40;
const PAUSE: Duration = Duration::from_millis(100);
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// What one producer has had acknowledged, as partition and offset, and how many attempts failed.
#[derive(Default)]
struct Produced {
    acknowledged: Vec<(u64, u64)>,
    failed: Vec<String>,
}

async fn produce(producer: usize, url: String, finish: Arc<AtomicBool>) -> Produced {
    let client = Client::with_timeout(&url, ANSWER_MAX);
    let mut produced = Produced::default();
    for number in 0.. {
        if finish.load(Ordering::Relaxed) {
            break;
        }
        let mut attempts = 0;
        loop {
            let call = client.post(&format!("/v1/topics/ticks/records?key={producer}"));
            let call =
                call.header("idempotency-key", &format!("{producer}/{number}")).body(number.to_string());
            let why = match call.try_send().await {
                Ok(answer) if answer.status == 201 => {
                    let place = answer.json()["records"][0].clone();
                    let number = |name: &str| place[name].as_u64().expect("a number");
                    produced.acknowledged.push((number("partition"), number("offset")));
                    break;
                }
                Ok(answer) => format!("{} {}", answer.status, answer.text()),
                Err(error) => format!("{error:?}"),
            };
            attempts += 1;
            assert!(attempts < ATTEMPTS_MAX, "sending again does not help: {why}");
            produced.failed.push(why);
            tokio::time::sleep(PAUSE).await;
        }
    }
    produced
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_behind_a_balancer_goes_unnoticed_by_a_browser_and_by_producers() {
    let _turn = turn().await;
    let options = ClusterOptions::new(NODES, &["--flush-linger", "50ms"]);
    let mut cluster = Cluster::start(SharedStore::real().await, options).await;
    cluster.node(0).create_topic("ticks", json!({"partitions": 3})).await;
    let balancer = Balancer::start((0..NODES).map(|node| cluster.node(node).address().to_owned())).await;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/browser.mjs");
    let stream = "/v1/topics/ticks/records?after=earliest";
    balancer.wait_ready().await;
    let mut browser = Subscriber::start("node", &script, &[&balancer.url(), stream]);
    browser.opened().await;

    let finish = Arc::new(AtomicBool::new(false));
    let produce = |producer| produce(producer, balancer.url(), Arc::clone(&finish));
    let producers: JoinSet<Produced> = (0..PRODUCERS).map(produce).collect();
    for node in 0..NODES {
        browser.records(RECORDS_BETWEEN).await;
        assert!(cluster.terminate(node).await, "node {node} ends well");
        cluster.restart(node).await;
    }
    browser.records(RECORDS_BETWEEN).await;
    finish.store(true, Ordering::Relaxed);
    let produced = in_time("the producers end", producers.join_all()).await;
    let acknowledged: Vec<(u64, u64)> = produced.iter().flat_map(|one| one.acknowledged.clone()).collect();
    let failed: Vec<&String> = produced.iter().flat_map(|one| &one.failed).collect();
    let stored = cluster.node(0).read_all("/v1/topics/ticks/records").await;
    assert_eq!(stored.len(), acknowledged.len(), "each request is stored once");
    browser.records_in_all(stored.len()).await;
    browser.check(&stored, &acknowledged);
    browser.end().await;
    eprintln!(
        "a rolling restart: {} records, {} attempts failed: {failed:.300?}",
        stored.len(),
        failed.len()
    );
}
