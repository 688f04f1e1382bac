//! A store that takes nothing for a while: what is accepted meanwhile is in the journal, not in memory.

use std::path::PathBuf;

use super::*;
use crate::shard::leader::Ending;
use crate::store::Operation;
use crate::testing::{Hold, Moment};

/// Bytes of the values here, so that a few of them are more than may be in memory.
const VALUE_BYTES: usize = 1_000;
/// Appends that fill the memory for what is not in the store.
const FILLS: usize = 24;

fn small(journal: &SharedJournal) -> LeaderOptions {
    let unflushed_bytes_max = FILLS * 2_048;
    LeaderOptions { unflushed_bytes_max, spill_bytes: VALUE_BYTES / 2, ..options(Some(journal.clone())) }
}

/// Leads with a journal that may have so many bytes.
async fn lead(store: &Store, dir: &Path, bytes_max: u64, seed: u64) -> Node {
    let of_journal = JournalOptions { file_bytes: 16_384, bytes_max, ..JournalOptions::new(dir, CLUSTER) };
    let (journal, mut replay) = Journal::open(of_journal).await.unwrap();
    let journal = SharedJournal::new(journal);
    journal.adopt(&mut replay).unwrap();
    let (shard, task) = open(store, small(&journal), seed).await;
    shard.recovered(false, vec![partition(0)]).await.unwrap();
    Node { shard, task, journal: Some(journal), damage: Vec::new() }
}

fn value(number: usize) -> String {
    format!("{number:0VALUE_BYTES$}")
}

fn values(numbers: impl IntoIterator<Item = usize>) -> Vec<String> {
    numbers.into_iter().map(value).collect()
}

impl Node {
    async fn append_local(&self, number: usize) {
        self.append(local(unit(0, &[&value(number)]))).await.unwrap();
    }

    async fn read_values(&self) -> Vec<String> {
        self.read(0).await.into_iter().map(|(_, value)| value).collect()
    }
}

fn stuck(faulty: &FaultyStore) -> Hold {
    faulty.hold(Operation::Create, Moment::Request)
}

#[tokio::test]
async fn what_a_store_does_not_take_waits_in_the_journal_and_is_stored_in_order() {
    let (store, faulty) = faulty(1, false).await;
    let dir = tempfile::tempdir().unwrap();
    let node = lead(&store, dir.path(), 1 << 30, 1).await;
    node.append_local(0).await;
    node.shard.flush().await;
    let hold = stuck(&faulty);
    let mut receipts = Vec::new();
    for number in 1..4 * FILLS {
        if number % 4 == 0 {
            receipts.push(node.enqueue(unit(0, &[&value(number)])).await);
        } else {
            node.append_local(number).await;
        }
    }
    assert_eq!(node.read_values().await, values(0..1), "nothing is read before it is stored");
    hold.release();
    for receipt in receipts {
        receipt.acknowledged().await.unwrap();
    }
    node.append_local(4 * FILLS).await;
    node.shard.flush().await;
    assert_eq!(node.read_values().await, values(0..=4 * FILLS));
    let other = Node::open(&store, 2).await;
    assert_eq!(other.read_values().await, values(0..=4 * FILLS), "and so it is in the store");
    other.kill().await;
    drop(node.shard);
}

#[tokio::test]
async fn of_what_was_spilled_the_acknowledged_comes_back_once_and_nothing_else() {
    for moment in [Moment::Request, Moment::Reply] {
        let (store, faulty) = faulty(1, false).await;
        let dir = tempfile::tempdir().unwrap();
        let node = lead(&store, dir.path(), 1 << 30, 1).await;
        let hold = faulty.hold(Operation::Create, moment);
        let mut waiting = Vec::new();
        for number in 0..3 * FILLS {
            if number % 4 == 3 {
                waiting.push(node.enqueue(unit(0, &[&value(number)])).await);
            } else {
                node.append_local(number).await;
            }
        }
        hold.arrived(1).await;
        node.kill().await;
        hold.release();
        for seed in 2..4 {
            let node = lead(&store, dir.path(), 1 << 30, seed).await;
            node.shard.flush().await;
            let mut found = node.read_values().await;
            found.sort_unstable();
            // Those of the objects under way may have arrived, acknowledged or not.
            let local = values((0..3 * FILLS).filter(|number| number % 4 != 3));
            let (acknowledged, others): (Vec<_>, Vec<_>) =
                found.into_iter().partition(|value| local.contains(value));
            assert_eq!(acknowledged, local, "{moment:?}");
            assert!(others.len() < waiting.len() / 2, "{moment:?}: {} that nobody waited for", others.len());
            node.close().await;
        }
    }
}

#[tokio::test]
async fn past_the_journals_size_appends_are_refused_until_the_store_takes_them() {
    let (store, faulty) = faulty(1, false).await;
    let dir = tempfile::tempdir().unwrap();
    let node = lead(&store, dir.path(), 64 * 1024, 1).await;
    let hold = stuck(&faulty);
    node.append_local(0).await;
    let mut accepted = vec![0];
    let mut receipts = Vec::new();
    let refused = loop {
        let number = accepted.len();
        match node.shard.enqueue(local(unit(0, &[&value(number)]))).await {
            Ok(receipt) => receipts.push(receipt),
            Err(error) => break error,
        }
        accepted.push(number);
    };
    assert_eq!(refused, AppendError::Overloaded);
    assert!(accepted.len() > 2 * FILLS, "{} fit into journal and memory", accepted.len());
    hold.release();
    for receipt in receipts {
        receipt.acknowledged().await.unwrap();
    }
    node.append_local(accepted.len()).await;
    node.shard.flush().await;
    assert_eq!(node.read_values().await, values(0..=accepted.len()));
    node.close().await;
}

#[tokio::test]
async fn a_leader_that_cannot_read_its_journal_leads_no_more() {
    let (store, faulty) = faulty(1, false).await;
    let dir = tempfile::tempdir().unwrap();
    let node = lead(&store, dir.path(), 1 << 30, 1).await;
    let hold = stuck(&faulty);
    for number in 0..4 * FILLS {
        node.append_local(number).await;
    }
    let waiting = node.enqueue(unit(0, &["last"])).await;
    for path in journal_files(dir.path()) {
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.iter_mut().skip(100).for_each(|byte| *byte ^= 1);
        std::fs::write(&path, bytes).unwrap();
    }
    hold.release();
    assert_eq!(node.shard.ended().await, Ending::Died);
    assert_eq!(waiting.acknowledged().await, Err(not_stored()));
    let stored = Node::open(&store, 2).await.read_values().await;
    assert_eq!(stored, values(0..stored.len()), "what was in memory is stored, in order");
}

/// The journal's files, oldest first.
fn journal_files(dir: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(dir).unwrap().map(|file| file.unwrap().path());
    let mut files: Vec<_> = files.filter(|path| path.extension().is_some_and(|is| is == "journal")).collect();
    files.sort();
    files
}

/// Takes a folder's files away and brings them back.
struct Away(Vec<(PathBuf, PathBuf)>);

impl Away {
    fn take(files: Vec<PathBuf>) -> Self {
        let pairs = files.into_iter().map(|path| (path.with_extension("away"), path));
        let pairs: Vec<_> = pairs.collect();
        pairs.iter().for_each(|(away, path)| std::fs::rename(path, away).unwrap());
        Self(pairs)
    }

    fn bring_back(self) {
        self.0.iter().for_each(|(away, path)| std::fs::rename(away, path).unwrap());
    }
}

#[tokio::test]
async fn a_disk_that_gives_nothing_back_ends_the_leadership_and_loses_nothing() {
    let (store, faulty) = faulty(1, false).await;
    let dir = tempfile::tempdir().unwrap();
    let node = lead(&store, dir.path(), 1 << 30, 1).await;
    let hold = stuck(&faulty);
    for number in 0..4 * FILLS {
        node.append_local(number).await;
    }
    let waiting = node.enqueue(unit(0, &["last"])).await;
    let away = Away::take(journal_files(dir.path()));
    tokio::time::pause();
    hold.release();
    assert_eq!(node.shard.ended().await, Ending::Died);
    assert_eq!(waiting.acknowledged().await, Err(not_stored()));
    away.bring_back();
    let again = node.lead_again(&store, 2).await;
    again.shard.flush().await;
    let mut found = again.read_values().await;
    found.sort_unstable();
    assert_eq!(found, values(0..4 * FILLS));
}

#[tokio::test]
async fn leftovers_that_cannot_be_read_stay_in_the_journal_and_hold_nobody_up() {
    let (store, faulty) = faulty(1, false).await;
    let dir = tempfile::tempdir().unwrap();
    let node = lead(&store, dir.path(), 1 << 30, 1).await;
    let hold = stuck(&faulty);
    for number in 0..FILLS {
        node.append_local(number).await;
    }
    node.kill().await;
    hold.release();
    tokio::time::pause();
    let (journal, mut replay) = Journal::open(JournalOptions::new(dir.path(), CLUSTER)).await.unwrap();
    let journal = SharedJournal::new(journal);
    journal.adopt(&mut replay).unwrap();
    let files = journal_files(dir.path());
    assert!(files.len() > 2);
    let away = Away::take(files[..1].to_vec());
    let lead = |seed| {
        let (store, journal) = (store.clone(), journal.clone());
        async move {
            let (shard, task) = open(&store, options(Some(journal.clone())), seed).await;
            shard.recovered(false, Vec::new()).await.unwrap();
            Node { shard, task, journal: None, damage: Vec::new() }
        }
    };
    let node = lead(2).await;
    node.append_local(FILLS).await;
    node.shard.flush().await;
    let found = node.read_values().await;
    assert!(found.len() < FILLS && found == values(FILLS + 1 - found.len()..=FILLS), "{}", found.len());
    node.close().await;
    away.bring_back();
    assert!(journal.has_leftovers(SHARD));
    let node = lead(3).await;
    node.shard.flush().await;
    let mut found = node.read_values().await;
    found.sort_unstable();
    assert_eq!(found, values(0..=FILLS));
    node.close().await;
    assert!(journal.close().await, "everything is stored, and once");
}
