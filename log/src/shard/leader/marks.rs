//! What a leader writes into the journal about its appends, on a store that others may write.

use crate::journal::{Frame, FrameNumber, Progress};
use crate::model::{Nonce, ShardId, WalSeq};
use crate::mutation::{self, Mutation};
use crate::shard::frames::SharedJournal;

/// The marks of one leadership. An object that holds journalled appends waits here until a synced mark says so.
#[derive(Debug)]
pub(super) struct Marks {
    journal: SharedJournal,
    shard: ShardId,
    nonce: Nonce,
    waiting: Option<(WalSeq, FrameNumber)>,
    /// Everything of this leadership in the journal lies below.
    journalled_below: FrameNumber,
    /// What the last settled mark said.
    settled_below: FrameNumber,
}

/// An object that waits no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Marked {
    pub(super) seq: WalSeq,
    /// Whether the mark is on the disk. If not, the object itself has to name what it holds.
    pub(super) synced: bool,
}

impl Marks {
    pub(super) fn new(journal: SharedJournal, shard: ShardId, nonce: Nonce) -> Self {
        let none = FrameNumber::ZERO;
        Self { journal, shard, nonce, waiting: None, journalled_below: none, settled_below: none }
    }

    /// Tells whether an object waits for its mark: nothing else is frozen meanwhile.
    pub(super) fn is_waiting(&self) -> bool {
        self.waiting.is_some()
    }

    /// A frame of this leadership is in the journal.
    pub(super) fn journalled(&mut self, number: FrameNumber) {
        self.journalled_below = self.journalled_below.max(number.plus(1));
    }

    /// Says which frames an object is to hold. None while it waits for that; else it can be sent at once.
    pub(super) fn freeze(&mut self, seq: WalSeq, first: FrameNumber, last: FrameNumber) -> Option<Marked> {
        let mark = Frame::Frozen { shard: self.shard, nonce: self.nonce, seq, first, last };
        match self.journal.mark(mark) {
            Some(_) if mutation::is(Mutation::SentBeforeMark) => Some(Marked { seq, synced: true }),
            Some(number) => {
                self.waiting = Some((seq, number));
                None
            }
            None => Some(Marked { seq, synced: false }),
        }
    }

    /// Takes how far the journal has got; returns the object that waited for it.
    pub(super) fn moved(&mut self, progress: Progress) -> Option<Marked> {
        let (seq, number) = self.waiting?;
        let synced = number < progress.below;
        (synced || progress.dead).then(|| {
            self.waiting = None;
            Marked { seq, synced }
        })
    }

    /// Says that nothing is left to do for frames below a number; none: for all of this leadership. A mark that the
    /// journal does not take is written with the next one.
    pub(super) fn settle(&mut self, below: Option<FrameNumber>) {
        let below = below.unwrap_or(self.journalled_below);
        if below > self.settled_below {
            let mark = Frame::Settled { shard: self.shard, nonce: self.nonce, below };
            if self.journal.mark(mark).is_some() {
                self.settled_below = below;
            }
        }
    }
}
