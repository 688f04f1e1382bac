//! A bare HTTP/1.1 connection: requests may be sent without waiting for answers, in pieces, and cut anywhere.

use std::io;

use bytes::{Buf as _, BytesMut};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

/// The bytes of a POST, with its length announced.
pub fn post(path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut bytes = head(path, headers, &format!("content-length: {}", body.len()));
    bytes.extend_from_slice(body);
    bytes
}

/// The bytes of a POST of unknown length, in chunks of this size.
pub fn post_chunked(path: &str, headers: &[(&str, &str)], body: &[u8], size: usize) -> Vec<u8> {
    let mut bytes = head(path, headers, "transfer-encoding: chunked");
    for chunk in body.chunks(size) {
        bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        bytes.extend_from_slice(chunk);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"0\r\n\r\n");
    bytes
}

fn head(path: &str, headers: &[(&str, &str)], framing: &str) -> Vec<u8> {
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!("POST {path} HTTP/1.1\r\nhost: test\r\n{headers}{framing}\r\n\r\n").into_bytes()
}

/// Opens a connection, as what sends and what receives.
///
/// # Errors
/// Nobody listens.
pub async fn connect(address: &str) -> io::Result<(OwnedWriteHalf, RawAnswers)> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (receive, send) = stream.into_split();
    Ok((send, RawAnswers { receive, read: BytesMut::new() }))
}

/// Sends bytes, and forgets the connection without saying goodbye to it in HTTP.
pub async fn send_and_cut(address: &str, bytes: &[u8]) {
    if let Ok((mut send, _receive)) = connect(address).await {
        // A server that is gone cuts it too.
        let _ = send.write_all(bytes).await;
    }
}

/// An answer with its status, its header lines in lower case, and its document.
#[derive(Debug)]
pub struct RawAnswer {
    /// The status code.
    pub status: u16,
    /// Status line and header lines, in lower case.
    pub head: String,
    /// The body, null if it is no JSON.
    pub body: Value,
}

/// The answers of a connection, in the order of its requests.
#[derive(Debug)]
pub struct RawAnswers {
    receive: OwnedReadHalf,
    read: BytesMut,
}

impl RawAnswers {
    /// Reads the next answer, which has to announce its length.
    ///
    /// # Errors
    /// The connection ends before the answer does.
    pub async fn next(&mut self) -> io::Result<RawAnswer> {
        loop {
            if let Some((answer, len)) = parse(&self.read) {
                self.read.advance(len);
                return Ok(answer);
            }
            if self.receive.read_buf(&mut self.read).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

/// The answer that the bytes begin with, and its length, if it is whole.
fn parse(bytes: &[u8]) -> Option<(RawAnswer, usize)> {
    let head_len = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&bytes[..head_len]).to_ascii_lowercase();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    let length: usize = length.and_then(|length| length.trim().parse().ok()).expect("a length is announced");
    let body = bytes.get(head_len..head_len + length)?;
    let body = serde_json::from_slice(body).unwrap_or_default();
    Some((RawAnswer { status: status.expect("a status line"), head, body }, head_len + length))
}
