//! Why another node could not be asked.

use std::io;

use forebay_log::error::FormatError;

/// Why another node could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// Nobody listens there: the process is gone.
    #[error("connection refused")]
    Refused,
    /// It did not answer in time.
    #[error("no answer in time")]
    Silent,
    /// The connection failed, or its TLS handshake.
    #[error("connection failed")]
    Io(#[source] io::Error),
    /// The connection broke.
    #[error("connection broke")]
    Http(#[from] hyper::Error),
    /// It ended the stream without a word.
    #[error("the stream ended without a word")]
    Cut,
    /// The address has no host that a certificate could name.
    #[error("address names no host: {address}")]
    Address {
        /// The address.
        address: String,
    },
    /// It knows another secret.
    #[error("the other node knows another secret")]
    Secret,
    /// It belongs to another cluster.
    #[error("the other node belongs to another cluster")]
    OtherCluster,
    /// It does not know this call, or this version of it.
    #[error("the other node does not know this call: it runs another release")]
    Version,
    /// It will not lead: it stops, or is not ready.
    #[error("the other node will not lead")]
    Declined,
    /// It refused the call.
    #[error("the other node refused the call: status={status}")]
    Status {
        /// The status of its answer.
        status: u16,
    },
    /// It sent something that no node sends.
    #[error("the other node sent something else")]
    Format(#[from] FormatError),
}

impl PeerError {
    /// Tells whether the other node answered without reading anything of the request's body.
    pub(super) fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::Secret | Self::OtherCluster | Self::Version | Self::Declined | Self::Status { .. }
        )
    }
}

impl From<io::Error> for PeerError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::TimedOut => Self::Silent,
            _ => Self::Io(error),
        }
    }
}
