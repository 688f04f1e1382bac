//! HTTP: from requests to values of the model and back. One file per resource.
//!
//! [`extract`] reads what a request says, strictly; [`wire`] reads and writes bodies, both pure; [`problem`] is the
//! one form of every error, and `error` the one table that leads to it.

pub mod admission;
mod cors;
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
use axum::extract::Request;
use axum::http::header::CACHE_CONTROL;
use axum::http::{HeaderValue, Method, Uri};
use axum::response::{IntoResponse, Response};
use tower::util::MapRequest;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::CorsLayer;
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
    docs::name_twins(api().split_for_parts().1)
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

/// Returns the service of connections past the limit: it refuses every request.
pub fn refusal(node: Arc<Node>) -> Router {
    let app = App(node);
    let cors = cors::layer(&app.cors_origins);
    let router = Router::new().fallback(move |request: Request| admission::refuse(app.clone(), request));
    with_cors(router, cors)
}

/// Outermost, so that a page can read every answer, refusals too.
fn with_cors(router: Router, cors: Option<CorsLayer>) -> Router {
    match cors {
        Some(cors) => router.layer(cors),
        None => router,
    }
}

fn router(node: Arc<Node>) -> Router {
    let cors = cors::layer(&node.cors_origins);
    let (routes, document) = api().split_for_parts();
    let router = routes
        .merge(docs::router(docs::name_twins(document)))
        .fallback(|uri: Uri| async move { no_such_path(&uri) })
        .method_not_allowed_fallback(
            |method: Method, uri: Uri| async move { method_not_allowed(&method, &uri) },
        )
        .layer(axum::middleware::from_fn_with_state(App(Arc::clone(&node)), admission::admit))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(axum::middleware::map_response(not_stored))
        .with_state(App(node));
    with_cors(router, cors)
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
