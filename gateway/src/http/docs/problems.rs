//! What each kind of operation may refuse with, in the document: one response per status, one example per code.

use std::collections::BTreeMap;

use http::StatusCode;
use utoipa::openapi::example::ExampleBuilder;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::response::Response;
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::{ContentBuilder, Ref, RefOr, ResponseBuilder};
use utoipa::{IntoResponses, ToSchema};

use crate::http::problem::{Code, Effect, PROBLEM_JSON, Problem};

/// What any operation that takes parameters may answer.
const COMMON: [Code; 3] = [Code::BadParameter, Code::Internal, Code::Overloaded];

/// Names sets of codes, each the problem responses of some operations; [`COMMON`] belongs to all.
macro_rules! problem_sets {
    ($($(#[$doc:meta])* $name:ident [$($code:ident)*])*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy)]
        pub(in crate::http) struct $name;

        impl IntoResponses for $name {
            fn responses() -> BTreeMap<String, RefOr<Response>> {
                documented(&[$(Code::$code),*])
            }
        }
    )*};
}

problem_sets! {
    /// Listing topics.
    ListProblems []
    /// Looking at one topic.
    TopicProblems [TopicNotFound StorageUnavailable]
    /// Creating a topic.
    CreateProblems [BadJson TopicExists PreconditionFailed TooLarge UnsupportedMediaType InvalidConfig StorageUnavailable]
    /// Changing a topic.
    AlterProblems [
        BadJson TopicNotFound PreconditionFailed TooLarge UnsupportedMediaType InvalidConfig StorageUnavailable
    ]
    /// Deleting a topic.
    DeleteProblems [TopicNotFound PreconditionFailed StorageUnavailable]
    /// Deleting records from the start of a topic.
    TruncateProblems [
        BadJson BadCursor TopicNotFound PartitionNotFound TopicRecreated TooLarge UnsupportedMediaType Draining
        StorageUnavailable NoLeader
    ]
    /// Finding the offsets of a time.
    OffsetsProblems [TopicNotFound StorageUnavailable]
    /// Appending records.
    ProduceProblems [
        BadJson ProducerFenced TopicNotFound PartitionNotFound SequenceGap InProgress PreconditionFailed TooLarge
        UnsupportedMediaType IdempotencyMismatch Draining StorageUnavailable NoLeader
    ]
    /// Reading records.
    ReadProblems [
        BadCursor TopicNotFound PartitionNotFound NotAcceptable CursorExpired TopicRecreated Draining
        StorageUnavailable
    ]
    /// Reading one record.
    RecordProblems [TopicNotFound PartitionNotFound RecordNotFound CursorExpired StorageUnavailable]
}

/// Tells that a node does not serve.
#[derive(Debug, Clone, Copy)]
pub(in crate::http) struct ReadinessProblems;

impl IntoResponses for ReadinessProblems {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        by_status([Code::Draining, Code::NoLeader, Code::StorageUnavailable].into_iter())
    }
}

fn documented(codes: &[Code]) -> BTreeMap<String, RefOr<Response>> {
    by_status(COMMON.iter().chain(codes).copied())
}

fn by_status(codes: impl Iterator<Item = Code>) -> BTreeMap<String, RefOr<Response>> {
    let mut statuses: BTreeMap<StatusCode, Vec<Code>> = BTreeMap::new();
    codes.for_each(|code| statuses.entry(code.status()).or_default().push(code));
    let entry = |(status, codes): (StatusCode, Vec<Code>)| {
        (status.as_u16().to_string(), RefOr::T(response(status, &codes)))
    };
    statuses.into_iter().map(entry).collect()
}

/// Describes the answer with a status: its codes, and a document for each.
fn response(status: StatusCode, codes: &[Code]) -> Response {
    let names: Vec<String> = codes.iter().map(|code| format!("`{}`", code.as_str())).collect();
    let example = |code: &Code| {
        let document = serde_json::to_value(example(*code)).unwrap_or_default();
        let example = ExampleBuilder::new().summary(code.title()).value(Some(document)).build();
        (code.as_str().to_owned(), RefOr::T(example))
    };
    let content = ContentBuilder::new()
        .schema(Some(Ref::from_schema_name(Problem::name())))
        .examples_from_iter(codes.iter().map(example))
        .build();
    let response = ResponseBuilder::new().description(names.join(", ")).content(PROBLEM_JSON, content);
    match status {
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
            let seconds = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(1)).build();
            let header = HeaderBuilder::new()
                .schema(Some(seconds))
                .description(Some("seconds after which to try again"))
                .build();
            let text = |description: &str| {
                let text = ObjectBuilder::new().schema_type(Type::String).build();
                HeaderBuilder::new().schema(Some(text)).description(Some(description)).build()
            };
            response
                .header("Retry-After", header)
                .header(
                    "RateLimit-Policy",
                    text("the limit on things at a time that is used up, if it is one"),
                )
                .header("RateLimit", text("what is left of it"))
                .build()
        }
        _ => response.build(),
    }
}

/// An example of a problem, with the members that its code brings along.
fn example(code: Code) -> Problem {
    let of = |detail: &str| Problem::new(code, detail);
    match code {
        Code::BadParameter => of("unknown query parameter 'aftr': did you mean 'after'?")
            .with("parameter", "aftr")
            .with("suggestion", "after"),
        Code::BadCursor => of("a cursor is of other topics").with("parameter", "after"),
        Code::BadJson => {
            of("line is no JSON: line=2 column=6: expected a value").with("line", 2).with("column", 6)
        }
        Code::ProducerFenced => of("a newer epoch of the producer exists: epoch=0").with("current_epoch", 1),
        Code::TopicNotFound => of("topic not found: topic=orders"),
        Code::PartitionNotFound => of("partition not found: partition=7 partitions=3").with("partitions", 3),
        Code::RecordNotFound => of("there is no such record: partition=0 offset=41"),
        Code::NotAcceptable => of("none of the media types is offered"),
        Code::TopicExists => of("topic exists with other settings: setting=partitions"),
        Code::SequenceGap => {
            of("records before these are missing: sequence=12").with("expected_sequence", 10)
        }
        Code::InProgress => of("the first request with this key is still running"),
        Code::CursorExpired => {
            of("records below offset 50 are gone: requested=41").with("earliest", "a0.0-50")
        }
        Code::TopicRecreated => of("the topic was deleted and made anew").with("earliest", "b0.0-0"),
        Code::PreconditionFailed => {
            of("next offset is another one: expected=17 current=18").with("next_offset", 18)
        }
        Code::TooLarge => of("record is too large: size=2000000 limit=1048576").with("limit", 1_048_576),
        Code::UnsupportedMediaType => of("settings are application/json"),
        Code::IdempotencyMismatch => of("the idempotency key was used for another body"),
        Code::InvalidConfig => of("unknown setting: retention.hours"),
        Code::Internal => of("the request met a fault of the server").with_effect(Effect::Unknown),
        Code::Overloaded => {
            of("the node has as many requests in hand as it may: limit=4096").with("limit", 4096)
        }
        Code::Draining => of("the node is stopping"),
        Code::StorageUnavailable => of("the store did not answer in time").with_effect(Effect::Unknown),
        Code::NoLeader => of("the partition has no leader now"),
        _ => of(code.title()),
    }
}
