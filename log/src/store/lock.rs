//! The lock on a store's folder: one opener at a time, among all processes of the machine.
//!
//! An advisory lock on a file (`flock`), which the system releases with the process, however it ends. The file
//! stays behind and means nothing by itself.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::Path;

use super::OpenError;

/// Longest text of a process id that is read back.
const PID_TEXT_MAX: u64 = 16;

/// Holds a folder's lock until it is dropped.
#[derive(Debug)]
pub struct FolderLock {
    _file: File,
}

impl FolderLock {
    /// Takes the lock of `folder`, kept in `file`, without waiting for it.
    ///
    /// # Errors
    /// [`OpenError::Locked`] names the holder; [`OpenError::Io`].
    pub fn acquire(folder: &Path, file: &Path) -> Result<Self, OpenError> {
        let failed =
            |source| OpenError::Io { action: "lock the store folder", path: file.to_owned(), source };
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(file)
            .map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(OpenError::Locked { path: folder.to_owned(), holder: read_holder(&mut lock) });
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        write_holder(&mut lock).map_err(failed)?;
        Ok(Self { _file: lock })
    }
}

/// Reads who holds the lock. It may just be being written, so anything odd is no answer.
fn read_holder(lock: &mut File) -> Option<u32> {
    let mut text = String::new();
    lock.take(PID_TEXT_MAX).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

fn write_holder(lock: &mut File) -> io::Result<()> {
    lock.set_len(0)?;
    lock.rewind()?;
    writeln!(lock, "{}", std::process::id())
}
