//! Server-Sent Events at the tail: how late one record is, and how many a hundred subscribers get.

use std::time::Duration;

use anyhow::Context as _;
use bytes::{Buf as _, Bytes, BytesMut};
use memchr::memmem;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

use crate::connection::{Connection, request};
use crate::figures::Row;
use crate::{TAIL, VALUE_BYTES, random_text};

const PRODUCERS: usize = 8;
/// Records of each producer and second: 1,000 in all.
const RATE: u64 = 125;
const SUBSCRIBERS: usize = 100;
const BATCH_LINES: usize = 100;
const BATCHES: usize = 100;
/// Stands before the value's own digits: nothing else in an event looks like it.
const MARK: &[u8] = b"sent-at-";
/// Digits of a time in microseconds.
const DIGITS: usize = 12;

/// From before a record is sent until a subscriber has it.
pub(crate) async fn latency(address: &str, time: Duration) -> anyhow::Result<Row> {
    let mut subscriber = Subscriber::open(address).await?;
    let start = Instant::now();
    let mut producers = JoinSet::new();
    for producer in 0..PRODUCERS {
        let mut random = StdRng::seed_from_u64(producer as u64);
        let mut connection = Connection::open(address).await?;
        producers.spawn(async move {
            let mut ticks = tokio::time::interval(Duration::from_secs(1) / RATE as u32);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
            for _ in 0..RATE * time.as_secs() {
                ticks.tick().await;
                let body = marked_value(start.elapsed(), &mut random);
                connection
                    .call(&request("POST", &format!("/v1/topics/{TAIL}/records"), "", body.as_bytes()))
                    .await?;
            }
            anyhow::Ok(())
        });
    }
    let count = PRODUCERS * (RATE * time.as_secs()) as usize;
    let mut latencies = Vec::with_capacity(count);
    while latencies.len() < count {
        for sent in subscriber.next().await? {
            latencies.push(start.elapsed().saturating_sub(sent));
        }
    }
    let took = start.elapsed();
    while let Some(producer) = producers.join_next().await {
        producer??;
    }
    Ok(Row::rate("SSE tail, produce to event", "records", count, took).with_latencies(latencies))
}

/// Records as fast as one producer sends them, until every subscriber has all.
pub(crate) async fn fan_out(address: &str) -> anyhow::Result<Row> {
    let mut open = Vec::with_capacity(SUBSCRIBERS);
    for _ in 0..SUBSCRIBERS {
        open.push(Subscriber::open(address).await?);
    }
    let mut producer = Connection::open(address).await?;
    let mut random = StdRng::seed_from_u64(3);
    let start = Instant::now();
    let mut readers = JoinSet::new();
    for mut subscriber in open {
        readers.spawn(async move {
            let (mut seen, mut latencies) = (0, Vec::new());
            while seen < BATCHES * BATCH_LINES {
                let found = subscriber.next().await?;
                seen += found.len();
                latencies.extend(found.last().map(|&sent| start.elapsed().saturating_sub(sent)));
            }
            anyhow::Ok(latencies)
        });
    }
    for _ in 0..BATCHES {
        let sent = start.elapsed();
        let lines: String = (0..BATCH_LINES).map(|_| marked_value(sent, &mut random) + "\n").collect();
        let headers = "Content-Type: application/x-ndjson\r\n";
        let path = format!("/v1/topics/{TAIL}/records");
        producer.call(&request("POST", &path, headers, lines.as_bytes())).await?;
    }
    let mut latencies = Vec::new();
    while let Some(reader) = readers.join_next().await {
        latencies.extend(reader??);
    }
    let deliveries = SUBSCRIBERS * BATCHES * BATCH_LINES;
    let name = format!("SSE fan-out to {SUBSCRIBERS} subscribers");
    Ok(Row::rate(&name, "deliveries", deliveries, start.elapsed()).with_latencies(latencies))
}

/// A JSON string that tells when it was sent.
fn marked_value(now: Duration, random: &mut StdRng) -> String {
    let head = format!("\"sent-at-{:0DIGITS$}-", now.as_micros());
    let rest = random_text(random, VALUE_BYTES - head.len() - 1);
    head + &rest + "\""
}

/// One event stream, of which only the marked times are looked at.
struct Subscriber {
    connection: Connection,
    pending: BytesMut,
}

impl Subscriber {
    /// Opens a stream and waits until it follows the tail.
    async fn open(address: &str) -> anyhow::Result<Self> {
        let mut connection = Connection::open(address).await?;
        let path = format!("/v1/topics/{TAIL}/records?after=latest");
        connection.open_stream(&request("GET", &path, "Accept: text/event-stream\r\n", b"")).await?;
        let mut head = BytesMut::new();
        while memmem::find(&head, b"\"caught_up\":true").is_none() {
            head.extend_from_slice(&connection.next_chunk().await?.context("the stream ended")?);
        }
        Ok(Self { connection, pending: BytesMut::new() })
    }

    /// The times of the records that the next chunk completes.
    async fn next(&mut self) -> anyhow::Result<Vec<Duration>> {
        let chunk: Bytes = self.connection.next_chunk().await?.context("the stream ended")?;
        self.pending.extend_from_slice(&chunk);
        let (mut times, mut done) = (Vec::new(), 0);
        for at in memmem::find_iter(&self.pending, MARK) {
            let Some(digits) = self.pending.get(at + MARK.len()..at + MARK.len() + DIGITS) else { break };
            times.push(Duration::from_micros(std::str::from_utf8(digits)?.parse()?));
            done = at + MARK.len() + DIGITS;
        }
        let keep = (MARK.len() + DIGITS).min(self.pending.len() - done);
        self.pending.advance(self.pending.len() - keep);
        Ok(times)
    }
}
