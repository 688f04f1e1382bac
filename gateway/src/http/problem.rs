//! Errors as the API shows them: RFC 9457 problem documents with a stable code.
//!
//! One table, [`Code::row`], gives each code its status, title and Kafka's name for it. `retryable` says whether the
//! same request may succeed later, `effect` what it left behind. Text of inner errors never gets here.

use std::fmt;
use std::time::Duration;

use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, StatusCode};
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};
use utoipa::openapi::RefOr;
use utoipa::{PartialSchema, ToSchema};

/// The media type of a problem document.
pub const PROBLEM_JSON: &str = "application/problem+json";
/// The limits of a service and what is left of them (draft-ietf-httpapi-ratelimit-headers).
const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
/// What `Retry-After` says where the cause of a 429 or 503 knows no better.
const RETRY_AFTER_DEFAULT: Duration = Duration::from_secs(1);

/// What went wrong: stable, for programs to branch on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    BadParameter,
    BadCursor,
    BadJson,
    Unauthenticated,
    TokenExpired,
    Forbidden,
    ProducerFenced,
    NotFound,
    TopicNotFound,
    PartitionNotFound,
    GroupNotFound,
    RecordNotFound,
    MethodNotAllowed,
    NotAcceptable,
    TopicExists,
    Fenced,
    SequenceGap,
    InProgress,
    GroupActive,
    CursorExpired,
    TopicRecreated,
    PreconditionFailed,
    TooLarge,
    UnsupportedMediaType,
    IdempotencyMismatch,
    InvalidConfig,
    RateLimited,
    QuotaExceeded,
    Internal,
    Overloaded,
    Draining,
    StorageUnavailable,
    CoordinatorUnavailable,
    NoLeader,
}

/// What the table says of a code.
struct Row {
    status: StatusCode,
    text: &'static str,
    title: &'static str,
    kafka_error: Option<&'static str>,
}

const fn row(status: StatusCode, text: &'static str, title: &'static str) -> Row {
    Row { status, text, title, kafka_error: None }
}

impl Row {
    const fn kafka(self, name: &'static str) -> Self {
        Self { kafka_error: Some(name), ..self }
    }
}

impl Code {
    /// Every code, by status.
    pub const ALL: [Self; 34] = [
        Self::BadParameter,
        Self::BadCursor,
        Self::BadJson,
        Self::Unauthenticated,
        Self::TokenExpired,
        Self::Forbidden,
        Self::ProducerFenced,
        Self::NotFound,
        Self::TopicNotFound,
        Self::PartitionNotFound,
        Self::GroupNotFound,
        Self::RecordNotFound,
        Self::MethodNotAllowed,
        Self::NotAcceptable,
        Self::TopicExists,
        Self::Fenced,
        Self::SequenceGap,
        Self::InProgress,
        Self::GroupActive,
        Self::CursorExpired,
        Self::TopicRecreated,
        Self::PreconditionFailed,
        Self::TooLarge,
        Self::UnsupportedMediaType,
        Self::IdempotencyMismatch,
        Self::InvalidConfig,
        Self::RateLimited,
        Self::QuotaExceeded,
        Self::Internal,
        Self::Overloaded,
        Self::Draining,
        Self::StorageUnavailable,
        Self::CoordinatorUnavailable,
        Self::NoLeader,
    ];

    const fn row(self) -> Row {
        use StatusCode as S;
        match self {
            Self::BadParameter => row(S::BAD_REQUEST, "bad-parameter", "A parameter is wrong"),
            Self::BadCursor => row(S::BAD_REQUEST, "bad-cursor", "The cursor cannot be used here"),
            Self::BadJson => row(S::BAD_REQUEST, "bad-json", "The body is not the expected JSON"),
            Self::Unauthenticated => row(S::UNAUTHORIZED, "unauthenticated", "A credential is needed"),
            Self::TokenExpired => row(S::UNAUTHORIZED, "token-expired", "The credential has expired"),
            Self::Forbidden => row(S::FORBIDDEN, "forbidden", "The credential does not allow this"),
            Self::ProducerFenced => row(S::FORBIDDEN, "producer-fenced", "A newer producer epoch exists")
                .kafka("INVALID_PRODUCER_EPOCH"),
            Self::NotFound => row(S::NOT_FOUND, "not-found", "There is no such path"),
            Self::TopicNotFound => row(S::NOT_FOUND, "topic-not-found", "There is no such topic")
                .kafka("UNKNOWN_TOPIC_OR_PARTITION"),
            Self::PartitionNotFound => row(S::NOT_FOUND, "partition-not-found", "There is no such partition")
                .kafka("UNKNOWN_TOPIC_OR_PARTITION"),
            Self::GroupNotFound => row(S::NOT_FOUND, "group-not-found", "There is no such consumer group")
                .kafka("GROUP_ID_NOT_FOUND"),
            Self::RecordNotFound => {
                row(S::NOT_FOUND, "record-not-found", "There is no record at this offset")
            }
            Self::MethodNotAllowed => {
                row(S::METHOD_NOT_ALLOWED, "method-not-allowed", "The path does not know this method")
            }
            Self::NotAcceptable => {
                row(S::NOT_ACCEPTABLE, "not-acceptable", "No representation matches the Accept header")
            }
            _ => self.row_of_state(),
        }
    }

    const fn row_of_state(self) -> Row {
        use StatusCode as S;
        match self {
            Self::TopicExists => row(S::CONFLICT, "topic-exists", "The topic exists with other settings")
                .kafka("TOPIC_ALREADY_EXISTS"),
            Self::Fenced => {
                row(S::CONFLICT, "fenced", "Another member owns the partition").kafka("FENCED_MEMBER_EPOCH")
            }
            Self::SequenceGap => row(S::CONFLICT, "sequence-gap", "Records before these are missing")
                .kafka("OUT_OF_ORDER_SEQUENCE_NUMBER"),
            Self::InProgress => row(S::CONFLICT, "in-progress", "The same request is still running"),
            Self::GroupActive => {
                row(S::CONFLICT, "group-active", "The consumer group has members").kafka("NON_EMPTY_GROUP")
            }
            Self::CursorExpired => {
                row(S::GONE, "cursor-expired", "The records are past retention").kafka("OFFSET_OUT_OF_RANGE")
            }
            Self::TopicRecreated => {
                row(S::GONE, "topic-recreated", "The topic is another one now").kafka("INCONSISTENT_TOPIC_ID")
            }
            Self::PreconditionFailed => {
                row(S::PRECONDITION_FAILED, "precondition-failed", "The state is another than expected")
            }
            Self::TooLarge => {
                row(S::PAYLOAD_TOO_LARGE, "too-large", "The request is too large").kafka("MESSAGE_TOO_LARGE")
            }
            Self::UnsupportedMediaType => {
                row(S::UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type", "The media type is not supported")
            }
            Self::IdempotencyMismatch => {
                row(S::UNPROCESSABLE_ENTITY, "idempotency-mismatch", "The key was used with another body")
            }
            Self::InvalidConfig => {
                row(S::UNPROCESSABLE_ENTITY, "invalid-config", "A setting is invalid").kafka("INVALID_CONFIG")
            }
            _ => self.row_of_service(),
        }
    }

    const fn row_of_service(self) -> Row {
        use StatusCode as S;
        match self {
            Self::RateLimited => row(S::TOO_MANY_REQUESTS, "rate-limited", "Too many requests")
                .kafka("THROTTLING_QUOTA_EXCEEDED"),
            Self::QuotaExceeded => row(S::TOO_MANY_REQUESTS, "quota-exceeded", "A quota is used up")
                .kafka("THROTTLING_QUOTA_EXCEEDED"),
            Self::Overloaded => row(S::SERVICE_UNAVAILABLE, "overloaded", "The node is overloaded"),
            Self::Draining => row(S::SERVICE_UNAVAILABLE, "draining", "The node is shutting down"),
            Self::StorageUnavailable => {
                row(S::SERVICE_UNAVAILABLE, "storage-unavailable", "The store is unavailable")
                    .kafka("KAFKA_STORAGE_ERROR")
            }
            Self::CoordinatorUnavailable => {
                row(S::SERVICE_UNAVAILABLE, "coordinator-unavailable", "The coordinator is unavailable")
                    .kafka("COORDINATOR_NOT_AVAILABLE")
            }
            Self::NoLeader => row(S::SERVICE_UNAVAILABLE, "no-leader", "The partition has no leader now")
                .kafka("LEADER_NOT_AVAILABLE"),
            _ => row(S::INTERNAL_SERVER_ERROR, "internal", "The server failed").kafka("UNKNOWN_SERVER_ERROR"),
        }
    }

    /// Returns the status of answers with this code.
    pub const fn status(self) -> StatusCode {
        self.row().status
    }

    /// Returns the text of `code`.
    pub const fn as_str(self) -> &'static str {
        self.row().text
    }

    /// Returns the kind of problem in a sentence.
    pub const fn title(self) -> &'static str {
        self.row().title
    }

    /// Tells whether the same request may succeed later, unless the cause knows better.
    pub const fn is_retryable(self) -> bool {
        let status = self.row().status.as_u16();
        matches!(status, 429 | 503) || matches!(self, Self::InProgress)
    }
}

/// What a failed request left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// Nothing: doing it again cannot duplicate it.
    #[default]
    None,
    /// A part, which the document names.
    Partial,
    /// It may have been done, or be done still.
    Unknown,
}

/// An error on its way to the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub status: StatusCode,
    pub code: Code,
    /// One sentence for people, with the values at fault.
    pub detail: String,
    pub retryable: bool,
    pub effect: Effect,
    /// Kafka's name, where it has one.
    pub kafka_error: Option<&'static str>,
    /// Further members of the document, such as `earliest`, `limit`, `expected_sequence`, `line`.
    pub extra: Map<String, Value>,
    /// Rounded up to whole seconds in the answer.
    pub retry_after: Option<Duration>,
    /// The limit on things at a time that is used up: its name, and how many.
    pub policy: Option<(&'static str, usize)>,
}

impl Problem {
    /// Makes a problem as the table describes its code: without effect, and with `Retry-After` on 429 and 503.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        let Row { status, kafka_error, .. } = code.row();
        let waits = matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
        Self {
            status,
            code,
            detail: detail.into(),
            retryable: code.is_retryable(),
            effect: Effect::None,
            kafka_error,
            extra: Map::new(),
            retry_after: waits.then_some(RETRY_AFTER_DEFAULT),
            policy: None,
        }
    }

    /// Says what the request left behind.
    #[must_use]
    pub fn with_effect(mut self, effect: Effect) -> Self {
        self.effect = effect;
        self
    }

    /// Adds a member to the document. One that would replace a standard member is left out.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        let reserved = Document::MEMBERS.contains(&name);
        debug_assert!(!reserved, "{name} is a standard member");
        if !reserved {
            self.extra.insert(name.to_owned(), value.into());
        }
        self
    }

    /// Says whether the same request may succeed later.
    #[must_use]
    pub fn with_retryable(mut self, retryable: bool) -> Self {
        self.retryable = retryable;
        self
    }

    /// Says when to try again.
    #[must_use]
    pub fn with_retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// Names the limit on things at a time that is used up, for `RateLimit-Policy` and `RateLimit`.
    #[must_use]
    pub fn with_policy(mut self, name: &'static str, max: usize) -> Self {
        self.policy = Some((name, max));
        self
    }

    /// Gives Kafka's name for it, where it differs from the table's.
    #[must_use]
    pub fn with_kafka_error(mut self, name: &'static str) -> Self {
        self.kafka_error = Some(name);
        self
    }

    /// Returns the document, without a line break: fit for a body and for the data of an SSE `event: problem`.
    pub fn to_json(&self) -> Bytes {
        let bytes = serde_json::to_vec(self).expect("a document of strings and numbers always serialises");
        Bytes::from(bytes)
    }

    fn document(&self) -> Document<'_> {
        let Row { title, text, .. } = self.code.row();
        Document {
            kind: format!("urn:forebay:problem:{text}"),
            title,
            status: self.status.as_u16(),
            code: self.code,
            detail: &self.detail,
            retryable: self.retryable,
            effect: self.effect,
            kafka_error: self.kafka_error,
            extra: &self.extra,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.as_str(), self.detail)
    }
}

impl std::error::Error for Problem {}

impl Serialize for Problem {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.document().serialize(serializer)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.status, self.to_json()).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(wait) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(whole_seconds(wait)));
        }
        if let Some((name, max)) = self.policy {
            let policy = format!("\"{name}\";q={max};qu=\"concurrent-requests\"");
            headers.extend(HeaderValue::try_from(policy).map(|value| (RATELIMIT_POLICY, value)));
            let left = HeaderValue::try_from(format!("\"{name}\";r=0"));
            headers.extend(left.map(|value| (RATELIMIT, value)));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"forebay\""));
        }
        response
    }
}

/// Rounds up, and to at least one: `Retry-After: 0` invites a storm.
fn whole_seconds(wait: Duration) -> u64 {
    wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0)).max(1)
}

/// An RFC 9457 problem document. Further members give the values at fault, such as `earliest`, `limit` or `line`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem, example = json!({"type": "urn:forebay:problem:topic-not-found", "title": "There is no such topic",
    "status": 404, "code": "topic-not-found", "detail": "topic not found: topic=orders", "retryable": false, "effect": "none",
    "kafka_error": "UNKNOWN_TOPIC_OR_PARTITION"}))]
struct Document<'a> {
    /// A stable name of the kind of problem.
    #[serde(rename = "type")]
    #[schema(example = "urn:forebay:problem:topic-not-found")]
    kind: String,
    /// The kind of problem, for people.
    #[schema(value_type = String, example = "There is no such topic")]
    title: &'static str,
    /// The status of the answer.
    #[schema(example = 404)]
    status: u16,
    /// What went wrong: stable, for programs to branch on.
    code: Code,
    /// This occurrence, for people.
    #[schema(value_type = String, example = "topic not found: topic=orders")]
    detail: &'a str,
    /// The same request may succeed later.
    retryable: bool,
    /// What the request left behind.
    effect: Effect,
    /// Kafka's name for the error, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "UNKNOWN_TOPIC_OR_PARTITION")]
    kafka_error: Option<&'static str>,
    #[serde(flatten)]
    #[schema(value_type = std::collections::BTreeMap<String, serde_json::Value>)]
    extra: &'a Map<String, Value>,
}

impl Document<'_> {
    const MEMBERS: [&'static str; 8] =
        ["type", "title", "status", "code", "detail", "retryable", "effect", "kafka_error"];
}

impl PartialSchema for Problem {
    fn schema() -> RefOr<utoipa::openapi::schema::Schema> {
        Document::schema()
    }
}

impl ToSchema for Problem {
    fn name() -> std::borrow::Cow<'static, str> {
        Document::name()
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<utoipa::openapi::schema::Schema>)>) {
        Document::schemas(schemas);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_document_has_the_standard_members_and_the_values_at_fault() {
        let problem = Problem::new(Code::CursorExpired, "records below offset 50 are gone: requested=41")
            .with("earliest", "k7.0-50");
        let json: Value = serde_json::from_slice(&problem.to_json()).unwrap();
        let expected = serde_json::json!({
            "type": "urn:forebay:problem:cursor-expired",
            "title": "The records are past retention",
            "status": 410,
            "code": "cursor-expired",
            "detail": "records below offset 50 are gone: requested=41",
            "retryable": false,
            "effect": "none",
            "kafka_error": "OFFSET_OUT_OF_RANGE",
            "earliest": "k7.0-50",
        });
        assert_eq!(json, expected);
    }

    #[test]
    fn an_answer_carries_its_headers() {
        let problem = Problem::new(Code::Overloaded, "too many bytes wait for the store")
            .with_retry_after(Duration::from_millis(2100));
        let response = problem.into_response();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()[CONTENT_TYPE], PROBLEM_JSON);
        assert_eq!(response.headers()[CACHE_CONTROL], "no-store");
        assert_eq!(response.headers()[RETRY_AFTER], "3");
    }

    #[test]
    fn every_429_and_503_says_when_to_retry_and_nothing_else_does() {
        for code in Code::ALL {
            let problem = Problem::new(code, "");
            let waits = matches!(problem.status.as_u16(), 429 | 503);
            assert_eq!(problem.retry_after.is_some(), waits, "{code:?}");
            assert!(!waits || problem.retryable, "{code:?}");
        }
    }

    #[test]
    fn every_code_is_listed_once_and_serialised_as_its_text() {
        let texts: HashSet<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(texts.len(), Code::ALL.len());
        for code in Code::ALL {
            assert_eq!(serde_json::to_value(code).unwrap(), code.as_str());
            assert_eq!(code.as_str() == "internal", code == Code::Internal, "{code:?} is in the table");
        }
    }

    #[test]
    fn the_schema_names_every_standard_member() {
        let schema = serde_json::to_value(Problem::schema()).unwrap();
        assert_eq!(Problem::name(), "Problem");
        for member in Document::MEMBERS {
            assert!(schema.to_string().contains(&format!("\"{member}\"")), "{member} is in {schema}");
        }
    }
}
