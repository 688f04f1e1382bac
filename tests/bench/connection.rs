//! HTTP/1.1 with as little work as possible, so that the client takes little of the machine it shares with the
//! server: requests are bytes made beforehand, answers are scanned for their length only.

use anyhow::{Context as _, bail, ensure};
use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Bytes of the head of an answer.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Bytes read at once.
const READ_BYTES: usize = 256 * 1024;

/// The bytes of a request.
pub(crate) fn request(method: &str, path: &str, headers: &str, body: &[u8]) -> Bytes {
    let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    let head = format!("{method} {path} HTTP/1.1\r\nHost: bench\r\n{headers}{length}\r\n");
    Bytes::from([head.as_bytes(), body].concat())
}

/// How the end of a body is known.
enum Body {
    Sized(usize),
    Chunked,
}

/// One keep-alive connection.
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: BytesMut,
}

impl Connection {
    pub(crate) async fn open(address: &str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: BytesMut::with_capacity(READ_BYTES) })
    }

    /// Sends a request and answers the body of a successful answer.
    pub(crate) async fn call(&mut self, request: &[u8]) -> anyhow::Result<Bytes> {
        match self.send(request).await? {
            Body::Sized(length) => {
                while self.buffer.len() < length {
                    self.fill().await?;
                }
                Ok(self.buffer.split_to(length).freeze())
            }
            Body::Chunked => {
                let mut body = BytesMut::new();
                while let Some(chunk) = self.next_chunk().await? {
                    body.extend_from_slice(&chunk);
                }
                Ok(body.freeze())
            }
        }
    }

    /// Sends a request whose answer is a stream, to be taken by [`Self::next_chunk`].
    pub(crate) async fn open_stream(&mut self, request: &[u8]) -> anyhow::Result<()> {
        match self.send(request).await? {
            Body::Chunked => Ok(()),
            Body::Sized(length) => bail!("not a stream but {length} bytes"),
        }
    }

    /// The next chunk of a stream, none at its end.
    pub(crate) async fn next_chunk(&mut self) -> anyhow::Result<Option<Bytes>> {
        let line = self.line().await?;
        let length = usize::from_str_radix(std::str::from_utf8(&line)?, 16).context("a chunk's length")?;
        while self.buffer.len() < length + 2 {
            self.fill().await?;
        }
        let chunk = self.buffer.split_to(length).freeze();
        self.buffer.advance(2);
        Ok((length > 0).then_some(chunk))
    }

    async fn send(&mut self, request: &[u8]) -> anyhow::Result<Body> {
        self.stream.write_all(request).await?;
        let status = self.line().await?;
        let mut body = Body::Sized(0);
        loop {
            let line = self.line().await?.to_ascii_lowercase();
            let line = std::str::from_utf8(&line)?;
            if line.is_empty() {
                break;
            }
            match line.split_once(':') {
                Some(("content-length", value)) => body = Body::Sized(value.trim().parse()?),
                Some(("transfer-encoding", _)) => body = Body::Chunked,
                _ => {}
            }
        }
        ensure!(status.starts_with(b"HTTP/1.1 2"), "{}", String::from_utf8_lossy(&status));
        Ok(body)
    }

    /// The next line without its end.
    async fn line(&mut self) -> anyhow::Result<Bytes> {
        loop {
            if let Some(end) = memchr::memchr(b'\n', &self.buffer) {
                let line = self.buffer.split_to(end).freeze();
                self.buffer.advance(1);
                return Ok(line.strip_suffix(b"\r").map_or(line.clone(), |bare| line.slice_ref(bare)));
            }
            ensure!(self.buffer.len() < HEAD_BYTES_MAX, "a line without end");
            self.fill().await?;
        }
    }

    async fn fill(&mut self) -> anyhow::Result<()> {
        self.buffer.reserve(READ_BYTES);
        ensure!(self.stream.read_buf(&mut self.buffer).await? > 0, "the connection was closed");
        Ok(())
    }
}
