//! A request's body, within the node's budget for bodies.
//!
//! A body has a small share for nothing; past it, it takes room for all that it may hold until its next unit, at once,
//! and waits for it in turn. So a body never waits with half a unit in hand, and a slow one that holds room gives it up
//! when others need it.

use std::io;
use std::time::Duration;

use async_compression::tokio::bufread::{GzipDecoder, ZstdDecoder};
use async_compression::zstd::DParameter;
use axum::body::Body;
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_ENCODING, EXPECT};
use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt, TryStreamExt};
use memchr::memchr_iter;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::io::{ReaderStream, StreamReader};

use crate::budget::Budget;
use crate::http::extract::{body_too_large, stuck_body, unreadable_body};
use crate::http::problem::{Code, Problem};
use crate::http::wire::ndjson::{Line, LineSplitter};
use crate::limits;

/// How many times its size a body of short lines may take in memory.
const LINES_TO_MEMORY: usize = 3;
/// What a gzip decoder looks back at.
const GZIP_WINDOW_BYTES: usize = 32 * 1024;

type Pieces = std::pin::Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// Reads a body whole, or line by line. Each piece counts until the request ends or the lines made of it were
/// [released](Self::release).
pub(super) struct Lines {
    pieces: Pieces,
    splitter: LineSplitter,
    room: Room,
    /// A piece that has no room yet.
    waiting: Option<Bytes>,
    /// Lines were handed out since the last release: they hold on to the pieces they were cut from.
    lent: bool,
    ended: bool,
    /// The client waits to be asked for the body, and was not.
    unasked: bool,
    /// How long the client said the body is.
    announced: Option<usize>,
    /// When the whole body has to be there, if it is not applied as it arrives.
    deadline: Option<Instant>,
}

/// What a body holds of the budget.
#[derive(Debug)]
struct Room {
    budget: Budget,
    /// Bytes in memory, lines counted with what they take besides.
    held: usize,
    /// The most that the decoder keeps of what it has decoded.
    window: usize,
    /// Bytes decoded so far.
    received: usize,
    began: Instant,
    permit: Option<OwnedSemaphorePermit>,
}

impl Room {
    fn wanted(&self) -> usize {
        let decoder = match self.window {
            0 => 0,
            window => limits::DECODER_BYTES + window.min(self.received),
        };
        (self.held + decoder).saturating_sub(self.budget.free())
    }

    /// Takes room for what is held; where it has too little, for `ahead` bytes.
    async fn settle(&mut self, ahead: usize) -> Result<(), Problem> {
        let (wanted, has) =
            (self.wanted(), self.permit.as_ref().map_or(0, OwnedSemaphorePermit::num_permits));
        if wanted <= has {
            return Ok(());
        }
        let more = self.budget.take(wanted.max(ahead) - has, limits::BODY_ROOM_WAIT_MAX).await;
        let more =
            more.ok_or_else(|| Problem::new(Code::Overloaded, "the node holds as many bodies as it may"))?;
        match &mut self.permit {
            Some(permit) => permit.merge(more),
            None => self.permit = Some(more),
        }
        Ok(())
    }

    /// Goes on with `held` bytes, and gives back what they do not need.
    fn keep(&mut self, held: usize) {
        self.held = held;
        let wanted = self.wanted();
        if let Some(permit) = &mut self.permit {
            drop(permit.split(permit.num_permits().saturating_sub(wanted)));
        }
        if wanted == 0 {
            self.permit = None;
        }
    }

    /// Returns once somebody else needs the room, and this body is too slow to keep it.
    async fn lost(&self) {
        let pace = Duration::from_secs((self.received / limits::BODY_PACE_MIN) as u64);
        sleep_until(self.began + limits::BODY_PACE_GRACE + pace).await;
        self.budget.pressed().await;
    }
}

impl std::fmt::Debug for Lines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lines").field("ended", &self.ended).finish_non_exhaustive()
    }
}

impl Lines {
    /// Reads a body as it was sent.
    pub(super) fn new(body: Body, budget: Budget, headers: &HeaderMap) -> Self {
        let announced = http_body::Body::size_hint(&body).exact();
        let began = Instant::now();
        Self {
            announced: announced.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX)),
            pieces: Box::pin(body.into_data_stream().map_err(io::Error::other)),
            splitter: LineSplitter::new(limits::LINE_BYTES_MAX),
            room: Room { budget, held: 0, window: 0, received: 0, began, permit: None },
            waiting: None,
            lent: false,
            ended: false,
            unasked: headers.contains_key(EXPECT),
            deadline: None,
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
                self.room.window = GZIP_WINDOW_BYTES;
            }
            b"zstd" => {
                let window = [DParameter::window_log_max(limits::ZSTD_WINDOW_LOG_MAX)];
                let mut decoder = ZstdDecoder::with_params(StreamReader::new(raw), &window);
                decoder.multiple_members(true);
                self.pieces = Box::pin(ReaderStream::with_capacity(decoder, limits::CHUNK_BYTES));
                self.room.window = 1 << limits::ZSTD_WINDOW_LOG_MAX;
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
        self.announced.is_none()
    }

    /// Reads the whole body.
    pub(super) async fn whole(&mut self, limit: usize) -> Result<Bytes, Problem> {
        self.deadline = Some(self.room.began + limits::WHOLE_BODY_WAIT_MAX);
        let ahead = self.announced.map_or(limit, |announced| announced.min(limit));
        let Some(first) = self.piece(ahead).await? else { return Ok(Bytes::new()) };
        if first.len() > limit {
            return Err(body_too_large(limit));
        }
        let Some(second) = self.piece(ahead).await? else { return Ok(first) };
        let mut whole = BytesMut::from(&first[..]);
        let mut next = Some(second);
        while let Some(piece) = next {
            if whole.len() + piece.len() > limit {
                return Err(body_too_large(limit));
            }
            whole.extend_from_slice(&piece);
            next = self.piece(ahead).await?;
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
            let ahead = self.announced.map_or(limits::BODY_UNIT_BYTES, |announced| {
                announced.saturating_mul(LINES_TO_MEMORY).min(limits::BODY_UNIT_BYTES)
            });
            match self.piece(ahead).await? {
                Some(piece) => self.splitter.push(piece),
                None => self.ended = true,
            }
        }
    }

    /// Gives back the room of the lines handed out so far: they are gone, or somebody else counts them.
    pub(super) fn release(&mut self) {
        self.lent = false;
        let kept = self.splitter.buffered().into_iter().map(memory_of).sum();
        self.room.keep(kept);
    }

    /// Returns the next piece once there is room for it; `ahead` is how much the body may come to hold.
    ///
    /// # Cancel safety
    /// Dropped before it is ready, it has lost nothing.
    async fn piece(&mut self, ahead: usize) -> Result<Option<Bytes>, Problem> {
        if self.waiting.is_none() {
            self.unasked = false;
            let Some(piece) = self.receive().await? else {
                self.room.window = 0;
                return Ok(None);
            };
            self.room.received += piece.len();
            self.room.held += memory_of(&piece);
            self.waiting = Some(own(piece));
        }
        self.room.settle(ahead).await?;
        Ok(self.waiting.take())
    }

    async fn receive(&mut self) -> Result<Option<Bytes>, Problem> {
        let patience = if self.is_endless() { limits::ENDLESS_IDLE_MAX } else { limits::BODY_IDLE_MAX };
        let idle = Instant::now() + patience;
        let idle = self.deadline.map_or(idle, |deadline| deadline.min(idle));
        tokio::select! {
            biased;
            piece = timeout_at(idle, self.pieces.next()) => {
                piece.map_err(|_| stuck_body())?.transpose().map_err(|_| unreadable_body())
            }
            () = self.room.lost(), if self.room.permit.is_some() => {
                let detail = "the node needs the memory that this body holds, and it arrives too slowly";
                Err(Problem::new(Code::Overloaded, detail))
            }
        }
    }
}

/// Returns the bytes that a piece of a body takes in memory, about, once it is cut into lines.
fn memory_of(piece: &[u8]) -> usize {
    piece.len() + memchr_iter(b'\n', piece).count() * limits::LINE_OVERHEAD_BYTES
}

/// Parts a small piece from the buffer that it was read into, which may be many times as large.
fn own(piece: Bytes) -> Bytes {
    if piece.len() < limits::PIECE_BYTES_MIN { Bytes::copy_from_slice(&piece) } else { piece }
}

#[cfg(test)]
mod tests;
