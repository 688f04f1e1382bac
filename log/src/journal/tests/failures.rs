//! Disks that fail or are full.

use super::*;

#[tokio::test]
async fn a_failed_sync_kills_the_journal_and_reports_nothing_of_its_group() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, faults) = open_faulty(dir.path());
    let first = journal.append(settled(0), true).await.unwrap().number;
    until_synced(&journal, first).await;
    faults.failing_sync.store(1, Ordering::SeqCst);
    journal.append(settled(1), true).await.unwrap();
    assert_eq!(until_dead(&journal).await, Progress { below: FrameNumber::new(1), dead: true });
    assert!(matches!(journal.append(settled(2), true).await, Err(JournalError::Dead)));
    assert!(matches!(journal.try_append(settled(2), true), Err(JournalError::Dead)));
    assert!(matches!(journal.close().await, Err(JournalError::Dead)));
    assert_eq!(faults.syncs(), 2, "a failed sync is never repeated");
    let (_, mut replay) = open(dir.path()).await;
    assert_eq!(numbers(&mut replay), [0]);
    assert_eq!(replay.damage, []);
}

#[tokio::test]
async fn a_full_disk_kills_the_journal_and_leaves_what_was_synced() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, faults) = open_faulty(dir.path());
    let first = journal.append(mixed(0), true).await.unwrap().number;
    until_synced(&journal, first).await;
    faults.space.store(100, Ordering::SeqCst);
    journal.append(append(1, vec![1; 300]), true).await.unwrap();
    assert_eq!(until_dead(&journal).await.below.get(), 1);
    drop(journal);
    let (_, mut replay) = open(dir.path()).await;
    assert_eq!(numbers(&mut replay), [0]);
}

#[tokio::test]
async fn short_writes_are_continued() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, faults) = open_faulty(dir.path());
    faults.short_writes.store(true, Ordering::SeqCst);
    for n in 0..30 {
        journal.append(mixed(n), true).await.unwrap();
    }
    journal.close().await.unwrap();
    let replayed = rest(&mut open(dir.path()).await.1);
    assert!(replayed.into_iter().map(|replayed| replayed.frame).eq((0..30).map(mixed)));
}

#[tokio::test]
async fn a_dead_journal_still_removes_released_files() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path(), 40).await;
    let (journal, faults) = open_faulty(dir.path());
    faults.failing_sync.store(0, Ordering::SeqCst);
    journal.append(settled(0), true).await.unwrap();
    until_dead(&journal).await;
    journal.release_below(FrameNumber::new(40));
    assert!(journal.close().await.is_err());
    assert_eq!(list(dir.path()).unwrap().len(), 1);
}
