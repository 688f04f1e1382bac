//! How the body of a produce request is cut into records.

use http::HeaderMap;
use http::header::CONTENT_TYPE;

use crate::http::extract::echo;
use crate::http::extract::query::bad_value;
use crate::http::problem::{Code, Problem};

/// Characters of a content type: it is stored with the record.
const CONTENT_TYPE_LEN_MAX: usize = 256;
/// What `curl -d` sends for any data, so it says nothing about the body.
const FORM: &str = "application/x-www-form-urlencoded";
/// Announces a CloudEvent whose attributes are in headers.
const BINARY_CLOUDEVENT: &str = "ce-specversion";

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
}

/// Decides by `?format=`, else by the content type.
///
/// # Errors
/// 415 `unsupported-media-type` for CloudEvents and for a type that cannot be kept; 400 `bad-parameter` for an
/// unknown format.
pub fn produce_format(headers: &HeaderMap, format: Option<&str>) -> Result<ProduceFormat, Problem> {
    if headers.contains_key(BINARY_CLOUDEVENT) {
        return Err(unsupported("binary CloudEvents"));
    }
    let content_type = content_type(headers)?;
    let essence =
        content_type.and_then(|text| text.split(';').next()).map(|text| text.trim().to_ascii_lowercase());
    let by_type = match essence.as_deref() {
        Some("application/x-ndjson" | "application/ndjson" | "application/jsonl") => {
            Some(ProduceFormat::Ndjson)
        }
        Some("application/vnd.forebay.records+json") => Some(ProduceFormat::Records),
        Some("application/vnd.forebay.records+x-ndjson") => Some(ProduceFormat::RecordsNdjson),
        _ => None,
    };
    let kept = content_type.filter(|_| essence.as_deref() != Some(FORM));
    let single = ProduceFormat::Single { content_type: kept.map(str::to_owned) };
    match format {
        Some("value") => Ok(single),
        Some("ndjson") => Ok(ProduceFormat::Ndjson),
        Some("lines") => Ok(ProduceFormat::Lines),
        Some("records") => match by_type {
            Some(ProduceFormat::Ndjson | ProduceFormat::RecordsNdjson) => Ok(ProduceFormat::RecordsNdjson),
            _ => Ok(ProduceFormat::Records),
        },
        Some("cloudevents") => Err(unsupported("CloudEvents")),
        Some(other) => Err(bad_value("format", "must be value, ndjson, lines or records", other)),
        None if is_cloudevent(essence.as_deref()) => Err(unsupported("CloudEvents")),
        None => Ok(by_type.unwrap_or(single)),
    }
}

fn content_type(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let Some(value) = headers.get(CONTENT_TYPE) else { return Ok(None) };
    match value.to_str() {
        Ok("") => Ok(None),
        Ok(text) if text.len() <= CONTENT_TYPE_LEN_MAX => Ok(Some(text)),
        Ok(text) => Err(unsupported(&format!("a content type this long ({})", echo(text)))),
        Err(_) => Err(unsupported("a content type that is not ASCII")),
    }
}

fn is_cloudevent(essence: Option<&str>) -> bool {
    matches!(essence, Some("application/cloudevents+json" | "application/cloudevents-batch+json"))
}

fn unsupported(what: &str) -> Problem {
    let detail = format!("{what} cannot be produced; ?format=value stores the body as it is");
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
    fn cloud_events_are_refused_rather_than_stored_without_their_attributes() {
        assert_eq!(decide(Some("application/cloudevents+json"), None), Err(Code::UnsupportedMediaType));
        assert_eq!(decide(None, Some("cloudevents")), Err(Code::UnsupportedMediaType));
        assert!(decide(Some("application/cloudevents+json"), Some("value")).is_ok());
        let mut headers = HeaderMap::new();
        headers.insert(BINARY_CLOUDEVENT, HeaderValue::from_static("1.0"));
        assert!(produce_format(&headers, None).is_err());
    }

    #[test]
    fn a_type_that_cannot_be_kept_is_refused() {
        assert_eq!(
            decide(Some(&"x".repeat(CONTENT_TYPE_LEN_MAX + 1)), None),
            Err(Code::UnsupportedMediaType)
        );
        assert_eq!(decide(Some("text/plän"), None), Err(Code::UnsupportedMediaType));
    }
}
