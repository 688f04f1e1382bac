//! Taking back what the journal holds and the store does not, before the shard takes new appends.
//!
//! On an exclusive store readers saw what was synced, and nobody else has written since: each frame returns to its old
//! offsets. Where others may write the store nobody saw an offset of it, and others may have appended since: what is
//! not in the log is appended again, behind everything (see [`leftover`](super::leftover)).

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;

use crate::error::FormatError;
use crate::journal::{Frame, FrameNumber, JournalBatch, JournalEntry, JournalError, Replayed};
use crate::limits;
use crate::model::{Durability, Offset, Timestamp, TopicPartition};
use crate::mutation::{self, Mutation};
use crate::shard::dedupe::Seen;
use crate::shard::leader::RecoverError;
use crate::shard::leader::core::{Action, LeaderCore, REPLAY};
use crate::shard::leader::leftover::{Fate, Leftover, name_of, to_appends};
use crate::shard::leader::pending::{PendingFrame, PlacedBatch};
use crate::shard::leader::spill::{Loaded, Loading};
use crate::shard::leader::turn::Turn;
use crate::shard::state::ShardState;

/// How a journalled frame, or a batch of it, stands to the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// The log holds it.
    Stored,
    /// It comes next.
    Next,
    /// Something before it is lost.
    BehindGap,
}

impl LeaderCore {
    /// Takes back one frame at its old offsets.
    pub(super) fn recover(&mut self, at: Duration, replayed: Replayed) -> Result<(), RecoverError> {
        let Replayed { entry, frame } = replayed;
        let number = entry.number;
        if !self.exclusive {
            return Err(RecoverError::Shared);
        }
        let Frame::Append { shard, append_time, batches, .. } = frame else { return Ok(()) };
        let standing = standing(&self.state, &batches)?;
        if standing == Standing::Stored {
            return Ok(());
        }
        let jump = standing == Standing::BehindGap;
        if jump {
            tracing::error!(shard.id = %shard, frame.number = %number.get(), "journal lost acknowledged records");
            self.gap_found = true;
        }
        self.take_back(at, number, append_time, batches, jump);
        Ok(())
    }

    fn take_back(
        &mut self,
        at: Duration,
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
            let log = self.logs.log(batch.partition);
            placed.push(PlacedBatch::from_journal(batch, log));
        }
        if let Some(shared) = &self.journal {
            shared.need(number);
        }
        self.admit_recovered(at, placed, number, jump);
    }

    /// Ends recovery. After damage every partition goes on further up, announced in the log itself, so that the
    /// offsets of lost records are never given out again, whatever happens next. Until the announcement is stored the
    /// journal acknowledges nothing: were what it acknowledged damaged too, the next start would jump as far as this
    /// one and give the same offsets out again.
    pub(super) fn recovered(&mut self, at: Duration, damaged: bool, partitions: &[TopicPartition]) {
        if !self.recovering || self.resuming {
            return;
        }
        if !self.exclusive {
            return self.resume();
        }
        self.recovering = false;
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
                log: self.logs.log(partition),
                base,
                end: base,
                count: 0,
                max_timestamp: Timestamp::MIN,
                bytes: Bytes::new(),
                dedupe: Vec::new(),
            });
        }
        tracing::error!(epoch = %self.epoch, jump = limits::OFFSET_JUMP, "offsets go on further up after damage");
        if placed.is_empty() {
            self.release(&[REPLAY]);
        } else {
            if !mutation::is(Mutation::AckBeforeJump) {
                self.pause_journal();
            }
            self.admit_recovered(at, placed, REPLAY, true);
        }
    }

    /// Shows what is taken back to readers at once: it is on this disk, which is as durable as the store.
    fn admit_recovered(&mut self, at: Duration, batches: Vec<PlacedBatch>, number: FrameNumber, jump: bool) {
        let size_bytes = batches.iter().map(|batch| batch.bytes.len()).sum();
        let ends: Vec<_> = batches.iter().map(|batch| (batch.log.clone(), batch.end)).collect();
        let frame = PendingFrame {
            number: Some(number),
            entry: None,
            moved: false,
            in_tail: true,
            spilled: false,
            origin: self.nonce,
            sent: Vec::new(),
            named: false,
            append_time: self.append_time,
            batches,
            waiters: Vec::new(),
            size_bytes,
            frozen: None,
            published: true,
            jump,
            reached: Some(Durability::Object),
            room: None,
        };
        self.push(at, frame);
        ends.into_iter().for_each(|(log, end)| log.publish(end));
    }

    /// Begins to append again what earlier leaderships of this node left in the journal and the log does not hold.
    fn resume(&mut self) {
        let Some(leftovers) = &mut self.leftovers else {
            self.recovering = false;
            return;
        };
        let (mut unknown, mut settled) = (0_usize, Vec::new());
        let (epochs, dedupe) = (&self.epochs, self.state.dedupe());
        leftovers.retain(|leftover| {
            let number = leftover.number();
            if let Some(marks) = &mut self.marks {
                marks.journalled(number);
            }
            let named = dedupe.check(&name_of(leftover.origin, number)) != Seen::New;
            let fate = leftover.fate(epochs);
            let stored = named || fate == Fate::Stored;
            unknown += usize::from(!stored && fate == Fate::Unknown);
            settled.extend(stored.then_some(number));
            !stored
        });
        if unknown > 0 {
            tracing::warn!(
                shard.id = %self.shard, frames = unknown,
                "nobody knows any more whether these are stored: appended again"
            );
        }
        self.resuming = true;
        self.settled(&settled);
        self.append_leftovers();
    }

    /// Goes on to append leftovers, the oldest first, as many at a time as may be in memory. Appends are taken once there
    /// are none left.
    pub(super) fn append_leftovers(&mut self) {
        if !self.resuming || self.loading.is_some() || self.pending.recovered_bytes() > self.spill_bytes {
            return;
        }
        let Some((shared, leftovers)) = self.journal.as_ref().zip(self.leftovers.as_mut()) else { return };
        let progress = *shared.journal().synced().borrow();
        let mut lost = Vec::new();
        // What never got to the disk was not acknowledged, and cannot be read.
        while progress.dead
            && let Some(leftover) = leftovers.pop_back_if(|leftover| leftover.number() >= progress.below)
        {
            lost.push(leftover.number());
        }
        let mut size = 0;
        let synced =
            leftovers.iter().skip(self.unread).take_while(|leftover| leftover.number() < progress.below);
        let next = synced.take_while(|leftover| {
            let fits = size < self.object_bytes;
            size += leftover.entry.size_bytes();
            fits
        });
        let entries: Vec<JournalEntry> = next.map(|leftover| leftover.entry.clone()).collect();
        if leftovers.len() <= self.unread {
            (self.resuming, self.recovering) = (false, false);
        } else if !entries.is_empty() {
            self.loading = Some(Loading::Leftovers(entries.len()));
            self.actions.push_back(Action::Load { seq: self.writer.next_seq(), entries });
        }
        self.settled(&lost);
    }

    /// Appends the oldest leftovers again.
    pub(super) fn leftovers_loaded(&mut self, at: Duration, count: usize, loaded: Loaded) {
        let Some(leftovers) = self.leftovers.as_mut().filter(|_| self.resuming) else { return };
        let end = leftovers.len().min(self.unread + count);
        let these: Vec<Leftover> = leftovers.drain(self.unread..end).collect();
        let (mut gone, mut settled) = (0, Vec::new());
        for (leftover, loaded) in these.into_iter().zip(loaded) {
            let number = leftover.number();
            let appended = match loaded {
                Ok(frame) => self.append_again(leftover, frame, &mut gone),
                Err(JournalError::Format(error)) => Err(error),
                Err(error) => {
                    tracing::error!(shard.id = %self.shard, frame.number = %number, error = %error, "journalled batch cannot be read; it stays in the journal");
                    self.keep_unread(leftover);
                    continue;
                }
            };
            match appended {
                Ok(Some(frame)) => self.push(at, frame),
                Ok(None) => settled.push(number),
                Err(error) => {
                    tracing::error!(shard.id = %self.shard, frame.number = %number, error = %error, "journalled batch is lost");
                    settled.push(number);
                }
            }
        }
        if gone > 0 {
            tracing::warn!(shard.id = %self.shard, records = gone, "records of deleted topics are not appended again");
        }
        self.settled(&settled);
        self.append_leftovers();
    }

    /// Gives a leftover its new offsets. None if nothing of it is to be appended: its topics are known to be deleted, or
    /// producers have repeated its appends elsewhere. Counts the records of deleted topics. A topic that this node has
    /// not heard of may be one that it is about to hear of.
    fn append_again(
        &mut self,
        leftover: Leftover,
        frame: Frame,
        gone: &mut u64,
    ) -> Result<Option<PendingFrame>, FormatError> {
        let Frame::Append { mut batches, .. } = frame else {
            return Err(FormatError::Field { what: "journal frame", field: "kind" });
        };
        let of_gone = batches.extract_if(.., |batch| self.logs.is_gone(batch.partition.topic));
        *gone += of_gone.map(|batch| u64::from(batch.count)).sum::<u64>();
        let appends = to_appends(&batches)?;
        let mut turn = Turn::new(&mut self.state, self.append_time);
        appends.into_iter().for_each(|append| turn.take_again(append));
        if turn.is_empty() {
            return Ok(None);
        }
        let logs = &self.logs;
        let frame = turn.finish(self.epoch, leftover.origin, |partition| logs.log(partition));
        Ok(Some(PendingFrame {
            number: Some(leftover.number()),
            entry: Some(leftover.entry),
            moved: true,
            // The journal has it.
            reached: Some(Durability::Local),
            sent: leftover.sent,
            ..frame
        }))
    }

    /// Puts a leftover back, in front of those that are to be read.
    fn keep_unread(&mut self, leftover: Leftover) {
        if let Some(leftovers) = &mut self.leftovers {
            leftovers.insert(self.unread, leftover);
            self.unread += 1;
        }
    }
}

/// Compares a frame with the log: each batch as those before it in the frame will have left its partition.
///
/// A frame went into one WAL object whole, so that the log holds all of its batches or none.
fn standing(state: &ShardState, batches: &[JournalBatch]) -> Result<Standing, RecoverError> {
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
