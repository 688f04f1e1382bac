//! Becoming a shard's leader: rules T1 to T6 of the protocol, without IO.
//!
//! The driver does what [`Ask`] says and hands the [`Answer`] to [`Taker::next`], until it is told to lead.

use bytes::Bytes;
use rand::rngs::StdRng;

use crate::error::ErrorKind;
use crate::format::manifest::{EpochEntry, Manifest};
use crate::format::wal_object::{Footer, ObjectKind, WalHeader, encode_epoch};
use crate::limits;
use crate::model::{ClusterId, LeaderEpoch, Nonce, ShardId, Timestamp, WalSeq};
use crate::mutation::{self, Mutation};
use crate::shard::state::ShardState;
use crate::shard::walk::{PathFault, Walk};

/// An object on the path: its header and, for DATA, its index.
#[derive(Debug, Clone)]
pub struct PathObject {
    /// Who wrote what.
    pub header: WalHeader,
    /// Where each partition's batches lie; empty for EPOCH.
    pub footer: Footer,
}

/// What the driver is to do next.
#[derive(Debug)]
pub enum Ask {
    /// Read the manifest; the read must start now.
    Manifest,
    /// Create the shard's first manifest, if there is none.
    CreateManifest(Manifest),
    /// Read a snapshot by its hash, and build the state that it describes.
    Snapshot(u128),
    /// Read header and index of the object at this number.
    Object(WalSeq),
    /// PUT these bytes, create-only.
    PutEpoch {
        /// The number.
        seq: WalSeq,
        /// The same bytes at each attempt for this number.
        body: Bytes,
        /// Whether an earlier attempt had no answer: back off before this one.
        again: bool,
    },
    /// The taker leads. Nothing is asked after this.
    Lead(Box<Leadership>),
}

/// How a PUT of a WAL object ended: the rows of the protocol's outcome table that one answer can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutAnswer {
    /// 200.
    Created,
    /// 412: the name is taken, perhaps by an earlier attempt of the same bytes.
    Exists,
    /// 409: nothing is known.
    Conflict,
    /// Time-out, reset, 5xx: nothing is known.
    Unknown,
}

/// What the driver found.
#[derive(Debug)]
pub enum Answer {
    /// The manifest, if there is one.
    Manifest(Option<Manifest>),
    /// The first manifest was created, or somebody else created one.
    ManifestCreated,
    /// What the snapshot describes, if it is still there.
    Snapshot(Option<Box<ShardState>>),
    /// The object, if there is one.
    Object(Option<Box<PathObject>>),
    /// How the PUT ended.
    Put(PutAnswer),
}

/// A shard led: what T5 established.
#[derive(Debug)]
pub struct Leadership {
    /// The epoch led.
    pub epoch: LeaderEpoch,
    /// The nonce of its EPOCH.
    pub nonce: Nonce,
    /// The number of the first DATA.
    pub first_seq: WalSeq,
    /// How far from its lowest unresolved number the leader may write: never further than the shard's gap.
    pub span: u64,
    /// Offsets and dedupe entries at the end of the walk.
    pub state: ShardState,
    /// The manifest that T5 read. Since the walk started from an older one its floor may have moved, over objects of the
    /// walk.
    pub manifest: Manifest,
    /// The newest epochs that are known, this one included, in order.
    pub epochs: Vec<EpochEntry>,
    /// DATA objects of the walk, in order.
    pub objects: Vec<PathObject>,
    /// Append time of the newest object.
    pub append_time: Timestamp,
}

/// Why a shard cannot be led.
#[derive(Debug, thiserror::Error)]
pub enum TakerError {
    /// The log holds what no writer could have written. Never goes away by itself.
    #[error("the shard's log is damaged")]
    Path(#[from] PathFault),
    /// The manifest is another cluster's or shard's.
    #[error("the manifest is not this shard's: {field}")]
    Manifest {
        /// What differs.
        field: &'static str,
    },
    /// Others kept taking over, or the store did not answer. A retry later may win.
    #[error("takeover did not get through: attempts={attempts}")]
    Contended {
        /// How often it began anew or sent its EPOCH again.
        attempts: u32,
    },
    /// The driver's answer does not fit the question.
    #[error("answer does not fit the question")]
    Answer,
}

impl TakerError {
    /// Returns the class of the error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Path(_) | Self::Manifest { .. } => ErrorKind::Corrupt,
            Self::Contended { .. } => ErrorKind::Unavailable,
            Self::Answer => ErrorKind::Internal,
        }
    }
}

/// One attempt's progress: everything read since the last T1.
#[derive(Debug)]
struct Attempt {
    manifest: Manifest,
    walk: Walk,
    state: ShardState,
    epochs: Vec<EpochEntry>,
    objects: Vec<PathObject>,
}

impl Attempt {
    fn take_in(&mut self, object: PathObject) -> Result<(), PathFault> {
        self.walk.accept(&object.header)?;
        let WalHeader { kind, epoch, nonce, seq, .. } = object.header;
        if kind == ObjectKind::Data {
            self.state.apply(&object.header, &object.footer)?;
            self.objects.push(object);
        } else {
            self.begin_epoch(epoch, nonce, seq);
        }
        Ok(())
    }

    /// Notes that an EPOCH stands at a number.
    fn begin_epoch(&mut self, epoch: LeaderEpoch, nonce: Nonce, seq: WalSeq) {
        if let Some(last) = self.epochs.last_mut() {
            last.end_seq = Some(seq);
        }
        let first_seq = seq.plus(self.manifest.gap);
        self.epochs.push(EpochEntry { epoch, nonce, first_seq, end_seq: None });
    }
}

#[derive(Debug)]
enum Step {
    /// T1: the manifest is asked for.
    Begin,
    /// The first manifest is being created.
    Creating,
    /// T1: the snapshot is asked for.
    Loading(Manifest),
    /// T2: the object at the walk's position is asked for.
    Walking(Attempt),
    /// T2 broken: numbers above the first absent one are looked at too.
    Overshooting(Attempt, WalSeq, WalSeq),
    /// T3: the manifest is asked for again.
    Confirming(Attempt),
    /// The walk met what cannot be; is it real, or did the floor pass us while we walked?
    Doubting(Attempt, PathFault),
    /// T4: the EPOCH is on its way.
    Putting(Attempt, Nonce, Bytes),
    /// T4: the name was taken; whose is it?
    ReadingBack(Attempt, Nonce),
    /// T5: the manifest is asked for after the EPOCH landed.
    Validating(Attempt, Nonce),
}

/// The state machine of one takeover.
#[derive(Debug)]
pub struct Taker {
    cluster: ClusterId,
    shard: ShardId,
    now: Timestamp,
    nonces: StdRng,
    attempts: u32,
    step: Option<Step>,
}

impl Taker {
    /// Begins a takeover; the first thing to do is [`Ask::Manifest`]. `now` stamps the EPOCH.
    pub fn new(cluster: ClusterId, shard: ShardId, now: Timestamp, nonces: StdRng) -> (Self, Ask) {
        let taker = Self { cluster, shard, now, nonces, attempts: 1, step: Some(Step::Begin) };
        (taker, Ask::Manifest)
    }

    /// Takes the answer to the last question and returns the next one.
    ///
    /// # Errors
    /// [`TakerError`]; the taker is of no use afterwards.
    pub fn next(&mut self, answer: Answer) -> Result<Ask, TakerError> {
        let step = self.step.take().ok_or(TakerError::Answer)?;
        match (step, answer) {
            (Step::Begin, Answer::Manifest(None)) => {
                self.step = Some(Step::Creating);
                Ok(Ask::CreateManifest(Manifest::new(self.cluster, self.shard)))
            }
            (Step::Begin, Answer::Manifest(Some(manifest))) => self.load(manifest),
            (Step::Creating, Answer::ManifestCreated) => self.restart(),
            (Step::Loading(manifest), Answer::Snapshot(Some(state))) => Ok(self.walk(manifest, *state)),
            (Step::Loading(_), Answer::Snapshot(None)) => self.restart(),
            (Step::Walking(attempt), Answer::Object(found)) => self.visit(attempt, found),
            (Step::Overshooting(attempt, at, highest), Answer::Object(found)) => {
                Ok(self.overshoot(attempt, at, if found.is_some() { at } else { highest }))
            }
            (Step::Confirming(attempt), Answer::Manifest(now)) => self.confirm(attempt, now.as_ref()),
            (Step::Doubting(attempt, fault), Answer::Manifest(now)) => match now {
                Some(manifest) if manifest.floor == attempt.manifest.floor => Err(fault.into()),
                _ => self.restart(),
            },
            (Step::Putting(attempt, nonce, body), Answer::Put(answer)) => {
                self.put_answered(attempt, nonce, body, answer)
            }
            (Step::ReadingBack(attempt, nonce), Answer::Object(found)) => {
                self.read_back(attempt, nonce, found)
            }
            (Step::Validating(attempt, nonce), Answer::Manifest(now)) => self.validate(attempt, nonce, now),
            _ => Err(TakerError::Answer),
        }
    }

    fn count_attempt(&mut self) -> Result<(), TakerError> {
        self.attempts += 1;
        if self.attempts > limits::TAKEOVER_ATTEMPTS_MAX {
            return Err(TakerError::Contended { attempts: self.attempts });
        }
        Ok(())
    }

    fn restart(&mut self) -> Result<Ask, TakerError> {
        self.count_attempt()?;
        self.step = Some(Step::Begin);
        Ok(Ask::Manifest)
    }

    fn load(&mut self, manifest: Manifest) -> Result<Ask, TakerError> {
        let differs = |field| TakerError::Manifest { field };
        if manifest.cluster != self.cluster {
            return Err(differs("cluster"));
        }
        if manifest.shard != self.shard {
            return Err(differs("shard"));
        }
        match manifest.snapshot {
            None => Ok(self.walk(manifest, ShardState::default())),
            Some(hash) => {
                self.step = Some(Step::Loading(manifest));
                Ok(Ask::Snapshot(hash))
            }
        }
    }

    fn walk(&mut self, manifest: Manifest, state: ShardState) -> Ask {
        let walk = Walk::from_manifest(&manifest);
        let epochs = manifest.epochs.clone();
        self.look(Attempt { manifest, walk, state, epochs, objects: Vec::new() })
    }

    fn look(&mut self, attempt: Attempt) -> Ask {
        let position = attempt.walk.position();
        self.step = Some(Step::Walking(attempt));
        Ask::Object(position)
    }

    fn visit(&mut self, mut attempt: Attempt, found: Option<Box<PathObject>>) -> Result<Ask, TakerError> {
        let Some(object) = found else {
            if mutation::is(Mutation::EpochBehindHighest) {
                let at = attempt.walk.position();
                return Ok(self.overshoot(attempt, at, at));
            }
            self.step = Some(Step::Confirming(attempt));
            return Ok(Ask::Manifest);
        };
        if let Err(fault) = attempt.take_in(*object) {
            self.step = Some(Step::Doubting(attempt, fault));
            return Ok(Ask::Manifest);
        }
        Ok(self.look(attempt))
    }

    /// Looks for objects above the first absent number, as no taker may, and goes behind the highest.
    fn overshoot(&mut self, mut attempt: Attempt, at: WalSeq, highest: WalSeq) -> Ask {
        let first = attempt.walk.position();
        if at.get() < first.get() + attempt.manifest.gap {
            self.step = Some(Step::Overshooting(attempt, at.plus(1), highest));
            return Ask::Object(at.plus(1));
        }
        if highest > first {
            attempt.walk.jump_to(highest.plus(1));
        }
        self.step = Some(Step::Confirming(attempt));
        Ask::Manifest
    }

    fn confirm(&mut self, attempt: Attempt, now: Option<&Manifest>) -> Result<Ask, TakerError> {
        let moved = now.is_none_or(|manifest| manifest.floor != attempt.manifest.floor);
        if moved && !mutation::is(Mutation::NoFloorReadAfterWalk) {
            return self.restart();
        }
        let nonce = if mutation::is(Mutation::EpochWithoutNonce) {
            Nonce::new(0)
        } else {
            Nonce::random(&mut self.nonces)
        };
        if mutation::is(Mutation::NoEpoch) {
            return Ok(self.lead(attempt, nonce));
        }
        let seq = attempt.walk.position();
        let epoch = attempt.walk.epoch().plus(1);
        let append_time = self.now.max(attempt.walk.append_time());
        let body = encode_epoch(self.cluster, self.shard, epoch, seq, nonce, append_time);
        self.step = Some(Step::Putting(attempt, nonce, body.clone()));
        Ok(Ask::PutEpoch { seq, body, again: false })
    }

    fn put_answered(
        &mut self,
        attempt: Attempt,
        nonce: Nonce,
        body: Bytes,
        answer: PutAnswer,
    ) -> Result<Ask, TakerError> {
        let seq = attempt.walk.position();
        match answer {
            PutAnswer::Created => {
                self.step = Some(Step::Validating(attempt, nonce));
                Ok(Ask::Manifest)
            }
            PutAnswer::Exists => {
                self.step = Some(Step::ReadingBack(attempt, nonce));
                Ok(Ask::Object(seq))
            }
            PutAnswer::Conflict | PutAnswer::Unknown => {
                // One that gives up here leaves at worst an EPOCH without a leader.
                self.count_attempt()?;
                self.step = Some(Step::Putting(attempt, nonce, body.clone()));
                Ok(Ask::PutEpoch { seq, body, again: true })
            }
        }
    }

    fn read_back(
        &mut self,
        attempt: Attempt,
        nonce: Nonce,
        found: Option<Box<PathObject>>,
    ) -> Result<Ask, TakerError> {
        match found {
            None => self.restart(),
            Some(object) if object.header.kind == ObjectKind::Epoch && object.header.nonce == nonce => {
                self.step = Some(Step::Validating(attempt, nonce));
                Ok(Ask::Manifest)
            }
            Some(object) => self.visit(attempt, Some(object)),
        }
    }

    fn validate(
        &mut self,
        mut attempt: Attempt,
        nonce: Nonce,
        now: Option<Manifest>,
    ) -> Result<Ask, TakerError> {
        let at = attempt.walk.position();
        let void = now.as_ref().is_none_or(|manifest| manifest.floor > at);
        if void && !mutation::is(Mutation::NoFloorReadAfterEpoch) {
            return self.restart();
        }
        // What the older one names may be deleted by now.
        attempt.manifest = now.unwrap_or(attempt.manifest);
        Ok(self.lead(attempt, nonce))
    }

    fn lead(&self, mut attempt: Attempt, nonce: Nonce) -> Ask {
        attempt.begin_epoch(attempt.walk.epoch().plus(1), nonce, attempt.walk.position());
        let Attempt { manifest, walk, state, epochs, objects } = attempt;
        let (mut epoch, mut first_seq) = (walk.epoch().plus(1), walk.position().plus(manifest.gap));
        let mut span = limits::WRITE_SPAN.min(manifest.gap);
        if mutation::is(Mutation::NoEpoch) {
            (epoch, first_seq) = (walk.epoch(), walk.position());
        }
        if mutation::is(Mutation::SpanAboveGap) {
            span = 2 * manifest.gap;
        }
        Ask::Lead(Box::new(Leadership {
            epoch,
            nonce,
            first_seq,
            span,
            append_time: self.now.max(walk.append_time()),
            state,
            manifest,
            epochs,
            objects,
        }))
    }
}
