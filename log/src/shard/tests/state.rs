use super::*;
use crate::shard::state::ShardState;

#[test]
fn a_state_comes_back_from_its_snapshot() {
    let mut state = ShardState::default();
    for object in [data_at(64, 1, &[(1, 0, 3), (0, 0, 1)]), data_at(65, 1, &[(0, 1, 4)])] {
        state.apply(&object.header, &object.footer).unwrap();
    }
    for (sequence, time) in [(5, 1), (4, 2), (9, 3)] {
        state.dedupe_mut().insert(partition(0), dedupe(1, sequence, time));
    }
    let snapshot = state.to_snapshot(seq(66), Timestamp::from_millis(65));
    let encoded = snapshot.encode().unwrap();
    assert_eq!(crate::format::snapshot::Snapshot::decode(&encoded).unwrap(), snapshot);
    let back = ShardState::from_snapshot(Some(&snapshot));
    assert_eq!(back.to_snapshot(seq(66), Timestamp::from_millis(65)), snapshot);
    assert_eq!(back.next_offset(partition(0)), Offset::new(4));
    let order: Vec<_> = back.dedupe().in_order().map(|(_, entry)| entry.first_sequence).collect();
    assert_eq!(order, [5, 4, 9], "oldest first");
}

#[test]
fn an_announced_offset_is_where_the_partition_goes_on() {
    let mut state = ShardState::default();
    let object = jump_at(64, 1, &[(0, 1 << 20, 1 << 20)]);
    state.apply(&object.header, &object.footer).unwrap();
    assert_eq!(state.next_offset(partition(0)), Offset::new(1 << 20));
    let object = data_at(65, 1, &[(0, 1 << 20, (1 << 20) + 2)]);
    state.apply(&object.header, &object.footer).unwrap();
}
