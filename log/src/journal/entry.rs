//! Where a frame lies, so that it can be read back while the journal is open.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use crate::error::FormatError;

use super::JournalError;
use super::files::Folder;
use super::frame::{self, Frame, FrameNumber, Seal};
use super::replay::io_error;

/// Where a written frame lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    file: u64,
    position: u64,
    len: usize,
}

/// A frame that the journal has taken. Clones stand for the same.
#[derive(Debug, Clone)]
pub struct JournalEntry {
    /// Its number.
    pub number: FrameNumber,
    /// Set once it is written.
    place: Arc<OnceLock<Place>>,
}

impl JournalEntry {
    /// A frame that waits to be written.
    pub(crate) fn queued(number: FrameNumber) -> Self {
        Self { number, place: Arc::default() }
    }

    /// A frame that lies there.
    pub(super) fn found(number: FrameNumber, file: u64, position: usize, len: usize) -> Self {
        let entry = Self::queued(number);
        entry.written(file, position as u64, len);
        entry
    }

    /// Notes where it was written.
    pub(super) fn written(&self, file: u64, position: u64, len: usize) {
        // A frame is written once.
        let _ = self.place.set(Place { file, position, len });
    }

    /// Returns its bytes, framing included; 0 until it is written.
    pub(crate) fn size_bytes(&self) -> usize {
        self.place.get().map_or(0, |place| place.len)
    }

    /// Reads it back.
    pub(super) fn read(&self, folder: &dyn Folder, seal: &Seal) -> Result<Frame, JournalError> {
        let missing = JournalError::Format(FormatError::Truncated { what: "journal frame" });
        let Some(Place { file, position, len }) = self.place.get().copied() else { return Err(missing) };
        let bytes =
            folder.read_at(file, position, len).map_err(|error| io_error(folder, Some(file), error))?;
        let bytes = Bytes::from(bytes);
        let is_it = frame::claim(&bytes).is_some_and(|found| found.number == self.number && found.len == len);
        if !is_it || !seal.holds(&bytes) {
            return Err(JournalError::Format(FormatError::Checksum { what: "journal frame" }));
        }
        frame::decode(&bytes)?.ok_or(missing)
    }
}
