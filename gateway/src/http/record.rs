//! One record by its offset: its bytes as they were produced. It never changes.

use axum::extract::State;
use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use forebay_log::format::record_batch::RecordView;
use forebay_log::model::{Header, Offset, Topic};
use forebay_log::shard::FetchError;

use crate::http::App;
use crate::http::docs::problems::RecordProblems;
use crate::http::error::{fetch_problem, partition_not_found};
use crate::http::extract::{Query, RecordPath};
use crate::http::problem::{Code, Problem};
use crate::http::read::{IMMUTABLE, Places, header_value, with_etag};
use crate::http::wire::cloudevents::{PREFIX, binary, stored_attributes};
use crate::http::wire::ndjson::validate_json;
use crate::http::wire::record_out::format_timestamp;

/// Answers one record: its value as the body, its own content type, key and headers beside it.
///
/// A record that is a CloudEvent is answered in binary mode: its attributes are headers `ce-<name>`, percent-encoded,
/// `datacontenttype` is the content type, and an event without data has status 204.
///
/// It never changes, so that its `ETag` is strong and a client may keep it for an hour. Below the log start it is gone
/// (410), not unknown (404).
#[utoipa::path(get, path = super::paths::RECORD, tag = "records", params(RecordPath,
    ("If-None-Match" = Option<String>, Header, pattern = "^\"[!#-~]*\"$", example = "\"a0-0-0\"",
        description = "the ETag of the record that the client has")),
    responses((status = OK, description = "the value, byte for byte",
            headers(("ce-id" = String, description = "of a CloudEvent, like its other attributes: percent-encoded"),
                ("ce-source" = String, description = "of a CloudEvent"),
                ("ce-specversion" = String, description = "of a CloudEvent"),
                ("ce-type" = String, description = "of a CloudEvent"),
                ("ETag" = String, description = "strong: a record never changes"),
                ("Cache-Control" = String, description = "private, max-age=3600"),
                ("Forebay-Timestamp" = String, description = "when the record happened, RFC 3339"),
                ("Forebay-Key" = String, description = "its key, where it fits a header")),
            body = Vec<u8>, content_type = "*/*", example = json!("hello")),
        (status = NO_CONTENT, description = "a tombstone"),
        (status = NOT_MODIFIED, description = "the client has it"), RecordProblems))]
pub(super) async fn record(
    State(app): State<App>,
    path: RecordPath,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    Query::parse(uri.query(), &[])?;
    let topic = app.topics.find_with(&path.topic, Some(path.partition)).await?;
    if path.partition.get() >= topic.partitions {
        return Err(partition_not_found(path.partition.get(), topic.partitions));
    }
    let found = match find(&app, &topic, &path).await {
        Err(FetchError::Expired { log_start }) => {
            let places = Places { app: &app, partitions: Some(vec![path.partition]) };
            return Err(places.expired(&path.topic, &topic).with("log_start_offset", log_start.get()));
        }
        found => found.map_err(|error| fetch_problem(&error))?,
    };
    let mut record = found.ok_or_else(|| {
        let detail = format!("there is no such record: partition={} offset={}", path.partition, path.offset);
        Problem::new(Code::RecordNotFound, detail)
    })?;
    if let Some(value) = &mut record.value {
        // A slice of it would keep the whole batch for as long as the client takes.
        *value = app.reads.grant(value.len()).hold(Bytes::copy_from_slice(value));
    }
    let etag = format!("\"{}-{}-{}\"", topic.epoch, path.partition, path.offset);
    Ok(with_etag(represent(&record), &etag, &headers, IMMUTABLE))
}

async fn find(app: &App, topic: &Topic, path: &RecordPath) -> Result<Option<RecordView>, FetchError> {
    let Some(fetch) = app.shards.fetch(topic, path.partition, path.offset).await? else { return Ok(None) };
    let fetched = &fetch.fetched;
    let holds = |offset: Offset, end: Offset| offset <= path.offset && path.offset < end;
    let batch = fetched.batches.iter().find(|b| holds(b.header().base_offset, b.header().end_offset()));
    let Some(batch) = batch else { return Ok(None) };
    for record in batch.records()? {
        let record = record?;
        if record.offset == path.offset {
            return Ok(Some(record));
        }
    }
    Ok(None)
}

/// Represents a record; one that is a CloudEvent in binary mode.
fn represent(record: &RecordView) -> Response {
    let mut content_type = None;
    let mut response = match &record.value {
        Some(value) => value.clone().into_response(),
        None => StatusCode::NO_CONTENT.into_response(),
    };
    let headers: Vec<Header> = record.headers.clone().collect();
    let pairs = headers.iter().map(|header| (header.name.as_ref(), header.value.as_deref()));
    let attributes = stored_attributes(pairs);
    let is_event = attributes.is_some();
    for (name, value) in
        attributes.into_iter().flatten().filter_map(|(name, value)| binary::header(name, value))
    {
        response.headers_mut().append(name, value);
    }
    for header in &headers {
        let value = header.value.as_deref().unwrap_or_default();
        if header.name.as_ref() == b"content-type" {
            content_type = HeaderValue::from_bytes(value).ok();
            continue;
        }
        if is_event && header.name.starts_with(PREFIX.as_bytes()) {
            continue;
        }
        let name = [b"forebay-header-", header.name.as_ref()].concat();
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(&name), HeaderValue::from_bytes(value)) {
            response.headers_mut().append(name, value);
        }
    }
    if let Some(value) = &record.value {
        let implied = if validate_json(value).is_ok() {
            "application/json"
        } else if std::str::from_utf8(value).is_ok() {
            "text/plain; charset=utf-8"
        } else {
            "application/octet-stream"
        };
        let content_type = content_type.unwrap_or(HeaderValue::from_static(implied));
        response.headers_mut().insert(CONTENT_TYPE, content_type);
    }
    let headers = response.headers_mut();
    headers.insert(HeaderName::from_static("x-content-type-options"), HeaderValue::from_static("nosniff"));
    // The type is the producer's choice: a page of its making must not act as one of this site.
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'; sandbox"));
    headers.insert("forebay-timestamp", header_value(&format_timestamp(record.timestamp)));
    if let Some(key) = record.key.as_ref().and_then(|key| HeaderValue::from_bytes(key).ok()) {
        headers.insert("forebay-key", key);
    }
    response
}
