//! The journal's thread, and what it shares with appenders.
//!
//! Appenders push encoded frames; the thread takes all that wait as one *group*, writes it, syncs once if any frame of
//! it asks for that, and publishes how far everything is synced. The next group forms meanwhile. The first failed
//! write or sync kills the journal: what a second sync of the same file says would mean nothing, because the kernel
//! may have dropped the pages that it could not write.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};
use tokio::sync::{Semaphore, watch};

use crate::limits;
use crate::model::ClusterId;
use crate::mutation::{self, Mutation};

use super::entry::JournalEntry;
use super::files::Device;
use super::frame::{Encoded, FILE_HEADER_LEN, FileHeader, FrameNumber, Seal};
use super::replay::Part;
use super::{JournalError, Progress};

/// How far the active file is filled with zeros ahead of synced frames.
const FILL_BYTES: u64 = 1024 * 1024;
/// Groups from this size on are written without filling ahead: it would double what the disk has to write.
const FILL_GROUP_BYTES_MAX: u64 = 128 * 1024;
/// The active file is replaced when nothing in it is needed any more and it has reached this part of a full file.
const IDLE_ROTATE_DIVISOR: u64 = 8;

/// A frame that waits for the thread.
#[derive(Debug)]
struct Queued {
    encoded: Encoded,
    entry: JournalEntry,
    sync: bool,
}

/// How the thread is asked to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// After everything queued is written and synced.
    Drained,
    /// At once.
    Abandoned,
}

#[derive(Debug)]
struct State {
    queue: Vec<Queued>,
    next: FrameNumber,
    /// Of all files, and of the queue.
    bytes: u64,
    release: FrameNumber,
    stop: Option<Stop>,
    dead: bool,
}

/// What appenders and the thread share.
#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    wake: Condvar,
    bytes_max: u64,
    /// One permit per byte that may wait for the thread.
    pub(super) room: Semaphore,
    pub(super) progress: watch::Sender<Progress>,
}

/// What the thread takes at once.
struct Turn {
    group: Vec<Queued>,
    release: FrameNumber,
    stop: Option<Stop>,
}

impl Shared {
    pub(super) fn new(next: FrameNumber, bytes: u64, bytes_max: u64) -> Self {
        let state =
            State { queue: Vec::new(), next, bytes, release: FrameNumber::ZERO, stop: None, dead: false };
        Self {
            state: Mutex::new(state),
            wake: Condvar::new(),
            bytes_max,
            room: Semaphore::new(limits::JOURNAL_PENDING_BYTES_MAX),
            progress: watch::Sender::new(Progress { below: next, dead: false }),
        }
    }

    /// Returns the number that the next frame gets.
    pub(super) fn next_frame(&self) -> FrameNumber {
        self.state.lock().next
    }

    /// Gives a frame its number and queues it. The caller holds room for it.
    pub(super) fn push(&self, encoded: Encoded, sync: bool) -> Result<JournalEntry, JournalError> {
        let mut state = self.state.lock();
        if state.dead {
            return Err(JournalError::Dead);
        }
        let bytes = state.bytes.saturating_add(encoded.len() as u64);
        if bytes > self.bytes_max {
            return Err(JournalError::Exhausted { bytes, limit: self.bytes_max });
        }
        let number = state.next;
        state.bytes = bytes;
        state.next = number.plus(1);
        let entry = JournalEntry::queued(number);
        state.queue.push(Queued { encoded, entry: entry.clone(), sync });
        self.wake.notify_one();
        Ok(entry)
    }

    pub(super) fn release_below(&self, frame: FrameNumber) {
        let mut state = self.state.lock();
        state.release = state.release.max(frame);
        self.wake.notify_one();
    }

    pub(super) fn stop(&self, how: Stop) {
        self.state.lock().stop = Some(how);
        self.wake.notify_one();
    }

    pub(super) fn bytes(&self) -> u64 {
        self.state.lock().bytes
    }

    fn add_bytes(&self, bytes: u64) {
        let mut state = self.state.lock();
        state.bytes = state.bytes.saturating_add(bytes);
    }

    fn subtract_bytes(&self, bytes: u64) {
        let mut state = self.state.lock();
        state.bytes = state.bytes.saturating_sub(bytes);
    }

    /// Waits until there is something to do.
    fn take(&self, released: FrameNumber) -> Turn {
        let mut state = self.state.lock();
        while state.queue.is_empty() && state.release <= released && state.stop.is_none() {
            self.wake.wait(&mut state);
        }
        Turn { group: std::mem::take(&mut state.queue), release: state.release, stop: state.stop }
    }

    /// Returns what there is to do just now.
    #[cfg(feature = "test-util")]
    fn take_now(&self) -> Turn {
        let mut state = self.state.lock();
        Turn { group: std::mem::take(&mut state.queue), release: state.release, stop: state.stop }
    }

    /// Refuses everything from now on.
    fn die(&self) {
        let mut state = self.state.lock();
        state.dead = true;
        let queued: u64 = state.queue.drain(..).map(|queued| queued.encoded.len() as u64).sum();
        state.bytes = state.bytes.saturating_sub(queued);
        drop(state);
        self.room.close();
        self.progress.send_modify(|progress| progress.dead = true);
    }
}

/// The file being written.
#[derive(Debug)]
struct Active {
    file: u64,
    first: FrameNumber,
    /// End of what was written.
    end: u64,
    /// End of what was synced.
    synced_end: u64,
    /// End of the zeros filled ahead.
    filled_end: u64,
}

impl Active {
    fn new(file: u64, first: FrameNumber) -> Self {
        let end = FILE_HEADER_LEN as u64;
        Self { file, first, end, synced_end: end, filled_end: end }
    }

    fn is_empty(&self) -> bool {
        self.end == FILE_HEADER_LEN as u64
    }
}

/// The thread's own state.
#[derive(Debug)]
pub(super) struct Writer {
    shared: Arc<Shared>,
    device: Box<dyn Device>,
    cluster: ClusterId,
    seal: Seal,
    file_bytes: u64,
    /// Older files, oldest first.
    closed: VecDeque<Part>,
    active: Active,
    /// Every frame below is written.
    written_below: FrameNumber,
    /// Every frame below is written and synced.
    synced_below: FrameNumber,
    released: FrameNumber,
    /// What was released when a file could not be removed: it is tried again once more is.
    stuck_at: Option<FrameNumber>,
    dead: bool,
}

/// What a new [`Writer`] goes on from.
pub(super) struct Start {
    pub(super) cluster: ClusterId,
    pub(super) file_bytes: u64,
    pub(super) parts: Vec<Part>,
    pub(super) file: u64,
    pub(super) next: FrameNumber,
}

impl Writer {
    /// Creates the file that the next frames go to. That also cuts a torn tail: the header says where the file before
    /// ends.
    pub(super) fn start(shared: Arc<Shared>, mut device: Box<dyn Device>, start: Start) -> io::Result<Self> {
        let Start { cluster, file_bytes, parts, file, next } = start;
        device.create(file, &FileHeader { cluster, file, first: next }.encode())?;
        shared.add_bytes(FILE_HEADER_LEN as u64);
        Ok(Self {
            shared,
            device,
            cluster,
            seal: Seal::new(cluster),
            file_bytes,
            closed: parts.into(),
            active: Active::new(file, next),
            written_below: next,
            synced_below: next,
            released: FrameNumber::ZERO,
            stuck_at: None,
            dead: false,
        })
    }

    /// Serves appenders until it is stopped. After the journal's death it only removes released files.
    pub(super) fn run(mut self) {
        // Left by earlier starts. A damaged file stays until it is released: its damage must be reported till then.
        let empty = self.closed.iter().take_while(|part| part.is_empty());
        self.remove_below(empty.last().map_or(FrameNumber::ZERO, |part| part.end));
        loop {
            let turn = self.shared.take(self.released);
            if !self.turn(turn) {
                return;
            }
        }
    }

    /// Does what waits just now.
    #[cfg(feature = "test-util")]
    pub(super) fn turn_now(&mut self) -> bool {
        let turn = self.shared.take_now();
        self.turn(turn)
    }

    /// Serves one turn; tells whether more may follow.
    fn turn(&mut self, turn: Turn) -> bool {
        if turn.stop == Some(Stop::Abandoned) {
            return false;
        }
        self.released = turn.release;
        if !self.dead
            && let Err(error) = self.serve(turn.group, turn.stop.is_some())
        {
            tracing::error!(%error, file = self.active.file, "journal is dead");
            self.dead = true;
            self.shared.die();
            // Best effort: frames that failed to reach the disk may still be in the page cache, and a restarted
            // process would take them for durable.
            let _ = self.device.cut(self.active.synced_end);
        }
        if self.stuck_at.is_none_or(|stuck| stuck < self.released) {
            self.remove_below(self.released);
        }
        turn.stop.is_none()
    }

    fn serve(&mut self, group: Vec<Queued>, stopping: bool) -> io::Result<()> {
        self.write_group(group)?;
        let needed = self.released < self.written_below || self.active.is_empty();
        let worth_it = stopping || self.active.end >= self.file_bytes / IDLE_ROTATE_DIVISOR;
        if !needed && worth_it {
            return self.rotate();
        }
        if stopping { self.sync() } else { Ok(()) }
    }

    fn write_group(&mut self, mut group: Vec<Queued>) -> io::Result<()> {
        let bytes: usize = group.iter().map(|queued| queued.encoded.len()).sum();
        let mut rest = &mut group[..];
        while !rest.is_empty() {
            let fitting = self.fitting(rest);
            if fitting == 0 {
                self.rotate()?;
                continue;
            }
            let (now, later) = rest.split_at_mut(fitting);
            self.write_frames(now)?;
            rest = later;
        }
        let sync = group.iter().any(|queued| queued.sync);
        drop(group);
        self.shared.room.add_permits(bytes);
        if sync {
            self.fill_ahead(bytes as u64)?;
            self.sync()?;
        }
        Ok(())
    }

    /// Returns how many of the frames the active file still takes: at least one if it is empty.
    fn fitting(&self, frames: &[Queued]) -> usize {
        let mut end = self.active.end;
        let fitting = frames.iter().take_while(|queued| {
            end = end.saturating_add(queued.encoded.len() as u64);
            end <= self.file_bytes
        });
        fitting.count().max(usize::from(self.active.is_empty()))
    }

    fn write_frames(&mut self, frames: &mut [Queued]) -> io::Result<()> {
        for queued in frames.iter_mut() {
            queued.encoded.seal(&self.seal, queued.entry.number, self.synced_below);
        }
        let mut position = self.active.end;
        let mut slices: Vec<IoSlice<'_>> = frames.iter().flat_map(|queued| queued.encoded.slices()).collect();
        let mut left = &mut slices[..];
        while !left.is_empty() {
            let written = match self.device.write(left) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => written,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            self.active.end += written as u64;
            IoSlice::advance_slices(&mut left, written);
        }
        for queued in frames.iter() {
            queued.entry.written(self.active.file, position, queued.encoded.len());
            position += queued.encoded.len() as u64;
        }
        if let Some(last) = frames.last() {
            self.written_below = last.entry.number.plus(1);
        }
        Ok(())
    }

    /// Keeps zeros ahead of small groups. A sync that changes the file's length also commits the file system's own
    /// journal; on ext4 the difference is a quarter to two fifths of the sync's time.
    fn fill_ahead(&mut self, group_bytes: u64) -> io::Result<()> {
        let Active { end, filled_end, .. } = self.active;
        let target = self.file_bytes.min(end.saturating_add(FILL_BYTES));
        if end > filled_end && group_bytes < FILL_GROUP_BYTES_MAX && target > end {
            self.device.fill(end, target - end)?;
            self.active.filled_end = target;
        }
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        if self.active.synced_end < self.active.end {
            if !mutation::is(Mutation::AckBeforeSync) {
                self.device.sync()?;
            }
            self.active.synced_end = self.active.end;
        }
        if self.synced_below < self.written_below {
            self.synced_below = self.written_below;
            self.shared.progress.send_modify(|progress| progress.below = self.synced_below);
        }
        Ok(())
    }

    /// Begins the next file. Everything in the files before it is synced by then: replay relies on that.
    fn rotate(&mut self) -> io::Result<()> {
        self.sync()?;
        let (file, first) = (self.active.file + 1, self.written_below);
        self.device.create(file, &FileHeader { cluster: self.cluster, file, first }.encode())?;
        self.shared.add_bytes(FILE_HEADER_LEN as u64);
        let full = std::mem::replace(&mut self.active, Active::new(file, first));
        self.closed.push_back(Part::written(full.file, full.first, first, full.end));
        Ok(())
    }

    /// Removes the oldest files as far as all their frames lie below a number.
    fn remove_below(&mut self, frame: FrameNumber) {
        self.stuck_at = None;
        while let Some(oldest) = self.closed.front().filter(|oldest| oldest.end <= frame) {
            if let Err(error) = self.device.remove(oldest.file) {
                tracing::warn!(%error, file = oldest.file, "released journal file cannot be removed");
                self.stuck_at = Some(frame);
                return;
            }
            self.shared.subtract_bytes(oldest.bytes);
            self.closed.pop_front();
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Without this nobody would tell the appenders.
        if std::thread::panicking() {
            self.shared.die();
        }
    }
}
