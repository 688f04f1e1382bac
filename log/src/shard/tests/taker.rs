use std::collections::BTreeMap;

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;
use crate::format::snapshot::{PartitionEnd, Snapshot};
use crate::limits;
use crate::shard::state::ShardState;
use crate::shard::taker::{Answer, Ask, Leadership, PutAnswer, Taker, TakerError};

/// A bucket as the taker sees it; each test changes it between two questions.
struct Bucket {
    taker: Taker,
    ask: Ask,
    manifest: Option<Manifest>,
    objects: BTreeMap<u64, PathObject>,
    snapshot: Option<Snapshot>,
}

impl Bucket {
    fn new(manifest: Option<Manifest>, objects: impl IntoIterator<Item = PathObject>) -> Self {
        let rng = StdRng::seed_from_u64(1);
        let (taker, ask) = Taker::new(CLUSTER, SHARD, Timestamp::from_millis(77), rng);
        let objects = objects.into_iter().map(|object| (object.header.seq.get(), object)).collect();
        Self { taker, ask, manifest, objects, snapshot: None }
    }

    fn answer(&mut self, answer: Answer) -> Result<(), TakerError> {
        self.ask = self.taker.next(answer)?;
        Ok(())
    }

    /// Answers the question at hand as the bucket would.
    fn step(&mut self) -> Result<(), TakerError> {
        let answer = match &self.ask {
            Ask::Manifest => Answer::Manifest(self.manifest.clone()),
            Ask::CreateManifest(manifest) => {
                self.manifest = Some(manifest.clone());
                Answer::ManifestCreated
            }
            Ask::Snapshot(_) => Answer::Snapshot(
                self.snapshot.as_ref().map(|snapshot| Box::new(ShardState::from_snapshot(Some(snapshot)))),
            ),
            Ask::Object(at) => Answer::Object(self.objects.get(&at.get()).cloned().map(Box::new)),
            Ask::PutEpoch { seq, body, .. } => {
                let (at, taken) = (seq.get(), self.objects.contains_key(&seq.get()));
                if !taken {
                    let header = WalHeader::decode(body).unwrap();
                    self.objects.insert(at, PathObject { header, footer: Footer::default() });
                }
                Answer::Put(if taken { PutAnswer::Exists } else { PutAnswer::Created })
            }
            Ask::Lead(_) => panic!("nothing is asked of a leader"),
        };
        self.answer(answer)
    }

    /// Answers until a question is met.
    fn until(&mut self, met: impl Fn(&Ask) -> bool) {
        while !met(&self.ask) {
            self.step().unwrap();
        }
    }

    fn until_put(&mut self) -> u64 {
        self.until(|ask| matches!(ask, Ask::PutEpoch { .. }));
        let Ask::PutEpoch { seq, .. } = &self.ask else { unreachable!() };
        seq.get()
    }

    fn lead(mut self) -> Leadership {
        self.until(|ask| matches!(ask, Ask::Lead(_)));
        let Ask::Lead(leadership) = self.ask else { unreachable!() };
        *leadership
    }

    fn fail(mut self) -> TakerError {
        loop {
            if let Err(error) = self.step() {
                return error;
            }
        }
    }
}

fn log() -> Vec<PathObject> {
    let second = GAP + 2;
    vec![
        epoch_at(0, 1),
        data_at(GAP, 1, &[(0, 0, 3)]),
        data_at(GAP + 1, 1, &[(0, 3, 5), (1, 0, 1)]),
        // A stray of epoch 1 in the gap, which nobody reads.
        data_at(GAP + 5, 1, &[(0, 5, 50)]),
        epoch_at(second, 2),
        data_at(second + GAP, 2, &[(0, 5, 6)]),
    ]
}

/// The number at which the next EPOCH of [`log`] belongs.
const TAIL: u64 = 2 * GAP + 3;

#[test]
fn the_first_leader_creates_the_manifest_and_begins_after_the_gap() {
    let leadership = Bucket::new(None, []).lead();
    assert_eq!((leadership.epoch, leadership.first_seq), (LeaderEpoch::new(1), seq(GAP)));
    assert_eq!(leadership.state.next_offset(partition(0)), Offset::ZERO);
    assert_eq!(leadership.append_time, Timestamp::from_millis(77));
}

#[test]
fn the_walk_recovers_offsets_over_epochs_and_gaps() {
    let leadership = Bucket::new(Some(manifest(0, 0)), log()).lead();
    assert_eq!((leadership.epoch, leadership.first_seq), (LeaderEpoch::new(3), seq(TAIL + GAP)));
    assert_eq!(leadership.state.next_offset(partition(0)), Offset::new(6));
    assert_eq!(leadership.state.next_offset(partition(1)), Offset::new(1));
    assert_eq!(leadership.objects.len(), 3);
    assert_eq!(leadership.append_time, Timestamp::from_millis(i64::try_from(TAIL - 1).unwrap()));
}

#[test]
fn the_walk_begins_with_the_snapshot_at_the_floor() {
    let end = PartitionEnd {
        partition: partition(0),
        next_offset: Offset::new(3),
        max_timestamp: Timestamp::from_millis(5),
    };
    let snapshot = Snapshot { partitions: vec![end], ..Snapshot::default() };
    let floor = Manifest { snapshot: Some(5), ..manifest(GAP + 1, 1) };
    let mut bucket = Bucket::new(Some(floor), log());
    bucket.snapshot = Some(snapshot);
    let leadership = bucket.lead();
    assert_eq!(leadership.state.next_offset(partition(0)), Offset::new(6));
    assert_eq!(leadership.objects.len(), 2);
}

#[test]
fn t1_begins_anew_when_the_snapshot_is_gone() {
    let mut bucket = Bucket::new(Some(Manifest { snapshot: Some(5), ..manifest(GAP, 1) }), log());
    bucket.until(|ask| matches!(ask, Ask::Snapshot(5)));
    bucket.manifest = Some(manifest(0, 0));
    bucket.step().unwrap();
    assert!(matches!(bucket.ask, Ask::Manifest));
    assert_eq!(bucket.lead().epoch, LeaderEpoch::new(3));
}

#[test]
fn t3_begins_anew_when_the_floor_moved_during_the_walk() {
    let mut bucket = Bucket::new(Some(manifest(0, 0)), log());
    bucket.until(|ask| matches!(ask, Ask::Object(at) if at.get() == GAP + 1));
    // Everything below the second DATA was rolled and deleted, and a stray EPOCH landed there.
    bucket.objects.remove(&GAP);
    bucket.objects.remove(&(GAP + 1));
    bucket.objects.insert(TAIL - 1, data_at(TAIL - 1, 2, &[(0, 0, 1)]));
    bucket.manifest = Some(manifest(GAP + 2, 1));
    bucket.step().unwrap();
    assert!(matches!(bucket.ask, Ask::Manifest), "T3 comes before the PUT");
    bucket.step().unwrap();
    assert!(matches!(bucket.ask, Ask::Manifest), "and begins anew");
    assert_eq!(bucket.until_put(), TAIL);
}

#[test]
fn t4_sends_the_same_bytes_to_the_same_number_without_an_answer() {
    for answer in [PutAnswer::Unknown, PutAnswer::Conflict] {
        let mut bucket = Bucket::new(Some(manifest(0, 0)), log());
        assert_eq!(bucket.until_put(), TAIL);
        let Ask::PutEpoch { body: first, again: false, .. } = &bucket.ask else { panic!("{:?}", bucket.ask) };
        let first = first.clone();
        bucket.answer(Answer::Put(answer)).unwrap();
        let Ask::PutEpoch { seq, body, again: true } = &bucket.ask else { panic!("{:?}", bucket.ask) };
        assert_eq!((seq.get(), body), (TAIL, &first));
    }
}

#[test]
fn t4_gives_up_when_the_store_never_answers() {
    let mut bucket = Bucket::new(Some(manifest(0, 0)), log());
    bucket.until_put();
    let gave_up =
        (0..limits::TAKEOVER_ATTEMPTS_MAX).find_map(|_| bucket.answer(Answer::Put(PutAnswer::Unknown)).err());
    assert!(matches!(gave_up, Some(TakerError::Contended { .. })), "{gave_up:?}");
}

#[test]
fn t4_knows_its_own_epoch_when_the_name_is_taken_by_it() {
    let mut bucket = Bucket::new(Some(manifest(0, 0)), log());
    bucket.until_put();
    let Ask::PutEpoch { body, .. } = &bucket.ask else { unreachable!() };
    let mine = PathObject { header: WalHeader::decode(body).unwrap(), footer: Footer::default() };
    bucket.objects.insert(TAIL, mine);
    bucket.answer(Answer::Put(PutAnswer::Unknown)).unwrap();
    let leadership = bucket.lead();
    assert_eq!((leadership.epoch, leadership.first_seq), (LeaderEpoch::new(3), seq(TAIL + GAP)));
}

#[test]
fn t4_goes_on_over_what_another_wrote_at_its_number() {
    for (other, epoch, first) in
        [(data_at(TAIL, 2, &[(0, 6, 9)]), 3, TAIL + 1 + GAP), (epoch_at(TAIL, 3), 4, TAIL + GAP + GAP)]
    {
        let mut bucket = Bucket::new(Some(manifest(0, 0)), log());
        bucket.until_put();
        let Ask::PutEpoch { body: lost, .. } = &bucket.ask else { unreachable!() };
        let lost = WalHeader::decode(lost).unwrap().nonce;
        bucket.objects.insert(TAIL, other);
        let leadership = bucket.lead();
        assert_eq!((leadership.epoch, leadership.first_seq), (LeaderEpoch::new(epoch), seq(first)));
        assert_ne!(leadership.nonce, lost, "each attempt has a nonce of its own");
        let records = if epoch == 3 { 9 } else { 6 };
        assert_eq!(leadership.state.next_offset(partition(0)), Offset::new(records));
    }
}

#[test]
fn t4_begins_anew_when_the_name_is_taken_and_then_free() {
    let mut bucket = Bucket::new(Some(manifest(0, 0)), log());
    bucket.until_put();
    bucket.answer(Answer::Put(PutAnswer::Exists)).unwrap();
    assert!(matches!(bucket.ask, Ask::Object(at) if at.get() == TAIL));
    bucket.step().unwrap();
    assert!(matches!(bucket.ask, Ask::Manifest));
    assert_eq!(bucket.until_put(), TAIL);
}

#[test]
fn t5_forgets_an_epoch_below_the_floor() {
    let mut bucket = Bucket::new(Some(manifest(0, 0)), log());
    bucket.until_put();
    bucket.step().unwrap();
    assert!(matches!(bucket.ask, Ask::Manifest));
    // The number had been taken by DATA, and that was rolled and deleted: the EPOCH that landed is void.
    bucket.manifest = Some(manifest(TAIL + 1, 2));
    let leadership = bucket.lead();
    assert_eq!((leadership.epoch, leadership.first_seq), (LeaderEpoch::new(3), seq(TAIL + 1 + GAP)));
}

#[test]
fn t5_accepts_a_floor_at_its_epoch() {
    let mut bucket = Bucket::new(Some(manifest(0, 0)), log());
    bucket.until_put();
    bucket.step().unwrap();
    let rolled = Manifest { version: 9, ..manifest(TAIL, 2) };
    bucket.manifest = Some(rolled.clone());
    bucket.step().unwrap();
    let Ask::Lead(leadership) = bucket.ask else { panic!("{:?}", bucket.ask) };
    assert_eq!(leadership.manifest, rolled, "what the one before names may be deleted");
}

#[test]
fn a_fault_counts_only_while_the_floor_stands() {
    // A stray EPOCH of an old epoch, at a number whose DATA was deleted.
    let stray = || {
        let mut objects = log();
        objects[2] = epoch_at(GAP + 1, 1);
        objects
    };
    let error = Bucket::new(Some(manifest(0, 0)), stray()).fail();
    assert!(matches!(error, TakerError::Path(_)), "{error}");

    let mut bucket = Bucket::new(Some(manifest(0, 0)), stray());
    bucket.until(|ask| matches!(ask, Ask::Object(at) if at.get() == GAP + 1));
    bucket.manifest = Some(manifest(GAP + 2, 1));
    bucket.objects.retain(|at, _| *at >= GAP + 2);
    bucket.objects.insert(TAIL - 1, data_at(TAIL - 1, 2, &[(0, 0, 1)]));
    assert_eq!(bucket.lead().epoch, LeaderEpoch::new(3));
}

#[test]
fn offsets_that_do_not_continue_are_a_fault_unless_flagged() {
    let tail = |object: PathObject| {
        let mut objects = log();
        objects.push(object);
        Bucket::new(Some(manifest(0, 0)), objects)
    };
    assert!(matches!(tail(data_at(TAIL, 2, &[(0, 7, 8)])).fail(), TakerError::Path(_)));
    assert!(matches!(tail(jump_at(TAIL, 2, &[(0, 5, 8)])).fail(), TakerError::Path(_)));
    let leadership = tail(jump_at(TAIL, 2, &[(0, 1000, 1000), (1, 2000, 2001)])).lead();
    assert_eq!(leadership.state.next_offset(partition(0)), Offset::new(1000));
    assert_eq!(leadership.state.next_offset(partition(1)), Offset::new(2001));
}

#[test]
fn another_shards_manifest_is_refused() {
    let differs = |change: fn(&mut Manifest)| {
        let mut manifest = manifest(0, 0);
        change(&mut manifest);
        matches!(Bucket::new(Some(manifest), []).fail(), TakerError::Manifest { .. })
    };
    assert!(differs(|manifest| manifest.cluster = ClusterId::new(1)));
    assert!(differs(|manifest| manifest.shard = ShardId::new(1)));
}

#[test]
fn a_leader_never_writes_further_ahead_than_the_gap_of_its_shard() {
    for (gap, span) in [(2, 2), (limits::WRITE_SPAN, limits::WRITE_SPAN), (1000, limits::WRITE_SPAN)] {
        let leadership = Bucket::new(Some(Manifest { gap, ..manifest(0, 0) }), []).lead();
        assert_eq!((leadership.first_seq, leadership.span), (seq(gap), span));
    }
}

#[test]
fn a_taker_that_always_comes_too_late_gives_up() {
    let mut bucket = Bucket::new(Some(manifest(0, 0)), []);
    let error = loop {
        if matches!(bucket.ask, Ask::Manifest) {
            // The floor moves on between any two looks.
            let floor = bucket.manifest.as_ref().map_or(0, |manifest| manifest.floor.get());
            bucket.manifest = Some(manifest(floor + 1, 1));
        }
        if let Err(error) = bucket.step() {
            break error;
        }
    };
    assert!(matches!(error, TakerError::Contended { .. }), "{error}");
}
