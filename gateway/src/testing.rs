//! A whole node in memory for tests: the real routes, called without a network.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use axum::response::Response;
use forebay_log::clock::{Clock, SystemClock};
use forebay_log::model::{Record, Timestamp, Topic};
use forebay_log::store::{S3Options, StoreUrl};
use http_body_util::BodyExt as _;
use serde_json::{Map, Value};
use tower::ServiceExt as _;

use crate::config::{Auth, Config, CorsOrigins, LogFormat};
use crate::fetch::Reader;
use crate::fetch::filter::Filter;
use crate::fetch::position::{Slot, TopicPosition};
use crate::http;
use crate::limits;
use crate::node::Node;
use crate::produce::{NewRecord, ProduceOptions, Produced, Progress, Unit};

/// Opens a node in memory.
pub(crate) async fn node(shards: u16) -> Arc<Node> {
    node_at(shards, Arc::new(SystemClock)).await
}

/// Opens a node in memory that takes the time from this clock.
pub(crate) async fn node_at(shards: u16, clock: Arc<dyn Clock>) -> Arc<Node> {
    Node::open(&config(PathBuf::new(), StoreUrl::Memory, shards), clock, 7).await.unwrap()
}

/// Opens a node that keeps everything in a folder.
pub(crate) async fn node_in(folder: &Path) -> Arc<Node> {
    let store = StoreUrl::File(folder.join("store"));
    Node::open(&config(folder.to_owned(), store, 1), Arc::new(SystemClock), 7).await.unwrap()
}

/// Opens a node in memory that has as many requests in hand as it may.
pub(crate) async fn busy_node() -> Arc<Node> {
    let config = Config { max_requests: 0, ..config(PathBuf::new(), StoreUrl::Memory, 1) };
    Node::open(&config, Arc::new(SystemClock), 7).await.unwrap()
}

fn config(data_dir: PathBuf, store: StoreUrl, shards: u16) -> Config {
    Config {
        listen: "127.0.0.1:0".parse().unwrap(),
        data_dir,
        store,
        s3: S3Options::default(),
        replace_node: None,
        cluster: None,
        compactor: crate::config::CompactorMode::Embedded,
        shards,
        flush_linger: Duration::from_millis(10),
        journal_bytes: 1 << 30,
        cache_bytes: 64 << 20,
        auth: Auth::None,
        cors_origins: CorsOrigins::default(),
        max_connections: limits::CONNECTIONS_DEFAULT,
        max_requests: limits::REQUESTS_DEFAULT,
        max_streams: limits::STREAMS_DEFAULT,
        log: LogFormat::Text,
    }
}

/// Creates a topic.
pub(crate) async fn topic(node: &Node, name: &str, partitions: u16) -> Arc<Topic> {
    let mut settings = Map::new();
    settings.insert("partitions".to_owned(), partitions.into());
    node.topics.create(&name.parse().unwrap(), &settings).await.unwrap().0
}

/// Makes a record for a partition.
pub(crate) fn record(partition: u16, value: &str) -> NewRecord {
    let value = Some(value.to_owned().into());
    let record = Record { value, timestamp: Timestamp::MIN, ..Record::default() };
    NewRecord { record, partition: Some(forebay_log::model::PartitionId::new(partition)) }
}

/// Appends records as one unit.
pub(crate) async fn append(
    node: &Node,
    topic: &Topic,
    records: impl IntoIterator<Item = NewRecord>,
) -> Produced {
    let mut unit = Unit::default();
    records.into_iter().for_each(|record| unit.push(record));
    let options = ProduceOptions::default();
    let sticky = node.producer.sticky_partition(topic, &options);
    let enqueued =
        node.producer.enqueue(topic, unit, sticky, &mut Progress::default(), &options).await.unwrap();
    enqueued.acknowledged().await.unwrap()
}

/// Reads a whole topic from its start.
pub(crate) fn reader(node: &Node, name: &str, topic: &Arc<Topic>) -> Reader {
    let slot = |partition| Slot { partition, next: forebay_log::model::Offset::ZERO, until: None };
    let slots = topic.partition_ids().map(slot).collect();
    let position =
        TopicPosition { name: name.parse().unwrap(), topic: Arc::clone(topic), slots, whole: true };
    Reader::new(Arc::clone(&node.shards), Arc::clone(&node.topics), vec![position], Filter::default())
}

/// An answer whose body was read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{self:?}");
        self
    }
}

/// Calls the node's service.
pub(crate) async fn call(node: &Arc<Node>, request: Request<Body>) -> Answer {
    let response = open(node, request).await;
    let (status, headers) = (response.status(), response.headers().clone());
    let body = response.into_body().collect().await.unwrap().to_bytes();
    Answer { status, headers, body: String::from_utf8_lossy(&body).into_owned() }
}

/// Calls the node's service and leaves the body unread.
pub(crate) async fn open(node: &Arc<Node>, request: Request<Body>) -> Response {
    http::service(Arc::clone(node)).oneshot(request).await.unwrap()
}

pub(crate) async fn get(node: &Arc<Node>, uri: &str) -> Answer {
    call(node, Request::get(uri).body(Body::empty()).unwrap()).await
}

/// Posts lines of JSON.
pub(crate) async fn post_lines(node: &Arc<Node>, uri: &str, lines: impl Into<Body>) -> Answer {
    let request = Request::post(uri).header("content-type", "application/x-ndjson");
    call(node, request.body(lines.into()).unwrap()).await
}

/// A stream of events, read frame by frame.
#[derive(Debug)]
pub(crate) struct Events {
    body: Body,
    rest: String,
}

/// One event.
#[derive(Debug, PartialEq, Eq, Default)]
pub(crate) struct Event {
    pub(crate) name: String,
    pub(crate) id: String,
    pub(crate) data: String,
}

impl Events {
    pub(crate) async fn open(node: &Arc<Node>, uri: &str, last_id: Option<&str>) -> Self {
        let mut request = Request::get(uri).header("accept", "text/event-stream");
        if let Some(id) = last_id {
            request = request.header("last-event-id", id);
        }
        let response = open(node, request.body(Body::empty()).unwrap()).await;
        assert_eq!(response.status(), StatusCode::OK);
        Self { body: response.into_body(), rest: String::new() }
    }

    /// Returns the next frame as text, without the blank line that ends it; none at the end.
    pub(crate) async fn frame(&mut self) -> Option<String> {
        loop {
            if let Some((frame, rest)) = self.rest.split_once("\n\n") {
                let frame = frame.to_owned();
                self.rest = rest.to_owned();
                return Some(frame);
            }
            let chunk = self.body.frame().await?.unwrap().into_data().unwrap();
            self.rest.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }

    /// Returns the next event, heartbeats left out; none at the end.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        loop {
            let frame = self.frame().await?;
            let mut event = Event::default();
            for line in frame.lines() {
                match line.split_once(": ") {
                    Some(("event", name)) => event.name = name.to_owned(),
                    Some(("id", id)) => event.id = id.to_owned(),
                    Some(("data", data)) => event.data.push_str(data),
                    _ => {}
                }
            }
            if frame != ":" {
                return Some(event);
            }
        }
    }

    /// Returns the next record's value and id; fails on any other event but those that only tell of progress.
    pub(crate) async fn record(&mut self) -> (Value, String) {
        loop {
            let event = self.next().await.expect("the stream goes on");
            match event.name.as_str() {
                "" => {
                    let data: Value = serde_json::from_str(&event.data).unwrap();
                    return (data["value"].clone(), event.id);
                }
                "open" | "cursor" => {}
                other => panic!("unexpected event {other}: {event:?}"),
            }
        }
    }
}
