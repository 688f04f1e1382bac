//! A journal without a thread: its writer takes a turn when it is told to. For the simulator, which owns disk and time.

use std::sync::Arc;

use super::files::{Device, Folder};
use super::frame::Seal;
use super::writer::Writer;
use super::{Journal, JournalError, JournalOptions, Replay};

/// The writing side of a journal.
#[derive(Debug)]
pub struct BareWriter {
    writer: Writer,
}

impl BareWriter {
    /// Opens a journal on a device and its folder, as [`Journal::open`] does on the real disk.
    ///
    /// # Errors
    /// As [`Journal::open`].
    pub fn open(
        options: &JournalOptions,
        device: Box<dyn Device>,
        folder: Arc<dyn Folder>,
    ) -> Result<(Journal, Self, Replay), JournalError> {
        let seal = Seal::new(options.cluster);
        let (shared, writer, replay) = Journal::prepare(options, device, Arc::clone(&folder))?;
        Ok((Journal { shared, thread: None, folder, seal }, Self { writer }, replay))
    }

    /// Does what waits, as the journal's thread would in one turn. False after its end.
    pub fn turn(&mut self) -> bool {
        self.writer.turn_now()
    }
}
