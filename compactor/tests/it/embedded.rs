//! The loop inside a gateway.

use tokio::sync::watch;

use forebay_compactor::embedded::{Embedded, Mode};
use forebay_log::limits;
use forebay_log::model::{Timestamp, WalSeq};
use forebay_log::shard::Shard;
use forebay_log::store::Operation;
use forebay_log::testing::{Fault, Moment, Target};

use crate::harness::{Bench, read_all, unit};

struct Running {
    stop: watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    fn start(bench: &Bench, shard: &Shard) -> Self {
        Self::start_with(bench, shard, Mode::Whole)
    }

    fn start_with(bench: &Bench, shard: &Shard, mode: Mode) -> Self {
        let (stop, stopped) = watch::channel(false);
        let embedded = Embedded::new(bench.clock.clone(), mode);
        let (shard, at, seed) = (shard.clone(), bench.at.clone(), bench.seed());
        let task = tokio::spawn(async move { embedded.run(shard, at, seed, stopped).await });
        Self { stop, task }
    }

    async fn stop(self) {
        self.stop.send_replace(true);
        self.task.await.unwrap();
    }
}

fn grow_old(bench: &Bench) {
    let age = i64::try_from(limits::ROLL_AGE.as_millis()).unwrap();
    bench.clock.set(Timestamp::from_millis(1_000_000 + age));
}

/// Counts the objects of the shard besides its manifest.
async fn wait_for_objects(bench: &Bench, count: usize) {
    // A look a second; the clock is paused.
    while bench.objects().await.len() != count + 1 {
        tokio::time::sleep(limits::ROLL_LOOK_INTERVAL).await;
    }
}

#[tokio::test(start_paused = true)]
async fn old_data_is_rolled_and_readers_go_over_before_it_is_deleted() {
    let bench = Bench::new();
    bench.fill(5).await;
    let shard = bench.open().await;
    let before = read_all(&shard).await;
    let running = Running::start(&bench, &shard);
    let hold = bench.faulty.hold(Operation::Delete, Moment::Request);
    grow_old(&bench);
    hold.arrived(1).await;
    assert_eq!(shard.index().backlog().objects, 0);
    assert_eq!(bench.manifest().await.rolled.len(), 1);
    hold.release();
    wait_for_objects(&bench, 2).await;
    assert_eq!(read_all(&shard).await, before);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_idle_shard_costs_no_request() {
    let bench = Bench::new();
    let shard = bench.open().await;
    let running = Running::start(&bench, &shard);
    bench.append(&shard, unit(0, 1, 10, None)).await;
    let requests = || {
        [Operation::Get, Operation::List, Operation::Create, Operation::Swap, Operation::Delete]
            .map(|operation| bench.faulty.calls(operation))
    };
    tokio::time::sleep(2 * limits::ROLL_LOOK_INTERVAL).await;
    let before = requests();
    tokio::time::sleep(limits::SWEEP_INTERVAL / 2).await;
    assert_eq!(requests(), before);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn many_epochs_are_rolled_at_the_start() {
    let bench = Bench::new();
    for _ in 1..limits::ROLL_OBJECTS_AT_START {
        drop(bench.open().await);
    }
    let shard = bench.open().await;
    let hold = bench.faulty.hold(Operation::Swap, Moment::Reply);
    let running = Running::start(&bench, &shard);
    hold.arrived(1).await;
    let epochs = u64::try_from(limits::ROLL_OBJECTS_AT_START).unwrap();
    assert_eq!(bench.manifest().await.floor, WalSeq::new(epochs * limits::EPOCH_GAP));
    hold.release();
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_commit_without_an_answer_is_found_later() {
    let bench = Bench::new();
    bench.fill(5).await;
    let shard = bench.open().await;
    let before = read_all(&shard).await;
    let manifest = bench.at.keys.manifest(bench.at.shard);
    // The swap is stored, but neither its answer nor any look at it comes through.
    let hold = bench.faulty.hold(Target::at(Operation::Swap, &manifest), Moment::Reply);
    let running = Running::start(&bench, &shard);
    grow_old(&bench);
    hold.arrived(1).await;
    bench.faulty.set_chance(Operation::Get, Fault::Fail, 1.0);
    bench.faulty.set_chance(Operation::Swap, Fault::Fail, 1.0);
    drop(running);
    let running = Running::start(&bench, &shard);
    hold.release();
    tokio::time::sleep(2 * limits::ROLL_BACKOFF_MAX).await;
    bench.faulty.set_chance(Operation::Get, Fault::Fail, 0.0);
    bench.faulty.set_chance(Operation::Swap, Fault::Fail, 0.0);
    wait_for_objects(&bench, 2).await;
    assert_eq!(shard.index().backlog().objects, 0);
    assert_eq!(read_all(&shard).await, before);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_a_dead_node_left_is_swept_at_the_start() {
    let bench = Bench::new();
    bench.fill(5).await;
    assert_eq!(bench.roll().await.unwrap().unwrap().garbage.keys().len(), 5);
    let shard = bench.open().await;
    let running = Running::start(&bench, &shard);
    wait_for_objects(&bench, 2).await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_not_to_compact_rolls_a_long_path_and_deletes_nothing() {
    let bench = Bench::new();
    let shard = bench.open().await;
    let running = Running::start_with(&bench, &shard, Mode::SelfRoll);
    let hold = bench.faulty.hold(Operation::Swap, Moment::Request);
    for _ in 0..limits::SELF_ROLL_OBJECTS - 1 {
        bench.append(&shard, unit(0, 1, 10, None)).await;
    }
    grow_old(&bench);
    tokio::time::sleep(2 * limits::ROLL_LOOK_INTERVAL).await;
    assert_eq!(bench.faulty.calls(Operation::Swap), 0, "neither age nor number is reason enough");
    bench.append(&shard, unit(0, 1, 10, None)).await;
    hold.arrived(1).await;
    hold.release();
    while shard.index().backlog().objects > 0 {
        tokio::time::sleep(limits::ROLL_LOOK_INTERVAL).await;
    }
    tokio::time::sleep(2 * limits::SWEEP_INTERVAL).await;
    assert_eq!(bench.faulty.calls(Operation::Delete), 0);
    assert_eq!(read_all(&shard).await[0].1.len(), limits::SELF_ROLL_OBJECTS);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_work_on_a_shard_ends_with_its_leadership() {
    let bench = Bench::new();
    let shard = bench.open().await;
    let Running { stop, task } = Running::start(&bench, &shard);
    shard.stop().await;
    task.await.unwrap();
    assert!(!*stop.borrow());
}

#[tokio::test(start_paused = true)]
async fn one_roll_at_a_time_is_under_way_on_a_node() {
    let bench = Bench::new();
    bench.fill(5).await;
    let shard = bench.open().await;
    let embedded = Embedded::new(bench.clock.clone(), Mode::Whole);
    let (_stop, stopped) = watch::channel(false);
    // Two workers on one shard stand for two shards of a node.
    for _ in 0..2 {
        let (embedded, stopped) = (embedded.clone(), stopped.clone());
        let (shard, at, seed) = (shard.clone(), bench.at.clone(), bench.seed());
        tokio::spawn(async move { embedded.run(shard, at, seed, stopped).await });
    }
    let hold = bench.faulty.hold(Operation::Swap, Moment::Request);
    grow_old(&bench);
    hold.arrived(1).await;
    let uploads = bench.faulty.calls(Operation::Create);
    tokio::time::sleep(2 * limits::ROLL_LOOK_INTERVAL).await;
    assert_eq!(bench.faulty.calls(Operation::Create), uploads, "the other waits");
    hold.release();
    wait_for_objects(&bench, 2).await;
}
