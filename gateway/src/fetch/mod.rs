//! Reading: from a position, a page at a time, round robin over partitions; waiting at the tail without polling.

pub mod filter;
pub mod position;
pub mod ring;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use forebay_log::format::record_batch::RecordView;
use forebay_log::model::{Offset, PartitionId, Topic, TopicId, TopicName};
use forebay_log::shard::FetchError;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::cursor::Cursor;
use crate::fetch::filter::Filter;
use crate::fetch::position::{Slot, TopicPosition, cursor_of};
use crate::limits;
use crate::shards::Shards;
use crate::topics::Topics;

/// Why a read ended early.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// A partition's position is below its log start.
    #[error("position is below the log start: topic={topic}")]
    Expired {
        /// The topic.
        topic: TopicName,
        /// Where the same read may begin.
        earliest: Box<Cursor>,
    },
    /// The topic was deleted.
    #[error("topic is gone: topic={topic}")]
    TopicGone {
        /// The topic.
        topic: TopicName,
    },
    /// The topic was deleted, and another one has its name.
    #[error("topic was deleted and created again: topic={topic}")]
    TopicRecreated {
        /// The topic.
        topic: TopicName,
        /// Where the same read may begin.
        earliest: Box<Cursor>,
    },
    /// The log could not be read.
    #[error(transparent)]
    Fetch(FetchError),
}

impl ReadError {
    /// Tells whether the place of the read is gone, so that it can only go on elsewhere.
    pub fn is_gap(&self) -> bool {
        matches!(self, Self::Expired { .. } | Self::TopicRecreated { .. })
    }
}

/// Takes the records of a page.
pub trait RecordSink {
    /// Takes one record of `positions[topic]`; the positions are those after it. Returns the bytes that the page grew.
    fn record(
        &mut self,
        positions: &[TopicPosition],
        topic: usize,
        slot: usize,
        record: &RecordView,
    ) -> usize;
}

/// How large a page may get.
#[derive(Debug, Clone, Copy)]
pub struct PageLimit {
    /// Records.
    pub records: usize,
    /// Bytes as the sink counts them; the last record may exceed it.
    pub bytes: usize,
}

/// What a page came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageEnd {
    /// Records given to the sink.
    pub records: usize,
    /// Whether positions moved, be it over records that the filter dropped.
    pub moved: bool,
    /// Whether there is nothing to read now: every partition was read up to its high watermark, or to its end.
    pub caught_up: bool,
}

/// Reads one or several topics from a position on.
#[derive(Debug)]
pub struct Reader {
    shards: Arc<Shards>,
    topics: Arc<Topics>,
    /// Where it stands.
    pub positions: Vec<TopicPosition>,
    filter: Filter,
    news: Vec<(TopicId, watch::Receiver<u64>)>,
}

/// What is left of a page.
#[derive(Debug)]
struct Room {
    records: usize,
    bytes: usize,
    scan: usize,
    given: usize,
}

impl Room {
    fn is_used_up(&self) -> bool {
        self.records == 0 || self.bytes == 0 || self.scan == 0
    }
}

impl Reader {
    /// Stands at a position. Records that come after this call wake [`Self::wait`].
    pub fn new(
        shards: Arc<Shards>,
        topics: Arc<Topics>,
        positions: Vec<TopicPosition>,
        filter: Filter,
    ) -> Self {
        let subscribe =
            |position: &TopicPosition| (position.topic.id, shards.signals().subscribe(position.topic.id));
        let news = positions.iter().map(subscribe).collect();
        Self { shards, topics, positions, filter, news }
    }

    /// Reads one page into a sink. Each partition that has records gets an equal share of the page's records, and the
    /// one to begin with changes with the position, so that a busy one starves none.
    ///
    /// # Errors
    /// [`ReadError`]; the positions are those after the last record given to the sink.
    pub async fn page(&mut self, limit: PageLimit, sink: &mut impl RecordSink) -> Result<PageEnd, ReadError> {
        self.refresh()?;
        for (_, news) in &mut self.news {
            news.mark_unchanged();
        }
        let mut room =
            Room { records: limit.records, bytes: limit.bytes, scan: limits::PAGE_SCAN_MAX, given: 0 };
        let mut moved = false;
        loop {
            let mut ready = self.ready();
            if ready.is_empty() {
                return Ok(PageEnd { records: room.given, moved, caught_up: true });
            }
            let first = self.rotation() % ready.len();
            ready.rotate_left(first);
            let share = (room.records / ready.len()).max(1);
            let mut progress = false;
            for (topic, slot) in ready {
                if room.is_used_up() {
                    return Ok(PageEnd { records: room.given, moved, caught_up: self.ready().is_empty() });
                }
                progress |= self.read_slot(topic, slot, share, &mut room, sink).await?;
                // Records in memory are read without a wait; others want to run too.
                tokio::task::coop::consume_budget().await;
            }
            if !progress {
                // Records below a high watermark that cannot be found: an error ends what would go on for ever.
                return Err(ReadError::Fetch(FetchError::Unavailable(None)));
            }
            moved = true;
        }
    }

    /// Waits until a topic has news, or until the deadline. Tells whether there is news.
    pub async fn wait(&mut self, deadline: Instant) -> bool {
        let mut changes: FuturesUnordered<_> =
            self.news.iter_mut().map(|(_, news)| async { news.changed().await }).collect();
        tokio::time::timeout_at(deadline, changes.next()).await.is_ok()
    }

    /// Tells whether every partition has been read to the end that was asked for.
    pub fn is_done(&self) -> bool {
        self.positions.iter().flat_map(|position| &position.slots).all(Slot::is_done)
    }

    /// Tells whether a position is above the high watermark that this node knows.
    pub fn is_ahead(&self) -> bool {
        self.positions.iter().any(|position| {
            let ends = high_watermarks(&self.shards, position);
            position.slots.iter().zip(ends).any(|(slot, end)| slot.next > end)
        })
    }

    /// Looks at the topics again: new partitions are taken on, a topic that is gone ends the read.
    ///
    /// # Errors
    /// [`ReadError::TopicGone`] or [`ReadError::TopicRecreated`].
    pub fn refresh(&mut self) -> Result<(), ReadError> {
        self.topics.nudge();
        for at in 0..self.positions.len() {
            let position = &self.positions[at];
            let Some(topic) = self.topics.get(&position.name) else {
                return Err(ReadError::TopicGone { topic: position.name.clone() });
            };
            if topic.id != position.topic.id {
                let earliest = self.earliest();
                return Err(ReadError::TopicRecreated { topic: position.name.clone(), earliest });
            }
            if position.whole {
                self.extend(at, usize::from(topic.partitions));
            }
            self.positions[at].topic = topic;
        }
        Ok(())
    }

    /// Takes on partitions of a topic up to this number of them, from their log starts.
    pub fn extend(&mut self, topic: usize, partitions: usize) {
        let Some(position) = self.positions.get_mut(topic) else { return };
        let known = position.slots.len();
        position.extend(partitions);
        for slot in position.slots.iter_mut().skip(known) {
            slot.next = log_start(&self.shards, &position.topic, slot.partition);
        }
    }

    /// Goes on from what is there, after [`ReadError::is_gap`]: positions below a log start move up to it, a topic that
    /// was created again is read from its start. Tells whether that is possible: not where it lacks a partition that is
    /// read, nor where the end of the read lay in the topic that is gone.
    pub fn close_gap(&mut self) -> bool {
        let found = |position: &TopicPosition| self.topics.get(&position.name);
        let topics: Option<Vec<Arc<Topic>>> = self.positions.iter().map(found).collect();
        let Some(topics) = topics else { return false };
        if !self.positions.iter().zip(&topics).all(|(position, topic)| position.may_restart(topic)) {
            return false;
        }
        for ((position, (id, news)), topic) in self.positions.iter_mut().zip(&mut self.news).zip(topics) {
            if topic.id != *id {
                (*id, *news) = (topic.id, self.shards.signals().subscribe(topic.id));
            }
            position.restart(topic);
            for slot in &mut position.slots {
                slot.next = slot.next.max(log_start(&self.shards, &position.topic, slot.partition));
            }
        }
        true
    }

    /// Returns the first offset of each partition read that is still there, in order.
    pub(super) fn log_starts(&self) -> Vec<Offset> {
        let of = |position: &TopicPosition| {
            let topic = Arc::clone(&position.topic);
            let of_slot = move |slot: &Slot| log_start(&self.shards, &topic, slot.partition);
            position.slots.iter().map(of_slot).collect::<Vec<_>>()
        };
        self.positions.iter().flat_map(of).collect()
    }

    /// Returns where the same read may begin: at the log start of each partition of the topics as they are now.
    fn earliest(&self) -> Box<Cursor> {
        let first = |position: &TopicPosition| {
            let mut position = position.clone();
            if let Some(topic) = self.topics.get(&position.name) {
                position.restart(topic);
            }
            for slot in &mut position.slots {
                slot.next = log_start(&self.shards, &position.topic, slot.partition);
            }
            position
        };
        let positions: Vec<TopicPosition> = self.positions.iter().map(first).collect();
        Box::new(cursor_of(&positions))
    }

    /// Returns the partitions that have records to read.
    fn ready(&self) -> Vec<(usize, usize)> {
        let mut ready = Vec::new();
        for (topic, position) in self.positions.iter().enumerate() {
            for (index, slot) in position.slots.iter().enumerate() {
                let high_watermark =
                    self.shards.log(&position.topic, slot.partition).map(|log| log.high_watermark());
                if !slot.is_done() && high_watermark.is_some_and(|high_watermark| slot.next < high_watermark)
                {
                    ready.push((topic, index));
                }
            }
        }
        ready
    }

    /// Draws a number that depends on the position alone, and differs widely between neighbours.
    fn rotation(&self) -> usize {
        let slots = self.positions.iter().flat_map(|position| &position.slots);
        let sum = slots.fold(0_u64, |sum, slot| sum.wrapping_add(slot.next.get()));
        usize::try_from(sum.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48).unwrap_or(0)
    }

    /// Reads up to `share` records of one partition; tells whether the position moved.
    async fn read_slot(
        &mut self,
        topic: usize,
        slot: usize,
        share: usize,
        room: &mut Room,
        sink: &mut impl RecordSink,
    ) -> Result<bool, ReadError> {
        let position = &self.positions[topic];
        let (start, until) = (position.slots[slot].next, position.slots[slot].until);
        let (shards, partition) = (Arc::clone(&self.shards), position.slots[slot].partition);
        let fetch = match shards.fetch(&position.topic, partition, start).await {
            Ok(Some(fetch)) => fetch,
            Ok(None) => return Ok(false),
            Err(FetchError::Expired { .. }) => {
                return Err(ReadError::Expired { topic: position.name.clone(), earliest: self.earliest() });
            }
            Err(error) => return Err(ReadError::Fetch(error)),
        };
        let (fetched, mut taken) = (&fetch.fetched, 0);
        for batch in &fetched.batches {
            for record in batch.records().map_err(|error| ReadError::Fetch(error.into()))? {
                let record = record.map_err(|error| ReadError::Fetch(error.into()))?;
                if record.offset < start {
                    continue;
                }
                if let Some(until) = until.filter(|until| record.offset >= *until) {
                    self.positions[topic].slots[slot].next = until;
                    return Ok(true);
                }
                self.positions[topic].slots[slot].next = record.offset.plus(1);
                room.scan -= 1;
                if self.filter.matches(&record) {
                    let size = sink.record(&self.positions, topic, slot, &record);
                    room.bytes = room.bytes.saturating_sub(size);
                    room.records -= 1;
                    room.given += 1;
                    taken += 1;
                }
                if taken == share || room.is_used_up() {
                    return Ok(true);
                }
            }
        }
        // Without a record up to there; never past the end that was asked for, which may lie in a gap.
        let reached = until.map_or(fetched.next, |until| fetched.next.min(until));
        let next = &mut self.positions[topic].slots[slot].next;
        *next = (*next).max(reached);
        Ok(self.positions[topic].slots[slot].next > start)
    }
}

/// Returns the first offset of a partition that may be read.
fn log_start(shards: &Shards, topic: &Topic, partition: PartitionId) -> Offset {
    shards.log(topic, partition).map_or(Offset::ZERO, |log| log.view().log_start)
}

/// Returns the high watermark of each partition of a position, in order.
pub fn high_watermarks(shards: &Shards, position: &TopicPosition) -> Vec<Offset> {
    let of = |slot: &Slot| {
        shards.log(&position.topic, slot.partition).map_or(Offset::ZERO, |l| l.high_watermark())
    };
    position.slots.iter().map(of).collect()
}
