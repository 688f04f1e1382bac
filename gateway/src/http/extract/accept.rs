//! Content negotiation: which representation of records a client wants.

use http::header::ACCEPT;
use http::{HeaderMap, HeaderName};

use crate::http::problem::{Code, Problem};

/// Ranges of an `Accept` header that are looked at.
const RANGES_MAX: usize = 64;

/// A representation of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Representation {
    /// One document.
    Json,
    /// One record object per line.
    Ndjson,
    /// Server-Sent Events.
    EventStream,
    /// A list of CloudEvents in JSON.
    CloudEventsBatch,
}

impl Representation {
    /// Returns the media type of the answer.
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Ndjson => "application/x-ndjson",
            Self::EventStream => "text/event-stream",
            Self::CloudEventsBatch => "application/cloudevents-batch+json",
        }
    }

    /// Returns the names it may be asked for by.
    const fn names(self) -> &'static [&'static str] {
        match self {
            Self::Json => &["application/json"],
            Self::Ndjson => &["application/x-ndjson", "application/ndjson", "application/jsonl"],
            Self::EventStream => &["text/event-stream"],
            Self::CloudEventsBatch => &["application/cloudevents-batch+json"],
        }
    }

    /// Tells how exactly a media range names it: 3 fully, 2 by its type, 1 by `*/*`, 0 not at all.
    fn specificity(self, range: &str) -> u8 {
        if range == "*/*" {
            return 1;
        }
        let matches = |name: &&str| match range.strip_suffix("/*") {
            Some(group) => name.split_once('/').is_some_and(|(own, _)| own.eq_ignore_ascii_case(group)),
            None => name.eq_ignore_ascii_case(range),
        };
        match self.names().iter().any(matches) {
            true if range.ends_with("/*") => 2,
            true => 3,
            false => 0,
        }
    }
}

/// Chooses among the offered representations: the highest weight, then the most exactly named, then the first.
/// Without an `Accept` header it is the first.
///
/// # Errors
/// 406 `not-acceptable`, with what is offered.
pub fn negotiate(headers: &HeaderMap, offered: &[Representation]) -> Result<Representation, Problem> {
    let ranges = ranges(headers);
    let mut best: Option<((u16, u8), Representation)> = None;
    for &candidate in offered {
        let rank = rank(candidate, &ranges);
        if rank.0 > 0 && best.is_none_or(|(other, _)| rank > other) {
            best = Some((rank, candidate));
        }
    }
    best.map(|(_, representation)| representation).ok_or_else(|| not_acceptable(offered))
}

/// Returns weight and specificity. The most exact range decides the weight.
fn rank(candidate: Representation, ranges: &[(&str, u16)]) -> (u16, u8) {
    let exact = ranges.iter().map(|(range, weight)| (candidate.specificity(range), *weight));
    exact.filter(|(specificity, _)| *specificity > 0).max().map_or((0, 0), |(s, weight)| (weight, s))
}

/// Reads media ranges with weights in thousandths. An absent or empty header means anything.
fn ranges(headers: &HeaderMap) -> Vec<(&str, u16)> {
    let values = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    if values.flat_map(|value| value.split(',')).all(|item| item.trim().is_empty()) {
        return vec![("*/*", 1000)];
    }
    weighted(headers, ACCEPT)
}

/// Reads a header that lists names with weights, these in thousandths. What is malformed is left out.
pub(super) fn weighted(headers: &HeaderMap, name: HeaderName) -> Vec<(&str, u16)> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    let items = values.flat_map(|value| value.split(',')).filter(|item| !item.trim().is_empty());
    let items = items.take(RANGES_MAX);
    let mut ranges = Vec::new();
    for item in items {
        let mut parts = item.split(';').map(str::trim);
        let range = parts.next().unwrap_or_default();
        let weight = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
        if let Some(weight) = weight.map_or(Some(1000), thousandths) {
            ranges.push((range, weight));
        }
    }
    ranges
}

fn thousandths(weight: &str) -> Option<u16> {
    let value: f32 = weight.parse().ok().filter(|value| (0.0..=1.0).contains(value))?;
    Some((value * 1000.0).round() as u16)
}

fn not_acceptable(offered: &[Representation]) -> Problem {
    let offered: Vec<_> = offered.iter().map(|representation| representation.media_type()).collect();
    let detail = format!("no offered media type is acceptable: offered={}", offered.join(", "));
    Problem::new(Code::NotAcceptable, detail).with("offered", offered)
}

#[cfg(test)]
mod tests {
    use Representation::*;
    use http::HeaderValue;

    use super::*;

    const ALL: &[Representation] = &[Json, Ndjson, EventStream];

    fn choose(accept: &str) -> Option<Representation> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_str(accept).unwrap());
        negotiate(&headers, ALL).ok()
    }

    #[test]
    fn the_usual_clients_get_what_they_expect() {
        assert_eq!(negotiate(&HeaderMap::new(), ALL), Ok(Json));
        assert_eq!(choose(""), Some(Json));
        assert_eq!(choose("*/*"), Some(Json), "curl");
        assert_eq!(choose("text/event-stream"), Some(EventStream), "EventSource");
        assert_eq!(
            choose("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
            Some(Json),
            "browsers"
        );
        assert_eq!(choose("application/x-ndjson"), Some(Ndjson));
        assert_eq!(choose("application/jsonl"), Some(Ndjson));
        assert_eq!(choose("text/*"), Some(EventStream));
        assert_eq!(choose("application/*"), Some(Json));
    }

    #[test]
    fn weights_decide_before_exactness_and_exactness_before_order() {
        assert_eq!(choose("application/json;q=0.5, text/event-stream"), Some(EventStream));
        assert_eq!(choose("text/event-stream, */*"), Some(EventStream));
        assert_eq!(choose("application/json;q=0, */*;q=0.1"), Some(Ndjson));
        assert_eq!(choose("application/x-ndjson;charset=utf-8;q=0.9, application/json;Q=0.8"), Some(Ndjson));
        assert_eq!(choose("TEXT/Event-Stream"), Some(EventStream));
    }

    #[test]
    fn what_is_not_offered_is_refused_with_the_offer() {
        for accept in ["text/html", "application/cloudevents-batch+json", "*/*;q=0", "application/json;q=x"] {
            assert_eq!(choose(accept), None, "{accept}");
        }
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
        let problem = negotiate(&headers, &[Json, Ndjson]).unwrap_err();
        assert_eq!(problem.code, Code::NotAcceptable);
        assert!(problem.detail.contains("application/json, application/x-ndjson"));
    }

    #[test]
    fn several_headers_count_as_one() {
        let mut headers = HeaderMap::new();
        headers.append(ACCEPT, HeaderValue::from_static("text/html"));
        headers.append(ACCEPT, HeaderValue::from_static("text/event-stream"));
        assert_eq!(negotiate(&headers, ALL), Ok(EventStream));
    }
}
