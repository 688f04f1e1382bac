//! The bucket of a cluster: on a server in this process, on SeaweedFS, or on the server that the environment names.

use std::ffi::OsString;

use rand::TryRngCore as _;
use rand::rngs::OsRng;

use crate::{S3Server, SeaweedFs};

/// A server that speaks S3, and the place in it.
#[derive(Debug)]
pub enum SharedStore {
    /// In this process, with faults at will.
    InProcess(S3Server),
    /// A process of its own, which can be killed.
    Seaweed(SeaweedFs),
    /// `FOREBAY_TEST_S3_ENDPOINT` with `FOREBAY_TEST_S3_BUCKET`, `AWS_REGION` and the usual credentials, below a prefix
    /// of its own.
    Named {
        /// The endpoint.
        endpoint: String,
        /// The store's URL.
        url: String,
    },
}

impl SharedStore {
    /// An empty bucket in this process.
    pub async fn in_process() -> Self {
        Self::InProcess(S3Server::start().await)
    }

    /// The server that the environment names, if it names one.
    pub fn named() -> Option<Self> {
        let endpoint = std::env::var("FOREBAY_TEST_S3_ENDPOINT").ok()?;
        let bucket =
            std::env::var("FOREBAY_TEST_S3_BUCKET").expect("FOREBAY_TEST_S3_BUCKET names the bucket");
        let unique = OsRng.try_next_u64().expect("the system gives randomness");
        Some(Self::Named { endpoint, url: format!("s3://{bucket}/forebay-test/{unique:016x}") })
    }

    /// The server that the environment names, else SeaweedFS.
    pub async fn real() -> Self {
        match Self::named() {
            Some(store) => store,
            None => Self::Seaweed(SeaweedFs::start().await),
        }
    }

    /// The server in this process.
    ///
    /// # Panics
    /// It is another one.
    pub fn s3(&self) -> &S3Server {
        match self {
            Self::InProcess(server) => server,
            other => panic!("only the server in this process can do that: {other:?}"),
        }
    }

    /// The options by which a node finds it.
    pub(crate) fn args(&self) -> Vec<OsString> {
        let region = std::env::var("AWS_REGION").unwrap_or_else(|_| "us-east-1".to_owned());
        let (url, endpoint) = match self {
            Self::InProcess(server) => {
                (format!("s3://{}/team/events", S3Server::BUCKET), server.url().to_owned())
            }
            Self::Seaweed(server) => (format!("s3://{}/team/events", SeaweedFs::BUCKET), server.url()),
            Self::Named { endpoint, url } => (url.clone(), endpoint.clone()),
        };
        ["--store", &url, "--s3-endpoint", &endpoint, "--s3-region", &region].map(OsString::from).to_vec()
    }

    /// The variables by which a node may use it. Those of a named one are in the environment already.
    pub(crate) fn variables(&self) -> Vec<(&'static str, &'static str)> {
        match self {
            Self::InProcess(_) => S3Server::variables().to_vec(),
            Self::Seaweed(_) => SeaweedFs::variables().to_vec(),
            Self::Named { .. } => Vec::new(),
        }
    }
}
