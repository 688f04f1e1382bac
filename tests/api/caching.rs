//! What clients and caches may keep, and how pages lead to the next.

use harness::Server;
use reqwest::Method;
use serde_json::{Value, json};

const PARTITION: &str = "/v1/topics/orders/partitions/0/records";
const RECORDS: &str = "/v1/topics/orders/records";

async fn server() -> Server {
    let server = Server::start().await;
    server.create_topic("orders", json!({})).await;
    let lines: Vec<String> = (0..10).map(|n| n.to_string()).collect();
    server.produce_lines(RECORDS, &lines).await;
    server
}

#[tokio::test]
async fn a_page_below_the_tail_is_kept_and_one_at_the_tail_is_not() {
    let server = server().await;
    let kept = server.get(&format!("{PARTITION}?offset=0&limit=4")).await.expect(200);
    assert_eq!(kept.header("cache-control"), "private, max-age=3600");
    assert!(kept.header("etag").starts_with('"'));
    let by_bytes = server.get(&format!("{PARTITION}?offset=0&max_bytes=100")).await.expect(200);
    assert_eq!(by_bytes.header("cache-control"), "private, max-age=3600", "cut by bytes");
    let cursor = kept.json()["next"].as_str().expect("a cursor").to_owned();
    let path = format!("{PARTITION}?after={cursor}&limit=4");
    let again = server.get(&path).await.expect(200);
    let not_modified = server.get(&path).header("if-none-match", again.header("etag")).await.expect(304);
    assert_eq!(not_modified.header("etag"), again.header("etag"));
    assert_eq!(not_modified.header("cache-control"), "private, max-age=3600");
    // Full, but at the tail: what it says of being caught up will change.
    let full = server.get(&format!("{PARTITION}?offset=6&limit=4")).await.expect(200);
    assert_eq!((full.header("cache-control"), full.header("etag")), ("no-store", ""));
    for path in
        [format!("{RECORDS}?limit=4"), format!("{PARTITION}?limit=4"), format!("{PARTITION}?offset=2")]
    {
        let answer = server.get(&path).await.expect(200);
        assert_eq!((answer.header("cache-control"), answer.header("etag")), ("no-store", ""), "{path}");
    }
}

#[tokio::test]
async fn links_lead_through_all_pages_and_end_at_the_tail() {
    let server = server().await;
    for start in [
        format!("{RECORDS}?limit=3&after=earliest"),
        format!("{PARTITION}?offset=0&limit=3"),
        format!("{RECORDS}?l%69mit=3&%61fter=-10&key=*"),
    ] {
        let (mut path, mut pages, mut records) = (start.clone(), 0, 0);
        loop {
            let answer = server.get(&path).await.expect(200);
            let page = answer.json();
            records += page["records"].as_array().expect("a list").len();
            pages += 1;
            let link = answer.header("link");
            if link.is_empty() {
                break;
            }
            let target = link.strip_prefix('<').and_then(|link| link.strip_suffix(">; rel=\"next\""));
            target.unwrap_or_else(|| panic!("{link}")).clone_into(&mut path);
            assert!(path.contains(answer.header("forebay-next")), "{link}");
        }
        let expected = if start.contains("key") { (1, 0) } else { (4, 10) };
        assert_eq!((pages, records), expected, "{start}");
    }
}

#[tokio::test]
async fn head_answers_the_headers_of_get() {
    let server = server().await;
    for path in [
        "/v1/topics/orders".to_owned(),
        format!("{PARTITION}/3"),
        format!("{PARTITION}?offset=0&limit=4"),
        "/v1/topics".to_owned(),
        "/v1/topics/orders/partitions".to_owned(),
    ] {
        let get = server.get(&path).await.expect(200);
        let head = server.call(Method::HEAD, &path).await.expect(200);
        assert!(head.body.is_empty(), "{path}");
        for header in ["content-type", "etag", "cache-control", "link", "forebay-next", "content-length"] {
            assert_eq!(head.header(header), get.header(header), "{path} {header}");
        }
    }
    assert_eq!(server.call(Method::HEAD, "/v1/topics/none").await.status, 404);
}

#[tokio::test]
async fn a_description_is_revalidated_by_its_etag() {
    let server = server().await;
    let first = server.get("/v1/topics/orders").await.expect(200);
    assert_eq!(first.header("cache-control"), "no-cache");
    let etag = first.header("etag").to_owned();
    let known = || server.get("/v1/topics/orders").header("if-none-match", &format!("\"x\", {etag}"));
    assert!(known().await.expect(304).body.is_empty());
    server.patch("/v1/topics/orders").json(&json!({"retention.ms": 5})).await.expect(200);
    let second = known().await.expect(200);
    assert_ne!(second.header("etag"), etag);
    let made = server.put("/v1/topics/other").await.expect(201);
    assert_eq!((made.header("cache-control"), made.header("etag").is_empty()), ("no-store", false));
    for path in ["/v1/topics", "/v1/topics/orders/offsets?at=latest", "/readyz"] {
        assert_eq!(server.get(path).await.expect(200).header("cache-control"), "no-store", "{path}");
    }
    let receipt = server.post(RECORDS).body("1").await.expect(201);
    assert_eq!(receipt.header("cache-control"), "no-store");
}

#[tokio::test]
async fn conditions_guard_changes_of_a_topic() {
    let server = server().await;
    let topic = "/v1/topics/orders";
    server.put(topic).header("if-none-match", "*").await.problem(412, "precondition-failed");
    server.put("/v1/topics/new").header("if-none-match", "*").await.expect(201);
    server.put("/v1/topics/new").header("if-none-match", "\"a0-1\"").await.problem(400, "bad-parameter");
    let etag = server.get(topic).await.expect(200).header("etag").to_owned();
    let change = |tags: &str, body: Value| {
        let call = server
            .patch(topic)
            .header("if-match", tags)
            .header("content-type", "application/merge-patch+json");
        call.body(body.to_string())
    };
    let changed = change(&format!("\"zz-9\", {etag}"), json!({"retention.ms": 5})).await.expect(200);
    for stale in [etag.as_str(), &format!("W/{}", changed.header("etag")), "nonsense"] {
        let problem = change(stale, json!({"retention.ms": 6})).await.problem(412, "precondition-failed");
        assert_eq!(problem["etag"], changed.header("etag"), "{stale}");
        server.delete(topic).header("if-match", stale).await.problem(412, "precondition-failed");
    }
    change("*", json!({"retention.ms": null})).await.expect(200);
    server.delete("/v1/topics/none").header("if-match", "*").await.problem(404, "topic-not-found");
    let now = server.get(topic).await.expect(200).header("etag").to_owned();
    server.delete(topic).header("if-match", &now).await.expect(204);
    let patch = server.patch("/v1/topics/new").header("content-type", "text/plain").body("{}");
    patch.await.problem(415, "unsupported-media-type");
    let grown = server.patch("/v1/topics/new").json(&json!({"partitions": 3})).await.expect(200).json();
    assert_eq!(grown["partitions"], 3);
    server.patch("/v1/topics/new").json(&json!({"partitions": null})).await.problem(422, "invalid-config");
    server.patch("/v1/topics/new").json(&json!({"retention": 1})).await.problem(422, "invalid-config");
}

#[tokio::test]
async fn pages_are_compressed_for_who_asks_and_have_an_etag_of_their_own() {
    let server = Server::start().await;
    server.create_topic("orders", json!({})).await;
    let lines: Vec<String> = (0..2000).map(|n| format!("{{\"n\":{n}}}")).collect();
    server.produce_lines("/v1/topics/orders/records", &lines).await;
    let path = "/v1/topics/orders/partitions/0/records?offset=0&limit=1000";
    let plain = server.get(path).await.expect(200);
    let plain_etag = plain.header("etag").to_owned();
    let gzip = server.get(path).header("accept-encoding", "gzip").await.expect(200);
    let zstd = server.get(path).header("accept-encoding", "gzip, br, zstd").await.expect(200);
    assert_eq!((gzip.header("content-encoding"), zstd.header("content-encoding")), ("gzip", "zstd"));
    assert_eq!(plain.header("content-encoding"), "");
    for coded in [&gzip, &zstd] {
        assert!(coded.body.len() * 5 < plain.body.len(), "{}", coded.body.len());
        assert!(
            coded.headers.get_all("vary").iter().any(|vary| vary.as_bytes().ends_with(b"accept-encoding"))
        );
        assert_ne!(coded.header("etag"), plain_etag);
    }
    assert_eq!(&gzip.body[..2], b"\x1f\x8b");
    let known =
        server.get(path).header("accept-encoding", "gzip").header("if-none-match", gzip.header("etag"));
    known.await.expect(304);
    let mut curl = std::process::Command::new("curl");
    curl.args(["-s", "--compressed", &format!("{}{path}", server.url())]);
    assert_eq!(curl.output().expect("curl runs").stdout, plain.body, "a real client gets the same page");
}
