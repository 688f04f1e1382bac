//! Calling another node: connect, prove, ask.

use bytes::Bytes;
use forebay_log::model::ClusterId;
use http::{Method, Request, Response, StatusCode, Uri};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::PeerConfig;
use super::error::PeerError;
use super::quiet::Quiet;
use super::secret::Proof;
use super::tls::{Tls, TlsError};
use crate::limits;

/// A connection, encrypted or not.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// What it takes to call other nodes, and to be called by them.
#[derive(Debug)]
pub(super) struct Dialer {
    pub(super) proof: Proof,
    pub(super) tls: Option<Tls>,
    complaints: Quiet,
}

impl Dialer {
    pub(super) fn new(config: &PeerConfig, cluster: ClusterId) -> Result<Self, TlsError> {
        let tls = config.tls.as_ref().map(Tls::read).transpose()?;
        let (proof, complaints) = (Proof::new(&config.secret, cluster), Quiet::default());
        Ok(Self { proof, tls, complaints })
    }

    /// Sends a request over a connection of its own, and returns the answer's head and the body to be read. The
    /// connection ends with whichever body ends last.
    ///
    /// # Errors
    /// [`PeerError`]. A body that was not touched was not sent.
    pub(super) async fn call<B>(
        &self,
        address: &str,
        path: &str,
        body: B,
    ) -> Result<Response<Incoming>, PeerError>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let opened = async {
            let stream = self.connect(address).await?;
            let (mut sender, connection) = protocol().handshake(TokioIo::new(stream)).await?;
            tokio::spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "connection to another node ended");
                }
            });
            sender.ready().await?;
            Ok::<_, PeerError>(sender)
        };
        let mut sender = timeout(limits::PEER_CONNECT_MAX, opened).await.map_err(|_| PeerError::Silent)??;
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let uri = Uri::builder().scheme(scheme).authority(address).path_and_query(path).build();
        let uri = uri.map_err(|_| PeerError::Address { address: address.to_owned() })?;
        let mut request = Request::new(body);
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri;
        self.proof.put(request.headers_mut());
        let answer = timeout(limits::PEER_CONNECT_MAX, sender.send_request(request)).await;
        let answer = answer.map_err(|_| PeerError::Silent)??;
        match refusal(answer.status()) {
            None => Ok(answer),
            Some(error) => {
                self.complain(address, &error);
                Err(error)
            }
        }
    }

    async fn connect(&self, address: &str) -> Result<Box<dyn Stream>, PeerError> {
        let stream = TcpStream::connect(address).await?;
        // Else a small frame waits for the acknowledgement of the one before.
        let _ = stream.set_nodelay(true);
        let Some(tls) = &self.tls else { return Ok(Box::new(stream)) };
        let bad = || PeerError::Address { address: address.to_owned() };
        let host = address.rsplit_once(':').ok_or_else(bad)?.0.trim_matches(['[', ']']);
        let host = ServerName::try_from(host.to_owned()).map_err(|_| bad())?;
        match tls.connector.connect(host, stream).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(error) => {
                let error = PeerError::Io(error);
                self.complain(address, &error);
                Err(error)
            }
        }
    }

    /// Says what only the operator can mend.
    fn complain(&self, address: &str, error: &PeerError) {
        if self.complaints.may_say() {
            let cause = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
            tracing::warn!(address, %error, cause, "another node cannot be used");
        }
    }
}

fn refusal(status: StatusCode) -> Option<PeerError> {
    match status {
        StatusCode::OK => None,
        StatusCode::UNAUTHORIZED => Some(PeerError::Secret),
        StatusCode::MISDIRECTED_REQUEST => Some(PeerError::OtherCluster),
        StatusCode::NOT_FOUND => Some(PeerError::Version),
        StatusCode::CONFLICT => Some(PeerError::Declined),
        status => Some(PeerError::Status { status: status.as_u16() }),
    }
}

fn protocol() -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(limits::PEER_PING_INTERVAL)
        .keep_alive_timeout(limits::PEER_PING_WAIT_MAX)
        .max_header_list_size(limits::PEER_HEAD_BYTES_MAX)
        .initial_stream_window_size(limits::PEER_WINDOW_BYTES)
        .initial_connection_window_size(limits::PEER_WINDOW_BYTES)
        .max_send_buf_size(limits::PEER_WRITE_BYTES);
    builder
}
