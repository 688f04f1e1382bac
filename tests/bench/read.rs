//! Catch-up: one reader from the start of a topic to its end, and many of them beside others.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, ensure};
use memchr::memmem;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::BATCHES;
use crate::connection::{Connection, request};
use crate::figures::Row;

const PAGE_RECORDS: usize = 5_000;
/// Readers that catch up beside others.
const READERS: usize = 8;

/// Page after page of JSON.
pub(crate) async fn catch_up_json(address: &str, records: usize) -> anyhow::Result<Row> {
    let mut connection = Connection::open(address).await?;
    let (mut after, mut seen) = ("earliest".to_owned(), 0);
    let start = Instant::now();
    while seen < records {
        let path = format!("/v1/topics/{BATCHES}/records?limit={PAGE_RECORDS}&after={after}");
        let page = connection.call(&request("GET", &path, "", b"")).await?;
        let found = memmem::find_iter(&page, b"\"offset\":").count();
        ensure!(found > 0, "an empty page after {seen} of {records} records");
        seen += found;
        let (_, rest) = page.split_at(memmem::rfind(&page, b"\"next\":\"").context("no cursor")? + 8);
        let end = memchr::memchr(b'"', rest).context("no end of the cursor")?;
        std::str::from_utf8(&rest[..end])?.clone_into(&mut after);
    }
    Ok(Row::rate("catch-up, JSON pages, one reader", "records", seen, start.elapsed()))
}

/// One stream of NDJSON.
pub(crate) async fn catch_up_ndjson(address: &str, records: usize) -> anyhow::Result<Row> {
    let mut connection = Connection::open(address).await?;
    let path = format!("/v1/topics/{BATCHES}/records?follow=true&after=earliest");
    let start = Instant::now();
    connection.open_stream(&request("GET", &path, "Accept: application/x-ndjson\r\n", b"")).await?;
    let mut seen = 0;
    while seen < records {
        let chunk = connection.next_chunk().await?.context("the stream ended")?;
        seen += memchr::memchr_iter(b'\n', &chunk).count();
    }
    Ok(Row::rate("catch-up, NDJSON stream, one reader", "records", seen, start.elapsed()))
}

/// Runs a case while readers go from the start of the topic to its end over and over; answers both.
pub(crate) async fn beside_catch_up(
    address: &str,
    records: usize,
    case: impl Future<Output = anyhow::Result<Row>>,
) -> anyhow::Result<[Row; 2]> {
    let mut readers = JoinSet::new();
    let seen = Arc::new(AtomicUsize::new(0));
    for _ in 0..READERS {
        let (address, seen) = (address.to_owned(), Arc::clone(&seen));
        readers.spawn(async move {
            loop {
                catch_up_ndjson(&address, records).await?;
                seen.fetch_add(records, Ordering::Relaxed);
            }
        });
    }
    let start = Instant::now();
    let mut row = tokio::select! {
        row = case => row?,
        Some(failed) = readers.join_next() => {
            let failed: anyhow::Result<()> = failed?;
            return Err(failed.err().context("a reader ended")?);
        }
    };
    row.name += &format!(", beside {READERS} readers that catch up");
    let all = Row::rate("those readers together", "records", seen.load(Ordering::Relaxed), start.elapsed());
    Ok([row, all])
}
