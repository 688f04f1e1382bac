//! What a leader must know about its shard: where each partition ends, and which appends it has already seen.

use std::collections::{HashMap, VecDeque};

use crate::format::dedupe::DedupeEntry;
use crate::format::snapshot::{PartitionEnd, Snapshot};
use crate::format::wal_object::{Footer, WalHeader};
use crate::limits;
use crate::model::{Offset, Timestamp, TopicPartition, WalSeq};
use crate::shard::walk::PathFault;

/// Offsets and dedupe entries of a shard at one position of its path.
#[derive(Debug, Clone, Default)]
pub struct ShardState {
    partitions: HashMap<TopicPartition, PartitionEnd>,
    dedupe: DedupeTable,
}

impl ShardState {
    /// Starts from the snapshot at a floor; without one, from nothing.
    pub fn from_snapshot(snapshot: Option<&Snapshot>) -> Self {
        let mut state = Self::default();
        let Some(snapshot) = snapshot else { return state };
        for end in &snapshot.partitions {
            state.partitions.insert(end.partition, *end);
        }
        for (partition, entry) in &snapshot.dedupe {
            state.dedupe.insert(*partition, *entry);
        }
        state
    }

    /// Describes this state as the snapshot at a floor.
    pub fn to_snapshot(&self, floor: WalSeq, append_time: Timestamp) -> Snapshot {
        let mut partitions: Vec<PartitionEnd> = self.partitions.values().copied().collect();
        partitions.sort_unstable_by_key(|end| end.partition);
        Snapshot { floor, append_time, partitions, dedupe: self.dedupe.in_order().collect() }
    }

    /// Takes in one DATA object of the path.
    ///
    /// # Errors
    /// [`PathFault::Offsets`] when its offsets do not continue, unless it is flagged as a jump and they rise.
    pub fn apply(&mut self, header: &WalHeader, footer: &Footer) -> Result<(), PathFault> {
        for entry in &footer.entries {
            let expected = self.next_offset(entry.partition);
            let continues = entry.base_offset == expected;
            let jumps = header.jump && entry.base_offset > expected;
            if !continues && !jumps {
                let (found, expected) = (entry.base_offset.get(), expected.get());
                return Err(PathFault::Offsets { seq: header.seq, found, expected });
            }
            self.advance(entry.partition, entry.end_offset, entry.max_timestamp);
        }
        for (index, entry) in &footer.dedupe {
            if let Some(place) = footer.entries.get(*index as usize) {
                self.dedupe.insert(place.partition, *entry);
            }
        }
        self.dedupe.expire(header.append_time);
        Ok(())
    }

    /// Returns the offset that the partition's next record gets.
    pub fn next_offset(&self, partition: TopicPartition) -> Offset {
        self.partitions.get(&partition).map_or(Offset::ZERO, |end| end.next_offset)
    }

    /// Moves a partition's end.
    pub fn advance(&mut self, partition: TopicPartition, end: Offset, max_timestamp: Timestamp) {
        let new = PartitionEnd { partition, next_offset: end, max_timestamp };
        let known = self.partitions.entry(partition).or_insert(new);
        known.next_offset = end;
        known.max_timestamp = known.max_timestamp.max(max_timestamp);
    }

    /// Returns every partition that ever had a record, in no order.
    pub fn partitions(&self) -> impl Iterator<Item = &PartitionEnd> {
        self.partitions.values()
    }

    /// Returns the appends seen.
    pub fn dedupe(&self) -> &DedupeTable {
        &self.dedupe
    }

    /// Returns the appends seen, to add one.
    pub fn dedupe_mut(&mut self) -> &mut DedupeTable {
        &mut self.dedupe
    }
}

/// What the table knows about an append.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// Nothing: it is new, or older than the table reaches.
    New,
    /// It was appended before, at these places.
    Duplicate(Vec<(TopicPartition, DedupeEntry)>),
    /// Its id and sequence were used for another body.
    Mismatch,
}

/// Appends seen, by producer id and first sequence. Bounded by age and number, oldest out first.
#[derive(Debug, Clone, Default)]
pub struct DedupeTable {
    places: HashMap<(u128, u32), Vec<(TopicPartition, DedupeEntry)>>,
    oldest_first: VecDeque<(Timestamp, (u128, u32))>,
    len: usize,
}

impl DedupeTable {
    /// Returns the number of entries.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Tells whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Looks an append up.
    pub fn check(&self, id: u128, first_sequence: u32, body_hash: u64) -> Seen {
        match self.places.get(&(id, first_sequence)) {
            None => Seen::New,
            Some(places) if places.iter().all(|(_, e)| e.body_hash == body_hash) => {
                Seen::Duplicate(places.clone())
            }
            Some(_) => Seen::Mismatch,
        }
    }

    /// Adds an append. Several partitions of one append share its id and sequence.
    pub fn insert(&mut self, partition: TopicPartition, entry: DedupeEntry) {
        let key = (entry.id, entry.first_sequence);
        let places = self.places.entry(key).or_default();
        if places.is_empty() {
            self.oldest_first.push_back((entry.append_time, key));
        }
        places.push((partition, entry));
        self.len += 1;
        while self.len > limits::DEDUPE_ENTRIES_MAX {
            self.drop_oldest();
        }
    }

    /// Drops entries that are older than [`limits::DEDUPE_AGE_MAX`] at this append time.
    pub fn expire(&mut self, now: Timestamp) {
        let age = i64::try_from(limits::DEDUPE_AGE_MAX.as_millis()).unwrap_or(i64::MAX);
        while self
            .oldest_first
            .front()
            .is_some_and(|(t, _)| t.as_millis().saturating_add(age) < now.as_millis())
        {
            self.drop_oldest();
        }
    }

    /// Returns all entries, oldest first.
    pub fn in_order(&self) -> impl Iterator<Item = (TopicPartition, DedupeEntry)> {
        self.oldest_first.iter().filter_map(|(_, key)| self.places.get(key)).flatten().copied()
    }

    fn drop_oldest(&mut self) {
        let Some((_, key)) = self.oldest_first.pop_front() else { return };
        self.len -= self.places.remove(&key).map_or(0, |places| places.len());
    }
}
