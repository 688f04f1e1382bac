//! Benchmarks of a release server over loopback, printed as a Markdown table.
//!
//! ```sh
//! cargo build --release -p forebay-gateway -p forebay-tests --bins
//! cargo run --release -p forebay-tests --bin bench -- --seconds 5
//! ```
//!
//! Client and server share the machine. Every case is bounded in time and in bytes; MB/s count values only.

mod connection;
mod figures;
mod produce;
mod read;
mod tail;

use std::io::Write as _;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, ValueEnum};
use harness::{Options, S3Faults, S3Server, SeaweedFs, Server};
use rand::Rng as _;
use rand::distr::Alphanumeric;
use rand::rngs::StdRng;
use serde_json::json;

use figures::Row;

/// Bytes of one value.
const VALUE_BYTES: usize = 100;
/// The topic that batches are produced to and catch-up reads from.
const BATCHES: &str = "batches";
/// The topic that the tail's subscribers follow.
const TAIL: &str = "tail";

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Case {
    Paced,
    Single,
    Batch,
    CatchUp,
    Latency,
    FanOut,
    LatencyBeside,
}

#[derive(Debug, Parser)]
struct Args {
    /// How long each case that has no end of its own runs.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,
    /// The cases to run; all when none is named.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Case>,
    /// Keeps the log on SeaweedFS, on this machine too, instead of in a folder.
    #[arg(long)]
    seaweedfs: bool,
    /// Keeps the log on an S3 server in this process, each of whose answers takes so many milliseconds. The server is
    /// started again before anything catches up, so that it has nothing in memory.
    #[arg(long, conflicts_with = "seaweedfs")]
    store_delay_ms: Option<u64>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let time = Duration::from_secs(args.seconds);
    let runs = |case: Case| args.only.is_empty() || args.only.contains(&case);
    let seaweedfs = if args.seaweedfs { Some(SeaweedFs::start().await) } else { None };
    let slow = match args.store_delay_ms {
        Some(delay) => Some(slow_store(Duration::from_millis(delay)).await),
        None => None,
    };
    let mut server = match (&seaweedfs, &slow) {
        (Some(s3), _) => {
            Server::start_in_environment(Options::on_s3(&s3.url()), &SeaweedFs::variables()).await
        }
        (_, Some(s3)) => Server::start_in_environment(Options::on_s3(s3.url()), &S3Server::variables()).await,
        (None, None) => Server::start().await,
    };
    let address = server.url().trim_start_matches("http://").to_owned();
    for topic in ["single", BATCHES, TAIL] {
        server.create_topic(topic, json!({"partitions": 4})).await;
    }
    let mut rows = vec![memory("memory, idle", server.pid())?];
    if runs(Case::Paced) {
        rows.push(produce::paced(&address, time).await?);
    }
    if runs(Case::Single) {
        rows.push(produce::single(&address, time).await?);
    }
    if runs(Case::Batch) || runs(Case::CatchUp) || runs(Case::LatencyBeside) {
        let (row, records) = produce::batches(&address, time).await?;
        rows.push(row);
        if slow.is_some() {
            server.terminate().await;
            server.restart().await;
        }
        if runs(Case::CatchUp) {
            rows.push(read::catch_up_json(&address, records).await?);
            rows.push(read::catch_up_ndjson(&address, records).await?);
        }
        if runs(Case::LatencyBeside) {
            rows.extend(read::beside_catch_up(&address, records, tail::latency(&address, time)).await?);
        }
    }
    if runs(Case::Latency) {
        rows.push(tail::latency(&address, time).await?);
    }
    if runs(Case::FanOut) {
        rows.push(tail::fan_out(&address).await?);
    }
    rows.push(memory("memory, after the load", server.pid())?);
    let mut out = std::io::stdout().lock();
    let cores = std::thread::available_parallelism()?;
    writeln!(
        out,
        "Client and server on {cores} cores, random values of {VALUE_BYTES} B, durability `object`.\n"
    )?;
    writeln!(out, "{}", figures::table(&rows))?;
    Ok(())
}

async fn slow_store(delay: Duration) -> S3Server {
    let store = S3Server::start().await;
    store.set_faults(S3Faults { delay, ..S3Faults::default() });
    store
}

/// Letters and digits without any pattern, so that compression gains little.
fn random_text(random: &mut StdRng, length: usize) -> String {
    random.sample_iter(Alphanumeric).take(length).map(char::from).collect()
}

/// What the server's process holds now and has held at most.
fn memory(name: &str, pid: u32) -> anyhow::Result<Row> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let mebibytes = |field: &str| -> anyhow::Result<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(field)).context("no such field")?;
        let kibibytes: u64 = line.trim_start_matches(':').trim().trim_end_matches(" kB").parse()?;
        Ok(kibibytes / 1024)
    };
    let rate = format!("{} MiB resident, {} MiB at most", mebibytes("VmRSS")?, mebibytes("VmHWM")?);
    Ok(Row { name: name.to_owned(), rate, ..Row::default() })
}
