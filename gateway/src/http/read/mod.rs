//! `GET …/records`: pages, long polls, endless NDJSON, streams of events.

mod args;
mod coding;
mod events;
mod lines;
mod page;
mod place;

use std::time::Duration;

use axum::extract::State;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, ETAG, IF_NONE_MATCH, LINK, RETRY_AFTER,
};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use percent_encoding::percent_decode_str;
use tokio::time::Instant;

use crate::budget::Grant;
use crate::cursor::Cursor;
use crate::fetch::{PageEnd, PageLimit};
use crate::http::App;
use crate::http::docs::bodies::RecordPages;
use crate::http::docs::parameters::{ReadHeaders, ReadParameters};
use crate::http::docs::problems::ReadProblems;
use crate::http::extract::{PartitionPath, Query, Representation, TopicPath, content_coding, negotiate};
use crate::http::problem::{Code, Problem};
use crate::limits;

use args::{OFFERED, ReadArgs, Scope};
use page::PageSink;

#[cfg(test)]
pub(super) use args::PARAMETERS;
pub(super) use args::bad;
pub(super) use place::{Places, ends, offset_at};

/// What a reader may keep of records that will never change.
pub(super) const IMMUTABLE: &str = "private, max-age=3600";

/// A page of records.
#[derive(Debug, utoipa::ToSchema)]
#[schema(example = json!({"records": [], "next": "a0.0-1", "caught_up": true}))]
#[expect(dead_code, reason = "describes what the page's writer puts together by hand, record by record")]
pub(super) struct RecordPage {
    /// In order of offsets within each partition.
    records: Vec<RecordObject>,
    /// Goes on after these records: the `after` of the next read.
    next: String,
    /// Whether everything known to this node was read.
    caught_up: bool,
}

/// A record with its place. The value is JSON as it was produced where it is JSON, else a string where it is text, else
/// base64.
#[derive(Debug, utoipa::ToSchema)]
#[schema(example = json!({"topic": "orders", "partition": 0, "offset": 0, "timestamp": "2026-11-22T12:00:00.000Z",
    "key": "u1", "value": {"id": 7}}))]
#[expect(dead_code, reason = "describes what the record's writer puts together by hand")]
pub(super) struct RecordObject {
    topic: String,
    partition: u16,
    offset: u64,
    /// RFC 3339.
    timestamp: String,
    key: Option<String>,
    key_base64: Option<String>,
    value: Option<serde_json::Value>,
    value_base64: Option<String>,
    headers: Option<std::collections::BTreeMap<String, String>>,
}

/// Reads or follows a topic, all partitions.
///
/// A page answers `Forebay-Next`, and until it has caught up `Link` with `rel="next"`; where `on_gap=reset` moved it,
/// `Forebay-Reset` says why. A page of one partition below its tail has a strong `ETag` and may be kept for an hour.
///
/// `Accept: application/json` (default) and `application/x-ndjson` answer a page, or wait for one (`wait`);
/// `text/event-stream` replays from `after` or `Last-Event-ID` and then follows. `application/cloudevents-batch+json`, or
/// `format=cloudevents`, answers every record as a CloudEvent; the header `Forebay-Next` goes on after a page. A read
/// never moves a committed position.
#[utoipa::path(get, path = super::paths::RECORDS, tag = "records", params(TopicPath,
    ("partition" = Option<String>, Query, pattern = "^[0-9]{1,3}(,[0-9]{1,3})*$", example = "0",
        description = "only these partitions, separated by commas"),
    ReadParameters, ReadHeaders),
    responses(RecordPages, ReadProblems))]
pub(super) async fn read_topic(
    State(app): State<App>,
    path: TopicPath,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    read(app, Scope { topics: vec![path.topic], partition: None }, uri, headers).await
}

/// Reads or follows one partition; also from an offset.
#[utoipa::path(get, path = super::paths::PARTITION_RECORDS, tag = "records", params(PartitionPath,
    ("offset" = Option<u64>, Query, example = 0, description = "first offset to read, instead of `after`"),
    ReadParameters, ReadHeaders),
    responses(RecordPages, ReadProblems))]
pub(super) async fn read_partition(
    State(app): State<App>,
    path: PartitionPath,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    read(app, Scope { topics: vec![path.topic], partition: Some(path.partition) }, uri, headers).await
}

/// Reads or follows several topics on one connection, resumed by one cursor.
#[utoipa::path(get, path = super::paths::MANY_RECORDS, tag = "records", params(
    ("topics" = String, Query, pattern = "^[a-zA-Z0-9._-]{1,249}(,[a-zA-Z0-9._-]{1,249})*$", example = "orders",
        description = "names of topics, separated by commas"),
    ("partition" = Option<String>, Query, pattern = "^[0-9]{1,3}(,[0-9]{1,3})*$", example = "0",
        description = "only these partitions of each topic, separated by commas"),
    ReadParameters, ReadHeaders),
    responses(RecordPages, ReadProblems))]
pub(super) async fn read_topics(
    State(app): State<App>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    read(app, Scope { topics: Vec::new(), partition: None }, uri, headers).await
}

async fn read(app: App, scope: Scope, uri: Uri, headers: HeaderMap) -> Result<Response, Problem> {
    let mut args = ReadArgs::parse(&app, scope, &uri, &headers).await?;
    let events = args.representation == Representation::EventStream;
    if events && args.ended {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    if (events || args.follow) && app.is_stopping() {
        return Err(Problem::new(Code::Draining, "the node is stopping"));
    }
    if events {
        let place = app.admission.stream()?;
        return Ok(events::events(app, args, place));
    }
    if args.follow {
        let place = app.admission.stream()?;
        return Ok(lines::lines(app, args, place));
    }
    let (end, room, body) = page(&app, &mut args).await?;
    let (body, coding) = coding::encode(body, content_coding(&headers)).await;
    let (next, media_type) = (args.cursor().to_string(), args.representation.media_type());
    let mut response = room.hold(body).into_response();
    let sent = response.headers_mut();
    if let Some(coding) = coding {
        sent.insert(CONTENT_ENCODING, HeaderValue::from_static(coding.name()));
    }
    sent.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    sent.insert("forebay-next", header_value(&next));
    if !end.caught_up {
        sent.insert(LINK, header_value(&format!("<{}>; rel=\"next\"", next_page(&uri, &next))));
    }
    if let Some(reset) = args.resets.first() {
        sent.insert("forebay-reset", HeaderValue::from_static(reset.code.as_str()));
    }
    if args.is_repeatable() && !end.caught_up {
        return Ok(cached(response, &format!("{next}{media_type}{coding:?}{uri}"), &headers));
    }
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// Returns the reference of the next page: the same read, from the cursor on.
fn next_page(uri: &Uri, next: &str) -> String {
    const PLACES: [&str; 5] = ["after", "offset", "last_event_id", "lastEventId", "at_least"];
    let names_place = |item: &&str| {
        let name = item.split('=').next().unwrap_or_default();
        PLACES.contains(&&*percent_decode_str(name).decode_utf8_lossy())
    };
    let kept = uri.query().unwrap_or_default().split('&');
    let kept = kept.filter(|item| !item.is_empty() && !names_place(item)).map(|item| format!("{item}&"));
    format!("{}?{}after={next}", uri.path(), kept.collect::<String>())
}

/// Reads a page; without a record in it, waits for one as long as the client asked. Answers it with its room in memory.
async fn page(app: &App, args: &mut ReadArgs) -> Result<(PageEnd, Grant, Bytes), Problem> {
    let deadline = Instant::now() + args.wait;
    let mut sink = PageSink::new(&args.reader.positions, args.representation, args.format);
    loop {
        let grant = app.reads.grant(args.limit.bytes);
        let limit = PageLimit { bytes: grant.bytes(), ..args.limit };
        let end = match args.reader.page(limit, &mut sink).await {
            // Records went while they were read, and the client said what then.
            Err(error) if error.is_gap() && args.reset_on_gap => {
                if !args.reader.close_gap() {
                    return Err(error.into());
                }
                args.resets.push(error.into());
                continue;
            }
            end => end?,
        };
        let over = end.records > 0 || !end.caught_up || args.reader.is_done() || args.wait.is_zero();
        if over || !news(app, args, deadline).await? {
            let caught_up = end.caught_up && !args.reader.is_ahead();
            return Ok((end, grant, sink.finish(&args.cursor(), caught_up)));
        }
    }
}

/// Waits for news, until the deadline or the stop of the node.
async fn news(app: &App, args: &mut ReadArgs, deadline: Instant) -> Result<bool, Problem> {
    let _parked = app.admission.park()?;
    let mut stopping = app.stopping();
    let mut look = deadline;
    if app.topics.is_shared() {
        // Another node may delete the topic meanwhile, or give it partitions.
        look = deadline.min(Instant::now() + limits::PARTITIONS_REFRESH);
    }
    Ok(tokio::select! {
        news = args.reader.wait(look) => news || look < deadline,
        _ = stopping.wait_for(|stopping| *stopping) => false,
    })
}

/// Tells whether a read with these headers would be answered with events.
pub(super) fn wants_events(headers: &HeaderMap) -> bool {
    negotiate(headers, &OFFERED).is_ok_and(|chosen| chosen == Representation::EventStream)
}

/// Returns the cursor that a request for events was sent with, wherever it was.
pub(super) fn place_sent(headers: &HeaderMap, uri: &Uri) -> Option<String> {
    let header = headers.get("last-event-id").and_then(|value| value.to_str().ok());
    let query = Query::parse(uri.query(), &["*"]).unwrap_or_default();
    let places = ["last_event_id", "lastEventId", "after"].into_iter().filter_map(|name| query.text(name));
    let sent = header.into_iter().chain(places).find(|text| text.parse::<Cursor>().is_ok());
    sent.map(str::to_owned)
}

/// Answers a refused request for events as an event, with the id that the client sent.
pub(super) async fn refusal_as_events(app: &App, response: Response, last_id: Option<String>) -> Response {
    let status = response.status();
    let retry = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    let retry = Duration::from_secs(retry.unwrap_or(1)) + events::jitter(app);
    match axum::body::to_bytes(response.into_body(), limits::SETTINGS_BYTES_MAX).await {
        Ok(problem) => events::problem_as_events(&problem, last_id.as_deref(), retry),
        Err(_) => status.into_response(),
    }
}

/// Answers with a strong `ETag`: below the tail a partition never changes.
fn cached(response: Response, identity: &str, headers: &HeaderMap) -> Response {
    let etag = format!("\"{:016x}\"", forebay_log::format::codec::hash64(identity.as_bytes()));
    with_etag(response, &etag, headers, IMMUTABLE)
}

/// Adds a strong `ETag` and what a cache may do; answers 304 where the client has it.
pub(super) fn with_etag(
    mut response: Response,
    etag: &str,
    headers: &HeaderMap,
    cache: &'static str,
) -> Response {
    let known = headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let is_known = |known: &str| known == "*" || known.strip_prefix("W/").unwrap_or(known) == etag;
    if known.flat_map(|list| list.split(',')).map(str::trim).any(is_known) {
        response = StatusCode::NOT_MODIFIED.into_response();
    }
    response.headers_mut().insert(ETAG, header_value(etag));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static(cache));
    response
}

pub(super) fn header_value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}
