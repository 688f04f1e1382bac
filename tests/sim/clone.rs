//! The row of the outcome table that no fault can reach: a process restored from an image of its memory, which the
//! protocol excludes. It must notice, stop, and promise nothing.

use forebay_log::error::Outcome;
use forebay_log::shard::append::AppendError;
use forebay_log::shard::taker::PutAnswer;
use forebay_log::shard::writer::Ended;
use forebay_log::testing::bare::{BareLeader, Reply, Todo};

use crate::exclusive::{Sent, take_over};
use crate::store::{Answer, Key, Op, RecordId, Store};
use crate::world::timestamp;

/// Takes over, always with the same nonces, and takes an append.
fn lead(store: &mut Store, record: RecordId) -> (BareLeader, Vec<Reply>) {
    let leadership = take_over(store, 0, 7).expect("nobody else is there");
    let mut leader = BareLeader::new(leadership, None);
    let sent = Sent { records: vec![(0, vec![record])], name: None };
    let replies = leader.append(timestamp(0), vec![sent.to_append(0)]);
    (leader, replies)
}

#[test]
fn a_clone_that_meets_other_data_stops_and_answers_unknown() {
    let mut store = Store::default();
    let (mut original, _) = lead(&mut store, 1);
    // The same takeover once more, with the same nonces: the clone knows what the original knew.
    store.objects.clear();
    let (mut clone, mut replies) = lead(&mut store, 2);
    assert_eq!(original.epoch(), clone.epoch());

    let (seq, bytes) = original.freeze(1).expect("an append waits");
    store.apply(&Op::Create(Key::Wal(seq.get()), bytes));
    let (seq, bytes) = clone.freeze(1).expect("an append waits");
    let (answer, _) = store.apply(&Op::Create(Key::Wal(seq.get()), bytes));
    assert!(matches!(answer, Answer::Put(PutAnswer::Exists)), "{answer:?}");
    assert_eq!(clone.put_answered(seq, PutAnswer::Exists), Todo::ReadBack(seq));
    let there = store.objects[&Key::Wal(seq.get())].header.clone();
    let todo = clone.read_back(seq, there.as_ref());
    assert_eq!(todo, Todo::Ended(Ended::Impossible { seq }));
    let unknown = AppendError::NoLeader { outcome: Outcome::Unknown };
    assert_eq!(replies.remove(0).try_recv().expect("everybody is answered"), Err(unknown));
    assert_eq!(clone.freeze(1), None);
}
