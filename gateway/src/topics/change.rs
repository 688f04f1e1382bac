//! Changes of topics, as values: what each does to the register's content.

use std::sync::Arc;

use forebay_log::format::topics::TopicsFile;
use forebay_log::limits;
use forebay_log::model::{Settings, ShardId, Timestamp, Topic, TopicId, TopicName};
use rand::rngs::StdRng;

use crate::topics::settings::{apply, first_difference};
use crate::topics::{Changes, Expected, TopicVersion, TopicsError};

/// One change that somebody asked for.
#[derive(Debug)]
pub(super) enum Change {
    /// Make a topic; or confirm it, unless it has to be new.
    Create { name: TopicName, settings: Changes, only_new: bool },
    /// Change settings.
    Alter { name: TopicName, changes: Changes, expected: Option<Expected> },
    /// Delete a topic.
    Delete { name: TopicName, expected: Option<Expected> },
}

/// What a change came to.
#[derive(Debug, Clone)]
pub(super) struct Applied {
    /// The topic as it is then; of a deletion, as it was.
    pub(super) topic: Arc<Topic>,
    /// Whether the content is another now.
    pub(super) changed: bool,
}

/// What changes take from outside.
#[derive(Debug)]
pub(super) struct Drawn<'a> {
    pub(super) ids: &'a mut StdRng,
    pub(super) shards: u16,
    pub(super) now: Timestamp,
}

impl Change {
    /// Applies the change to a content; one that is refused leaves it as it is.
    pub(super) fn apply(&self, file: &mut TopicsFile, drawn: &mut Drawn<'_>) -> Result<Applied, TopicsError> {
        match self {
            Self::Create { name, settings, only_new } => create(file, drawn, name, settings, *only_new),
            Self::Alter { name, changes, expected } => alter(file, name, changes, expected.as_ref()),
            Self::Delete { name, expected } => {
                let current = find(file, name)?;
                check_version(current, expected.as_ref())?;
                let deleted = file.delete(name, drawn.now);
                let topic = deleted.ok_or_else(|| TopicsError::NotFound { name: name.clone() })?;
                Ok(Applied { topic: Arc::new(topic), changed: true })
            }
        }
    }
}

fn create(
    file: &mut TopicsFile,
    drawn: &mut Drawn<'_>,
    name: &TopicName,
    changes: &Changes,
    only_new: bool,
) -> Result<Applied, TopicsError> {
    let (partitions, settings) = apply(1, &Settings::default(), changes)?;
    if let Some(topic) = file.topics.get(name) {
        if only_new {
            return Err(TopicsError::Version { current: TopicVersion::of(topic) });
        }
        return match first_difference(topic, partitions, &settings, changes)? {
            None => Ok(Applied { topic: Arc::new(topic.clone()), changed: false }),
            Some(setting) => Err(TopicsError::Exists { name: name.clone(), setting }),
        };
    }
    if file.topics.len() >= limits::TOPICS_MAX {
        return Err(TopicsError::Full);
    }
    let id = TopicId::random(drawn.ids);
    let first = u16::try_from(id.get() % u128::from(drawn.shards.max(1)));
    let topic = Topic {
        id,
        epoch: file.take_epoch(),
        partitions,
        first_shard: ShardId::new(first.expect("a remainder of a u16 fits in a u16")),
        shard_count: drawn.shards,
        version: 1,
        settings,
    };
    file.topics.insert(name.clone(), topic.clone());
    Ok(Applied { topic: Arc::new(topic), changed: true })
}

fn alter(
    file: &mut TopicsFile,
    name: &TopicName,
    changes: &Changes,
    expected: Option<&Expected>,
) -> Result<Applied, TopicsError> {
    let current = find(file, name)?;
    check_version(current, expected)?;
    let (partitions, settings) = apply(current.partitions, &current.settings, changes)?;
    if partitions < current.partitions {
        let detail = format!("partitions may only grow: current={}", current.partitions);
        return Err(TopicsError::Settings(detail));
    }
    if (partitions, &settings) == (current.partitions, &current.settings) {
        return Ok(Applied { topic: Arc::new(current.clone()), changed: false });
    }
    let topic = Topic { partitions, settings, version: current.version + 1, ..current.clone() };
    file.topics.insert(name.clone(), topic.clone());
    Ok(Applied { topic: Arc::new(topic), changed: true })
}

fn find<'a>(file: &'a TopicsFile, name: &TopicName) -> Result<&'a Topic, TopicsError> {
    file.topics.get(name).ok_or_else(|| TopicsError::NotFound { name: name.clone() })
}

fn check_version(topic: &Topic, expected: Option<&Expected>) -> Result<(), TopicsError> {
    let current = TopicVersion::of(topic);
    match expected {
        Some(tags) if !tags.contains(&current.etag()) => Err(TopicsError::Version { current }),
        _ => Ok(()),
    }
}
