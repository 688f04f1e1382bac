use proptest::prelude::*;

use super::*;
use crate::limits;
use crate::shard::append::Dedupe;
use crate::shard::dedupe::{DedupeTable, Seen};

/// The body of every entry that [`dedupe`] makes.
const BODY: u64 = 99;

fn request(id: u128, unit: u32, body_hash: u64) -> Dedupe {
    Dedupe { id, producer_epoch: None, first_sequence: unit, body_hash }
}

fn producer(epoch: i16, first_sequence: u32, body_hash: u64) -> Dedupe {
    Dedupe { id: 1, producer_epoch: Some(epoch), first_sequence, body_hash }
}

/// What a producer appended.
fn appended(producer_epoch: i16, first_sequence: u32, count: u32) -> DedupeEntry {
    DedupeEntry { producer_epoch, count, ..dedupe(1, first_sequence, 10) }
}

fn table(entries: &[DedupeEntry]) -> DedupeTable {
    let mut table = DedupeTable::default();
    entries.iter().for_each(|entry| table.insert(partition(0), *entry));
    table
}

#[test]
fn a_table_tells_new_from_seen_from_misused() {
    let mut table = DedupeTable::default();
    table.insert(partition(0), dedupe(1, 0, 10));
    table.insert(partition(1), dedupe(1, 0, 10));
    assert_eq!(table.check(&request(1, 1, BODY)), Seen::New);
    assert_eq!(table.check(&request(2, 0, BODY)), Seen::New);
    assert_eq!(table.check(&request(1, 0, 98)), Seen::Mismatch);
    let places = vec![(partition(0), dedupe(1, 0, 10)), (partition(1), dedupe(1, 0, 10))];
    assert_eq!(table.check(&request(1, 0, BODY)), Seen::Duplicate(places));
    assert_eq!(table.len(), 2);
}

#[test]
fn units_of_a_request_may_come_in_any_order() {
    let table = table(&[dedupe(1, 5, 10)]);
    for unit in [0, 4, 6, 9] {
        assert_eq!(table.check(&request(1, unit, BODY)), Seen::New);
    }
}

#[test]
fn a_producer_goes_on_where_it_ended() {
    assert_eq!(table(&[]).check(&producer(0, 42, 1)), Seen::New, "an unknown one may begin anywhere");
    let first = appended(0, 10, 5);
    let table = table(&[first, appended(0, 15, 1)]);
    assert_eq!(table.check(&producer(0, 16, 1)), Seen::New);
    assert_eq!(table.check(&producer(0, 10, BODY)), Seen::Duplicate(vec![(partition(0), first)]));
    assert_eq!(table.check(&producer(0, 10, 98)), Seen::Mismatch);
    for sequence in [0, 9, 11, 14, 17, u32::MAX] {
        assert_eq!(table.check(&producer(0, sequence, BODY)), Seen::Gap { expected: 16 }, "{sequence}");
    }
    assert_eq!(table.check(&Dedupe { id: 2, ..producer(0, 99, 1) }), Seen::New, "another producer");
}

#[test]
fn a_newer_epoch_begins_anew_and_shuts_older_ones_out() {
    let mut table = table(&[appended(3, 10, 5)]);
    assert_eq!(table.check(&producer(2, 15, BODY)), Seen::Fenced { current: 3 });
    assert_eq!(table.check(&producer(4, 15, BODY)), Seen::New);
    assert_eq!(table.check(&producer(4, 10, BODY)), Seen::New, "sequences are not those of the old epoch");
    table.insert(partition(0), appended(4, 10, 1));
    let newer = Seen::Duplicate(vec![(partition(0), appended(4, 10, 1))]);
    assert_eq!(table.check(&producer(4, 10, BODY)), newer);
    assert_eq!(table.check(&producer(4, 15, BODY)), Seen::Gap { expected: 11 });
    assert_eq!(table.check(&producer(3, 10, BODY)), Seen::Fenced { current: 4 }, "even a retry");
}

#[test]
fn sequences_go_on_at_zero_behind_the_highest() {
    let mut table = table(&[appended(0, u32::MAX - 1, 4)]);
    assert_eq!(table.check(&producer(0, 2, 1)), Seen::New);
    assert_eq!(table.check(&producer(0, 3, 1)), Seen::Gap { expected: 2 });
    // All the way round, to a sequence that an append still known began with.
    let far = Offset::new(u64::from(u32::MAX) + 3);
    table.insert(partition(0), DedupeEntry { base_offset: far, ..appended(0, 2, u32::MAX - 3) });
    assert_eq!(table.check(&producer(0, u32::MAX - 1, 1)), Seen::New);
    let again = DedupeEntry { body_hash: 1, ..appended(0, u32::MAX - 1, 1) };
    table.insert(partition(0), again);
    let newer = Seen::Duplicate(vec![(partition(0), again)]);
    assert_eq!(table.check(&producer(0, u32::MAX - 1, 1)), newer);
    assert_eq!(table.in_order().count(), 2);
}

#[test]
fn what_is_appended_again_late_moves_no_producer_back() {
    let others = [appended(0, 10, 10), appended(0, 20, 10)];
    let late = DedupeEntry { base_offset: Offset::new(900), ..appended(0, 0, 10) };
    let known = Seen::Duplicate(vec![(partition(0), late)]);
    let table = table(&[others[0], others[1], late]);
    assert_eq!(table.check(&producer(0, 30, 1)), Seen::New);
    assert_eq!(table.check(&producer(0, 10, BODY)), Seen::Duplicate(vec![(partition(0), others[0])]));
    assert_eq!(table.check(&producer(0, 0, BODY)), known);

    let table = self::table(&[others[1], late]);
    assert_eq!(table.check(&producer(0, 30, 1)), Seen::New, "whatever is missing in between");
    assert_eq!(table.check(&producer(0, 10, 1)), Seen::Gap { expected: 30 });

    let mut table = self::table(&[appended(1, 0, 5), late]);
    assert_eq!(table.check(&producer(1, 5, 1)), Seen::New);
    assert_eq!(table.check(&producer(0, 10, 1)), Seen::Fenced { current: 1 }, "nor to an older epoch");
    assert_eq!(table.check_again(&producer(0, 0, BODY)), known);
    table.insert(partition(0), appended(1, 5, 5));
    assert_eq!(table.check(&producer(1, 10, 1)), Seen::New);
}

#[test]
fn a_producer_goes_on_behind_what_was_appended_again_early() {
    let early = DedupeEntry { base_offset: Offset::new(10), ..appended(0, 20, 10) };
    let mut table = table(&[appended(0, 0, 10), early]);
    assert_eq!(table.check(&producer(0, 30, 1)), Seen::Gap { expected: 10 });
    assert_eq!(table.check(&producer(0, 10, 1)), Seen::New);
    table.insert(partition(0), DedupeEntry { base_offset: Offset::new(20), ..appended(0, 10, 10) });
    assert_eq!(table.check(&producer(0, 20, BODY)), Seen::Duplicate(vec![(partition(0), early)]));
    assert_eq!(table.check(&producer(0, 30, 1)), Seen::New);
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
    assert_eq!(table.check(&request(1, 1, BODY)), Seen::New);
    assert!(matches!(table.check(&request(1, 2, BODY)), Seen::Duplicate(_)));
    assert_eq!(table.len(), 1);
    assert_eq!(table.check(&producer(0, 1, BODY)), Seen::Gap { expected: 3 }, "too old to be told apart");
    table.expire(Timestamp::from_millis(2 * day));
    assert_eq!(table.check(&producer(0, 77, BODY)), Seen::New, "an unknown producer again");
    assert!(table.is_empty());
}

#[test]
fn a_full_table_forgets_the_oldest_and_keeps_within_its_memory() {
    let mut table = DedupeTable::default();
    let max = u32::try_from(limits::DEDUPE_ENTRIES_MAX).unwrap();
    for sequence in 0..=max {
        table.insert(partition(0), dedupe(u128::from(sequence), sequence, 10));
    }
    assert_eq!(table.len(), limits::DEDUPE_ENTRIES_MAX);
    assert!(table.size_bytes() <= limits::DEDUPE_BYTES_MAX, "{}", table.size_bytes());
    assert_eq!(table.check(&request(0, 0, BODY)), Seen::New);
    assert!(matches!(table.check(&request(1, 1, BODY)), Seen::Duplicate(_)));
    assert!(matches!(table.check(&request(u128::from(max), max, BODY)), Seen::Duplicate(_)));
}

#[test]
fn an_append_is_forgotten_as_a_whole() {
    let mut table = DedupeTable::bounded(3);
    // As a footer lists them: by partition.
    for (number, unit) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        table.insert(partition(number), dedupe(1, unit, 10));
    }
    assert_eq!(table.check(&request(1, 0, BODY)), Seen::New, "not half of it");
    let places = vec![(partition(0), dedupe(1, 1, 10)), (partition(1), dedupe(1, 1, 10))];
    assert_eq!(table.check(&request(1, 1, BODY)), Seen::Duplicate(places.clone()));
    assert_eq!(table.in_order().collect::<Vec<_>>(), places);
}

/// The table as its documentation has it, with a look at every entry for each question.
#[derive(Debug, Default)]
struct Model {
    /// Oldest first, and whether it is forgotten.
    entries: Vec<(TopicPartition, DedupeEntry, bool)>,
}

fn same_name(one: &DedupeEntry, other: &DedupeEntry) -> bool {
    let name = |entry: &DedupeEntry| (entry.id, entry.producer_epoch, entry.first_sequence);
    name(one) == name(other)
}

impl Model {
    fn known(&self) -> impl DoubleEndedIterator<Item = (TopicPartition, DedupeEntry)> {
        self.entries.iter().filter(|(.., forgotten)| !forgotten).map(|(place, entry, _)| (*place, *entry))
    }

    fn check(&self, name: &Dedupe) -> Seen {
        let epoch = name.producer_epoch.unwrap_or(0);
        let named = |entry: &DedupeEntry| {
            (entry.id, entry.producer_epoch, entry.first_sequence) == (name.id, epoch, name.first_sequence)
        };
        let newest = self.known().rfind(|(_, entry)| entry.id == name.id);
        if let (Some(_), Some((_, newest))) = (name.producer_epoch, newest) {
            if newest.producer_epoch > epoch {
                return Seen::Fenced { current: newest.producer_epoch };
            }
            let expected = newest.first_sequence.wrapping_add(newest.count);
            if newest.producer_epoch < epoch || expected == name.first_sequence {
                return Seen::New;
            }
            if !self.known().any(|(_, entry)| named(&entry)) {
                return Seen::Gap { expected };
            }
        }
        let places: Vec<_> = self.known().filter(|(_, entry)| named(entry)).collect();
        match places.iter().all(|(_, entry)| entry.body_hash == name.body_hash) {
            _ if places.is_empty() => Seen::New,
            true => Seen::Duplicate(places),
            false => Seen::Mismatch,
        }
    }

    fn insert(&mut self, max: usize, partition: TopicPartition, entry: DedupeEntry) {
        while self.entries.len() >= max {
            self.drop_oldest();
        }
        for (place, known, forgotten) in &mut self.entries {
            *forgotten |= *place == partition && same_name(known, &entry);
        }
        self.entries.push((partition, entry, false));
    }

    fn drop_oldest(&mut self) {
        let (_, oldest, forgotten) = self.entries.remove(0);
        for (_, known, also) in self.entries.iter_mut().filter(|_| !forgotten) {
            *also |= same_name(known, &oldest);
        }
    }

    fn expire(&mut self, now: i64) {
        let age = i64::try_from(limits::DEDUPE_AGE_MAX.as_millis()).unwrap();
        while self.entries.first().is_some_and(|(_, entry, _)| entry.append_time.as_millis() + age < now) {
            self.drop_oldest();
        }
    }
}

/// A unit of a request or an append of a producer, as a client might send it: mostly what comes next.
#[derive(Debug, Clone)]
struct Sent {
    id: u128,
    epoch: Option<i16>,
    /// Behind where a producer goes on; the unit of a request.
    sequence: i8,
    count: u32,
    partitions: u16,
    body_hash: u64,
    hours: i64,
}

fn sent() -> impl Strategy<Value = Sent> {
    let sequence = prop_oneof![4 => Just(0_i8), 1 => -6..6_i8];
    let count = prop_oneof![8 => 1..4_u32, 1 => Just(u32::MAX / 2)];
    let epoch = prop_oneof![1 => Just(None), 2 => (0..3_i16).prop_map(Some)];
    let hours = prop_oneof![9 => Just(0_i64), 1 => 1..30_i64];
    (0..3_u128, epoch, sequence, count, 1..3_u16, 0..2_u64, hours).prop_map(
        |(id, epoch, sequence, count, partitions, body_hash, hours)| {
            let (id, partitions) = if epoch.is_some() { (id + 10, 1) } else { (id, partitions) };
            Sent { id, epoch, sequence, count, partitions, body_hash, hours }
        },
    )
}

proptest! {
    #[test]
    fn a_table_answers_as_a_look_at_every_entry_would(
        max in 2..12_usize,
        all in proptest::collection::vec(sent(), 1..120),
    ) {
        let (mut table, mut model) = (DedupeTable::bounded(max), Model::default());
        let (mut now, mut end) = (0, Offset::ZERO);
        for sent in all {
            now += sent.hours * 60 * 60 * 1000;
            table.expire(Timestamp::from_millis(now));
            model.expire(now);
            let newest = model.known().rfind(|(_, entry)| entry.id == sent.id);
            let next = newest.filter(|_| sent.epoch.is_some()).map_or(0, |(_, entry)| entry.next_sequence());
            let first_sequence = next.wrapping_add_signed(i32::from(sent.sequence));
            let Sent { id, epoch: producer_epoch, body_hash, .. } = sent;
            let name = Dedupe { id, producer_epoch, first_sequence, body_hash };
            let seen = table.check(&name);
            prop_assert_eq!(&seen, &model.check(&name));
            if seen == Seen::New {
                let entry = DedupeEntry {
                    producer_epoch: producer_epoch.unwrap_or(0),
                    count: sent.count,
                    base_offset: end,
                    body_hash,
                    ..dedupe(id, first_sequence, now)
                };
                end = end.plus(sent.count.into());
                for number in 0..sent.partitions {
                    table.insert(partition(number), entry);
                    model.insert(max, partition(number), entry);
                }
            }
            prop_assert_eq!(table.in_order().collect::<Vec<_>>(), model.known().collect::<Vec<_>>());
            prop_assert_eq!(table.len(), model.known().count());
        }
        // A snapshot brings it back.
        let mut back = DedupeTable::bounded(max);
        table.in_order().for_each(|(place, entry)| back.insert(place, entry));
        prop_assert_eq!(back.in_order().collect::<Vec<_>>(), table.in_order().collect::<Vec<_>>());
    }
}
