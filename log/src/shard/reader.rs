//! Following a shard's log without leading it: rules R1 to R5 of the protocol, without IO.

use crate::format::manifest::Manifest;
use crate::format::wal_object::{ObjectKind, WalHeader};
use crate::model::WalSeq;
use crate::mutation::{self, Mutation};
use crate::shard::taker::PathObject;
use crate::shard::walk::{PathFault, Walk};

/// What the driver is to do next.
#[derive(Debug)]
pub enum Ask {
    /// Read the manifest; the read must start now.
    Manifest,
    /// Read header and index of the object at this number.
    Object(WalSeq),
    /// The reader begins anew from this manifest: what it covers is read from rolled objects and segments, up to its
    /// floor. Then call [`Reader::go_on`].
    Restart(Box<Manifest>),
    /// Deliver this DATA object. Then call [`Reader::go_on`].
    Deliver(Box<PathObject>),
    /// This number is the tail: wait for news, then call [`Reader::go_on`].
    Wait(WalSeq),
}

/// What the driver found.
#[derive(Debug)]
pub enum Answer {
    /// The manifest, if there is one.
    Manifest(Option<Manifest>),
    /// The object, if there is one.
    Object(Option<Box<PathObject>>),
}

/// Why a reader stopped.
#[derive(Debug, thiserror::Error)]
pub enum ReaderError {
    /// The log holds what no writer could have written. Never goes away by itself.
    #[error("the shard's log is damaged")]
    Path(#[from] PathFault),
    /// The driver's answer does not fit the question.
    #[error("answer does not fit the question")]
    Answer,
}

#[derive(Debug)]
enum Step {
    /// R1: the manifest is asked for.
    Begin,
    /// The object at the walk's position is asked for.
    Looking,
    /// R3: an EPOCH was read; the manifest is asked for after it.
    CheckingEpoch(Box<PathObject>),
    /// R4: nothing was there; the manifest is asked for after that.
    CheckingTail,
    /// The driver is busy with what it was handed.
    Paused,
}

/// The state machine of one reader.
#[derive(Debug)]
pub struct Reader {
    step: Step,
    walk: Option<Walk>,
}

impl Reader {
    /// Begins a reader; the first thing to do is [`Ask::Manifest`].
    pub fn new() -> (Self, Ask) {
        (Self { step: Step::Begin, walk: None }, Ask::Manifest)
    }

    /// Begins a reader at a position of the path below which nothing is missing: where another reader stood, or where a
    /// leader that resolved everything below began its next object. The first thing to do is [`Self::go_on`].
    pub(crate) fn on(walk: Walk) -> Self {
        Self { step: Step::Paused, walk: Some(walk) }
    }

    /// Returns where on the path it stands; none before the first manifest.
    pub fn walk(&self) -> Option<&Walk> {
        self.walk.as_ref()
    }

    /// Takes a DATA object that somebody offers who knows that it is in the log, in place of reading it (R2). Tells
    /// whether it was taken; then call [`Self::go_on`], whatever was asked before.
    ///
    /// It is taken where it is what R5 demands of the object at the reader's position. Whatever else it is says nothing
    /// about the log: the store is asked.
    pub fn offer(&mut self, header: &WalHeader) -> bool {
        // After an EPOCH was seen here only the floor tells what counts (R3).
        let is_open = matches!(self.step, Step::Looking | Step::CheckingTail | Step::Paused);
        let Some(walk) = self.walk.as_mut().filter(|walk| is_open && walk.is_next(header)) else {
            return false;
        };
        let is_taken = walk.accept(header).is_ok();
        self.step = Step::Paused;
        is_taken
    }

    /// Goes on after [`Ask::Restart`], [`Ask::Deliver`] or [`Ask::Wait`].
    pub fn go_on(&mut self) -> Ask {
        match &self.walk {
            None => {
                self.step = Step::Begin;
                Ask::Manifest
            }
            Some(walk) => {
                self.step = Step::Looking;
                Ask::Object(walk.position())
            }
        }
    }

    /// Takes the answer to the last question and returns the next one.
    ///
    /// # Errors
    /// [`ReaderError`]; the reader is of no use afterwards.
    pub fn next(&mut self, answer: Answer) -> Result<Ask, ReaderError> {
        let step = std::mem::replace(&mut self.step, Step::Paused);
        match (step, answer) {
            (Step::Begin, Answer::Manifest(None)) => Ok(Ask::Wait(WalSeq::ZERO)),
            (Step::Begin, Answer::Manifest(Some(manifest))) => Ok(self.restart(manifest)),
            (Step::Looking, Answer::Object(None)) => {
                self.step = Step::CheckingTail;
                Ok(Ask::Manifest)
            }
            (Step::Looking, Answer::Object(Some(object))) if object.header.kind == ObjectKind::Epoch => {
                if mutation::is(Mutation::ReaderJumpsUnchecked) {
                    self.walk_mut()?.accept(&object.header)?;
                    return Ok(self.go_on());
                }
                self.step = Step::CheckingEpoch(object);
                Ok(Ask::Manifest)
            }
            (Step::Looking, Answer::Object(Some(object))) => {
                self.walk_mut()?.accept(&object.header)?;
                Ok(Ask::Deliver(object))
            }
            (Step::CheckingEpoch(object), Answer::Manifest(Some(manifest))) => {
                if manifest.floor > self.walk_mut()?.position() {
                    return Ok(self.restart(manifest));
                }
                self.walk_mut()?.accept(&object.header)?;
                Ok(self.go_on())
            }
            (Step::CheckingTail, Answer::Manifest(Some(manifest))) => {
                let position = self.walk_mut()?.position();
                if manifest.floor > position {
                    return Ok(self.restart(manifest));
                }
                Ok(Ask::Wait(position))
            }
            _ => Err(ReaderError::Answer),
        }
    }

    fn restart(&mut self, manifest: Manifest) -> Ask {
        self.walk = Some(Walk::from_manifest(&manifest));
        Ask::Restart(Box::new(manifest))
    }

    fn walk_mut(&mut self) -> Result<&mut Walk, ReaderError> {
        self.walk.as_mut().ok_or(ReaderError::Answer)
    }
}
