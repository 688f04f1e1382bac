//! Catch-up: one reader from the start of a topic to its end.

use anyhow::{Context as _, ensure};
use memchr::memmem;
use tokio::time::Instant;

use crate::BATCHES;
use crate::connection::{Connection, request};
use crate::figures::Row;

const PAGE_RECORDS: usize = 5_000;

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
