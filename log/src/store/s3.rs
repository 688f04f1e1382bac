//! A store on S3, or on a server that speaks its protocol.
//!
//! Two clients of one bucket, sharing their credentials:
//!
//! - conditional writes are sent once. A client that sent one again by itself would be told that the name is taken,
//!   by its own first attempt;
//! - reads, listings and deletes change nothing when they are repeated, so they are retried here, within
//!   [`STORE_CALL_MAX`].
//!
//! `object_store` reports 409 on a create as it reports 412, although 409 says only that two requests met. Here they
//! are told apart, as [`Store::with_objects`] asks for.
//!
//! Credentials come from the environment (`AWS_ACCESS_KEY_ID` and its companions), else from a web identity token, a
//! container's or an instance's metadata service. Profile files are not read.
//!
//! [`Store::with_objects`]: super::Store::with_objects

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut};
use object_store::path::Path;
use object_store::{
    BackoffConfig, ClientConfigKey, CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
    RetryConfig,
};
use serde::Deserialize;

use super::{InvalidStoreUrl, OpenError};
use crate::limits::{
    PUT_BACKOFF_MIN, S3_BACKOFF_MAX, S3_CONNECT_MAX, S3_READ_RETRIES_MAX, S3_RETRY_TIME_MAX, STORE_CALL_MAX,
};

/// How a bucket is reached. The default is Amazon S3, in the region and with the credentials of the environment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct S3Options {
    /// The server; without one that of `AWS_ENDPOINT_URL_S3` or `AWS_ENDPOINT_URL`, or Amazon's in the region.
    pub endpoint: Option<S3Endpoint>,
    /// The region; without one that of `AWS_REGION` or `AWS_DEFAULT_REGION`, or `us-east-1`.
    pub region: Option<String>,
    /// Names the bucket in the path of a request instead of its host name. An endpoint that is an address and a
    /// bucket with a dot in its name need it and get it by themselves.
    pub path_style: bool,
    /// A pair of keys; without one the environment's credentials.
    pub keys: Option<S3Keys>,
}

impl S3Options {
    /// Tells whether a bucket has to be named in the path at the endpoint that these options name.
    pub fn names_bucket_in_path(&self, bucket: &str) -> bool {
        names_bucket_in_path(self.path_style, self.endpoint.as_ref(), bucket)
    }
}

fn names_bucket_in_path(asked: bool, endpoint: Option<&S3Endpoint>, bucket: &str) -> bool {
    asked || endpoint.is_some_and(S3Endpoint::is_address) || bucket.contains('.')
}

/// A pair of access keys. Not shown when it is printed.
#[derive(Clone, PartialEq, Eq)]
pub struct S3Keys {
    /// The access key id.
    pub id: String,
    /// The secret access key.
    pub secret: String,
}

impl fmt::Debug for S3Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("S3Keys(..)")
    }
}

/// A server that speaks S3: `https://minio.example:9000`. Plain HTTP is spoken where it says `http://`, only there.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct S3Endpoint {
    is_plain: bool,
    /// Host and perhaps port.
    authority: String,
}

impl S3Endpoint {
    fn scheme(&self) -> &'static str {
        if self.is_plain { "http" } else { "https" }
    }

    /// Tells whether no bucket's name can be put before the host.
    fn is_address(&self) -> bool {
        let host = match self.authority.strip_prefix('[') {
            Some(host) => host.split(']').next().unwrap_or_default(),
            None => self.authority.split(':').next().unwrap_or_default(),
        };
        host == "localhost" || host.parse::<IpAddr>().is_ok()
    }
}

impl FromStr for S3Endpoint {
    type Err = InvalidStoreUrl;

    fn from_str(url: &str) -> Result<Self, InvalidStoreUrl> {
        let invalid = || InvalidStoreUrl::Endpoint { url: url.to_owned() };
        let (scheme, rest) = url.split_once("://").ok_or_else(invalid)?;
        let is_plain = match scheme {
            "http" => true,
            "https" => false,
            _ => return Err(invalid()),
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        let known = |byte: u8| byte.is_ascii_alphanumeric() || b"-.:[]".contains(&byte);
        if authority.is_empty() || !authority.bytes().all(known) {
            return Err(invalid());
        }
        Ok(Self { is_plain, authority: authority.to_owned() })
    }
}

impl TryFrom<String> for S3Endpoint {
    type Error = InvalidStoreUrl;

    fn try_from(url: String) -> Result<Self, InvalidStoreUrl> {
        url.parse()
    }
}

impl fmt::Display for S3Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme(), self.authority)
    }
}

/// The objects of one bucket.
#[derive(Clone)]
pub(super) struct S3Objects {
    /// Sends each request once.
    conditional: Arc<AmazonS3>,
    /// Sends a request again when it failed.
    patient: Arc<AmazonS3>,
}

impl S3Objects {
    /// Prepares the clients; sends nothing.
    pub(super) fn open(bucket: &str, options: &S3Options) -> Result<Self, OpenError> {
        let failed = |source| OpenError::S3 { bucket: bucket.to_owned(), source };
        let builder = builder(bucket, options)?;
        let patient = builder.clone().with_retry(retries(S3_READ_RETRIES_MAX)).build().map_err(failed)?;
        let credentials = Arc::clone(patient.credentials());
        let conditional = builder.with_credentials(credentials).with_retry(retries(0));
        let conditional = conditional.build().map_err(failed)?;
        Ok(Self { conditional: Arc::new(conditional), patient: Arc::new(patient) })
    }
}

/// Settles everything but the retries.
fn builder(bucket: &str, options: &S3Options) -> Result<AmazonS3Builder, OpenError> {
    let mut builder = AmazonS3Builder::from_env()
        .with_bucket_name(bucket)
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        // One DELETE each: the POST that deletes many is not offered everywhere.
        .with_disable_bulk_delete(true);
    if let Some(region) = &options.region {
        builder = builder.with_region(region);
    }
    if let Some(keys) = &options.keys {
        builder = builder.with_access_key_id(&keys.id).with_secret_access_key(&keys.secret);
    }
    let endpoint = match &options.endpoint {
        Some(endpoint) => Some(endpoint.clone()),
        None => {
            let named = [AmazonS3ConfigKey::S3Endpoint, AmazonS3ConfigKey::Endpoint];
            let named = named.iter().find_map(|key| builder.get_config_value(key));
            named.map(|url| url.parse()).transpose().map_err(|source| OpenError::Endpoint { source })?
        }
    };
    let path_style = names_bucket_in_path(options.path_style, endpoint.as_ref(), bucket);
    if let Some(endpoint) = &endpoint {
        let url = match path_style {
            true => endpoint.to_string(),
            false => format!("{}://{bucket}.{}", endpoint.scheme(), endpoint.authority),
        };
        builder = builder.with_config(AmazonS3ConfigKey::S3Endpoint, url);
    }
    let is_plain = endpoint.is_some_and(|endpoint| endpoint.is_plain);
    // A system without certificates is refused by the client, although nothing here needs them.
    let needs_no_tls =
        is_plain && builder.get_config_value(&AmazonS3ConfigKey::WebIdentityTokenFile).is_none();
    let millis = |time: std::time::Duration| format!("{}ms", time.as_millis());
    Ok(builder
        .with_virtual_hosted_style_request(!path_style)
        .with_allow_http(is_plain)
        .with_config(
            AmazonS3ConfigKey::Client(ClientConfigKey::NoSystemCertificates),
            needs_no_tls.to_string(),
        )
        .with_config(AmazonS3ConfigKey::Client(ClientConfigKey::Timeout), millis(STORE_CALL_MAX))
        .with_config(AmazonS3ConfigKey::Client(ClientConfigKey::ConnectTimeout), millis(S3_CONNECT_MAX)))
}

fn retries(max_retries: usize) -> RetryConfig {
    let backoff =
        BackoffConfig { init_backoff: PUT_BACKOFF_MIN, max_backoff: S3_BACKOFF_MAX, ..Default::default() };
    RetryConfig { backoff, max_retries, retry_timeout: S3_RETRY_TIME_MAX }
}

/// Tells 409 from 412: the client wraps what it made of a 412 once more, and a 409 not.
fn told_apart(error: Error) -> Error {
    match error {
        Error::AlreadyExists { path, source } if !source.is::<Error>() => {
            Error::Precondition { path, source }
        }
        error => error,
    }
}

impl fmt::Debug for S3Objects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The clients would show their credentials.
        write!(f, "S3Objects({})", self.conditional)
    }
}

impl fmt::Display for S3Objects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.conditional, f)
    }
}

#[async_trait]
impl ObjectStore for S3Objects {
    async fn put_opts(&self, key: &Path, body: PutPayload, options: PutOptions) -> Result<PutResult> {
        match options.mode {
            PutMode::Create => self.conditional.put_opts(key, body, options).await.map_err(told_apart),
            PutMode::Update(_) => self.conditional.put_opts(key, body, options).await,
            PutMode::Overwrite => Err(not_implemented("an unconditional put")),
        }
    }

    async fn get_opts(&self, key: &Path, options: GetOptions) -> Result<GetResult> {
        self.patient.get_opts(key, options).await
    }

    fn delete_stream(&self, keys: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.patient.delete_stream(keys)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.patient.list(prefix)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        after: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.patient.list_with_offset(prefix, after)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.patient.list_with_delimiter(prefix).await
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(not_implemented("a multipart put"))
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(not_implemented("a copy"))
    }
}

fn not_implemented(operation: &str) -> Error {
    Error::NotImplemented { operation: operation.to_owned(), implementer: "S3Objects".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(url: &str) -> Option<S3Endpoint> {
        url.parse().ok()
    }

    /// Returns where requests for `bucket` go.
    fn place(bucket: &str, url: Option<&str>, path_style: bool) -> (String, bool) {
        let endpoint = url.map(|url| url.parse().unwrap());
        let options = S3Options { endpoint, region: Some("eu-north-1".into()), path_style, keys: None };
        let builder = builder(bucket, &options).unwrap();
        let found = |key| builder.get_config_value(&key).unwrap_or_default();
        let in_host = found(AmazonS3ConfigKey::VirtualHostedStyleRequest) == "true";
        (found(AmazonS3ConfigKey::S3Endpoint), in_host)
    }

    #[test]
    fn endpoints_are_a_scheme_and_a_host() {
        for url in ["http://127.0.0.1:8333", "https://s3.example", "https://[::1]:9000", "http://localhost"] {
            assert_eq!(endpoint(url).unwrap().to_string(), url);
        }
        assert_eq!(endpoint("https://s3.example/"), endpoint("https://s3.example"));
        for url in [
            "",
            "s3.example",
            "s3://x",
            "https://",
            "https://a/b",
            "https://a?b",
            "https://k:s@a",
            "http:///",
        ] {
            assert_eq!(endpoint(url), None, "{url}");
        }
        for (url, is_address) in [
            ("http://127.0.0.1:1", true),
            ("http://[::1]:1", true),
            ("http://localhost:1", true),
            ("http://s3.example:1", false),
        ] {
            assert_eq!(endpoint(url).unwrap().is_address(), is_address, "{url}");
        }
    }

    #[test]
    fn the_bucket_is_in_the_host_where_it_can_be() {
        let https = "https://s3.example:444";
        assert_eq!(place("bucket", Some(https), false), ("https://bucket.s3.example:444".into(), true));
        assert_eq!(place("bucket", Some(https), true), (https.into(), false));
        assert_eq!(place("dotted.bucket", Some(https), false), (https.into(), false));
        let address = "http://127.0.0.1:8333";
        assert_eq!(place("bucket", Some(address), false), (address.into(), false));
    }

    #[test]
    fn keys_are_not_shown() {
        let keys = S3Keys { id: "id-of-it".into(), secret: "hush".into() };
        let options = S3Options { keys: Some(keys), ..S3Options::default() };
        let objects = S3Objects::open("bucket", &options).unwrap();
        for shown in [format!("{options:?}"), format!("{objects:?}"), objects.to_string()] {
            assert!(!shown.contains("hush") && !shown.contains("id-of-it"), "{shown}");
        }
    }
}
