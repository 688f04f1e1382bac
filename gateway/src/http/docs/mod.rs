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

/// Gives an operation that answers to POST and PUT a name for each, since names are unique.
pub(super) fn name_twins(mut document: utoipa::openapi::OpenApi) -> utoipa::openapi::OpenApi {
    for item in document.paths.paths.values_mut() {
        let posted = item.post.as_ref().and_then(|operation| operation.operation_id.clone());
        if let Some(put) = item.put.as_mut().filter(|put| put.operation_id == posted) {
            put.operation_id = posted.map(|name| format!("{name}_by_put"));
        }
    }
    document
}

pub(super) fn router(document: utoipa::openapi::OpenApi) -> Router<App> {
    SwaggerUi::new("/docs").url("/openapi.json", document).into()
}
