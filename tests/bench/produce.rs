//! Produce: single records from many connections, and NDJSON batches.

use std::time::Duration;

use bytes::Bytes;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::connection::{Connection, request};
use crate::figures::Row;
use crate::{BATCHES, VALUE_BYTES, random_text};

const CONNECTIONS_SINGLE: usize = 64;
const CONNECTIONS_BATCH: usize = 8;
const LINES: usize = 1_000;
/// Keeps the folder of a long run small: 200 MB of values.
const BATCHES_MAX: usize = 2_000;

/// Pause between two requests that meet an idle server: longer than any linger.
const PACE: Duration = Duration::from_millis(300);

/// One record per request, each long after the one before.
pub(crate) async fn paced(address: &str, time: Duration) -> anyhow::Result<Row> {
    let body = random_text(&mut StdRng::seed_from_u64(3), VALUE_BYTES);
    let request = request("POST", "/v1/topics/single/records", "", body.as_bytes());
    let mut connection = Connection::open(address).await?;
    let (start, mut latencies) = (Instant::now(), Vec::new());
    while start.elapsed() < time {
        tokio::time::sleep(PACE).await;
        let sent = Instant::now();
        connection.call(&request).await?;
        latencies.push(sent.elapsed());
    }
    Ok(Row::rate("produce, single records, one each 300 ms", "requests", latencies.len(), start.elapsed())
        .with_latencies(latencies))
}

/// One record per request.
pub(crate) async fn single(address: &str, time: Duration) -> anyhow::Result<Row> {
    let body = random_text(&mut StdRng::seed_from_u64(1), VALUE_BYTES);
    let request = request("POST", "/v1/topics/single/records", "", body.as_bytes());
    let (latencies, took) = run(address, CONNECTIONS_SINGLE, request, time, usize::MAX).await?;
    let name = format!("produce, single records, {CONNECTIONS_SINGLE} connections");
    Ok(Row::rate(&name, "requests", latencies.len(), took).with_latencies(latencies))
}

/// Many records per request; answers how many records were stored too.
pub(crate) async fn batches(address: &str, time: Duration) -> anyhow::Result<(Row, usize)> {
    let mut random = StdRng::seed_from_u64(2);
    let line = |_| format!("{{\"v\":\"{}\"}}\n", random_text(&mut random, VALUE_BYTES - 8));
    let lines: String = (0..LINES).map(line).collect();
    let headers = "Content-Type: application/x-ndjson\r\n";
    let request = request("POST", &format!("/v1/topics/{BATCHES}/records"), headers, lines.as_bytes());
    let (latencies, took) =
        run(address, CONNECTIONS_BATCH, request, time, BATCHES_MAX / CONNECTIONS_BATCH).await?;
    let name = format!("produce, NDJSON of {LINES} lines, {CONNECTIONS_BATCH} connections");
    let records = latencies.len() * LINES;
    Ok((Row::rate(&name, "records", records, took).with_latencies(latencies), records))
}

/// Sends one request over and over on each connection; answers all latencies and the time it took.
async fn run(
    address: &str,
    connections: usize,
    request: Bytes,
    time: Duration,
    count_max: usize,
) -> anyhow::Result<(Vec<Duration>, Duration)> {
    let mut open = Vec::with_capacity(connections);
    for _ in 0..connections {
        open.push(Connection::open(address).await?);
    }
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for mut connection in open {
        let request = request.clone();
        tasks.spawn(async move {
            let mut latencies = Vec::new();
            while start.elapsed() < time && latencies.len() < count_max {
                let sent = Instant::now();
                connection.call(&request).await?;
                latencies.push(sent.elapsed());
            }
            anyhow::Ok(latencies)
        });
    }
    let mut latencies = Vec::new();
    while let Some(task) = tasks.join_next().await {
        latencies.extend(task??);
    }
    Ok((latencies, start.elapsed()))
}
