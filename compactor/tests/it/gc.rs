//! What a sweep may and may not delete.

use forebay_compactor::gc;
use forebay_log::clock::Clock;
use forebay_log::format::codec::hash128;
use forebay_log::format::manifest::RolledRef;
use forebay_log::format::snapshot::Snapshot;
use forebay_log::limits;
use forebay_log::model::{JobId, Timestamp, WalSeq};
use forebay_log::store::Path;

use crate::harness::{Bench, read_all};

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// The store stamps objects with the machine's time.
async fn days_after_the_last_write(bench: &Bench, days: i64) {
    let listed = bench.at.store.list(&Path::from("cluster"), None).await.unwrap();
    let last = listed.iter().map(|object| object.last_modified.timestamp_millis()).max().unwrap();
    bench.clock.set(Timestamp::from_millis(last + days * DAY_MS + 1));
}

async fn create(bench: &Bench, key: &Path, len: usize) {
    bench.at.store.create_named_by_content(key, vec![7; len].into()).await.unwrap();
}

async fn sweep(bench: &Bench) -> Vec<Path> {
    let commit = gc::sweep(&bench.at, bench.clock.now()).await.unwrap().unwrap();
    commit.garbage.delete(&bench.at).await.unwrap();
    let mut keys = commit.garbage.keys().to_vec();
    keys.sort();
    keys
}

fn rolled(bench: &Bench, last: u64) -> Path {
    let (first, last, job) = (WalSeq::new(64), WalSeq::new(last), JobId::new(5));
    let reference = RolledRef { first, last, job, size: 0, append_time_max: Timestamp::default() };
    bench.at.keys.rolled(bench.at.shard, &reference)
}

async fn snapshot(bench: &Bench, floor: WalSeq) -> Path {
    let body = Snapshot { floor, ..Snapshot::default() }.encode().unwrap();
    let key = bench.at.keys.snapshot(bench.at.shard, hash128(&body));
    bench.at.store.create_named_by_content(&key, body.into()).await.unwrap();
    key
}

#[tokio::test(start_paused = true)]
async fn strays_below_the_floor_go_and_everything_else_stays() {
    let bench = Bench::new();
    assert!(gc::sweep(&bench.at, bench.clock.now()).await.unwrap().is_none());
    bench.fill(4).await;
    bench.fill(4).await;
    let commit = bench.roll().await.unwrap().unwrap();
    let floor = commit.manifest.floor.get();
    bench.fill(3).await;
    let before = read_all(&bench.open().await).await;
    let epochs = bench.epochs().await;

    let wal = |seq| bench.at.keys.wal(bench.at.shard, WalSeq::new(seq));
    let (low, high) = (wal(1), wal(floor + limits::EPOCH_GAP + 40));
    create(&bench, &low, 500).await;
    create(&bench, &high, 500).await;
    create(&bench, &wal(2), limits::WAL_HEADER_LEN).await;
    let swept = sweep(&bench).await;
    let mut expected: Vec<_> = commit.garbage.keys().to_vec();
    expected.push(low);
    expected.sort();
    assert_eq!(swept, expected);
    assert_eq!(bench.epochs().await, epochs + 1);
    assert!(bench.objects().await.contains(&high));
    assert_eq!(read_all(&bench.open().await).await, before);
    assert!(sweep(&bench).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn orphans_go_when_they_are_old_and_can_no_longer_be_committed() {
    let bench = Bench::new();
    bench.fill(4).await;
    let commit = bench.roll().await.unwrap().unwrap();
    commit.garbage.delete(&bench.at).await.unwrap();
    let floor = commit.manifest.floor;
    let mut void = vec![rolled(&bench, floor.get() - 1), snapshot(&bench, floor).await];
    create(&bench, &void[0], 500).await;
    void.sort();
    let promised = [rolled(&bench, floor.get()), snapshot(&bench, floor.plus(1)).await];
    create(&bench, &promised[0], 500).await;
    let strange = bench.at.keys.rolled_prefix(bench.at.shard).join("notes.txt");
    create(&bench, &strange, 500).await;

    days_after_the_last_write(&bench, 0).await;
    assert!(sweep(&bench).await.is_empty());
    days_after_the_last_write(&bench, 1).await;
    assert_eq!(sweep(&bench).await, void);
    let left = bench.objects().await;
    assert!(promised.iter().chain([&strange]).all(|key| left.contains(key)));
    assert!(!read_all(&bench.open().await).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn deletes_go_on_behind_one_that_fails() {
    use forebay_log::store::Operation;
    use forebay_log::testing::{Fault, Target};

    let bench = Bench::new();
    bench.fill(4).await;
    let commit = bench.roll().await.unwrap().unwrap();
    let first = &commit.garbage.keys()[0];
    bench.faulty.inject(Target::at(Operation::Delete, first), Fault::Fail);
    assert!(commit.garbage.delete(&bench.at).await.is_err());
    assert_eq!(sweep(&bench).await, std::slice::from_ref(first));
}
