//! Connections: how many at a time, how they are served, when they are given up.
//!
//! HTTP/1.1 and HTTP/2 come to the same address and are told apart by their first bytes. Every wait for a peer has an
//! end: for its first bytes and for what it does not take ([`connection`]), for the head of the next request, for the
//! answer to an HTTP/2 ping; the pauses of a body are its reader's to judge. A connection past the limit is told so, as
//! far as a few of them at a time can be; the others are closed.

mod connection;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, Version, header};
use axum::response::Response;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::task::TaskTracker;
use tower::{Service, ServiceExt as _};

use crate::http;
use crate::limits;
use crate::node::Node;

use connection::Connection;

/// Pause after an error that closes no connection, such as too many open files.
const ACCEPT_RETRY: Duration = Duration::from_secs(1);

/// An address that nobody else can listen on any more, and that refuses connections yet.
#[derive(Debug)]
pub(crate) struct Bound(Socket);

impl Bound {
    pub(crate) fn new(address: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        // Connections of a process before may still be there.
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        Ok(Self(socket))
    }

    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        let address = self.0.local_addr()?.as_socket();
        address.ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
    }

    /// Takes connections from now on, which wait until they are served.
    pub(crate) fn listen(&self) -> io::Result<()> {
        self.0.listen(limits::BACKLOG)
    }

    /// Takes connections, if it does not yet.
    pub(crate) fn into_listener(self) -> io::Result<TcpListener> {
        self.listen()?;
        TcpListener::from_std(self.0.into())
    }
}

/// Serves a node until it stops and every request under way is answered.
pub(crate) async fn serve(listener: TcpListener, node: Arc<Node>) {
    let room = Arc::new(Semaphore::new(connections_max(node.connections_max)));
    let refusals = Arc::new(Semaphore::new(limits::REFUSED_CONNECTIONS_MAX));
    let protocol = Arc::new(protocol());
    let refusing = Arc::new(protocol_of_refusals());
    let tasks = TaskTracker::new();
    let mut closing = node.closing();
    let service = http::service(Arc::clone(&node));
    let refusal = http::refusal(Arc::clone(&node));
    loop {
        let stream = tokio::select! {
            stream = accept(&listener) => stream,
            // A node that is gone stops too.
            _ = closing.wait_for(|closing| *closing) => break,
        };
        let ends = Ends { stopping: node.stopping(), closing: node.closing() };
        if let Ok(place) = Arc::clone(&room).try_acquire_owned() {
            tasks.spawn(drive(stream, Arc::clone(&protocol), service.clone(), ends, place));
        } else if let Ok(place) = Arc::clone(&refusals).try_acquire_owned() {
            tasks.spawn(drive(stream, Arc::clone(&refusing), refusal.clone(), ends, place));
        }
    }
    drop(listener);
    tasks.close();
    tasks.wait().await;
}

/// How the versions of HTTP are spoken. The HTTP/2 library itself ends a connection that opens and resets streams in a
/// flood, or sends headers without end; its limits for that are constants close to those of other servers.
fn protocol() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits::HEAD_WAIT_MAX)
        .max_buf_size(limits::HEAD_BYTES_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(limits::PING_INTERVAL)
        .keep_alive_timeout(limits::PING_WAIT_MAX)
        .max_concurrent_streams(limits::CONNECTION_STREAMS_MAX)
        .max_header_list_size(limits::HEAD_BYTES_MAX as u32)
        .initial_stream_window_size(limits::STREAM_WINDOW_BYTES)
        .initial_connection_window_size(limits::CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(limits::CHUNK_BYTES);
    builder
}

/// One request, soon, and no more.
fn protocol_of_refusals() -> Builder<TokioExecutor> {
    let mut builder = protocol();
    builder.http1().keep_alive(false).header_read_timeout(limits::OPENING_MAX);
    builder.http2().max_concurrent_streams(1);
    builder
}

/// Waits for the next connection.
async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tune(&stream);
                return stream;
            }
            Err(error) if is_of_the_peer(&error) => {}
            Err(error) => {
                tracing::error!(%error, "cannot accept connections");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

fn is_of_the_peer(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(error.kind(), Kind::ConnectionRefused | Kind::ConnectionAborted | Kind::ConnectionReset)
}

/// Sets what the system does with the bytes. A system that cannot is slower, or holds more; it serves all the same.
fn tune(stream: &TcpStream) {
    // Else a small answer waits for the client's acknowledgement of the one before.
    let _ = stream.set_nodelay(true);
    #[cfg(target_os = "linux")]
    {
        let socket = socket2::SockRef::from(stream);
        // Bounds what the kernel holds for a peer that does not read, without a bound on what is on its way to it.
        let _ = socket.set_tcp_notsent_lowat(limits::UNSENT_BYTES);
        // A peer that vanished without a word, with little to be written to it.
        let _ = socket.set_tcp_user_timeout(Some(limits::STALL_MAX));
    }
}

/// What ends a connection.
#[derive(Debug)]
struct Ends {
    /// The node begins to stop: an answer says that it is the last on its connection, so that the client opens another
    /// one, elsewhere.
    stopping: watch::Receiver<bool>,
    /// The node closes: a connection without a request ends at once, others after their answers.
    closing: watch::Receiver<bool>,
}

/// Serves one connection until it ends.
async fn drive<S, H>(
    stream: S,
    protocol: Arc<Builder<TokioExecutor>>,
    service: H,
    Ends { stopping, mut closing }: Ends,
    _place: OwnedSemaphorePermit,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Service<Request, Response = Response, Error = Infallible> + Clone + Send + 'static,
    H::Future: Send,
{
    let service = tower::service_fn(move |request: hyper::Request<Incoming>| {
        // HTTP/2 has other means.
        let names_connection = request.version() <= Version::HTTP_11;
        let answer = service.clone().oneshot(request.map(Body::new));
        let stopping = stopping.clone();
        async move {
            let mut answer = answer.await?;
            if names_connection && *stopping.borrow() {
                answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(answer)
        }
    });
    let stream = TokioIo::new(Connection::new(stream));
    let mut connection = pin!(protocol.serve_connection(stream, TowerToHyperService::new(service)));
    let stop = async {
        // As above.
        let _ = closing.wait_for(|closing| *closing).await;
    };
    let ended = {
        let mut stop = pin!(stop);
        tokio::select! {
            ended = connection.as_mut() => Some(ended),
            () = &mut stop => None,
        }
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        // The peer's doing, most of the time.
        tracing::debug!(%error, "connection ended");
    }
}

/// Bounds connections by the files that the process may open, having asked the system for as many as it allows.
fn connections_max(wanted: usize) -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, ..limit };
    let files = if setrlimit(Resource::Nofile, raised).is_ok() { limit.maximum } else { limit.current };
    let Some(files) = files.and_then(|files| usize::try_from(files).ok()) else { return wanted };
    let room = files.saturating_sub(limits::OTHER_FILES_MAX).max(1);
    if room < wanted {
        tracing::warn!(
            connections = room,
            files,
            "the limit of open files leaves room for fewer connections"
        );
    }
    room.min(wanted)
}
