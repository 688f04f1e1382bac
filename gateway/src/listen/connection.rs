//! The bytes of one connection, with two watches that the HTTP library does not keep.
//!
//! A connection says within [`limits::OPENING_MAX`] which version of HTTP it speaks: until then no other timer runs. And
//! a peer takes something of its answer within [`limits::STALL_MAX`]: one that is gone, or never reads, would hold
//! buffers and a place for as long as the kernel retries.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use crate::limits;

/// What a client sends first on HTTP/2. HTTP/1 is known by the first byte that differs.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A stream of bytes under watch.
#[derive(Debug)]
pub(super) struct Connection<S> {
    stream: S,
    opening: Option<Opening>,
    /// Runs while the peer takes nothing of what is to be written.
    stall: Option<Pin<Box<Sleep>>>,
}

/// The time until the version of HTTP is known.
#[derive(Debug)]
struct Opening {
    deadline: Pin<Box<Sleep>>,
    seen: usize,
}

impl Opening {
    fn is_over(&mut self, bytes: &[u8]) -> bool {
        let is_preface = PREFACE[self.seen..].starts_with(bytes);
        self.seen += bytes.len();
        bytes.is_empty() || !is_preface || self.seen == PREFACE.len()
    }
}

impl<S> Connection<S> {
    pub(super) fn new(stream: S) -> Self {
        let opening = Opening { deadline: Box::pin(sleep(limits::OPENING_MAX)), seen: 0 };
        Self { stream, opening: Some(opening), stall: None }
    }

    /// Passes on what a write came to; an error once the peer has taken nothing for too long.
    fn watch<T>(&mut self, ctx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stall = None;
            return written;
        }
        let stall = self.stall.get_or_insert_with(|| Box::pin(sleep(limits::STALL_MAX)));
        ready!(stall.as_mut().poll(ctx));
        Poll::Ready(Err(timed_out("the peer takes nothing")))
    }
}

fn timed_out(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, what)
}

impl<S: AsyncRead + Unpin> AsyncRead for Connection<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        ctx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(ctx, buf);
        let Some(opening) = &mut self.opening else { return read };
        if read.is_pending() {
            ready!(opening.deadline.as_mut().poll(ctx));
            return Poll::Ready(Err(timed_out("the peer does not begin")));
        }
        if opening.is_over(&buf.filled()[before..]) {
            self.opening = None;
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Connection<S> {
    fn poll_write(mut self: Pin<&mut Self>, ctx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(ctx, buf);
        self.watch(ctx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        ctx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(ctx, bufs);
        self.watch(ctx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, ctx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(ctx);
        self.watch(ctx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, ctx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(ctx)
    }
}
