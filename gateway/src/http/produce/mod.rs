//! `POST …/records`: one record, many, or a stream of lines.

mod args;
mod body;
mod events;
mod idempotency;
mod key_path;
mod receipt;
mod units;

use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::response::Response;
use bytes::Bytes;
use forebay_log::model::{Header, PartitionId, Record, Timestamp, TopicName};

use crate::http::App;
use crate::http::docs::bodies::ProduceReceipts;
use crate::http::docs::parameters::{ProduceHeaders, ProduceParameters};
use crate::http::docs::problems::ProduceProblems;
use crate::http::extract::{PartitionPath, ProduceFormat, TopicPath};
use crate::http::problem::{Code, Problem};
use crate::http::read::bad;
use crate::http::wire::cloudevents::CloudEvent;
use crate::http::wire::ndjson::validate_json;
use crate::http::wire::records_in::parse_records;
use crate::limits;
use crate::produce::{NewRecord, Produced, Progress, Unit};

use args::ProduceArgs;
use body::Lines;
use idempotency::IdempotencyHeaders;
use receipt::receipt;

#[cfg(test)]
pub(super) use args::PARAMETERS;
pub(super) use receipt::ProduceReceipt;

/// Records for several keys or partitions, in one document.
#[derive(Debug, utoipa::ToSchema)]
#[schema(example = json!({"records": [{"key": "u1", "value": {"id": 7}, "headers": {"region": "eu"}}, {"key": "u2", "value": null}]}))]
#[expect(dead_code, reason = "describes what the body's parser reads by hand")]
struct RecordsDocument {
    /// At most 10,000 of together 4 MiB.
    records: Vec<NewRecordObject>,
}

/// A record to append. `value: null` is a tombstone and needs a key.
#[derive(Debug, utoipa::ToSchema)]
#[schema(example = json!({"key": "u1", "value": {"id": 7}, "headers": {"region": "eu"}}))]
#[expect(dead_code, reason = "describes what the body's parser reads by hand")]
struct NewRecordObject {
    key: Option<String>,
    key_base64: Option<String>,
    /// Any JSON; kept as sent.
    value: Option<serde_json::Value>,
    /// Instead of `value`: bytes.
    value_base64: Option<String>,
    headers: Option<std::collections::BTreeMap<String, String>>,
    /// RFC 3339 or milliseconds since 1970.
    timestamp: Option<String>,
    partition: Option<u16>,
}

/// Appends records to a topic and answers where they are. PUT does the same, for `curl -T`.
///
/// The body is one record; or one record per line (`application/x-ndjson`, `format=lines`); or record objects
/// (`application/vnd.forebay.records+json`, `…+x-ndjson`); or CloudEvents (`application/cloudevents+json`,
/// `application/cloudevents-batch+json`, or the data alone, with attributes in headers `ce-<name>`). Up to 10,000
/// records of together 4 MiB are all or nothing per shard; larger bodies of lines are applied in such units, in order,
/// as they arrive.
#[utoipa::path(method(post, put), path = super::paths::RECORDS, tag = "records", params(TopicPath,
    ("partition" = Option<u16>, Query, maximum = 511, example = 0,
        description = "partition of the records; also the header `Forebay-Partition`"),
    ProduceParameters, ProduceHeaders, IdempotencyHeaders),
    request_body(description = "one record, lines, record objects, or CloudEvents", content(
        (Vec<u8> = "*/*", example = "hello"),
        (String = "application/x-ndjson", example = "{\"id\":8}\n{\"id\":9}\n"),
        (RecordsDocument = "application/vnd.forebay.records+json"),
        (String = "application/vnd.forebay.records+x-ndjson", example = "{\"key\":\"u1\",\"value\":{\"id\":7}}\n"),
        (CloudEvent = "application/cloudevents+json"),
        (Vec<CloudEvent> = "application/cloudevents-batch+json", example = json!([
            {"id": "7", "source": "/shop", "specversion": "1.0", "type": "order.placed", "data": {"id": 7}}])))),
    responses(ProduceReceipts, ProduceProblems))]
pub(super) async fn produce(
    State(app): State<App>,
    path: TopicPath,
    request: Request,
) -> Result<Response, Problem> {
    run(app, path.topic, None, request).await
}

/// Appends records to one partition of a topic; with `If-Match: "<next offset>"` only if it ends there.
#[utoipa::path(method(post, put), path = super::paths::PARTITION_RECORDS, tag = "records", params(PartitionPath,
    ("If-Match" = Option<String>, Header, pattern = "^\"[0-9]{1,19}\"$", example = "\"17\"",
        description = "the partition's next offset, quoted"),
    ProduceParameters, ProduceHeaders, IdempotencyHeaders),
    request_body(description = "one record, lines, record objects, or CloudEvents", content(
        (Vec<u8> = "*/*", example = "hello"),
        (String = "application/x-ndjson", example = "{\"id\":8}\n{\"id\":9}\n"),
        (RecordsDocument = "application/vnd.forebay.records+json"),
        (String = "application/vnd.forebay.records+x-ndjson", example = "{\"key\":\"u1\",\"value\":{\"id\":7}}\n"),
        (CloudEvent = "application/cloudevents+json"),
        (Vec<CloudEvent> = "application/cloudevents-batch+json", example = json!([
            {"id": "7", "source": "/shop", "specversion": "1.0", "type": "order.placed", "data": {"id": 7}}])))),
    responses(ProduceReceipts, ProduceProblems))]
pub(super) async fn produce_to_partition(
    State(app): State<App>,
    path: PartitionPath,
    request: Request,
) -> Result<Response, Problem> {
    run(app, path.topic, Some(path.partition), request).await
}

async fn run(
    app: App,
    name: TopicName,
    partition: Option<PartitionId>,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let mut body = Lines::new(body, app.bodies.clone(), &parts.headers);
    let answer = match ProduceArgs::parse(&app, name, partition, &parts).await {
        Ok(args) => apply(&app, &args, &mut body, &parts.headers).await,
        Err(problem) => Err(problem),
    };
    if answer.is_err() {
        body.drain().await;
    }
    answer
}

async fn apply(
    app: &App,
    args: &ProduceArgs,
    body: &mut Lines,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    body.decode(headers)?;
    let (mut produced, count) = match &args.format {
        ProduceFormat::Single { content_type } => {
            let unit = single(args, content_type.as_deref(), body).await?;
            one_unit(app, args, unit).await?
        }
        ProduceFormat::Records => one_unit(app, args, document(body).await?).await?,
        ProduceFormat::EventBinary { content_type } => {
            let unit = events::binary(args, headers, content_type.as_deref(), body).await?;
            one_unit(app, args, unit).await?
        }
        ProduceFormat::Events(document) => match events::document(args, *document, body).await? {
            Some(unit) => one_unit(app, args, unit).await?,
            None => return Ok(receipt::nothing(args)),
        },
        ProduceFormat::Ndjson
        | ProduceFormat::Lines
        | ProduceFormat::RecordsNdjson
        | ProduceFormat::EventsNdjson => units::apply(app, args, body).await?,
    };
    if produced.replayed {
        app.producer.recall_timestamps(&args.topic, &mut produced).await;
    }
    Ok(receipt(args, &produced, count))
}

/// Applies a unit. Returns where it is, and how many records that are.
async fn one_unit(app: &App, args: &ProduceArgs, unit: Unit) -> Result<(Produced, u64), Problem> {
    if unit.is_empty() {
        return Err(Problem::new(Code::BadParameter, "the request holds no record"));
    }
    let count = unit.len() as u64;
    let mut progress = Progress::default();
    let topic = args.topic_for(app, &unit).await?;
    let sent = async {
        let enqueued = app.producer.enqueue(&topic, unit, args.sticky, &mut progress, &args.options).await?;
        enqueued.acknowledged().await
    };
    match sent.await {
        Ok(produced) => Ok((produced, count)),
        Err(error) => Err(args.problem(app, error).await),
    }
}

/// Reads a body that is the value of one record.
async fn single(args: &ProduceArgs, content_type: Option<&str>, body: &mut Lines) -> Result<Unit, Problem> {
    let bytes = body.whole(args.topic.settings.max_message_bytes as usize).await?;
    if args.tombstone && !bytes.is_empty() {
        return Err(bad("tombstone", "a tombstone has no body"));
    }
    if args.tombstone && args.key.is_none() {
        return Err(bad("tombstone", "a tombstone has a key"));
    }
    let mut headers = args.headers.clone();
    // A value that is JSON implies that it is.
    let implied = |kept: &str| kept.eq_ignore_ascii_case("application/json") && validate_json(&bytes).is_ok();
    if let Some(content_type) = content_type.filter(|kept| !implied(kept)) {
        let value = Some(Bytes::copy_from_slice(content_type.as_bytes()));
        headers.insert(0, Header { name: Bytes::from_static(b"content-type"), value });
    }
    let value = (!args.tombstone).then_some(bytes);
    let record = Record { key: args.key.clone(), value, headers, timestamp: args.timestamp };
    let mut unit = Unit::default();
    unit.push(NewRecord { record, partition: None });
    Ok(unit)
}

/// Reads a body that is one document of record objects.
async fn document(body: &mut Lines) -> Result<Unit, Problem> {
    let bytes = body.whole(limits::BODY_BYTES_MAX).await?;
    let records = parse_records(&bytes, Timestamp::MIN).map_err(|error| error.into_problem(None))?;
    let mut unit = Unit::default();
    for new in records {
        if unit.is_full_for(&new.record) {
            return Err(document_too_large());
        }
        unit.push(NewRecord { record: new.record, partition: new.partition });
    }
    Ok(unit)
}

fn document_too_large() -> Problem {
    let limit = forebay_log::limits::UNIT_RECORDS_MAX;
    let detail = format!("a document holds at most {limit} records and 4 MiB: send larger bodies as lines");
    Problem::new(Code::TooLarge, detail).with("limit", limit)
}
