//! HTTP: from requests to values of the model and back. One file per resource.
//!
//! [`extract`] reads what a request says, strictly; [`wire`] reads and writes bodies, both pure; [`problem`] is the
//! one form of every error, and `error` the one table that leads to it.

mod docs;
mod error;
pub mod extract;
#[cfg(test)]
mod fuzz;
mod health;
mod paths;
pub mod problem;
mod produce;
mod read;
mod record;
#[cfg(test)]
mod tests;
mod topics;
mod truncate;
pub mod wire;

use std::ops::Deref;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{CACHE_CONTROL, VARY};
use axum::http::{HeaderValue, Method, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tower::util::MapRequest;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::http::extract::{method_not_allowed, no_such_path};
use crate::http::problem::{Code, Effect, Problem};
use crate::node::Node;

/// What handlers share.
#[derive(Debug, Clone)]
pub struct App(Arc<Node>);

impl Deref for App {
    type Target = Node;

    fn deref(&self) -> &Node {
        &self.0
    }
}

/// Returns the routes with their descriptions: one list, so that route and document cannot part.
fn api() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(docs::base())
        .routes(routes!(topics::list))
        .routes(routes!(topics::create, topics::describe, topics::alter, topics::delete))
        .routes(routes!(topics::partitions))
        .routes(routes!(topics::offsets))
        .routes(routes!(truncate::truncate))
        .routes(routes!(produce::produce, read::read_topic))
        .routes(routes!(produce::produce_to_partition, read::read_partition))
        .routes(routes!(record::record))
        .routes(routes!(read::read_topics))
        .routes(routes!(health::livez))
        .routes(routes!(health::readyz))
}

/// Returns the OpenAPI document.
pub fn openapi() -> utoipa::openapi::OpenApi {
    api().split_for_parts().1
}

/// Returns the whole service of a node: the routes, with or without a trailing slash.
pub fn service(node: Arc<Node>) -> MapRequest<Router, fn(Request) -> Request> {
    MapRequest::new(router(node), trim_slash)
}

/// Takes the trailing slash off a path; the documentation page is a folder and keeps it.
fn trim_slash(mut request: Request) -> Request {
    let path = request.uri().path();
    let trimmed = path.trim_end_matches('/');
    if trimmed.len() == path.len() || trimmed.is_empty() || trimmed == "/docs" {
        return request;
    }
    let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
    if let Ok(target) = format!("{trimmed}{query}").parse() {
        let mut parts = request.uri().clone().into_parts();
        parts.path_and_query = Some(target);
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
    }
    request
}

fn router(node: Arc<Node>) -> Router {
    let (routes, document) = api().split_for_parts();
    routes
        .merge(docs::router(document))
        .fallback(|uri: Uri| async move { no_such_path(&uri) })
        .method_not_allowed_fallback(
            |method: Method, uri: Uri| async move { method_not_allowed(&method, &uri) },
        )
        .layer(axum::middleware::from_fn_with_state(App(Arc::clone(&node)), events_instead_of_refusals))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(axum::middleware::map_response(not_stored))
        .with_state(App(node))
}

/// Answers a request for events that would get 429 or 503 with 200 and the problem as an event: a native
/// `EventSource` stops for ever on any other status.
async fn events_instead_of_refusals(State(app): State<App>, request: Request, next: Next) -> Response {
    let wants_events = request.method() == Method::GET && read::wants_events(request.headers());
    let last_id =
        request.headers().get("last-event-id").and_then(|value| value.to_str().ok()).map(str::to_owned);
    let mut response = next.run(request).await;
    // The representation of the same URL depends on it; a cache has to know.
    response.headers_mut().append(VARY, HeaderValue::from_static("accept"));
    let refused =
        matches!(response.status(), StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
    if wants_events && refused {
        return read::refusal_as_events(&app, response, last_id).await;
    }
    response
}

/// Keeps caches from storing what does not say how long it holds.
async fn not_stored(mut response: Response) -> Response {
    response.headers_mut().entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

fn panicked(_: Box<dyn std::any::Any + Send>) -> Response {
    let problem = Problem::new(Code::Internal, "the request met a fault of the server");
    problem.with_effect(Effect::Unknown).into_response()
}
