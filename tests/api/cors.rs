//! Pages of other origins, as a browser asks for them.

use harness::{Answer, Options, Server};
use reqwest::Method;
use serde_json::json;

const RECORDS: &str = "/v1/topics/orders/records";
const APP: &str = "https://app.example";
const DEV: &str = "http://localhost:5173";

async fn server(origins: &str) -> Server {
    let args = vec!["--cors-origins".into(), origins.into()];
    let server = Server::start_with(Options { args }).await;
    server.create_topic("orders", json!({})).await;
    server
}

async fn preflight(server: &Server, origin: &str, path: &str) -> Answer {
    let call = server.call(Method::OPTIONS, path).header("origin", origin);
    let call = call.header("access-control-request-method", "POST");
    call.header("access-control-request-headers", "content-type,idempotency-key,forebay-header-a,ce-id").await
}

#[tokio::test]
async fn a_preflight_is_answered_for_the_origins_of_the_list_without_reaching_the_api() {
    let server = server(&format!("{APP},{DEV}")).await;
    for origin in [APP, DEV] {
        let answer = preflight(&server, origin, RECORDS).await.expect(200);
        assert_eq!(answer.header("access-control-allow-origin"), origin);
        for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"] {
            assert!(answer.header("access-control-allow-methods").contains(method), "{:?}", answer.headers);
        }
        let allowed = answer.header("access-control-allow-headers");
        assert_eq!(allowed, "content-type,idempotency-key,forebay-header-a,ce-id");
        assert_eq!(answer.header("access-control-max-age"), "7200");
        assert!(answer.header("vary").contains("origin"), "{:?}", answer.headers);
        assert!(answer.body.is_empty());
    }
    let answer = preflight(&server, "https://other.example", RECORDS).await;
    assert_eq!(answer.header("access-control-allow-origin"), "");
    preflight(&server, APP, "/v1/topics/none/records").await.expect(200);
}

#[tokio::test]
async fn answers_name_the_origin_that_asked_and_show_it_every_header() {
    let server = server(&format!("{APP},{DEV}")).await;
    let from = |origin: &'static str| server.get(RECORDS).header("origin", origin);
    for origin in [APP, DEV] {
        let answer = from(origin).await.expect(200);
        assert_eq!(answer.header("access-control-allow-origin"), origin);
        assert_eq!(answer.header("access-control-expose-headers"), "*");
        let vary: Vec<_> =
            answer.headers.get_all("vary").iter().filter_map(|one| one.to_str().ok()).collect();
        assert!(vary.contains(&"origin"), "{vary:?}");
    }
    let problem = server.get("/v1/topics/none/records").header("origin", APP).await;
    problem.problem(404, "topic-not-found");
    assert_eq!(problem.header("access-control-allow-origin"), APP, "a page can read what went wrong");
    let stream = from(DEV).stream().await;
    assert_eq!(stream.header("access-control-allow-origin"), DEV);
    for origin in ["https://other.example", "https://app.example.evil", "null", "http://app.example"] {
        let answer = from(origin).await.expect(200);
        assert_eq!(answer.header("access-control-allow-origin"), "", "{origin}");
    }
}

#[tokio::test]
async fn every_page_may_call_if_told_so_but_never_with_cookies() {
    let server = server("*").await;
    for answer in [preflight(&server, APP, RECORDS).await, server.get(RECORDS).header("origin", APP).await] {
        let answer = answer.expect(200);
        assert_eq!(answer.header("access-control-allow-origin"), "*");
        assert!(!answer.headers.contains_key("access-control-allow-credentials"));
    }
}

#[tokio::test]
async fn no_page_of_another_origin_may_call_unless_told_so() {
    let server = Server::start().await;
    server.create_topic("orders", json!({})).await;
    let answer = server.get(RECORDS).header("origin", APP).await.expect(200);
    let marks = answer.headers.keys().filter(|name| name.as_str().starts_with("access-control"));
    assert_eq!(marks.count(), 0, "{:?}", answer.headers);
    assert_eq!(preflight(&server, APP, RECORDS).await.status, 405);
}
