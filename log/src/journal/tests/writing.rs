//! Appending, syncing, and reading back.

use futures::FutureExt as _;

use super::*;

#[tokio::test]
async fn replay_returns_what_was_appended_over_rotations_and_restarts() {
    let dir = tempfile::tempdir().unwrap();
    for start in 0..4 {
        let (journal, mut replay) = open(dir.path()).await;
        let (torn, damage) = (replay.torn_bytes, replay.damage.clone());
        assert_eq!((torn, damage), (0, vec![]));
        assert_eq!(journal.next_frame().get(), start * 50);
        let replayed = rest(&mut replay);
        assert_eq!(replayed.len() as u64, start * 50);
        for (n, replayed) in (0..).zip(replayed) {
            let expected = (FrameNumber::new(n), mixed(n));
            assert_eq!(journal.read(&replayed.entry).unwrap(), mixed(n), "it is read again by its place");
            assert_eq!((replayed.entry.number, replayed.frame), expected);
        }
        for n in start * 50..start * 50 + 50 {
            let entry = journal.append(mixed(n), n % 7 == 0).await.unwrap();
            assert_eq!(entry.number.get(), n);
        }
        journal.close().await.unwrap();
    }
    let files = list(dir.path()).unwrap();
    assert!(files.len() > 8, "{files:?}");
    for file in files {
        assert!(fs::metadata(path_of(dir.path(), file)).unwrap().len() <= 2048);
    }
}

#[tokio::test]
async fn concurrent_appends_share_one_sync() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, faults) = open_faulty(dir.path());
    let (began, go) = faults.hold_syncs();
    journal.append(settled(0), true).await.unwrap();
    began.recv().unwrap();
    for n in 1..64 {
        journal.append(append(n, vec![0; 300]), true).await.unwrap();
    }
    assert_eq!(journal.synced().borrow().below, FrameNumber::ZERO);
    drop((began, go));
    until_synced(&journal, FrameNumber::new(63)).await;
    assert_eq!(faults.syncs(), 2);
    journal.close().await.unwrap();
}

#[tokio::test]
async fn without_demand_nothing_is_synced_until_the_journal_closes() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, faults) = open_faulty(dir.path());
    for n in 0..10 {
        journal.append(settled(n), false).await.unwrap();
    }
    let mut synced = journal.synced();
    assert_eq!(synced.borrow().below, FrameNumber::ZERO);
    assert_eq!(faults.syncs(), 0);
    journal.close().await.unwrap();
    assert_eq!(faults.syncs(), 1);
    assert_eq!(synced.borrow_and_update().below.get(), 10);
}

#[tokio::test]
async fn a_sync_covers_frames_that_did_not_ask_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open_faulty(dir.path());
    journal.append(settled(0), false).await.unwrap();
    let last = journal.append(settled(1), true).await.unwrap().number;
    until_synced(&journal, last).await;
    drop(journal);
    assert_eq!(numbers(&mut open(dir.path()).await.1), [0, 1]);
}

#[tokio::test]
async fn a_full_queue_makes_appenders_wait() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, faults) = open_faulty(dir.path());
    let (began, go) = faults.hold_syncs();
    journal.append(settled(0), true).await.unwrap();
    began.recv().unwrap();
    let half = Bytes::from(vec![0; limits::JOURNAL_PENDING_BYTES_MAX / 2 - 1024]);
    journal.append(append(1, half.clone()), true).await.unwrap();
    journal.append(append(2, half.clone()), true).await.unwrap();
    assert!(matches!(journal.try_append(append(3, half.clone()), true), Err(JournalError::Full)));
    assert!(journal.append(append(3, half), true).now_or_never().is_none());
    assert_eq!(journal.try_append(settled(3), true).unwrap().number.get(), 3);
    drop((began, go));
}

#[tokio::test]
async fn a_frame_past_its_limit_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open(dir.path()).await;
    let frame = append(0, vec![0; limits::JOURNAL_FRAME_BYTES_MAX]);
    let error = journal.append(frame, true).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_eq!(journal.append(settled(0), true).await.unwrap().number, FrameNumber::ZERO);
}
