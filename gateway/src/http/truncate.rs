//! Deleting the oldest records of a topic: its log starts move forward.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use forebay_log::model::{Offset, PartitionId, Topic, TopicName};
use forebay_log::shard::TruncateError;
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use crate::cursor::Cursor;
use crate::fetch::position::{Slot, TopicPosition};
use crate::http::App;
use crate::http::docs::problems::TruncateProblems;
use crate::http::error::partition_not_found;
use crate::http::extract::{After, Query, TopicPath, json_body};
use crate::http::problem::{Code, Effect, Problem};
use crate::http::read::{Places, bad, ends, offset_at};
use crate::limits;

/// What is to go: exactly one member.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"before": "a0.0-17_1-42"}))]
pub(super) struct TruncateRequest {
    /// A cursor: all records before it. Or an RFC 3339 time: all before the first record of each partition that is not
    /// older.
    #[serde(default)]
    #[schema(example = "a0.0-17_1-42")]
    before: Option<String>,
    /// By partition, the first offset that stays. Partitions that are not named keep all.
    #[serde(default)]
    #[schema(value_type = Option<BTreeMap<String, u64>>)]
    offsets: Option<Offsets>,
}

/// Offsets by partition, each named once.
#[derive(Debug)]
struct Offsets(BTreeMap<u16, u64>);

impl<'de> Deserialize<'de> for Offsets {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ByPartition;
        impl<'de> Visitor<'de> for ByPartition {
            type Value = Offsets;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with an offset for each partition")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Offsets, A::Error> {
                let mut offsets = BTreeMap::new();
                while let Some((partition, offset)) = map.next_entry::<u16, u64>()? {
                    if offsets.insert(partition, offset).is_some() {
                        return Err(A::Error::custom(format!("partition is named twice: {partition}")));
                    }
                }
                Ok(Offsets(offsets))
            }
        }
        deserializer.deserialize_map(ByPartition)
    }
}

/// Where the log of a partition starts and ends now.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"partition": 0, "log_start_offset": 17, "high_watermark": 40}))]
pub(super) struct TruncatedPartition {
    partition: u16,
    log_start_offset: u64,
    high_watermark: u64,
}

/// A topic after its oldest records were deleted.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"topic": "orders",
    "partitions": [{"partition": 0, "log_start_offset": 17, "high_watermark": 40}], "earliest": "a0.0-17"}))]
pub(super) struct Truncation {
    topic: String,
    /// All partitions of the topic.
    partitions: Vec<TruncatedPartition>,
    /// Where a read may begin now.
    #[schema(example = "a0.0-17_1-42")]
    earliest: String,
}

/// Deletes the records before a cursor, a time or the offsets given.
///
/// Each log start moves to the furthest of where it was and what is asked, never past the high watermark; doing it
/// again changes nothing. Once this is answered nothing below is served any more, also after a crash. A cursor that
/// names only some partitions touches only those.
#[utoipa::path(post, path = super::paths::TRUNCATE, tag = "topics", params(TopicPath),
    request_body(content = TruncateRequest, examples(
        ("cursor" = (value = json!({"before": "a0.0-17_1-42"}))),
        ("time" = (value = json!({"before": "2026-01-01T00:00:00Z"}))),
        ("offsets" = (value = json!({"offsets": {"0": 17, "2": 5}}))))),
    responses((status = OK, description = "where each partition starts now", body = Truncation, example = json!({"topic": "orders",
            "partitions": [{"partition": 0, "log_start_offset": 17, "high_watermark": 40}], "earliest": "a0.0-17"})),
        TruncateProblems))]
pub(super) async fn truncate(
    State(app): State<App>,
    path: TopicPath,
    request: Request,
) -> Result<Json<Truncation>, Problem> {
    Query::parse(request.uri().query(), &[])?;
    let topic = app.topics.find(&path.topic).await?;
    let body = json_body(request, &[], limits::SETTINGS_BYTES_MAX).await?.unwrap_or_default();
    let asked: TruncateRequest = serde_json::from_slice(&body)
        .map_err(|error| Problem::new(Code::BadJson, format!("body does not say what is to go: {error}")))?;
    let topic = if app.topics.is_shared() { newest(&app, &path.topic, &asked).await? } else { topic };
    let starts = match (asked.before, asked.offsets) {
        (Some(before), None) => starts_before(&app, &path.topic, &topic, &before).await?,
        (None, Some(offsets)) => starts_at(&app, &topic, &offsets)?,
        _ => return Err(Problem::new(Code::BadJson, "give exactly one of 'before' and 'offsets'")),
    };
    move_log_starts(&app, &topic, starts).await?;
    Ok(Json(describe(&app, path.topic, topic)))
}

/// Finds the topic as the request means it: what it names may be newer than this node's copy.
async fn newest(app: &App, name: &TopicName, asked: &TruncateRequest) -> Result<Arc<Topic>, Problem> {
    let before = asked.before.as_deref().and_then(|before| before.parse::<Cursor>().ok());
    let last = asked.offsets.iter().flat_map(|offsets| offsets.0.keys()).max().copied();
    let fits = |topic: &Topic| {
        before.as_ref().is_none_or(|before| before.fits(name, topic))
            && last.is_none_or(|last| last < topic.partitions)
    };
    Ok(app.topics.find_where(name, fits).await?)
}

async fn move_log_starts(
    app: &App,
    topic: &Arc<Topic>,
    starts: Vec<(PartitionId, Offset)>,
) -> Result<(), Problem> {
    let several =
        starts.iter().any(|(partition, _)| topic.shard_of(*partition) != topic.shard_of(starts[0].0));
    match tokio::time::timeout(limits::TRUNCATE_WAIT_MAX, app.0.truncate(topic, starts)).await {
        Ok(Ok(())) => Ok(()),
        // Another shard's partitions may have moved.
        Ok(Err(error)) if several => Err(Problem::from(error).with_effect(Effect::Unknown)),
        Ok(Err(error)) => Err(error.into()),
        Err(_) => {
            let problem = Problem::new(Code::StorageUnavailable, "the store did not answer in time");
            Err(problem.with_effect(Effect::Unknown))
        }
    }
}

/// Finds the log starts that a cursor or a time asks for. Above a high watermark there is nothing to delete.
async fn starts_before(
    app: &App,
    name: &TopicName,
    topic: &Arc<Topic>,
    before: &str,
) -> Result<Vec<(PartitionId, Offset)>, Problem> {
    let rule = "must be a cursor or an RFC 3339 time";
    match After::parse("before", before) {
        Ok(After::Cursor(cursor)) => {
            let places = Places { app, partitions: None };
            let positions = &places.part(&cursor, name, topic)?.positions;
            let start = |partition: PartitionId, next: u64| {
                (partition, Offset::new(next).min(ends(app, topic, partition).1))
            };
            Ok(positions.iter().map(|at| start(PartitionId::new(at.partition), at.next)).collect())
        }
        Ok(After::Time(time)) => {
            let mut starts = Vec::with_capacity(usize::from(topic.partitions));
            for partition in topic.partition_ids() {
                let (_, end) = ends(app, topic, partition);
                starts.push((partition, offset_at(app, topic, partition, time).await?.unwrap_or(end)));
            }
            Ok(starts)
        }
        Ok(_) => Err(bad("before", rule)),
        Err(problem) => Err(Problem { detail: format!("'before': {rule}"), ..problem }),
    }
}

/// Checks the log starts that are asked for by offset, all of them before any is moved.
fn starts_at(app: &App, topic: &Topic, offsets: &Offsets) -> Result<Vec<(PartitionId, Offset)>, Problem> {
    let mut starts = Vec::with_capacity(offsets.0.len());
    for (partition, offset) in &offsets.0 {
        if *partition >= topic.partitions {
            return Err(partition_not_found(*partition, topic.partitions));
        }
        let (partition, offset) = (PartitionId::new(*partition), Offset::new(*offset));
        let (_, high_watermark) = ends(app, topic, partition);
        if offset > high_watermark {
            let partition = topic.partition(partition);
            return Err(TruncateError::AboveHighWatermark { partition, high_watermark }.into());
        }
        starts.push((partition, offset));
    }
    Ok(starts)
}

fn describe(app: &App, name: TopicName, topic: Arc<Topic>) -> Truncation {
    let ends: Vec<_> =
        topic.partition_ids().map(|partition| (partition, ends(app, &topic, partition))).collect();
    let describe =
        |(partition, (log_start, high_watermark)): &(PartitionId, (Offset, Offset))| TruncatedPartition {
            partition: partition.get(),
            log_start_offset: log_start.get(),
            high_watermark: high_watermark.get(),
        };
    let partitions = ends.iter().map(describe).collect();
    let first = |(partition, (next, _)): &(PartitionId, (Offset, Offset))| Slot {
        partition: *partition,
        next: *next,
        until: None,
    };
    let slots = ends.iter().map(first).collect();
    let text = name.to_string();
    let earliest = Cursor::single(TopicPosition { name, topic, slots, whole: true }.cursor()).to_string();
    Truncation { topic: text, partitions, earliest }
}
