//! Topics as a resource.

use axum::Json;
use axum::extract::{Request, State};
use axum::http::header::{ETAG, IF_MATCH, IF_NONE_MATCH};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use forebay_log::model::{PartitionId, Topic, TopicName};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::cursor::Cursor;
use crate::fetch::position::{Slot, TopicPosition};
use crate::http::App;
use crate::http::docs::bodies::TopicSettings;
use crate::http::docs::problems::{
    AlterProblems, CreateProblems, DeleteProblems, ListProblems, OffsetsProblems, TopicProblems,
};
use crate::http::extract::{After, Query, TopicPath, json_body};
use crate::http::problem::{Code, Problem};
use crate::http::read::{bad, ends, offset_at, with_etag};
use crate::limits;
use crate::topics::{Changes, Expected, TopicVersion, describe as describe_settings};

/// A description changes: a client may keep it, and asks each time whether it still holds.
const REVALIDATED: &str = "no-cache";

/// A topic: its settings by Kafka's names beside these.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"name": "orders", "epoch": "a0", "partitions": 1, "durability": "object", "cleanup.policy": "delete"}))]
pub(super) struct TopicDescription {
    name: String,
    /// Names this incarnation of the topic in cursors.
    epoch: String,
    #[serde(flatten)]
    #[schema(value_type = std::collections::BTreeMap<String, serde_json::Value>)]
    settings: Changes,
}

/// A page of the list of topics, in order of names.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"topics": [{"name": "orders", "epoch": "a0", "partitions": 1}], "next": "orders"}))]
pub(super) struct TopicList {
    topics: Vec<TopicDescription>,
    /// The `page` of the rest, if there is more.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// How far a partition goes.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"partition": 0, "shard": 0, "leader": "9f2c4d5e6a7b8c90", "leader_epoch": 3, "log_start_offset": 0,
    "high_watermark": 18, "bytes": 2048, "segments": 1}))]
pub(super) struct PartitionDescription {
    partition: u16,
    shard: u16,
    /// The node that leads its shard, where one is known.
    leader: Option<String>,
    /// In this epoch.
    leader_epoch: Option<u32>,
    log_start_offset: u64,
    high_watermark: u64,
    /// Bytes as stored, compressed.
    bytes: u64,
    /// Objects that hold its records.
    segments: usize,
}

/// The partitions of a topic.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"topic": "orders", "partitions": []}))]
pub(super) struct PartitionList {
    topic: String,
    partitions: Vec<PartitionDescription>,
}

/// An offset of a partition.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"partition": 0, "offset": 18}))]
pub(super) struct PartitionOffset {
    partition: u16,
    offset: u64,
}

/// A place in a topic.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"topic": "orders", "cursor": "a0.0-18", "offsets": [{"partition": 0, "offset": 18}]}))]
pub(super) struct TopicOffsets {
    topic: String,
    /// Fit for `after`.
    cursor: String,
    offsets: Vec<PartitionOffset>,
}

/// Lists topics by name.
#[utoipa::path(get, path = super::paths::TOPICS, tag = "topics", params(
    ("prefix" = Option<String>, Query, example = "or", description = "only names that start with this"),
    ("limit" = Option<u16>, Query, minimum = 1, maximum = 1000, example = 100, description = "default 100"),
    ("page" = Option<String>, Query, pattern = "^[a-zA-Z0-9._-]{1,249}$", example = "orders",
        description = "the `next` of the page before")),
    responses((status = OK, description = "a page of topics", body = TopicList), ListProblems))]
pub(super) async fn list(State(app): State<App>, uri: Uri) -> Result<Json<TopicList>, Problem> {
    let query = Query::parse(uri.query(), &["prefix", "limit", "page"])?;
    let limit = query.u64_in("limit", 1..=limits::TOPICS_PAGE_MAX as u64)?.unwrap_or(100);
    let page = query.text("page").map(str::parse::<TopicName>).transpose();
    let page = page.map_err(|_| bad("page", "must be the 'next' of a page"))?;
    let limit = usize::try_from(limit).unwrap_or(limits::TOPICS_PAGE_MAX);
    app.topics.refresh().await;
    let (topics, more) = app.topics.list(query.text("prefix").unwrap_or_default(), page.as_ref(), limit);
    let next = topics.last().filter(|_| more).map(|(name, _)| name.to_string());
    let topics = topics.iter().map(|(name, topic)| description(name, topic)).collect::<Result<_, _>>()?;
    Ok(Json(TopicList { topics, next }))
}

/// Creates a topic, or confirms one: then only the settings named are compared.
#[utoipa::path(put, path = super::paths::TOPIC, tag = "topics", params(TopicPath,
    ("If-None-Match" = Option<String>, Header, pattern = "^\\*$", example = "*",
        description = "`*`: only create, never confirm")),
    request_body(content = Option<TopicSettings>, description = "settings by name", example = json!({"partitions": 3})),
    responses((status = CREATED, description = "made", body = TopicDescription, headers(("ETag" = String, description = "version of the settings, for If-Match"))),
        (status = OK, description = "the topic as it is now", body = TopicDescription, headers(("ETag" = String, description = "version of the settings, for If-Match"))), CreateProblems))]
pub(super) async fn create(
    State(app): State<App>,
    path: TopicPath,
    request: Request,
) -> Result<Response, Problem> {
    Query::parse(request.uri().query(), &[])?;
    let only_new = only_new(request.headers())?;
    let changes = settings(request).await?;
    let (topic, new) = match only_new {
        true => (app.topics.create_new(&path.topic, &changes).await?, true),
        false => app.topics.create(&path.topic, &changes).await?,
    };
    let status = if new { StatusCode::CREATED } else { StatusCode::OK };
    answer(status, &path.topic, &topic)
}

/// Describes a topic. Its `ETag` names the state of this incarnation.
#[utoipa::path(get, path = super::paths::TOPIC, tag = "topics", params(TopicPath,
    ("If-None-Match" = Option<String>, Header, pattern = "^(\\*|\"[a-z0-9]+-[0-9]+\")$", example = "\"a0-1\"",
        description = "the ETag of the description that the client has")),
    responses((status = OK, description = "the topic as it is now", body = TopicDescription,
            headers(("ETag" = String, description = "version of the settings, for If-Match"),
                ("Cache-Control" = String, description = "no-cache"))),
        (status = NOT_MODIFIED, description = "the client has it"), TopicProblems))]
pub(super) async fn describe(
    State(app): State<App>,
    path: TopicPath,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    Query::parse(uri.query(), &[])?;
    let topic = app.topics.find(&path.topic).await?;
    let description = Json(description(&path.topic, &topic)?).into_response();
    Ok(with_etag(description, &TopicVersion::of(&topic).etag(), &headers, REVALIDATED))
}

/// Changes settings: a JSON merge patch, in which null means the default. Partitions may only grow.
#[utoipa::path(patch, path = super::paths::TOPIC, tag = "topics", params(TopicPath,
    ("If-Match" = Option<String>, Header, pattern = "^(\\*|\"[a-z0-9]+-[0-9]+\")$", example = "\"a0-1\"",
        description = "the ETag of the description it is based on")),
    request_body(content((TopicSettings = "application/merge-patch+json"), (TopicSettings = "application/json"))),
    responses((status = OK, description = "the topic as it is now", body = TopicDescription, headers(("ETag" = String, description = "version of the settings, for If-Match"))), AlterProblems))]
pub(super) async fn alter(
    State(app): State<App>,
    path: TopicPath,
    request: Request,
) -> Result<Response, Problem> {
    Query::parse(request.uri().query(), &[])?;
    let expected = expected(request.headers());
    let changes = settings(request).await?;
    let topic = app.topics.alter(&path.topic, &changes, expected).await?;
    answer(StatusCode::OK, &path.topic, &topic)
}

/// Deletes a topic with its records. Appends that come later get 404; a new topic of the name is another incarnation.
#[utoipa::path(delete, path = super::paths::TOPIC, tag = "topics", params(TopicPath,
    ("If-Match" = Option<String>, Header, pattern = "^(\\*|\"[a-z0-9]+-[0-9]+\")$", example = "*",
        description = "the ETag of the description it is based on")),
    responses((status = NO_CONTENT, description = "it is gone"), DeleteProblems))]
pub(super) async fn delete(
    State(app): State<App>,
    path: TopicPath,
    request: Request,
) -> Result<StatusCode, Problem> {
    Query::parse(request.uri().query(), &[])?;
    app.topics.delete(&path.topic, expected(request.headers())).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Describes the partitions of a topic.
#[utoipa::path(get, path = super::paths::PARTITIONS, tag = "topics", params(TopicPath),
    responses((status = OK, description = "every partition", body = PartitionList), TopicProblems))]
pub(super) async fn partitions(
    State(app): State<App>,
    path: TopicPath,
    uri: Uri,
) -> Result<Json<PartitionList>, Problem> {
    Query::parse(uri.query(), &[])?;
    let topic = app.topics.find(&path.topic).await?;
    let describe = |partition: PartitionId| {
        let shard = app.shards.of(&topic, partition)?;
        let log = shard.index().log(topic.partition(partition));
        let (view, usage, leader) = (log.view(), log.usage(), app.leader_of(shard.id()));
        Some(PartitionDescription {
            partition: partition.get(),
            shard: shard.id().get(),
            leader: leader.map(|(node, _)| node.to_string()),
            leader_epoch: leader.map(|(_, epoch)| epoch.get()),
            log_start_offset: view.log_start.get(),
            high_watermark: view.high_watermark.get(),
            bytes: usage.size_bytes,
            segments: usage.extents,
        })
    };
    let partitions = topic.partition_ids().filter_map(describe).collect();
    Ok(Json(PartitionList { topic: path.topic.to_string(), partitions }))
}

/// Finds the place of a time: the first record in each partition that is not older.
#[utoipa::path(get, path = super::paths::OFFSETS, tag = "topics", params(TopicPath,
    ("at" = String, Query, pattern = "^(earliest|latest|[0-9]{4}-[0-9T:.Z+-]+)$", example = "earliest",
        description = "earliest, latest, or an RFC 3339 time")),
    responses((status = OK, description = "the place", body = TopicOffsets), OffsetsProblems))]
pub(super) async fn offsets(
    State(app): State<App>,
    path: TopicPath,
    uri: Uri,
) -> Result<Json<TopicOffsets>, Problem> {
    let query = Query::parse(uri.query(), &["at"])?;
    let topic = app.topics.find(&path.topic).await?;
    let at = query.after("at")?.filter(|at| matches!(at, After::Earliest | After::Latest | After::Time(_)));
    let at = at.ok_or_else(|| bad("at", "must be earliest, latest or an RFC 3339 time"))?;
    let mut slots = Vec::new();
    for partition in topic.partition_ids() {
        let (start, end) = ends(&app, &topic, partition);
        let next = match at {
            After::Earliest => start,
            After::Time(time) => offset_at(&app, &topic, partition, time).await?.unwrap_or(end),
            _ => end,
        };
        slots.push(Slot { partition, next, until: None });
    }
    let offset = |slot: &Slot| PartitionOffset { partition: slot.partition.get(), offset: slot.next.get() };
    let offsets = slots.iter().map(offset).collect();
    let position = TopicPosition { name: path.topic.clone(), topic, slots, whole: true };
    let cursor = Cursor::single(position.cursor()).to_string();
    Ok(Json(TopicOffsets { topic: path.topic.to_string(), cursor, offsets }))
}

fn description(name: &TopicName, topic: &Topic) -> Result<TopicDescription, Problem> {
    let settings = describe_settings(topic.partitions, &topic.settings)?;
    Ok(TopicDescription { name: name.to_string(), epoch: topic.epoch.clone(), settings })
}

fn answer(status: StatusCode, name: &TopicName, topic: &Topic) -> Result<Response, Problem> {
    let description = Json(description(name, topic)?);
    let etag = [(ETAG, TopicVersion::of(topic).etag())];
    Ok((status, etag, description).into_response())
}

/// Reads the states that `If-Match` names; none for any state.
fn expected(headers: &HeaderMap) -> Option<Expected> {
    let named: Vec<&str> =
        headers.get_all(IF_MATCH).iter().map(|value| value.to_str().unwrap_or_default()).collect();
    let tags: Expected =
        named.iter().flat_map(|list| list.split(',')).map(|tag| tag.trim().to_owned()).collect();
    (!tags.is_empty() && !tags.iter().any(|tag| tag == "*")).then_some(tags)
}

/// Reads `If-None-Match: *`, which lets a PUT create and nothing else.
fn only_new(headers: &HeaderMap) -> Result<bool, Problem> {
    match headers.get(IF_NONE_MATCH) {
        None => Ok(false),
        Some(value) if value.as_bytes().trim_ascii() == b"*" => Ok(true),
        Some(_) => {
            let rule = "If-None-Match must be * here: only create";
            Err(Problem::new(Code::BadParameter, rule).with("header", "If-None-Match"))
        }
    }
}

/// Reads a body of settings; none at all names none.
async fn settings(request: Request) -> Result<Changes, Problem> {
    const PATCH: &str = "application/merge-patch+json";
    let Some(body) = json_body(request, &[PATCH], limits::SETTINGS_BYTES_MAX).await? else {
        return Ok(Map::new());
    };
    match serde_json::from_slice(&body) {
        Ok(Value::Object(settings)) => Ok(settings),
        Ok(_) => Err(Problem::new(Code::BadJson, "settings are a JSON object")),
        Err(error) => Err(Problem::new(Code::BadJson, format!("body is no JSON: {error}"))),
    }
}
