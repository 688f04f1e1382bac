//! Bodies that several operations share, each with an example.

use std::collections::BTreeMap;

use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::response::Response;
use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, SchemaType, Type};
use utoipa::openapi::{Content, ContentBuilder, Ref, RefOr, ResponseBuilder};
use utoipa::{IntoResponses, ToSchema};

use crate::http::produce::ProduceReceipt;
use crate::http::read::RecordPage;
use crate::http::wire::cloudevents::CloudEvent;

/// Settings by Kafka's names; `null` means the default.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"partitions": 3, "retention.ms": 604_800_000}))]
#[expect(dead_code, reason = "describes what the settings' own table reads")]
pub(in crate::http) struct TopicSettings {
    #[schema(minimum = 1, maximum = 512, default = 1)]
    partitions: Option<u16>,
    /// When a produce is answered, unless it says otherwise.
    #[schema(pattern = "^(object|local)$", default = "object")]
    durability: Option<String>,
    #[serde(rename = "retention.ms")]
    #[schema(minimum = -1, default = 604_800_000)]
    retention_ms: Option<i64>,
    #[serde(rename = "retention.bytes")]
    #[schema(minimum = -1, default = -1)]
    retention_bytes: Option<i64>,
    /// `delete`, `compact` or `compact,delete`.
    #[serde(rename = "cleanup.policy")]
    #[schema(pattern = "^(delete|compact|compact,delete|delete,compact)$", default = "delete")]
    cleanup_policy: Option<String>,
    #[serde(rename = "delete.retention.ms")]
    #[schema(minimum = 0, default = 86_400_000)]
    delete_retention_ms: Option<i64>,
    #[serde(rename = "min.compaction.lag.ms")]
    #[schema(minimum = 0, default = 0)]
    min_compaction_lag_ms: Option<i64>,
    #[serde(rename = "max.message.bytes")]
    #[schema(minimum = 1, maximum = 4_194_304, default = 1_048_576)]
    max_message_bytes: Option<u32>,
    /// `zstd` or `none`.
    #[serde(rename = "compression.type")]
    #[schema(pattern = "^(zstd|none)$", default = "zstd")]
    compression_type: Option<String>,
    /// Whose clock stamps records: `CreateTime` or `LogAppendTime`.
    #[serde(rename = "message.timestamp.type")]
    #[schema(pattern = "^(CreateTime|LogAppendTime)$", default = "CreateTime")]
    message_timestamp_type: Option<String>,
    #[serde(rename = "segment.bytes")]
    #[schema(minimum = 1_048_576, maximum = 1_073_741_824, default = 67_108_864)]
    segment_bytes: Option<i64>,
    #[serde(rename = "segment.ms")]
    #[schema(minimum = 1000, default = 3_600_000)]
    segment_ms: Option<i64>,
}

/// What a produce answers when it was stored.
#[derive(Debug, Clone, Copy)]
pub(in crate::http) struct ProduceReceipts;

impl IntoResponses for ProduceReceipts {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let receipt = || of_schema(&ProduceReceipt::name(), receipt_example());
        let new = ResponseBuilder::new()
            .description(
                "stored, now or by an earlier request with the same `Idempotency-Key`: where the records are",
            )
            .header(
                "Idempotency-Replayed",
                header(Type::Boolean, "true for the first answer again", json!(true)),
            )
            .content("application/json", receipt())
            .build();
        let replayed = ResponseBuilder::new()
            .description("stored before by the same producer, or nothing to store: an empty batch")
            .header(
                "Idempotency-Replayed",
                header(Type::Boolean, "true where it was stored before", json!(true)),
            )
            .content("application/json", receipt())
            .build();
        responses([(StatusCode::CREATED, new), (StatusCode::OK, replayed)])
    }
}

/// What a read of records answers.
#[derive(Debug, Clone, Copy)]
pub(in crate::http) struct RecordPages;

impl IntoResponses for RecordPages {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let page = json!({
            "records": [{"topic": "orders", "partition": 0, "offset": 0, "timestamp": "2026-11-22T12:00:00.000Z",
                "key": "u1", "value": {"id": 7}}],
            "next": "a0.0-1",
            "caught_up": true,
        });
        let record = page["records"][0].to_string();
        let open = r#"{"resumed":false,"topics":{"orders":{"earliest":"a0.0-0","latest":"a0.0-1"}}}"#;
        let events =
            format!("event: open\nretry: 3000\nid: a0.0-0\ndata: {open}\n\nid: a0.0-1\ndata: {record}\n\n");
        let page = ResponseBuilder::new()
            .description("a page, or a stream where `Accept` asks for one")
            .header("Forebay-Next", header(Type::String, "the `after` of the next page", json!("a0.0-1")))
            .header(
                "Link",
                header(
                    Type::String,
                    "the next page, until it has caught up",
                    json!("<?after=a0.0-1>; rel=\"next\""),
                ),
            )
            .header(
                "Forebay-Reset",
                header(Type::String, "why `on_gap=reset` began elsewhere", json!("cursor-expired")),
            )
            .header("ETag", header(Type::String, "of pages that never change", json!("\"5f0c\"")))
            .header("Cache-Control", header(Type::String, "how long it may be kept", json!("no-store")))
            .content("application/json", of_schema(&RecordPage::name(), page))
            .content("application/x-ndjson", text(&format!("{record}\n")))
            .content("text/event-stream", text(&events))
            .content("application/cloudevents-batch+json", events_content())
            .build();
        let ended =
            ResponseBuilder::new().description("a bounded stream that has ended: do not come back").build();
        let unchanged = ResponseBuilder::new().description("the client has this page").build();
        responses([
            (StatusCode::OK, page),
            (StatusCode::NO_CONTENT, ended),
            (StatusCode::NOT_MODIFIED, unchanged),
        ])
    }
}

fn responses<const N: usize>(all: [(StatusCode, Response); N]) -> BTreeMap<String, RefOr<Response>> {
    all.into_iter().map(|(status, response)| (status.as_u16().to_string(), RefOr::T(response))).collect()
}

fn of_schema(name: &str, example: Value) -> Content {
    ContentBuilder::new().schema(Some(Ref::from_schema_name(name))).example(Some(example)).build()
}

fn events_content() -> Content {
    let event = json!({"id": "7", "source": "/shop", "specversion": "1.0", "type": "order.placed", "data": {"id": 7}});
    let events = ArrayBuilder::new().items(Ref::from_schema_name(CloudEvent::name())).build();
    ContentBuilder::new().schema(Some(events)).example(Some(json!([event]))).build()
}

fn text(example: &str) -> Content {
    let schema = ObjectBuilder::new().schema_type(SchemaType::new(Type::String)).build();
    ContentBuilder::new().schema(Some(schema)).example(Some(json!(example))).build()
}

fn header(of: Type, description: &str, example: Value) -> utoipa::openapi::header::Header {
    let schema = ObjectBuilder::new().schema_type(SchemaType::new(of)).build();
    HeaderBuilder::new().schema(Some(schema)).description(Some(description)).example(Some(example)).build()
}

fn receipt_example() -> Value {
    json!({
        "topic": "orders",
        "records": [{"partition": 0, "offset": 17, "timestamp": "2026-11-22T12:00:00.000Z"}],
        "count": 1,
        "cursor": "a0.p0-18",
    })
}
