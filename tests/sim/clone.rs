//! The row of the outcome table that no fault can reach: a process restored from an image of its memory, which the
//! protocol excludes. It must notice, stop, and promise nothing.

use std::time::Duration;

use bytes::Bytes;
use forebay_log::error::Outcome;
use forebay_log::model::WalSeq;
use forebay_log::shard::append::AppendError;
use forebay_log::shard::taker::PutAnswer;
use forebay_log::shard::writer::Ended;
use forebay_log::testing::bare::{Action, BareLeader, BareOptions, Reply};

use crate::client::Sent;
use crate::store::{Answer, Key, Op, RecordId, Store};
use crate::takeover::take_over;
use crate::world::{SHARD, timestamp};

/// Takes over, always with the same nonces, and takes an append.
fn lead(store: &mut Store, record: RecordId) -> (BareLeader, Vec<Reply>) {
    let leadership = take_over(store, SHARD, 0, 7).expect("nobody else is there");
    let options = BareOptions {
        exclusive: false,
        journal: None,
        flush_linger: Duration::ZERO,
        object_bytes: 1,
        spill_bytes: usize::MAX,
    };
    let mut leader = BareLeader::new(leadership, options);
    let sent = Sent { records: vec![(0, vec![record])], name: None };
    let replies = leader.append(Duration::ZERO, timestamp(0), vec![sent.to_append(0)]);
    (leader, replies)
}

/// Freezes what waits.
fn freeze(leader: &mut BareLeader) -> (WalSeq, Bytes) {
    leader.freeze_due(Duration::ZERO, true);
    match leader.next_action() {
        Some(Action::Put { seq, parts, .. }) => (seq, parts.concat().into()),
        other => panic!("an append waits, and {other:?}"),
    }
}

#[test]
fn a_clone_that_meets_other_data_stops_and_answers_unknown() {
    let mut store = Store::default();
    let (mut original, _) = lead(&mut store, 1);
    // The same takeover once more, with the same nonces: the clone knows what the original knew.
    store.objects.clear();
    let (mut clone, mut replies) = lead(&mut store, 2);
    assert_eq!(original.epoch(), clone.epoch());

    let (seq, bytes) = freeze(&mut original);
    store.apply(&Op::Create(Key::Wal(seq.get()), bytes));
    let (seq, bytes) = freeze(&mut clone);
    let (answer, _) = store.apply(&Op::Create(Key::Wal(seq.get()), bytes));
    assert!(matches!(answer, Answer::Put(PutAnswer::Exists)), "{answer:?}");
    clone.put_answered(seq, PutAnswer::Exists);
    assert!(matches!(clone.next_action(), Some(Action::ReadBack(at)) if at == seq));
    let there = store.objects[&Key::Wal(seq.get())].header.clone();
    clone.read_back(seq, there.as_ref());
    let ended = Ended::Impossible { seq };
    assert!(matches!(clone.next_action(), Some(Action::Ended(how)) if how == ended));
    let unknown = AppendError::NoLeader { outcome: Outcome::Unknown };
    assert_eq!(replies.remove(0).try_recv().expect("everybody is answered"), Err(unknown));
    clone.freeze_due(Duration::ZERO, true);
    assert!(clone.next_action().is_none());
}
