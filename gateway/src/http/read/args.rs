//! From parameters of a read to a position, a filter and a page's limits.

use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, Uri};
use forebay_log::model::{Offset, PartitionId, Topic, TopicName};

use crate::cursor::Cursor;
use crate::fetch::filter::{Filter, Pattern};
use crate::fetch::position::cursor_of;
use crate::fetch::{PageLimit, Reader};
use crate::http::App;
use crate::http::error::partition_not_found;
use crate::http::extract::{After, Query, Representation, negotiate};
use crate::http::problem::{Code, Problem};
use crate::http::read::place::Places;
use crate::limits;

pub(in crate::http) const PARAMETERS: [&str; 17] = [
    "after",
    "until",
    "offset",
    "limit",
    "max_bytes",
    "wait",
    "follow",
    "partition",
    "key",
    "header.*",
    "at_least",
    "format",
    "event",
    "on_gap",
    "last_event_id",
    "lastEventId",
    "topics",
];

/// What a client may ask for.
pub(super) const OFFERED: [Representation; 4] = [
    Representation::Json,
    Representation::Ndjson,
    Representation::EventStream,
    Representation::CloudEventsBatch,
];

/// The same for a client that asked for CloudEvents: whoever takes anything gets the format's own type.
const OFFERED_AS_EVENTS: [Representation; 4] = [
    Representation::CloudEventsBatch,
    Representation::Json,
    Representation::Ndjson,
    Representation::EventStream,
];

/// How records are represented.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// Record objects.
    Record,
    /// Bare values.
    Value,
    /// CloudEvents in JSON.
    CloudEvents,
}

/// A read, ready to begin.
#[derive(Debug)]
pub(super) struct ReadArgs {
    pub(super) representation: Representation,
    pub(super) format: Format,
    /// Whether frames of a stream are named after the type of the CloudEvent in them.
    pub(super) named: bool,
    pub(super) reader: Reader,
    pub(super) limit: PageLimit,
    /// Whether the client bounded the number of records.
    pub(super) limited: bool,
    /// Whether the read has an end.
    pub(super) bounded: bool,
    pub(super) wait: Duration,
    pub(super) follow: bool,
    pub(super) reset_on_gap: bool,
    pub(super) filtered: bool,
    /// Whether the client resumes a stream.
    pub(super) resumed: bool,
    /// Whether the URL alone names the place where it begins.
    pub(super) absolute: bool,
    /// Why the read begins elsewhere than it was asked to: a problem for each topic whose place is no longer there.
    pub(super) resets: Vec<Problem>,
    /// The client has had everything it asked for.
    pub(super) ended: bool,
}

/// Which topics and partitions a path names.
#[derive(Debug)]
pub(super) struct Scope {
    pub(super) topics: Vec<TopicName>,
    pub(super) partition: Option<PartitionId>,
}

impl ReadArgs {
    pub(super) async fn parse(
        app: &App,
        scope: Scope,
        uri: &Uri,
        headers: &HeaderMap,
    ) -> Result<Self, Problem> {
        let query = Query::parse(uri.query(), &PARAMETERS)?;
        let (representation, format) = representation(&query, headers)?;
        let follow = query.flag("follow")?;
        let events = representation == Representation::EventStream;
        let names = names_of(scope.topics, &query)?;
        let partitions = partitions_of(&query, scope.partition, names.len())?;
        let asked = start(&query, headers, events || follow)?;
        let topics = topics_of(app, names, &query, &asked.start, partitions.as_deref()).await?;
        let reset_on_gap = match query.text("on_gap") {
            // Only events can tell the client of it.
            None => events,
            Some("reset") => true,
            Some("error") => false,
            Some(_) => return Err(bad("on_gap", "must be reset or error")),
        };
        let limit = PageLimit {
            records: size(&query, "limit", limits::PAGE_RECORDS_DEFAULT, limits::PAGE_RECORDS_MAX)?,
            bytes: size(&query, "max_bytes", limits::PAGE_BYTES_DEFAULT, limits::PAGE_BYTES_MAX)?,
        };
        let (named, filter) = (named(&query)?, filter(&query)?);
        let wait = query.duration("wait", limits::WAIT_MAX)?.unwrap_or_default();
        let places = Places { app, partitions };
        places.wait_for_own_writes(&query, &topics).await?;
        let (mut positions, resets) = places.begin(&topics, &asked.start, reset_on_gap).await?;
        let bounded = places.bound(&query, &mut positions).await?;
        let filtered = !filter.is_empty();
        Ok(Self {
            representation,
            format,
            named,
            reader: Reader::new(Arc::clone(&app.shards), Arc::clone(&app.topics), positions, filter),
            limit,
            limited: query.text("limit").is_some(),
            bounded,
            wait,
            follow,
            reset_on_gap,
            filtered,
            absolute: asked.is_absolute(),
            ended: asked.start.is_end(),
            resumed: asked.resumed,
            resets,
        })
    }

    /// Tells whether the URL names a page that is the same tomorrow, as long as it ends below the tail: all records of
    /// one partition from a place that stays, where nothing is ever put in between.
    pub(super) fn is_repeatable(&self) -> bool {
        let [position] = self.reader.positions.as_slice() else { return false };
        let single = !position.whole && position.slots.len() == 1;
        single && self.absolute && !self.filtered && !self.bounded && self.resets.is_empty()
    }

    /// Returns the cursor of where the read stands.
    pub(super) fn cursor(&self) -> Cursor {
        cursor_of(&self.reader.positions)
    }
}

/// Where a read is to begin.
#[derive(Debug)]
pub(super) enum Start {
    /// A place in the topic.
    After(After),
    /// An offset of the one partition that is read.
    At(Offset),
}

impl Start {
    /// Tells whether the client has had everything it once asked for.
    fn is_end(&self) -> bool {
        matches!(self, Self::After(After::Cursor(cursor)) if cursor.end)
    }
}

#[derive(Debug)]
struct Asked {
    start: Start,
    /// Whether the client resumes a stream.
    resumed: bool,
}

impl Asked {
    /// Tells whether the URL alone names the place, today and tomorrow.
    fn is_absolute(&self) -> bool {
        !self.resumed && matches!(self.start, Start::At(_) | Start::After(After::Cursor(_)))
    }
}

/// Resume order of a stream: `Last-Event-ID`, then the parameter of that name, then `after`.
fn start(query: &Query, headers: &HeaderMap, streams: bool) -> Result<Asked, Problem> {
    let header = headers.get("last-event-id").map(|value| std::str::from_utf8(value.as_bytes())).transpose();
    let header = header.map_err(|_| Problem::new(Code::BadCursor, "Last-Event-ID is no cursor"))?;
    let parameter = query.text("last_event_id").or_else(|| query.text("lastEventId"));
    let id = header.filter(|id| !id.is_empty()).or(parameter.filter(|id| !id.is_empty()));
    if let Some(id) = id {
        let start = Start::After(After::parse("last_event_id", id)?);
        return Ok(Asked { start, resumed: true });
    }
    if let Some(offset) = query.u64("offset")? {
        if query.text("after").is_some() {
            return Err(bad("offset", "give either 'offset' or 'after'"));
        }
        return Ok(Asked { start: Start::At(Offset::new(offset)), resumed: false });
    }
    let after = match query.after("after")? {
        Some(after) => after,
        None if streams => After::Latest,
        None => After::Earliest,
    };
    Ok(Asked { start: Start::After(after), resumed: false })
}

fn names_of(named: Vec<TopicName>, query: &Query) -> Result<Vec<TopicName>, Problem> {
    match query.text("topics") {
        Some(_) if !named.is_empty() => Err(bad("topics", "the path names the topic")),
        Some(list) => parse_topics(list),
        None if named.is_empty() => Err(bad("topics", "name the topics, separated by commas")),
        None => Ok(named),
    }
}

/// Finds the topics. What the request names of them may be newer than this node's copy: an incarnation by a cursor, a
/// partition by any of its parameters.
async fn topics_of(
    app: &App,
    names: Vec<TopicName>,
    query: &Query,
    start: &Start,
    partitions: Option<&[PartitionId]>,
) -> Result<Vec<(TopicName, Arc<Topic>)>, Problem> {
    let after = match start {
        Start::After(After::Cursor(cursor)) => Some(cursor.clone()),
        _ => None,
    };
    let others = ["at_least", "until"].into_iter().filter_map(|name| query.text(name)?.parse().ok());
    let cursors: Vec<Cursor> = after.into_iter().chain(others).collect();
    let last = partitions.and_then(|partitions| partitions.last());
    let mut found = Vec::with_capacity(names.len());
    for name in names {
        let fits = |topic: &Topic| {
            last.is_none_or(|last| last.get() < topic.partitions)
                && cursors.iter().all(|cursor| cursor.fits(&name, topic))
        };
        let topic = app.topics.find_where(&name, fits).await?;
        let missing = partitions.into_iter().flatten().find(|partition| partition.get() >= topic.partitions);
        if let Some(missing) = missing {
            return Err(partition_not_found(missing.get(), topic.partitions));
        }
        found.push((name, topic));
    }
    Ok(found)
}

fn parse_topics(list: &str) -> Result<Vec<TopicName>, Problem> {
    let mut names = Vec::new();
    for text in list.split(',') {
        let name: TopicName = text.parse().map_err(|error: forebay_log::model::InvalidTopicName| {
            Problem::new(Code::BadParameter, format!("'topics': {error}")).with("parameter", "topics")
        })?;
        if !names.contains(&name) {
            names.push(name);
        }
    }
    if names.len() > limits::READ_TOPICS_MAX {
        return Err(bad("topics", "too many topics"));
    }
    Ok(names)
}

fn partitions_of(
    query: &Query,
    of_path: Option<PartitionId>,
    topics: usize,
) -> Result<Option<Vec<PartitionId>>, Problem> {
    let mut partitions = match (of_path, query.text("partition")) {
        (Some(_), Some(_)) => return Err(bad("partition", "the path names the partition")),
        (Some(partition), None) => vec![partition],
        (None, None) => {
            if query.text("offset").is_some() {
                return Err(bad("offset", "an offset is of one partition: read …/partitions/{p}/records"));
            }
            return Ok(None);
        }
        (None, Some(list)) => {
            let parsed: Result<Vec<u16>, _> = list.split(',').map(str::parse).collect();
            let numbers =
                parsed.map_err(|_| bad("partition", "must be numbers of partitions, separated by commas"))?;
            numbers.into_iter().map(PartitionId::new).collect()
        }
    };
    partitions.sort_unstable();
    partitions.dedup();
    if query.text("offset").is_some() && (partitions.len() != 1 || topics != 1) {
        return Err(bad("offset", "an offset is of one partition"));
    }
    Ok(Some(partitions))
}

fn filter(query: &Query) -> Result<Filter, Problem> {
    let headers: Vec<(String, Pattern)> =
        query.with_prefix("header.").map(|(name, value)| (name.to_owned(), Pattern::parse(value))).collect();
    if headers.len() > limits::FILTERS_MAX {
        return Err(bad("header", "too many filters"));
    }
    Ok(Filter { key: query.text("key").map(Pattern::parse), headers })
}

/// Settles together what is answered and in which form: either may imply CloudEvents.
fn representation(query: &Query, headers: &HeaderMap) -> Result<(Representation, Format), Problem> {
    let [json, ndjson, events, _] = OFFERED;
    let format = match query.text("format") {
        None => {
            let chosen = negotiate(headers, &OFFERED)?;
            let is_batch = chosen == Representation::CloudEventsBatch;
            return Ok((chosen, if is_batch { Format::CloudEvents } else { Format::Record }));
        }
        Some("cloudevents") => return Ok((negotiate(headers, &OFFERED_AS_EVENTS)?, Format::CloudEvents)),
        Some("record") => Format::Record,
        Some("value") => Format::Value,
        Some(_) => return Err(bad("format", "must be record, value or cloudevents")),
    };
    Ok((negotiate(headers, &[json, ndjson, events])?, format))
}

fn named(query: &Query) -> Result<bool, Problem> {
    match query.text("event") {
        None => Ok(false),
        Some("type") => Ok(true),
        Some(_) => Err(bad("event", "must be type")),
    }
}

fn size(query: &Query, name: &str, default: usize, max: usize) -> Result<usize, Problem> {
    let value = query.u64_in(name, 1..=max as u64)?;
    Ok(value.and_then(|value| usize::try_from(value).ok()).unwrap_or(default))
}

pub(in crate::http) fn bad(name: &str, rule: &str) -> Problem {
    Problem::new(Code::BadParameter, format!("'{name}': {rule}")).with("parameter", name)
}
