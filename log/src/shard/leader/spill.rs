//! What a leader keeps in the journal instead of in memory while the store is slow or away, on a store that others may write.
//!
//! While little waits for the store nothing is spilled. Past a threshold of bytes every further append is journalled,
//! also one that the store acknowledges, and leaves memory as soon as the journal has synced it. Its batches are read back
//! when they go into an object: so what is in memory is the threshold, what waits for the journal, and the objects under way.
//! For the rest the journal's size is the bound; past it appends wait in memory, within the shard's room.
//!
//! - What is spilled is in no partition's tail: readers get it from the store, or from the object that brought it there.
//!   Since a tail has no holes, nothing that follows goes there either, until all of it is stored.
//! - Only what is synced is spilled: it can still be read when the journal has died.
//! - An append that the store acknowledges is spilled under its level, so that no later leadership takes it for a leftover.
//! - A spilled frame holds on to a permit of the shard's room, for what it takes itself, and one for each who waits for it.

use std::sync::Arc;
use std::time::Duration;

use crate::error::FormatError;
use crate::journal::{Frame, FrameNumber, JournalBatch, JournalEntry, JournalError, Progress};
use crate::model::{TopicPartition, WalSeq};
use crate::shard::leader::core::{Action, LeaderCore};
use crate::shard::leader::marks::Marked;
use crate::shard::leader::pending::{PendingFrame, PendingFrames, PlacedBatch};
use crate::shard::partition::PartitionLog;

/// How much of the pending frames is where.
#[derive(Debug, Default)]
pub(super) struct Spill {
    /// Bytes of batches in memory.
    held_bytes: usize,
    /// Frames whose batches are in no tail.
    outside: usize,
    /// Frames that were looked at, the oldest: what of them can be spilled is.
    looked_at: usize,
}

/// What is being read back.
#[derive(Debug)]
pub(super) enum Loading {
    /// The spilled frames of an object that is to be sent.
    Object(Marked),
    /// This many of the oldest leftovers.
    Leftovers(usize),
}

/// What was read back, in the order in which it was asked for.
pub(crate) type Loaded = Vec<Result<Frame, JournalError>>;

/// Tells whether a frame may be there all the same, though it could not be read.
pub(crate) fn is_unread(error: &JournalError) -> bool {
    !matches!(error, JournalError::Format(_))
}

impl Spill {
    pub(super) fn pushed(&mut self, frame: &PendingFrame) {
        self.held_bytes += frame.size_bytes;
        self.outside += usize::from(!frame.in_tail);
    }

    pub(super) fn stored(&mut self, frame: &PendingFrame) {
        self.looked_at = self.looked_at.saturating_sub(1);
        self.held_bytes -= if frame.spilled { 0 } else { frame.size_bytes };
        self.outside -= usize::from(!frame.in_tail);
    }
}

impl PendingFrame {
    /// Lets go of its batches.
    fn spill(&mut self) {
        (self.spilled, self.batches) = (true, Vec::new());
        if let Some(room) = &mut self.room {
            let kept = 1 + self.waiters.len();
            drop(room.split(room.num_permits().saturating_sub(kept)));
        }
    }
}

impl PendingFrames {
    /// Tells whether what is pushed now is to be spilled, where this many bytes may be in memory.
    pub(super) fn spills(&self, bytes_max: usize) -> bool {
        self.spill.outside > 0 || self.spill.held_bytes > bytes_max
    }

    /// Spills what can be: frames that are in no tail, in no object, and synced in the journal below this number.
    fn spill_below(&mut self, below: FrameNumber) {
        if self.spill.outside == 0 {
            return;
        }
        while let Some(frame) = self.frames.get_mut(self.spill.looked_at) {
            let is_candidate = !frame.in_tail && !frame.moved && frame.frozen.is_none();
            match frame.entry.as_ref().filter(|_| is_candidate) {
                Some(entry) if entry.number >= below => return,
                Some(_) => {
                    self.spill.held_bytes -= frame.size_bytes;
                    frame.spill();
                }
                None => {}
            }
            self.spill.looked_at += 1;
        }
    }

    /// Returns where the spilled frames of an object lie.
    fn spilled_at(&self, seq: WalSeq) -> Vec<JournalEntry> {
        self.frozen_at(seq).filter(|frame| frame.spilled).filter_map(|frame| frame.entry.clone()).collect()
    }

    /// Takes the batches of an object's spilled frames back into memory.
    fn bring_back(
        &mut self,
        seq: WalSeq,
        loaded: Loaded,
        log_of: impl Fn(TopicPartition) -> Arc<PartitionLog>,
    ) -> Result<(), JournalError> {
        let frozen = self.frames.range_mut(..self.frozen);
        let spilled = frozen.filter(|frame| frame.frozen == Some(seq) && frame.spilled);
        for (frame, loaded) in spilled.zip(loaded) {
            let Frame::Append { batches, .. } = loaded? else {
                return Err(FormatError::Field { what: "journal frame", field: "kind" }.into());
            };
            let placed = |batch: JournalBatch| {
                let log = log_of(batch.partition);
                PlacedBatch::from_journal(batch, log)
            };
            frame.batches = batches.into_iter().map(placed).collect();
            frame.spilled = false;
            self.spill.held_bytes += frame.size_bytes;
        }
        Ok(())
    }
}

impl LeaderCore {
    /// Tells whether appends taken now are to be spilled.
    pub(super) fn spills(&self) -> bool {
        self.marks.is_some() && self.pending.spills(self.spill_bytes)
    }

    /// Lets go of batches that the journal has got to the disk meanwhile.
    pub(super) fn spill(&mut self, progress: Progress) {
        self.pending.spill_below(progress.below);
    }

    /// Reads back what of an object is not in memory. False where nothing of it is.
    pub(super) fn load_object(&mut self, marked: Marked) -> bool {
        let entries = self.pending.spilled_at(marked.seq);
        if entries.is_empty() {
            return false;
        }
        self.loading = Some(Loading::Object(marked));
        self.actions.push_back(Action::Load { seq: marked.seq, entries });
        true
    }

    /// Takes what [`Action::Load`] asked for. Without a part of an object the leadership ends, and nothing from there on is
    /// stored: of that, what was promised at `local` stays in the journal, for the next leadership on this node.
    pub(super) fn loaded(&mut self, at: Duration, loaded: Loaded) {
        match self.loading.take() {
            // A leader that has ended sends nothing more.
            Some(Loading::Object(marked)) if self.writer.may_freeze() == Some(marked.seq) => {
                let logs = Arc::clone(&self.logs);
                match self.pending.bring_back(marked.seq, loaded, |partition| logs.log(partition)) {
                    Ok(()) => self.send_built(marked),
                    Err(error) => {
                        tracing::error!(shard.id = %self.shard, wal.seq = %marked.seq, error = %error, "journal cannot be read back");
                        self.writer.give_up();
                        self.end();
                    }
                }
            }
            Some(Loading::Leftovers(count)) => self.leftovers_loaded(at, count, loaded),
            Some(Loading::Object(_)) | None => {}
        }
    }
}
