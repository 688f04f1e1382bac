//! Files that are no longer needed, and journals that are refused.

use super::*;

#[tokio::test]
async fn released_files_are_removed_and_never_replayed() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path(), 120).await;
    let files = list(dir.path()).unwrap();
    assert!(files.len() > 3, "{files:?}");
    let (journal, _) = open(dir.path()).await;
    let before = journal.bytes();
    journal.release_below(FrameNumber::new(80));
    journal.close().await.unwrap();
    let (journal, mut replay) = open(dir.path()).await;
    assert!(journal.bytes() < before);
    let replayed = numbers(&mut replay);
    assert!((20..=80).contains(&replayed[0]), "{replayed:?}");
    assert!(replayed.iter().copied().eq(replayed[0]..120));
}

#[tokio::test]
async fn a_journal_closed_after_everything_was_released_holds_no_frame_and_numbers_go_on() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path(), 10).await;
    let (journal, _) = open(dir.path()).await;
    let last = journal.append(settled(10), false).await.unwrap().number;
    journal.release_below(last.plus(1));
    journal.close().await.unwrap();
    assert_eq!(list(dir.path()).unwrap().len(), 1);
    let (journal, mut replay) = open(dir.path()).await;
    assert!(numbers(&mut replay).is_empty());
    assert_eq!(journal.append(settled(11), false).await.unwrap().number.get(), 11);
}

#[tokio::test]
async fn a_journal_at_its_size_limit_refuses_until_frames_are_released() {
    let dir = tempfile::tempdir().unwrap();
    let options = JournalOptions { bytes_max: 16 * 1024, ..options(dir.path()) };
    let (journal, _) = Journal::open(options).await.unwrap();
    let mut last = None;
    let error = loop {
        match journal.append(append(0, vec![0; 1000]), false).await {
            Ok(entry) => last = Some(entry.number),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, JournalError::Exhausted { limit: 16_384, .. }), "{error}");
    assert!(journal.bytes() <= 16 * 1024);
    let last = last.unwrap();
    assert!(last.get() >= 10, "{last}");
    // The thread syncs when it begins a new file, and removes the old ones right after.
    journal.release_below(last.plus(1));
    until_synced(&journal, last).await;
    while journal.bytes() > 1024 {
        tokio::task::yield_now().await;
    }
    assert_eq!(journal.append(settled(0), false).await.unwrap().number, last.plus(1));
}

#[tokio::test]
async fn another_clusters_journal_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path(), 2).await;
    let options = JournalOptions::new(dir.path(), ClusterId::new(0xc2));
    let error = Journal::open(options).await.unwrap_err();
    assert!(matches!(error, JournalError::ForeignCluster { found: CLUSTER, .. }), "{error}");
    assert_eq!(numbers(&mut open(dir.path()).await.1), [0, 1]);
}

#[tokio::test]
async fn an_open_journal_is_not_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let (_journal, _) = open(dir.path()).await;
    let error = Journal::open(options(dir.path())).await.unwrap_err();
    assert!(matches!(error, JournalError::Locked { .. }), "{error}");
}

#[tokio::test]
async fn a_file_that_cannot_be_removed_is_tried_again_with_the_next_release() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path(), 3).await;
    let (journal, faults) = open_faulty(dir.path());
    faults.stuck.store(true, Ordering::SeqCst);
    journal.release_below(FrameNumber::new(3));
    for _ in 0..5 {
        let number = journal.append(settled(0), true).await.unwrap().number;
        until_synced(&journal, number).await;
    }
    assert_eq!(faults.removals_failed.load(Ordering::SeqCst), 1, "not after each group");
    faults.stuck.store(false, Ordering::SeqCst);
    journal.release_below(FrameNumber::new(4));
    journal.close().await.unwrap();
    assert_eq!(list(dir.path()).unwrap(), [1]);
}
