//! On a store that others may write.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::FutureExt;
use rand::Rng;

use super::*;
use crate::store::{CreateAnswer, Operation};
use crate::testing::{Fault, Hold, Moment, Target};

#[tokio::test(start_paused = true)]
async fn acknowledgements_follow_the_store_in_order() {
    let (store, faulty) = faulty(1, false).await;
    let node = Node::open(&store, 1).await;
    let hold = faulty.hold(Target::at(Operation::Create, &wal(FIRST)), Moment::Reply);
    let mut first = node.enqueue(unit(0, &["a"])).await;
    hold.arrived(1).await;
    let mut second = node.enqueue(unit(0, &["b"])).await;
    tokio::time::sleep(2 * limits::FLUSH_LINGER).await;
    assert_eq!(data_objects(&store).await, 2, "both are stored");
    assert!((&mut first.answer).now_or_never().is_none());
    assert!((&mut second.answer).now_or_never().is_none(), "nothing overtakes");
    assert!(node.read(0).await.is_empty());
    hold.release();
    assert_eq!(base(&first.acknowledged().await.unwrap()), 0);
    assert_eq!(base(&second.acknowledged().await.unwrap()), 1);
    assert_eq!(node.read(0).await, numbered(&["a", "b"]));
}

#[tokio::test(start_paused = true)]
async fn the_first_batch_goes_at_once_and_the_next_ones_once_per_linger() {
    let store = Store::with_objects(memory().await.objects(), false);
    let node = Node::open(&store, 1).await;
    let begun = tokio::time::Instant::now();
    node.append(unit(0, &["a"])).await.unwrap();
    assert!(begun.elapsed() < Duration::from_millis(1));
    let mut receipts = Vec::new();
    for value in ["b", "c", "d"] {
        tokio::time::sleep(Duration::from_millis(10)).await;
        receipts.push(node.enqueue(unit(0, &[value])).await);
    }
    for receipt in receipts {
        receipt.acknowledged().await.unwrap();
    }
    let waited = begun.elapsed();
    assert!((limits::FLUSH_LINGER..2 * limits::FLUSH_LINGER).contains(&waited), "{waited:?}");
    assert_eq!(data_objects(&store).await, 2);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(data_objects(&store).await, 2, "an idle shard writes nothing");
    let begun = tokio::time::Instant::now();
    node.append(unit(0, &["e"])).await.unwrap();
    assert!(begun.elapsed() < Duration::from_millis(1), "after an idle time at once again");
}

#[tokio::test(start_paused = true)]
async fn whatever_becomes_of_a_put_each_record_is_stored_once() {
    for fault in [Fault::Fail, Fault::LoseReply, Fault::Conflict, Fault::LandTwice, Fault::LandLate] {
        let (store, faulty) = faulty(1, false).await;
        let node = Node::open(&store, 1).await;
        let first = Target::at(Operation::Create, &wal(FIRST));
        faulty.inject(first.clone(), fault);
        faulty.inject(first, fault);
        let receipt = node.enqueue(unit(0, &["a"])).await;
        let behind = node.append(unit(0, &["b"])).await.unwrap();
        assert_eq!((base(&receipt.acknowledged().await.unwrap()), base(&behind)), (0, 1), "{fault:?}");
        faulty.land_late().await;
        assert_eq!(node.read(0).await, numbered(&["a", "b"]), "{fault:?}");
        node.kill().await;
        assert_eq!(Node::open(&store, 2).await.read(0).await, numbered(&["a", "b"]), "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_put_refused_without_an_object_is_sent_again() {
    let (store, faulty) = faulty(1, false).await;
    let node = Node::open(&store, 1).await;
    faulty.inject(Target::at(Operation::Create, &wal(FIRST)), Fault::LandTwice);
    faulty.inject(Target::at(Operation::Get, &wal(FIRST)), Fault::Fail);
    faulty.inject(Target::at(Operation::Get, &wal(FIRST)), Fault::NotFound);
    assert_eq!(node.append(unit(0, &["a"])).await.map(|appended| base(&appended)), Ok(0));
    assert_eq!(node.read(0).await, numbered(&["a"]));
}

#[tokio::test(start_paused = true)]
async fn a_fenced_leader_answers_everybody_once_and_stores_nothing() {
    let store = Store::with_objects(memory().await.objects(), false);
    let old = Node::open(&store, 1).await;
    old.append(unit(0, &["a"])).await.unwrap();
    let new = Node::open(&store, 2).await;
    let receipts = [old.enqueue(unit(0, &["lost"])).await, old.enqueue(unit(1, &["lost"])).await];
    for receipt in receipts {
        assert_eq!(receipt.acknowledged().await, Err(not_stored()));
    }
    old.task.await.unwrap();
    assert!(!old.shard.is_leading());
    assert_eq!(old.shard.append(unit(0, &["late"])).await, Err(not_stored()));
    old.shard.flush().await;
    assert_eq!(base(&new.append(unit(0, &["b"])).await.unwrap()), 1);
    assert_eq!(new.read(0).await, numbered(&["a", "b"]));
}

#[tokio::test(start_paused = true)]
async fn what_was_stored_below_the_new_epoch_is_unknown_to_the_old_leader() {
    let (store, faulty) = faulty(1, false).await;
    let old = Node::open(&store, 1).await;
    let hold = faulty.hold(Target::at(Operation::Create, &wal(FIRST)), Moment::Reply);
    let stored = old.enqueue(named(0, 9, unit(0, &["a"]))).await;
    hold.arrived(1).await;
    let new = Node::open(&store, 2).await;
    assert_eq!(new.read(0).await, numbered(&["a"]), "the taker walked over it");
    let above = old.enqueue(unit(0, &["b"])).await;
    let retry = old.enqueue(named(0, 9, unit(0, &["a"]))).await;
    assert_eq!(above.acknowledged().await, Err(not_stored()));
    assert_eq!(stored.acknowledged().await, Err(unknown()));
    assert_eq!(retry.acknowledged().await, Err(unknown()), "its first attempt may be stored");
    drop(hold);
    let again = new.append(named(0, 9, unit(0, &["a"]))).await.unwrap();
    assert_eq!((base(&again), again.replayed), (0, true));
}

#[tokio::test(start_paused = true)]
async fn another_object_at_an_own_number_ends_the_leadership_with_everything_unknown() {
    // Another leader's object, as a clone or a restored snapshot would leave it; and what is no object at all.
    let stranger = Store::with_objects(memory().await.objects(), false);
    Node::open(&stranger, 2).await.append(unit(5, &["other"])).await.unwrap();
    let other = stranger.get(&wal(FIRST)).await.unwrap().unwrap();
    for body in [other, Bytes::from_static(b"not an object")] {
        let below = memory().await;
        let faulty = FaultyStore::new(below.objects(), 1);
        let store = Store::with_objects(Arc::new(faulty.clone()), false);
        let node = Node::open(&store, 1).await;
        let hold = faulty.hold(Target::at(Operation::Create, &wal(FIRST)), Moment::Request);
        let receipt = node.enqueue(unit(0, &["a"])).await;
        hold.arrived(1).await;
        assert!(matches!(below.create(&wal(FIRST), body.into()).await, CreateAnswer::Created));
        hold.release();
        assert_eq!(receipt.acknowledged().await, Err(unknown()));
        node.task.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_conditional_append_counts_what_is_not_acknowledged_yet() {
    let (store, faulty) = faulty(1, false).await;
    let node = Node::open(&store, 1).await;
    let hold = faulty.hold(Target::at(Operation::Create, &wal(FIRST)), Moment::Request);
    let first = node.enqueue(expecting(0, unit(0, &["a", "b"]))).await;
    hold.arrived(1).await;
    let mut stale = node.enqueue(expecting(1, unit(0, &["x"]))).await;
    let second = node.enqueue(expecting(2, unit(0, &["c"]))).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!((&mut stale.answer).now_or_never().is_none(), "what it was judged by may never be stored");
    hold.release();
    assert_eq!(base(&first.acknowledged().await.unwrap()), 0);
    assert_eq!(stale.acknowledged().await, Err(refused(1, 2)));
    assert_eq!(base(&second.acknowledged().await.unwrap()), 2);
}

fn refused(expected: u64, current: u64) -> AppendError {
    AppendError::Expected { expected: Offset::new(expected), current: Offset::new(current) }
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_was_superseded_refuses_nothing() {
    let store = Store::with_objects(memory().await.objects(), false);
    let old = Node::open(&store, 1).await;
    old.append(unit(0, &["a"])).await.unwrap();
    let new = Node::open(&store, 2).await;
    new.append(unit(0, &["b"])).await.unwrap();
    assert_eq!(
        old.append(expecting(2, unit(0, &["c"]))).await,
        Err(not_stored()),
        "the log ends at 2 by now"
    );
    old.task.await.unwrap();
    assert_eq!(new.append(expecting(2, unit(0, &["c"]))).await.map(|appended| base(&appended)), Ok(2));
}

#[tokio::test(start_paused = true)]
async fn what_was_never_stored_refuses_nobody() {
    let below = memory().await.objects();
    let faulty = FaultyStore::new(Arc::clone(&below), 1);
    let old = Node::open(&Store::with_objects(Arc::new(faulty.clone()), false), 1).await;
    let hold = faulty.hold(Target::at(Operation::Create, &wal(FIRST)), Moment::Request);
    let lost = old.enqueue(unit(0, &["lost"])).await;
    hold.arrived(1).await;
    let judged = old.enqueue(expecting(0, unit(0, &["x"]))).await;
    let new = Node::open(&Store::with_objects(below, false), 2).await;
    hold.release();
    assert_eq!(judged.acknowledged().await, Err(not_stored()));
    assert_eq!(lost.acknowledged().await, Err(not_stored()));
    assert_eq!(new.append(expecting(0, unit(0, &["x"]))).await.map(|appended| base(&appended)), Ok(0));
}

#[tokio::test(start_paused = true)]
async fn one_read_proves_all_refusals_judged_before_it() {
    let (store, faulty) = faulty(1, false).await;
    let node = Node::open(&store, 1).await;
    node.append(unit(0, &["a"])).await.unwrap();
    let reads = faulty.calls(Operation::Get);
    let hold = faulty.hold(Operation::Get, Moment::Reply);
    let first = node.enqueue(expecting(0, unit(0, &["x"]))).await;
    hold.arrived(1).await;
    let mut later = Vec::new();
    for _ in 0..3 {
        later.push(node.enqueue(expecting(0, unit(0, &["x"]))).await);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(faulty.calls(Operation::Get), reads + 1, "one at a time");
    hold.release();
    assert_eq!(first.acknowledged().await, Err(refused(0, 1)));
    for receipt in later {
        assert_eq!(receipt.acknowledged().await, Err(refused(0, 1)));
    }
    assert_eq!(faulty.calls(Operation::Get), reads + 2);
}

#[tokio::test(start_paused = true)]
async fn an_append_that_is_sent_after_a_refusal_proves_it_without_a_read() {
    let (store, faulty) = faulty(1, false).await;
    let node = Node::open(&store, 1).await;
    let reads = faulty.calls(Operation::Get);
    let winner = node.enqueue(expecting(0, unit(0, &["a"]))).await;
    let losers = [
        node.enqueue(expecting(0, unit(0, &["x"]))).await,
        node.enqueue(expecting(0, unit(0, &["y"]))).await,
    ];
    assert_eq!(winner.acknowledged().await.map(|appended| base(&appended)), Ok(0));
    for loser in losers {
        assert_eq!(loser.acknowledged().await, Err(refused(0, 1)));
    }
    assert_eq!(faulty.calls(Operation::Get), reads);
}

#[tokio::test(start_paused = true)]
async fn a_read_that_an_append_overtook_proves_nothing() {
    let (store, faulty) = faulty(1, false).await;
    let node = Node::open(&store, 1).await;
    node.append(unit(0, &["a"])).await.unwrap();
    let read = faulty.hold(Target::at(Operation::Get, &wal(FIRST + 1)), Moment::Reply);
    let mut judged = node.enqueue(expecting(0, unit(0, &["x"]))).await;
    read.arrived(1).await;
    let put = faulty.hold(Target::at(Operation::Create, &wal(FIRST + 1)), Moment::Request);
    let behind = node.enqueue(unit(0, &["b"])).await;
    put.arrived(1).await;
    read.release();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(
        (&mut judged.answer).now_or_never().is_none(),
        "the name may have been taken and given back meanwhile"
    );
    put.release();
    assert_eq!(base(&behind.acknowledged().await.unwrap()), 1);
    assert_eq!(judged.acknowledged().await, Err(refused(0, 1)));
}

#[tokio::test(start_paused = true)]
async fn a_retry_waits_for_its_own_unfinished_append() {
    let (store, faulty) = faulty(1, false).await;
    let node = Node::open(&store, 1).await;
    let hold = faulty.hold(Target::at(Operation::Create, &wal(FIRST)), Moment::Request);
    let first = node.enqueue(named(0, 9, unit(0, &["a"]))).await;
    hold.arrived(1).await;
    let mut again = node.enqueue(named(0, 9, unit(0, &["a"]))).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!((&mut again.answer).now_or_never().is_none());
    hold.release();
    let (first, again) = (first.acknowledged().await.unwrap(), again.acknowledged().await.unwrap());
    assert_eq!(first.placements, again.placements);
    assert_eq!((first.replayed, again.replayed), (false, true));
    assert_eq!(node.read(0).await, numbered(&["a"]));
}

#[tokio::test(start_paused = true)]
async fn out_of_time_a_retry_is_told_that_the_first_attempt_is_under_way() {
    let (store, faulty) = faulty(1, false).await;
    let node = Node::open(&store, 1).await;
    let hold = faulty.hold(Target::at(Operation::Create, &wal(FIRST)), Moment::Request);
    let first = node.enqueue(named(0, 9, unit(0, &["a"]))).await;
    let again = node.enqueue(named(0, 9, unit(0, &["a"]))).await;
    let wait = Duration::from_secs(30);
    let answers = tokio::join!(first.acknowledged_within(wait), again.acknowledged_within(wait));
    assert_eq!(answers, (Err(AppendError::TimedOut), Err(AppendError::InProgress)));
    hold.release();
    let later = node.enqueue(named(0, 9, unit(0, &["a"]))).await;
    let answer = later.acknowledged_within(wait).await.unwrap();
    assert_eq!((base(&answer), answer.replayed), (0, true));
}

#[tokio::test(start_paused = true)]
async fn past_its_bound_a_shard_refuses_until_the_store_is_back() {
    let (store, faulty) = faulty(1, false).await;
    let bounded = LeaderOptions { unflushed_bytes_max: 8 * 1024, ..options(None) };
    let node = Node::open_with(&store, bounded, 1).await;
    let hold = faulty.hold(Operation::Create, Moment::Request);
    let value = "x".repeat(3_000);
    let mut taken = Vec::new();
    let refused = loop {
        match node.shard.enqueue(unit(0, &[&value])).await {
            Ok(receipt) => taken.push(receipt),
            Err(error) => break error,
        }
    };
    assert_eq!((refused, taken.len()), (AppendError::Overloaded, 2));
    hold.release();
    for receipt in taken {
        receipt.acknowledged().await.unwrap();
    }
    node.append(unit(0, &[&value])).await.unwrap();
    assert_eq!(node.read(0).await.len(), 3);
}

/// A leader with room for two appends and the retries of a few clients, while the store takes nothing.
async fn crowded() -> (Node, Hold) {
    let (store, faulty) = faulty(1, false).await;
    let bounded = LeaderOptions { unflushed_bytes_max: 16 * 1024, ..options(None) };
    let node = Node::open_with(&store, bounded, 1).await;
    let hold = faulty.hold(Operation::Create, Moment::Request);
    drop(node.enqueue(named(0, 9, unit(0, &["a"]))).await);
    (node, hold)
}

/// A retry, and what is refused for the other body.
fn again() -> [Append; 2] {
    [9, 8].map(|body_hash| named(0, body_hash, unit(0, &["a"])))
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_for_the_append_of_another_takes_room() {
    for repeated in again() {
        let (node, hold) = crowded().await;
        let mut waiting = Vec::new();
        let refused = loop {
            match node.shard.enqueue(repeated.clone()).await {
                Ok(receipt) => waiting.push(receipt),
                Err(error) => break error,
            }
            assert!(waiting.len() < 64, "they are bounded");
        };
        assert_eq!(refused, AppendError::Overloaded);
        hold.release();
        for receipt in waiting {
            assert!(matches!(receipt.acknowledged().await, Ok(_) | Err(AppendError::Mismatch)));
        }
        assert_eq!(node.append(unit(0, &["b"])).await.map(|appended| base(&appended)), Ok(1));
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_gave_up_waiting_for_the_append_of_another_gives_its_room_back() {
    for repeated in again() {
        let (node, hold) = crowded().await;
        for _ in 0..1_000 {
            let waits = node.enqueue(repeated.clone()).await.acknowledged_within(Duration::from_millis(10));
            waits.await.unwrap_err();
        }
        hold.release();
        assert_eq!(node.append(unit(0, &["b"])).await.map(|appended| base(&appended)), Ok(1));
    }
}

#[tokio::test]
async fn local_appends_are_acknowledged_by_the_journal_and_read_once_stored() {
    let ((store, faulty), dir) = (faulty(1, false).await, tempfile::tempdir().unwrap());
    let node = Node::restart(&store, dir.path(), 1).await;
    let hold = faulty.hold(Operation::Create, Moment::Request);
    let mut object = node.enqueue(unit(0, &["a"])).await;
    node.append(local(unit(0, &["b"]))).await.unwrap();
    assert!((&mut object.answer).now_or_never().is_none());
    assert!(node.read(0).await.is_empty());
    hold.release();
    object.acknowledged().await.unwrap();
    node.shard.flush().await;
    assert_eq!(node.read(0).await, numbered(&["a", "b"]));
    node.close().await;
}

/// Two nodes append to one shard, take it from each other, and the store fails now and then.
async fn race(seed: u64) {
    let (store, faulty) = faulty(seed, false).await;
    for fault in [Fault::Fail, Fault::LoseReply, Fault::Conflict, Fault::LandTwice, Fault::LandLate] {
        faulty.set_chance(Operation::Create, fault, 0.06);
    }
    let mut rng = StdRng::seed_from_u64(seed);
    let mut nodes = [Node::open(&store, seed).await, Node::open(&store, seed + 1_000).await];
    let mut acknowledged: BTreeMap<u64, String> = BTreeMap::new();
    let mut failed = Vec::new();
    let mut waiting = Vec::new();
    for step in 0..60 {
        let turn = rng.random_range(0..2);
        if !nodes[turn].shard.is_leading() || rng.random_bool(0.03) {
            nodes[turn] = Node::open(&store, rng.random()).await;
        }
        let value = format!("{seed}/{step}");
        match nodes[turn].shard.enqueue(unit(0, &[&value])).await {
            Ok(receipt) => waiting.push((value, receipt)),
            Err(error) => assert_eq!(error, not_stored()),
        }
        if rng.random_bool(0.5) {
            tokio::time::sleep(Duration::from_millis(rng.random_range(0..400))).await;
        }
        if rng.random_bool(0.1) {
            faulty.land_late().await;
        }
    }
    for (value, receipt) in waiting {
        match receipt.acknowledged().await {
            Ok(appended) => {
                let offset = base(&appended);
                assert_eq!(
                    acknowledged.insert(offset, value),
                    None,
                    "seed {seed}: offset {offset} given out twice"
                );
            }
            Err(AppendError::NoLeader { outcome }) => failed.push((value, outcome)),
            Err(error) => panic!("seed {seed}: {error}"),
        }
    }
    faulty.land_late().await;
    let log = Node::open(&store, seed + 2_000).await.read(0).await;
    let offsets: Vec<u64> = log.iter().map(|(offset, _)| *offset).collect();
    assert_eq!(offsets, (0..log.len() as u64).collect::<Vec<_>>(), "seed {seed}");
    for (offset, value) in &acknowledged {
        let index = usize::try_from(*offset).unwrap();
        assert_eq!(log.get(index), Some(&(*offset, value.clone())), "seed {seed}: acknowledged and lost");
    }
    for (value, outcome) in failed {
        let copies = log.iter().filter(|(_, stored)| *stored == value).count();
        assert!(
            copies <= usize::from(outcome == Outcome::Unknown),
            "seed {seed}: {value} {outcome:?} {copies}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn racing_leaders_lose_nothing_and_give_no_offset_twice() {
    for seed in 0..60 {
        race(seed).await;
    }
}
