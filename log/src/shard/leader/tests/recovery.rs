//! What a restart brings back from the journal.

use rand::Rng;

use super::*;
use crate::journal::{Frame, JournalBatch, JournalEntry, Replayed, frame::FrameNumber};
use crate::model::Nonce;
use crate::shard::leader::RecoverError;
use crate::store::Operation;
use crate::testing::{Fault, Moment, Target};

const JUMP: u64 = limits::OFFSET_JUMP;

#[tokio::test]
async fn every_acknowledged_record_survives_two_crashes_at_its_offset() {
    for in_folder in [false, true] {
        let (folder, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let url = if in_folder { StoreUrl::File(folder.path().to_owned()) } else { StoreUrl::Memory };
        let mut store = Store::open(&url).await.unwrap();
        let mut expected = Vec::new();
        for round in 0..4_u64 {
            let node = Node::restart(&store, dir.path(), round).await;
            assert_eq!(node.read(0).await, expected, "round {round}");
            for step in 0..5 {
                let value = format!("{round}/{step}");
                let appended = node.append(unit(0, &[&value])).await.unwrap();
                assert_eq!(base(&appended), expected.len() as u64);
                expected.push((base(&appended), value));
                if round == 1 && step == 2 {
                    node.shard.flush().await;
                }
            }
            if round == 3 {
                node.close().await;
                continue;
            }
            node.kill().await;
            if in_folder {
                drop(store);
                store = Store::open(&url).await.unwrap();
            }
        }
        let node = Node::open(&store, 9).await;
        assert_eq!(node.read(0).await, expected);
    }
}

/// Crashes, flushes and faults at random, with appends that nobody waited for at each crash.
async fn crash_and_replay(seed: u64) {
    let ((store, faulty), dir) = (faulty(seed, true).await, tempfile::tempdir().unwrap());
    for fault in [Fault::LoseReply, Fault::Conflict, Fault::LandTwice] {
        faulty.set_chance(Operation::Create, fault, 0.1);
    }
    let mut rng = StdRng::seed_from_u64(seed);
    let mut acknowledged = Vec::new();
    for round in 0..5 {
        let node = Node::restart(&store, dir.path(), seed * 100 + round).await;
        let log = node.read(0).await;
        let offsets: Vec<u64> = log.iter().map(|(offset, _)| *offset).collect();
        assert_eq!(offsets, (0..log.len() as u64).collect::<Vec<_>>(), "seed {seed} round {round}");
        for record in &acknowledged {
            assert!(log.contains(record), "seed {seed} round {round}: lost {record:?}");
        }
        for step in 0..rng.random_range(1..12) {
            let value = format!("{seed}/{round}/{step}");
            let receipt = node.enqueue(unit(0, &[&value])).await;
            if rng.random_bool(0.6) {
                acknowledged.push((base(&receipt.acknowledged().await.unwrap()), value));
            }
            if rng.random_bool(0.2) {
                node.shard.flush().await;
            }
        }
        node.kill().await;
    }
}

#[tokio::test]
async fn crashes_at_random_lose_nothing_acknowledged() {
    for seed in 0..12 {
        crash_and_replay(seed).await;
    }
}

#[tokio::test]
async fn two_batches_of_one_partition_in_a_frame_come_back_without_a_jump() {
    let (store, dir) = (memory().await, tempfile::tempdir().unwrap());
    let node = Node::restart(&store, dir.path(), 1).await;
    let first = node.enqueue(unit(0, &["a"])).await;
    let second = node.enqueue(expecting(1, unit(0, &["b"]))).await;
    first.acknowledged().await.unwrap();
    second.acknowledged().await.unwrap();
    node.kill().await;
    let node = Node::restart(&store, dir.path(), 2).await;
    assert_eq!(node.append(unit(0, &["c"])).await.map(|appended| base(&appended)), Ok(2));
    node.close().await;
    assert!(objects(&store).await.iter().all(|object| !object.header.jump));
}

/// Loses the frame that holds this value: one byte of a synced frame changes.
fn damage(dir: &Path, value: &str) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        let found = bytes.windows(value.len()).position(|window| window == value.as_bytes());
        if let Some(position) = found {
            bytes[position] ^= 1;
            std::fs::write(&path, bytes).unwrap();
            return;
        }
    }
    panic!("{value} is not in the journal");
}

/// Appends five records, one frame each, crashes, and loses the third.
async fn damaged(store: &Store, dir: &Path) {
    let node = Node::restart(store, dir, 1).await;
    for value in ["first", "second", "third", "fourth", "fifth"] {
        node.append(unit(0, &[value])).await.unwrap();
    }
    node.kill().await;
    damage(dir, "third");
}

fn survivors() -> Vec<(u64, String)> {
    numbered(&["first", "second", "third", "fourth", "fifth"])
        .into_iter()
        .filter(|(at, _)| *at != 2)
        .collect()
}

#[tokio::test]
async fn after_damage_survivors_keep_their_offsets_and_new_records_lie_far_above() {
    let (store, dir) = (memory().await, tempfile::tempdir().unwrap());
    damaged(&store, dir.path()).await;
    let mut expected = survivors();
    let mut lowest = 5;
    for round in 0..3 {
        let node = Node::restart(&store, dir.path(), 2 + round).await;
        match round {
            0 => assert!(!node.damage.is_empty()),
            // Once the jump is stored the damaged file is removed by the journal's own thread: a kill may come first,
            // and then the same damage is met again.
            1 => {}
            _ => assert!(node.damage.is_empty(), "after a graceful close nothing is left to be damaged"),
        }
        if !node.damage.is_empty() {
            lowest += JUMP;
        }
        assert_eq!(node.read(0).await, expected);
        let appended = node.append(unit(0, &["new"])).await.unwrap();
        assert_eq!(base(&appended), lowest, "round {round}");
        let elsewhere = node.append(unit(9, &["other"])).await.unwrap();
        assert!(base(&elsewhere) >= JUMP, "a partition that lost everything jumps too");
        expected.push((base(&appended), "new".to_owned()));
        assert_eq!(node.read(0).await, expected);
        lowest = base(&appended) + 1;
        match round {
            1 => node.close().await,
            _ => node.kill().await,
        }
    }
    let jumps = objects(&store).await.iter().filter(|object| object.header.jump).count();
    assert!(jumps >= 2, "the gap and the announcement are flagged: {jumps}");
    let node = Node::restart(&store, dir.path(), 8).await;
    assert_eq!(node.read(0).await, expected, "and the store agrees");
}

#[tokio::test]
async fn damage_is_not_forgotten_before_the_log_says_where_offsets_go_on() {
    let ((store, faulty), dir) = (faulty(1, true).await, tempfile::tempdir().unwrap());
    damaged(&store, dir.path()).await;
    // EPOCHs at 0 and FIRST; then the frames before the gap, those behind it, and the announcement.
    let first = 2 * limits::EPOCH_GAP;
    let hold = faulty.hold(Target::at(Operation::Create, &wal(first + 2)), Moment::Request);
    let node = Node::restart(&store, dir.path(), 2).await;
    let shard = node.shard.clone();
    let flush = tokio::spawn(async move { shard.flush().await });
    hold.arrived(1).await;
    while node.shard.index().backlog().objects < 2 {
        tokio::task::yield_now().await;
    }
    flush.abort();
    node.task.abort();
    assert!(node.task.await.unwrap_err().is_cancelled());
    assert!(node.journal.unwrap().close().await, "what was released goes");
    drop(hold);

    let node = Node::restart(&store, dir.path(), 3).await;
    assert!(!node.damage.is_empty());
    assert_eq!(node.read(0).await, survivors());
    assert_eq!(node.append(unit(0, &["new"])).await.map(|appended| base(&appended)), Ok(5 + JUMP));
}

/// A frame of the journal as an earlier leader left it.
fn replayed(number: u64, batches: &[(u16, u64, &str)]) -> Replayed {
    let batch = |(number, base, value): &(u16, u64, &str)| {
        let Append { batches, .. } = unit(*number, &[value]);
        let Some(NewBatch { source: BatchSource::Records { records, .. }, .. }) = batches.into_iter().next()
        else {
            unreachable!()
        };
        let encoded =
            crate::format::record_batch::encode(&records, Compression::None, TimestampType::CreateTime)
                .unwrap();
        JournalBatch {
            partition: partition(*number),
            base_offset: Offset::new(*base),
            count: 1,
            max_timestamp: Timestamp::default(),
            dedupe: Vec::new(),
            bytes: encoded.place(Offset::new(*base), crate::model::LeaderEpoch::new(1)),
        }
    };
    let frame = Frame::Append {
        shard: SHARD,
        nonce: Nonce::new(1),
        level: Durability::Object,
        append_time: Timestamp::from_millis(2_000),
        batches: batches.iter().map(batch).collect(),
    };
    Replayed { entry: JournalEntry::queued(FrameNumber::new(number)), frame }
}

async fn recovering(store: &Store) -> (Shard, JoinHandle<()>) {
    open(store, options(None), 3).await
}

#[tokio::test]
async fn a_frame_is_skipped_taken_back_or_refused_by_its_offsets() {
    let store = memory().await;
    let node = Node::open(&store, 1).await;
    node.append(unit(0, &["a", "b"])).await.unwrap();
    node.close().await;

    let (shard, task) = recovering(&store).await;
    shard.recover(replayed(0, &[(0, 1, "b")])).await.unwrap();
    shard.recover(replayed(1, &[(0, 2, "c"), (1, 0, "x")])).await.unwrap();
    let contradiction = shard.recover(replayed(2, &[(0, 1, "b"), (1, 1, "y")])).await;
    assert!(matches!(contradiction, Err(RecoverError::Contradiction { .. })), "{contradiction:?}");
    shard.recovered(false, Vec::new()).await.unwrap();
    let node = Node { shard, task, journal: None, damage: Vec::new() };
    assert_eq!(node.read(0).await, numbered(&["a", "b", "c"]));
    assert_eq!(node.read(1).await, numbered(&["x"]));
    assert_eq!(node.append(unit(0, &["d"])).await.map(|appended| base(&appended)), Ok(3));
    node.close().await;
    let last = objects(&store).await.pop().unwrap();
    assert!(last.header.append_time >= Timestamp::from_millis(2_000), "append time never decreases");
}

#[tokio::test]
async fn a_frame_behind_a_gap_makes_every_partition_jump() {
    let store = memory().await;
    let (shard, task) = recovering(&store).await;
    shard.recover(replayed(0, &[(1, 0, "x")])).await.unwrap();
    shard.recover(replayed(5, &[(0, 7, "h")])).await.unwrap();
    shard.recovered(false, Vec::new()).await.unwrap();
    let node = Node { shard, task, journal: None, damage: Vec::new() };
    assert_eq!(node.append(unit(0, &["i"])).await.map(|appended| base(&appended)), Ok(8 + JUMP));
    assert_eq!(node.append(unit(1, &["y"])).await.map(|appended| base(&appended)), Ok(1 + JUMP));
    node.close().await;
    let node = Node::open(&store, 4).await;
    assert_eq!(node.read(0).await, [(7, "h".to_owned()), (8 + JUMP, "i".to_owned())]);
    assert_eq!(node.read(1).await, [(0, "x".to_owned()), (1 + JUMP, "y".to_owned())]);
}

#[tokio::test]
async fn frames_are_not_taken_back_one_by_one_where_others_may_have_written() {
    let store = Store::with_objects(memory().await.objects(), false);
    let (shard, task) = recovering(&store).await;
    let refused = shard.recover(replayed(0, &[(0, 0, "a")])).await;
    assert!(matches!(refused, Err(RecoverError::Shared)), "{refused:?}");
    drop(shard);
    task.await.unwrap();
}

#[tokio::test]
async fn no_frame_of_another_shard_is_released_before_all_are_recovered() {
    let (store, dir) = (memory().await, tempfile::tempdir().unwrap());
    let node = Node::restart(&store, dir.path(), 1).await;
    node.append(unit(0, &["a"])).await.unwrap();
    node.kill().await;
    let (journal, mut replay) = Journal::open(JournalOptions::new(dir.path(), CLUSTER)).await.unwrap();
    let journal = SharedJournal::new(journal);
    let other = ShardStore { shard: ShardId::new(1), ..at(&store) };
    let index = Arc::new(ShardIndex::new(other.clone(), BlockCache::new(limits::CACHE_BYTES_MIN)));
    let opened = Shard::open(other, index, options(Some(journal.clone())), StdRng::seed_from_u64(5)).await;
    let (waiting, waiting_task) = opened.unwrap();
    let (shard, task) = open(&store, options(Some(journal.clone())), 5).await;
    shard.recover(replay.next().unwrap().unwrap()).await.unwrap();
    shard.recovered(false, Vec::new()).await.unwrap();
    shard.flush().await;
    drop(shard);
    task.await.unwrap();
    drop(waiting);
    waiting_task.await.unwrap();
    assert!(journal.close().await);
    let (_journal, mut replay) = Journal::open(JournalOptions::new(dir.path(), CLUSTER)).await.unwrap();
    assert!(replay.next().unwrap().is_some(), "the other shard may still need what was not replayed to it");
}
