//! On an exclusive store with a journal, and in memory.

use futures::FutureExt;

use super::*;
use crate::store::Operation;
use crate::testing::{Fault, Moment, Target};

#[tokio::test]
async fn the_journal_acknowledges_and_objects_follow_later() {
    let (store, dir) = (memory().await, tempfile::tempdir().unwrap());
    let node = Node::restart(&store, dir.path(), 1).await;
    let mut woken = Vec::new();
    for (offset, value) in (0..).zip(["a", "b", "c"]) {
        assert_eq!(base(&node.append(unit(0, &[value])).await.unwrap()), offset);
        woken.push(node.shard.index().log(partition(0)).high_watermark().get());
    }
    assert_eq!(woken, [1, 2, 3], "readers see what was acknowledged");
    assert_eq!(node.read(0).await, numbered(&["a", "b", "c"]));
    assert_eq!(data_objects(&store).await, 0);
    node.shard.flush().await;
    assert_eq!(data_objects(&store).await, 1);
    assert_eq!(node.read(0).await, numbered(&["a", "b", "c"]));
    node.close().await;
}

#[tokio::test]
async fn after_a_graceful_stop_the_store_alone_is_the_shard() {
    let (folder, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let url = StoreUrl::File(folder.path().to_owned());
    let store = Store::open(&url).await.unwrap();
    let node = Node::restart(&store, dir.path(), 1).await;
    let unanswered = node.enqueue(unit(0, &["a", "b"])).await;
    node.shard.stop().await;
    assert_eq!(node.append(unit(0, &["late"])).await, Err(AppendError::Draining));
    assert_eq!(unanswered.acknowledged().await.map(|appended| base(&appended)), Ok(0));
    node.close().await;
    drop(store);

    let options = JournalOptions::new(dir.path(), CLUSTER);
    let (journal, mut replay) = Journal::open(options).await.unwrap();
    assert!(replay.next().unwrap().is_none(), "no frame is left");
    drop(journal);
    let store = Store::open(&url).await.unwrap();
    let node = Node::open(&store, 2).await;
    assert_eq!(node.read(0).await, numbered(&["a", "b"]));
    node.close().await;
}

#[tokio::test]
async fn dropping_every_handle_stores_what_was_handed_over_and_ends_the_task() {
    let store = memory().await;
    let node = Node::open(&store, 1).await;
    let receipt = node.enqueue(unit(0, &["a"])).await;
    node.close().await;
    assert!(receipt.acknowledged().await.is_ok());
    let node = Node::open(&store, 2).await;
    assert_eq!(node.read(0).await, numbered(&["a"]));
}

#[tokio::test]
async fn a_shard_dropped_before_recovery_ended_ends_its_task() {
    let (shard, task) = open(&memory().await, options(None), 1).await;
    let receipt = shard.enqueue(unit(0, &["a"])).await.unwrap();
    drop(shard);
    task.await.unwrap();
    assert_eq!(receipt.acknowledged().await, Err(not_stored()));
}

#[tokio::test]
async fn a_flush_covers_what_still_waits_in_the_queue() {
    let store = memory().await;
    let node = Node::open(&store, 1).await;
    let receipt = node.enqueue(unit(0, &["a"])).await;
    node.shard.flush().await;
    assert_eq!(data_objects(&store).await, 1);
    assert!(receipt.acknowledged().now_or_never().unwrap().is_ok());
    node.shard.flush().await;
    assert_eq!(data_objects(&store).await, 1, "an idle shard writes nothing");
}

#[tokio::test]
async fn a_retry_of_what_is_synced_is_answered_before_the_next_flush() {
    let (store, dir) = (memory().await, tempfile::tempdir().unwrap());
    let node = Node::restart(&store, dir.path(), 1).await;
    let first = node.append(named(0, 9, unit(0, &["a"]))).await.unwrap();
    node.append(unit(0, &["b"])).await.unwrap();
    let again = node.append(named(0, 9, unit(0, &["a"]))).await.unwrap();
    assert_eq!((&again.placements, again.replayed), (&first.placements, true));
    assert_eq!(data_objects(&store).await, 0);

    let node = {
        node.kill().await;
        Node::restart(&store, dir.path(), 2).await
    };
    let again = node.append(named(0, 9, unit(0, &["a"]))).await.unwrap();
    assert_eq!((&again.placements, again.replayed), (&first.placements, true));
    assert_eq!(data_objects(&store).await, 0);
    assert_eq!(node.append(named(0, 8, unit(0, &["z"]))).await, Err(AppendError::Mismatch));
    node.close().await;

    let node = Node::open(&store, 3).await;
    let again = node.append(named(0, 9, unit(0, &["a"]))).await.unwrap();
    assert_eq!(again.placements, first.placements, "from the log itself");
    assert_eq!(node.read(0).await, numbered(&["a", "b"]));
}

/// A node whose journal fails at its second frame.
async fn with_dying_journal(store: &Store, dir: &Path) -> Node {
    let mut of_journal = JournalOptions::new(dir, CLUSTER);
    of_journal.file_bytes = 1;
    let (journal, _) = Journal::open(of_journal).await.unwrap();
    let node = Node::open_with(store, options(Some(SharedJournal::new(journal))), 1).await;
    node.append(unit(0, &["a"])).await.unwrap();
    std::fs::remove_dir_all(dir).unwrap();
    node
}

#[tokio::test]
async fn the_store_acknowledges_when_the_journal_dies() {
    let (store, dir) = (memory().await, tempfile::tempdir().unwrap());
    let node = with_dying_journal(&store, dir.path()).await;
    assert_eq!(node.append(unit(0, &["b"])).await.map(|appended| base(&appended)), Ok(1));
    assert!(data_objects(&store).await > 0);
    assert_eq!(node.append(local(unit(0, &["c"]))).await.map(|appended| base(&appended)), Ok(2));
    assert_eq!(node.read(0).await, numbered(&["a", "b", "c"]));
    drop(node.shard);
    node.task.await.unwrap();
    let node = Node::open(&store, 2).await;
    assert_eq!(node.read(0).await, numbered(&["a", "b", "c"]));
}

#[tokio::test]
async fn a_leader_that_begins_with_a_dead_journal_is_acknowledged_by_the_store() {
    let (store, dir) = (memory().await, tempfile::tempdir().unwrap());
    let node = with_dying_journal(&store, dir.path()).await;
    node.append(unit(0, &["b"])).await.unwrap();
    let options = options(node.journal.clone());
    drop(node.shard);
    node.task.await.unwrap();
    let before = data_objects(&store).await;
    let node = Node::open_with(&store, options, 2).await;
    node.append(unit(0, &["c"])).await.unwrap();
    assert_eq!(data_objects(&store).await, before + 1);
    assert_eq!(node.read(0).await, numbered(&["a", "b", "c"]));
}

#[tokio::test]
async fn a_full_journal_makes_the_store_acknowledge_in_order() {
    let ((store, faulty), dir) = (faulty(1, true).await, tempfile::tempdir().unwrap());
    let mut of_journal = JournalOptions::new(dir.path(), CLUSTER);
    of_journal.bytes_max = 4_000;
    let (journal, _) = Journal::open(of_journal).await.unwrap();
    let node = Node::open_with(&store, options(Some(SharedJournal::new(journal))), 1).await;
    let hold = faulty.hold(Target::at(Operation::Create, &wal(FIRST)), Moment::Request);
    let large = "x".repeat(8_000);
    let mut refused = node.enqueue(unit(0, &[&large])).await;
    hold.arrived(1).await;
    let mut behind = node.enqueue(local(unit(0, &["b"]))).await;
    tokio::task::yield_now().await;
    assert!((&mut refused.answer).now_or_never().is_none());
    assert!((&mut behind.answer).now_or_never().is_none(), "a replay would take the one before it for lost");
    hold.release();
    assert_eq!(refused.acknowledged().await.map(|appended| base(&appended)), Ok(0));
    assert_eq!(behind.acknowledged().await.map(|appended| base(&appended)), Ok(1));
    let before = data_objects(&store).await;
    node.append(unit(0, &["c"])).await.unwrap();
    assert_eq!(data_objects(&store).await, before, "the journal has room again");
    node.close().await;
}

#[tokio::test]
async fn memory_acknowledges_at_once_and_lost_answers_change_nothing() {
    let (store, faulty) = faulty(1, true).await;
    let node = Node::open(&store, 1).await;
    faulty.inject(Operation::Create, Fault::LoseReply);
    faulty.inject(Operation::Create, Fault::Fail);
    for (offset, value) in (0..).zip(["a", "b"]) {
        assert_eq!(base(&node.append(unit(0, &[value])).await.unwrap()), offset);
    }
    assert_eq!(data_objects(&store).await, 0);
    node.close().await;
    let node = Node::open(&store, 2).await;
    assert_eq!(node.read(0).await, numbered(&["a", "b"]));
}

#[tokio::test]
async fn a_refusal_waits_for_the_sync_of_what_it_saw_and_costs_no_request() {
    let ((store, faulty), dir) = (faulty(1, true).await, tempfile::tempdir().unwrap());
    let node = Node::restart(&store, dir.path(), 1).await;
    let calls = faulty.calls(Operation::Get);
    let first = node.enqueue(unit(0, &["a"])).await;
    let stale = node.enqueue(expecting(0, unit(0, &["x"]))).await;
    let refused = AppendError::Expected { expected: Offset::ZERO, current: Offset::new(1) };
    assert_eq!(stale.acknowledged().await, Err(refused.clone()));
    assert!(first.acknowledged().now_or_never().unwrap().is_ok(), "it was synced before");
    assert_eq!(node.append(expecting(0, unit(0, &["x"]))).await, Err(refused));
    assert_eq!(faulty.calls(Operation::Get), calls);
    node.close().await;
}
