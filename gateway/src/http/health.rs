//! Whether the node lives, and whether it can serve.

use axum::extract::State;
use axum::http::StatusCode;

use crate::http::App;
use crate::http::docs::problems::ReadinessProblems;
use crate::http::problem::{Code, Problem};

/// Tells that the process runs.
#[utoipa::path(get, path = "/livez", tag = "operations", responses((status = OK, description = "it runs")))]
pub(super) async fn livez() -> StatusCode {
    StatusCode::OK
}

/// Tells whether the node takes requests: its shards are led and it is not stopping.
#[utoipa::path(get, path = "/readyz", tag = "operations", responses(
    (status = OK, description = "it takes requests"), ReadinessProblems))]
pub(super) async fn readyz(State(app): State<App>) -> Result<StatusCode, Problem> {
    if app.is_stopping() {
        return Err(Problem::new(Code::Draining, "the node is stopping"));
    }
    if !app.is_ready() {
        return Err(Problem::new(Code::NoLeader, "a shard has no leader"));
    }
    Ok(StatusCode::OK)
}
