//! How the body of a produce request is cut into records.

use http::HeaderMap;
use http::header::CONTENT_TYPE;

use crate::http::extract::echo;
use crate::http::extract::query::bad_value;
use crate::http::problem::{Code, Problem};
use crate::http::wire::cloudevents::binary;
use crate::limits;

/// What `curl -d` sends for any data, so it says nothing about the body.
const FORM: &str = "application/x-www-form-urlencoded";

/// How the body of a produce request is cut into records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProduceFormat {
    /// The body is the value of one record.
    Single {
        /// As sent, to be kept with the record; none where it says nothing about the body.
        content_type: Option<String>,
    },
    /// Each line is the JSON value of one record.
    Ndjson,
    /// Each line is the value of one record.
    Lines,
    /// One document with a list of record objects.
    Records,
    /// Each line is a record object.
    RecordsNdjson,
    /// The body is the data of a CloudEvent whose attributes are headers.
    EventBinary {
        /// Its `datacontenttype`, as sent; none where it says nothing about the body.
        content_type: Option<String>,
    },
    /// One document of CloudEvents in JSON.
    Events(EventDocument),
    /// Each line is a CloudEvent in JSON.
    EventsNdjson,
}

/// What a document of CloudEvents is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventDocument {
    /// An event.
    One,
    /// A list of events.
    Batch,
    /// Whichever it begins like: the sender could not say.
    Either,
}

/// Decides by `?format=`, else by the content type.
///
/// # Errors
/// 415 `unsupported-media-type` for a type that cannot be kept; 400 `bad-parameter` for an unknown format.
pub fn produce_format(headers: &HeaderMap, format: Option<&str>) -> Result<ProduceFormat, Problem> {
    let content_type = content_type(headers)?;
    let essence =
        content_type.and_then(|text| text.split(';').next()).map(|text| text.trim().to_ascii_lowercase());
    let by_type = match essence.as_deref() {
        Some("application/x-ndjson" | "application/ndjson" | "application/jsonl") => {
            Some(ProduceFormat::Ndjson)
        }
        Some("application/vnd.forebay.records+json") => Some(ProduceFormat::Records),
        Some("application/vnd.forebay.records+x-ndjson") => Some(ProduceFormat::RecordsNdjson),
        Some("application/cloudevents+json") => Some(ProduceFormat::Events(EventDocument::One)),
        Some("application/cloudevents-batch+json") => Some(ProduceFormat::Events(EventDocument::Batch)),
        Some(other) if other.starts_with("application/cloudevents") => {
            return Err(Problem::new(Code::UnsupportedMediaType, "CloudEvents are taken as JSON"));
        }
        _ => None,
    };
    let structured = matches!(by_type, Some(ProduceFormat::Events(_)));
    let kept = content_type.filter(|_| essence.as_deref() != Some(FORM));
    let single = ProduceFormat::Single { content_type: kept.map(str::to_owned) };
    let binary = || ProduceFormat::EventBinary { content_type: kept.map(str::to_owned) };
    match format {
        Some("value") => Ok(single),
        Some("ndjson") => Ok(ProduceFormat::Ndjson),
        Some("lines") => Ok(ProduceFormat::Lines),
        Some("records") => match by_type {
            Some(ProduceFormat::Ndjson | ProduceFormat::RecordsNdjson) => Ok(ProduceFormat::RecordsNdjson),
            _ => Ok(ProduceFormat::Records),
        },
        Some("cloudevents") => Ok(match by_type {
            Some(structured @ ProduceFormat::Events(_)) => structured,
            _ if binary::is_event(headers) => binary(),
            Some(ProduceFormat::Ndjson) => ProduceFormat::EventsNdjson,
            _ => ProduceFormat::Events(EventDocument::Either),
        }),
        Some(other) => {
            Err(bad_value("format", "must be value, ndjson, lines, records or cloudevents", other))
        }
        None if binary::is_event(headers) && !structured => Ok(binary()),
        None => Ok(by_type.unwrap_or(single)),
    }
}

fn content_type(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let Some(value) = headers.get(CONTENT_TYPE) else { return Ok(None) };
    match value.to_str() {
        Ok("") => Ok(None),
        Ok(text) if text.len() <= limits::CONTENT_TYPE_LEN_MAX => Ok(Some(text)),
        Ok(text) => Err(unsupported(&format!("a content type this long ({})", echo(text)))),
        Err(_) => Err(unsupported("a content type that is not ASCII")),
    }
}

fn unsupported(what: &str) -> Problem {
    let detail = format!("{what} cannot be kept with a record");
    Problem::new(Code::UnsupportedMediaType, detail)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn decide(content_type: Option<&str>, format: Option<&str>) -> Result<ProduceFormat, Code> {
        let mut headers = HeaderMap::new();
        if let Some(text) = content_type {
            headers.insert(CONTENT_TYPE, HeaderValue::from_bytes(text.as_bytes()).unwrap());
        }
        produce_format(&headers, format).map_err(|problem| problem.code)
    }

    fn single(content_type: Option<&str>) -> Result<ProduceFormat, Code> {
        Ok(ProduceFormat::Single { content_type: content_type.map(str::to_owned) })
    }

    #[test]
    fn the_content_type_decides() {
        assert_eq!(decide(None, None), single(None));
        assert_eq!(
            decide(Some("text/plain; charset=utf-8"), None),
            single(Some("text/plain; charset=utf-8"))
        );
        assert_eq!(decide(Some("application/x-www-form-urlencoded"), None), single(None));
        assert_eq!(decide(Some("Application/X-NDJSON; charset=utf-8"), None), Ok(ProduceFormat::Ndjson));
        assert_eq!(decide(Some("application/jsonl"), None), Ok(ProduceFormat::Ndjson));
        assert_eq!(decide(Some("application/vnd.forebay.records+json"), None), Ok(ProduceFormat::Records));
        let lines = "application/vnd.forebay.records+x-ndjson";
        assert_eq!(decide(Some(lines), None), Ok(ProduceFormat::RecordsNdjson));
    }

    #[test]
    fn the_format_parameter_overrides() {
        assert_eq!(decide(Some("application/x-ndjson"), Some("value")), single(Some("application/x-ndjson")));
        assert_eq!(decide(None, Some("lines")), Ok(ProduceFormat::Lines));
        assert_eq!(
            decide(Some("application/x-www-form-urlencoded"), Some("ndjson")),
            Ok(ProduceFormat::Ndjson)
        );
        assert_eq!(decide(Some("application/json"), Some("records")), Ok(ProduceFormat::Records));
        assert_eq!(decide(Some("application/x-ndjson"), Some("records")), Ok(ProduceFormat::RecordsNdjson));
        assert_eq!(decide(None, Some("xml")), Err(Code::BadParameter));
    }

    #[test]
    fn cloudevents_come_in_three_modes() {
        use EventDocument::*;
        use ProduceFormat::*;
        assert_eq!(decide(Some("application/cloudevents+json; charset=UTF-8"), None), Ok(Events(One)));
        assert_eq!(decide(Some("Application/CloudEvents-Batch+JSON"), None), Ok(Events(Batch)));
        assert_eq!(decide(Some("application/cloudevents+json"), Some("cloudevents")), Ok(Events(One)));
        assert_eq!(decide(Some(FORM), Some("cloudevents")), Ok(Events(Either)));
        assert_eq!(decide(Some("application/x-ndjson"), Some("cloudevents")), Ok(EventsNdjson));
        let kept = "application/cloudevents+json";
        assert_eq!(decide(Some(kept), Some("value")), single(Some(kept)));

        let mut headers = HeaderMap::new();
        headers.insert("ce-type", HeaderValue::from_static("t"));
        let binary = |text: &str| Ok(EventBinary { content_type: Some(text.to_owned()) });
        assert_eq!(produce_format(&headers, None), Ok(EventBinary { content_type: None }));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
        assert_eq!(produce_format(&headers, None), binary("application/x-ndjson"));
        assert_eq!(produce_format(&headers, Some("cloudevents")), binary("application/x-ndjson"));
        assert_eq!(produce_format(&headers, Some("ndjson")), Ok(Ndjson), "the parameter wins");
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/cloudevents+json"));
        assert_eq!(produce_format(&headers, None), Ok(Events(One)), "headers may repeat attributes");
    }

    #[test]
    fn a_type_that_cannot_be_kept_is_refused() {
        assert_eq!(
            decide(Some(&"x".repeat(limits::CONTENT_TYPE_LEN_MAX + 1)), None),
            Err(Code::UnsupportedMediaType)
        );
        assert_eq!(decide(Some("text/plän"), None), Err(Code::UnsupportedMediaType));
    }
}
