//! Problems of requests that never reach a handler's own checks.

use http::{Method, Uri};

use crate::http::extract::echo;
use crate::http::problem::{Code, Problem};

/// A body past its limit.
pub fn body_too_large(limit_bytes: usize) -> Problem {
    let detail = format!("body is too large: limit={limit_bytes}");
    Problem::new(Code::TooLarge, detail).with("limit", limit_bytes)
}

/// A body that broke off, or whose content encoding is damaged.
pub fn unreadable_body() -> Problem {
    Problem::new(
        Code::BadParameter,
        "body cannot be read: it is cut short or its content encoding is damaged",
    )
}

/// A body that does not arrive in time.
pub fn stuck_body() -> Problem {
    Problem::new(Code::BadParameter, "body does not go on")
}

/// A path without a route.
pub fn no_such_path(uri: &Uri) -> Problem {
    let detail = format!("there is no such path, see /docs: path={}", echo(uri.path()));
    Problem::new(Code::NotFound, detail)
}

/// A method its path does not know. The router adds `Allow`.
pub fn method_not_allowed(method: &Method, uri: &Uri) -> Problem {
    let detail =
        format!("path does not know this method: method={} path={}", echo(method.as_str()), echo(uri.path()));
    Problem::new(Code::MethodNotAllowed, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_router_falls_back_to_problems_and_adds_allow() {
        use axum::Router;
        use axum::body::Body;
        use axum::routing::get;
        use tower::ServiceExt;

        let app = Router::new()
            .route("/known", get(|| async { "" }))
            .fallback(|uri: Uri| async move { no_such_path(&uri) })
            .method_not_allowed_fallback(|method: Method, uri: Uri| async move {
                method_not_allowed(&method, &uri)
            });
        let request = http::Request::delete("/known").body(Body::empty()).unwrap();
        let response = app.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), 405);
        assert_eq!(response.headers()["allow"], "GET,HEAD");
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        let request = http::Request::get("/other").body(Body::empty()).unwrap();
        assert_eq!(app.oneshot(request).await.unwrap().status(), 404);
    }

    #[test]
    fn a_limit_is_named() {
        let problem = body_too_large(4096);
        assert_eq!((problem.status.as_u16(), &problem.extra["limit"]), (413, &4096.into()));
    }
}
