//! Which pages of other origins may call the API from a browser (CORS).
//!
//! Credentials in the sense of browsers (cookies, their password store, client certificates) are never allowed: the API
//! knows none of them, and without them a page can do nothing that its user could not do with a program. A page sends its
//! credential itself, in `Authorization`. So `*` is no danger in itself, and no header has to be named one by one.

use axum::http::header::{HeaderName, ORIGIN};
use axum::http::{HeaderValue, Method};
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer, ExposeHeaders};

use crate::config::CorsOrigins;
use crate::limits;

const METHODS: [Method; 6] =
    [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];

/// Returns what answers preflights and marks answers; none where no origin is allowed.
pub(super) fn layer(origins: &CorsOrigins) -> Option<CorsLayer> {
    let (origin, vary): (AllowOrigin, &[HeaderName]) = match origins {
        CorsOrigins::Any => (AllowOrigin::any(), &[]),
        CorsOrigins::List(origins) if origins.is_empty() => return None,
        CorsOrigins::List(origins) => {
            let origins = origins.iter().filter_map(|origin| HeaderValue::from_str(origin.as_str()).ok());
            (AllowOrigin::list(origins), &[ORIGIN])
        }
    };
    let layer = CorsLayer::new()
        .allow_origin(origin)
        .allow_methods(METHODS)
        // The headers of records and events have names of the client's choice.
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers(ExposeHeaders::any())
        .max_age(limits::CORS_MAX_AGE)
        .vary(vary.to_vec());
    Some(layer)
}
