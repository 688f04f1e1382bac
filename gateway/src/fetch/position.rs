//! Where a reader stands: the next offset of each partition it reads.

use std::sync::Arc;

use forebay_log::model::{Offset, PartitionId, Topic, TopicName};

use crate::cursor::{Cursor, Position, TopicCursor};

/// Where a reader stands in one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// The partition.
    pub partition: PartitionId,
    /// The offset it reads next.
    pub next: Offset,
    /// The offset at which it stops.
    pub until: Option<Offset>,
}

impl Slot {
    /// Tells whether it has reached its end.
    pub fn is_done(&self) -> bool {
        self.until.is_some_and(|until| self.next >= until)
    }
}

/// Where a reader stands in one topic.
#[derive(Debug, Clone)]
pub struct TopicPosition {
    /// The topic's name.
    pub name: TopicName,
    /// The topic as the reader knows it.
    pub topic: Arc<Topic>,
    /// The partitions it reads, in order.
    pub slots: Vec<Slot>,
    /// Whether these are all partitions: then it takes on new ones, and its cursor resumes the whole topic.
    pub whole: bool,
}

impl TopicPosition {
    /// Returns the cursor after the last record read.
    pub fn cursor(&self) -> TopicCursor {
        let position = |slot: &Slot| Position {
            partition: slot.partition.get(),
            next: slot.next.get(),
            owner_epoch: None,
        };
        TopicCursor {
            epoch: self.topic.epoch.clone(),
            partial: !self.whole,
            positions: self.slots.iter().map(position).collect(),
        }
    }

    /// Tells whether a read that stands here can go on in the topic that has the name now.
    pub fn may_restart(&self, topic: &Topic) -> bool {
        let has = |slot: &Slot| self.whole || slot.partition.get() < topic.partitions;
        topic.id == self.topic.id || self.slots.iter().all(|slot| slot.until.is_none() && has(slot))
    }

    /// Goes over to the topic that has the name now: where it is another one, to its beginning, without the partitions
    /// that it lacks.
    pub fn restart(&mut self, topic: Arc<Topic>) {
        if topic.id != self.topic.id {
            self.slots.retain(|slot| slot.partition.get() < topic.partitions);
            self.slots.iter_mut().for_each(|slot| slot.next = Offset::ZERO);
        }
        if self.whole {
            self.extend(usize::from(topic.partitions));
        }
        self.topic = topic;
    }

    /// Adds partitions up to this number of them, to be read from offset 0. To a read with an end they came after it
    /// was set, so that nothing of them belongs to it.
    pub fn extend(&mut self, partitions: usize) {
        let ends = !self.slots.is_empty() && self.slots.iter().all(|slot| slot.until.is_some());
        let until = ends.then_some(Offset::ZERO);
        for partition in self.slots.len()..partitions {
            let partition = PartitionId::new(u16::try_from(partition).expect("a topic has few partitions"));
            self.slots.push(Slot { partition, next: Offset::ZERO, until });
        }
    }
}

/// Returns the cursor of a read of one or several topics.
pub fn cursor_of(positions: &[TopicPosition]) -> Cursor {
    match positions {
        [only] => Cursor::single(only.cursor()),
        several => {
            let topics = several.iter().map(|position| (Some(position.name.clone()), position.cursor()));
            Cursor { topics: topics.collect(), end: false }
        }
    }
}

/// Brings a cursor made by [`cursor_of`] up to newer positions of the same read, without allocating anew.
pub fn update_cursor(cursor: &mut Cursor, positions: &[TopicPosition]) {
    let same = |((_, cursor), position): (&(_, TopicCursor), &TopicPosition)| {
        cursor.positions.len() == position.slots.len() && cursor.epoch == position.topic.epoch
    };
    if cursor.topics.len() != positions.len() || !cursor.topics.iter().zip(positions).all(same) {
        *cursor = cursor_of(positions);
        return;
    }
    for ((_, cursor), position) in cursor.topics.iter_mut().zip(positions) {
        for (known, slot) in cursor.positions.iter_mut().zip(&position.slots) {
            known.next = slot.next.get();
        }
    }
}
