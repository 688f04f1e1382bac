//! Topics that are made, grown, deleted and made again through different nodes, under load.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use harness::{Client, Cluster, ClusterOptions, SharedStore, eventually, in_time};
use reqwest::Body;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::history;
use crate::load::{Load, mixed};
use crate::turn;

const NODES: usize = 3;
/// How long a writer waits for an answer.
const ANSWER_MAX: Duration = Duration::from_secs(20);
/// How often the topic is deleted and made again.
const INCARNATIONS: usize = 6;
/// Pause of an upload between two lines: longer than that after which a node stores the lines it has.
const LINE_PAUSE: Duration = Duration::from_millis(300);

async fn cluster() -> Cluster {
    let options = ClusterOptions::new(NODES, &["--flush-linger", "20ms"]);
    Cluster::start(SharedStore::real().await, options).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_made_or_deleted_through_one_node_is_so_on_all_others_at_once() {
    let _turn = turn().await;
    let cluster = cluster().await;
    for round in 0..12 {
        let (maker, writer, reader) = (round % NODES, (round + 1) % NODES, (round + 2) % NODES);
        let path = format!("/v1/topics/topic-{round}");
        let records = format!("{path}/records");
        cluster.node(maker).put(&path).json(&json!({"partitions": 2})).await.expect(201);
        let receipt = cluster.node(writer).post(&records).body("1").await.expect(201).json();
        let cursor = receipt["cursor"].as_str().expect("a receipt has a cursor");
        let page = cluster.node(reader).get(&format!("{records}?at_least={cursor}")).await.expect(200).json();
        assert_eq!(page["records"][0]["value"], 1, "round {round}: {page}");
        cluster.node(reader).delete(&path).await.expect(204);
        cluster.node(writer).post(&records).body("2").await.problem(404, "topic-not-found");
        cluster.node(maker).get(&records).await.problem(404, "topic-not-found");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_streams_miss_nothing_when_partitions_are_added_under_load() {
    let _turn = turn().await;
    let cluster = cluster().await;
    cluster.node(0).create_topic("grows", json!({"partitions": 2})).await;
    let (total, known) = watch::channel(usize::MAX);
    let follow = |node| tokio::spawn(follow(node, known.clone()));
    let streams: Vec<_> = cluster.clients().into_iter().map(follow).collect();
    let mut load = Load::start(&cluster.clients(), "grows", &mixed(2));
    load.each_acknowledged(5).await;
    for (node, partitions) in [(1, 4), (2, 9)] {
        let change = json!({"partitions": partitions});
        cluster.node(node).patch("/v1/topics/grows").json(&change).await.expect(200);
        // Every node takes records for what another has just made.
        for writer in 0..NODES {
            let path = format!("/v1/topics/grows/records?partition={}", partitions - 1);
            let value = json!({"writer": "grower", "sequence": partitions * NODES + writer});
            cluster.node(writer).post(&path).json(&value).await.expect(201);
        }
        load.each_acknowledged(5).await;
    }
    let writers = load.finish().await;
    let (log, verdict) = history::check(&cluster.clients(), "grows", &writers).await;
    eprintln!("while partitions were added: {verdict}");
    let stored = cluster.node(0).read_all("/v1/topics/grows/records").await;
    assert_eq!(stored.len(), log.len(), "nobody writes any more");
    total.send_replace(stored.len());
    for stream in streams {
        let seen = in_time("the stream has everything", stream).await.expect("no panic");
        assert!(
            by_partition(&seen) == by_partition(&stored),
            "a stream missed, repeated or reordered records"
        );
    }
}

/// Offsets and values by partition, in the order in which they came.
fn by_partition(records: &[Value]) -> BTreeMap<u64, Vec<(&Value, &Value)>> {
    let mut partitions: BTreeMap<u64, Vec<_>> = BTreeMap::new();
    for record in records {
        let partition = record["partition"].as_u64().expect("a number");
        partitions.entry(partition).or_default().push((&record["offset"], &record["value"]));
    }
    partitions
}

/// Follows the topic through one node until it has as many records as there turn out to be.
async fn follow(node: Client, mut total: watch::Receiver<usize>) -> Vec<Value> {
    let mut stream = node.get("/v1/topics/grows/records?after=earliest").stream().await;
    let mut records = Vec::new();
    while records.len() < *total.borrow_and_update() {
        tokio::select! {
            record = stream.next_named("message") => records.push(record.json()),
            changed = total.changed() => changed.expect("it is there until the streams have ended"),
        }
    }
    records
}

/// A request that was acknowledged: when it began, which incarnation it names, and what it sent.
struct Acknowledged {
    begun: Instant,
    incarnation: String,
    value: u64,
}

/// Writes through one node until told to finish. While the topic is gone it gets 404.
async fn write(node: Client, next: Arc<AtomicU64>, finish: Arc<AtomicBool>) -> Vec<Acknowledged> {
    let node = Client::with_timeout(node.url(), ANSWER_MAX);
    let mut acknowledged = Vec::new();
    while !finish.load(Ordering::Relaxed) {
        let (begun, value) = (Instant::now(), next.fetch_add(1, Ordering::Relaxed));
        let call = node.post(&format!("/v1/topics/again/records?key={value}")).body(value.to_string());
        let answer = call.try_send().await.expect("all nodes run");
        if answer.status == 404 {
            continue;
        }
        let receipt = answer.expect(201).json();
        let incarnation = word(receipt["cursor"].as_str().expect("a receipt has a cursor"));
        acknowledged.push(Acknowledged { begun, incarnation, value });
    }
    acknowledged
}

/// The word of the incarnation that a cursor is of.
fn word(cursor: &str) -> String {
    cursor.split_once('.').expect("a cursor has an epoch word").0.to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_sent_after_a_delete_was_answered_lands_in_what_was_deleted() {
    let _turn = turn().await;
    let mut cluster = cluster().await;
    let topic = json!({"partitions": 4});
    cluster.node(0).create_topic("again", topic.clone()).await;
    let (next, finish) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let write = |node| write(node, Arc::clone(&next), Arc::clone(&finish));
    let writers: JoinSet<Vec<Acknowledged>> =
        cluster.clients().into_iter().cycle().take(3 * NODES).map(write).collect();
    // When each incarnation was answered to be gone.
    let mut gone: HashMap<String, Instant> = HashMap::new();
    for round in 0..INCARNATIONS {
        let node = cluster.node(round % NODES);
        let place = node.get("/v1/topics/again/offsets?at=earliest").await.expect(200).json();
        let incarnation = word(place["cursor"].as_str().expect("it has a cursor"));
        let count = next.load(Ordering::Relaxed);
        let written = async || (next.load(Ordering::Relaxed) > count + 50).then_some(());
        eventually("records are written", written).await;
        // A hint is there within a millisecond. Without Redis there is none, and only the store tells.
        let hinted = round % 2 == 0;
        if !hinted {
            cluster.redis.kill9().await;
        }
        cluster.node(round % NODES).delete("/v1/topics/again").await.expect(204);
        gone.insert(incarnation, Instant::now());
        // Not by the same node.
        let maker = cluster.node((round + 1) % NODES);
        maker.create_topic("again", topic.clone()).await;
        if !hinted {
            cluster.redis.restart().await;
        }
    }
    let count = next.load(Ordering::Relaxed);
    eventually("records are written", async || (next.load(Ordering::Relaxed) > count + 50).then_some(()))
        .await;
    finish.store(true, Ordering::Relaxed);
    let acknowledged = in_time("the writers end", writers.join_all()).await;
    let acknowledged: Vec<Acknowledged> = acknowledged.into_iter().flatten().collect();
    assert_eq!(gone.len(), INCARNATIONS, "each incarnation has a word of its own");

    let late = |one: &&Acknowledged| gone.get(&one.incarnation).is_some_and(|gone| one.begun > *gone);
    let too_late = acknowledged.iter().filter(late).count();
    assert_eq!(too_late, 0, "requests begun after a 204 were acknowledged in what was deleted");
    let in_last = acknowledged.iter().filter(|one| !gone.contains_key(&one.incarnation));
    let mut expected: Vec<u64> = in_last.map(|one| one.value).collect();
    expected.sort_unstable();
    assert!(!expected.is_empty(), "the last incarnation was written to");
    for node in cluster.clients() {
        let shown = || async {
            let records = node.read_all("/v1/topics/again/records").await;
            let mut values: Vec<u64> = records.iter().filter_map(|record| record["value"].as_u64()).collect();
            values.sort_unstable();
            (values.len() >= expected.len()).then_some(values)
        };
        assert_eq!(eventually("the node shows all of them", shown).await, expected, "the last incarnation");
    }
    eprintln!(
        "{} acknowledged over {INCARNATIONS} deletions, {} of them in the last incarnation",
        acknowledged.len(),
        expected.len()
    );
}

/// Lines of a body without end, one after the other, and how many have been sent so far.
fn endless(sent: Arc<AtomicU64>) -> Body {
    let lines = futures::stream::unfold(sent, |sent| async move {
        tokio::time::sleep(LINE_PAUSE).await;
        let line = sent.fetch_add(1, Ordering::SeqCst);
        Some((Ok::<_, Infallible>(format!("{line}\n")), sent))
    });
    Body::wrap_stream(lines)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_without_end_hears_that_its_topic_was_deleted_through_another_node() {
    let _turn = turn().await;
    let mut cluster = cluster().await;
    for through_leader in [true, false] {
        let topic = if through_leader { "through-leader" } else { "through-another" };
        let path = format!("/v1/topics/{topic}");
        cluster.node(0).create_topic(topic, json!({"partitions": 4})).await;
        cluster.settled(topic).await;
        let leader = cluster.leader(0, topic, 0).await;
        let (uploader, deleter) = if through_leader {
            (leader, (leader + 1) % NODES)
        } else {
            ((leader + 1) % NODES, (leader + 2) % NODES)
        };
        // Nobody is told of anything by a hint.
        cluster.redis.kill9().await;
        let sent = Arc::new(AtomicU64::new(0));
        let call = cluster.node(uploader).post(&format!("{path}/records?format=lines&partition=0"));
        let upload = tokio::spawn(call.body(endless(Arc::clone(&sent))).try_send());
        let records = format!("{path}/records");
        let stored = async || (!cluster.node(deleter).read_all(&records).await.is_empty()).then_some(());
        eventually("some lines are stored", stored).await;

        cluster.node(deleter).delete(&path).await.expect(204);
        let (begun, deleted) = (sent.load(Ordering::SeqCst), Instant::now());
        let answer = in_time("the upload is refused", upload).await.expect("no panic").expect("an answer");
        eprintln!("an upload {topic} was refused {:?} after the topic was deleted", deleted.elapsed());
        let problem = answer.problem(404, "topic-not-found");
        assert_eq!(problem["effect"], "partial", "{problem}");
        let stored = problem["stored_lines"].as_u64().expect("a number");
        assert!(
            (1..=begun).contains(&stored),
            "{stored} lines stored, {begun} sent before the topic was gone"
        );
        cluster.redis.restart().await;
    }
}
