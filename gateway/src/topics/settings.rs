//! Settings of a topic by name, as clients send and get them.

use forebay_log::limits;
use forebay_log::model::{Settings, Topic};
use serde_json::{Map, Value};

use crate::topics::{Changes, TopicsError};

/// Describes a topic's settings by name, `partitions` first.
///
/// # Errors
/// [`TopicsError::Settings`], should a setting not fit into JSON.
pub fn describe(partitions: u16, settings: &Settings) -> Result<Changes, TopicsError> {
    let mut described = Map::new();
    described.insert("partitions".to_owned(), partitions.into());
    match serde_json::to_value(settings) {
        Ok(Value::Object(settings)) => described.extend(settings),
        _ => return Err(TopicsError::Settings("settings cannot be described".to_owned())),
    }
    Ok(described)
}

/// Applies changes and checks the outcome.
pub(super) fn apply(
    partitions: u16,
    settings: &Settings,
    changes: &Changes,
) -> Result<(u16, Settings), TopicsError> {
    let defaults = describe(1, &Settings::default())?;
    let mut described = describe(partitions, settings)?;
    for (name, value) in changes {
        let Some(default) = defaults.get(name) else {
            return Err(TopicsError::Settings(format!("unknown setting: {name}")));
        };
        described.insert(name.clone(), if value.is_null() { default.clone() } else { value.clone() });
    }
    let count = described.remove("partitions").and_then(|value| value.as_u64());
    let count = count.and_then(|count| u16::try_from(count).ok());
    let count = count.filter(|count| (1..=limits::PARTITIONS_MAX).contains(count));
    let max = limits::PARTITIONS_MAX;
    let count =
        count.ok_or_else(|| TopicsError::Settings(format!("partitions must be a number from 1 to {max}")))?;
    let settings: Settings = serde_json::from_value(Value::Object(described))
        .map_err(|error| TopicsError::Settings(format!("a setting has an invalid value: {error}")))?;
    check(&settings)?;
    Ok((count, settings))
}

fn check(settings: &Settings) -> Result<(), TopicsError> {
    let max_message = i64::from(settings.max_message_bytes);
    let segment_bytes = i64::try_from(settings.segment_bytes).unwrap_or(i64::MAX);
    let segment_ms = i64::try_from(settings.segment_ms).unwrap_or(i64::MAX);
    let ranges = [
        ("retention.ms", settings.retention_ms, -1, i64::MAX),
        ("retention.bytes", settings.retention_bytes, -1, i64::MAX),
        ("delete.retention.ms", settings.delete_retention_ms, 0, i64::MAX),
        ("min.compaction.lag.ms", settings.min_compaction_lag_ms, 0, i64::MAX),
        ("max.message.bytes", max_message, 1, i64::from(limits::MESSAGE_BYTES_MAX)),
        ("segment.bytes", segment_bytes, 1 << 20, 1 << 30),
        ("segment.ms", segment_ms, 1000, i64::MAX - 1),
    ];
    for (name, value, min, max) in ranges {
        if value < min || value > max {
            return Err(TopicsError::Settings(format!("{name} must be from {min} to {max}: value={value}")));
        }
    }
    Ok(())
}

/// Compares only what the caller named.
pub(super) fn first_difference(
    topic: &Topic,
    partitions: u16,
    settings: &Settings,
    named: &Changes,
) -> Result<Option<String>, TopicsError> {
    let has = describe(topic.partitions, &topic.settings)?;
    let wanted = describe(partitions, settings)?;
    Ok(named.keys().find(|name| has.get(*name) != wanted.get(*name)).cloned())
}
