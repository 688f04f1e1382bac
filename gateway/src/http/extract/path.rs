//! The variable parts of paths: `{topic}`, `{partition}`, `{offset}`.

use std::str::FromStr;

use axum::extract::{FromRequestParts, RawPathParams};
use forebay_log::limits::PARTITIONS_MAX;
use forebay_log::model::{Offset, PartitionId, TopicName};
use http::request::Parts;
use utoipa::IntoParams;

use crate::http::extract::echo;
use crate::http::problem::{Code, Problem};

/// `…/topics/{topic}…`
#[derive(Debug, Clone, PartialEq, Eq, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct TopicPath {
    /// The topic's name.
    #[param(value_type = String, pattern = "^[a-zA-Z0-9._-]{1,249}$", example = "orders")]
    pub topic: TopicName,
}

/// `…/topics/{topic}/partitions/{partition}…`
#[derive(Debug, Clone, PartialEq, Eq, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct PartitionPath {
    /// The topic's name.
    #[param(value_type = String, pattern = "^[a-zA-Z0-9._-]{1,249}$", example = "orders")]
    pub topic: TopicName,
    /// The partition's number.
    #[param(value_type = u16, maximum = 511, example = 0)]
    pub partition: PartitionId,
}

/// `…/topics/{topic}/partitions/{partition}/records/{offset}`
#[derive(Debug, Clone, PartialEq, Eq, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct RecordPath {
    /// The topic's name.
    #[param(value_type = String, pattern = "^[a-zA-Z0-9._-]{1,249}$", example = "orders")]
    pub topic: TopicName,
    /// The partition's number.
    #[param(value_type = u16, maximum = 511, example = 0)]
    pub partition: PartitionId,
    /// The record's offset.
    #[param(value_type = u64, example = 0)]
    pub offset: Offset,
}

impl<S: Send + Sync> FromRequestParts<S> for TopicPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let params = params(parts, state).await?;
        Ok(Self { topic: topic(&params)? })
    }
}

impl<S: Send + Sync> FromRequestParts<S> for PartitionPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let params = params(parts, state).await?;
        Ok(Self { topic: topic(&params)?, partition: partition(&params)? })
    }
}

impl<S: Send + Sync> FromRequestParts<S> for RecordPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let params = params(parts, state).await?;
        let offset = parse_offset(find(&params, "offset")?)?;
        Ok(Self { topic: topic(&params)?, partition: partition(&params)?, offset })
    }
}

async fn params<S: Send + Sync>(parts: &mut Parts, state: &S) -> Result<RawPathParams, Problem> {
    let params = RawPathParams::from_request_parts(parts, state).await;
    params.map_err(|_| Problem::new(Code::BadParameter, "path is not percent-encoded UTF-8"))
}

fn find<'a>(params: &'a RawPathParams, name: &str) -> Result<&'a str, Problem> {
    let found = params.iter().find(|(other, _)| *other == name).map(|(_, value)| value);
    found.ok_or_else(|| Problem::new(Code::Internal, "the route lacks a path parameter"))
}

fn topic(params: &RawPathParams) -> Result<TopicName, Problem> {
    parse_topic(find(params, "topic")?)
}

fn partition(params: &RawPathParams) -> Result<PartitionId, Problem> {
    parse_partition(find(params, "partition")?)
}

/// Reads a topic's name.
fn parse_topic(text: &str) -> Result<TopicName, Problem> {
    TopicName::from_str(text).map_err(|error| {
        let detail = format!("{error}: topic={}", echo(text));
        Problem::new(Code::BadParameter, detail).with("parameter", "topic")
    })
}

/// Reads a partition's number. A number that no topic can have is a partition that is not found.
fn parse_partition(text: &str) -> Result<PartitionId, Problem> {
    let number = whole_number(text, "partition")?;
    let partition = number.and_then(|n| u16::try_from(n).ok()).filter(|n| *n < PARTITIONS_MAX);
    partition.map(PartitionId::new).ok_or_else(|| {
        let detail = format!("partition not found: partition={}", echo(text));
        Problem::new(Code::PartitionNotFound, detail)
    })
}

/// Reads an offset. A number past every offset is a record that is not found.
fn parse_offset(text: &str) -> Result<Offset, Problem> {
    let offset = whole_number(text, "offset")?.map(Offset::new);
    offset
        .ok_or_else(|| Problem::new(Code::RecordNotFound, format!("record not found: offset={}", echo(text))))
}

/// Reads digits; none if the number is larger than every number of ours.
fn whole_number(text: &str, name: &str) -> Result<Option<u64>, Problem> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        let detail = format!("'{name}' must be a whole number: value={}", echo(text));
        return Err(Problem::new(Code::BadParameter, detail).with("parameter", name));
    }
    Ok(text.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_no_topic_can_have_are_not_found_and_other_texts_are_bad() {
        assert_eq!(parse_partition("511"), Ok(PartitionId::new(511)));
        let code = |text| parse_partition(text).map_err(|p| p.code);
        assert_eq!(code("512"), Err(Code::PartitionNotFound));
        assert_eq!(code("99999999999999999999"), Err(Code::PartitionNotFound));
        assert_eq!(code("+1"), Err(Code::BadParameter));
        assert_eq!(code(""), Err(Code::BadParameter));
        assert_eq!(parse_offset("17"), Ok(Offset::new(17)));
        assert_eq!(parse_offset("99999999999999999999").map_err(|p| p.code), Err(Code::RecordNotFound));
        assert_eq!(parse_offset("x").map_err(|p| p.code), Err(Code::BadParameter));
    }

    #[test]
    fn a_bad_topic_name_is_explained() {
        let problem = parse_topic("a b").unwrap_err();
        let expected = "topic name may hold only letters, digits, '.', '_' and '-': topic='a b'";
        assert_eq!((problem.code, problem.detail.as_str()), (Code::BadParameter, expected));
        assert!(parse_topic(&"x".repeat(100_000)).unwrap_err().detail.len() < 200);
    }

    #[tokio::test]
    async fn a_route_hands_over_its_parts() {
        use axum::Router;
        use axum::body::Body;
        use axum::routing::get;
        use tower::ServiceExt;

        let handler =
            |path: RecordPath| async move { format!("{} {} {}", path.topic, path.partition, path.offset) };
        let app = Router::new().route("/{topic}/{partition}/{offset}", get(handler));
        let call = |uri: &'static str| {
            let request = http::Request::get(uri).body(Body::empty()).unwrap();
            let response = app.clone().oneshot(request);
            async move { response.await.unwrap() }
        };
        let response = call("/ord%65rs/3/17").await;
        let body = axum::body::to_bytes(response.into_body(), 1000).await.unwrap();
        assert_eq!(body, "orders 3 17");
        assert_eq!(call("/orders/x/17").await.status(), 400);
        assert_eq!(call("/%FF/1/17").await.status(), 400);
    }
}
