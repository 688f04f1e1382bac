//! From a place that a client names to an offset of each partition.

use std::sync::Arc;

use forebay_log::model::{Offset, PartitionId, Timestamp, Topic, TopicName};

use crate::cursor::{Cursor, TopicCursor};
use crate::fetch::position::{Slot, TopicPosition, cursor_of};
use crate::http::App;
use crate::http::error::fetch_problem;
use crate::http::extract::{After, Query};
use crate::http::problem::{Code, Problem};
use crate::http::read::args::{Start, bad};
use crate::limits;

/// Finds places in the topics of one read.
#[derive(Debug)]
pub(in crate::http) struct Places<'a> {
    pub(in crate::http) app: &'a App,
    /// The partitions that are read; none means all.
    pub(in crate::http) partitions: Option<Vec<PartitionId>>,
}

/// A place that is not there any more: why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gap {
    Expired,
    Recreated,
}

impl Places<'_> {
    /// Finds where the read begins. With `reset_on_gap` a partition whose place is no longer there begins at its
    /// earliest, and the problems are returned beside the positions, one for each topic.
    pub(super) async fn begin(
        &self,
        topics: &[(TopicName, Arc<Topic>)],
        start: &Start,
        reset_on_gap: bool,
    ) -> Result<(Vec<TopicPosition>, Vec<Problem>), Problem> {
        if let Start::After(After::Cursor(cursor)) = start {
            names_all(cursor, topics)?;
        }
        let (mut positions, mut resets) = (Vec::with_capacity(topics.len()), Vec::new());
        for (name, topic) in topics {
            let (slots, gap) = self.of_topic(name, topic, start).await?;
            if let Some(gap) = gap {
                let problem = self.gone(name, gap, topics);
                if !reset_on_gap {
                    return Err(problem);
                }
                resets.push(problem);
            }
            let (name, topic, whole) = (name.clone(), Arc::clone(topic), self.partitions.is_none());
            positions.push(TopicPosition { name, topic, slots, whole });
        }
        Ok((positions, resets))
    }

    /// Sets the exclusive end of each partition, if the read has one: a time or `latest` means what is there now.
    pub(super) async fn bound(
        &self,
        query: &Query,
        positions: &mut [TopicPosition],
    ) -> Result<bool, Problem> {
        let Some(until) = query.after("until")? else { return Ok(false) };
        if matches!(until, After::Earliest | After::Back(_)) {
            return Err(bad("until", "must be a cursor or a time"));
        }
        for position in positions {
            for slot in &mut position.slots {
                let end = match &until {
                    After::Cursor(cursor) => {
                        let cursor = self.part(cursor, &position.name, &position.topic)?;
                        self.covers(cursor, &position.name, &position.topic)?;
                        // A partition that is newer than the cursor lies behind it. Below the log start is nothing.
                        cursor.position(slot.partition.get()).map_or(Offset::ZERO, |at| Offset::new(at.next))
                    }
                    until => self.offset(&position.topic, slot.partition, until).await?,
                };
                slot.until = Some(end);
            }
        }
        Ok(true)
    }

    /// Waits until this node has seen what a produce answered, and for no longer than the node runs.
    pub(super) async fn wait_for_own_writes(
        &self,
        query: &Query,
        topics: &[(TopicName, Arc<Topic>)],
    ) -> Result<(), Problem> {
        let Some(text) = query.text("at_least") else { return Ok(()) };
        let foreign = || Problem::new(Code::BadCursor, "'at_least' is no cursor of what is read");
        let at_least: Cursor = text.parse().map_err(|_| foreign())?;
        if let [(name, topic)] = topics {
            self.part(&at_least, name, topic)?;
        }
        let is_of = |name: &TopicName, topic: &Topic| {
            let cursor = at_least.topic(name).filter(|cursor| cursor.epoch == topic.epoch)?;
            Some(cursor.clone()).filter(|c| c.positions.iter().all(|p| p.partition < topic.partitions))
        };
        let wanted: Vec<_> =
            topics.iter().filter_map(|(name, topic)| Some((topic, is_of(name, topic)?))).collect();
        if wanted.is_empty() {
            return Err(foreign());
        }
        let all_seen = async {
            for (topic, cursor) in &wanted {
                let mut news = self.app.shards.signals().subscribe(topic.id);
                // A topic that is deleted meanwhile is missed by the read itself.
                while !self.is_seen(topic, cursor) && news.changed().await.is_ok() {}
            }
        };
        let mut stopping = self.app.stopping();
        tokio::select! {
            biased;
            waited = tokio::time::timeout(limits::AT_LEAST_WAIT_MAX, all_seen) => waited.map_err(|_| {
                Problem::new(Code::StorageUnavailable, "this node has not seen 'at_least' yet")
            }),
            _ = stopping.wait_for(|stopping| *stopping) => {
                Err(Problem::new(Code::Draining, "the node is stopping"))
            }
        }
    }

    fn is_seen(&self, topic: &Topic, cursor: &TopicCursor) -> bool {
        cursor.positions.iter().all(|position| {
            let log = self.app.shards.log(topic, PartitionId::new(position.partition));
            log.is_some_and(|log| log.high_watermark().get() >= position.next)
        })
    }

    fn partitions(&self, topic: &Topic) -> Vec<PartitionId> {
        self.partitions.clone().unwrap_or_else(|| topic.partition_ids().collect())
    }

    async fn of_topic(
        &self,
        name: &TopicName,
        topic: &Arc<Topic>,
        start: &Start,
    ) -> Result<(Vec<Slot>, Option<Gap>), Problem> {
        let cursor = match start {
            Start::After(After::Cursor(cursor)) => match self.part(cursor, name, topic) {
                Ok(cursor) => {
                    self.covers(cursor, name, topic)?;
                    Some(cursor)
                }
                Err(problem) if problem.code == Code::TopicRecreated => {
                    let first =
                        |partition| Slot { partition, next: self.log_start(topic, partition), until: None };
                    let slots = self.partitions(topic).into_iter().map(first).collect();
                    return Ok((slots, Some(Gap::Recreated)));
                }
                Err(problem) => return Err(problem),
            },
            _ => None,
        };
        let partitions = self.partitions(topic);
        let (mut slots, mut gap) = (Vec::with_capacity(partitions.len()), None);
        for partition in partitions {
            let log_start = self.log_start(topic, partition);
            let next = match start {
                Start::At(offset) => *offset,
                Start::After(After::Cursor(_)) => {
                    // A partition that the cursor does not name is newer than it.
                    let named = cursor.and_then(|cursor| cursor.position(partition.get()));
                    named.map_or(log_start, |position| Offset::new(position.next))
                }
                // The log may start further on than a moment ago.
                Start::After(after) => self.offset(topic, partition, after).await?.max(log_start),
            };
            if next < log_start {
                gap = Some(Gap::Expired);
            }
            slots.push(Slot { partition, next: next.max(log_start), until: None });
        }
        Ok((slots, gap))
    }

    /// Finds a place that is not a cursor in one partition.
    async fn offset(&self, topic: &Topic, partition: PartitionId, after: &After) -> Result<Offset, Problem> {
        let (log_start, end) = ends(self.app, topic, partition);
        Ok(match after {
            After::Earliest | After::Cursor(_) => log_start,
            After::Latest => end,
            After::Back(count) => Offset::new(end.get().saturating_sub(*count)).max(log_start),
            After::Time(time) => offset_at(self.app, topic, partition, *time).await?.unwrap_or(end),
        })
    }

    /// Finds the part of a cursor that is this topic's, and checks that it is of this incarnation. Owner epochs, which
    /// cursors of a group carry, mean something to commits alone.
    pub(in crate::http) fn part<'a>(
        &self,
        cursor: &'a Cursor,
        name: &TopicName,
        topic: &Arc<Topic>,
    ) -> Result<&'a TopicCursor, Problem> {
        let found = cursor.topic(name).ok_or_else(|| bad_cursor("cursor does not name the topic", name))?;
        if found.epoch != topic.epoch {
            return Err(self.gone(name, Gap::Recreated, &[(name.clone(), Arc::clone(topic))]));
        }
        if found.positions.iter().any(|position| position.partition >= topic.partitions) {
            return Err(bad_cursor("cursor names a partition that the topic does not have", name));
        }
        Ok(found)
    }

    /// Checks that a cursor says enough for what is read.
    fn covers(&self, cursor: &TopicCursor, name: &TopicName, topic: &Topic) -> Result<(), Problem> {
        let covers = |partition: &PartitionId| cursor.position(partition.get()).is_some();
        if cursor.partial && !self.partitions(topic).iter().all(covers) {
            return Err(bad_cursor("cursor does not cover all partitions that are read", name));
        }
        Ok(())
    }

    /// Answers an offset that is below the log start.
    pub(in crate::http) fn expired(&self, name: &TopicName, topic: &Arc<Topic>) -> Problem {
        self.gone(name, Gap::Expired, &[(name.clone(), Arc::clone(topic))])
    }

    /// Answers a place that is no longer there, with the earliest that is for the same read.
    fn gone(&self, name: &TopicName, gap: Gap, topics: &[(TopicName, Arc<Topic>)]) -> Problem {
        let (code, detail) = match gap {
            Gap::Expired => (Code::CursorExpired, format!("the place is below the log start: topic={name}")),
            Gap::Recreated => {
                (Code::TopicRecreated, format!("the topic was deleted and created again: topic={name}"))
            }
        };
        let earliest = |(name, topic): &(TopicName, Arc<Topic>)| {
            let first = |partition| Slot { partition, next: self.log_start(topic, partition), until: None };
            let slots = self.partitions(topic).into_iter().map(first).collect();
            let whole = self.partitions.is_none();
            TopicPosition { name: name.clone(), topic: Arc::clone(topic), slots, whole }
        };
        let earliest: Vec<TopicPosition> = topics.iter().map(earliest).collect();
        let earliest = cursor_of(&earliest).to_string();
        Problem::new(code, detail).with("topic", name.as_str()).with("earliest", earliest)
    }

    fn log_start(&self, topic: &Topic, partition: PartitionId) -> Offset {
        ends(self.app, topic, partition).0
    }
}

/// Checks that a cursor of several topics names them: one without a name would be taken for each of them.
fn names_all(cursor: &Cursor, topics: &[(TopicName, Arc<Topic>)]) -> Result<(), Problem> {
    match (topics, cursor.topics.as_slice()) {
        ([_, (second, _), ..], [(None, _), ..]) => Err(bad_cursor("cursor does not name the topic", second)),
        _ => Ok(()),
    }
}

fn bad_cursor(text: &str, name: &TopicName) -> Problem {
    Problem::new(Code::BadCursor, format!("{text}: topic={name}"))
}

/// Returns the log start and the high watermark of a partition.
pub(in crate::http) fn ends(app: &App, topic: &Topic, partition: PartitionId) -> (Offset, Offset) {
    let view = app.shards.log(topic, partition).map(|log| log.view());
    view.map_or((Offset::ZERO, Offset::ZERO), |view| (view.log_start, view.high_watermark))
}

/// Returns the first offset whose record is not older than a time; none where there is none yet.
pub(in crate::http) async fn offset_at(
    app: &App,
    topic: &Topic,
    partition: PartitionId,
    time: Timestamp,
) -> Result<Option<Offset>, Problem> {
    let Some(shard) = app.shards.of(topic, partition) else { return Ok(None) };
    let found = shard.index().offset_at(topic.partition(partition), time).await;
    found.map_err(|error| fetch_problem(&error))
}
