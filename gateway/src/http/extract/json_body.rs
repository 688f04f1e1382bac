//! Bodies of JSON: settings and requests that are no records.

use axum::body::to_bytes;
use axum::extract::Request;
use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};

use crate::http::extract::{body_too_large, stuck_body};
use crate::http::problem::{Code, Problem};
use crate::limits;

/// Reads a body of JSON; none when there is no body. The type may be absent or a form's, as `curl -d` sends it, or one
/// of `also`.
///
/// # Errors
/// 415 `unsupported-media-type`, 413 `too-large`, 400 when it does not arrive within [`limits::BODY_IDLE_MAX`].
pub async fn json_body(
    request: Request,
    also: &[&str],
    limit_bytes: usize,
) -> Result<Option<Bytes>, Problem> {
    const JSON: [&str; 3] = ["application/json", "application/x-www-form-urlencoded", ""];
    let media_type =
        request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if !JSON.iter().chain(also).any(|known| *known == essence) {
        return Err(Problem::new(Code::UnsupportedMediaType, "the body must be application/json"));
    }
    let coding = request.headers().get(CONTENT_ENCODING).and_then(|value| value.to_str().ok());
    if coding.is_some_and(|coding| !coding.trim().eq_ignore_ascii_case("identity")) {
        return Err(Problem::new(Code::UnsupportedMediaType, "the body must not be compressed"));
    }
    let body = tokio::time::timeout(limits::BODY_IDLE_MAX, to_bytes(request.into_body(), limit_bytes)).await;
    let body = body.map_err(|_| stuck_body())?.map_err(|_| body_too_large(limit_bytes))?;
    Ok(Some(body).filter(|body| !body.trim_ascii().is_empty()))
}
