//! Durable files in a folder: blocking, and used by [`super::local`] only.
//!
//! When a call here returns, what it reports survives a power cut: the file's bytes, the entry in its folder, and the
//! entries of all folders above it. That is more than `object_store`'s own `with_fsync(true)` gives:
//!
//! - a folder that somebody else has just made may not be durable yet, although one's own file in it is synced. Here
//!   folders are made and synced under an exclusive lock that every publisher shares, so a folder that is seen is
//!   durable;
//! - *already there* may be said of a name that is linked but not yet synced, by an attempt that was given up. Here
//!   the folder is synced before it is said;
//! - a process may die between the link and the sync, and the next one finds the name. Here opening syncs all folders.
//!
//! Deletes are not synced: a deleted object may come back after a power cut, which the protocol allows for.
//!
//! The folder `.forebay` holds the lock and the *staged* files: written and synced, not published yet. Those a dead
//! process left are removed at opening.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use object_store::PutPayload;
use parking_lot::RwLock;

use super::OpenError;
use super::lock::FolderLock;
use super::register::content_tag;

/// Name of the folder, inside the store's, that is not part of the store.
pub(super) const PRIVATE_FOLDER: &str = ".forebay";

/// A locked folder that keeps what it acknowledges.
#[derive(Debug)]
pub(super) struct Folder {
    root: PathBuf,
    staging: PathBuf,
    next_staged: AtomicU64,
    /// Shared while a name is published, exclusive while folders are made.
    making_folders: RwLock<()>,
    /// Set when a folder could not be synced. The system reports that once and may forget the loss, so no later
    /// success can be believed.
    sync_failed: AtomicBool,
    _lock: FolderLock,
}

impl Folder {
    /// Makes the folder if it is missing, locks it, removes staged files and syncs all folders in it.
    pub(super) fn open(path: &Path) -> Result<Self, OpenError> {
        let failed = |action| {
            let path = path.to_owned();
            move |source| OpenError::Io { action, path, source }
        };
        let absolute = std::path::absolute(path).map_err(failed("find the store folder"))?;
        make_folders(&absolute, sync_folder).map_err(failed("make the store folder"))?;
        let root = fs::canonicalize(&absolute).map_err(failed("find the store folder"))?;
        let private = root.join(PRIVATE_FOLDER);
        make_folders(&private, sync_folder).map_err(failed("make a folder in the store folder"))?;
        let lock = FolderLock::acquire(path, &private.join("lock"))?;

        let staging = private.join("staged");
        match fs::remove_dir_all(&staging) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(failed("remove staged files")(error));
            }
            _ => fs::create_dir(&staging).map_err(failed("make a folder in the store folder"))?,
        }
        sync_tree(&root).map_err(failed("sync the store folder"))?;
        Ok(Self {
            root,
            staging,
            next_staged: AtomicU64::new(0),
            making_folders: RwLock::new(()),
            sync_failed: AtomicBool::new(false),
            _lock: lock,
        })
    }

    /// Returns the folder's absolute path, without symbolic links.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Writes a new file, or returns false if the name is taken.
    pub(super) fn create(&self, file: &Path, body: &PutPayload) -> io::Result<bool> {
        self.check()?;
        let folder = parent(file)?;
        if fs::exists(file)? {
            self.sync(folder)?;
            return Ok(false);
        }
        let staged = self.stage(body)?;
        if let Some(created) = self.link(&staged, file, folder)? {
            return Ok(created);
        }
        {
            let _nobody_publishes = self.making_folders.write();
            make_folders(folder, |folder| self.sync(folder))?;
        }
        self.link(&staged, file, folder)?.ok_or_else(|| io::Error::from(ErrorKind::NotFound))
    }

    /// Replaces a file whose content has this tag, or returns false if there is none. Calls must not overlap.
    pub(super) fn replace(&self, file: &Path, expected: &str, body: &PutPayload) -> io::Result<bool> {
        self.check()?;
        let current = match fs::read(file) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            current => current?,
        };
        if content_tag(&current) != expected {
            return Ok(false);
        }
        let staged = self.stage(body)?;
        fs::rename(&staged.path, file)?;
        self.sync(parent(file)?)?;
        Ok(true)
    }

    /// Publishes a staged file: true if it is there now, false if the name is taken, `None` if a folder is missing.
    fn link(&self, staged: &Staged, file: &Path, folder: &Path) -> io::Result<Option<bool>> {
        let _all_folders_are_durable = self.making_folders.read();
        let created = match fs::hard_link(&staged.path, file) {
            Ok(()) => true,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => false,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        self.sync(folder)?;
        Ok(Some(created))
    }

    fn stage(&self, body: &PutPayload) -> io::Result<Staged> {
        let number = self.next_staged.fetch_add(1, Ordering::Relaxed);
        let path = self.staging.join(number.to_string());
        let file = OpenOptions::new().write(true).create_new(true).open(&path)?;
        let staged = Staged { path };
        let mut writer = BufWriter::new(&file);
        body.iter().try_for_each(|chunk| writer.write_all(chunk))?;
        writer.flush()?;
        drop(writer);
        file.sync_data()?;
        Ok(staged)
    }

    fn sync(&self, folder: &Path) -> io::Result<()> {
        self.check()?;
        sync_folder(folder).inspect_err(|_| self.sync_failed.store(true, Ordering::SeqCst))
    }

    fn check(&self) -> io::Result<()> {
        if self.sync_failed.load(Ordering::SeqCst) {
            return Err(io::Error::other(
                "an earlier sync of the store folder failed, check the disk and open it again",
            ));
        }
        Ok(())
    }
}

/// A file that is written and synced; its staged name goes away with this value.
#[derive(Debug)]
struct Staged {
    path: PathBuf,
}

impl Drop for Staged {
    fn drop(&mut self) {
        // Renamed away, or removed at the next opening.
        let _ = fs::remove_file(&self.path);
    }
}

fn parent(file: &Path) -> io::Result<&Path> {
    file.parent().ok_or_else(|| io::Error::from(ErrorKind::InvalidInput))
}

/// Makes a folder and those above it, and syncs the entry of each that was missing.
fn make_folders(folder: &Path, sync: impl Fn(&Path) -> io::Result<()>) -> io::Result<()> {
    let missing: Vec<&Path> = folder.ancestors().take_while(|folder| !folder.exists()).collect();
    for folder in missing.iter().rev() {
        match fs::create_dir(folder) {
            // Another opener, before either has the lock.
            Err(error) if error.kind() == ErrorKind::AlreadyExists && folder.is_dir() => {}
            made => made?,
        }
        sync(parent(folder)?)?;
    }
    Ok(())
}

/// Syncs a folder, all folders in it, and its own entry.
fn sync_tree(root: &Path) -> io::Result<()> {
    let mut waiting = vec![root.to_owned()];
    while let Some(folder) = waiting.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                waiting.push(entry.path());
            }
        }
        sync_folder(&folder)?;
    }
    match root.parent().map(sync_folder) {
        // Whoever may not read the folder above has not made this one in it just now.
        Some(Err(error)) if error.kind() != ErrorKind::PermissionDenied => Err(error),
        _ => Ok(()),
    }
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}
