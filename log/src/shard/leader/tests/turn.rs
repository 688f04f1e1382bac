use super::*;
use crate::model::{Header, LeaderEpoch, Nonce};
use crate::shard::leader::pending::PendingFrame;
use crate::shard::leader::turn::{Judged, Turn};
use crate::shard::partition::PartitionLog;
use crate::shard::state::ShardState;

/// Takes units in one turn; returns the frame and what was judged.
fn turn(state: &mut ShardState, units: Vec<Append>) -> (PendingFrame, Vec<Judged>) {
    let mut turn = Turn::new(state, Timestamp::from_millis(5));
    let judged = units.into_iter().map(|unit| turn.take(unit)).collect();
    let frame =
        turn.finish(LeaderEpoch::new(1), Nonce::new(1), |partition| Arc::new(PartitionLog::new(partition)));
    (frame, judged)
}

fn runs(frame: &PendingFrame) -> Vec<(u16, u64, u64)> {
    let run = |batch: &crate::shard::leader::pending::PlacedBatch| {
        (batch.log.partition().partition.get(), batch.base.get(), batch.end.get())
    };
    frame.batches.iter().map(run).collect()
}

#[test]
fn units_for_one_partition_become_one_batch() {
    let mut state = ShardState::default();
    let units = vec![unit(0, &["a", "b"]), unit(1, &["x"]), unit(0, &["c"])];
    let (frame, judged) = turn(&mut state, units);
    assert_eq!(runs(&frame), [(0, 0, 3), (1, 0, 1)]);
    let placed = judged.iter().map(|judged| match judged {
        Judged::Staged(appended) => base(appended),
        other => panic!("{other:?}"),
    });
    assert_eq!(placed.collect::<Vec<_>>(), [0, 0, 2], "each keeps its own place");
    assert_eq!(state.next_offset(partition(0)), Offset::new(3));
}

#[test]
fn conditional_and_encoded_units_keep_a_batch_of_their_own() {
    let encoded = || {
        let record = Record { value: Some(Bytes::from_static(b"e")), ..Record::default() };
        let mut append = unit(0, &["x"]);
        append.batches[0].source = BatchSource::Encoded(
            crate::format::record_batch::encode(&[record], Compression::None, TimestampType::CreateTime)
                .unwrap(),
        );
        append
    };
    let units =
        vec![unit(0, &["a"]), expecting(1, unit(0, &["b"])), unit(0, &["c"]), encoded(), unit(0, &["d"])];
    let (frame, _) = turn(&mut ShardState::default(), units);
    assert_eq!(runs(&frame), [(0, 0, 1), (0, 1, 2), (0, 2, 3), (0, 3, 4), (0, 4, 5)]);
}

#[test]
fn a_conditional_unit_is_judged_against_what_is_in_flight() {
    let mut state = ShardState::default();
    let units = vec![unit(0, &["a", "b"]), expecting(0, unit(0, &["late"])), expecting(2, unit(0, &["c"]))];
    let (frame, judged) = turn(&mut state, units);
    assert_eq!(runs(&frame), [(0, 0, 2), (0, 2, 3)]);
    let Judged::Refused(error) = &judged[1] else { panic!("{judged:?}") };
    assert_eq!(*error, AppendError::Expected { expected: Offset::ZERO, current: Offset::new(2) });
}

#[test]
fn a_unit_is_refused_whole() {
    let mut both = unit(0, &["a"]);
    both.batches.extend(expecting(7, unit(1, &["b"])).batches);
    let mut state = ShardState::default();
    let (frame, _) = turn(&mut state, vec![named(0, 9, both)]);
    assert!(frame.batches.is_empty());
    assert_eq!(state.next_offset(partition(0)), Offset::ZERO);
    assert!(state.dedupe().is_empty(), "a refused unit may be tried again under its name");
}

#[test]
fn a_retry_is_recognised_within_a_turn_and_after_it() {
    let mut state = ShardState::default();
    let unit_of = || named(4, 9, unit(0, &["a"]));
    let (frame, judged) = turn(&mut state, vec![unit(0, &["x"]), unit_of(), unit_of()]);
    assert_eq!(runs(&frame), [(0, 0, 2)]);
    let later =
        turn(&mut state, vec![unit_of(), named(4, 8, unit(0, &["other"])), named(5, 9, unit(0, &["b"]))]);
    for judged in [&judged[2], &later.1[0]] {
        let Judged::Duplicate(appended) = judged else { panic!("{judged:?}") };
        assert_eq!((base(appended), appended.replayed), (1, true));
    }
    assert!(matches!(later.1[1], Judged::Refused(AppendError::Mismatch)));
    assert_eq!(runs(&later.0), [(0, 2, 3)]);
}

#[test]
fn a_producers_units_are_judged_one_behind_the_other() {
    let of = |epoch, sequence, body, values: &[&str]| {
        let name = Dedupe { id: 1, producer_epoch: Some(epoch), first_sequence: sequence, body_hash: body };
        Append { dedupe: Some(name), ..unit(0, values) }
    };
    let units = vec![
        of(0, 5, 1, &["a", "b"]),
        of(0, 7, 2, &["c"]),
        of(0, 9, 3, &["ahead"]),
        of(0, 5, 1, &["a", "b"]),
        of(0, 5, 9, &["other"]),
        of(1, 0, 4, &["d"]),
        of(0, 8, 5, &["late"]),
    ];
    let (frame, judged) = turn(&mut ShardState::default(), units);
    assert_eq!(runs(&frame), [(0, 0, 4)]);
    assert_eq!(frame.batches[0].dedupe.len(), 3, "each append keeps its own entry");
    let answers: Vec<_> = judged
        .into_iter()
        .map(|judged| match judged {
            Judged::Staged(_) => "staged".to_owned(),
            Judged::Duplicate(appended) => format!("duplicate at {}", base(&appended)),
            Judged::Refused(error) => error.to_string(),
        })
        .collect();
    let gap = AppendError::SequenceGap { expected: 8 }.to_string();
    let fenced = AppendError::ProducerFenced { current: 1 }.to_string();
    let mismatch = AppendError::Mismatch.to_string();
    assert_eq!(answers, ["staged", "staged", &gap, "duplicate at 0", &mismatch, "staged", &fenced]);
}

#[test]
fn framing_is_counted_so_that_coalesced_records_fit_a_batch() {
    let header = Header { name: Bytes::new(), value: Some(Bytes::new()) };
    let record = Record { headers: vec![header; limits::RECORD_HEADERS_MAX], ..Record::default() };
    let many = || {
        let mut append = unit(0, &["x"]);
        let BatchSource::Records { records, .. } = &mut append.batches[0].source else { unreachable!() };
        *records = vec![record.clone(); 5_000];
        append
    };
    assert!(many().check().is_ok());
    let (frame, _) = turn(&mut ShardState::default(), (0..14).map(|_| many()).collect());
    for batch in &frame.batches {
        assert!(batch.bytes.len() <= many().size_bytes() + limits::ROLLED_EXTENT_BYTES);
    }
}

#[test]
fn a_unit_without_records_or_past_its_bound_is_refused() {
    assert_eq!(unit(0, &[]).check(), Err(AppendError::Empty));
    assert_eq!(Append { batches: Vec::new(), ..unit(0, &[]) }.check(), Err(AppendError::Empty));
    let large = "x".repeat(limits::BATCH_BYTES_MAX / 2);
    assert!(matches!(unit(0, &[&large]).check(), Err(AppendError::TooLarge { .. })));
}
