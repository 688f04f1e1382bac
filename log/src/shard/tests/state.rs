use super::*;
use crate::limits;
use crate::shard::state::{DedupeTable, Seen, ShardState};

#[test]
fn a_table_tells_new_from_seen_from_misused() {
    let mut table = DedupeTable::default();
    table.insert(partition(0), dedupe(1, 0, 10));
    table.insert(partition(1), dedupe(1, 0, 10));
    assert_eq!(table.check(1, 1, 99), Seen::New);
    assert_eq!(table.check(2, 0, 99), Seen::New);
    assert_eq!(table.check(1, 0, 98), Seen::Mismatch);
    let places = vec![(partition(0), dedupe(1, 0, 10)), (partition(1), dedupe(1, 0, 10))];
    assert_eq!(table.check(1, 0, 99), Seen::Duplicate(places));
    assert_eq!(table.len(), 2);
}

#[test]
fn a_table_forgets_what_is_older_than_a_day() {
    let day = i64::try_from(limits::DEDUPE_AGE_MAX.as_millis()).unwrap();
    let mut table = DedupeTable::default();
    for (sequence, time) in [(0, 0), (1, 1), (2, 5)] {
        table.insert(partition(0), dedupe(1, sequence, time));
    }
    table.expire(Timestamp::from_millis(day));
    assert_eq!(table.len(), 3, "a day old is not older than a day");
    table.expire(Timestamp::from_millis(day + 2));
    assert_eq!(table.check(1, 1, 99), Seen::New);
    assert!(matches!(table.check(1, 2, 99), Seen::Duplicate(_)));
    assert_eq!(table.len(), 1);
}

#[test]
fn a_full_table_forgets_the_oldest() {
    let mut table = DedupeTable::default();
    let max = u32::try_from(limits::DEDUPE_ENTRIES_MAX).unwrap();
    for sequence in 0..=max {
        table.insert(partition(0), dedupe(1, sequence, 10));
    }
    assert_eq!(table.len(), limits::DEDUPE_ENTRIES_MAX);
    assert_eq!(table.check(1, 0, 99), Seen::New);
    assert!(matches!(table.check(1, 1, 99), Seen::Duplicate(_)));
    assert!(matches!(table.check(1, max, 99), Seen::Duplicate(_)));
}

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
