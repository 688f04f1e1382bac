//! Parameters that several operations take, for the document. The parsers' own lists of names are compared with it.

use utoipa::{IntoParams, ToSchema};

/// Where a gap in what was asked for leads.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "lowercase")]
#[expect(dead_code, reason = "describes a parameter")]
pub(in crate::http) enum OnGap {
    Reset,
    Error,
}

/// How records are represented.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "lowercase")]
#[expect(dead_code, reason = "describes a parameter")]
pub(in crate::http) enum ReadFormat {
    Record,
    Value,
    CloudEvents,
}

/// What frames of a stream are named after.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "lowercase")]
#[expect(dead_code, reason = "describes a parameter")]
pub(in crate::http) enum EventNaming {
    Type,
}

/// What the body of a produce is.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "lowercase")]
#[expect(dead_code, reason = "describes a parameter")]
pub(in crate::http) enum ProduceBody {
    Value,
    Ndjson,
    Lines,
    Records,
    CloudEvents,
}

/// How much a receipt says.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "lowercase")]
#[expect(dead_code, reason = "describes a parameter")]
pub(in crate::http) enum ReceiptDetail {
    Full,
    Summary,
}

/// When an append is acknowledged.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "lowercase")]
#[expect(dead_code, reason = "describes a parameter")]
pub(in crate::http) enum DurabilityLevel {
    Object,
    Local,
}

/// How a body is compressed.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "lowercase")]
#[expect(dead_code, reason = "describes a parameter")]
pub(in crate::http) enum BodyEncoding {
    Gzip,
    Zstd,
    Identity,
}

/// What every read of records takes.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes parameters")]
pub(in crate::http) struct ReadParameters {
    /// Where to begin, exclusive: a cursor, `earliest`, `latest`, `-N` (N offsets back per partition), or an RFC 3339
    /// time. Default: `earliest` for a page, `latest` for a stream.
    #[param(example = "earliest", pattern = "^[A-Za-z0-9._:,+-]+$")]
    after: Option<String>,
    /// Where to end, exclusive: a cursor or an RFC 3339 time.
    #[param(example = "2030-01-01T00:00:00Z", pattern = "^[A-Za-z0-9._:,+-]+$")]
    until: Option<String>,
    /// Records of a page; with it a stream ends after so many.
    #[param(example = 100, minimum = 1, maximum = 10_000, default = 500)]
    limit: Option<u16>,
    /// Bytes of a page, about.
    #[param(example = 65_536, minimum = 1, maximum = 16_777_216, default = 1_048_576)]
    max_bytes: Option<u32>,
    /// Long poll: how long an empty page waits for a record, up to 60 s.
    #[param(example = "0s", pattern = "^([0-9]|[1-5][0-9]|60)s$", default = "0s")]
    wait: Option<String>,
    /// NDJSON without end.
    #[param(example = false, default = false)]
    follow: Option<bool>,
    /// Only records with this key; `prefix*` for keys that begin so.
    #[param(example = "u1")]
    key: Option<String>,
    /// Only records with this value of the header `<name>`; `prefix*` as for keys.
    #[param(rename = "header.<name>", example = "eu*")]
    header: Option<String>,
    /// Cursor of a produce: waits until this node can show its records.
    #[param(example = "a0.p0-1", pattern = "^[A-Za-z0-9._:,-]+$")]
    at_least: Option<String>,
    /// Record objects, bare values, or CloudEvents.
    #[param(inline, example = "record")]
    format: Option<ReadFormat>,
    /// Names the frames of a stream after the type of their CloudEvent.
    #[param(inline, example = "type")]
    event: Option<EventNaming>,
    /// What happens where the records asked for are gone. Default: `reset` for a stream, `error` otherwise.
    #[param(inline, example = "reset")]
    on_gap: Option<OnGap>,
    /// As the header `Last-Event-ID`, for clients that cannot set one; also `lastEventId`.
    #[param(example = "a0.0-1", pattern = "^[A-Za-z0-9._:,-]+$")]
    last_event_id: Option<String>,
}

/// What every read of records takes in its header.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "describes parameters")]
pub(in crate::http) struct ReadHeaders {
    /// Where a stream of events was cut: goes before `after`.
    #[param(rename = "Last-Event-ID", example = "a0.0-1", pattern = "^[A-Za-z0-9._:,-]+$")]
    last_event_id: Option<String>,
    /// Pages are compressed as it asks; streams are not.
    #[param(rename = "Accept-Encoding", example = "gzip, zstd")]
    accept_encoding: Option<String>,
    /// The `ETag` of the page that the client has.
    #[param(rename = "If-None-Match", example = "\"5f0c\"", pattern = "^\"[!#-~]*\"$")]
    if_none_match: Option<String>,
}

/// What every produce takes.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes parameters")]
pub(in crate::http) struct ProduceParameters {
    /// Key of the records; also the header `Forebay-Key`.
    #[param(example = "u1")]
    key: Option<String>,
    /// JSON Pointer to the key in each line of NDJSON.
    #[param(example = "/user/id", pattern = "^(/[^/~]+)+$")]
    key_path: Option<String>,
    /// When the records happened: RFC 3339 or milliseconds since 1970; also the header `Forebay-Timestamp`.
    #[param(example = "2026-11-22T12:00:00Z")]
    timestamp: Option<String>,
    /// A record without value: the body is empty, the key is not.
    #[param(example = false, default = false)]
    tombstone: Option<bool>,
    /// A header of the records; also the request header `Forebay-Header-<name>`.
    #[param(rename = "header.<name>", example = "eu-west")]
    header: Option<String>,
    /// What the body is, for clients that cannot set a media type.
    #[param(inline, example = "value")]
    format: Option<ProduceBody>,
    /// Whether the receipt names each record or each partition. Default: each record, up to 100 of them.
    #[param(inline, example = "full")]
    receipt: Option<ReceiptDetail>,
    /// When the request is answered. Default: the topic's.
    #[param(inline, example = "object")]
    durability: Option<DurabilityLevel>,
}

/// What every produce takes in its header.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "describes parameters")]
pub(in crate::http) struct ProduceHeaders {
    /// An attribute of a CloudEvent in binary mode, as every `ce-<name>`: percent-encoded.
    #[param(rename = "ce-id", example = "7")]
    ce_id: Option<String>,
    /// An attribute of a CloudEvent: a URI-reference.
    #[param(rename = "ce-source", example = "/shop")]
    ce_source: Option<String>,
    /// An attribute of a CloudEvent.
    #[param(rename = "ce-specversion", example = "1.0", pattern = "^1\\.0$")]
    ce_specversion: Option<String>,
    /// An attribute of a CloudEvent.
    #[param(rename = "ce-type", example = "order.placed")]
    ce_type: Option<String>,
    /// How the body is compressed.
    #[param(rename = "Content-Encoding", inline, example = "identity")]
    content_encoding: Option<BodyEncoding>,
}
