//! Reads a journal back: at open every file is checked, then the frames are streamed, one file in memory at a time.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use bytes::Bytes;

use crate::error::FormatError;
use crate::model::ClusterId;

use super::JournalError;
use super::entry::JournalEntry;
use super::files::Folder;
use super::frame::{self, FILE_HEADER_LEN, FRAME_LEN_MIN, FileHeader, Frame, FrameNumber, Seal};
use super::scan::{Found, Gap, Tail, scan};

/// Frames that were synced, perhaps acknowledged, and cannot be read any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Damage {
    /// Number of the file in which they should be.
    pub file: u64,
    /// Where the good bytes before them end, in bytes from the beginning of the file.
    pub position: u64,
    /// The first one. Equal to `next` when only the file's header is damaged.
    pub first: FrameNumber,
    /// The next good frame.
    pub next: Option<FrameNumber>,
}

/// A frame read back.
#[derive(Debug, Clone)]
pub struct Replayed {
    /// Its number and its place, to read it again.
    pub entry: JournalEntry,
    /// What was appended. Batch bodies share one allocation per frame.
    pub frame: Frame,
}

/// One file of a journal and the frames it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) file: u64,
    pub(super) first: FrameNumber,
    pub(super) end: FrameNumber,
    pub(super) bytes: u64,
    /// Whether its header can be read.
    headed: bool,
}

impl Part {
    /// A file that this process wrote.
    pub(super) fn written(file: u64, first: FrameNumber, end: FrameNumber, bytes: u64) -> Self {
        Self { file, first, end, bytes, headed: true }
    }

    /// Tells whether it was created and never appended to.
    pub(super) fn is_empty(&self) -> bool {
        self.headed && self.first == self.end
    }
}

/// The frames of a journal as it was opened, oldest first.
///
/// Do not release a frame before it was returned. Damage is reported again at every start until its file is released,
/// so act on it first.
#[derive(Debug)]
pub struct Replay {
    /// Bytes of the tail that a crash left unfinished: never reported as synced, and cut off.
    pub torn_bytes: u64,
    /// Synced frames that are lost, in order.
    pub damage: Vec<Damage>,
    folder: Arc<dyn Folder>,
    seal: Seal,
    parts: VecDeque<Part>,
    /// The file that is being read, and its number.
    bytes: Bytes,
    file: u64,
    found: VecDeque<Found>,
}

impl Replay {
    /// Returns the next frame. Blocks on the disk at each new file: call it where blocking is allowed.
    ///
    /// # Errors
    ///
    /// [`JournalError::Io`] and [`JournalError::Format`]; after an error the rest cannot be read.
    #[expect(clippy::should_implement_trait, reason = "a fallible step, not an iterator")]
    pub fn next(&mut self) -> Result<Option<Replayed>, JournalError> {
        loop {
            if let Some(found) = self.found.pop_front() {
                match self.decode(found)? {
                    Some(replayed) => return Ok(Some(replayed)),
                    None => continue,
                }
            }
            let Some(part) = self.parts.pop_front() else {
                self.bytes = Bytes::new();
                return Ok(None);
            };
            self.bytes = Bytes::new();
            let bytes = read(&*self.folder, part.file)?;
            let found = scan(&bytes, &self.seal, part.headed.then_some(part.first)).found;
            self.found =
                found.into_iter().filter(|f| part.first <= f.number && f.number < part.end).collect();
            (self.bytes, self.file) = (bytes.into(), part.file);
        }
    }

    fn decode(&self, found: Found) -> Result<Option<Replayed>, JournalError> {
        // Copied, so that a batch kept by the caller does not keep the whole file in memory.
        let bytes = Bytes::copy_from_slice(&self.bytes[found.position..found.position + found.len]);
        let frame = frame::decode(&bytes)?;
        let entry = JournalEntry::found(found.number, self.file, found.position, found.len);
        Ok(frame.map(|frame| Replayed { entry, frame }))
    }
}

/// What the files of a journal say, after all were read once.
#[derive(Debug)]
pub(super) struct Inspection {
    pub(super) parts: Vec<Part>,
    /// Number of the next frame.
    pub(super) next: FrameNumber,
    /// Number of the next file.
    pub(super) next_file: u64,
    /// A file whose creation did not get as far as its header.
    pub(super) unfinished: Option<u64>,
    torn_bytes: u64,
    damage: Vec<Damage>,
}

impl Inspection {
    /// Turns the findings into the stream of frames.
    pub(super) fn into_replay(self, folder: Arc<dyn Folder>, seal: Seal) -> Replay {
        Replay {
            torn_bytes: self.torn_bytes,
            damage: self.damage,
            folder,
            seal,
            // Files without frames may be gone by the time they would be read.
            parts: self.parts.into_iter().filter(|part| part.first < part.end).collect(),
            bytes: Bytes::new(),
            file: 0,
            found: VecDeque::new(),
        }
    }
}

/// A file before its frames were looked at.
struct Headed {
    file: u64,
    bytes: u64,
    first: Option<FrameNumber>,
    headed: bool,
}

/// Reads all files of a journal and syncs the last one: a crash of the process alone leaves frames that were written
/// and not synced, and from now on they count.
pub(super) fn inspect(folder: &dyn Folder, cluster: ClusterId) -> Result<Inspection, JournalError> {
    let seal = Seal::new(cluster);
    let mut files = Vec::new();
    for number in folder.list().map_err(|error| io_error(folder, None, error))? {
        files.push(read_head(folder, number, cluster)?);
    }
    let mut unfinished = None;
    // The header is synced before the first frame is written, so nothing was ever appended to such a file.
    if let Some(last) = files.pop_if(|last| !last.headed && last.bytes <= FILE_HEADER_LEN as u64) {
        unfinished = Some(last.file);
    }
    let next_file = unfinished.or_else(|| files.last().map(|last| last.file + 1)).unwrap_or(0);
    for file in files.iter_mut().filter(|file| !file.headed) {
        let bytes = read(folder, file.file)?;
        file.first = scan(&bytes, &seal, None).found.first().map(|found| found.number);
    }
    let mut inspection = Inspection {
        parts: Vec::with_capacity(files.len()),
        next: FrameNumber::ZERO,
        next_file,
        unfinished,
        torn_bytes: 0,
        damage: Vec::new(),
    };
    for (index, file) in files.iter().enumerate() {
        let end = files[index + 1..].iter().find_map(|later| later.first);
        inspection.add(folder, &seal, file, end)?;
    }
    if let Some(last) = files.last() {
        folder.sync(last.file).map_err(|error| io_error(folder, Some(last.file), error))?;
    }
    Ok(inspection)
}

impl Inspection {
    /// Checks one file. `end`: first frame of the next file, `None` for the last.
    fn add(
        &mut self,
        folder: &dyn Folder,
        seal: &Seal,
        file: &Headed,
        end: Option<FrameNumber>,
    ) -> Result<(), JournalError> {
        if !file.headed {
            let (first, next) = (self.next, file.first.or(end));
            self.damage.push(Damage { file: file.file, position: 0, first, next });
        }
        let Some(first) = file.first else {
            // Nothing in it can be read. Its frames' numbers are not given out again.
            let lost = file.bytes / FRAME_LEN_MIN as u64;
            let end = end.unwrap_or(self.next.plus(lost));
            self.parts.push(Part { file: file.file, first: end, end, bytes: file.bytes, headed: false });
            self.next = end;
            return Ok(());
        };
        let bytes = read(folder, file.file)?;
        let scan = scan(&bytes, seal, file.headed.then_some(first));
        let tail = match end {
            Some(end) => Tail { end, torn_bytes: 0, gaps: scan.closed(first, end) },
            None => scan.tail(first),
        };
        self.damage.extend(tail.gaps.iter().map(|gap| damage(file.file, gap)));
        self.torn_bytes += tail.torn_bytes as u64;
        let part = Part { file: file.file, first, end: tail.end, bytes: file.bytes, headed: file.headed };
        self.parts.push(part);
        self.next = tail.end;
        Ok(())
    }
}

fn damage(file: u64, gap: &Gap) -> Damage {
    Damage { file, position: gap.position as u64, first: gap.first, next: gap.next }
}

fn read_head(folder: &dyn Folder, number: u64, cluster: ClusterId) -> Result<Headed, JournalError> {
    let head = folder.head(number, FILE_HEADER_LEN);
    let (bytes, head) = head.map_err(|error| io_error(folder, Some(number), error))?;
    match FileHeader::decode(&head) {
        Ok(header) if header.cluster != cluster => {
            Err(JournalError::ForeignCluster { expected: cluster, found: header.cluster })
        }
        Ok(header) if header.file == number => {
            Ok(Headed { file: number, bytes, first: Some(header.first), headed: true })
        }
        Err(error @ FormatError::Version { .. }) => Err(error.into()),
        _ => Ok(Headed { file: number, bytes, first: None, headed: false }),
    }
}

fn read(folder: &dyn Folder, number: u64) -> Result<Vec<u8>, JournalError> {
    folder.read(number).map_err(|error| io_error(folder, Some(number), error))
}

pub(super) fn io_error(folder: &dyn Folder, number: Option<u64>, source: io::Error) -> JournalError {
    JournalError::Io { path: folder.path(number), source }
}
