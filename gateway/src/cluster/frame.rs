//! What runs over a stream between nodes: frames, each behind its length (4 bytes).

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use forebay_log::error::FormatError;
use http_body::{Body, Frame};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::error::PeerError;
use crate::limits;

/// How errors name a frame.
pub(super) const FRAME: &str = "frame between nodes";
/// Bytes of the length before a frame.
const LENGTH: usize = 4;

/// Collects frames for one write.
#[derive(Debug, Default)]
pub(super) struct FrameBuffer {
    written: Vec<Bytes>,
    open: BytesMut,
    len: usize,
}

impl FrameBuffer {
    /// Adds a frame that consists of parts. Small ones are copied together, large ones are taken as they are.
    ///
    /// # Panics
    /// Above 4 GiB: frames are capped far below.
    pub(super) fn push(&mut self, parts: &[Bytes]) {
        let len: usize = parts.iter().map(Bytes::len).sum();
        let len_field = u32::try_from(len).expect("frames are capped far below 2^32 bytes");
        self.open.extend_from_slice(&len_field.to_be_bytes());
        for part in parts {
            if part.len() < limits::PIECE_BYTES_MIN {
                self.open.extend_from_slice(part);
            } else {
                self.close();
                self.written.push(part.clone());
            }
        }
        self.len += LENGTH + len;
    }

    fn close(&mut self) {
        if !self.open.is_empty() {
            self.written.push(self.open.split().freeze());
        }
    }

    /// Returns the bytes collected since the last [`Self::take`].
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Returns what was collected, in order.
    pub(super) fn take(&mut self) -> Vec<Bytes> {
        self.close();
        self.len = 0;
        std::mem::take(&mut self.written)
    }
}

/// Reads frames from a body.
#[derive(Debug)]
pub(super) struct FrameReader {
    body: Incoming,
    read: BytesMut,
}

impl FrameReader {
    pub(super) fn new(body: Incoming) -> Self {
        Self { body, read: BytesMut::new() }
    }

    /// Returns the next frame; none at the end of the body. Memory grows with what has arrived, not with what a length
    /// announces.
    ///
    /// # Errors
    /// [`PeerError`]: the connection broke, or a frame is cut off or too large.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, PeerError> {
        self.next_within(None).await
    }

    /// As [`Self::next`], with a bound on each pause within a frame and between frames: a large one may take its time.
    ///
    /// # Errors
    /// As [`Self::next`]; [`PeerError::Silent`] after a pause.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(super) async fn next_within(&mut self, pause: Option<Duration>) -> Result<Option<Bytes>, PeerError> {
        loop {
            if let Some(frame) = self.take()? {
                return Ok(Some(frame));
            }
            let chunk = match pause {
                Some(pause) => timeout(pause, self.body.frame()).await.map_err(|_| PeerError::Silent)?,
                None => self.body.frame().await,
            };
            match chunk {
                Some(chunk) => {
                    if let Ok(data) = chunk?.into_data() {
                        self.read.extend_from_slice(&data);
                    }
                }
                None if self.read.is_empty() => return Ok(None),
                None => return Err(FormatError::Truncated { what: FRAME }.into()),
            }
        }
    }

    fn take(&mut self) -> Result<Option<Bytes>, FormatError> {
        let Some(length) = self.read.first_chunk::<LENGTH>() else { return Ok(None) };
        let size = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        if size > limits::PEER_FRAME_BYTES_MAX {
            return Err(FormatError::TooLarge { what: FRAME, size, limit: limits::PEER_FRAME_BYTES_MAX });
        }
        if self.read.len() < LENGTH + size {
            return Ok(None);
        }
        self.read.advance(LENGTH);
        Ok(Some(self.read.split_to(size).freeze()))
    }
}

/// The body of a request or an answer between nodes.
#[derive(Debug)]
pub(super) enum PeerBody {
    /// At once.
    Whole(Option<Bytes>),
    /// As chunks come.
    Stream(mpsc::Receiver<Bytes>),
}

impl PeerBody {
    pub(super) fn empty() -> Self {
        Self::Whole(None)
    }
}

impl Body for PeerBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        ctx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let chunk = match self.get_mut() {
            Self::Whole(chunk) => chunk.take(),
            Self::Stream(chunks) => ready!(chunks.poll_recv(ctx)),
        };
        Poll::Ready(chunk.map(|chunk| Ok(Frame::data(chunk))))
    }
}
