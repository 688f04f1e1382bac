//! The journal: the node's local write-ahead buffer, one sequence of files for all shards of the node.
//!
//! A *frame* is one entry: batches accepted by a shard, or a mark that says what becomes of them. Frames are numbered
//! over the journal's whole life. A *group* is what is written at once and, if any of its frames asks for it, synced
//! at once. A frame is *released* when it is stored elsewhere; files go when all their frames are released.
//!
//! - [`frame`]: the bytes. [`scan`]: finds frames, tells torn from damaged. Both pure.
//! - `files`: the folder. `writer`: the thread that writes. `replay`: reading all of it at the start. `entry`: reading a
//!   frame back later.
//!
//! Invariants
//! - A frame is reported as synced only after a sync that began after its last byte was written, and after its file's
//!   header and name were synced.
//! - All frames of a file were synced before the next file was created, and the next file's header names the first
//!   frame it holds. So in all files but the last a missing number is damage, and never a torn tail.
//! - Opening changes no old file: it begins a new one. A torn tail is cut by that file's header.
//! - After the first failed write or sync nothing is written any more and nothing more is reported as synced.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::{fmt, io};

use tokio::sync::{TryAcquireError, watch};
use tokio::task::spawn_blocking;

use crate::error::{ErrorKind, FormatError};
use crate::limits;
use crate::model::ClusterId;

#[cfg(feature = "test-util")]
pub mod bare;
mod entry;
mod files;
pub mod frame;
mod replay;
pub mod scan;
#[cfg(test)]
mod tests;
mod writer;

pub use entry::JournalEntry;
pub use files::{Device, Folder};
pub use frame::{Frame, FrameNumber, JournalBatch};
pub use replay::{Damage, Replay, Replayed};

use files::Disk;
use frame::{Encoded, Seal};
use writer::{Shared, Start, Stop, Writer};

// A frame always finds room in the queue once the queue is empty.
const _: () = assert!(limits::JOURNAL_FRAME_BYTES_MAX <= limits::JOURNAL_PENDING_BYTES_MAX);

/// Where a journal lies and how large it may get.
#[derive(Debug, Clone)]
pub struct JournalOptions {
    /// Its folder, created where missing. Holds nothing else.
    pub dir: PathBuf,
    /// Whose journal it is; any other cluster's is refused.
    pub cluster: ClusterId,
    /// Bytes of one file before the next is begun. At most a quarter of `bytes_max` is used, so that releases make
    /// room before the journal is full.
    pub file_bytes: u64,
    /// Bytes of all files. Past it appends are refused.
    pub bytes_max: u64,
}

impl JournalOptions {
    /// Takes the sizes from [`limits`].
    pub fn new(dir: impl Into<PathBuf>, cluster: ClusterId) -> Self {
        let (file_bytes, bytes_max) = (limits::JOURNAL_FILE_BYTES, limits::JOURNAL_BYTES_MAX);
        Self { dir: dir.into(), cluster, file_bytes, bytes_max }
    }
}

/// Why a journal cannot be opened, or did not take a frame. A frame whose append failed was not queued.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// A write or a sync failed earlier. Nothing can be appended until the process starts anew.
    #[error("journal is dead after a failed write")]
    Dead,
    /// As much waits for the disk as may wait.
    #[error("journal queue is full: limit={limit}", limit = limits::JOURNAL_PENDING_BYTES_MAX)]
    Full,
    /// The files would grow past their bound; released frames make room.
    #[error("journal has reached its size limit: bytes={bytes} limit={limit}")]
    Exhausted {
        /// What the size would be.
        bytes: u64,
        /// [`JournalOptions::bytes_max`].
        limit: u64,
    },
    /// The folder holds the journal of another cluster.
    #[error("journal belongs to another cluster: found={found} expected={expected}")]
    ForeignCluster {
        /// This node's cluster.
        expected: ClusterId,
        /// The journal's cluster.
        found: ClusterId,
    },
    /// Another journal has the folder open.
    #[error("journal folder is in use: dir={dir}", dir = dir.display())]
    Locked {
        /// The folder.
        dir: PathBuf,
    },
    /// A file cannot be read, created or synced while the journal is opened or replayed.
    #[error("journal file operation failed: path={path}", path = path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// A frame too large to append, or bytes of another version.
    #[error(transparent)]
    Format(#[from] FormatError),
}

impl JournalError {
    /// Returns the class of the error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Dead | Self::Io { .. } => ErrorKind::Unavailable,
            Self::Full | Self::Exhausted { .. } => ErrorKind::Throttled,
            Self::ForeignCluster { .. } | Self::Locked { .. } => ErrorKind::Conflict,
            Self::Format(FormatError::TooLarge { .. }) => ErrorKind::Invalid,
            Self::Format(_) => ErrorKind::Corrupt,
        }
    }
}

/// How far the journal has got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Frames numbered below this are on disk, synced.
    pub below: FrameNumber,
    /// Nothing more will be written or synced.
    pub dead: bool,
}

/// The open journal. One per node, shared by its shards.
///
/// Dropped without [`Self::close`] it gives up what is queued, as a crash would, and waits for the write under way.
pub struct Journal {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    folder: Arc<dyn Folder>,
    seal: Seal,
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal").field("progress", &*self.shared.progress.borrow()).finish_non_exhaustive()
    }
}

impl Journal {
    /// Opens or creates a journal, checks all its files, and returns what it holds.
    ///
    /// # Errors
    ///
    /// [`JournalError::ForeignCluster`] and [`JournalError::Locked`] refuse the folder;
    /// [`JournalError::Format`]: written by another version; [`JournalError::Io`].
    ///
    /// # Cost
    ///
    /// Reads every file once, one in memory at a time, on a blocking thread.
    pub async fn open(options: JournalOptions) -> Result<(Self, Replay), JournalError> {
        let opened = spawn_blocking(move || {
            let disk = Disk::open(&options.dir)
                .map_err(|source| JournalError::Io { path: options.dir.clone(), source })?
                .ok_or_else(|| JournalError::Locked { dir: options.dir.clone() })?;
            Self::open_on(options, Box::new(disk))
        });
        opened.await.unwrap_or(Err(JournalError::Dead))
    }

    fn open_on(options: JournalOptions, device: Box<dyn Device>) -> Result<(Self, Replay), JournalError> {
        let folder: Arc<dyn Folder> = Arc::new(options.dir.clone());
        let seal = Seal::new(options.cluster);
        let io_error = |source| JournalError::Io { path: options.dir.clone(), source };
        let (shared, writer, replay) = Self::prepare(&options, device, Arc::clone(&folder))?;
        let thread = thread::Builder::new().name("journal".into()).spawn(move || writer.run());
        Ok((Self { shared, thread: Some(thread.map_err(io_error)?), folder, seal }, replay))
    }

    /// Checks all files and begins a new one; what is left is to serve appenders.
    fn prepare(
        options: &JournalOptions,
        mut device: Box<dyn Device>,
        folder: Arc<dyn Folder>,
    ) -> Result<(Arc<Shared>, Writer, Replay), JournalError> {
        let JournalOptions { cluster, file_bytes, bytes_max, .. } = *options;
        let io_error = |source| JournalError::Io { path: options.dir.clone(), source };
        let inspection = replay::inspect(&*folder, cluster)?;
        if let Some(unfinished) = inspection.unfinished {
            device.remove(unfinished).map_err(io_error)?;
        }
        let bytes = inspection.parts.iter().map(|part| part.bytes).sum();
        let shared = Arc::new(Shared::new(inspection.next, bytes, bytes_max));
        let start = Start {
            cluster,
            file_bytes: file_bytes.min(bytes_max / 4),
            parts: inspection.parts.clone(),
            file: inspection.next_file,
            next: inspection.next,
        };
        let writer = Writer::start(Arc::clone(&shared), device, start).map_err(io_error)?;
        Ok((shared, writer, inspection.into_replay(folder, Seal::new(cluster))))
    }

    /// Queues a frame and numbers it; [`Self::synced`] tells when it is on disk. With `sync` it gets there
    /// without waiting for another frame. Waits while [`limits::JOURNAL_PENDING_BYTES_MAX`] are queued.
    ///
    /// # Errors
    ///
    /// [`JournalError::Dead`], [`JournalError::Exhausted`], or [`JournalError::Format`] for a frame past
    /// [`limits::JOURNAL_FRAME_BYTES_MAX`]. Nothing was queued.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it is ready, it has queued nothing.
    pub async fn append(&self, frame: Frame, sync: bool) -> Result<JournalEntry, JournalError> {
        let encoded = Encoded::new(frame)?;
        let room = self.shared.room.acquire_many(permits(&encoded)).await;
        let room = room.map_err(|_| JournalError::Dead)?;
        let entry = self.shared.push(encoded, sync)?;
        room.forget();
        Ok(entry)
    }

    /// As [`Self::append`], without waiting.
    ///
    /// # Errors
    ///
    /// As [`Self::append`], and [`JournalError::Full`] where that would wait.
    pub fn try_append(&self, frame: Frame, sync: bool) -> Result<JournalEntry, JournalError> {
        let encoded = Encoded::new(frame)?;
        let room = self.shared.room.try_acquire_many(permits(&encoded)).map_err(|error| match error {
            TryAcquireError::Closed => JournalError::Dead,
            TryAcquireError::NoPermits => JournalError::Full,
        })?;
        let entry = self.shared.push(encoded, sync)?;
        room.forget();
        Ok(entry)
    }

    /// Reads back a frame that is synced and not released; also after the journal's death. Blocks on the disk: call it
    /// where blocking is allowed.
    ///
    /// # Errors
    ///
    /// [`JournalError::Io`], after which it may be tried again; [`JournalError::Format`]: it is damaged, or was never
    /// written.
    pub fn read(&self, entry: &JournalEntry) -> Result<Frame, JournalError> {
        entry.read(&*self.folder, &self.seal)
    }

    /// Returns how far the journal has got, and each change of that.
    pub fn synced(&self) -> watch::Receiver<Progress> {
        self.shared.progress.subscribe()
    }

    /// Declares every frame numbered below this as stored elsewhere. Files that hold nothing else are removed soon,
    /// on the journal's thread; the active file is replaced first when it has some size. Lower numbers than before
    /// change nothing.
    pub fn release_below(&self, frame: FrameNumber) {
        self.shared.release_below(frame);
    }

    /// Returns the number that the next frame gets.
    pub fn next_frame(&self) -> FrameNumber {
        self.shared.next_frame()
    }

    /// Returns the bytes of all files and of the frames that wait to be written.
    pub fn bytes(&self) -> u64 {
        self.shared.bytes()
    }

    /// Writes and syncs what is queued and ends the journal's thread. If everything was released, no frame is left
    /// behind.
    ///
    /// # Errors
    ///
    /// [`JournalError::Dead`]: frames above [`Progress::below`] may be lost.
    pub async fn close(mut self) -> Result<(), JournalError> {
        self.shared.stop(Stop::Drained);
        if let Some(thread) = self.thread.take() {
            let joined = spawn_blocking(move || thread.join()).await;
            joined.map_err(|_| JournalError::Dead)?.map_err(|_| JournalError::Dead)?;
        }
        if self.shared.progress.borrow().dead { Err(JournalError::Dead) } else { Ok(()) }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.shared.stop(Stop::Abandoned);
            // A panic of the thread has been reported by the panic hook.
            let _ = thread.join();
        }
    }
}

fn permits(encoded: &Encoded) -> u32 {
    u32::try_from(encoded.len()).expect("a frame is at most JOURNAL_FRAME_BYTES_MAX long")
}
