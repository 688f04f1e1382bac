//! Real SSE clients, each following a topic under a running producer while its connection is cut in the middle of a
//! frame and the server is killed and started again: it must come back by itself and miss and repeat nothing.
//!
//! Beside them, real CloudEvents packages: each sends events in all three modes and reads them back in all three.

mod cors;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use harness::{Client, CuttingProxy, Server, Subscriber, in_time};
use serde_json::json;
use tokio::process::Command;

const PARTITIONS: usize = 3;
const STREAM: &str = "/v1/topics/ticks/records?after=earliest";
/// Records that the client must have seen before each outage, and after the last.
const RECORDS_BETWEEN: usize = 40;
const CUTS: usize = 2;
/// Pause of the producer between two requests: a slow one leaves time for the outages to fall between records.
const PACE: Duration = Duration::from_millis(2);

#[tokio::test]
async fn chromium_event_source_misses_and_repeats_nothing() {
    survives_outages("node", &here().join("browser.mjs")).await;
}

#[tokio::test]
async fn npm_eventsource_misses_and_repeats_nothing() {
    survives_outages("node", &here().join("eventsource.mjs")).await;
}

#[tokio::test]
async fn npm_eventsource_client_misses_and_repeats_nothing() {
    survives_outages("node", &here().join("eventsource_client.mjs")).await;
}

#[tokio::test]
async fn npm_launchdarkly_eventsource_misses_and_repeats_nothing() {
    survives_outages("node", &here().join("launchdarkly_eventsource.mjs")).await;
}

#[tokio::test]
async fn python_httpx_sse_misses_and_repeats_nothing() {
    let python = here().join("../.tools/venv/bin/python");
    survives_outages(python.to_str().expect("a path of text"), &here().join("httpx_sse_client.py")).await;
}

#[tokio::test]
async fn npm_cloudevents_sends_and_reads_all_three_modes() {
    exchanges_events("node", "cloudevents.mjs").await;
}

#[tokio::test]
async fn python_cloudevents_sends_and_reads_all_three_modes() {
    let python = here().join("../.tools/venv/bin/python");
    exchanges_events(python.to_str().expect("a path of text"), "cloudevents_client.py").await;
}

async fn exchanges_events(program: &str, script: &str) {
    let server = Server::start().await;
    server.create_topic("events", json!({})).await;
    let mut command = Command::new(program);
    command.arg(here().join(script)).arg(server.url()).arg("events").stdin(Stdio::null()).kill_on_drop(true);
    let output = in_time("the client ends", command.output()).await;
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}; tests/run installs the clients"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    assert_eq!(text(&output.stdout), "ok\n");
}

fn here() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients")
}

async fn survives_outages(program: &str, script: &Path) {
    let mut server = Server::start().await;
    server.create_topic("ticks", json!({"partitions": PARTITIONS})).await;
    let proxy = CuttingProxy::start(server.address()).await;
    let mut subscriber = Subscriber::start(program, script, &[&proxy.url(), STREAM]);
    subscriber.opened().await;
    let stop = Arc::new(AtomicBool::new(false));
    let producer = tokio::spawn(produce(server.clone(), stop.clone()));
    for _ in 0..CUTS {
        subscriber.records(RECORDS_BETWEEN).await;
        proxy.cut();
        subscriber.opened_again().await;
    }
    subscriber.records(RECORDS_BETWEEN).await;
    server.kill9().await;
    server.restart().await;
    subscriber.opened_again().await;
    subscriber.records(RECORDS_BETWEEN).await;
    stop.store(true, Ordering::Relaxed);
    let acknowledged = in_time("the producer ends", producer).await.expect("no panic");
    let stored = server.read_all("/v1/topics/ticks/records").await;
    subscriber.records_in_all(stored.len()).await;
    subscriber.check(&stored, &acknowledged);
    subscriber.end().await;
}

/// Produces until told to stop, through the outages, and answers what was acknowledged: partition and offset.
async fn produce(client: Client, stop: Arc<AtomicBool>) -> Vec<(u64, u64)> {
    let mut acknowledged = Vec::new();
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        let path = format!("/v1/topics/ticks/records?partition={}", number % PARTITIONS);
        let answer =
            in_time("an answer or a lost connection", client.post(&path).body(number.to_string()).try_send());
        if let Ok(answer) = answer.await
            && answer.status != 503
        {
            let place = answer.expect(201).json()["records"][0].clone();
            acknowledged
                .push((place["partition"].as_u64().expect("one"), place["offset"].as_u64().expect("one")));
        }
        tokio::time::sleep(PACE).await;
    }
    acknowledged
}
