//! Taking back what the journal holds and the store does not, before the shard takes new appends.

use std::collections::HashMap;

use futures::StreamExt;

use crate::journal::{Frame, FrameNumber, JournalBatch, Replayed};
use crate::limits;
use crate::model::{Durability, Offset, Timestamp, TopicPartition};
use crate::mutation::{self, Mutation};
use crate::shard::leader::RecoverError;
use crate::shard::leader::pending::{PendingFrame, PlacedBatch};
use crate::shard::leader::run::{Leader, REPLAY};
use crate::shard::state::ShardState;

/// How a journalled frame, or a batch of it, stands to the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// The log holds it.
    Stored,
    /// It comes next.
    Next,
    /// Something before it is lost.
    BehindGap,
}

impl Leader {
    /// Takes back one frame at its old offsets.
    pub(super) async fn recover(&mut self, replayed: Replayed) -> Result<(), RecoverError> {
        let Replayed { number, frame, .. } = replayed;
        let Frame::Append { append_time, batches, .. } = frame else { return Ok(()) };
        let standing = standing(&self.state, &batches)?;
        if standing == Standing::Stored {
            return Ok(());
        }
        let jump = standing == Standing::BehindGap;
        if jump {
            tracing::error!(shard.id = %self.at.shard, frame.number = %number.get(), "journal lost acknowledged records");
            self.gap_found = true;
        }
        self.take_back(number, append_time, batches, jump);
        self.make_room().await;
        Ok(())
    }

    fn take_back(
        &mut self,
        number: FrameNumber,
        append_time: Timestamp,
        batches: Vec<JournalBatch>,
        jump: bool,
    ) {
        self.append_time = self.append_time.max(append_time);
        let mut placed = Vec::with_capacity(batches.len());
        for batch in batches {
            let end = batch.base_offset.plus(u64::from(batch.count));
            self.state.advance(batch.partition, end, batch.max_timestamp);
            for entry in &batch.dedupe {
                self.state.dedupe_mut().insert(batch.partition, *entry);
            }
            placed.push(PlacedBatch {
                log: self.index.log(batch.partition),
                base: batch.base_offset,
                end,
                count: batch.count,
                max_timestamp: batch.max_timestamp,
                bytes: batch.bytes,
                dedupe: batch.dedupe,
            });
        }
        if let Some(shared) = &self.options.journal {
            shared.need(number);
        }
        self.admit_recovered(placed, Some(number), jump);
    }

    /// Ends recovery. After damage every partition goes on further up, announced in the log itself, so that the
    /// offsets of lost records are never given out again, whatever happens next. Until the announcement is stored the
    /// journal acknowledges nothing: were what it acknowledged damaged too, the next start would jump as far as this
    /// one and give the same offsets out again.
    pub(super) fn recovered(&mut self, damaged: bool, partitions: &[TopicPartition]) {
        if !std::mem::replace(&mut self.recovering, false) {
            return;
        }
        if !damaged && !self.gap_found {
            self.release(&[REPLAY]);
            return;
        }
        let mut all: Vec<TopicPartition> = self.state.partitions().map(|end| end.partition).collect();
        all.extend_from_slice(partitions);
        all.sort_unstable();
        all.dedup();
        let jump_to = |next: Offset| next.plus(limits::OFFSET_JUMP);
        let mut placed = Vec::with_capacity(all.len());
        for partition in all {
            let base = jump_to(self.state.next_offset(partition));
            self.state.advance(partition, base, Timestamp::MIN);
            placed.push(PlacedBatch {
                log: self.index.log(partition),
                base,
                end: base,
                count: 0,
                max_timestamp: Timestamp::MIN,
                bytes: bytes::Bytes::new(),
                dedupe: Vec::new(),
            });
        }
        tracing::error!(shard.id = %self.at.shard, jump = limits::OFFSET_JUMP, "offsets go on further up after damage");
        if placed.is_empty() {
            self.release(&[REPLAY]);
        } else {
            self.pause_journal();
            self.admit_recovered(placed, Some(REPLAY), true);
        }
    }

    /// The records are on this disk already. Where that is as durable as the store they can be read at once.
    fn admit_recovered(&mut self, batches: Vec<PlacedBatch>, number: Option<FrameNumber>, jump: bool) {
        let size_bytes = batches.iter().map(|batch| batch.bytes.len()).sum();
        let exclusive = self.at.store.is_exclusive();
        let reached = if exclusive { Durability::Object } else { Durability::Local };
        let ends: Vec<_> = batches.iter().map(|batch| (batch.log.clone(), batch.end)).collect();
        self.admit(PendingFrame {
            number,
            append_time: self.append_time,
            batches,
            waiters: Vec::new(),
            size_bytes,
            frozen: None,
            published: exclusive,
            jump,
            reached: Some(reached),
            _room: None,
        });
        for (log, end) in ends.into_iter().filter(|_| exclusive) {
            log.publish(end);
        }
    }

    /// Stores recovered frames while there are more than a shard may hold.
    async fn make_room(&mut self) {
        while self.pending.total_bytes() > self.options.unflushed_bytes_max / 2 {
            while self.freeze() {}
            match self.uploads.next().await {
                Some(step) => self.step_done(step),
                None => return,
            }
        }
    }
}

/// Compares a frame with the log: each batch as those before it in the frame will have left its partition.
///
/// A frame went into one WAL object whole, so that the log holds all of its batches or none.
pub(super) fn standing(state: &ShardState, batches: &[JournalBatch]) -> Result<Standing, RecoverError> {
    if mutation::is(Mutation::ReplayTwice) {
        return Ok(Standing::Next);
    }
    let mut ends = HashMap::new();
    let mut stored = 0;
    let mut behind_gap = false;
    for batch in batches {
        let next = ends.entry(batch.partition).or_insert_with(|| state.next_offset(batch.partition));
        match batch_standing(batch, *next)? {
            Standing::Stored => stored += 1,
            Standing::Next => {}
            Standing::BehindGap => behind_gap = true,
        }
        *next = batch.base_offset.plus(u64::from(batch.count)).max(*next);
    }
    match batches.first() {
        _ if stored == batches.len() => Ok(Standing::Stored),
        Some(batch) if stored > 0 => Err(RecoverError::Contradiction { partition: batch.partition }),
        _ if behind_gap => Ok(Standing::BehindGap),
        _ => Ok(Standing::Next),
    }
}

/// Compares a batch with where its partition goes on.
fn batch_standing(batch: &JournalBatch, next: Offset) -> Result<Standing, RecoverError> {
    let end = batch.base_offset.plus(u64::from(batch.count));
    if end <= next && batch.count > 0 {
        Ok(Standing::Stored)
    } else if batch.base_offset == next {
        Ok(Standing::Next)
    } else if batch.base_offset > next {
        Ok(Standing::BehindGap)
    } else {
        Err(RecoverError::Contradiction { partition: batch.partition })
    }
}
