//! A request's body, within the node's budget for bodies.

use std::io;
use std::sync::Arc;

use async_compression::tokio::bufread::{GzipDecoder, ZstdDecoder};
use async_compression::zstd::DParameter;
use axum::body::Body;
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_ENCODING, EXPECT};
use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt, TryStreamExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::io::{ReaderStream, StreamReader};

use crate::http::extract::{body_too_large, unreadable_body};
use crate::http::problem::{Code, Problem};
use crate::http::wire::ndjson::{Line, LineSplitter};
use crate::limits;

type Pieces = std::pin::Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// Reads a body whole, or line by line. Each piece takes its share of the node's budget, and keeps it until the request
/// ends or the lines made of it were [released](Self::release).
pub(super) struct Lines {
    pieces: Pieces,
    splitter: LineSplitter,
    budget: Arc<Semaphore>,
    held: Option<OwnedSemaphorePermit>,
    /// Lines were handed out since the last release: they hold on to the pieces they were cut from.
    lent: bool,
    ended: bool,
    /// The client waits to be asked for the body, and was not.
    unasked: bool,
    /// The client did not say how long the body is.
    endless: bool,
}

impl std::fmt::Debug for Lines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lines").field("ended", &self.ended).finish_non_exhaustive()
    }
}

impl Lines {
    /// Reads a body as it was sent.
    pub(super) fn new(body: Body, budget: Arc<Semaphore>, headers: &HeaderMap) -> Self {
        Self {
            endless: http_body::Body::size_hint(&body).exact().is_none(),
            pieces: Box::pin(body.into_data_stream().map_err(io::Error::other)),
            splitter: LineSplitter::new(limits::LINE_BYTES_MAX),
            budget,
            held: None,
            lent: false,
            ended: false,
            unasked: headers.contains_key(EXPECT),
        }
    }

    /// Undoes the encoding that the request names. To be called before the first read.
    pub(super) fn decode(&mut self, headers: &HeaderMap) -> Result<(), Problem> {
        let Some(encoding) = headers.get(CONTENT_ENCODING) else { return Ok(()) };
        let raw = std::mem::replace(&mut self.pieces, Box::pin(futures::stream::empty()));
        match encoding.as_bytes().trim_ascii().to_ascii_lowercase().as_slice() {
            b"" | b"identity" => self.pieces = raw,
            b"gzip" | b"x-gzip" => {
                let mut decoder = GzipDecoder::new(StreamReader::new(raw));
                // Compressed files may be joined; what follows the first must not be lost.
                decoder.multiple_members(true);
                self.pieces = Box::pin(ReaderStream::with_capacity(decoder, limits::CHUNK_BYTES));
            }
            b"zstd" => {
                let window = [DParameter::window_log_max(limits::ZSTD_WINDOW_LOG_MAX)];
                let mut decoder = ZstdDecoder::with_params(StreamReader::new(raw), &window);
                decoder.multiple_members(true);
                self.pieces = Box::pin(ReaderStream::with_capacity(decoder, limits::CHUNK_BYTES));
            }
            _ => {
                self.pieces = raw;
                let detail = "Content-Encoding must be gzip or zstd";
                return Err(Problem::new(Code::UnsupportedMediaType, detail));
            }
        }
        Ok(())
    }

    /// Tells whether the client did not say how long the body is: it may go on for as long as its sender likes.
    pub(super) fn is_endless(&self) -> bool {
        self.endless
    }

    /// Reads the whole body.
    pub(super) async fn whole(&mut self, limit: usize) -> Result<Bytes, Problem> {
        let Some(first) = self.piece().await? else { return Ok(Bytes::new()) };
        if first.len() > limit {
            return Err(body_too_large(limit));
        }
        let Some(second) = self.piece().await? else { return Ok(first) };
        let mut whole = BytesMut::from(&first[..]);
        let mut next = Some(second);
        while let Some(piece) = next {
            if whole.len() + piece.len() > limit {
                return Err(body_too_large(limit));
            }
            whole.extend_from_slice(&piece);
            next = self.piece().await?;
        }
        Ok(whole.freeze())
    }

    /// Reads on after an error, within bounds: a client that is still sending would not see the answer. One that waits
    /// to be asked for the body has sent nothing.
    pub(super) async fn drain(&mut self) {
        if self.unasked {
            return;
        }
        self.release();
        let rest = async {
            let mut left = limits::DRAIN_BYTES_MAX;
            while let Some(Ok(piece)) = self.pieces.next().await {
                left = left.saturating_sub(piece.len());
                if left == 0 {
                    break;
                }
            }
        };
        // Out of time the connection is closed, whatever the client still sends.
        let _ = tokio::time::timeout(limits::DRAIN_WAIT_MAX, rest).await;
    }

    /// Returns the next line that is not blank.
    ///
    /// # Cancel safety
    /// Dropped before it is ready, it has lost nothing.
    pub(super) async fn next_line(&mut self) -> Result<Option<Line>, Problem> {
        loop {
            let found = if self.ended { self.splitter.finish() } else { self.splitter.next_line() };
            let found = found.map_err(Problem::from)?;
            if found.is_some() || self.ended {
                self.lent |= found.is_some();
                return Ok(found);
            }
            if !self.lent {
                self.release();
            }
            match self.piece().await? {
                Some(piece) => self.splitter.push(piece),
                None => self.ended = true,
            }
        }
    }

    /// Gives back the budget of the lines handed out so far: they are gone, or somebody else counts them.
    pub(super) fn release(&mut self) {
        self.lent = false;
        let kept = self.splitter.buffered_bytes();
        if let Some(held) = &mut self.held {
            drop(held.split(held.num_permits().saturating_sub(kept)));
        }
    }

    async fn piece(&mut self) -> Result<Option<Bytes>, Problem> {
        self.unasked = false;
        let idle = || Problem::new(Code::BadParameter, "body does not go on");
        let patience = if self.endless { limits::ENDLESS_IDLE_MAX } else { limits::BODY_IDLE_MAX };
        let next = tokio::time::timeout(patience, self.pieces.next()).await.map_err(|_| idle())?;
        let Some(piece) = next.transpose().map_err(|_| unreadable_body())? else { return Ok(None) };
        let size = u32::try_from(piece.len()).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.budget).try_acquire_many_owned(size);
        let room =
            room.map_err(|_| Problem::new(Code::Overloaded, "the node holds as many bodies as it may"))?;
        match &mut self.held {
            Some(held) => held.merge(room),
            None => self.held = Some(room),
        }
        Ok(Some(piece))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(pieces: Vec<&'static str>, budget: &Arc<Semaphore>, headers: &HeaderMap) -> Lines {
        let pieces = pieces.into_iter().map(|piece| Ok::<_, io::Error>(Bytes::from_static(piece.as_bytes())));
        Lines::new(Body::from_stream(futures::stream::iter(pieces)), Arc::clone(budget), headers)
    }

    #[tokio::test]
    async fn the_budget_is_held_while_lines_are_and_given_back_with_them() {
        let budget = Arc::new(Semaphore::new(10));
        let mut body = lines(vec!["a\nb", "c\nd", "\n"], &budget, &HeaderMap::new());
        assert_eq!(body.next_line().await.unwrap().unwrap().bytes, "a");
        assert_eq!(body.next_line().await.unwrap().unwrap().bytes, "bc");
        assert_eq!(budget.available_permits(), 4, "both pieces are held by lines");
        body.release();
        assert_eq!(budget.available_permits(), 9, "what was not handed out is still held");
        assert_eq!(body.next_line().await.unwrap().unwrap().bytes, "d");
        drop(body);
        assert_eq!(budget.available_permits(), 10);
    }

    #[tokio::test]
    async fn blank_lines_do_not_use_the_budget_up() {
        let budget = Arc::new(Semaphore::new(4));
        let mut body = lines(vec!["\n\n\n\n", "\r\n\r\n", "\n\nx\n"], &budget, &HeaderMap::new());
        assert_eq!(body.next_line().await.unwrap().unwrap(), Line { number: 9, bytes: "x".into() });
    }

    #[tokio::test]
    async fn past_the_budget_the_node_is_overloaded() {
        let budget = Arc::new(Semaphore::new(3));
        let problem = lines(vec!["abcd"], &budget, &HeaderMap::new()).whole(100).await.unwrap_err();
        assert_eq!((problem.code, problem.retry_after.is_some()), (Code::Overloaded, true));
        assert_eq!(budget.available_permits(), 3);
    }

    #[tokio::test]
    async fn a_body_that_was_not_asked_for_is_not_drained() {
        let budget = Arc::new(Semaphore::new(100));
        let mut headers = HeaderMap::new();
        headers.insert(EXPECT, "100-continue".parse().unwrap());
        let mut body = lines(vec!["abc"], &budget, &headers);
        body.drain().await;
        assert_eq!(body.whole(10).await.unwrap(), "abc");
        let mut body = lines(vec!["abc"], &budget, &HeaderMap::new());
        body.drain().await;
        assert_eq!(body.whole(10).await.unwrap(), "");
    }

    #[tokio::test]
    async fn joined_gzip_members_are_read_to_the_end() {
        use tokio::io::AsyncReadExt as _;
        let mut joined = Vec::new();
        for part in [&b"one\n"[..], b"two\n"] {
            let mut encoder = async_compression::tokio::bufread::GzipEncoder::new(part);
            encoder.read_to_end(&mut joined).await.unwrap();
        }
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_ENCODING, "GZip".parse().unwrap());
        let mut body = Lines::new(Body::from(joined), Arc::new(Semaphore::new(100)), &headers);
        body.decode(&headers).unwrap();
        assert_eq!(body.whole(100).await.unwrap(), "one\ntwo\n");
    }
}
