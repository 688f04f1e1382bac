//! The journal over real files, with a device that fails on demand. Here is what all tests of it share: frames, files,
//! journals, and the device.

use std::fs;
use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use bytes::Bytes;
use parking_lot::Mutex;
use tempfile::TempDir;

use super::files::{Device, Disk, list, path_of};
use super::frame::{self, Encoded, FILE_HEADER_LEN, FileHeader, Seal};
use super::scan::scan;
use super::*;
use crate::format::dedupe::DedupeEntry;
use crate::model::{
    Durability, Nonce, Offset, PartitionId, ShardId, Timestamp, TopicId, TopicPartition, WalSeq,
};

mod damage;
mod encoding;
mod failures;
mod releasing;
mod writing;

const CLUSTER: ClusterId = ClusterId::new(0xc1);

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
