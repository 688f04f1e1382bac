//! What a leader must know about its shard: where each partition ends, and which appends it has already seen.

use std::collections::HashMap;

use crate::format::snapshot::{PartitionEnd, Snapshot};
use crate::format::wal_object::{Footer, WalHeader};
use crate::model::{Offset, Timestamp, TopicPartition, WalSeq};
use crate::shard::dedupe::DedupeTable;
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
