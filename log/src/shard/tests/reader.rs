use super::*;
use crate::shard::reader::{Answer, Ask, Reader, ReaderError};
use crate::shard::walk::PathFault;

/// A reader that has begun at the floor of this manifest and now asks for the object there.
fn started(manifest: Manifest) -> Reader {
    let (mut reader, ask) = Reader::new();
    assert!(matches!(ask, Ask::Manifest));
    assert!(matches!(reader.next(Answer::Manifest(Some(manifest))).unwrap(), Ask::Restart(_)));
    assert!(matches!(reader.go_on(), Ask::Object(_)));
    reader
}

fn found(object: PathObject) -> Answer {
    Answer::Object(Some(Box::new(object)))
}

fn at(ask: &Ask) -> u64 {
    match ask {
        Ask::Object(seq) | Ask::Wait(seq) => seq.get(),
        _ => panic!("no number in {ask:?}"),
    }
}

#[test]
fn r1_waits_for_the_first_manifest() {
    let (mut reader, _) = Reader::new();
    assert!(matches!(reader.next(Answer::Manifest(None)).unwrap(), Ask::Wait(_)));
    assert!(matches!(reader.go_on(), Ask::Manifest));
}

#[test]
fn r2_delivers_data_in_order_without_a_look_at_the_floor() {
    let mut reader = started(manifest(100, 3));
    for number in 100..103 {
        let ask = reader.next(found(data_at(number, 3, &[(0, number, number + 1)]))).unwrap();
        let Ask::Deliver(object) = ask else { panic!("{ask:?}") };
        assert_eq!(object.header.seq, seq(number));
        assert_eq!(at(&reader.go_on()), number + 1);
    }
}

#[test]
fn r3_jumps_over_the_gap_only_while_the_floor_is_not_past_the_epoch() {
    let mut reader = started(manifest(100, 3));
    assert!(matches!(reader.next(found(epoch_at(100, 4))).unwrap(), Ask::Manifest));
    let ask = reader.next(Answer::Manifest(Some(manifest(100, 3)))).unwrap();
    assert_eq!(at(&ask), 100 + GAP);

    let mut reader = started(manifest(100, 3));
    reader.next(found(epoch_at(100, 4))).unwrap();
    let ask = reader.next(Answer::Manifest(Some(manifest(101, 3)))).unwrap();
    assert!(matches!(ask, Ask::Restart(_)), "it may be a stray");
    assert_eq!(at(&reader.go_on()), 101);
}

#[test]
fn r4_waits_at_the_tail_and_begins_anew_below_the_floor() {
    let mut reader = started(manifest(100, 3));
    assert!(matches!(reader.next(Answer::Object(None)).unwrap(), Ask::Manifest));
    let ask = reader.next(Answer::Manifest(Some(manifest(100, 3)))).unwrap();
    assert!(matches!(ask, Ask::Wait(_)));
    assert_eq!((at(&ask), at(&reader.go_on())), (100, 100));

    reader.next(Answer::Object(None)).unwrap();
    assert!(matches!(reader.next(Answer::Manifest(Some(manifest(300, 4)))).unwrap(), Ask::Restart(_)));
    assert_eq!(at(&reader.go_on()), 300);
}

#[test]
fn r5_stops_at_what_cannot_be() {
    for object in [data_at(101, 3, &[(0, 0, 1)]), data_at(100, 2, &[(0, 0, 1)])] {
        let stopped = started(manifest(100, 3)).next(found(object));
        assert!(matches!(stopped, Err(ReaderError::Path(_))), "{stopped:?}");
    }
    let mut reader = started(manifest(100, 3));
    reader.next(found(epoch_at(100, 3))).unwrap();
    let stopped = reader.next(Answer::Manifest(Some(manifest(100, 3))));
    assert!(matches!(stopped, Err(ReaderError::Path(PathFault::EpochOrder { .. }))), "{stopped:?}");
}

#[test]
fn an_answer_to_another_question_is_refused() {
    let unasked = started(manifest(100, 3)).next(Answer::Manifest(None));
    assert!(matches!(unasked, Err(ReaderError::Answer)));
}

#[test]
fn an_offer_is_taken_as_if_it_had_been_read_at_its_position() {
    let offered = |number, epoch| data_at(number, epoch, &[(0, 0, 1)]).header;
    let mut reader = started(manifest(100, 3));
    for refused in [offered(101, 3), offered(99, 3), offered(100, 4), epoch_at(100, 4).header] {
        assert!(!reader.offer(&refused), "{refused:?}");
    }
    assert!(reader.offer(&offered(100, 3)), "in place of the answer that it waits for");
    assert_eq!(at(&reader.go_on()), 101);
    reader.next(Answer::Object(None)).unwrap();
    assert!(reader.offer(&offered(101, 3)), "it was absent when it was looked for");
    assert_eq!(at(&reader.go_on()), 102);
    reader.next(found(epoch_at(102, 4))).unwrap();
    assert!(!reader.offer(&offered(102, 3)), "only the floor tells what an EPOCH there means");
    assert_eq!(at(&reader.next(Answer::Manifest(Some(manifest(100, 3)))).unwrap()), 102 + GAP);
    assert!(reader.offer(&offered(102 + GAP, 4)));
}
