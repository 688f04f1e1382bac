//! Log starts among rolls, restarts and a store that fails.

use forebay_compactor::gc;
use forebay_log::clock::Clock;
use forebay_log::limits;
use forebay_log::model::{Offset, Timestamp};
use forebay_log::shard::{FetchError, Pages, Shard};
use forebay_log::store::{Operation, Path};
use forebay_log::testing::{Fault, Moment};

use crate::harness::{Bench, PARTITIONS, partition, unit};

fn starts(of: &[(u16, u64)]) -> Vec<(forebay_log::model::TopicPartition, Offset)> {
    of.iter().map(|(number, start)| (partition(*number), Offset::new(*start))).collect()
}

fn log_start(shard: &Shard, number: u16) -> u64 {
    shard.index().log(partition(number)).view().log_start.get()
}

/// Checks that a partition is read from this offset on, and not below.
async fn starts_at(shard: &Shard, number: u16, start: u64) {
    assert_eq!(log_start(shard, number), start);
    for below in 0..start {
        let fetched = shard.index().fetch(partition(number), Offset::new(below), 100).await;
        assert!(
            matches!(fetched, Err(FetchError::Expired { log_start }) if log_start.get() == start),
            "{below}"
        );
    }
    let fetched = shard.index().fetch(partition(number), Offset::new(start), 100).await.unwrap();
    let end = shard.index().log(partition(number)).high_watermark();
    assert!(fetched.next > Offset::new(start) || end == Offset::new(start));
}

/// Leads a shard with some WAL objects for each partition of ten records.
async fn filled(bench: &Bench) -> Shard {
    let shard = bench.open().await;
    for n in 0..PARTITIONS * 5 {
        bench.append(&shard, unit(n % PARTITIONS, 2, 50, None)).await;
    }
    shard
}

#[tokio::test(start_paused = true)]
async fn a_log_start_outlives_restarts_and_rolls_and_never_moves_back() {
    let bench = Bench::new();
    let shard = filled(&bench).await;
    shard.truncate(&starts(&[(0, 3), (2, 10)])).await.unwrap();
    starts_at(&shard, 0, 3).await;
    starts_at(&shard, 2, 10).await;
    let version = bench.manifest().await.version;
    shard.truncate(&starts(&[(0, 2), (1, 0), (2, 10)])).await.unwrap();
    assert_eq!(bench.manifest().await.version, version, "nothing is written for nothing");
    let commit = bench.roll().await.unwrap().unwrap();
    shard.adopt(commit.manifest).await.unwrap();
    commit.garbage.delete(&bench.at).await.unwrap();
    starts_at(&shard, 0, 3).await;
    drop(shard);
    let shard = bench.open().await;
    starts_at(&shard, 0, 3).await;
    starts_at(&shard, 1, 0).await;
    starts_at(&shard, 2, 10).await;
    let appended = bench.append(&shard, unit(2, 1, 10, None)).await;
    assert_eq!(appended.placements[0].base_offset, Offset::new(10));
}

#[tokio::test(start_paused = true)]
async fn an_offset_above_the_high_watermark_moves_nothing() {
    let bench = Bench::new();
    let shard = filled(&bench).await;
    let refused = shard.truncate(&starts(&[(0, 5), (1, 11)])).await.unwrap_err();
    assert!(refused.to_string().ends_with("partition=1 high_watermark=10"), "{refused}");
    assert_eq!((log_start(&shard, 0), log_start(&shard, 1)), (0, 0));
    assert!(bench.manifest().await.pages.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_log_start_is_never_above_what_the_store_holds() {
    let bench = Bench::new();
    let shard = bench.open().await;
    shard.append(unit(0, 4, 10, None)).await.unwrap();
    shard.truncate(&starts(&[(0, 4)])).await.unwrap();
    drop(shard);
    let shard = bench.open().await;
    assert_eq!(shard.index().log(partition(0)).high_watermark(), Offset::new(4));
    starts_at(&shard, 0, 4).await;
}

#[tokio::test(start_paused = true)]
async fn of_a_roll_and_a_truncation_neither_is_lost() {
    for truncate_first in [true, false] {
        let bench = Bench::new();
        let shard = filled(&bench).await;
        let hold = bench.faulty.hold(Operation::Swap, Moment::Request);
        if truncate_first {
            let (rolled, ()) = tokio::join!(bench.roll(), async {
                hold.arrived(1).await;
                bench.sound().truncate(&starts(&[(0, 3)]), &Pages::default()).await.unwrap();
                hold.release();
            });
            assert_eq!(rolled.unwrap().unwrap().manifest, bench.manifest().await);
        } else {
            let (starts, sound) = (starts(&[(0, 3)]), bench.sound());
            let (moved, ()) = tokio::join!(shard.truncate(&starts), async {
                hold.arrived(1).await;
                let now = bench.clock.now();
                let policy = crate::harness::EAGER;
                let commit = forebay_compactor::roll(&sound, &policy, now, &mut bench.rng()).await;
                assert!(commit.unwrap().is_some());
                hold.release();
            });
            moved.unwrap();
            starts_at(&shard, 0, 3).await;
        }
        let manifest = bench.manifest().await;
        assert_eq!((manifest.pages.len(), manifest.rolled.len()), (1, 1));
        drop(shard);
        starts_at(&bench.open().await, 0, 3).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_truncation_may_die_between_any_two_requests() {
    for requests in 0..20 {
        let bench = Bench::new();
        let shard = filled(&bench).await;
        bench.faulty.fail_after(Some(requests));
        let done = shard.truncate(&starts(&[(0, 3), (1, 4)])).await;
        bench.faulty.fail_after(None);
        drop(shard);
        let shard = bench.open().await;
        let now = (log_start(&shard, 0), log_start(&shard, 1));
        let expected: &[_] = if done.is_ok() { &[(3, 4)] } else { &[(3, 4), (0, 0)] };
        assert!(expected.contains(&now), "all or nothing: requests={requests} {now:?}");
        shard.truncate(&starts(&[(0, 3), (1, 4)])).await.unwrap();
        starts_at(&shard, 1, 4).await;
        if done.is_ok() {
            return;
        }
    }
    panic!("a truncation takes many requests");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_at_random_loses_no_acknowledged_log_start() {
    let bench = Bench::new();
    let mut shard = filled(&bench).await;
    let faults = [Fault::Fail, Fault::LoseReply, Fault::LandLate, Fault::LandTwice, Fault::Conflict];
    let mut acknowledged = 0;
    let mut moved = 0;
    for round in 0..60_u64 {
        bench.append(&shard, unit(0, 2, 20, None)).await;
        for fault in faults {
            bench.faulty.set_chance(Operation::Swap, fault, 0.12);
            bench.faulty.set_chance(Operation::Create, fault, 0.08);
        }
        bench.faulty.set_chance(Operation::Get, Fault::Fail, 0.05);
        let asked = acknowledged + round % 3;
        let asked_starts = starts(&[(0, asked)]);
        let (rolled, truncated) = tokio::join!(bench.roll(), shard.truncate(&asked_starts));
        for fault in faults {
            bench.faulty.set_chance(Operation::Swap, fault, 0.0);
            bench.faulty.set_chance(Operation::Create, fault, 0.0);
        }
        bench.faulty.set_chance(Operation::Get, Fault::Fail, 0.0);
        if truncated.is_ok() {
            moved += u64::from(asked > acknowledged);
            acknowledged = asked.max(acknowledged);
        }
        bench.faulty.land_late().await;
        if let Ok(Some(commit)) = rolled {
            shard.adopt(commit.manifest).await.unwrap();
            commit.garbage.delete(&bench.at).await.unwrap();
        } else {
            shard.adopt(bench.manifest().await).await.unwrap();
        }
        assert!(log_start(&shard, 0) >= acknowledged, "round {round}");
        if round % 10 == 9 {
            drop(shard);
            shard = bench.open().await;
            acknowledged = acknowledged.max(log_start(&shard, 0));
            starts_at(&shard, 0, acknowledged).await;
        }
    }
    assert!(moved > 10, "{moved} truncations went through");
}

#[tokio::test(start_paused = true)]
async fn replaced_pages_are_swept_and_those_that_may_be_committed_are_not() {
    let bench = Bench::new();
    let shard = filled(&bench).await;
    for start in [2, 3, 4] {
        shard.truncate(&starts(&[(0, start)])).await.unwrap();
    }
    // A truncation that died before its swap.
    let create_then_swap = bench.faulty.calls(Operation::Create) + 1;
    for _ in 0..limits::STORE_ATTEMPTS_MAX {
        bench.faulty.inject(Operation::Swap, Fault::Fail);
    }
    assert!(shard.truncate(&starts(&[(0, 7)])).await.is_err());
    assert_eq!(bench.faulty.calls(Operation::Create), create_then_swap);
    let prefix = bench.at.keys.page_prefix(bench.at.shard);
    assert_eq!(bench.names(&prefix).await.len(), 4);
    let listed = bench.at.store.list(&Path::from("cluster"), None).await.unwrap();
    let last = listed.iter().map(|object| object.last_modified.timestamp_millis()).max().unwrap();
    for (age, left) in [(0, 4), (24 * 60 * 60 * 1000 + 1, 2)] {
        bench.clock.set(Timestamp::from_millis(last + age));
        let commit = gc::sweep(&bench.at, bench.clock.now()).await.unwrap().unwrap();
        commit.garbage.delete(&bench.at).await.unwrap();
        assert_eq!(bench.names(&prefix).await.len(), left);
    }
    shard.truncate(&starts(&[(0, 7)])).await.unwrap();
    drop(shard);
    starts_at(&bench.open().await, 0, 7).await;
}
