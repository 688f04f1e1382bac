//! A reader with a small receive buffer and a pace of its own.

use std::time::Duration;

use harness::{Server, in_time};
use memchr::memchr;
use memchr::memmem::find;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;

const RECEIVE_BUFFER_BYTES: u32 = 16 * 1024;
/// How much a slow reader takes at once, and its pause after that: about 4 KB/s.
const SIP_BYTES: usize = 400;
const SIP_PAUSE: Duration = Duration::from_millis(100);
const GULP_BYTES: usize = 64 * 1024;

/// How a reader reads, until all are told to hurry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    Fast,
    Slow,
    Stalled,
}

/// A request for records, sent.
pub(crate) struct Reader {
    stream: TcpStream,
}

impl Reader {
    /// Sends the request and waits for the first byte of the answer.
    pub(crate) async fn open(server: &Server, path: &str, accept: &str) -> Self {
        let address =
            server.url().strip_prefix("http://").and_then(|it| it.parse().ok()).expect("an address");
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES).expect("a buffer size");
        let mut stream = in_time("a connection", socket.connect(address)).await.expect("the server accepts");
        // On HTTP/1.0 the body is not cut into chunks: what comes are the records themselves.
        let request = format!("GET {path} HTTP/1.0\r\naccept: {accept}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("the server reads");
        in_time("an answer", stream.readable()).await.expect("the server answers");
        Self { stream }
    }

    /// Reads so many records, and checks that each has the offset behind the one before.
    pub(crate) async fn read(mut self, count: usize, manner: Manner, mut hurried: watch::Receiver<bool>) {
        let (mut buffer, mut unread, mut next) = (vec![0; GULP_BYTES], Vec::new(), 0);
        while next < count {
            let hurries = manner == Manner::Fast || *hurried.borrow();
            if !hurries {
                self.pause(manner, &mut hurried).await;
            }
            let most = if hurries { GULP_BYTES } else { SIP_BYTES };
            let taken = if hurries {
                in_time("more of a stream", self.stream.read(&mut buffer[..most])).await
            } else {
                tokio::select! {
                    taken = self.stream.read(&mut buffer[..most]) => taken,
                    _ = hurried.changed() => continue,
                }
            };
            let taken = taken.expect("the stream goes on");
            assert!(taken > 0, "the server closed a stream after {next} of {count} records");
            unread.extend_from_slice(&buffer[..taken]);
            let mut begin = 0;
            while let Some(length) = memchr(b'\n', &unread[begin..]) {
                if let Some(offset) = offset_of(&unread[begin..begin + length]) {
                    assert_eq!(offset, next, "a record is missing or comes twice");
                    next += 1;
                }
                begin += length + 1;
            }
            unread.drain(..begin);
        }
    }

    async fn pause(&self, manner: Manner, hurried: &mut watch::Receiver<bool>) {
        let told = hurried.wait_for(|hurried| *hurried);
        if manner == Manner::Stalled {
            told.await.expect("the test goes on");
        } else {
            // Out of time it sips.
            let _ = tokio::time::timeout(SIP_PAUSE, told).await;
        }
    }
}

/// The offset of the record on a line, if there is one on it.
fn offset_of(line: &[u8]) -> Option<usize> {
    const NAME: &[u8] = b"\"offset\":";
    let digits = &line[find(line, NAME)? + NAME.len()..];
    let digits = digits.split(|byte| !byte.is_ascii_digit()).next()?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}
