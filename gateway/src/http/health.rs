//! Whether the node lives, and whether it can serve.

use axum::extract::State;
use axum::http::StatusCode;

use crate::http::App;
use crate::http::docs::problems::ReadinessProblems;
use crate::http::problem::{Code, Problem};
use crate::leading::Readiness;

/// Tells that the process runs.
#[utoipa::path(get, path = "/livez", tag = "operations", responses((status = OK, description = "it runs")))]
pub(super) async fn livez() -> StatusCode {
    StatusCode::OK
}

/// Tells whether the node takes requests: its shards are led, it can use the object store, and it is not stopping.
#[utoipa::path(get, path = "/readyz", tag = "operations", responses(
    (status = OK, description = "it takes requests"), ReadinessProblems))]
pub(super) async fn readyz(State(app): State<App>) -> Result<StatusCode, Problem> {
    if app.is_stopping() {
        return Err(Problem::new(Code::Draining, "the node is stopping"));
    }
    match app.readiness() {
        Readiness::Ready => Ok(StatusCode::OK),
        Readiness::Begins => Err(Problem::new(Code::NoLeader, "a shard has no leader")),
        Readiness::StoreAway => {
            Err(Problem::new(Code::StorageUnavailable, "the node cannot use the object store"))
        }
    }
}
