//! What operators and tools call, and manners that hold everywhere.

use harness::Server;
use serde_json::json;

#[tokio::test]
async fn health_and_documentation_answer() {
    let server = Server::start().await;
    server.get("/livez").await.expect(200);
    server.get("/readyz").await.expect(200);
    let document = server.get("/openapi.json").await.expect(200).json();
    assert!(document["openapi"].as_str().is_some_and(|version| version.starts_with("3.")), "{document}");
    let paths = document["paths"].as_object().expect("the document has paths");
    assert!(
        paths.keys().any(|path| path.starts_with("/v1/topics/{") && path.ends_with("}/records")),
        "{paths:?}"
    );
    let docs = server.get("/docs").await.expect(200);
    assert!(docs.header("content-type").starts_with("text/html"), "{:?}", docs.headers);
}

#[tokio::test]
async fn the_documentation_loads_nothing_from_other_hosts() {
    let server = Server::start().await;
    let page = server.get("/docs/").await.expect(200).text();
    for attribute in ["src=\"http", "href=\"http", "src=\"//", "href=\"//"] {
        assert!(!page.contains(attribute), "{attribute} in {page}");
    }
}

#[tokio::test]
async fn trailing_slashes_are_accepted() {
    let server = Server::start().await;
    server.put("/v1/topics/orders/").await.expect(201);
    server.post("/v1/topics/orders/records/").body("x").await.expect(201);
    assert_eq!(server.read_all("/v1/topics/orders/records/").await.len(), 1);
    for path in ["/v1/topics/", "/v1/topics/orders/partitions/", "/livez/", "/readyz/", "/openapi.json/"] {
        server.get(path).await.expect(200);
    }
}

#[tokio::test]
async fn head_answers_without_a_body() {
    let server = Server::start().await;
    server.create_topic("orders", json!({})).await;
    let answer = server.call(reqwest::Method::HEAD, "/v1/topics/orders").await.expect(200);
    assert!(answer.body.is_empty());
    assert_eq!(answer.header("etag"), server.get("/v1/topics/orders").await.header("etag"));
    server.call(reqwest::Method::HEAD, "/v1/topics/none").await.expect(404);
}
