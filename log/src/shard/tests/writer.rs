use super::*;
use crate::limits;
use crate::shard::taker::PutAnswer;
use crate::shard::writer::{Ended, Next, Writer};

const FIRST: u64 = 64;

fn header(at: u64) -> WalHeader {
    data_at(at, 1, &[(0, at, at + 1)]).header
}

/// A writer with so many objects frozen.
fn writer(frozen: u64) -> Writer {
    let mut writer = Writer::new(seq(FIRST), limits::WRITE_SPAN);
    for at in FIRST..FIRST + frozen {
        writer.freeze(header(at));
    }
    writer
}

#[test]
fn each_answer_to_a_put_has_its_row() {
    for (answer, next) in [
        (PutAnswer::Created, Next::Resolved),
        (PutAnswer::Exists, Next::ReadBack),
        (PutAnswer::Conflict, Next::ReadBack),
        (PutAnswer::Unknown, Next::PutAgain),
    ] {
        assert_eq!(writer(1).put_answered(seq(FIRST), answer), next);
    }
}

#[test]
fn what_stands_at_a_taken_name_decides() {
    let at = seq(FIRST);
    assert_eq!(writer(1).read_back(at, Some(&header(FIRST))), Next::Resolved);
    assert_eq!(writer(1).read_back(at, None), Next::PutAgain, "deleted: never 'not stored'");

    let mut fenced = writer(1);
    assert_eq!(fenced.read_back(at, Some(&epoch_at(FIRST, 2).header)), Next::ReadFloor);
    assert_eq!(fenced.ended(), None, "in doubt until the floor is read");

    let other = WalHeader { content_hash: 1, ..header(FIRST) };
    let mut cloned = writer(1);
    assert_eq!(cloned.read_back(at, Some(&other)), Next::Stop);
    assert_eq!(cloned.ended(), Some(Ended::Impossible { seq: at }));
}

#[test]
fn only_the_contiguous_prefix_counts_as_resolved() {
    let mut writer = writer(3);
    let resolved = |writer: &mut Writer, at| {
        assert_eq!(writer.put_answered(seq(at), PutAnswer::Created), Next::Resolved);
        writer.resolved_below().get()
    };
    assert_eq!(writer.resolved_below(), seq(FIRST));
    assert_eq!(resolved(&mut writer, FIRST + 2), FIRST);
    assert_eq!(resolved(&mut writer, FIRST), FIRST + 1);
    assert_eq!(resolved(&mut writer, FIRST + 1), FIRST + 3);
}

#[test]
fn few_puts_are_under_way_at_once() {
    let in_flight = limits::PUTS_IN_FLIGHT_MAX as u64;
    let mut writer = writer(in_flight);
    assert_eq!(writer.may_freeze(), None);
    writer.put_answered(seq(FIRST + 1), PutAnswer::Created);
    assert_eq!(writer.may_freeze(), Some(seq(FIRST + in_flight)));
}

#[test]
fn the_span_is_a_distance_from_the_lowest_unresolved() {
    let mut writer = writer(1);
    let mut at = FIRST;
    while let Some(next) = writer.may_freeze() {
        at = next.get();
        writer.freeze(header(at));
        writer.put_answered(next, PutAnswer::Created);
    }
    assert_eq!(at, FIRST + limits::WRITE_SPAN - 1);
    assert_eq!(writer.resolved_below(), seq(FIRST));
    writer.put_answered(seq(FIRST), PutAnswer::Created);
    assert_eq!((writer.resolved_below(), writer.may_freeze()), (seq(at + 1), Some(seq(at + 1))));
}

#[test]
#[should_panic(expected = "at the number it was given")]
fn an_object_is_frozen_at_its_number_only() {
    writer(1).freeze(header(FIRST));
}

#[test]
fn the_floor_read_after_the_epoch_classifies_what_was_not_acknowledged() {
    for (floor, not_stored_from) in [(0, Some(FIRST)), (FIRST, Some(FIRST)), (FIRST + 1, None)] {
        let mut writer = writer(2);
        writer.read_back(seq(FIRST), Some(&epoch_at(FIRST, 2).header));
        let ended = Ended::Fenced { not_stored_from: not_stored_from.map(seq) };
        assert_eq!(writer.fence(seq(FIRST), seq(floor)), ended);
        assert_eq!(writer.ended(), Some(ended));
    }
}

#[test]
fn nothing_is_sent_or_acknowledged_after_the_end() {
    let mut writer = writer(3);
    writer.read_back(seq(FIRST + 1), Some(&epoch_at(FIRST + 1, 2).header));
    let late = [
        writer.put_answered(seq(FIRST), PutAnswer::Created),
        writer.put_answered(seq(FIRST + 2), PutAnswer::Unknown),
        writer.read_back(seq(FIRST), Some(&header(FIRST))),
        writer.read_back(seq(FIRST), None),
    ];
    assert_eq!(late, [Next::Stop; 4]);
    assert_eq!((writer.may_freeze(), writer.resolved_below()), (None, seq(FIRST)));
}
