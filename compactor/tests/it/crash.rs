//! A store that fails, and compactors that die between any two requests.

use forebay_compactor::gc;
use forebay_log::clock::Clock;
use forebay_log::store::Operation;
use forebay_log::testing::Fault;

use crate::harness::{Bench, read_all, unit};

/// Requests that a roll and the deletion of its garbage may take here at most.
const REQUESTS_MAX: usize = 100;

async fn roll_and_delete(bench: &Bench) -> bool {
    match bench.roll().await {
        Ok(Some(commit)) => commit.garbage.delete(&bench.at).await.is_ok(),
        Ok(None) | Err(_) => false,
    }
}

#[tokio::test(start_paused = true)]
async fn a_roll_may_die_between_any_two_requests() {
    for requests in 0..REQUESTS_MAX {
        let bench = Bench::new();
        bench.fill(4).await;
        assert!(roll_and_delete(&bench).await);
        bench.fill(6).await;
        let before = read_all(&bench.open().await).await;

        bench.faulty.fail_after(Some(requests));
        let done = roll_and_delete(&bench).await;
        bench.faulty.fail_after(None);

        let shard = bench.open().await;
        assert_eq!(read_all(&shard).await, before, "requests={requests}");
        let appended = bench.append(&shard, unit(0, 1, 10, None)).await;
        assert!(!appended.replayed);
        let before = read_all(&shard).await;
        drop(shard);
        assert!(roll_and_delete(&bench).await, "requests={requests}");
        assert_eq!(read_all(&bench.open().await).await, before, "requests={requests}");
        let sweep = gc::sweep(&bench.at, bench.clock.now()).await.unwrap().unwrap();
        sweep.garbage.delete(&bench.at).await.unwrap();
        assert_eq!(
            bench.at.store.list(&bench.at.keys.wal_prefix(bench.at.shard), None).await.unwrap().len(),
            bench.epochs().await
        );
        if done {
            return;
        }
    }
    panic!("a roll takes more than {REQUESTS_MAX} requests");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_at_random_loses_nothing() {
    let bench = Bench::new();
    let faults = [Fault::Fail, Fault::LoseReply, Fault::LandLate, Fault::LandTwice, Fault::Conflict];
    let mut rolls = 0;
    for round in 0..30 {
        bench.fill(5).await;
        let before = read_all(&bench.open().await).await;
        for operation in [Operation::Create, Operation::Swap] {
            faults.iter().for_each(|fault| bench.faulty.set_chance(operation, *fault, 0.15));
        }
        for fault in [Fault::Fail, Fault::LoseReply, Fault::LandLate] {
            bench.faulty.set_chance(Operation::Delete, fault, 0.2);
        }
        bench.faulty.set_chance(Operation::Get, Fault::Fail, 0.02);
        rolls += usize::from(bench.roll().await.is_ok_and(|commit| commit.is_some()));
        // What is deleted late is deleted while others work.
        if let Ok(Some(commit)) = bench.roll().await {
            let _ = commit.garbage.delete(&bench.at).await;
            rolls += 1;
        }
        for operation in [Operation::Create, Operation::Swap, Operation::Delete, Operation::Get] {
            faults.iter().for_each(|fault| bench.faulty.set_chance(operation, *fault, 0.0));
        }
        if round % 2 == 0 {
            bench.faulty.land_late().await;
        }
        assert_eq!(read_all(&bench.open().await).await, before, "round={round}");
        bench.faulty.land_late().await;
        let sweep = gc::sweep(&bench.at, bench.clock.now()).await.unwrap().unwrap();
        sweep.garbage.delete(&bench.at).await.unwrap();
        assert_eq!(read_all(&bench.open().await).await, before, "round={round}");
    }
    assert!(rolls > 10, "rolls: {rolls}");
}

#[tokio::test(start_paused = true)]
async fn a_commit_whose_answers_are_lost_is_recognised() {
    let bench = Bench::new();
    bench.fill(5).await;
    for operation in [Operation::Create, Operation::Create, Operation::Swap] {
        bench.faulty.inject(operation, Fault::LoseReply);
    }
    let commit = bench.roll().await.unwrap().unwrap();
    assert_eq!((commit.manifest.version, &commit.manifest), (2, &bench.manifest().await));
    assert_eq!(bench.objects().await.len(), 3 + 5);
}
