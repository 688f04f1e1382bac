//! The headers by which a retry is recognised.

use axum::http::HeaderMap;
use forebay_log::model::{Topic, TopicName};
use utoipa::IntoParams;

use crate::http::problem::{Code, Problem};
use crate::limits;
use crate::produce::Idempotency;

const KEY: &str = "Idempotency-Key";
const PRODUCER_ID: &str = "Producer-Id";
const PRODUCER_EPOCH: &str = "Producer-Epoch";
const PRODUCER_SEQ: &str = "Producer-Seq";

/// What tells a request from others, for the document.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "describes parameters")]
pub(in crate::http) struct IdempotencyHeaders {
    /// Names the request. Sent again with the same body within 24 hours it is stored once and answered as the first
    /// time, with status 200 and `Idempotency-Replayed: true`; while the first attempt runs it waits for that.
    #[param(rename = "Idempotency-Key", example = "order-7", pattern = "^[!-~]{1,256}$")]
    idempotency_key: Option<String>,
    /// Names a producer that numbers its records, for each partition apart; not together with `Idempotency-Key`. All
    /// records of the request go to one partition: the one named, that of their keys, or one that follows from the
    /// producer.
    #[param(rename = "Producer-Id", example = "billing-1", pattern = "^[!-~]{1,256}$")]
    producer_id: Option<String>,
    /// Incarnation of the producer. A newer one begins with any sequence and shuts the older ones out
    /// (`producer-fenced`).
    #[param(rename = "Producer-Epoch", example = 0, minimum = 0, maximum = 32_767, default = 0)]
    producer_epoch: Option<u16>,
    /// Sequence of the first record; the next request goes on behind the last one, and 0 follows 4294967295. A retry is
    /// recognised by it while it is among the last 1,000,000 appends of its shard within 24 hours; anything else but the
    /// next sequence is a `sequence-gap`. Of a producer not known in the partition any sequence is taken.
    #[param(rename = "Producer-Seq", example = 0, minimum = 0, maximum = 4_294_967_295_u32)]
    producer_seq: Option<u32>,
}

fn bad_header(name: &'static str, detail: impl Into<String>) -> Problem {
    Problem::new(Code::BadParameter, detail).with("header", name)
}

/// Reads what names a request: a key, or a producer and the sequence of its first record.
pub(super) fn idempotency(
    headers: &HeaderMap,
    name: &TopicName,
    topic: &Topic,
) -> Result<Option<Idempotency>, Problem> {
    let key = token(headers, KEY)?;
    let producer = token(headers, PRODUCER_ID)?;
    let epoch = number(headers, PRODUCER_EPOCH, i16::MAX.unsigned_abs().into())?;
    let sequence = number(headers, PRODUCER_SEQ, u32::MAX)?;
    match (key, producer) {
        (Some(_), Some(_)) => Err(bad_header(KEY, "a request has an Idempotency-Key or a Producer-Id")),
        (None, Some(producer)) => {
            let missing = || bad_header(PRODUCER_SEQ, "a Producer-Id goes with a Producer-Seq");
            let sequence = sequence.ok_or_else(missing)?;
            let epoch = i16::try_from(epoch.unwrap_or(0)).expect("a larger epoch was refused");
            Ok(Some(Idempotency::of_producer(topic, producer, epoch, sequence)))
        }
        (_, None) if epoch.is_some() || sequence.is_some() => {
            let header = if sequence.is_some() { PRODUCER_SEQ } else { PRODUCER_EPOCH };
            Err(bad_header(header, format!("a {header} goes with a Producer-Id")))
        }
        (key, None) => Ok(key.map(|key| Idempotency::of_request(name, topic, key))),
    }
}

/// Reads the name of a request or producer.
fn token<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<Option<&'a str>, Problem> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    let max = limits::IDEMPOTENCY_NAME_LEN_MAX;
    let text = value
        .to_str()
        .ok()
        .filter(|text| (1..=max).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic()));
    let refused = || bad_header(name, format!("{name} must have 1 to {max} visible ASCII characters"));
    text.map(Some).ok_or_else(refused)
}

fn number(headers: &HeaderMap, name: &'static str, max: u32) -> Result<Option<u32>, Problem> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    let text = value.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    let number = text.and_then(|text| text.parse().ok()).filter(|number| *number <= max);
    let refused = || bad_header(name, format!("{name} must be a number from 0 to {max}"));
    number.map(Some).ok_or_else(refused)
}
