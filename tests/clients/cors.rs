//! The API from a page of another origin, in a real browser: it works if the origin is allowed, and not otherwise.

use harness::{Options, Server};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::{Subscriber, here};

const RECORDS: &str = "/v1/topics/ticks/records";

/// Serves an empty page for as long as the test runs; answers its origin.
async fn origin() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("it is bound").port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 4096];
            // A browser may close a connection that it opened ahead.
            if stream.read(&mut request).await.is_ok_and(|bytes| bytes > 0) {
                let page = "<!doctype html><title>page</title>";
                let head = "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\nconnection: close\r\n";
                let answer = format!("{head}content-length: {}\r\n\r\n{page}", page.len());
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        }
    });
    format!("http://localhost:{port}")
}

async fn server(allowed: &str) -> Server {
    let args = vec!["--cors-origins".into(), allowed.into()];
    let server = Server::start_with(Options { args }).await;
    server.create_topic("ticks", json!({})).await;
    server.post(RECORDS).body("1").await.expect(201);
    server
}

fn page(server: &Server, origin: &str) -> Subscriber {
    Subscriber::start("node", &here().join("cors.mjs"), &[&server.url(), RECORDS, origin])
}

#[tokio::test]
async fn chromium_uses_the_api_from_a_page_of_an_allowed_origin() {
    let origin = origin().await;
    let server = server(&format!("https://other.example,{origin}")).await;
    let mut page = page(&server, &origin);
    let mut lines = Vec::new();
    while lines.len() < 4 {
        lines.push(page.next_line().await);
    }
    let begins = |line: &str| lines.iter().filter(|found| found.starts_with(line)).count();
    assert_eq!((begins("record "), begins("produce 201")), (2, 1), "{lines:?}");
    assert_eq!(begins("next a0.0-"), 1, "{lines:?}");
    page.end().await;
}

#[tokio::test]
async fn chromium_cannot_use_the_api_from_a_page_of_another_origin() {
    let origin = origin().await;
    let server = server("https://other.example").await;
    let mut page = page(&server, &origin);
    let mut lines = Vec::new();
    while lines.len() < 3 {
        lines.push(page.next_line().await);
    }
    lines.sort();
    assert_eq!(lines, ["closed", "next failed", "produce failed"]);
    assert_eq!(server.read_all(RECORDS).await.len(), 1, "the preflight kept the produce from being sent");
    page.end().await;
}
