//! The answer to a produce: where the records are.

use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use forebay_log::model::{Durability, Offset};
use serde::Serialize;
use utoipa::ToSchema;

use crate::cursor::{Cursor, Position, TopicCursor};
use crate::http::produce::args::ProduceArgs;
use crate::http::wire::record_out::format_timestamp;
use crate::produce::{Idempotency, Produced, RecordPlace, Run};

/// Where one record is.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"partition": 0, "offset": 17, "timestamp": "2026-11-22T12:00:00.000Z"}))]
pub(in crate::http) struct RecordReceipt {
    partition: u16,
    /// Absent below `object` durability: an offset is only ever seen once it is final.
    offset: Option<u64>,
    /// When the record happened, RFC 3339.
    timestamp: String,
}

/// Where the records of one partition are.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"partition": 0, "base_offset": 17, "count": 500}))]
pub(in crate::http) struct PartitionReceipt {
    partition: u16,
    base_offset: Option<u64>,
    count: u64,
}

/// Where the records are.
#[derive(Debug, Default, Serialize, ToSchema)]
#[schema(example = json!({"topic": "orders", "partitions": [{"partition": 0, "base_offset": 17, "count": 500}],
    "count": 500, "cursor": "a0.p0-517"}))]
pub(in crate::http) struct ProduceReceipt {
    topic: String,
    /// Each record in the order of the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    records: Option<Vec<RecordReceipt>>,
    /// One entry per partition: `receipt=summary`, and the default above 100 records.
    #[serde(skip_serializing_if = "Option::is_none")]
    partitions: Option<Vec<PartitionReceipt>>,
    /// All records of the request.
    count: u64,
    /// Given to `at_least`, it makes a read wait for these records.
    #[serde(skip_serializing_if = "Option::is_none")]
    cursor: Option<String>,
    /// Acknowledged below `object` durability.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    provisional: bool,
}

/// Answers with the place of `count` records: each, where each is known and wanted, else those of each partition.
pub(super) fn receipt(args: &ProduceArgs, produced: &Produced, count: u64) -> Response {
    let level = args.options.durability.unwrap_or(args.topic.settings.durability);
    let provisional = level < Durability::Object;
    let final_offset = |offset: Offset| (!provisional).then_some(offset.get());
    let mut receipt =
        ProduceReceipt { topic: args.name.to_string(), count, provisional, ..ProduceReceipt::default() };
    if args.summary || produced.records.len() as u64 != count {
        let partition = |run: &Run| PartitionReceipt {
            partition: run.partition.get(),
            base_offset: final_offset(run.base_offset),
            count: run.count,
        };
        receipt.partitions = Some(produced.runs.iter().map(partition).collect());
    } else {
        let record = |place: &RecordPlace| RecordReceipt {
            partition: place.partition.get(),
            offset: final_offset(place.offset),
            timestamp: format_timestamp(place.timestamp),
        };
        receipt.records = Some(produced.records.iter().map(record).collect());
    }
    if !provisional {
        receipt.cursor = Some(cursor(&args.topic.epoch, &produced.runs).to_string());
    }
    // A request's first answer comes again as it was; a producer hears that nothing was created.
    let duplicate =
        produced.replayed && matches!(args.options.idempotency, Some(Idempotency::Producer { .. }));
    let status = if duplicate { StatusCode::OK } else { StatusCode::CREATED };
    let mut response = (status, axum::Json(receipt)).into_response();
    if produced.replayed {
        let name = HeaderName::from_static("idempotency-replayed");
        response.headers_mut().insert(name, HeaderValue::from_static("true"));
    }
    response
}

/// Answers a batch without a record in it.
pub(super) fn nothing(args: &ProduceArgs) -> Response {
    let topic = args.name.to_string();
    let receipt = ProduceReceipt { topic, records: Some(Vec::new()), ..ProduceReceipt::default() };
    (StatusCode::OK, axum::Json(receipt)).into_response()
}

/// The cursor after the last record of each partition written.
fn cursor(epoch: &str, runs: &[Run]) -> Cursor {
    let position = |run: &Run| Position {
        partition: run.partition.get(),
        next: run.end_offset.get(),
        owner_epoch: None,
    };
    let positions = runs.iter().map(position).collect();
    Cursor::single(TopicCursor { epoch: epoch.to_owned(), partial: true, positions })
}
