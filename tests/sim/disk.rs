//! A simulated disk under a journal: what was written and not synced may be lost in any part when the power fails.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::path::PathBuf;
use std::sync::Arc;

use forebay_log::journal::{Device, Folder};
use forebay_log::testing::mutation::{self, Mutation};
use parking_lot::{Mutex, MutexGuard};

use crate::rng::Rng;

/// A kind of fault of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DiskFault {
    UnsyncedLost,
    TornWrite,
    BitFlip,
    NoSpace,
    FailedSync,
    ShortWrite,
    HalfCreated,
    CrashInside,
}

pub(crate) const DISK_FAULTS: [DiskFault; 8] = [
    DiskFault::UnsyncedLost,
    DiskFault::TornWrite,
    DiskFault::BitFlip,
    DiskFault::NoSpace,
    DiskFault::FailedSync,
    DiskFault::ShortWrite,
    DiskFault::HalfCreated,
    DiskFault::CrashInside,
];

/// One file: what programs see of it, and what survives a loss of power.
#[derive(Debug, Clone, Default)]
struct File {
    seen: Vec<u8>,
    durable: Vec<u8>,
    /// Ranges written since the last sync.
    unsynced: Vec<(usize, usize)>,
    name_synced: bool,
}

impl File {
    fn write(&mut self, at: usize, bytes: &[u8]) {
        let end = at + bytes.len();
        if self.seen.len() < end {
            self.seen.resize(end, 0);
        }
        self.seen[at..end].copy_from_slice(bytes);
        self.unsynced.push((at, end));
    }

    fn sync(&mut self) {
        self.durable.clone_from(&self.seen);
        self.unsynced.clear();
    }

    fn keep(&mut self, from: usize, end: usize) {
        let end = end.min(self.seen.len());
        if from >= end {
            return;
        }
        if self.durable.len() < end {
            self.durable.resize(end, 0);
        }
        self.durable[from..end].copy_from_slice(&self.seen[from..end]);
    }
}

/// How often what goes wrong.
#[derive(Debug, Clone, Default)]
pub(crate) struct DiskConfig {
    pub(crate) no_space: f64,
    pub(crate) failed_sync: f64,
    pub(crate) short_write: f64,
    pub(crate) crash_inside: f64,
}

/// The folder of one journal.
#[derive(Debug)]
pub(crate) struct Disk {
    files: BTreeMap<u64, File>,
    active: u64,
    end: usize,
    rng: Rng,
    pub(crate) config: DiskConfig,
    /// The process died inside a call: nothing more reaches the disk.
    pub(crate) crashed: bool,
    faults: [u64; DISK_FAULTS.len()],
}

impl Disk {
    pub(crate) fn new(rng: Rng, config: DiskConfig) -> Self {
        Self {
            files: BTreeMap::new(),
            active: 0,
            end: 0,
            rng,
            config,
            crashed: false,
            faults: Default::default(),
        }
    }

    pub(crate) fn faults(&self) -> [u64; DISK_FAULTS.len()] {
        self.faults
    }

    fn fault(&mut self, fault: DiskFault) {
        self.faults[fault as usize] += 1;
    }

    /// Decides, before a call does anything, whether the process dies in it or the call fails. Most of the time it
    /// dies in waits for a sync, with something written.
    fn enter(&mut self, fails: f64, with: DiskFault) -> io::Result<()> {
        if self.crashed {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let syncing = with == DiskFault::FailedSync;
        if self.rng.chance(self.config.crash_inside * if syncing { 3.0 } else { 1.0 }) {
            self.crashed = true;
            self.fault(DiskFault::CrashInside);
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if self.rng.chance(fails) {
            self.fault(with);
            let no_space = with == DiskFault::NoSpace;
            return Err(if no_space { io::ErrorKind::StorageFull } else { io::ErrorKind::Other }.into());
        }
        Ok(())
    }

    /// The power fails: what was not synced survives in any part.
    pub(crate) fn fail_power(&mut self) {
        self.crashed = false;
        for (number, mut file) in std::mem::take(&mut self.files) {
            if !file.name_synced && self.rng.chance(0.5) {
                continue;
            }
            self.lose_power(&mut file);
            file.seen.clone_from(&file.durable);
            file.name_synced = true;
            self.files.insert(number, file);
        }
    }

    /// The process alone is killed: everything it wrote is there, synced or not.
    pub(crate) fn kill(&mut self) {
        self.crashed = false;
    }

    fn lose_power(&mut self, file: &mut File) {
        for (from, end) in std::mem::take(&mut file.unsynced) {
            match self.rng.below(3) {
                0 => self.fault(DiskFault::UnsyncedLost),
                1 => file.keep(from, end),
                _ => {
                    self.fault(DiskFault::TornWrite);
                    let mut at = from;
                    while at < end {
                        let next = end.min(at + self.rng.log_between(1, 2_048) as usize);
                        if self.rng.chance(0.5) {
                            file.keep(at, next);
                        }
                        at = next;
                    }
                }
            }
        }
        // The length may have got ahead of the content, or not.
        if self.rng.chance(0.5) && file.durable.len() < file.seen.len() {
            file.durable.resize(file.seen.len(), 0);
        }
    }

    /// Returns the files as a restarted process finds them.
    pub(crate) fn contents(&self) -> Vec<(u64, Vec<u8>)> {
        self.files.iter().map(|(number, file)| (*number, file.seen.clone())).collect()
    }

    /// Flips one bit of a file.
    pub(crate) fn flip(&mut self, number: u64, at: usize) {
        let bit = 1 << self.rng.below(8);
        if let Some(file) = self.files.get_mut(&number) {
            file.seen[at] ^= bit;
            file.durable[at] ^= bit;
            self.fault(DiskFault::BitFlip);
        }
    }
}

/// A handle on the disk, for the journal's two seams.
#[derive(Debug, Clone)]
pub(crate) struct SharedDisk(Arc<Mutex<Disk>>);

impl SharedDisk {
    pub(crate) fn new(disk: Disk) -> Self {
        Self(Arc::new(Mutex::new(disk)))
    }

    pub(crate) fn get(&self) -> MutexGuard<'_, Disk> {
        self.0.lock()
    }
}

impl Device for SharedDisk {
    fn create(&mut self, number: u64, header: &[u8]) -> io::Result<()> {
        let mut disk = self.get();
        let fails = disk.config.no_space;
        if let Err(error) = disk.enter(fails, DiskFault::NoSpace) {
            // A part of the header may be there, under a name or not.
            let part = disk.rng.index(header.len() + 1);
            let durable = header[..part].to_vec();
            let name_synced = disk.rng.chance(0.5);
            let file = File { seen: durable.clone(), durable, unsynced: Vec::new(), name_synced };
            disk.files.insert(number, file);
            disk.fault(DiskFault::HalfCreated);
            return Err(error);
        }
        let name_synced = !mutation::is(Mutation::FolderNotSynced);
        let (seen, durable) = (header.to_vec(), header.to_vec());
        disk.files.insert(number, File { seen, durable, unsynced: Vec::new(), name_synced });
        (disk.active, disk.end) = (number, header.len());
        Ok(())
    }

    fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut disk = self.get();
        let (fails, short) = (disk.config.no_space, disk.config.short_write);
        disk.enter(fails, DiskFault::NoSpace)?;
        let mut bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
        if disk.rng.chance(short) && bytes.len() > 1 {
            let len = 1 + disk.rng.index(bytes.len() - 1);
            bytes.truncate(len);
            disk.fault(DiskFault::ShortWrite);
        }
        let (active, end) = (disk.active, disk.end);
        disk.end += bytes.len();
        disk.files.get_mut(&active).ok_or(io::ErrorKind::NotFound)?.write(end, &bytes);
        Ok(bytes.len())
    }

    fn fill(&mut self, position: u64, bytes: u64) -> io::Result<()> {
        let mut disk = self.get();
        disk.enter(0.0, DiskFault::NoSpace)?;
        let active = disk.active;
        let file = disk.files.get_mut(&active).ok_or(io::ErrorKind::NotFound)?;
        file.write(position as usize, &vec![0; bytes as usize]);
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut disk = self.get();
        let fails = disk.config.failed_sync;
        let entered = disk.enter(fails, DiskFault::FailedSync);
        let active = disk.active;
        let mut file = disk.files.remove(&active).ok_or(io::ErrorKind::NotFound)?;
        match &entered {
            Ok(()) => file.sync(),
            // The kernel forgets which pages it could not write.
            Err(_) => disk.lose_power(&mut file),
        }
        disk.files.insert(active, file);
        entered
    }

    fn cut(&mut self, length: u64) -> io::Result<()> {
        let mut disk = self.get();
        disk.enter(0.0, DiskFault::NoSpace)?;
        let active = disk.active;
        if let Some(file) = disk.files.get_mut(&active) {
            file.seen.truncate(length as usize);
            file.unsynced.clear();
        }
        Ok(())
    }

    fn remove(&mut self, number: u64) -> io::Result<()> {
        let mut disk = self.get();
        disk.enter(0.0, DiskFault::NoSpace)?;
        disk.files.remove(&number);
        Ok(())
    }
}

impl Folder for SharedDisk {
    fn list(&self) -> io::Result<Vec<u64>> {
        Ok(self.get().files.keys().copied().collect())
    }

    fn head(&self, number: u64, bytes_max: usize) -> io::Result<(u64, Vec<u8>)> {
        let bytes = self.read(number)?;
        Ok((bytes.len() as u64, bytes[..bytes.len().min(bytes_max)].to_vec()))
    }

    fn read(&self, number: u64) -> io::Result<Vec<u8>> {
        let disk = self.get();
        disk.files.get(&number).map(|file| file.seen.clone()).ok_or(io::ErrorKind::NotFound.into())
    }

    fn read_at(&self, number: u64, position: u64, len: usize) -> io::Result<Vec<u8>> {
        let disk = self.get();
        let file = disk.files.get(&number).ok_or(io::ErrorKind::NotFound)?;
        let part = file.seen.get(position as usize..position as usize + len);
        part.map(<[u8]>::to_vec).ok_or(io::ErrorKind::UnexpectedEof.into())
    }

    fn sync(&self, number: u64) -> io::Result<()> {
        let mut disk = self.get();
        let file = disk.files.get_mut(&number).ok_or(io::ErrorKind::NotFound)?;
        file.sync();
        Ok(())
    }

    fn path(&self, number: Option<u64>) -> PathBuf {
        PathBuf::from(format!("{number:?}"))
    }
}
