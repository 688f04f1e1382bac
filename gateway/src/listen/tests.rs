//! Connections over pipes in memory, with time that passes when everybody waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::routing::get;
use bytes::Bytes;
use futures::StreamExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::task::JoinHandle;
use tokio::time::{Duration, Instant, sleep};

use super::*;

/// Bytes that a pipe holds.
const PIPE: usize = 64 * 1024;
/// Bytes of one piece of the endless answer.
const PIECE: usize = 32 * 1024;

/// A peer of a served connection, and what serves it.
struct Peer {
    stream: DuplexStream,
    served: JoinHandle<()>,
    stop: watch::Sender<bool>,
    /// Pieces of the endless answer that were made.
    pieces: Arc<AtomicUsize>,
}

fn connect() -> Peer {
    let pieces = Arc::new(AtomicUsize::new(0));
    let made = Arc::clone(&pieces);
    let endless = move || {
        let made = Arc::clone(&made);
        async move {
            let pieces = futures::stream::repeat(Bytes::from_static(&[b'x'; PIECE]));
            Body::from_stream(pieces.map(move |piece| {
                made.fetch_add(1, Ordering::Relaxed);
                Ok::<_, Infallible>(piece)
            }))
        }
    };
    let slow = || async {
        sleep(Duration::from_secs(1000)).await;
        "at last"
    };
    let service = Router::new()
        .route("/", get(|| async { "here" }))
        .route("/slow", get(slow))
        .route("/endless", get(endless));
    let (stream, server) = duplex(PIPE);
    let (stop, stopping) = watch::channel(false);
    let ends = Ends { stopping: stopping.clone(), closing: stopping };
    let place = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
    let service = service.into_service::<Body>();
    let served = tokio::spawn(drive(server, Arc::new(protocol()), service, ends, place));
    Peer { stream, served, stop, pieces }
}

impl Peer {
    async fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.unwrap();
    }

    /// Everything up to the end of the connection.
    async fn rest(&mut self) -> String {
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).await.unwrap();
        String::from_utf8(rest).unwrap()
    }

    async fn read(&mut self, bytes: usize) -> String {
        let mut part = vec![0; bytes];
        let read = self.stream.read(&mut part).await.unwrap();
        String::from_utf8(part[..read].to_vec()).unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn who_connects_says_soon_what_it_speaks() {
    for begun in ["", "PRI * HTTP/2.0\r\n", "P"] {
        let (began, mut peer) = (Instant::now(), connect());
        peer.send(begun).await;
        peer.rest().await;
        assert_eq!(began.elapsed().as_secs(), limits::OPENING_MAX.as_secs(), "{begun:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_head_that_trickles_in_is_not_waited_for() {
    let (began, mut peer) = (Instant::now(), connect());
    peer.send("GET / HTTP/1.1\r\nhost: x\r\nx: ").await;
    while peer.stream.write_all(b"y").await.is_ok() {
        sleep(Duration::from_secs(5)).await;
    }
    let took = began.elapsed();
    assert!(
        (limits::HEAD_WAIT_MAX..limits::HEAD_WAIT_MAX + 2 * limits::OPENING_MAX).contains(&took),
        "{took:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_kept_for_the_next_request_for_a_while() {
    let mut peer = connect();
    for _ in 0..3 {
        peer.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
        assert!(peer.read(1000).await.ends_with("here"));
        sleep(limits::HEAD_WAIT_MAX - Duration::from_secs(1)).await;
    }
    let began = Instant::now();
    assert_eq!(peer.rest().await, "");
    assert_eq!(began.elapsed().as_secs(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_answer_may_take_longer_than_any_wait_for_the_client() {
    let mut peer = connect();
    peer.send("GET /slow HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert!(peer.rest().await.ends_with("at last"));
}

#[tokio::test(start_paused = true)]
async fn who_takes_nothing_is_let_go_and_little_is_made_for_it() {
    let (began, mut peer) = (Instant::now(), connect());
    peer.send("GET /endless HTTP/1.1\r\nhost: x\r\n\r\n").await;
    peer.served.await.unwrap();
    assert_eq!(began.elapsed().as_secs(), limits::STALL_MAX.as_secs());
    let made = peer.pieces.load(Ordering::Relaxed) * PIECE;
    assert!(made <= PIPE + limits::HEAD_BYTES_MAX + PIECE, "{made} bytes were made");
}

#[tokio::test(start_paused = true)]
async fn who_takes_little_by_little_is_kept() {
    let mut peer = connect();
    peer.send("GET /endless HTTP/1.1\r\nhost: x\r\n\r\n").await;
    for _ in 0..100 {
        assert!(!peer.read(1000).await.is_empty());
        sleep(limits::STALL_MAX / 2).await;
    }
    assert!(!peer.served.is_finished());
}

#[tokio::test(start_paused = true)]
async fn heads_have_a_size() {
    let long = "y".repeat(2 * limits::HEAD_BYTES_MAX);
    let mut peer = connect();
    peer.send("GET / HTTP/1.1\r\nhost: x\r\nx: ").await;
    let _ = peer.stream.write_all(long.as_bytes()).await;
    assert!(peer.rest().await.starts_with("HTTP/1.1 431 "));
    let mut peer = connect();
    peer.send(&format!("GET / HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", &long[..limits::HEAD_BYTES_MAX - 100]))
        .await;
    assert!(peer.read(1000).await.ends_with("here"));
    let mut peer = connect();
    peer.send(&format!("GET / HTTP/1.1\r\nhost: x\r\n{}\r\n", "x: y\r\n".repeat(200))).await;
    assert!(peer.rest().await.starts_with("HTTP/1.1 431 "));
}

#[tokio::test(start_paused = true)]
async fn a_stop_lets_the_request_under_way_end_and_no_other_begin() {
    let mut busy = connect();
    busy.send("GET /slow HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let mut idle = connect();
    idle.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(idle.read(1000).await.ends_with("here"));
    for peer in [&busy, &idle] {
        peer.stop.send_replace(true);
    }
    assert_eq!(idle.rest().await, "");
    let answer = busy.rest().await;
    assert!(answer.contains("connection: close") && answer.ends_with("at last"), "{answer}");
}
