//! What a produce request says beside its body.

use std::sync::Arc;

use axum::http::HeaderMap;
use axum::http::request::Parts;
use bytes::Bytes;
use forebay_log::model::{Durability, Header, Offset, PartitionId, Record, Timestamp, Topic, TopicName};
use forebay_log::shard::AppendError;

use crate::http::App;
use crate::http::error::partition_not_found;
use crate::http::extract::{ProduceFormat, Query, produce_format};
use crate::http::problem::{Code, Problem};
use crate::http::produce::idempotency::idempotency;
use crate::http::produce::key_path::KeyPath;
use crate::http::read::bad;
use crate::http::wire::cloudevents::{EventIn, PREFIX, structured};
use crate::http::wire::ndjson::{Line, validate_json};
use crate::http::wire::record_out::TIMESTAMP_MIN;
use crate::http::wire::records_in::parse_record;
use crate::produce::{NewRecord, ProduceError, ProduceOptions, Unit};
use crate::topics::TopicsError;

pub(in crate::http) const PARAMETERS: [&str; 9] =
    ["key", "key_path", "partition", "timestamp", "tombstone", "format", "receipt", "durability", "header.*"];

/// One produce request, parsed up to its body.
#[derive(Debug)]
pub(super) struct ProduceArgs {
    pub(super) name: TopicName,
    pub(super) topic: Arc<Topic>,
    pub(super) format: ProduceFormat,
    pub(super) options: ProduceOptions,
    pub(super) key: Option<Bytes>,
    key_path: Option<KeyPath>,
    /// [`Timestamp::MIN`] stands for "now".
    pub(super) timestamp: Timestamp,
    pub(super) tombstone: bool,
    pub(super) headers: Vec<Header>,
    /// Whether a summary is answered even where each record could be named.
    pub(super) summary: bool,
    /// Where records without a key go.
    pub(super) sticky: PartitionId,
    /// An event whose time is later happened now, as far as the log is concerned.
    latest: Timestamp,
}

impl ProduceArgs {
    pub(super) async fn parse(
        app: &App,
        name: TopicName,
        of_path: Option<PartitionId>,
        parts: &Parts,
    ) -> Result<Self, Problem> {
        let headers = &parts.headers;
        let query = Query::parse(parts.uri.query(), &PARAMETERS)?;
        let format = produce_format(headers, query.text("format"))?;
        let either = |parameter: &str, header: &str| -> Result<Option<String>, Problem> {
            let from_header = header_text(headers, header)?;
            Ok(query.text(parameter).map(str::to_owned).or(from_header))
        };
        let chosen = either("partition", "forebay-partition")?;
        let partition = partition(of_path, chosen.as_deref())?;
        let level = query.text("durability").map(parse_durability).transpose()?;
        let topic = app.topics.find_to_append(&name, partition, level).await?;
        if let Some(missing) = partition.filter(|partition| partition.get() >= topic.partitions) {
            return Err(partition_not_found(missing.get(), topic.partitions));
        }
        let expected = if_match(headers)?;
        if expected.is_some() && partition.is_none() {
            let detail = "a conditional append names its partition";
            return Err(Problem::new(Code::BadParameter, detail).with("header", "If-Match"));
        }
        let options = ProduceOptions {
            durability: Some(level.unwrap_or(topic.settings.durability)),
            partition,
            expected,
            idempotency: idempotency(headers, &name, &topic)?,
        };
        let summary = match query.text("receipt") {
            None | Some("full") => false,
            Some("summary") => true,
            Some(_) => return Err(bad("receipt", "must be full or summary")),
        };
        let timestamp = either("timestamp", "forebay-timestamp")?;
        let args = Self {
            sticky: app.producer.sticky_partition(&topic, &options),
            latest: app.producer.latest_timestamp(),
            key: either("key", "forebay-key")?.map(Bytes::from),
            key_path: query.text("key_path").map(parse_key_path).transpose()?,
            timestamp: timestamp.map_or(Ok(Timestamp::MIN), |text| parse_timestamp(&text))?,
            tombstone: query.flag("tombstone")?,
            headers: record_headers(headers, &query)?,
            format,
            options,
            summary,
            name,
            topic,
        };
        args.check_fit()?;
        Ok(args)
    }

    /// Returns the topic to append a unit to. A body may last for hours: the topic may have been deleted since it began,
    /// and a partition that a record names may be newer. Partitions of keys stay those of the beginning.
    pub(super) async fn topic_for(&self, app: &App, unit: &Unit) -> Result<Arc<Topic>, Problem> {
        let newer = unit.last_partition().filter(|last| last.get() >= self.topic.partitions);
        let topic = app.topics.find_to_append(&self.name, newer, self.options.durability).await?;
        // One that has its name now is another.
        if topic.id != self.topic.id {
            return Err(TopicsError::NotFound { name: self.name.clone() }.into());
        }
        Ok(if newer.is_some() { topic } else { Arc::clone(&self.topic) })
    }

    /// Turns an error of an append into a problem. A leader may know that the topic is gone while this node still took its
    /// name for it: one of that name that exists is not missing.
    pub(super) async fn problem(&self, app: &App, error: ProduceError) -> Problem {
        if !matches!(error, ProduceError::Append(AppendError::TopicGone)) {
            return error.into();
        }
        match app.topics.find_where(&self.name, |topic| topic.id != self.topic.id).await {
            Ok(topic) if topic.id != self.topic.id => {
                Problem::new(Code::NoLeader, "the topic was created anew just now: send it again")
            }
            Ok(_) => error.into(),
            Err(error) => error.into(),
        }
    }

    /// Refuses what would have no effect on a body of this format.
    fn check_fit(&self) -> Result<(), Problem> {
        let single = matches!(self.format, ProduceFormat::Single { .. });
        let objects = matches!(self.format, ProduceFormat::Records | ProduceFormat::RecordsNdjson);
        let misfits = [
            ("key_path", self.key_path.is_some() && self.format != ProduceFormat::Ndjson),
            ("key_path", self.key_path.is_some() && self.key.is_some()),
            ("tombstone", self.tombstone && !single),
            ("key", self.key.is_some() && objects),
            ("timestamp", self.timestamp != Timestamp::MIN && objects),
            ("header", !self.headers.is_empty() && objects),
        ];
        if let Some((name, _)) = misfits.iter().find(|(_, misfits)| *misfits) {
            return Err(bad(name, "does not go with this format of the body"));
        }
        let is_attribute =
            |header: &Header| header.name == "content-type" || header.name.starts_with(PREFIX.as_bytes());
        if self.is_of_events() && self.headers.iter().any(is_attribute) {
            return Err(bad("header", "attributes of an event are part of the event"));
        }
        Ok(())
    }

    fn is_of_events(&self) -> bool {
        use ProduceFormat::{EventBinary, Events, EventsNdjson};
        matches!(self.format, EventBinary { .. } | Events(_) | EventsNdjson)
    }

    /// Makes a record of an event. What the request says of key and time goes before what the event says; the event's
    /// own attributes stay as they are.
    pub(super) fn event(&self, event: EventIn) -> NewRecord {
        let EventIn { key, time, mut headers, value } = event;
        headers.extend_from_slice(&self.headers);
        let timestamp = match self.timestamp {
            Timestamp::MIN => {
                time.filter(|time| (TIMESTAMP_MIN..=self.latest).contains(time)).unwrap_or(Timestamp::MIN)
            }
            chosen => chosen,
        };
        let key = self.key.clone().or(key);
        NewRecord { record: Record { key, value, headers, timestamp }, partition: None }
    }

    /// Makes a record of a line.
    pub(super) fn record(&self, line: Line) -> Result<NewRecord, Problem> {
        let Line { number, bytes } = line;
        if self.format == ProduceFormat::RecordsNdjson {
            let new = parse_record(&bytes, Timestamp::MIN).map_err(|e| e.into_problem(Some(number)))?;
            return Ok(NewRecord { record: new.record, partition: new.partition });
        }
        if self.format == ProduceFormat::EventsNdjson {
            let event = structured::parse_event(&bytes);
            return event.map(|event| self.event(event)).map_err(|e| e.into_problem(Some(("line", number))));
        }
        if self.format == ProduceFormat::Ndjson {
            validate_json(&bytes).map_err(|error| {
                let detail =
                    format!("line is no JSON: line={number} column={}: {}", error.column, error.reason);
                Problem::new(Code::BadJson, detail).with("line", number).with("column", error.column)
            })?;
        }
        let key = match &self.key_path {
            Some(path) => path.key(&bytes),
            None => self.key.clone(),
        };
        let (value, headers) = (Some(bytes), self.headers.clone());
        Ok(NewRecord { record: Record { key, value, headers, timestamp: self.timestamp }, partition: None })
    }
}

fn partition(of_path: Option<PartitionId>, chosen: Option<&str>) -> Result<Option<PartitionId>, Problem> {
    match (of_path, chosen) {
        (Some(_), Some(_)) => Err(bad("partition", "the path names the partition")),
        (None, Some(text)) => parse_partition(text).map(Some),
        (of_path, None) => Ok(of_path),
    }
}

fn parse_key_path(text: &str) -> Result<KeyPath, Problem> {
    KeyPath::parse(text).ok_or_else(|| bad("key_path", "must be a JSON Pointer such as /user/id"))
}

fn header_text(headers: &HeaderMap, name: &str) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    let text = std::str::from_utf8(value.as_bytes());
    let text =
        text.map_err(|_| Problem::new(Code::BadParameter, "header is not UTF-8").with("header", name))?;
    Ok(Some(text.to_owned()))
}

fn parse_partition(text: &str) -> Result<PartitionId, Problem> {
    text.parse().map(PartitionId::new).map_err(|_| bad("partition", "must be a partition's number"))
}

fn parse_durability(text: &str) -> Result<Durability, Problem> {
    match text {
        "object" => Ok(Durability::Object),
        "local" => Ok(Durability::Local),
        _ => Err(bad("durability", "must be object or local")),
    }
}

fn parse_timestamp(text: &str) -> Result<Timestamp, Problem> {
    let millis = text.parse().ok().map(Timestamp::from_millis);
    let time = millis.or_else(|| crate::http::extract::parse_time(text));
    time.filter(|time| time.as_millis() >= 0)
        .ok_or_else(|| bad("timestamp", "must be an RFC 3339 time or milliseconds since 1970"))
}

fn if_match(headers: &HeaderMap) -> Result<Option<Offset>, Problem> {
    let Some(text) = header_text(headers, "if-match")? else { return Ok(None) };
    let offset = text.trim().trim_matches('"').parse().map(Offset::new);
    let rule = "If-Match must be a partition's next offset, quoted";
    offset.map(Some).map_err(|_| Problem::new(Code::BadParameter, rule).with("header", "If-Match"))
}

/// Headers of the request that are headers of the record: `Forebay-Header-<name>`, and `header.<name>` of the query.
fn record_headers(headers: &HeaderMap, query: &Query) -> Result<Vec<Header>, Problem> {
    let mut found = Vec::new();
    for (name, value) in headers {
        if let Some(name) = name.as_str().strip_prefix("forebay-header-").filter(|name| !name.is_empty()) {
            let (name, value) =
                (Bytes::from(name.to_owned()), Some(Bytes::copy_from_slice(value.as_bytes())));
            found.push(Header { name, value });
        }
    }
    for (name, value) in query.with_prefix("header.") {
        let (name, value) = (Bytes::from(name.to_owned()), Some(Bytes::from(value.to_owned())));
        found.push(Header { name, value });
    }
    if found.len() > forebay_log::limits::RECORD_HEADERS_MAX {
        return Err(Problem::new(Code::BadParameter, "too many record headers"));
    }
    Ok(found)
}
