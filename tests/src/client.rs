//! A client for tests: one line per call, and answers that explain themselves when they are not as expected.

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{CONTENT_TYPE, HeaderMap};
use reqwest::{Body, Method, StatusCode};
use serde_json::Value;

use crate::{EventStream, in_time};

/// Calls one server.
#[derive(Debug, Clone)]
pub struct Client {
    base: String,
    http: reqwest::Client,
}

impl Client {
    /// A client of the server at `base`, without a slash at the end.
    pub fn new(base: &str) -> Self {
        Self { base: base.to_owned(), http: reqwest::Client::new() }
    }

    /// A client that gives up a call after this time.
    pub fn with_timeout(base: &str, timeout: Duration) -> Self {
        let http = reqwest::Client::builder().timeout(timeout).build().expect("the options are good");
        Self { base: base.to_owned(), http }
    }

    /// The URL of the server, without a slash at the end.
    pub fn url(&self) -> &str {
        &self.base
    }

    /// Begins a call; `path` holds the query too.
    pub fn call(&self, method: Method, path: &str) -> Call {
        let name = format!("{method} {path}");
        Call { name, request: self.http.request(method, format!("{}{path}", self.base)) }
    }

    /// Begins a GET.
    pub fn get(&self, path: &str) -> Call {
        self.call(Method::GET, path)
    }

    /// Begins a PUT.
    pub fn put(&self, path: &str) -> Call {
        self.call(Method::PUT, path)
    }

    /// Begins a POST.
    pub fn post(&self, path: &str) -> Call {
        self.call(Method::POST, path)
    }

    /// Begins a PATCH.
    pub fn patch(&self, path: &str) -> Call {
        self.call(Method::PATCH, path)
    }

    /// Begins a DELETE.
    pub fn delete(&self, path: &str) -> Call {
        self.call(Method::DELETE, path)
    }

    /// Creates a topic with these settings.
    pub async fn create_topic(&self, topic: &str, settings: Value) {
        self.put(&format!("/v1/topics/{topic}")).json(&settings).await.expect(201);
    }

    /// Produces one record per line and answers the receipt.
    pub async fn produce_lines(&self, path: &str, lines: &[String]) -> Value {
        let call = self.post(path).header("content-type", "application/x-ndjson");
        call.body(lines.join("\n")).await.expect(201).json()
    }

    /// Reads all records that a plain read of `path` finds, page by page, up to the page that says it caught up.
    pub async fn read_all(&self, path: &str) -> Vec<Value> {
        self.read_on(path, None).await.0
    }

    /// Reads on from a cursor, or from the start, up to the high watermark; answers the cursor to go on from.
    pub async fn read_on(&self, path: &str, cursor: Option<String>) -> (Vec<Value>, String) {
        let joint = if path.contains('?') { '&' } else { '?' };
        let mut records = Vec::new();
        let mut after = cursor.unwrap_or_else(|| "earliest".to_owned());
        loop {
            let page = self.get(&format!("{path}{joint}limit=5000&after={after}")).await.expect(200).json();
            let found = page["records"].as_array().expect("a page has records");
            records.extend(found.iter().cloned());
            let next = page["next"].as_str().expect("a page has a next cursor").to_owned();
            let moved = next != after;
            after = next;
            if page["caught_up"] == true {
                return (records, after);
            }
            assert!(moved || found.is_empty(), "a page with records did not move the cursor: {path} {after}");
        }
    }
}

/// One call, sent when it is awaited.
#[must_use]
#[derive(Debug)]
pub struct Call {
    name: String,
    request: reqwest::RequestBuilder,
}

impl Call {
    /// Adds a header.
    pub fn header(self, name: &str, value: &str) -> Self {
        Self { request: self.request.header(name, value), ..self }
    }

    /// Sends a JSON body.
    pub fn json(self, body: &Value) -> Self {
        self.header("content-type", "application/json").body(body.to_string())
    }

    /// Sends these bytes, without saying what they are.
    pub fn body(self, body: impl Into<Body>) -> Self {
        Self { request: self.request.body(body), ..self }
    }

    /// Sends the call; an error means that no whole answer came.
    ///
    /// # Errors
    /// The transport's.
    pub async fn try_send(self) -> reqwest::Result<Answer> {
        let response = self.request.send().await?;
        let (status, headers) = (response.status(), response.headers().clone());
        Ok(Answer { name: self.name, status, headers, body: response.bytes().await? })
    }

    /// Opens an event stream. Anything but a 200 that is one panics.
    pub async fn stream(self) -> EventStream {
        let request = self.request.header("accept", "text/event-stream");
        let response = in_time(&self.name, request.send()).await;
        let response = response.unwrap_or_else(|error| panic!("{}: no answer: {error}", self.name));
        assert_eq!(response.status(), StatusCode::OK, "{}", self.name);
        EventStream::new(self.name, response)
    }
}

impl IntoFuture for Call {
    type Output = Answer;
    type IntoFuture = Pin<Box<dyn Future<Output = Answer> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let name = self.name.clone();
            let answer = in_time(&name, self.try_send()).await;
            answer.unwrap_or_else(|error| panic!("{name}: no answer: {error}"))
        })
    }
}

/// A whole answer, and the call it belongs to.
#[derive(Debug)]
pub struct Answer {
    name: String,
    /// The status code.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Answer {
    /// Checks the status.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{}: {}", self.name, self.text());
        self
    }

    /// Checks that this is a problem document with this status and code, and answers the document.
    #[track_caller]
    pub fn problem(&self, status: u16, code: &str) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}: {}", self.name, self.text());
        assert_eq!(self.header(CONTENT_TYPE.as_str()), "application/problem+json", "{}", self.name);
        let document = self.json();
        assert_eq!(document["code"], code, "{}: {}", self.name, self.text());
        assert_eq!(document["status"], status, "{}: {}", self.name, self.text());
        assert!(document["title"].is_string(), "{}: {}", self.name, self.text());
        document
    }

    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        match serde_json::from_slice(&self.body) {
            Ok(value) => value,
            Err(error) => panic!("{}: not JSON: {error}: {}", self.name, self.text()),
        }
    }

    /// The body as lines of JSON.
    #[track_caller]
    pub fn json_lines(&self) -> Vec<Value> {
        let lines = self.body.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
        lines.map(|line| serde_json::from_slice(line).expect("each line is JSON")).collect()
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A header, empty when there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}
