//! What slow clients, and a slow store (`store`), can make a server hold. Of clients: hundreds of readers that hardly read, or never do, and dozens of producers
//! that trickle, beside one fast producer. The server's memory stays under the bound that the README states, it stays
//! responsive, and in the end nobody has missed or repeated anything.

mod producer;
mod reader;
mod store;

use std::collections::BTreeSet;
use std::time::Duration;

use harness::{Client, Server, in_time};
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use reader::{Manner, Reader};

/// Slow followers of the feed: events, and every fifth of them lines.
const FOLLOWERS: usize = 200;
/// Clients that ask for 16 MiB of the bulk, as a page or as events, and never read.
const DEAD: usize = 100;
const SLOW_PRODUCERS: usize = 64;
/// What the fast producer sends: `BODIES` of the bulk, each with a part of the feed behind it.
const BODIES: usize = 80;
const BODY_RECORDS: usize = 4000;
const FEED_RECORDS: usize = 80;
/// Bytes of one record, about.
const RECORD_BYTES: usize = 1000;
/// What the server may hold at most: records that wait for the store (256 MiB a shard), answers for slow readers (256 MiB),
/// request bodies (of these clients under 100 MiB), tail and cache (64 MiB each), and the rest of the process.
const BOUND_MIB: u64 = 768;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_clients_hold_little_memory_and_lose_nothing() {
    let server = Server::start().await;
    for topic in ["bulk", "feed", "drip", "pulse"] {
        server.create_topic(topic, json!({})).await;
    }
    let idle = mebibytes(&server, "VmRSS");
    let (hurry, hurried) = watch::channel(false);
    let mut followers = JoinSet::new();
    for number in 0..FOLLOWERS {
        let manner = if number % 10 == 0 { Manner::Stalled } else { Manner::Slow };
        let reader = match number % 5 {
            0 => Reader::open(&server, "/v1/topics/feed/records?follow=true&after=earliest", "*/*").await,
            _ => Reader::open(&server, "/v1/topics/feed/records", "text/event-stream").await,
        };
        followers.spawn(reader.read(BODIES * FEED_RECORDS, manner, hurried.clone()));
    }
    let mut trickles = JoinSet::new();
    for number in 0..SLOW_PRODUCERS {
        trickles.spawn(producer::trickle(server.clone(), number, hurried.clone()));
    }
    let pulse = tokio::spawn(pulse(server.clone(), hurried.clone()));
    let began = Instant::now();
    let dead = fast_producer(&server).await;
    let produced = began.elapsed();
    let loaded = mebibytes(&server, "VmRSS");
    let mut bulk = JoinSet::new();
    let reader = Reader::open(&server, "/v1/topics/bulk/records?follow=true&after=earliest", "*/*").await;
    bulk.spawn(reader.read(BODIES * BODY_RECORDS, Manner::Fast, hurried));

    hurry.send_replace(true);
    let slowest = in_time("the pulse ends", pulse).await.expect("no panic");
    in_time("every trickle ends", check_trickles(&server, trickles)).await;
    all(bulk).await;
    all(followers).await;
    drop(dead);
    let peak = mebibytes(&server, "VmHWM");
    let sent = BODIES * BODY_RECORDS * RECORD_BYTES / 1_000_000;
    println!(
        "memory: {idle} MiB idle, {loaded} MiB after {sent} MB in {produced:.1?} beside {FOLLOWERS} slow and {DEAD} dead \
         readers and {SLOW_PRODUCERS} slow producers, {peak} MiB at most (bound {BOUND_MIB}); all caught up after {:.1?}; \
         slowest produce and read {slowest:.1?}",
        began.elapsed()
    );
    assert!(peak <= BOUND_MIB, "{peak} MiB");
    server.get("/readyz").await.expect(200);
}

/// Sends the bulk and the feed as fast as it is taken. In the middle of it clients ask for much and never read; they are
/// answered, to be dropped at the end.
async fn fast_producer(server: &Server) -> Vec<Reader> {
    let fill = producer::noise(RECORD_BYTES * BODY_RECORDS);
    let body = producer::lines(&fill, BODY_RECORDS);
    let feed = producer::lines(&fill, FEED_RECORDS);
    let mut dead = Vec::new();
    for number in 0..BODIES {
        producer::send(server, "bulk", &body).await;
        producer::send(server, "feed", &feed).await;
        if number == BODIES / 4 {
            for number in 0..DEAD {
                let page = "/v1/topics/bulk/records?after=earliest&limit=10000&max_bytes=16777216";
                let accept = if number % 2 == 0 { "text/event-stream" } else { "application/json" };
                dead.push(Reader::open(server, page, accept).await);
            }
        }
    }
    dead
}

/// Produces and reads a record over and over; answers the longest that one took.
async fn pulse(client: Client, hurried: watch::Receiver<bool>) -> Duration {
    let (mut slowest, mut number) = (Duration::ZERO, 0_u64);
    while !*hurried.borrow() {
        let began = Instant::now();
        let receipt =
            client.post("/v1/topics/pulse/records").body(number.to_string()).await.expect(201).json();
        assert_eq!(receipt["records"][0]["offset"], number);
        let page =
            client.get(&format!("/v1/topics/pulse/partitions/0/records?offset={number}")).await.expect(200);
        assert_eq!(page.json()["records"][0]["value"], number);
        slowest = slowest.max(began.elapsed());
        number += 1;
    }
    slowest
}

/// Checks that each line that the slow producers sent is stored once.
async fn check_trickles(server: &Server, mut trickles: JoinSet<usize>) {
    let mut sent = 0;
    while let Some(lines) = trickles.join_next().await {
        sent += lines.expect("no panic");
    }
    let records = server.read_all("/v1/topics/drip/records").await;
    let places =
        records.iter().map(|record| (record["value"]["producer"].as_u64(), record["value"]["line"].as_u64()));
    let places: BTreeSet<_> = places.collect();
    assert_eq!((places.len(), records.len()), (sent, sent));
}

/// Waits for readers; each gives up by itself when nothing more comes.
async fn all(mut readers: JoinSet<()>) {
    while let Some(reader) = readers.join_next().await {
        reader.expect("no panic");
    }
}

/// A figure of the server's process.
fn mebibytes(server: &Server, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).expect("the server runs");
    let line =
        status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).expect("it is there");
    let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kibibytes / 1024
}
