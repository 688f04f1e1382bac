//! A client of Server-Sent Events that is a program of its own, such as a browser.
//!
//! It takes the server's URL and the path of a stream, prints `open` whenever a stream has opened and
//! `record <id> <data>` for each record, and ends with its standard input. `tests/clients` holds the programs.

use std::collections::HashSet;
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{ChildStdout, Command};

use crate::in_time;
use crate::process::Process;

/// A running client program and the records it has printed.
#[derive(Debug)]
pub struct Subscriber {
    process: Process,
    lines: Lines<BufReader<ChildStdout>>,
    ids: Vec<String>,
    records: Vec<Value>,
    opened: usize,
    /// Holds what it says of errors.
    _folder: TempDir,
}

impl Subscriber {
    /// Starts the program with the URL of a server and the path of a stream.
    pub fn start(program: &str, script: &Path, args: &[&str]) -> Self {
        let mut command = Command::new(program);
        command.arg(script).args(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let folder = TempDir::with_prefix("forebay-client-").expect("the temporary folder can be written");
        let mut process = Process::start_piped(command, folder.path());
        let lines = BufReader::new(process.child.stdout.take().expect("it is piped")).lines();
        Self { process, lines, ids: Vec::new(), records: Vec::new(), opened: 0, _folder: folder }
    }

    /// Waits for the next line that it prints.
    pub async fn next_line(&mut self) -> String {
        let line = in_time("the client prints a line", self.lines.next_line()).await;
        line.expect("it prints text").unwrap_or_else(|| {
            panic!("the client ended; tests/run installs what it needs\n{}", self.process.log_end())
        })
    }

    /// Takes in what the client prints next.
    async fn step(&mut self) {
        let line = self.next_line().await;
        if line == "open" {
            self.opened += 1;
        } else if let Some((id, data)) = line.strip_prefix("record ").and_then(|rest| rest.split_once(' ')) {
            self.ids.push(id.to_owned());
            self.records.push(serde_json::from_str(data).expect("a record is JSON"));
        }
    }

    /// Waits until it has opened a stream.
    pub async fn opened(&mut self) {
        while self.opened == 0 {
            self.step().await;
        }
    }

    /// Waits until it has come back once more.
    pub async fn opened_again(&mut self) {
        let before = self.opened;
        while self.opened == before {
            self.step().await;
        }
    }

    /// Waits for so many more records.
    pub async fn records(&mut self, more: usize) {
        self.records_in_all(self.records.len() + more).await;
    }

    /// Waits until it has seen so many records.
    pub async fn records_in_all(&mut self, count: usize) {
        while self.records.len() < count {
            self.step().await;
        }
    }

    /// Checks that the client saw the stored log, each partition in order, and each id once.
    pub fn check(&self, stored: &[Value], acknowledged: &[(u64, u64)]) {
        let mut ids = self.ids.clone();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), self.ids.len(), "an id came twice");
        let of = |records: &[Value], partition: u64| -> Vec<(Option<u64>, Value)> {
            let records = records.iter().filter(|record| record["partition"] == partition);
            records.map(|record| (record["offset"].as_u64(), record["value"].clone())).collect()
        };
        let number = |record: &Value| record["partition"].as_u64();
        let partitions =
            stored.iter().chain(&self.records).filter_map(number).max().map_or(0, |last| last + 1);
        for partition in 0..partitions {
            assert_eq!(of(&self.records, partition), of(stored, partition), "partition {partition}");
        }
        let place = |record: &Value| (record["partition"].as_u64(), record["offset"].as_u64());
        let places: HashSet<_> = stored.iter().map(place).collect();
        for &(partition, offset) in acknowledged {
            assert!(places.contains(&(Some(partition), Some(offset))), "lost: {partition} {offset}");
        }
    }

    /// Ends the program in the way it can clean up after itself.
    pub async fn end(mut self) {
        drop(self.process.child.stdin.take());
        let drain = async { while let Ok(Some(_)) = self.lines.next_line().await {} };
        in_time("the client closes its output", drain).await;
        let status = self.process.wait().await;
        assert!(status.success(), "{status}\n{}", self.process.log_end());
    }
}
