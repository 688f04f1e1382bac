//! NDJSON without end.

use std::io;

use axum::body::Body;
use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::stream;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::fetch::{PageLimit, ReadError};
use crate::http::App;
use crate::http::admission::Pass;
use crate::http::extract::Representation;
use crate::http::read::args::ReadArgs;
use crate::http::read::page::PageSink;
use crate::limits;

/// Answers with lines without end, as the client takes them.
pub(super) fn lines(app: App, args: ReadArgs, place: Pass) -> Response {
    let sink = PageSink::new(&args.reader.positions, Representation::Ndjson, args.format);
    let lines = Lines { stopping: app.stopping(), app, args, sink, state: State::Open, _place: place };
    let chunks = stream::unfold(lines, |mut lines| async move {
        let chunk = lines.next().await?;
        Some((chunk, lines))
    });
    let mut response = Body::from_stream(chunks).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(Representation::Ndjson.media_type()));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform"));
    response
}

#[derive(Debug)]
enum State {
    Open,
    /// The body ends as it should.
    Over,
    /// The body is cut off: lines have no room for a problem, and an end would say that there is no more.
    Failed,
}

#[derive(Debug)]
struct Lines {
    app: App,
    args: ReadArgs,
    sink: PageSink,
    stopping: watch::Receiver<bool>,
    state: State,
    _place: Pass,
}

impl Lines {
    /// Returns the next lines; none ends the body, an error cuts it off.
    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        loop {
            match self.state {
                State::Open if *self.stopping.borrow() => return None,
                State::Open => {}
                State::Over => return None,
                State::Failed => {
                    self.state = State::Over;
                    return Some(Err(io::Error::other("the read failed")));
                }
            }
            let grant = self.app.reads.grant(limits::REPLAY_BYTES);
            let caught_up = match self.step(grant.bytes()).await {
                Ok(caught_up) => caught_up,
                Err(error) => {
                    let goes_on = error.is_gap() && self.args.reset_on_gap && self.args.reader.close_gap();
                    if !goes_on {
                        tracing::debug!(error = %error, "a followed read ended");
                        self.state = State::Failed;
                    }
                    false
                }
            };
            // What was read before an error is the client's all the same.
            let lines = self.sink.take_lines();
            if !lines.is_empty() {
                return Some(Ok(grant.hold(lines)));
            }
            drop(grant);
            if caught_up && matches!(self.state, State::Open) {
                let deadline = Instant::now() + limits::PARTITIONS_REFRESH;
                tokio::select! {
                    _ = self.args.reader.wait(deadline) => {}
                    _ = self.stopping.wait_for(|stopping| *stopping) => {}
                }
            }
        }
    }

    /// Encodes the next lines; tells whether there are no more now.
    async fn step(&mut self, bytes: usize) -> Result<bool, ReadError> {
        let left = &mut self.args.limit.records;
        let records = if self.args.limited { *left } else { limits::PAGE_RECORDS_MAX };
        let limit = PageLimit { records, bytes };
        let end = self.args.reader.page(limit, &mut self.sink).await?;
        *left = left.saturating_sub(end.records);
        if self.args.reader.is_done() || (self.args.limited && *left == 0) {
            self.state = State::Over;
        }
        Ok(end.caught_up)
    }
}
