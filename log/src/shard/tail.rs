//! The bytes of stored batches that a shard keeps in memory for readers at the tail, oldest out first.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::limits;
use crate::model::Offset;
use crate::shard::partition::PartitionLog;

/// Runs of stored batches that are in memory, in the order in which they were stored.
#[derive(Debug, Default)]
pub(super) struct Tail {
    runs: VecDeque<(Arc<PartitionLog>, Offset, u64)>,
    size_bytes: u64,
}

impl Tail {
    /// Adds a run that ends at this offset. Readers find it in the store too.
    pub(super) fn add(&mut self, log: Arc<PartitionLog>, end: Offset, size_bytes: u64) {
        self.size_bytes += size_bytes;
        self.runs.push_back((log, end, size_bytes));
    }

    /// Drops from memory what is more than readers at the tail may have.
    pub(super) fn trim(&mut self) {
        while self.size_bytes > limits::SHARD_TAIL_BYTES_MAX as u64 {
            let Some((log, end, size_bytes)) = self.runs.pop_front() else { break };
            log.evict_below(end);
            self.size_bytes -= size_bytes;
        }
    }
}
