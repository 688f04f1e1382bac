//! The journal over real files, with a device that fails on demand.

use std::fs;
use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use bytes::Bytes;
use futures::FutureExt;
use parking_lot::Mutex;
use proptest::prelude::*;
use tempfile::TempDir;

use super::files::{Device, Disk, list, path_of};
use super::frame::{self, Encoded, FILE_HEADER_LEN, FileHeader, Seal};
use super::scan::{Gap, scan};
use super::*;
use crate::format::dedupe::DedupeEntry;
use crate::model::{
    Durability, Nonce, Offset, PartitionId, ShardId, Timestamp, TopicId, TopicPartition, WalSeq,
};

const CLUSTER: ClusterId = ClusterId::new(0xc1);

// ---- frames ----

fn append(offset: u64, body: impl Into<Bytes>) -> Frame {
    let entry = DedupeEntry {
        id: 7,
        producer_epoch: 1,
        first_sequence: 2,
        base_offset: Offset::new(offset),
        count: 1,
        append_time: Timestamp::from_millis(3),
        body_hash: 4,
    };
    let batch = JournalBatch {
        partition: TopicPartition { topic: TopicId::new(5), partition: PartitionId::new(6) },
        base_offset: Offset::new(offset),
        count: 1,
        max_timestamp: Timestamp::from_millis(8),
        dedupe: vec![entry],
        bytes: body.into(),
    };
    Frame::Append {
        shard: ShardId::new(1),
        nonce: Nonce::new(2),
        level: Durability::Local,
        append_time: Timestamp::from_millis(3),
        batches: vec![batch],
    }
}

fn settled(below: u64) -> Frame {
    let (shard, nonce) = (ShardId::new(1), Nonce::new(2));
    Frame::Settled { shard, nonce, below: FrameNumber::new(below) }
}

fn mixed(n: u64) -> Frame {
    let (shard, nonce, seq) = (ShardId::new(1), Nonce::new(2), WalSeq::new(n));
    match n % 3 {
        0 => append(n, vec![n as u8; (n % 500) as usize]),
        1 => Frame::Frozen { shard, nonce, seq, first: FrameNumber::new(n - 1), last: FrameNumber::new(n) },
        _ => settled(n),
    }
}

fn image(frame: Frame, cluster: ClusterId, number: u64, synced_below: u64) -> Vec<u8> {
    let mut encoded = Encoded::new(frame).unwrap();
    encoded.seal(&Seal::new(cluster), FrameNumber::new(number), FrameNumber::new(synced_below));
    let image: Vec<u8> = encoded.slices().flat_map(|slice| slice.to_vec()).collect();
    assert_eq!(image.len(), encoded.len());
    image
}

/// A file whose first frame has number 0. Each frame: its number, and below which everything was synced.
fn file(frames: &[(u64, u64)]) -> Vec<u8> {
    let mut bytes = FileHeader { cluster: CLUSTER, file: 0, first: FrameNumber::ZERO }.encode();
    frames.iter().for_each(|&(n, synced)| bytes.extend(image(mixed(n), CLUSTER, n, synced)));
    bytes
}

/// Where the frame of a number lies in the bytes of a file.
fn range_of(bytes: &[u8], number: u64) -> std::ops::Range<usize> {
    let scan = scan(bytes, &Seal::new(CLUSTER), None);
    let found = scan.found.iter().find(|found| found.number.get() == number).unwrap();
    found.position..found.position + found.len
}

// ---- journals ----

fn options(dir: &Path) -> JournalOptions {
    JournalOptions { file_bytes: 2048, bytes_max: 1 << 20, ..JournalOptions::new(dir, CLUSTER) }
}

async fn open(dir: &Path) -> (Journal, Replay) {
    Journal::open(options(dir)).await.unwrap()
}

fn rest(replay: &mut Replay) -> Vec<Replayed> {
    std::iter::from_fn(|| replay.next().unwrap()).collect()
}

fn numbers(replay: &mut Replay) -> Vec<u64> {
    rest(replay).iter().map(|replayed| replayed.entry.number.get()).collect()
}

async fn until_synced(journal: &Journal, number: FrameNumber) {
    let mut synced = journal.synced();
    let progress = *synced.wait_for(|progress| progress.below > number || progress.dead).await.unwrap();
    assert!(!progress.dead, "the journal died");
}

async fn until_dead(journal: &Journal) -> Progress {
    *journal.synced().wait_for(|progress| progress.dead).await.unwrap()
}

/// Appends frames and closes. Every frame is synced on its own.
async fn fill(dir: &Path, count: u64) {
    let (journal, _) = open(dir).await;
    for _ in 0..count {
        let number = journal.synced().borrow().below;
        let number = journal.append(mixed(number.get()), true).await.unwrap().number;
        until_synced(&journal, number).await;
    }
    journal.close().await.unwrap();
}

/// Puts a single file's bytes into a new folder.
fn folder(bytes: &[u8]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(path_of(dir.path(), 0), bytes).unwrap();
    dir
}

/// What a [`Faulty`] device is to do.
#[derive(Debug)]
struct Faults {
    syncs: AtomicUsize,
    failing_sync: AtomicUsize,
    short_writes: AtomicBool,
    space: AtomicU64,
    /// Whether files can be removed, and how often that was tried in vain.
    stuck: AtomicBool,
    removals_failed: AtomicUsize,
    /// Each sync reports that it began and waits to be let go; it goes on when the other end is dropped.
    gate: Mutex<Option<(SyncSender<()>, Receiver<()>)>>,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            syncs: AtomicUsize::new(0),
            failing_sync: AtomicUsize::new(usize::MAX),
            short_writes: AtomicBool::new(false),
            space: AtomicU64::new(u64::MAX),
            stuck: AtomicBool::new(false),
            removals_failed: AtomicUsize::new(0),
            gate: Mutex::new(None),
        }
    }
}

impl Faults {
    fn syncs(&self) -> usize {
        self.syncs.load(Ordering::SeqCst)
    }

    /// Returns one end that hears of syncs, and one that lets them go.
    fn hold_syncs(&self) -> (Receiver<()>, SyncSender<()>) {
        let (began, hear) = sync_channel(16);
        let (go, wait) = sync_channel(16);
        *self.gate.lock() = Some((began, wait));
        (hear, go)
    }
}

/// The real disk with faults.
#[derive(Debug)]
struct Faulty {
    disk: Disk,
    faults: Arc<Faults>,
}

impl Device for Faulty {
    fn create(&mut self, number: u64, header: &[u8]) -> io::Result<()> {
        self.disk.create(number, header)
    }

    fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let space = self.faults.space.load(Ordering::SeqCst);
        if space == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let first = slices.iter().find(|slice| !slice.is_empty()).map_or(&[][..], |slice| &slice[..]);
        let written = if self.faults.short_writes.load(Ordering::SeqCst) || space < u64::MAX {
            let len = first.len().min(7).min(usize::try_from(space).unwrap_or(usize::MAX));
            self.disk.write(&[IoSlice::new(&first[..len])])?
        } else {
            self.disk.write(slices)?
        };
        if space < u64::MAX {
            self.faults.space.store(space - written as u64, Ordering::SeqCst);
        }
        Ok(written)
    }

    fn fill(&mut self, position: u64, bytes: u64) -> io::Result<()> {
        self.disk.fill(position, bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        let nth = self.faults.syncs.fetch_add(1, Ordering::SeqCst);
        if let Some((began, wait)) = &*self.faults.gate.lock() {
            let _ = began.send(());
            let _ = wait.recv();
        }
        if nth == self.faults.failing_sync.load(Ordering::SeqCst) {
            return Err(io::Error::other("injected"));
        }
        self.disk.sync()
    }

    fn cut(&mut self, length: u64) -> io::Result<()> {
        self.disk.cut(length)
    }

    fn remove(&mut self, number: u64) -> io::Result<()> {
        if self.faults.stuck.load(Ordering::SeqCst) {
            self.faults.removals_failed.fetch_add(1, Ordering::SeqCst);
            return Err(io::Error::other("injected"));
        }
        self.disk.remove(number)
    }
}

fn open_faulty(dir: &Path) -> (Journal, Arc<Faults>) {
    let faults = Arc::new(Faults::default());
    let device = Faulty { disk: Disk::open(dir).unwrap().unwrap(), faults: Arc::clone(&faults) };
    let options = JournalOptions::new(dir, CLUSTER);
    (Journal::open_on(options, Box::new(device)).unwrap().0, faults)
}

// ---- writing and reading back ----

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

// ---- torn tails and damage ----

#[tokio::test]
async fn a_tail_torn_at_any_byte_is_cut_and_appending_goes_on() {
    let whole = file(&[(0, 0), (1, 1), (2, 2)]);
    let last = range_of(&whole, 2);
    for cut in last.clone() {
        for zeros in [0, 100] {
            let mut bytes = whole[..cut].to_vec();
            let data_end = bytes.iter().rposition(|&b| b != 0).unwrap() + 1;
            bytes.resize(cut + zeros, 0);
            let dir = folder(&bytes);
            let (journal, mut replay) = open(dir.path()).await;
            assert_eq!(replay.damage, [], "cut at {cut}");
            assert_eq!(replay.torn_bytes as usize, data_end - last.start, "cut at {cut}");
            assert_eq!(numbers(&mut replay), [0, 1], "cut at {cut}");
            assert_eq!(journal.append(settled(9), false).await.unwrap().number.get(), 2);
            journal.close().await.unwrap();
            let (_, mut replay) = open(dir.path()).await;
            assert_eq!((replay.torn_bytes, replay.damage.len()), (0, 0), "cut at {cut}");
            let replayed = rest(&mut replay);
            assert_eq!(replayed.len(), 3, "cut at {cut}");
            assert_eq!(replayed[2].frame, settled(9));
        }
    }
}

#[tokio::test]
async fn a_flipped_bit_in_a_synced_frame_is_damage_and_later_frames_return() {
    let dir = tempfile::tempdir().unwrap();
    {
        let (journal, _) = open(dir.path()).await;
        for n in 0..5 {
            let number = journal.append(mixed(n), true).await.unwrap().number;
            until_synced(&journal, number).await;
        }
    }
    let path = path_of(dir.path(), 0);
    let mut bytes = fs::read(&path).unwrap();
    let bad = range_of(&bytes, 2);
    bytes[bad.start + 30] ^= 4;
    fs::write(&path, bytes).unwrap();
    let expected = Damage {
        file: 0,
        position: bad.start as u64,
        first: FrameNumber::new(2),
        next: Some(FrameNumber::new(3)),
    };
    // At the second start the file is not the last one any more.
    for _ in 0..2 {
        let (_journal, mut replay) = open(dir.path()).await;
        assert_eq!(replay.damage, [expected]);
        assert_eq!(replay.torn_bytes, 0);
        assert_eq!(numbers(&mut replay), [0, 1, 3, 4]);
    }
}

#[tokio::test]
async fn an_unsynced_group_written_in_part_is_cut_from_its_first_hole() {
    let mut bytes = file(&[(0, 0), (1, 1), (2, 1), (3, 1), (4, 1)]);
    let hole = range_of(&bytes, 2);
    bytes[hole.clone()].fill(0);
    let torn = bytes.len() - hole.start;
    let dir = folder(&bytes);
    let (journal, mut replay) = open(dir.path()).await;
    assert_eq!(replay.damage, []);
    assert!((torn - 2..=torn).contains(&(replay.torn_bytes as usize)), "{}", replay.torn_bytes);
    assert_eq!(numbers(&mut replay), [0, 1]);
    // The frames behind the hole are still in the old file; new ones with their numbers come in their place.
    for n in 2..6 {
        assert_eq!(journal.append(settled(100 + n), false).await.unwrap().number.get(), n);
    }
    journal.close().await.unwrap();
    let (_, mut replay) = open(dir.path()).await;
    assert_eq!(replay.damage, []);
    let frames: Vec<_> = rest(&mut replay).into_iter().map(|replayed| replayed.frame).collect();
    assert_eq!(frames[2..], [settled(102), settled(103), settled(104), settled(105)]);
}

#[test]
fn damage_and_a_torn_tail_in_one_file_are_told_apart() {
    let mut bytes = file(&[(0, 0), (1, 1), (2, 2), (3, 3), (4, 3), (5, 3)]);
    let (damaged, torn) = (range_of(&bytes, 1), range_of(&bytes, 4));
    bytes[damaged.start + 10] ^= 1;
    bytes[torn.start + 10] ^= 1;
    let tail = scan(&bytes, &Seal::new(CLUSTER), Some(FrameNumber::ZERO)).tail(FrameNumber::ZERO);
    let gap = Gap { position: damaged.start, first: FrameNumber::new(1), next: Some(FrameNumber::new(2)) };
    assert_eq!(tail.gaps, [gap]);
    assert_eq!((tail.end.get(), tail.torn_bytes), (4, bytes.len() - torn.start));
}

#[tokio::test]
async fn a_missing_file_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path(), 3).await;
    fill(dir.path(), 3).await;
    fill(dir.path(), 3).await;
    fs::remove_file(path_of(dir.path(), 1)).unwrap();
    let (_, mut replay) = open(dir.path()).await;
    let [damage] = &replay.damage[..] else { panic!("{:?}", replay.damage) };
    assert_eq!((damage.first.get(), damage.next), (3, Some(FrameNumber::new(6))));
    assert_eq!(numbers(&mut replay), [0, 1, 2, 6, 7, 8]);
}

#[tokio::test]
async fn a_shortened_file_that_is_not_the_last_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path(), 3).await;
    fill(dir.path(), 3).await;
    let path = path_of(dir.path(), 0);
    let bytes = fs::read(&path).unwrap();
    let cut = range_of(&bytes, 2);
    fs::write(&path, &bytes[..cut.start + 5]).unwrap();
    let (_, mut replay) = open(dir.path()).await;
    let expected = Damage {
        file: 0,
        position: cut.start as u64,
        first: FrameNumber::new(2),
        next: Some(FrameNumber::new(3)),
    };
    assert_eq!(replay.damage, [expected]);
    assert_eq!(numbers(&mut replay), [0, 1, 3, 4, 5]);
}

#[tokio::test]
async fn a_damaged_header_is_reported_and_the_frames_behind_it_return() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path(), 3).await;
    fill(dir.path(), 3).await;
    let path = path_of(dir.path(), 1);
    let mut bytes = fs::read(&path).unwrap();
    bytes[20] ^= 1;
    fs::write(&path, bytes).unwrap();
    let (_, mut replay) = open(dir.path()).await;
    let third = FrameNumber::new(3);
    assert_eq!(replay.damage, [Damage { file: 1, position: 0, first: third, next: Some(third) }]);
    assert_eq!(numbers(&mut replay), [0, 1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn a_wiped_last_file_is_damage_at_every_start_until_it_is_released() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path(), 3).await;
    fill(dir.path(), 3).await;
    let path = path_of(dir.path(), 1);
    fs::write(&path, vec![0; 500]).unwrap();
    for _ in 0..2 {
        let (journal, mut replay) = open(dir.path()).await;
        assert_eq!(replay.damage[0].first.get(), 3);
        assert!(journal.next_frame().get() > 5, "numbers of lost frames are not given out again");
        assert_eq!(numbers(&mut replay), [0, 1, 2]);
    }
    let (journal, _) = open(dir.path()).await;
    journal.release_below(journal.next_frame());
    journal.close().await.unwrap();
    assert_eq!(open(dir.path()).await.1.damage, []);
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

#[tokio::test]
async fn a_file_whose_creation_was_cut_short_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path(), 3).await;
    let header = FileHeader { cluster: CLUSTER, file: 1, first: FrameNumber::new(3) }.encode();
    for len in [0, 1, FILE_HEADER_LEN - 1] {
        fs::write(path_of(dir.path(), 1), &header[..len]).unwrap();
        let (journal, mut replay) = open(dir.path()).await;
        assert_eq!(replay.damage, [], "{len} bytes");
        assert_eq!(numbers(&mut replay), [0, 1, 2], "{len} bytes");
        assert_eq!(journal.next_frame().get(), 3);
        drop(journal);
        assert_eq!(list(dir.path()).unwrap(), [0, 1]);
    }
}

#[test]
fn the_image_of_a_frame_in_a_torn_body_is_not_a_frame() {
    let forged = image(settled(1), ClusterId::new(0xbad), 2, 2);
    let mut bytes = file(&[(0, 0)]);
    let torn = bytes.len();
    bytes.extend(image(append(1, [forged, vec![1; 100]].concat()), CLUSTER, 1, 1));
    bytes.truncate(bytes.len() - 50);
    let scan = scan(&bytes, &Seal::new(CLUSTER), Some(FrameNumber::ZERO));
    assert_eq!(scan.found.len(), 1);
    let tail = scan.tail(FrameNumber::ZERO);
    assert_eq!((tail.end.get(), tail.torn_bytes, tail.gaps), (1, bytes.len() - torn, vec![]));
}

#[test]
fn a_search_that_gets_too_expensive_ends_in_damage_and_not_in_a_cut() {
    let mut bytes = file(&[(0, 0)]);
    let bad = bytes.len();
    for _ in 0..10_000 {
        bytes.extend(frame::FRAME_MAGIC);
        bytes.extend(100_000_u32.to_be_bytes());
        bytes.extend(1_u64.to_be_bytes());
        bytes.extend(0_u64.to_be_bytes());
        bytes.push(1);
    }
    let scan = scan(&bytes, &Seal::new(CLUSTER), Some(FrameNumber::ZERO));
    assert!(!scan.searched);
    let tail = scan.tail(FrameNumber::ZERO);
    assert_eq!(tail.gaps, [Gap { position: bad, first: FrameNumber::new(1), next: None }]);
    assert!(tail.end.get() > 1);
}

// ---- failures ----

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

// ---- releasing and refusing ----

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

// ---- bytes ----

const SETTLED: &str = concat!(
    "f70ba71e0000001a00000000000000050000000000000004040001000000000000000000000000000000020000000000",
    "000009d4181f51",
);
const FROZEN: &str = concat!(
    "f70ba71e0000002a00000000000000050000000000000004020001000000000000000000000000000000020000000000",
    "00000a0000000000000009000000000000000ad41fd512",
);
/// A mark that said what became of one WAL object.
const EARLIER_SETTLED: &str = concat!(
    "f70ba71e0000001b00000000000000050000000000000004030001000000000000000000000000000000020000000000",
    "00000900ff2b1cb0",
);

#[test]
fn a_mark_of_the_earlier_layout_is_passed_over() {
    let byte = |at: usize| u8::from_str_radix(&EARLIER_SETTLED[at..at + 2], 16).unwrap();
    let earlier: Vec<u8> = (0..EARLIER_SETTLED.len()).step_by(2).map(byte).collect();
    assert!(Seal::new(CLUSTER).holds(&earlier));
    assert_eq!(frame::decode(&Bytes::from(earlier)), Ok(None));
}

#[test]
fn the_bytes_of_version_1_do_not_change() {
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let header = FileHeader { cluster: CLUSTER, file: 2, first: FrameNumber::new(3) }.encode();
    assert_eq!(header.len(), FILE_HEADER_LEN);
    assert_eq!(
        hex(&header),
        "46424a524e4c0d0a0001000000000000000000000000000000c100000000000000020000000000000003581fcc36"
    );
    assert_eq!(hex(&image(settled(9), CLUSTER, 5, 4)), SETTLED);
    assert_eq!(hex(&image(mixed(10), CLUSTER, 5, 4)), FROZEN);
    assert_eq!(
        hex(&image(append(9, &b"body"[..]), CLUSTER, 5, 4)),
        concat!(
            "f70ba71e0000008300000000000000050000000000000004010001000000000000000000000000000000020100000000",
            "000000030000000100000000000000000000000000000005000600000000000000090000000100000000000000080000",
            "000400000001000000000000000000000000000000070001000000020000000000000009000000010000000000000003",
            "0000000000000004626f64798da7054c",
        )
    );
}

fn any_frame() -> impl Strategy<Value = Frame> {
    let bodies = prop::collection::vec(any::<u8>(), 0..200);
    prop_oneof![
        (any::<u64>(), prop::collection::vec(bodies, 0..5)).prop_map(|(offset, bodies)| {
            let Frame::Append { shard, nonce, level, append_time, batches } = append(offset, vec![]) else {
                unreachable!()
            };
            let batch = |body: Vec<u8>| JournalBatch { bytes: body.into(), ..batches[0].clone() };
            let batches = bodies.into_iter().map(batch).collect();
            Frame::Append { shard, nonce, level, append_time, batches }
        }),
        any::<u64>().prop_map(|n| mixed(n / 3 * 3 + 1)),
        any::<u64>().prop_map(settled),
    ]
}

proptest! {
    #[test]
    fn every_frame_comes_back(frame in any_frame(), number in 1..u64::MAX) {
        let bytes = Bytes::from(image(frame.clone(), CLUSTER, number, number - 1));
        prop_assert!(Seal::new(CLUSTER).holds(&bytes));
        prop_assert!(!Seal::new(ClusterId::new(1)).holds(&bytes));
        prop_assert_eq!(frame::decode(&bytes), Ok(Some(frame)));
        let claimed = frame::claim(&bytes).unwrap();
        prop_assert_eq!((claimed.number.get(), claimed.len), (number, bytes.len()));
        prop_assert_eq!(claimed.synced_below.get(), number - 1);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = frame::decode(&Bytes::from(bytes.clone()));
        let _ = FileHeader::decode(&bytes);
        let scan = scan(&bytes, &Seal::new(CLUSTER), None);
        prop_assert_eq!(scan.found, vec![]);
    }

    #[test]
    fn a_corrupted_file_yields_only_frames_that_were_written(
        synced in prop::collection::vec(any::<bool>(), 1..20),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 1..40_usize), 0..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut below = 0;
        let frames: Vec<(u64, u64)> = (0..).zip(&synced).map(|(n, &sync)| {
            below = if sync { n } else { below };
            (n, below)
        }).collect();
        let whole = file(&frames);
        let seal = Seal::new(CLUSTER);
        let written = scan(&whole, &seal, Some(FrameNumber::ZERO)).found;
        prop_assert_eq!(written.len(), frames.len());
        let mut bytes = whole.clone();
        for (at, value, len) in edits {
            let at = at.index(bytes.len());
            let end = bytes.len().min(at + len);
            bytes[at..end].fill(value);
        }
        bytes.truncate(cut.index(bytes.len()) + 1);
        let found = scan(&bytes, &seal, Some(FrameNumber::ZERO));
        prop_assert!(found.found.iter().all(|frame| written.contains(frame)));
        let tail = found.tail(FrameNumber::ZERO);
        // Nothing that a surviving frame proves as synced is cut silently.
        let kept = |n: u64| n < tail.end.get();
        let proven = found.found.iter().map(|frame| frame.synced_below.get()).max().unwrap_or(0);
        prop_assert!((0..proven).all(kept));
        let gaps = found.closed(FrameNumber::ZERO, FrameNumber::new(frames.len() as u64));
        let missing: u64 = gaps.iter().map(|gap| gap.next.unwrap().get() - gap.first.get()).sum();
        prop_assert_eq!(missing as usize + found.found.len(), frames.len());
    }
}
