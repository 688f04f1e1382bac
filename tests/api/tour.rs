//! The README's tour, run as it is printed.

use std::process::Stdio;

use harness::{Event, EventParser, Server, in_time};
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::process::Command;

/// What a command of the tour must print; `part` tells which command is meant.
struct Claim {
    part: &'static str,
    check: fn(&str),
}

const CLAIMS: [Claim; 6] = [
    Claim { part: "-X PUT", check: |output| assert_eq!(json_of(output)["partitions"], 1, "{output}") },
    Claim { part: "-d 'hello'", check: |output| assert_eq!(offsets(output), [0]) },
    Claim { part: "--json", check: |output| assert_eq!(offsets(output), [1]) },
    Claim { part: "application/x-ndjson", check: |output| assert_eq!(offsets(output), [2, 3]) },
    Claim { part: "text/event-stream", check: replays_all_records },
    Claim { part: "curl \"$FB/v1/topics/orders/records\"", check: reads_all_records },
];

#[tokio::test]
async fn every_line_of_the_readme_tour_does_what_it_says() {
    let server = Server::start().await;
    let mut open: Vec<&Claim> = CLAIMS.iter().collect();
    for line in tour_lines() {
        let output = run(&line, &server.url()).await;
        if let Some(at) = open.iter().position(|claim| line.contains(claim.part)) {
            (open.remove(at).check)(&output);
        }
    }
    let missing: Vec<&str> = open.iter().map(|claim| claim.part).collect();
    assert!(missing.is_empty(), "the tour has no command with {missing:?}");
}

/// The commands of the first `sh` block below the heading "The tour", continued lines joined.
fn tour_lines() -> Vec<String> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md");
    let readme = std::fs::read_to_string(path).expect("the README is there");
    let (_, section) = readme.split_once("The tour\n").expect("the README has a heading `The tour`");
    let (_, block) = section.split_once("```sh\n").expect("the tour has a block of commands");
    let (block, _) = block.split_once("\n```").expect("the block ends");
    let block = block.replace("\\\n", " ");
    let is_command = |line: &&str| !line.is_empty() && !line.starts_with('#') && !line.contains("FB=");
    block.lines().map(str::trim).filter(is_command).map(str::to_owned).collect()
}

/// Runs one line in a shell. A stream is cut once the four records are there, as Ctrl-C would.
async fn run(line: &str, url: &str) -> String {
    let mut command = Command::new("bash");
    command.args(["-c", line]).env("FB", url).process_group(0).kill_on_drop(true);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("bash runs");
    let group = Pid::from_raw(child.id().expect("it runs").cast_signed()).expect("a process id is not zero");
    let mut stdout = child.stdout.take().expect("it is piped");
    let (mut output, mut parser, mut seen) = (Vec::new(), EventParser::default(), 0);
    let stream = line.contains("text/event-stream");
    while in_time(line, stdout.read_buf(&mut output)).await.expect("the pipe can be read") > 0 {
        let mut fresh = EventParser::default();
        seen = records(&fresh.feed(&output)).len();
        parser = fresh;
        if stream && seen == 4 {
            kill_process_group(group, Signal::TERM).expect("the group can be signalled");
            break;
        }
    }
    let status = in_time(line, child.wait()).await.expect("it can be waited for");
    assert!(status.success() || (stream && seen == 4), "{line}: {status}");
    assert_eq!(parser.frames_without_data(), 0, "{line}");
    String::from_utf8(output).expect("the output is text")
}

fn json_of(output: &str) -> Value {
    serde_json::from_str(output).unwrap_or_else(|error| panic!("{error}: {output}"))
}

fn offsets(output: &str) -> Vec<u64> {
    let receipt = json_of(output);
    let records = receipt["records"].as_array().unwrap_or_else(|| panic!("a receipt: {output}"));
    records.iter().filter_map(|record| record["offset"].as_u64()).collect()
}

fn records(events: &[Event]) -> Vec<Value> {
    events.iter().filter(|event| event.name == "message").map(|event| event.json()["value"].clone()).collect()
}

fn tour_values() -> Vec<Value> {
    vec![json!("hello"), json!({"id": 7}), json!({"id": 8}), json!({"id": 9})]
}

fn reads_all_records(output: &str) {
    let page = json_of(output);
    let records = page["records"].as_array().expect("a page has records");
    let values: Vec<Value> = records.iter().map(|record| record["value"].clone()).collect();
    assert_eq!(values, tour_values());
    assert_eq!(page["caught_up"], true, "{output}");
}

fn replays_all_records(output: &str) {
    let mut parser = EventParser::default();
    let events = parser.feed(output.as_bytes());
    assert_eq!(events[0].name, "open", "{output}");
    assert_eq!(records(&events), tour_values());
}
