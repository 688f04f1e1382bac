//! The OpenAPI document and the page that shows it, both served by the node itself.
//!
//! Handlers describe themselves; [`parameters`] holds what several of them take, [`bodies`] what they answer,
//! [`problems`] what they refuse with.

pub(super) mod bodies;
pub(super) mod parameters;
pub(super) mod problems;
#[cfg(test)]
mod tests;

use axum::Router;
use utoipa::OpenApi;
use utoipa_swagger_ui::SwaggerUi;

use crate::http::App;
use crate::http::problem::{Code, Effect, Problem};
use crate::http::produce::ProduceReceipt;
use crate::http::read::RecordPage;

/// What the document says besides its paths.
#[derive(Debug, OpenApi)]
#[openapi(
    info(
        title = "Forebay",
        description = "Kafka's model (topics, partitions, keys, offsets) as plain REST and Server-Sent Events.",
        license(name = "Apache-2.0")
    ),
    components(schemas(Problem, Code, Effect, ProduceReceipt, RecordPage)),
    tags(
        (name = "topics", description = "Topics and their settings"),
        (name = "records", description = "Produce, read and follow"),
        (name = "operations", description = "For those who run it")
    )
)]
struct Base;

pub(super) fn base() -> utoipa::openapi::OpenApi {
    Base::openapi()
}

pub(super) fn router(document: utoipa::openapi::OpenApi) -> Router<App> {
    SwaggerUi::new("/docs").url("/openapi.json", document).into()
}
