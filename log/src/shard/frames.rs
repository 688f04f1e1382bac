//! Which journal frames are still needed, over all shards of a node.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::journal::{Frame, FrameNumber, Journal, JournalError};

/// The node's journal, shared by its shards. Frames are dropped once every frame before them is stored too.
#[derive(Debug, Clone)]
pub struct SharedJournal {
    journal: Arc<Journal>,
    needed: Arc<Mutex<BTreeMap<FrameNumber, u32>>>,
}

impl SharedJournal {
    /// Shares a journal.
    pub fn new(journal: Journal) -> Self {
        Self { journal: Arc::new(journal), needed: Arc::default() }
    }

    /// Returns the journal itself.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Appends a frame that is needed until [`Self::stored`] names it. With `sync` it gets to the disk at once.
    ///
    /// # Errors
    /// As [`Journal::append`]: nothing was queued.
    pub async fn append(&self, frame: Frame, sync: bool) -> Result<FrameNumber, JournalError> {
        let reserved = self.journal.next_frame();
        self.need(reserved);
        let appended = self.journal.append(frame, sync).await;
        if let Ok(number) = appended {
            self.need(number);
        }
        self.stored(&[reserved]);
        appended
    }

    /// Appends a mark, which nothing needs.
    pub fn mark(&self, frame: Frame) {
        // A mark saves work at a replay and proves nothing: without room for it the replay does that work.
        let _ = self.journal.try_append(frame, false);
    }

    /// Notes a frame found at the start of the node, which is needed until it is stored.
    pub fn need(&self, number: FrameNumber) {
        *self.needed.lock().entry(number).or_insert(0) += 1;
    }

    /// Notes that frames are stored.
    pub fn stored(&self, numbers: &[FrameNumber]) {
        let mut needed = self.needed.lock();
        for number in numbers {
            if let Some(count) = needed.get_mut(number) {
                *count -= 1;
                if *count == 0 {
                    needed.remove(number);
                }
            }
        }
        let low = needed.keys().next().copied().unwrap_or_else(|| self.journal.next_frame());
        self.journal.release_below(low);
    }

    /// Syncs and closes the journal once the shards that shared it have ended. Tells whether it was left empty and
    /// whole: false when it is dead or still shared.
    pub async fn close(self) -> bool {
        match Arc::into_inner(self.journal) {
            Some(journal) => journal.close().await.is_ok(),
            None => false,
        }
    }
}
