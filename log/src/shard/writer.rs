//! A leader's PUTs and what may be acknowledged: rules W1 to W6 of the protocol, without IO.
//!
//! The driver owns the bytes; the writer says which number they get, what to do with each answer, and how far the
//! contiguous resolved prefix reaches. Acknowledgements follow that prefix and nothing else.

use std::collections::VecDeque;

use crate::format::wal_object::{ObjectKind, WalHeader};
use crate::limits;
use crate::model::WalSeq;
use crate::mutation::{self, Mutation};
use crate::shard::taker::PutAnswer;

/// What to do about one object after an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// It is in the log. Ask [`Writer::resolved_below`] how far acknowledgements may go.
    Resolved,
    /// PUT the same bytes at the same number again, after a pause.
    PutAgain,
    /// Read the header of the object at this number, for [`Writer::read_back`].
    ReadBack,
    /// An EPOCH stands there. Read the floor, the read starting now, for [`Writer::fence`].
    ReadFloor,
    /// Leadership is over; nothing more is sent or acknowledged.
    Stop,
}

/// How a leadership ended, and what that says about what was not acknowledged (W6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// A newer leader's EPOCH ended the epoch.
    Fenced {
        /// Batches at this number and above are definitely not stored, now and for ever. None: all are unknown.
        not_stored_from: Option<WalSeq>,
    },
    /// Another DATA object stands at an own number: a clone, a restored snapshot, or a bug. All are unknown.
    Impossible {
        /// Where.
        seq: WalSeq,
    },
    /// The leader gave up: it could not build the next object, or was told to. Nothing was sent at its number or above.
    GivenUp {
        /// That number.
        seq: WalSeq,
    },
}

#[derive(Debug)]
struct Slot {
    header: WalHeader,
    resolved: bool,
}

/// The state machine of one leadership's writing.
#[derive(Debug)]
pub struct Writer {
    next: WalSeq,
    span: u64,
    slots: VecDeque<Slot>,
    ended: Option<Ended>,
    stopping: bool,
}

impl Writer {
    /// Begins at the first number of an epoch. `span` is at most the gap of the shard.
    pub fn new(first: WalSeq, span: u64) -> Self {
        Self { next: first, span, slots: VecDeque::new(), ended: None, stopping: false }
    }

    /// Returns the number the next object gets, if one may be frozen now (W2): fewer than
    /// [`limits::PUTS_IN_FLIGHT_MAX`] are unresolved and it lies within the span from the lowest unresolved one.
    pub fn may_freeze(&self) -> Option<WalSeq> {
        let unresolved = self.slots.iter().filter(|slot| !slot.resolved).count();
        let within = self.next.get() < self.lowest_unresolved().get() + self.span
            || mutation::is(Mutation::SpanByCount);
        (!self.stopping && unresolved < limits::PUTS_IN_FLIGHT_MAX && within).then_some(self.next)
    }

    /// Returns the number that the next object gets, whether or not it may be frozen now.
    pub fn next_seq(&self) -> WalSeq {
        self.next
    }

    /// Returns the number that the next object gets while every one before is resolved: nothing of this leader was ever
    /// sent there, and only an EPOCH that ends its epoch can stand there.
    pub fn unused(&self) -> Option<WalSeq> {
        (self.slots.is_empty() && !self.stopping).then_some(self.next)
    }

    /// Freezes an object at the number that [`Self::may_freeze`] gave (W1). Its bytes never change again.
    ///
    /// # Panics
    /// When the header carries another number: the caller broke the protocol.
    pub fn freeze(&mut self, header: WalHeader) {
        assert_eq!(Some(header.seq), self.may_freeze(), "an object is frozen at the number it was given");
        self.next = self.next.plus(1);
        self.slots.push_back(Slot { header, resolved: false });
    }

    /// Takes the answer to a PUT of a frozen object.
    pub fn put_answered(&mut self, seq: WalSeq, answer: PutAnswer) -> Next {
        if self.stopping {
            return Next::Stop;
        }
        match answer {
            PutAnswer::Created => self.resolve(seq),
            PutAnswer::Exists | PutAnswer::Conflict => Next::ReadBack,
            PutAnswer::Unknown => Next::PutAgain,
        }
    }

    /// Takes what stands at the number of a frozen object whose PUT said that the name is taken, or nothing.
    pub fn read_back(&mut self, seq: WalSeq, found: Option<&WalHeader>) -> Next {
        if self.stopping {
            return Next::Stop;
        }
        match found {
            None if mutation::is(Mutation::GoneIsNotStored) => {
                self.stopping = true;
                self.ended = Some(Ended::Fenced { not_stored_from: Some(seq) });
                Next::Stop
            }
            None => Next::PutAgain,
            Some(header) if self.is_own(seq, header) => self.resolve(seq),
            Some(header) if header.kind == ObjectKind::Epoch => {
                self.stopping = true;
                Next::ReadFloor
            }
            Some(_) => self.stranger(seq),
        }
    }

    /// Takes note that an object stands at an own number which is neither the own one nor an EPOCH.
    pub fn stranger(&mut self, seq: WalSeq) -> Next {
        self.stopping = true;
        self.ended.get_or_insert(Ended::Impossible { seq });
        Next::Stop
    }

    /// Ends the leadership from within: nothing more is sent.
    pub fn give_up(&mut self) {
        self.stopping = true;
        self.ended.get_or_insert(Ended::GivenUp { seq: self.next });
    }

    /// Takes the floor, read after an EPOCH was seen at `seq`, and returns how the leadership ended (W6).
    pub fn fence(&mut self, seq: WalSeq, floor: WalSeq) -> Ended {
        self.stopping = true;
        let certain = floor <= seq || mutation::is(Mutation::NoFloorReadWhenFenced);
        let ended = Ended::Fenced { not_stored_from: certain.then_some(seq) };
        *self.ended.get_or_insert(ended)
    }

    /// Returns the lowest unresolved number: everything below is in the log and may be acknowledged. After the end
    /// of the leadership it does not move any more.
    pub fn resolved_below(&self) -> WalSeq {
        if mutation::is(Mutation::AckOutOfOrder)
            && let Some(resolved) = self.slots.iter().rfind(|slot| slot.resolved)
        {
            return resolved.header.seq.plus(1);
        }
        self.lowest_unresolved()
    }

    /// Returns how the leadership ended, if it has.
    pub fn ended(&self) -> Option<Ended> {
        self.ended
    }

    /// Puts another object in the place of a frozen one.
    #[cfg(feature = "test-util")]
    pub(crate) fn freeze_again(&mut self, header: WalHeader) {
        if let Some(slot) = self.slot(header.seq) {
            slot.header = header;
        }
    }

    fn lowest_unresolved(&self) -> WalSeq {
        self.slots.front().map_or(self.next, |slot| slot.header.seq)
    }

    fn slot(&mut self, seq: WalSeq) -> Option<&mut Slot> {
        let first = self.slots.front()?.header.seq.get();
        let index = usize::try_from(seq.get().checked_sub(first)?).ok()?;
        self.slots.get_mut(index)
    }

    fn is_own(&mut self, seq: WalSeq, header: &WalHeader) -> bool {
        let Some(slot) = self.slot(seq) else { return false };
        slot.header == *header
            || mutation::is(Mutation::RebatchedByNonce) && slot.header.nonce == header.nonce
    }

    fn resolve(&mut self, seq: WalSeq) -> Next {
        if let Some(slot) = self.slot(seq) {
            slot.resolved = true;
        }
        while self.slots.front().is_some_and(|slot| slot.resolved) {
            self.slots.pop_front();
        }
        Next::Resolved
    }
}
