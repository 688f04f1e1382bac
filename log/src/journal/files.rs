//! The journal's folder: names, the lock, and the few file operations its thread needs.
//!
//! `{number:020}.journal`, numbered without gaps, oldest first; `lock` is held while the journal is open. A file is
//! only ever appended to by the process that created it: opening a journal begins a new file and never changes an
//! old one.

use std::fmt::Debug;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, IoSlice, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const SUFFIX: &str = ".journal";
const NUMBER_DIGITS: usize = 20;
const LOCK: &str = "lock";

/// What the journal's thread does to the disk: one active file, and the folder around it. A seam for tests.
///
/// After a failed call nothing is known about what reached the disk, and the caller never repeats it.
#[expect(
    clippy::missing_errors_doc,
    reason = "every error is the system's; what follows from it is said above"
)]
pub trait Device: Debug + Send {
    /// Creates the file of a number with the given first bytes, synced together with its name, and makes it the
    /// active one.
    fn create(&mut self, number: u64, header: &[u8]) -> io::Result<()>;

    /// Writes at the end of what was written to the active file. May write less than asked.
    fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize>;

    /// Fills a range behind the written end with zeros, so that later syncs need not change the file's length.
    fn fill(&mut self, position: u64, bytes: u64) -> io::Result<()>;

    /// Syncs the active file.
    fn sync(&mut self) -> io::Result<()>;

    /// Shortens the active file to its synced part, so that a reader does not find what failed to be synced.
    fn cut(&mut self, length: u64) -> io::Result<()>;

    /// Removes a file that is not the active one, and syncs the folder: files disappear oldest first.
    fn remove(&mut self, number: u64) -> io::Result<()>;
}

/// What is read of a journal's folder: all of it when it is opened, single frames later. A seam for tests, as [`Device`] is.
///
/// After a failed call the journal is not opened; a single frame may be read again.
#[expect(
    clippy::missing_errors_doc,
    reason = "every error is the system's; what follows from it is said above"
)]
pub trait Folder: Debug + Send + Sync {
    /// Returns the numbers of the journal files, lowest first.
    fn list(&self) -> io::Result<Vec<u64>>;

    /// Returns how long a file is, and its first bytes, at most so many.
    fn head(&self, number: u64, bytes_max: usize) -> io::Result<(u64, Vec<u8>)>;

    /// Reads a whole file.
    fn read(&self, number: u64) -> io::Result<Vec<u8>>;

    /// Reads a part of a file, which may be the active one. All of it was written.
    fn read_at(&self, number: u64, position: u64, len: usize) -> io::Result<Vec<u8>>;

    /// Syncs a file that another process may have left unsynced.
    fn sync(&self, number: u64) -> io::Result<()>;

    /// Returns how errors name a file; without a number the folder.
    fn path(&self, number: Option<u64>) -> PathBuf;
}

/// A folder of the real disk.
impl Folder for PathBuf {
    fn list(&self) -> io::Result<Vec<u64>> {
        list(self)
    }

    fn head(&self, number: u64, bytes_max: usize) -> io::Result<(u64, Vec<u8>)> {
        let file = File::open(path_of(self, number))?;
        let mut head = Vec::with_capacity(bytes_max);
        let bytes = file.metadata()?.len();
        file.take(bytes_max as u64).read_to_end(&mut head)?;
        Ok((bytes, head))
    }

    fn read(&self, number: u64) -> io::Result<Vec<u8>> {
        fs::read(path_of(self, number))
    }

    fn read_at(&self, number: u64, position: u64, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        File::open(path_of(self, number))?.read_exact_at(&mut bytes, position)?;
        Ok(bytes)
    }

    fn sync(&self, number: u64) -> io::Result<()> {
        File::open(path_of(self, number))?.sync_data()
    }

    fn path(&self, number: Option<u64>) -> PathBuf {
        number.map_or_else(|| self.clone(), |number| path_of(self, number))
    }
}

/// The real disk.
#[derive(Debug)]
pub(super) struct Disk {
    dir: PathBuf,
    folder: File,
    active: Option<File>,
    /// Held, not used: closing it lets the next process in.
    _lock: File,
}

impl Disk {
    /// Creates the folder where it is missing and locks it. `None`: another journal has it open.
    pub(super) fn open(dir: &Path) -> io::Result<Option<Self>> {
        fs::create_dir_all(dir)?;
        if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            File::open(parent)?.sync_all()?;
        }
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(dir.join(LOCK))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let folder = File::open(dir)?;
        Ok(Some(Self { dir: dir.to_owned(), folder, active: None, _lock: lock }))
    }

    fn active(&mut self) -> io::Result<&mut File> {
        self.active.as_mut().ok_or_else(|| io::Error::other("no active file"))
    }
}

impl Device for Disk {
    fn create(&mut self, number: u64, header: &[u8]) -> io::Result<()> {
        let path = path_of(&self.dir, number);
        let mut file = OpenOptions::new().create_new(true).write(true).open(path)?;
        file.write_all(header)?;
        file.sync_all()?;
        self.folder.sync_all()?;
        self.active = Some(file);
        Ok(())
    }

    fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.active()?.write_vectored(slices)
    }

    fn fill(&mut self, position: u64, bytes: u64) -> io::Result<()> {
        static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];
        let file = self.active()?;
        let end = position.saturating_add(bytes);
        let mut at = position;
        while at < end {
            let len = usize::try_from(end - at).map_or(ZEROS.len(), |left| left.min(ZEROS.len()));
            file.write_all_at(&ZEROS[..len], at)?;
            at += len as u64;
        }
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        self.active()?.sync_data()
    }

    fn cut(&mut self, length: u64) -> io::Result<()> {
        self.active()?.set_len(length)
    }

    fn remove(&mut self, number: u64) -> io::Result<()> {
        match fs::remove_file(path_of(&self.dir, number)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => self.folder.sync_all(),
        }
    }
}

/// Returns where the file of a number lies.
pub(super) fn path_of(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:020}{SUFFIX}"))
}

/// Returns the numbers of the journal files of a folder, lowest first. Other files are left alone.
pub(super) fn list(dir: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(dir)? {
        numbers.extend(entry?.file_name().to_str().and_then(number_of));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

fn number_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(SUFFIX)?;
    let plain = digits.len() == NUMBER_DIGITS && digits.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| digits.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_journal_files_are_listed_and_lowest_first() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["00000000000000000010.journal", "00000000000000000009.journal"] {
            fs::write(dir.path().join(name), b"").unwrap();
        }
        for name in ["lock", "9.journal", "0000000000000000000x.journal", "99999999999999999999.journal"] {
            fs::write(dir.path().join(name), b"").unwrap();
        }
        assert_eq!(list(dir.path()).unwrap(), [9, 10]);
    }

    #[test]
    fn a_folder_is_opened_once_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let first = Disk::open(dir.path()).unwrap();
        assert!(first.is_some());
        assert!(Disk::open(dir.path()).unwrap().is_none());
        drop(first);
        assert!(Disk::open(dir.path()).unwrap().is_some());
    }
}
