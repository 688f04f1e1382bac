//! Appends at `local` on a store that others may write: acknowledged by the journal, and stored once whatever happens.

use std::collections::HashSet;

use futures::FutureExt;

use super::*;
use crate::format::manifest::EpochEntry;
use crate::journal::{Frame, FrameNumber, JournalEntry};
use crate::model::{LeaderEpoch, Nonce};
use crate::shard::RECOVERED_HEADER;
use crate::shard::leader::Ending;
use crate::shard::leader::leftover::{Fate, Leftover, Sent};
use crate::store::Operation;
use crate::testing::{Moment, Target};

/// A bucket that others may write: as everybody sees it, and as one node does, whose way to it can fail.
struct Bucket {
    store: Store,
    flaky: Store,
    faulty: FaultyStore,
}

async fn bucket() -> Bucket {
    let objects = memory().await.objects();
    let faulty = FaultyStore::new(Arc::clone(&objects), 1);
    let flaky = Store::with_objects(Arc::new(faulty.clone()), false);
    Bucket { store: Store::with_objects(objects, false), flaky, faulty }
}

impl Bucket {
    /// A node that has acknowledged these at `local`, has stored the first, and is killed while the others' objects are
    /// on their way: they arrive or do not.
    async fn killed_with(&self, dir: &Path, values: &[&str], arrive: bool) {
        let node = Node::restart(&self.flaky, dir, 1).await;
        node.append(local(unit(0, &values[..1]))).await.unwrap();
        node.shard.flush().await;
        let moment = if arrive { Moment::Reply } else { Moment::Request };
        let hold = self.faulty.hold(Operation::Create, moment);
        for value in &values[1..] {
            node.append(local(unit(0, &[value]))).await.unwrap();
        }
        hold.arrived(1).await;
        node.kill().await;
        hold.release();
    }

    async fn values(&self) -> Vec<String> {
        Node::open(&self.store, 99).await.read(0).await.into_iter().map(|(_, value)| value).collect()
    }
}

fn sorted(mut values: Vec<String>) -> Vec<String> {
    values.sort_unstable();
    values
}

#[tokio::test]
async fn what_the_journal_acknowledged_is_stored_once_after_a_crash() {
    for arrive in [false, true] {
        for takeover in [false, true] {
            let (bucket, dir) = (bucket().await, tempfile::tempdir().unwrap());
            bucket.killed_with(dir.path(), &["a", "b", "c"], arrive).await;
            if takeover {
                Node::open(&bucket.store, 2).await.append(unit(0, &["other"])).await.unwrap();
            }
            for seed in 3..6 {
                let node = Node::restart(&bucket.flaky, dir.path(), seed).await;
                node.shard.flush().await;
                if seed == 5 { node.close().await } else { node.kill().await }
            }
            let mut expected = vec!["a", "b", "c"];
            expected.extend(takeover.then_some("other"));
            assert_eq!(sorted(bucket.values().await), expected, "arrive {arrive}, takeover {takeover}");
        }
    }
}

#[tokio::test]
async fn a_crash_while_appending_again_repeats_nothing() {
    for moment in [Moment::Request, Moment::Reply] {
        let (bucket, dir) = (bucket().await, tempfile::tempdir().unwrap());
        bucket.killed_with(dir.path(), &["a", "b", "c"], false).await;
        for seed in 2..5 {
            let (journal, mut replay) =
                Journal::open(JournalOptions::new(dir.path(), CLUSTER)).await.unwrap();
            let journal = SharedJournal::new(journal);
            journal.adopt(&mut replay).unwrap();
            let (shard, task) = open(&bucket.flaky, options(Some(journal)), seed).await;
            let hold = bucket.faulty.hold(Operation::Create, moment);
            shard.recovered(false, vec![partition(0)]).await.unwrap();
            // What has arrived once is not sent again.
            hold.arrived(usize::from(seed == 2 || matches!(moment, Moment::Request))).await;
            task.abort();
            assert!(task.await.unwrap_err().is_cancelled());
            hold.release();
        }
        let node = Node::restart(&bucket.store, dir.path(), 7).await;
        node.shard.flush().await;
        node.close().await;
        assert_eq!(bucket.values().await, ["a", "b", "c"], "{moment:?}");
    }
}

#[tokio::test]
async fn a_fenced_leader_appends_its_leftovers_when_it_leads_again() {
    let (bucket, dir) = (bucket().await, tempfile::tempdir().unwrap());
    let first = Node::restart(&bucket.flaky, dir.path(), 1).await;
    let hold = bucket.faulty.hold(Operation::Create, Moment::Request);
    first.append(local(unit(0, &["a"]))).await.unwrap();
    hold.arrived(1).await;
    Node::open(&bucket.store, 2).await.append(unit(0, &["other"])).await.unwrap();
    let mut waiting = Vec::new();
    for value in ["b", "c"] {
        waiting.push(first.enqueue(local(unit(0, &[value]))).await);
    }
    hold.release();
    for receipt in waiting {
        // Taken before it was fenced, they are acknowledged by the journal; after, they are not taken at all.
        assert!(matches!(
            receipt.acknowledged().await,
            Ok(_) | Err(AppendError::NoLeader { outcome: Outcome::NotApplied })
        ));
    }
    while first.shard.is_leading() {
        tokio::task::yield_now().await;
    }
    let again = first.lead_again(&bucket.store, 3).await;
    again.shard.flush().await;
    let values: Vec<String> = again.read(0).await.into_iter().map(|(_, value)| value).collect();
    assert_eq!(values[..2], ["other", "a"], "behind what came in between");
    drop(first.shard);
    drop(first.journal);
    again.close().await;
}

#[tokio::test]
async fn a_leader_that_gives_up_waits_for_no_store_and_leaves_what_the_journal_has() {
    let (bucket, dir) = (bucket().await, tempfile::tempdir().unwrap());
    let first = Node::restart(&bucket.flaky, dir.path(), 1).await;
    assert_eq!(first.shard.stalled_for(), std::time::Duration::ZERO);
    let hold = bucket.faulty.hold(Operation::Create, Moment::Request);
    first.append(local(unit(0, &["a"]))).await.unwrap();
    let sent = first.enqueue(unit(0, &["sent"])).await;
    hold.arrived(1).await;
    while first.shard.stalled_for().is_zero() {
        tokio::task::yield_now().await;
    }
    first.shard.give_up();
    assert_eq!(first.shard.ended().await, Ending::Died);
    assert!(matches!(sent.acknowledged().await, Err(AppendError::NoLeader { .. })));
    assert_eq!(first.shard.stalled_for(), std::time::Duration::ZERO);
    assert!(first.journal.as_ref().is_some_and(|journal| journal.has_leftovers(SHARD)));
    hold.release();
    Node::open(&bucket.store, 2).await.append(unit(0, &["other"])).await.unwrap();
    let again = first.lead_again(&bucket.store, 3).await;
    again.shard.flush().await;
    let found = bucket.values().await;
    assert_eq!(found.iter().filter(|value| *value == "a").count(), 1, "{found:?}");
}

#[tokio::test]
async fn what_is_appended_again_says_so_and_keeps_its_name() {
    let (bucket, dir) = (bucket().await, tempfile::tempdir().unwrap());
    let node = Node::restart(&bucket.flaky, dir.path(), 1).await;
    let hold = bucket.faulty.hold(Operation::Create, Moment::Request);
    let units = [named(0, 9, unit(0, &["a", "b"])), unit(0, &["c"]), named(1, 9, unit(0, &["d"]))];
    let mut waiting = Vec::new();
    for append in units {
        waiting.push(node.enqueue(local(append)).await);
    }
    for receipt in waiting {
        receipt.acknowledged().await.unwrap();
    }
    node.kill().await;
    hold.release();
    // One of them is repeated elsewhere, for its producer may not have heard.
    let other = Node::open(&bucket.store, 2).await;
    other.append(named(1, 9, unit(0, &["d"]))).await.unwrap();

    let node = Node::restart(&bucket.store, dir.path(), 3).await;
    node.shard.flush().await;
    assert_eq!(node.read(0).await, numbered(&["d", "a", "b", "c"]));
    let fetched = node.shard.index().fetch(partition(0), Offset::new(1), 1 << 20).await.unwrap();
    let records = fetched.batches.iter().flat_map(|batch| batch.records().unwrap()).map(Result::unwrap);
    let mut seen = 0;
    for record in records.filter(|record| record.offset >= Offset::new(1)) {
        let names: Vec<_> = record.headers.map(|header| header.name).collect();
        assert_eq!(names, [RECOVERED_HEADER.as_bytes()]);
        seen += 1;
    }
    assert_eq!(seen, 3);
    let again = node.append(named(0, 9, unit(0, &["a", "b"]))).await.unwrap();
    assert_eq!((base(&again), again.replayed), (1, true));
    node.close().await;
}

#[tokio::test]
async fn a_producer_that_went_on_elsewhere_is_not_moved_back() {
    for epoch in [0, 3] {
        let sequenced = |first_sequence, values: &[&str]| {
            let name = Dedupe { id: 1, producer_epoch: Some(epoch), first_sequence, body_hash: 9 };
            local(Append { dedupe: Some(name), ..unit(0, values) })
        };
        let (bucket, dir) = (bucket().await, tempfile::tempdir().unwrap());
        let node = Node::restart(&bucket.flaky, dir.path(), 1).await;
        let hold = bucket.faulty.hold(Operation::Create, Moment::Request);
        node.append(sequenced(0, &["a", "b"])).await.unwrap();
        node.kill().await;
        hold.release();
        // There the producer is unknown; what lies in between is on yet another node.
        let elsewhere = tempfile::tempdir().unwrap();
        let other = Node::restart(&bucket.store, elsewhere.path(), 2).await;
        other.append(sequenced(5, &["c"])).await.unwrap();
        other.append(sequenced(6, &["d"])).await.unwrap();
        other.shard.flush().await;

        let node = Node::restart(&bucket.store, dir.path(), 3).await;
        for _ in 0..2 {
            assert!(node.append(sequenced(5, &["c"])).await.unwrap().replayed, "epoch {epoch}");
            assert!(node.append(sequenced(0, &["a", "b"])).await.unwrap().replayed);
        }
        assert!(!node.append(sequenced(7, &["e"])).await.unwrap().replayed);
        node.shard.flush().await;
        assert_eq!(node.read(0).await, numbered(&["c", "d", "a", "b", "e"]));
        node.close().await;
        let again = Node::open(&bucket.store, 4).await;
        assert!(!again.append(sequenced(8, &["f"])).await.unwrap().replayed, "as the log has it");
    }
}

#[tokio::test]
async fn leftovers_of_deleted_topics_are_dropped_and_no_others() {
    let (bucket, dir) = (bucket().await, tempfile::tempdir().unwrap());
    let node = Node::restart(&bucket.flaky, dir.path(), 1).await;
    let hold = bucket.faulty.hold(Operation::Create, Moment::Request);
    node.append(local(unit(0, &["a"]))).await.unwrap();
    let gone = TopicPartition { topic: TopicId::new(2), ..partition(0) };
    let mut of_gone = unit(0, &["gone"]);
    of_gone.batches[0].partition = gone;
    node.append(local(of_gone)).await.unwrap();
    // Created by another node: this one may hear of it later.
    node.append(local(unit(7, &["b"]))).await.unwrap();
    node.kill().await;
    hold.release();
    let (journal, mut replay) = Journal::open(JournalOptions::new(dir.path(), CLUSTER)).await.unwrap();
    let journal = SharedJournal::new(journal);
    journal.adopt(&mut replay).unwrap();
    let (shard, task) = open(&bucket.store, options(Some(journal.clone())), 2).await;
    shard.index().forget(gone.topic);
    shard.recovered(false, Vec::new()).await.unwrap();
    let node = Node { shard, task, journal: Some(journal), damage: Vec::new() };
    node.shard.flush().await;
    assert_eq!((node.read(0).await, node.read(7).await), (numbered(&["a"]), numbered(&["b"])));
    let stored: HashSet<TopicPartition> = objects(&bucket.store)
        .await
        .iter()
        .flat_map(|object| object.footer.entries.iter().map(|entry| entry.partition))
        .collect();
    assert!(!stored.contains(&gone));
    node.close().await;
}

#[tokio::test]
async fn a_conditional_append_is_never_acknowledged_by_the_journal_alone() {
    let (bucket, dir) = (bucket().await, tempfile::tempdir().unwrap());
    let node = Node::restart(&bucket.flaky, dir.path(), 1).await;
    let hold = bucket.faulty.hold(Operation::Create, Moment::Request);
    let mut conditional = node.enqueue(local(expecting(0, unit(0, &["a"])))).await;
    node.append(local(unit(0, &["b"]))).await.unwrap();
    assert!((&mut conditional.answer).now_or_never().is_none(), "its offset is what it asked for");
    hold.release();
    conditional.acknowledged().await.unwrap();
    node.shard.flush().await;
    node.close().await;
}

#[tokio::test]
async fn without_room_for_a_mark_the_object_names_what_it_holds() {
    for moment in [Moment::Request, Moment::Reply] {
        let (bucket, dir) = (bucket().await, tempfile::tempdir().unwrap());
        let mut of_journal = JournalOptions::new(dir.path(), CLUSTER);
        of_journal.bytes_max = 4_000;
        let (journal, _) = Journal::open(of_journal).await.unwrap();
        let node = Node::open_with(&bucket.flaky, options(Some(SharedJournal::new(journal))), 1).await;
        let hold = bucket.faulty.hold(Target::at(Operation::Create, &wal(FIRST)), moment);
        // So large that the mark does not fit behind it.
        let large = "x".repeat(3_750);
        node.append(local(unit(0, &[&large]))).await.unwrap();
        hold.arrived(1).await;
        node.kill().await;
        hold.release();
        Node::open(&bucket.store, 2).await.append(unit(0, &["other"])).await.unwrap();
        let node = Node::restart(&bucket.store, dir.path(), 3).await;
        node.shard.flush().await;
        node.close().await;
        assert_eq!(sorted(bucket.values().await), ["other", &large], "{moment:?}");
        let named =
            objects(&bucket.store).await.iter().filter(|object| !object.footer.dedupe.is_empty()).count();
        assert_eq!(named, usize::from(matches!(moment, Moment::Reply)));
    }
}

#[tokio::test]
async fn appends_at_object_leave_nothing_in_the_journal() {
    let (bucket, dir) = (bucket().await, tempfile::tempdir().unwrap());
    let node = Node::restart(&bucket.flaky, dir.path(), 1).await;
    let hold = bucket.faulty.hold(Operation::Create, Moment::Request);
    let _unanswered = node.enqueue(unit(0, &["a"])).await;
    hold.arrived(1).await;
    node.append(local(unit(0, &["b"]))).await.unwrap();
    node.kill().await;
    hold.release();
    let node = Node::restart(&bucket.store, dir.path(), 2).await;
    node.shard.flush().await;
    assert_eq!(node.read(0).await, numbered(&["b"]), "nobody was promised the other one");
    node.close().await;
}

#[test]
fn the_epochs_that_are_known_decide_what_was_stored() {
    let epoch = |nonce: u128, end: Option<u64>| EpochEntry {
        epoch: LeaderEpoch::new(1),
        nonce: Nonce::new(nonce),
        first_seq: WalSeq::ZERO,
        end_seq: end.map(WalSeq::new),
    };
    let epochs = [epoch(1, Some(70)), epoch(2, Some(200)), epoch(3, None)];
    let fate = |sent: &[(u128, u64)]| {
        let sent = sent.iter().map(|(nonce, seq)| Sent { nonce: Nonce::new(*nonce), seq: WalSeq::new(*seq) });
        let entry = JournalEntry::queued(FrameNumber::new(4));
        Leftover { entry, origin: Nonce::new(1), sent: sent.collect() }.fate(&epochs)
    };
    assert_eq!(fate(&[]), Fate::NotStored, "without a mark it was never sent");
    assert_eq!((fate(&[(1, 69)]), fate(&[(1, 70)])), (Fate::Stored, Fate::NotStored));
    assert_eq!(fate(&[(1, 70), (2, 150)]), Fate::Stored, "the second attempt arrived");
    assert_eq!(fate(&[(9, 5)]), Fate::Unknown, "no list knows that epoch");
    assert_eq!(fate(&[(9, 5), (1, 69)]), Fate::Stored);
    assert_eq!(fate(&[(1, 70), (9, 5)]), Fate::Unknown);
}

#[tokio::test]
async fn an_adopted_journal_hands_each_shard_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let frame = |shard| Frame::Append {
        shard: ShardId::new(shard),
        nonce: Nonce::new(1),
        level: Durability::Local,
        append_time: Timestamp::default(),
        batches: Vec::new(),
    };
    let (journal, _) = Journal::open(JournalOptions::new(dir.path(), CLUSTER)).await.unwrap();
    for shard in [0, 1, 0, 2] {
        journal.append(frame(shard), true).await.unwrap();
    }
    let (nonce, below) = (Nonce::new(1), FrameNumber::new(2));
    journal.append(Frame::Settled { shard: ShardId::new(0), nonce, below }, true).await.unwrap();
    let (shard, seq, first, last) = (ShardId::new(1), WalSeq::new(7), FrameNumber::ZERO, FrameNumber::new(3));
    journal.append(Frame::Frozen { shard, nonce, seq, first, last }, true).await.unwrap();
    journal.close().await.unwrap();

    let (journal, mut replay) = Journal::open(JournalOptions::new(dir.path(), CLUSTER)).await.unwrap();
    let journal = SharedJournal::new(journal);
    journal.adopt(&mut replay).unwrap();
    let mut found = Vec::new();
    for shard in 0..4 {
        let leftovers = journal.leftovers(ShardId::new(shard)).await;
        found.push(leftovers.iter().map(|one| (one.number().get(), one.sent.len())).collect::<Vec<_>>());
        assert!(!journal.has_leftovers(ShardId::new(shard)), "whoever holds them takes care of them");
    }
    assert_eq!(found, [vec![(2, 0)], vec![(1, 1)], vec![(3, 0)], vec![]]);
    assert!(journal.has_leftovers(ShardId::new(1)) && !journal.has_leftovers(ShardId::new(3)));
}
