//! Where a node is called by the others: HTTP/2 with prior knowledge, over TLS when there are certificates.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{sleep, timeout};
use tokio_util::task::TaskTracker;

use super::call::{self, Call};
use super::frame::PeerBody;
use super::quiet::Quiet;
use super::secret::Proven;
use super::{Peers, append, follow};
use crate::limits;

/// Pause after an error that closes no connection, such as too many open files.
const ACCEPT_RETRY: std::time::Duration = std::time::Duration::from_secs(1);

/// What serves other nodes.
#[derive(Debug)]
pub struct PeerListener {
    listener: TcpListener,
    server: Arc<Server>,
}

#[derive(Debug)]
struct Server {
    peers: Peers,
    complaints: Quiet,
}

/// What one connection has shown so far.
#[derive(Debug, Default)]
struct Standing {
    proven: AtomicBool,
    refused: Notify,
}

impl PeerListener {
    /// Serves at this listener what `peers` knows of this node.
    pub fn new(listener: TcpListener, peers: Peers) -> Self {
        Self { listener, server: Arc::new(Server { peers, complaints: Quiet::default() }) }
    }

    /// Serves until `stopping` turns true, or its sender is gone. Then all connections are cut: whatever was under way is
    /// of unknown outcome for those who asked.
    pub async fn serve(self, mut stopping: watch::Receiver<bool>) {
        let room = Arc::new(Semaphore::new(limits::PEER_CONNECTIONS_MAX));
        let tasks = TaskTracker::new();
        loop {
            let (stream, address) = tokio::select! {
                accepted = self.accept() => accepted,
                _ = stopping.wait_for(|stopping| *stopping) => break,
            };
            let Ok(place) = Arc::clone(&room).try_acquire_owned() else {
                if self.server.complaints.may_say() {
                    tracing::warn!(%address, "a node is refused: too many connections of other nodes");
                }
                continue;
            };
            let (server, stopping) = (Arc::clone(&self.server), stopping.clone());
            tasks.spawn(drive(server, stream, address, stopping, place));
        }
        tasks.close();
        tasks.wait().await;
    }

    async fn accept(&self) -> (TcpStream, SocketAddr) {
        loop {
            match self.listener.accept().await {
                Ok((stream, address)) => {
                    // Else a small answer waits for the acknowledgement of the one before.
                    let _ = stream.set_nodelay(true);
                    return (stream, address);
                }
                Err(error) => {
                    tracing::debug!(%error, "cannot accept a connection of another node");
                    sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }
}

/// Serves one connection until it ends, or the node stops.
async fn drive(
    server: Arc<Server>,
    stream: TcpStream,
    address: SocketAddr,
    mut stopping: watch::Receiver<bool>,
    _place: OwnedSemaphorePermit,
) {
    let served = async {
        let Some(tls) = &server.peers.dialer.tls else {
            return serve(&server, stream, address).await;
        };
        match timeout(limits::PEER_OPENING_MAX, tls.acceptor.accept(stream)).await {
            Ok(Ok(stream)) => serve(&server, stream, address).await,
            Ok(Err(error)) if server.complaints.may_say() => {
                tracing::warn!(%address, %error, "a node is refused: no TLS, or no certificate of the cluster");
            }
            _ => {}
        }
    };
    tokio::select! {
        () = served => {}
        _ = stopping.wait_for(|stopping| *stopping) => {}
    }
}

async fn serve<S>(server: &Arc<Server>, stream: S, address: SocketAddr)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let standing = Arc::new(Standing::default());
    let service = service_fn(|request| {
        let answer = server.answer(request, address, &standing);
        async move { Ok::<_, Infallible>(answer) }
    });
    let mut connection = pin!(protocol().serve_connection(TokioIo::new(stream), service));
    let opening = async {
        sleep(limits::PEER_OPENING_MAX).await;
        if standing.proven.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    };
    let unproven = {
        let mut opening = pin!(opening);
        let mut refused = pin!(standing.refused.notified());
        tokio::select! {
            _ = connection.as_mut() => false,
            () = &mut opening => false,
            () = &mut refused => true,
        }
    };
    if unproven {
        // It hears why, and no more.
        connection.as_mut().graceful_shutdown();
        let _ = timeout(limits::PEER_OPENING_MAX, connection).await;
    }
}

fn protocol() -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(limits::PEER_PING_INTERVAL)
        .keep_alive_timeout(limits::PEER_PING_WAIT_MAX)
        .max_concurrent_streams(limits::PEER_STREAMS_MAX)
        .max_header_list_size(limits::PEER_HEAD_BYTES_MAX)
        .initial_stream_window_size(limits::PEER_WINDOW_BYTES)
        .initial_connection_window_size(limits::PEER_WINDOW_BYTES)
        .max_send_buf_size(limits::PEER_WRITE_BYTES);
    builder
}

impl Server {
    fn answer(
        &self,
        request: Request<Incoming>,
        address: SocketAddr,
        standing: &Standing,
    ) -> Response<PeerBody> {
        match self.peers.dialer.proof.check(request.headers()) {
            Proven::Yes => standing.proven.store(true, Ordering::Relaxed),
            Proven::OtherCluster => {
                return self.refuse(StatusCode::MISDIRECTED_REQUEST, "another cluster", address, standing);
            }
            Proven::No => {
                return self.refuse(StatusCode::UNAUTHORIZED, "another secret", address, standing);
            }
        }
        let call = request.uri().path().parse::<Call>().ok().filter(|_| request.method() == Method::POST);
        let Some(call) = call else {
            return self.refuse(StatusCode::NOT_FOUND, "another release", address, standing);
        };
        let local = &self.peers.local;
        tracing::trace!(%address, ?call, "called by another node");
        Response::new(match call {
            Call::Probe(shard) => PeerBody::Whole(Some(call::answer_probe(local.as_ref(), shard))),
            Call::Lead(shard, ended) => {
                if !local.lead_now(shard, ended) {
                    let mut response = Response::new(PeerBody::empty());
                    *response.status_mut() = StatusCode::CONFLICT;
                    return response;
                }
                PeerBody::empty()
            }
            Call::Append(shard, epoch) => append::serve(Arc::clone(local), shard, epoch, request.into_body()),
            Call::Follow(shard, epoch, from) => {
                follow::serve(local.as_ref(), (shard, epoch), from, request.into_body())
            }
        })
    }

    fn refuse(
        &self,
        status: StatusCode,
        has: &'static str,
        address: SocketAddr,
        standing: &Standing,
    ) -> Response<PeerBody> {
        if self.complaints.may_say() {
            tracing::warn!(%address, "a node is refused: it has {has}");
        }
        standing.refused.notify_one();
        let mut response = Response::new(PeerBody::empty());
        *response.status_mut() = status;
        response
    }
}
