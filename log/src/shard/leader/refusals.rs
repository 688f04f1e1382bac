//! Refusals that are not answered yet. To refuse a conditional append is to read the log's end for somebody, and such a
//! read must be linearizable: at some moment between the append's arrival and its answer the log must have ended there.
//!
//! A leader judges by what it knows: the log it took over, and its own appends, those on their way included. Two things
//! can be wrong with that.
//! - What it saw on its way may never be stored, and the log never end there. So the answer waits until the newest frame
//!   at the moment of the judgement is durable. If the leadership ends first, the answer is "not applied": the append
//!   itself was never placed.
//! - On a store that others may write, another leader may have gone on long ago. So the answer waits for a proof that
//!   this one still led at the judgement or later.
//!
//! Let f be the newest frame that was judged by, and c the end that it leaves. All frames behind f lie in later objects,
//! or behind f in its own, so no offset from c on is used before f has landed. If f landed after the judgement, the log
//! ended at c just then. If f landed before, the log ended at c at the judgement, provided that no other leader's EPOCH
//! was on the path by then. Either is proved by one of:
//! - An object frozen after the judgement turns out to be stored. It landed after the judgement, and where it landed no
//!   EPOCH can have stood. If f itself was not frozen yet, that is its own object; so a crowd of conditional appends of
//!   which one wins costs nothing.
//! - The name of the next number, read after the judgement, is absent, and nothing was frozen at it before the answer
//!   came. Every number below is resolved and on the path (a leader's lowest unresolved number is a path position), so
//!   a newer EPOCH could stand only there, and EPOCHs are never deleted. That this name never held DATA of ours matters:
//!   DATA may have been rolled and deleted, with an EPOCH behind it. While something of ours is under way there, its own
//!   fate is the proof, and nothing is read.
//!
//! An answer that comes days after its request changes nothing: the moment that counts is when the store looked. An EPOCH
//! at the name ends the leadership as an EPOCH at the number of a PUT does. It cannot be a void one: the floor passes
//! only over what is on the path, and there is nothing of ours at that number.
//!
//! Other refusals (another body, a gap in a producer's records) are reads of the same log and are treated alike. An answer
//! to a duplicate is none: its append is in the log for ever, at the offsets named, whoever leads now; it waits until what
//! may hold it is durable.

use std::collections::VecDeque;

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::model::WalSeq;
use crate::mutation::{self, Mutation};
use crate::shard::append::{AppendError, Appended};
use crate::shard::leader::core::never_staged;

/// An append that was judged and changes nothing.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) reply: oneshot::Sender<Result<Appended, AppendError>>,
    pub(super) error: AppendError,
    /// Its room in the shard's budget: so what waits is bounded.
    pub(super) _room: Option<OwnedSemaphorePermit>,
}

#[derive(Debug)]
struct Waiting {
    refusal: Refusal,
    /// How many frames there had ever been: all of them must be durable.
    frames: u64,
    /// The next number at the judgement: what is frozen there or above was frozen after it.
    next: WalSeq,
}

/// A read of the next number under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Proof {
    seq: WalSeq,
    /// So many refusals, the oldest, were judged before it began.
    covers: usize,
}

/// Refusals in the order of their judgement. At most one proof is under way; it serves all that were judged before.
#[derive(Debug)]
pub(super) struct Refusals {
    waiting: VecDeque<Waiting>,
    proof: Option<Proof>,
    exclusive: bool,
}

impl Refusals {
    pub(super) fn new(exclusive: bool) -> Self {
        Self { waiting: VecDeque::new(), proof: None, exclusive }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Adds a refusal that was judged just now, with so many frames ever pushed, and this the next number.
    pub(super) fn push(&mut self, refusal: Refusal, frames: u64, next: WalSeq) {
        if self.waiting.len() == self.waiting.capacity() {
            self.drop_abandoned();
            self.waiting.reserve(self.waiting.len() + 1);
        }
        self.waiting.push_back(Waiting { refusal, frames, next });
    }

    /// Drops those whose callers gave up, each time there are twice as many: they may have tried again since.
    fn drop_abandoned(&mut self) {
        let is_abandoned = |waiting: &Waiting| waiting.refusal.reply.is_closed();
        if let Some(proof) = &mut self.proof {
            let covered = self.waiting.iter().take(proof.covers);
            proof.covers -= covered.filter(|waiting| is_abandoned(waiting)).count();
        }
        self.waiting.retain(|waiting| !is_abandoned(waiting));
    }

    /// Answers whoever may be answered, with so many frames durable and all numbers below this one resolved.
    pub(super) fn settle(&mut self, durable: u64, resolved_below: WalSeq) {
        let unproved = self.exclusive || mutation::is(Mutation::RefusalUnproved);
        let before = self.waiting.len();
        while let Some(waiting) = self
            .waiting
            .pop_front_if(|waiting| waiting.frames <= durable && (waiting.next < resolved_below || unproved))
        {
            waiting.refusal.answer();
        }
        if self.waiting.len() < before {
            // It was about others; whoever is left needs one of its own.
            self.proof = None;
        }
    }

    /// Returns the number to read, if somebody waits for nothing but a proof. `unused` is the next number while nothing
    /// is under way.
    pub(super) fn prove(&mut self, durable: u64, unused: Option<WalSeq>) -> Option<WalSeq> {
        let seq = unused.filter(|_| self.proof.is_none())?;
        let covers = self.waiting.iter().take_while(|waiting| waiting.frames <= durable).count();
        if covers == 0 {
            return None;
        }
        self.proof = Some(Proof { seq, covers });
        Some(seq)
    }

    /// The number was read, and nothing is there. `next` is the next number now.
    pub(super) fn proved(&mut self, seq: WalSeq, next: WalSeq) {
        let Some(proof) = self.proof.take_if(|proof| proof.seq == seq) else { return };
        if seq == next {
            self.waiting.drain(..proof.covers).for_each(|waiting| waiting.refusal.answer());
        }
    }

    /// The leadership has ended.
    pub(super) fn fail_all(&mut self) {
        for waiting in self.waiting.drain(..) {
            // The client may have gone.
            let _ = waiting.refusal.reply.send(Err(never_staged()));
        }
        self.proof = None;
    }
}

impl Refusal {
    fn answer(self) {
        // The client may have gone.
        let _ = self.reply.send(Err(self.error));
    }
}
