//! A store that takes nothing for a while: what a node acknowledges at `local` meanwhile takes disk, not memory, and all of
//! it is stored once the store is back, whether the node lived through it or was killed.

use harness::{Options, S3Faults, S3Server, Server, eventually};
use rand::rngs::StdRng;
use rand::{RngCore as _, SeedableRng as _};
use serde_json::json;

use crate::mebibytes;

/// Bytes of one record, which no compression makes less.
const RECORD_BYTES: usize = 1_000_000;
/// Records of an outage that the node lives through: a gibibyte.
const LIVED_THROUGH: usize = 1_074;
/// Records of an outage in which it is killed.
const KILLED_IN: usize = 400;
/// What the server may hold while nothing is stored: what waits for the store (64 MiB) and for the journal's thread (64 MiB),
/// what is under way to the store (four objects of 8 MiB), a body, and the rest of the process.
const BOUND_MIB: u64 = 400;
/// What it may hold once the store is back: beside that the tail and the cache (64 MiB each), a roll of 64 MiB with its copy,
/// and at a start a file of the journal.
const BOUND_AFTER_MIB: u64 = 700;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_takes_nothing_costs_disk_and_no_memory() {
    let s3 = S3Server::start().await;
    let mut options = Options::on_s3(s3.url());
    options.args.push("--cache-bytes=64MiB".into());
    let mut server = Server::start_in_environment(options, &S3Server::variables()).await;
    server.create_topic("outage", json!({"partitions": 1})).await;
    let values = Values::new();
    s3.set_faults(S3Faults { conflict: 1.0, ..S3Faults::default() });
    for number in 0..LIVED_THROUGH {
        values.append(&server, number).await;
    }
    let during = mebibytes(&server, "VmHWM");
    server.get("/v1/topics/outage/partitions/0/records/0").await.expect(404);
    s3.set_faults(S3Faults::default());
    values.expect(&server, 0..LIVED_THROUGH).await;
    let after = mebibytes(&server, "VmHWM");

    s3.set_faults(S3Faults { conflict: 1.0, ..S3Faults::default() });
    let all = LIVED_THROUGH + KILLED_IN;
    for number in LIVED_THROUGH..all {
        values.append(&server, number).await;
    }
    server.kill9().await;
    s3.set_faults(S3Faults::default());
    server.restart().await;
    values.expect(&server, LIVED_THROUGH..all).await;
    server.get(&format!("/v1/topics/outage/partitions/0/records/{all}")).await.expect(404);
    let restarted = mebibytes(&server, "VmHWM");
    println!(
        "outage: {during} MiB in it (bound {BOUND_MIB}), {after} MiB at most when it is over, {restarted} MiB after a kill \
         (bound {BOUND_AFTER_MIB})"
    );
    assert!(during <= BOUND_MIB, "{during} MiB");
    assert!(after.max(restarted) <= BOUND_AFTER_MIB, "{after}, {restarted} MiB");
}

/// The values of the records: a number, and what is the same in all.
struct Values {
    rest: Vec<u8>,
}

impl Values {
    fn new() -> Self {
        let mut rest = vec![0; RECORD_BYTES - 8];
        StdRng::seed_from_u64(1).fill_bytes(&mut rest);
        Self { rest }
    }

    fn value(&self, number: usize) -> Vec<u8> {
        [&(number as u64).to_be_bytes()[..], &self.rest].concat()
    }

    async fn append(&self, server: &Server, number: usize) {
        let call = server.post("/v1/topics/outage/records?durability=local");
        call.header("Content-Type", "application/octet-stream").body(self.value(number)).await.expect(201);
    }

    /// Waits until these records are at the offsets of their numbers.
    async fn expect(&self, server: &Server, numbers: std::ops::Range<usize>) {
        for number in numbers {
            let path = format!("/v1/topics/outage/partitions/0/records/{number}");
            let found = eventually("the record is stored", || async {
                let answer = server.get(&path).await;
                (answer.status == 200).then_some(answer)
            });
            assert!(found.await.body[..] == self.value(number)[..], "{number} is another record");
        }
    }
}
