//! What survives: servers that are killed or stopped under load, and a second server on the same folder.

mod load;
mod retry;
mod s3;

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use harness::{Options, Server, forebay, in_time};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use load::{Load, Log};
use retry::{Figures, Naming, Producer, Signals};

const ROUNDS: usize = 20;
const PARTITIONS: usize = 3;

async fn server() -> Server {
    let server = Server::start().await;
    server.create_topic("load", json!({"partitions": PARTITIONS})).await;
    server
}

#[tokio::test]
async fn kill_9_under_load_loses_repeats_and_reorders_nothing_acknowledged() {
    survives_kills(&mut server().await, 1, ROUNDS).await;
}

/// Objects are flushed all the time here, so that kills fall between the journal and the store too.
#[tokio::test]
async fn kill_9_while_objects_are_flushed_loses_repeats_and_reorders_nothing_acknowledged() {
    let args = ["--flush-linger", "5ms"].map(Into::into).to_vec();
    let mut server = Server::start_with(Options { args }).await;
    server.create_topic("load", json!({"partitions": PARTITIONS})).await;
    survives_kills(&mut server, 2, ROUNDS).await;
}

/// Answers the load, at rest, and the log that was read.
async fn survives_kills(server: &mut Server, seed: u64, rounds: usize) -> (Load, Log) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut load = Load::new();
    let mut log = Log::default();
    for round in 0..rounds {
        load.start(server);
        load.acknowledged(random.random_range(1..2000)).await;
        // Not at the very moment of an acknowledgement: this is where in a request the kill falls.
        tokio::time::sleep(Duration::from_micros(random.random_range(0..20_000))).await;
        server.kill9().await;
        load.stop().await;
        server.restart().await;
        log.read_on(server).await;
        log.check(&load, &format!("round {round}"));
    }
    let mut whole = Log::default();
    whole.read_on(server).await;
    assert!(whole == log, "a read from the start shows another history than the reads of each round");
    eprintln!("{} acknowledged records survived {rounds} kills, each once and in its place", load.total());
    (load, log)
}

/// Every request that was not answered is sent again. So is what was answered to a client that had gone.
#[tokio::test]
async fn whatever_is_sent_again_under_its_name_is_stored_once_and_in_order() {
    let args = ["--flush-linger", "5ms"].map(Into::into).to_vec();
    let mut server = Server::start_with(Options { args }).await;
    server.create_topic("load", json!({"partitions": PARTITIONS})).await;
    let producers = (0..6).map(|id| Producer::new(id, [Naming::Key, Naming::Sequence][id as usize % 2]));
    let signals = Signals {
        address: server.address().to_owned(),
        acknowledged: Arc::new(Semaphore::new(0)),
        finish: Arc::new(AtomicBool::new(false)),
    };
    let running = retry::start(producers.collect(), &signals);
    let mut random = StdRng::seed_from_u64(3);
    for round in 0..ROUNDS {
        let count = signals.acknowledged.available_permits() as u32 + random.random_range(1..3000);
        let acknowledged =
            in_time("records are acknowledged", signals.acknowledged.acquire_many(count)).await;
        drop(acknowledged.expect("it is never closed"));
        // Not at the very moment of an acknowledgement: this is where in a request the kill falls.
        tokio::time::sleep(Duration::from_micros(random.random_range(0..20_000))).await;
        if round % 5 == 4 {
            assert!(server.terminate().await.success());
        } else {
            server.kill9().await;
        }
        server.restart().await;
    }
    let producers = retry::finish(running, &signals).await;
    let snapshots = server.data_dir().join("store/shards/0000/snapshots");
    assert!(std::fs::read_dir(snapshots).expect("a roll").next().is_some(), "starts went from snapshots too");
    for when in ["after the load", "after another start"] {
        let log = retry::read(&server).await;
        producers.iter().for_each(|producer| producer.check(&log));
        for producer in producers.iter().filter(|producer| producer.is_sequenced()) {
            producer.is_still_known(&server).await;
        }
        assert_eq!(log.len(), producers.len(), "{when}");
        server.kill9().await;
        server.restart().await;
    }
    let Figures { requests, sent_again, replayed, cut } =
        producers.iter().fold(Figures::default(), |sum, producer| sum.plus(producer.figures));
    let records: usize = producers.iter().map(Producer::records).sum();
    assert!(replayed > 0, "some retry met its first attempt");
    eprintln!(
        "{requests} requests with {records} records, {sent_again} sent again, {replayed} of them were stored already, \
         {cut} cut by the client, {ROUNDS} ends of the server: each record once and in order"
    );
}

#[tokio::test]
async fn a_stop_under_load_says_bye_and_keeps_everything_acknowledged() {
    let mut server = server().await;
    let mut stream = server.get("/v1/topics/load/records").stream().await;
    stream.next_named("open").await;
    let mut load = Load::new();
    load.start(&server);
    load.acknowledged(200).await;
    let reader = tokio::spawn(async move {
        stream.next_named("bye").await;
        let retry = stream.parser().retry();
        (stream.next().await, retry)
    });
    let asked = Instant::now();
    let status = server.terminate().await;
    assert!(status.success(), "{status}");
    eprintln!("a stop under load took {:?}", asked.elapsed());
    let (after_bye, retry) = in_time("the stream closes", reader).await.expect("no panic");
    assert_eq!(after_bye, None);
    assert!(retry.is_some(), "bye says when to come back");
    load.stop().await;
    server.restart().await;
    let mut log = Log::default();
    log.read_on(&server).await;
    log.check(&load, "after the stop");
}

#[tokio::test]
async fn what_is_acknowledged_at_local_survives_a_kill_too() {
    let mut server = server().await;
    for value in 0..50 {
        let call =
            server.post("/v1/topics/load/records?durability=local&partition=0").body(value.to_string());
        call.await.expect(201);
    }
    server.kill9().await;
    server.restart().await;
    let records = server.read_all("/v1/topics/load/partitions/0/records").await;
    let values: Vec<u64> = records.iter().filter_map(|record| record["value"].as_u64()).collect();
    assert_eq!(values, (0..50).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_second_server_on_the_same_folder_names_the_lock_and_ends() {
    let server = server().await;
    let mut second = forebay();
    second.args(["serve", "--listen", "127.0.0.1:0", "--data-dir"]).arg(server.data_dir());
    second.stdin(Stdio::null()).kill_on_drop(true);
    let output = in_time("the second server ends", second.output()).await.expect("it can be started");
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("lock"), "{said}");
    server.get("/readyz").await.expect(200);
}
