//! Compactors: the real plan, copy and change of a roll, with each request a step at which they may stop for long or lose
//! a race. And the sweeper, which deletes DATA below a floor that it read now or long ago.

use std::collections::VecDeque;

use bytes::Bytes;
use forebay_compactor::plan::{self, Policy};
use forebay_compactor::{Input, Prepared, Work};
use forebay_log::error::ErrorKind;
use forebay_log::format::manifest::{Manifest, RolledRef};
use forebay_log::format::snapshot::Snapshot;
use forebay_log::keys::Keys;
use forebay_log::limits;
use forebay_log::model::{JobId, WalSeq};
use forebay_log::shard::walk::Walk;
use forebay_log::testing::mutation::{self, Mutation};

use crate::check::{Check, violation};
use crate::config::{MILLI, MINUTE, SECOND};
use crate::stats::Fault;
use crate::store::{Answer, Key, Op};
use crate::world::{Actor, SHARD, Wake, World, timestamp};

/// Where a roll stands.
#[derive(Debug, Default)]
enum Phase {
    #[default]
    Idle,
    Begin,
    Walking(Box<Walk>),
    Inputs(VecDeque<RolledRef>),
    Snapshot,
    /// Uploads to do before the commit.
    Uploading(Vec<Op>),
    Committing,
    /// The swap had no answer, or lost: the manifest is read again.
    Rereading,
    /// The walk met what cannot be; has the floor moved?
    Doubting(String),
}

/// One compactor.
#[derive(Debug, Default)]
pub(crate) struct Compactor {
    phase: Phase,
    call: u64,
    op: Option<Op>,
    manifest: Option<(Manifest, u64)>,
    /// The manifest from which the roll walked.
    began: Option<Manifest>,
    work: Option<Work>,
    prepared: Option<Prepared>,
}

impl Compactor {
    fn manifest(&self) -> &Manifest {
        &self.manifest.as_ref().expect("it was read before").0
    }

    fn work(&mut self) -> &mut Work {
        self.work.as_mut().expect("it was begun when the manifest was read")
    }
}

/// Decodes an object; `seq` is its number on the path, or that of the first object in it.
fn input(seq: WalSeq, bytes: &Bytes) -> Result<Input, String> {
    Input::decode(Keys::new("").wal(SHARD, seq), bytes.clone()).map_err(|error| format!("{error:?}"))
}

impl World {
    pub(crate) fn compactor_woken(&mut self, number: usize, wake: Wake) -> Check {
        if let Wake::Send(call) = wake {
            let compactor = &self.compactors[number];
            if let Some(op) = compactor.op.clone().filter(|_| compactor.call == call) {
                self.send(Actor::Compactor(number), call, op);
            }
            return Ok(());
        }
        self.compactors[number].phase = Phase::Begin;
        self.compactor_asks(number, Op::GetManifest);
        Ok(())
    }

    /// Sends a request, perhaps after standing still for long.
    fn compactor_asks(&mut self, number: usize, op: Op) {
        let call = self.next_call();
        let compactor = &mut self.compactors[number];
        (compactor.call, compactor.op) = (call, Some(op.clone()));
        if self.rng.chance(self.config.stale_compactor) {
            self.stats.fault(Fault::StaleCompactor);
            let after = self.rng.log_between(SECOND, self.config.stall_max);
            return self.wake(Actor::Compactor(number), 0, after, Wake::Send(call));
        }
        self.send(Actor::Compactor(number), call, op);
        if self.rng.chance(self.config.crash * 0.5) {
            // It dies with the request on its way; the next one knows nothing of it.
            self.stats.fault(Fault::Crash);
            let rest = self.pause();
            self.compactors[number] = Compactor { call: u64::MAX, ..Compactor::default() };
            self.wake(Actor::Compactor(number), 0, rest, Wake::Tick);
        }
    }

    fn compactor_rests(&mut self, number: usize) -> Check {
        let rest = self.pause();
        self.compactors[number] = Compactor::default();
        self.wake(Actor::Compactor(number), 0, rest, Wake::Tick);
        Ok(())
    }

    pub(crate) fn compactor_answered(&mut self, number: usize, call: u64, answer: Answer) -> Check {
        if self.compactors[number].call != call {
            return Ok(());
        }
        let phase = std::mem::take(&mut self.compactors[number].phase);
        match (phase, answer) {
            (Phase::Committing, Answer::Failed) => {
                self.compactors[number].phase = Phase::Rereading;
                self.compactor_asks(number, Op::GetManifest);
                Ok(())
            }
            (phase, Answer::Failed) => {
                // A retry of any step is safe; the real compactor begins anew.
                if self.rng.chance(0.5) {
                    return self.compactor_rests(number);
                }
                self.compactors[number].phase = phase;
                self.wake(Actor::Compactor(number), 0, SECOND, Wake::Send(call));
                Ok(())
            }
            (Phase::Begin, Answer::Manifest(found)) => self.roll_begins(number, found),
            (Phase::Walking(walk), Answer::Object(found)) => {
                self.roll_walks(number, *walk, found.map(|object| object.bytes.clone()))
            }
            (Phase::Inputs(rest), Answer::Object(found)) => {
                // Rolled again by somebody else meanwhile: the work is void.
                let Some(object) = found else { return self.compactor_rests(number) };
                match input(WalSeq::ZERO, &object.bytes) {
                    Ok(input) => self.compactors[number].work().inputs.push(input),
                    Err(error) => return violation("alarm", error),
                }
                self.roll_reads(number, rest)
            }
            (Phase::Snapshot, Answer::Object(found)) => {
                let Some(object) = found else { return self.compactor_rests(number) };
                let snapshot = Snapshot::decode(&object.bytes).expect("only snapshots are stored");
                self.compactors[number].work().snapshot = Some(snapshot);
                self.roll_computes(number)
            }
            (Phase::Uploading(rest), _) => self.roll_uploads(number, rest),
            (Phase::Committing, Answer::Swapped(true)) => self.roll_committed(number),
            (Phase::Committing, _) => {
                self.compactors[number].phase = Phase::Rereading;
                self.compactor_asks(number, Op::GetManifest);
                Ok(())
            }
            (Phase::Rereading, Answer::Manifest(found)) => self.roll_looks_again(number, found),
            (Phase::Doubting(fault), Answer::Manifest(found)) => {
                let now = found.map(|(bytes, _)| Manifest::decode(&bytes).expect("a manifest"));
                if now.is_some_and(|now| now.version == self.compactors[number].manifest().version) {
                    return violation("alarm", format!("Compactor({number}) stops: {fault}"));
                }
                self.compactor_rests(number)
            }
            _ => self.compactor_rests(number),
        }
    }

    fn roll_begins(&mut self, number: usize, found: Option<(Bytes, u64)>) -> Check {
        let Some((bytes, revision)) = found else { return self.compactor_rests(number) };
        let manifest = Manifest::decode(&bytes).expect("a manifest");
        let walk = Walk::from_manifest(&manifest);
        let job = JobId::new(u128::from(self.rng.next()));
        let compactor = &mut self.compactors[number];
        compactor.work = Some(Work {
            manifest: manifest.clone(),
            snapshot: None,
            replaced: Vec::new(),
            inputs: Vec::new(),
            path: Vec::new(),
            job,
        });
        compactor.began = Some(manifest.clone());
        compactor.manifest = Some((manifest, revision));
        let position = walk.position();
        compactor.phase = Phase::Walking(Box::new(walk));
        self.compactor_asks(number, Op::Get(Key::Wal(position.get())));
        Ok(())
    }

    fn roll_walks(&mut self, number: usize, mut walk: Walk, found: Option<Bytes>) -> Check {
        let full = self.compactors[number].work().path.len() >= 2 * self.config.roll_objects;
        let Some(bytes) = found.filter(|_| !full) else { return self.roll_is_planned(number) };
        let accepted = input(walk.position(), &bytes).and_then(|input| {
            walk.accept(&input.header).map(|()| input).map_err(|fault| format!("{fault:?}"))
        });
        match accepted {
            Ok(input) => self.compactors[number].work().path.push(input),
            Err(fault) => {
                self.compactors[number].phase = Phase::Doubting(fault);
                self.compactor_asks(number, Op::GetManifest);
                return Ok(());
            }
        }
        let position = walk.position();
        self.compactors[number].phase = Phase::Walking(Box::new(walk));
        self.compactor_asks(number, Op::Get(Key::Wal(position.get())));
        Ok(())
    }

    fn roll_is_planned(&mut self, number: usize) -> Check {
        let policy = Policy { objects: self.config.roll_objects, ..Policy::default() };
        let now = timestamp(self.now);
        let work = self.compactors[number].work();
        let headers: Vec<_> = work.path.iter().map(|input| input.header.clone()).collect();
        let Some(plan) = plan::plan(&work.manifest, &headers, now, &policy) else {
            return self.compactor_rests(number);
        };
        work.path.truncate(plan.objects);
        work.replaced = work.manifest.rolled[work.manifest.rolled.len() - plan.rolled..].to_vec();
        let rest = work.replaced.iter().copied().collect();
        self.roll_reads(number, rest)
    }

    fn roll_reads(&mut self, number: usize, mut rest: VecDeque<RolledRef>) -> Check {
        if let Some(next) = rest.pop_front() {
            self.compactors[number].phase = Phase::Inputs(rest);
            self.compactor_asks(number, Op::Get(Key::Rolled(next.job.get())));
            return Ok(());
        }
        match self.compactors[number].manifest().snapshot {
            Some(hash) => {
                self.compactors[number].phase = Phase::Snapshot;
                self.compactor_asks(number, Op::Get(Key::Snapshot(hash)));
                Ok(())
            }
            None => self.roll_computes(number),
        }
    }

    fn roll_computes(&mut self, number: usize) -> Check {
        let Some(work) = self.compactors[number].work.take() else { return Ok(()) };
        let prepared = match work.run() {
            Ok(prepared) => prepared,
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                self.compactors[number].phase = Phase::Doubting(format!("{error:?}"));
                self.compactor_asks(number, Op::GetManifest);
                return Ok(());
            }
            Err(error) => return violation("alarm", format!("Compactor({number}) cannot roll: {error:?}")),
        };
        let mut uploads =
            vec![Op::Create(Key::Snapshot(prepared.change.snapshot), prepared.snapshot.clone())];
        if let (Some(reference), Some(object)) = (&prepared.change.rolled, &prepared.object) {
            uploads.push(Op::Create(Key::Rolled(reference.job.get()), object.parts.concat().into()));
        }
        self.compactors[number].prepared = Some(prepared);
        if mutation::is(Mutation::DeleteBeforeFloor) {
            self.delete_consumed(number);
        }
        self.roll_uploads(number, uploads)
    }

    fn roll_uploads(&mut self, number: usize, mut rest: Vec<Op>) -> Check {
        if let Some(next) = rest.pop() {
            self.compactors[number].phase = Phase::Uploading(rest);
            self.compactor_asks(number, next);
            return Ok(());
        }
        self.roll_commits(number)
    }

    fn roll_commits(&mut self, number: usize) -> Check {
        let compactor = &self.compactors[number];
        let (Some(prepared), Some((manifest, revision))) = (&compactor.prepared, &compactor.manifest) else {
            return self.compactor_rests(number);
        };
        let applied = if mutation::is(Mutation::ReappliedAfterFloorMoved) {
            let began = compactor.began.as_ref().and_then(|began| prepared.change.apply(began));
            began.map(|next| Manifest { version: manifest.version + 1, ..next })
        } else {
            prepared.change.apply(manifest)
        };
        let Some(mut next) = applied else { return self.compactor_rests(number) };
        if mutation::is(Mutation::EpochAtFloorLost) {
            next.epoch_at_floor = manifest.epoch_at_floor;
        }
        // As if many more had followed: a list is bounded.
        let forgotten = next.epochs.len().saturating_sub(self.config.epochs_kept);
        next.epochs.drain(..forgotten);
        let expected = (!mutation::is(Mutation::FloorWithoutSwap)).then_some(*revision);
        let Ok(body) = next.encode() else { return self.compactor_rests(number) };
        self.compactors[number].phase = Phase::Committing;
        self.compactor_asks(number, Op::Swap(expected, body));
        Ok(())
    }

    /// C1: with the floor unchanged the same result is committed again, otherwise it is void. It may be in already.
    fn roll_looks_again(&mut self, number: usize, found: Option<(Bytes, u64)>) -> Check {
        let Some((bytes, revision)) = found else { return self.compactor_rests(number) };
        let manifest = Manifest::decode(&bytes).expect("a manifest");
        let Some(prepared) = &self.compactors[number].prepared else { return self.compactor_rests(number) };
        let rolled = prepared.change.rolled;
        if rolled.is_some_and(|rolled| manifest.rolled.contains(&rolled)) {
            return self.roll_committed(number);
        }
        self.compactors[number].manifest = Some((manifest, revision));
        self.roll_commits(number)
    }

    fn roll_committed(&mut self, number: usize) -> Check {
        self.stats.rolls += 1;
        self.delete_consumed(number);
        let compactor = &self.compactors[number];
        if let (Some(prepared), Some((manifest, _))) = (&compactor.prepared, &compactor.manifest) {
            let replaced = prepared.change.replaced.iter().map(|reference| Key::Rolled(reference.job.get()));
            let snapshot = manifest.snapshot.filter(|hash| prepared.change.snapshot != *hash);
            let garbage: Vec<Key> = replaced.chain(snapshot.map(Key::Snapshot)).collect();
            for key in garbage {
                self.send(Actor::Compactor(number), 0, Op::Delete(key));
            }
        }
        self.compactor_rests(number)
    }

    fn delete_consumed(&mut self, number: usize) {
        let Some(prepared) = &self.compactors[number].prepared else { return };
        let keys = Keys::new("");
        let consumed: Vec<u64> = prepared
            .consumed
            .iter()
            .filter_map(|key| keys.parse_wal(key))
            .map(|(_, seq)| seq.get())
            .collect();
        for seq in consumed {
            self.send(Actor::Compactor(number), 0, Op::Delete(Key::Wal(seq)));
        }
    }
}

/// The collector of garbage: lists, reads a floor, deletes.
#[derive(Debug, Default)]
pub(crate) struct Sweeper {
    floor: u64,
    listed: Vec<(u64, usize)>,
}

impl World {
    pub(crate) fn sweeper_woken(&mut self) {
        let after = self.pause();
        self.wake(Actor::Sweeper, 0, after, Wake::Tick);
        if self.rng.chance(self.config.sweep) {
            self.send(Actor::Sweeper, 0, Op::ListWal);
        }
        if self.rng.chance(0.5) {
            self.send(Actor::Sweeper, 0, Op::GetManifest);
        }
    }

    pub(crate) fn sweeper_answered(&mut self, answer: Answer) -> Check {
        match answer {
            Answer::Manifest(Some((bytes, _))) => {
                self.sweeper.floor = Manifest::decode(&bytes).expect("a manifest").floor.get();
            }
            Answer::Listed(mut names) => {
                for end in (1..names.len()).rev() {
                    names.swap(end, self.rng.index(end + 1));
                }
                if !names.is_sorted() {
                    self.stats.fault(Fault::UnsortedList);
                }
                self.sweeper.listed = names;
            }
            _ => return Ok(()),
        }
        let (floor, listed) = (self.sweeper.floor, std::mem::take(&mut self.sweeper.listed));
        let is_epoch = |size: usize| size == limits::WAL_HEADER_LEN;
        let newest = listed.iter().filter(|(_, size)| is_epoch(*size)).map(|(seq, _)| *seq).max();
        for (seq, size) in listed.into_iter().filter(|(seq, _)| *seq < floor) {
            let broken = mutation::is(Mutation::EpochsDeleted)
                || mutation::is(Mutation::OldEpochsDeleted) && Some(seq) != newest;
            if is_epoch(size) && !broken {
                continue;
            }
            // A DELETE may be as late as any request.
            if self.rng.chance(self.config.late) {
                let after = self.rng.log_between(MILLI, MINUTE);
                let event = crate::world::Event::Land { op: Op::Delete(Key::Wal(seq)), reply: None };
                self.schedule(self.now + after, event);
            } else {
                self.send(Actor::Sweeper, 0, Op::Delete(Key::Wal(seq)));
            }
        }
        Ok(())
    }
}
