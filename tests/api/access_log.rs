//! A day's access log, sent by curl in one request and read back complete, in order and unchanged.

use std::fmt::Write as _;
use std::path::Path;

use harness::{Server, in_time};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;
use tempfile::NamedTempFile;
use tokio::process::Command;

const LINES: usize = 220_000;
const RECORDS: &str = "/v1/topics/access/records";

/// The part of a record that the comparison needs, its value as it stands in the answer.
#[derive(Deserialize)]
struct Record<'a> {
    offset: usize,
    #[serde(borrow)]
    value: &'a RawValue,
}

#[derive(Deserialize)]
struct Page<'a> {
    #[serde(borrow)]
    records: Vec<Record<'a>>,
    next: String,
    caught_up: bool,
}

/// Checks records against the log line by line, so that a failure names the first line that differs.
struct Comparison<'a> {
    expected: Vec<&'a str>,
    seen: usize,
}

impl<'a> Comparison<'a> {
    fn new(log: &'a str) -> Self {
        Self { expected: log.lines().collect(), seen: 0 }
    }

    fn next(&mut self, record: &Record<'_>) {
        assert_eq!(record.offset, self.seen, "the next offset");
        assert_eq!(Some(&record.value.get()), self.expected.get(self.seen), "line {}", self.seen);
        self.seen += 1;
    }

    fn complete(self) {
        assert_eq!(self.seen, self.expected.len());
    }
}

#[tokio::test]
async fn a_whole_log_in_one_request_comes_back_line_by_line_as_json() {
    let (server, log) = server_with_log(&["--data-binary"], |file| format!("@{}", file.display())).await;
    let mut comparison = Comparison::new(&log);
    let mut after = "earliest".to_owned();
    loop {
        let answer =
            server.get(&format!("{RECORDS}?limit=5000&max_bytes=4000000&after={after}")).await.expect(200);
        let page: Page<'_> = serde_json::from_slice(&answer.body).expect("a page");
        page.records.iter().for_each(|record| comparison.next(record));
        after = page.next;
        if page.caught_up {
            break;
        }
    }
    comparison.complete();
}

#[tokio::test]
async fn a_whole_log_in_chunks_of_unknown_size_comes_back_as_ndjson_and_as_events() {
    let chunked = ["-X", "POST", "-H", "Transfer-Encoding: chunked", "-H", "Expect:", "-T"];
    let (server, log) = server_with_log(&chunked, |file| file.display().to_string()).await;
    let mut comparison = Comparison::new(&log);
    while comparison.seen < LINES {
        let path = format!("/v1/topics/access/partitions/0/records?limit=5000&offset={}", comparison.seen);
        let answer = server.get(&path).header("accept", "application/x-ndjson").await.expect(200);
        let before = comparison.seen;
        for line in answer.body.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
            comparison.next(&serde_json::from_slice(line).expect("a record"));
        }
        assert!(comparison.seen > before, "an empty page at {before}");
    }
    comparison.complete();

    let mut comparison = Comparison::new(&log);
    let mut stream = server.get(&format!("{RECORDS}?after=earliest")).stream().await;
    while comparison.seen < LINES {
        let event = stream.next_named("message").await;
        comparison.next(&serde_json::from_str(&event.data).expect("a record"));
    }
    comparison.complete();
}

/// A server that was sent the log by one curl command.
async fn server_with_log(arguments: &[&str], file_argument: impl Fn(&Path) -> String) -> (Server, String) {
    let server = Server::start().await;
    server.create_topic("access", json!({})).await;
    let log = access_log();
    let file = NamedTempFile::new().expect("the temporary folder can be written");
    std::fs::write(file.path(), &log).expect("the temporary folder can be written");
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--fail-with-body", "-H", "Content-Type: application/x-ndjson"]).args(arguments);
    curl.arg(file_argument(file.path())).arg(format!("{}{RECORDS}", server.url()));
    let output = in_time("curl sends the log", curl.kill_on_drop(true).output()).await.expect("curl runs");
    let receipt = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{receipt} {}", String::from_utf8_lossy(&output.stderr));
    assert!(receipt.replace(' ', "").contains(&format!("\"count\":{LINES}")), "{receipt}");
    (server, log)
}

/// Lines like a web server's, about 150 bytes each, always the same.
fn access_log() -> String {
    const METHODS: [&str; 6] = ["GET", "GET", "GET", "GET", "POST", "HEAD"];
    const STATUSES: [u16; 8] = [200, 200, 200, 200, 304, 301, 404, 500];
    const PATHS: [&str; 5] =
        ["/", "/search?q=caf\u{e9}", "/static/app.js", "/api/v2/items/", "/images/logo-"];
    let mut random = StdRng::seed_from_u64(7);
    let mut log = String::with_capacity(LINES * 160);
    for line in 0..LINES {
        let (seconds, millis) = (line / 3, random.random_range(0..1000));
        let time = format!(
            "2024-03-01T{:02}:{:02}:{:02}.{millis:03}Z",
            seconds / 3600 % 24,
            seconds / 60 % 60,
            seconds % 60
        );
        let address = format!("203.0.{}.{}", random.random_range(0..114), random.random_range(1..255));
        let (method, path) = (METHODS[random.random_range(0..6)], PATHS[random.random_range(0..5)]);
        let (id, status) = (random.random_range(0..1_000_000), STATUSES[random.random_range(0..8)]);
        let (bytes, took) = (random.random_range(0..200_000), random.random_range(0.1..900.0_f64));
        writeln!(
            log,
            r#"{{"time":"{time}","ip":"{address}","method":"{method}","path":"{path}{id}","status":{status},"bytes":{bytes},"ms":{took:.1},"agent":"Mozilla/5.0 (X11)"}}"#
        )
        .expect("a string takes everything");
    }
    log
}
