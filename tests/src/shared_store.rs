//! The bucket of a cluster: on a server in this process, on SeaweedFS, or on the server that the environment names.

use std::ffi::OsString;

use rand::TryRngCore as _;
use rand::rngs::OsRng;

use crate::process::{Variables, variables_of};
use crate::{Options, S3Server, SeaweedFs};

/// A server that speaks S3, and the place in it.
#[derive(Debug)]
pub enum SharedStore {
    /// In this process, with faults at will.
    InProcess(S3Server),
    /// A process of its own, which can be killed.
    Seaweed(SeaweedFs),
    /// `FOREBAY_TEST_S3_ENDPOINT` with `FOREBAY_TEST_S3_BUCKET`, `AWS_REGION` and the usual credentials, below a prefix
    /// of its own. `FOREBAY_TEST_S3_PATH_STYLE`, if it is there, has the bucket named in the path.
    Named {
        /// The endpoint.
        endpoint: String,
        /// The bucket.
        bucket: String,
        /// Where in the bucket.
        prefix: String,
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
        Some(Self::Named { endpoint, bucket, prefix: format!("forebay-test/{unique:016x}") })
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

    /// The URL of the server, without a slash at the end.
    pub fn endpoint(&self) -> String {
        match self {
            Self::InProcess(server) => server.url().to_owned(),
            Self::Seaweed(server) => server.url(),
            Self::Named { endpoint, .. } => endpoint.clone(),
        }
    }

    /// The bucket.
    pub fn bucket(&self) -> &str {
        match self {
            Self::InProcess(_) | Self::Seaweed(_) => S3Server::BUCKET,
            Self::Named { bucket, .. } => bucket,
        }
    }

    /// Below what in the bucket it is.
    pub fn prefix(&self) -> &str {
        match self {
            Self::InProcess(_) | Self::Seaweed(_) => "team/events",
            Self::Named { prefix, .. } => prefix,
        }
    }

    /// Whether the bucket has to be named in the path, which addresses have by themselves.
    pub fn path_style(&self) -> bool {
        matches!(self, Self::Named { .. }) && std::env::var_os("FOREBAY_TEST_S3_PATH_STYLE").is_some()
    }

    /// The options by which a node finds it, and more arguments of its command line.
    pub fn options(&self, more: &[&str]) -> Options {
        let url = format!("s3://{}/{}", self.bucket(), self.prefix());
        let mut args = ["--store", &url, "--s3-endpoint", &self.endpoint()].map(OsString::from).to_vec();
        if !matches!(self, Self::Named { .. }) {
            args.push("--s3-region=us-east-1".into());
        }
        if self.path_style() {
            args.push("--s3-path-style".into());
        }
        args.extend(more.iter().map(OsString::from));
        Options { args }
    }

    /// The variables by which a node may use it. Those of a named one are in the environment.
    pub(crate) fn variables(&self) -> Variables {
        match self {
            Self::InProcess(_) | Self::Seaweed(_) => {
                S3Server::variables().map(|(name, value)| (name.into(), value.into())).to_vec()
            }
            Self::Named { .. } => variables_of(&["AWS_"]),
        }
    }
}
