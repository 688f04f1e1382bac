//! Server-Sent Events.
//!
//! A stream is pulled by its client: while the client does not read, nothing is fetched for it, and nothing is lost,
//! for history is in the log. So a slow client holds what the connection has buffered and one chunk; that chunk is a ring's,
//! shared, or has room in the node's budget for reads.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use forebay_log::model::Offset;
use futures::stream;
use rand::Rng;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::cursor::Cursor;
use crate::fetch::filter::Filter;
use crate::fetch::position::{Slot, TopicPosition};
use crate::fetch::ring::{ChunkSink, Entry, Following, Ring};
use crate::fetch::{PageLimit, ReadError, Reader, high_watermarks};
use crate::http::App;
use crate::http::admission::Pass;
use crate::http::problem::Problem;
use crate::http::read::args::{Format, ReadArgs};
use crate::http::read::page::EventSink;
use crate::http::wire::sse;
use crate::limits;

/// Answers with Server-Sent Events.
pub(super) fn events(app: App, args: ReadArgs, place: Pass) -> Response {
    let mut response = body(Events::new(app, args, place)).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform"));
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}

fn body(events: Events) -> Body {
    Body::from_stream(stream::unfold(events, |mut events| async move {
        let chunk = events.next().await?;
        Some((Ok::<_, std::convert::Infallible>(chunk), events))
    }))
}

/// Where the next chunk comes from.
#[derive(Debug)]
enum Source {
    /// The log, up to the high watermark.
    Log,
    /// The log, up to where the ring is entered; then the ring.
    Entering { ring: Arc<Ring>, next: u64 },
    /// The ring.
    Ring { ring: Arc<Ring>, next: u64, news: watch::Receiver<()> },
}

/// One stream of events.
#[derive(Debug)]
struct Events {
    app: App,
    args: ReadArgs,
    sink: EventSink,
    source: Source,
    stopping: watch::Receiver<bool>,
    ready: VecDeque<Bytes>,
    over: bool,
    /// The client was told that it has caught up.
    caught_up: bool,
    /// The position moved since the client last heard of it: a filter dropped records.
    moved: bool,
    /// When it may be told of that again.
    progress_due: Instant,
    /// How many records the client still wants, if it said.
    left: Option<usize>,
    /// When silence is to be broken.
    beat: Instant,
    /// When the client was given its last chunk.
    given: Instant,
    _place: Pass,
}

impl Events {
    fn new(app: App, args: ReadArgs, place: Pass) -> Self {
        let sink = EventSink::new(&args.reader.positions, args.format, args.named);
        let mut events = Self {
            stopping: app.stopping(),
            left: args.limited.then_some(args.limit.records),
            app,
            args,
            sink,
            source: Source::Log,
            ready: VecDeque::new(),
            over: false,
            caught_up: false,
            moved: false,
            progress_due: Instant::now(),
            beat: Instant::now() + limits::HEARTBEAT,
            given: Instant::now(),
            _place: place,
        };
        events.open();
        events
    }

    /// Returns the next frames; none ends the body.
    async fn next(&mut self) -> Option<Bytes> {
        if self.given.elapsed() > limits::CHUNK_WAIT_MAX && !self.over {
            self.bye();
        }
        loop {
            if let Some(chunk) = self.ready.pop_front() {
                self.given = Instant::now();
                self.beat = self.given + limits::HEARTBEAT;
                return Some(chunk);
            }
            if self.over {
                return None;
            }
            if *self.stopping.borrow() {
                self.bye();
            } else if let Err(error) = self.step().await {
                self.fail(error);
            }
        }
    }

    /// Does what can be done now: encodes the next chunk, or waits for news.
    async fn step(&mut self) -> Result<(), ReadError> {
        match &mut self.source {
            Source::Ring { ring, next, news } => {
                news.mark_unchanged();
                match ring.following(*next) {
                    Following::Chunk(chunk) => {
                        *next += 1;
                        self.stand_at(&chunk.end);
                        self.ready.push_back(chunk.bytes);
                    }
                    Following::Left => self.source = Source::Log,
                    Following::Nothing => self.wait().await,
                }
                Ok(())
            }
            Source::Log | Source::Entering { .. } => self.step_in_log().await,
        }
    }

    async fn step_in_log(&mut self) -> Result<(), ReadError> {
        let records = self.left.unwrap_or(limits::PAGE_RECORDS_MAX).min(limits::PAGE_RECORDS_MAX);
        let grant = self.app.reads.grant(limits::REPLAY_BYTES);
        let limit = PageLimit { records, bytes: grant.bytes() };
        let end = self.args.reader.page(limit, &mut self.sink).await?;
        if end.records > 0 {
            self.ready.push_back(grant.hold(self.sink.take(&self.args.reader.positions)));
            self.left = self.left.map(|left| left.saturating_sub(end.records));
            self.moved = false;
        } else {
            self.moved |= end.moved;
        }
        if self.left == Some(0) || (self.args.bounded && self.args.reader.is_done()) {
            self.end();
        } else if !end.caught_up {
            // A long way without a record that passes the filter is no silence.
            if self.moved && Instant::now() >= self.beat {
                self.progress(false);
            }
        } else if let Source::Entering { ring, next } = &self.source {
            let (ring, next) = (Arc::clone(ring), *next);
            self.clear_until();
            self.source = Source::Ring { news: ring.news(), ring, next };
        } else {
            self.at_tail().await;
        }
        Ok(())
    }

    /// There is nothing to read now: tells the client, then goes over to the ring or waits.
    async fn at_tail(&mut self) {
        if self.args.reader.is_ahead() {
            // The ring is behind, and may be for long.
            return self.wait().await;
        }
        if !std::mem::replace(&mut self.caught_up, true) {
            return self.progress(true);
        }
        if self.moved && Instant::now() >= self.progress_due {
            return self.progress(true);
        }
        if self.may_share() { self.enter_ring().await } else { self.wait().await }
    }

    /// Tells whether the stream wants exactly what everybody at the tail of the topic gets.
    fn may_share(&self) -> bool {
        let whole = matches!(self.args.reader.positions.as_slice(), [only] if only.whole);
        whole && !self.args.filtered && self.left.is_none() && !self.args.bounded
    }

    async fn enter_ring(&mut self) {
        let Some(position) = self.args.reader.positions.first() else { return };
        let format = match (self.args.format, self.args.named) {
            (Format::Record, false) => "record",
            (Format::Value, false) => "value",
            (Format::CloudEvents, false) => "cloudevents",
            (Format::Record, true) => "record, named",
            (Format::Value, true) => "value, named",
            (Format::CloudEvents, true) => "cloudevents, named",
        };
        let sink = EventSink::new(&self.args.reader.positions, self.args.format, self.args.named);
        let begin = || {
            let (shards, topics) = (Arc::clone(&self.app.shards), Arc::clone(&self.app.topics));
            let at_tail = at_high_watermarks(&self.app, position);
            Reader::new(shards, topics, vec![at_tail], Filter::default())
        };
        let ring = self.app.rings.join(position.topic.id, format, begin, sink);
        let mut news = ring.news();
        match ring.entry(&position.slots) {
            Entry::Behind { end, next } => {
                self.read_until(&end);
                self.source = Source::Entering { ring, next };
            }
            // The log says why.
            Entry::Closed => {}
            Entry::Ahead => {
                // The ring has yet to read what this stream has read: it is a moment behind. Out of time or not, the
                // next step looks again.
                let _ = tokio::time::timeout(limits::PARTITIONS_REFRESH, news.changed()).await;
            }
        }
    }

    /// Bounds the log reader to where the ring is entered; partitions that are new to it begin at their start.
    fn read_until(&mut self, end: &[Offset]) {
        self.args.reader.extend(0, end.len());
        if let Some(position) = self.args.reader.positions.first_mut() {
            for (slot, end) in position.slots.iter_mut().zip(end) {
                slot.until = Some(*end);
            }
        }
    }

    fn clear_until(&mut self) {
        for slot in self.args.reader.positions.iter_mut().flat_map(|position| &mut position.slots) {
            slot.until = None;
        }
    }

    fn stand_at(&mut self, end: &[Offset]) {
        if let Some(position) = self.args.reader.positions.first_mut() {
            position.extend(end.len());
            for (slot, end) in position.slots.iter_mut().zip(end) {
                slot.next = *end;
            }
        }
    }

    /// Waits for news, for the stop of the node, or until silence is to be broken.
    async fn wait(&mut self) {
        let stopping = self.stopping.wait_for(|stopping| *stopping);
        match &mut self.source {
            Source::Ring { news, .. } => {
                tokio::select! {
                    _ = news.changed() => return,
                    _ = stopping => return,
                    () = tokio::time::sleep_until(self.beat) => {}
                }
            }
            Source::Log | Source::Entering { .. } => {
                let mut deadline = self.beat.min(Instant::now() + limits::PARTITIONS_REFRESH);
                if self.moved {
                    deadline = deadline.min(self.progress_due);
                }
                tokio::select! {
                    news = self.args.reader.wait(deadline) => if news { return },
                    _ = stopping => return,
                }
            }
        }
        if Instant::now() >= self.beat {
            let mut out = BytesMut::new();
            sse::heartbeat(&mut out);
            self.ready.push_back(out.freeze());
        }
    }

    fn open(&mut self) {
        let mut topics = serde_json::Map::new();
        for position in &self.args.reader.positions {
            let at = |next: &dyn Fn(&Slot) -> Offset| {
                let slots = position
                    .slots
                    .iter()
                    .map(|slot| Slot { next: next(slot), until: None, ..*slot })
                    .collect();
                Cursor::single(TopicPosition { slots, ..position.clone() }.cursor()).to_string()
            };
            let view =
                |slot: &Slot| self.app.shards.log(&position.topic, slot.partition).map(|log| log.view());
            let earliest = at(&|slot| view(slot).map_or(Offset::ZERO, |view| view.log_start));
            let latest = at(&|slot| view(slot).map_or(Offset::ZERO, |view| view.high_watermark));
            topics.insert(position.name.to_string(), json!({ "earliest": earliest, "latest": latest }));
        }
        let resumed = self.args.resumed && self.args.resets.is_empty();
        let data = json!({ "topics": topics, "resumed": resumed }).to_string();
        let mut out = BytesMut::new();
        let cursor = self.args.cursor();
        sse::open(&mut out, limits::SSE_RETRY, sse::Id::Cursor(&cursor), data.as_bytes());
        for problem in self.args.resets.drain(..) {
            sse::reset(&mut out, &cursor, &problem.to_json());
        }
        self.ready.push_back(out.freeze());
    }

    fn progress(&mut self, caught_up: bool) {
        let mut out = BytesMut::new();
        sse::cursor(&mut out, &self.args.cursor(), caught_up);
        self.ready.push_back(out.freeze());
        self.moved = false;
        self.progress_due = Instant::now() + limits::PROGRESS_INTERVAL;
    }

    fn end(&mut self) {
        let mut out = BytesMut::new();
        sse::end(&mut out, &self.args.cursor());
        self.ready.push_back(out.freeze());
        self.over = true;
    }

    fn bye(&mut self) {
        let mut out = BytesMut::new();
        sse::bye(&mut out, jitter(&self.app), sse::Id::Cursor(&self.args.cursor()));
        self.ready.push_back(out.freeze());
        self.over = true;
    }

    /// Tells the client what went wrong. Where its place is gone the stream goes on from what is there, if the client
    /// lets it.
    fn fail(&mut self, error: ReadError) {
        let gap = error.is_gap();
        let gone = gap || matches!(error, ReadError::TopicGone { .. });
        let problem = Problem::from(error);
        let mut out = self.sink_rest();
        if matches!(std::mem::replace(&mut self.source, Source::Log), Source::Entering { .. }) {
            self.clear_until();
        }
        if gap && self.args.reset_on_gap && self.args.reader.close_gap() {
            sse::reset(&mut out, &self.args.cursor(), &problem.to_json());
            self.caught_up = false;
        } else {
            let retry = (!gone).then(|| jitter(&self.app));
            sse::problem(&mut out, retry, sse::Id::Cursor(&self.args.cursor()), &problem);
            self.over = true;
        }
        self.ready.push_back(out.freeze());
    }

    /// Takes records that were encoded before the read failed.
    fn sink_rest(&mut self) -> BytesMut {
        BytesMut::from(&self.sink.take(&self.args.reader.positions)[..])
    }
}

/// Spreads reconnects of many clients over some seconds.
pub(super) fn jitter(app: &App) -> Duration {
    let base = u64::try_from(limits::SSE_RETRY.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(app.rng.lock().random_range(base / 3..=base * 2))
}

fn at_high_watermarks(app: &App, position: &TopicPosition) -> TopicPosition {
    let ends = high_watermarks(&app.shards, position);
    let slots =
        position.slots.iter().zip(ends).map(|(slot, next)| Slot { next, until: None, ..*slot }).collect();
    TopicPosition { slots, ..position.clone() }
}

/// Answers a request for events that would get 429 or 503: a native `EventSource` stops for ever on any other status
/// than 200, and comes back after `retry`.
pub(super) fn problem_as_events(problem: &[u8], last_id: Option<&str>, retry: Duration) -> Response {
    let mut out = BytesMut::new();
    let id = last_id.map_or(sse::Id::Keep, sse::Id::Sent);
    sse::event(&mut out, "problem", Some(retry), id, problem);
    let mut response = out.freeze().into_response();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform"));
    response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}
