//! The appends that a shard has seen: a retry finds its first answer here, and a producer its place.
//!
//! An append is named by an id, a producer epoch and a first sequence. There are two kinds of names, and the entries of
//! both lie in one table:
//!
//! - of a *request*: sequences number its units. Each append stands for itself, and may have an entry in each of several
//!   partitions.
//! - of a *producer*: the id stands for a producer in one partition, and sequences count its records. Each append begins
//!   where the one before it ended; a newer epoch begins anew and shuts the older ones out.
//!
//! Where a producer goes on follows from its newest entry; nothing else is stored. That is the last of its chain, in which
//! each entry begins where another ends. What a node acknowledged at `local` and appends again later may come when its
//! producer has long gone on elsewhere: such an entry is found by its name, but moves nobody back.
//!
//! Entries leave in the order they came. Once a producer's newest one is gone the producer is unknown again.

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

use crate::format::dedupe::DedupeEntry;
use crate::limits;
use crate::model::{Timestamp, TopicPartition};
use crate::shard::append::Dedupe;

/// What the table knows about an append.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// Nothing, and it may be appended: it is new, or older than the table reaches.
    New,
    /// It was appended before, at these places, in the order in which they were taken.
    Duplicate(Vec<(TopicPartition, DedupeEntry)>),
    /// Its name was used for another body.
    Mismatch,
    /// The producer's records go on with another sequence, and no append that is still known began with this one.
    Gap {
        /// The sequence of the producer's next record.
        expected: u32,
    },
    /// The producer has a newer epoch.
    Fenced {
        /// That epoch.
        current: i16,
    },
}

/// What all entries of one append have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Name {
    id: u128,
    epoch: i16,
    sequence: u32,
}

impl Name {
    fn of(entry: &DedupeEntry) -> Self {
        Self { id: entry.id, epoch: entry.producer_epoch, sequence: entry.first_sequence }
    }
}

/// Entries in the order they came, by position. Positions count up for ever and wrap; there are far fewer entries.
#[derive(Debug, Clone, Default)]
struct Entries {
    held: VecDeque<(TopicPartition, DedupeEntry)>,
    /// The position of the oldest.
    first: u32,
    hashes: RandomState,
}

impl Entries {
    fn get(&self, position: u32) -> Option<&(TopicPartition, DedupeEntry)> {
        self.held.get(position.wrapping_sub(self.first) as usize)
    }

    fn name(&self, position: u32) -> Option<Name> {
        self.get(position).map(|(_, entry)| Name::of(entry))
    }

    fn id(&self, position: u32) -> Option<u128> {
        self.get(position).map(|(_, entry)| entry.id)
    }

    fn hash_of_name(&self, name: &Name) -> u64 {
        self.hashes.hash_one(name)
    }

    fn hash_of_id(&self, id: u128) -> u64 {
        self.hashes.hash_one(id)
    }
}

/// Appends seen. Bounded by age and number, oldest out first.
#[derive(Debug, Clone)]
pub struct DedupeTable {
    /// What is forgotten with an older entry of its append stays here until it is the oldest.
    entries: Entries,
    /// The positions of all entries that are not forgotten, by name.
    by_name: HashTable<u32>,
    /// The position of the newest entry of each id: the last of its chain.
    newest: HashTable<u32>,
    max: usize,
}

impl Default for DedupeTable {
    fn default() -> Self {
        Self::bounded(limits::DEDUPE_ENTRIES_MAX)
    }
}

impl DedupeTable {
    /// Makes a table that holds at most so many entries.
    pub(super) fn bounded(max: usize) -> Self {
        Self { entries: Entries::default(), by_name: HashTable::new(), newest: HashTable::new(), max }
    }

    /// Returns the number of entries.
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Tells whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// Returns how many bytes of memory it takes.
    pub fn size_bytes(&self) -> usize {
        let entries = self.entries.held.capacity() * size_of::<(TopicPartition, DedupeEntry)>();
        entries + self.by_name.allocation_size() + self.newest.allocation_size()
    }

    /// Judges the name of an append.
    pub fn check(&self, name: &Dedupe) -> Seen {
        let Dedupe { id, producer_epoch, first_sequence: sequence, body_hash } = *name;
        let Some(epoch) = producer_epoch else { return self.check_again(name) };
        let known = || self.find(&Name { id, epoch, sequence }, body_hash);
        let Some(newest) = self.newest(id) else { return known().unwrap_or(Seen::New) };
        let expected = newest.next_sequence();
        match epoch.cmp(&newest.producer_epoch) {
            Ordering::Less => Seen::Fenced { current: newest.producer_epoch },
            Ordering::Greater => Seen::New,
            Ordering::Equal if sequence == expected => Seen::New,
            Ordering::Equal => known().unwrap_or(Seen::Gap { expected }),
        }
    }

    /// Judges the name of an append that is to be appended again, whatever its producer did since: whether it is there,
    /// by this very name.
    pub(super) fn check_again(&self, name: &Dedupe) -> Seen {
        let Dedupe { id, producer_epoch, first_sequence: sequence, body_hash } = *name;
        let name = Name { id, epoch: producer_epoch.unwrap_or(0), sequence };
        self.find(&name, body_hash).unwrap_or(Seen::New)
    }

    /// Adds an append's entry in one partition. One of the same name there is forgotten: it can only be a producer's
    /// that used all sequences since.
    pub fn insert(&mut self, partition: TopicPartition, entry: DedupeEntry) {
        while self.entries.held.len() >= self.max {
            self.drop_oldest();
        }
        let Self { entries, by_name, .. } = self;
        let len = u32::try_from(entries.held.len()).expect("a table is bounded far below");
        let position = entries.first.wrapping_add(len);
        entries.held.push_back((partition, entry));

        let name = Name::of(&entry);
        let same = |at: &u32| {
            entries.get(*at).is_some_and(|(other, entry)| *other == partition && Name::of(entry) == name)
        };
        let hash = entries.hash_of_name(&name);
        let replaced = match by_name.find_mut(hash, same) {
            Some(known) => Some(std::mem::replace(known, position)),
            None => {
                let rehash = |at: &u32| entries.name(*at).map_or(0, |name| entries.hash_of_name(&name));
                by_name.insert_unique(hash, position, rehash);
                None
            }
        };
        self.note_newest(position, &entry, replaced);
    }

    /// Makes an entry that was added the newest of its id if none is known, or its epoch is newer, or it goes on where
    /// that one ended; and then the last of those that go on behind it and were added before.
    fn note_newest(&mut self, position: u32, entry: &DedupeEntry, replaced: Option<u32>) {
        let Self { entries, newest, .. } = self;
        let hash = entries.hash_of_id(entry.id);
        let known = newest.find(hash, |at| entries.id(*at) == Some(entry.id)).copied();
        let follows = |last: &DedupeEntry| match entry.producer_epoch.cmp(&last.producer_epoch) {
            Ordering::Less => false,
            Ordering::Equal => entry.first_sequence == last.next_sequence(),
            Ordering::Greater => true,
        };
        let moves = known.and_then(|known| entries.get(known)).is_none_or(|(_, last)| follows(last));
        if !moves && known != replaced {
            return;
        }
        let last = self.end_of_chain(position);
        let Self { entries, newest, .. } = self;
        match newest.find_mut(hash, |at| Some(*at) == known) {
            Some(known) => *known = last,
            None => {
                let rehash = |at: &u32| entries.id(*at).map_or(0, |id| entries.hash_of_id(id));
                newest.insert_unique(hash, last, rehash);
            }
        }
    }

    /// Returns the last entry that goes on, over any number of others, behind the one at a position. A producer that used
    /// all sequences since comes upon its first ones again, which are none of them: so many offsets lie in between.
    fn end_of_chain(&self, first: u32) -> u32 {
        let entries = &self.entries;
        let Some((partition, begin)) = entries.get(first) else { return first };
        let end = begin.end_offset();
        let lies_near =
            |entry: &DedupeEntry| end.get().saturating_sub(entry.base_offset.get()) <= u32::MAX.into();
        let goes_on = |last: &u32| {
            let (_, last) = entries.get(*last)?;
            let name = Name { sequence: last.next_sequence(), ..Name::of(last) };
            let found = self.by_name.find(entries.hash_of_name(&name), |at| {
                entries.get(*at).is_some_and(|(other, entry)| {
                    other == partition && Name::of(entry) == name && lies_near(entry)
                })
            });
            found.copied()
        };
        let chain = std::iter::successors(Some(first), goes_on);
        chain.take(self.entries.held.len()).last().unwrap_or(first)
    }

    /// Drops entries that are older than [`limits::DEDUPE_AGE_MAX`] at this append time.
    pub fn expire(&mut self, now: Timestamp) {
        let age = i64::try_from(limits::DEDUPE_AGE_MAX.as_millis()).unwrap_or(i64::MAX);
        let expired = |at: Timestamp| at.as_millis().saturating_add(age) < now.as_millis();
        while self.entries.held.front().is_some_and(|(_, oldest)| expired(oldest.append_time)) {
            self.drop_oldest();
        }
    }

    /// Returns all entries, oldest first.
    pub fn in_order(&self) -> impl Iterator<Item = (TopicPartition, DedupeEntry)> {
        let positions = (0..).map(|nth| self.entries.first.wrapping_add(nth));
        let held = positions.zip(&self.entries.held);
        held.filter(|(position, _)| self.holds(*position)).map(|(_, held)| *held)
    }

    /// Tells whether the entry at a position is not forgotten.
    fn holds(&self, position: u32) -> bool {
        self.entries.name(position).is_some_and(|name| {
            self.by_name.find(self.entries.hash_of_name(&name), |at| *at == position).is_some()
        })
    }

    fn newest(&self, id: u128) -> Option<&DedupeEntry> {
        let entries = &self.entries;
        let position = self.newest.find(entries.hash_of_id(id), |at| entries.id(*at) == Some(id))?;
        entries.get(*position).map(|(_, entry)| entry)
    }

    fn find(&self, name: &Name, body_hash: u64) -> Option<Seen> {
        let candidates = self.by_name.iter_hash(self.entries.hash_of_name(name)).copied();
        let named = candidates.filter(|position| self.entries.name(*position) == Some(*name));
        let mut positions: Vec<u32> = named.collect();
        positions.sort_unstable_by_key(|position| position.wrapping_sub(self.entries.first));
        let places: Vec<_> = positions.iter().filter_map(|at| self.entries.get(*at)).copied().collect();
        if places.is_empty() {
            return None;
        }
        let same = places.iter().all(|(_, entry)| entry.body_hash == body_hash);
        Some(if same { Seen::Duplicate(places) } else { Seen::Mismatch })
    }

    /// Drops the oldest entry. All of its append are forgotten together: a retry must not find a part of it.
    fn drop_oldest(&mut self) {
        if let Some(name) = self.entries.name(self.entries.first).filter(|_| self.holds(self.entries.first)) {
            self.forget(&name);
        }
        if self.entries.held.pop_front().is_some() {
            self.entries.first = self.entries.first.wrapping_add(1);
        }
    }

    fn forget(&mut self, name: &Name) {
        let Self { entries, by_name, newest, .. } = self;
        let (of_name, of_id) = (entries.hash_of_name(name), entries.hash_of_id(name.id));
        while let Ok(found) = by_name.find_entry(of_name, |at| entries.name(*at) == Some(*name)) {
            let (position, _) = found.remove();
            if let Ok(found) = newest.find_entry(of_id, |at| *at == position) {
                found.remove();
            }
        }
    }
}
