//! Bodies that are CloudEvents, apart from lines of them.

use axum::http::HeaderMap;
use bytes::Bytes;

use crate::http::extract::EventDocument;
use crate::http::problem::Problem;
use crate::http::produce::args::ProduceArgs;
use crate::http::produce::body::Lines;
use crate::http::produce::document_too_large;
use crate::http::wire::cloudevents::{EventError, binary, structured};
use crate::limits;
use crate::produce::Unit;

/// Reads a body that is the data of an event whose attributes are headers.
pub(super) async fn binary(
    args: &ProduceArgs,
    headers: &HeaderMap,
    content_type: Option<&str>,
    body: &mut Lines,
) -> Result<Unit, Problem> {
    let bytes = body.whole(args.topic.settings.max_message_bytes as usize).await?;
    let event = binary::parse_event(headers, content_type, bytes);
    let mut unit = Unit::default();
    unit.push(args.event(event.map_err(|error| error.into_problem(None))?));
    Ok(unit)
}

/// Reads a body that is one event or a batch of them; none for a batch without events, which is no mistake, unless the
/// request has a condition that nobody would then look at.
pub(super) async fn document(
    args: &ProduceArgs,
    document: EventDocument,
    body: &mut Lines,
) -> Result<Option<Unit>, Problem> {
    let bytes = body.whole(limits::BODY_BYTES_MAX).await?;
    let is_batch = match document {
        EventDocument::One => false,
        EventDocument::Batch => true,
        EventDocument::Either => bytes.trim_ascii_start().starts_with(b"["),
    };
    if !is_batch {
        let mut unit = Unit::default();
        unit.push(args.event(structured::parse_event(&bytes).map_err(|error| error.into_problem(None))?));
        return Ok(Some(unit));
    }
    let unit = batch(args, &bytes)?;
    Ok(Some(unit).filter(|unit| !unit.is_empty() || args.options.expected.is_some()))
}

fn batch(args: &ProduceArgs, bytes: &Bytes) -> Result<Unit, Problem> {
    let mut unit = Unit::default();
    let events = structured::split_batch(bytes).map_err(|error: EventError| error.into_problem(None))?;
    for (index, event) in (0..).zip(&events) {
        let event = structured::parse_event(event);
        let new = args.event(event.map_err(|error| error.into_problem(Some(("event", index))))?);
        if unit.is_full_for(&new.record) {
            return Err(document_too_large());
        }
        unit.push(new);
    }
    Ok(unit)
}
