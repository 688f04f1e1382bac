//! An S3 server in this process: one bucket in a map behind one mutex, so that conditions hold exactly; real HTTP and
//! real signatures; and the faults that real servers have.
//!
//! A PUT may be answered with 409 without being done, with 503 after it was done, or with a closed connection after it
//! was done. A server may also ignore the conditions, as some do.

use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::http::request::Parts;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use s3s::auth::SimpleAuth;
use s3s::dto::*;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{HttpResponse, S3, S3Request, S3Response, S3Result, s3_error};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Keys of one page of a listing: few, so that listings have several.
const PAGE_KEYS: usize = 7;
/// Pause between two looks at whether PUTs are still held.
const HELD_LOOK: Duration = Duration::from_millis(5);

/// What a PUT may meet instead of its answer, each with its share of all PUTs.
#[derive(Debug, Clone, Copy, Default)]
pub struct S3Faults {
    /// 409, and nothing is done.
    pub conflict: f64,
    /// It is done, and answered with 503.
    pub unavailable: f64,
    /// It is done, and the connection is closed without an answer.
    pub reset: f64,
    /// How long each request takes at least.
    pub delay: Duration,
    /// How long a PUT takes at least.
    pub put_delay: Duration,
    /// PUTs wait until this is no longer set.
    pub hold_puts: bool,
    /// Conditions are ignored.
    pub unconditional: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Conflict,
    Unavailable,
    Reset,
}

#[derive(Debug, Clone)]
struct Stored {
    body: Bytes,
    tag: u64,
    modified: SystemTime,
}

impl Stored {
    fn e_tag(&self) -> ETag {
        ETag::Strong(format!("{:032x}", self.tag))
    }
}

#[derive(Debug, Default)]
struct Bucket {
    objects: BTreeMap<String, Stored>,
    tags: u64,
}

/// Requests so far, whatever became of them.
#[derive(Debug, Default)]
struct Requests {
    /// The path of each PUT.
    puts: Vec<String>,
    /// GETs of objects, listings apart.
    gets: u64,
}

/// Settings of a bucket, as they were set.
#[derive(Debug, Clone, Default)]
struct BucketSettings {
    public_access: Option<PublicAccessBlockConfiguration>,
    encryption: Option<ServerSideEncryptionConfiguration>,
    lifecycle: Option<LifecycleRules>,
    /// Whether versions are kept; none on a server that knows nothing of them.
    versioning: Option<bool>,
}

#[derive(Debug)]
struct State {
    bucket: Mutex<Bucket>,
    /// The buckets that are there; only [`S3Server::BUCKET`] holds objects.
    settings: Mutex<BTreeMap<String, BucketSettings>>,
    faults: Mutex<(S3Faults, StdRng)>,
    requests: Mutex<Requests>,
}

/// The server, until it is dropped.
#[derive(Debug)]
pub struct S3Server {
    url: String,
    state: Arc<State>,
    _connections: JoinSet<()>,
}

impl S3Server {
    /// The bucket.
    pub const BUCKET: &str = "bucket";
    /// The access key id.
    pub const KEY_ID: &str = "test";
    /// The secret access key.
    pub const SECRET: &str = "test-secret";

    /// Listens on a free port of loopback.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let url = format!("http://{}", listener.local_addr().expect("a bound listener has an address"));
        let faults = Mutex::new((S3Faults::default(), StdRng::seed_from_u64(1)));
        let settings = BTreeMap::from([(Self::BUCKET.to_owned(), BucketSettings::default())]);
        let settings = Mutex::new(settings);
        let state =
            Arc::new(State { bucket: Mutex::default(), settings, faults, requests: Mutex::default() });
        let mut builder = S3ServiceBuilder::new(Objects(Arc::clone(&state)));
        builder.set_auth(SimpleAuth::from_single(Self::KEY_ID, Self::SECRET));
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, builder.build(), Arc::clone(&state)));
        Self { url, state, _connections: accepting }
    }

    /// The URL, without a slash at the end.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The variables that let another process open its bucket.
    pub fn variables() -> [(&'static str, &'static str); 2] {
        [("AWS_ACCESS_KEY_ID", Self::KEY_ID), ("AWS_SECRET_ACCESS_KEY", Self::SECRET)]
    }

    /// Sets what happens from now on.
    pub fn set_faults(&self, faults: S3Faults) {
        self.state.faults.lock().0 = faults;
    }

    /// Has a bucket's lifecycle rules delete what is below a prefix.
    pub fn expire(&self, bucket: &str, prefix: &str) {
        let rule = LifecycleRule {
            id: Some("expire".to_owned()),
            status: ExpirationStatus::from_static(ExpirationStatus::ENABLED),
            filter: Some(LifecycleRuleFilter { prefix: Some(prefix.to_owned()), ..Default::default() }),
            expiration: Some(LifecycleExpiration { days: Some(30), ..Default::default() }),
            abort_incomplete_multipart_upload: None,
            noncurrent_version_expiration: None,
            noncurrent_version_transitions: None,
            prefix: None,
            transitions: None,
        };
        self.state.settings.lock().entry(bucket.to_owned()).or_default().lifecycle = Some(vec![rule]);
    }

    /// The ids of a bucket's lifecycle rules.
    pub fn rules(&self, bucket: &str) -> Vec<String> {
        let settings = self.state.settings.lock();
        let rules = settings.get(bucket).and_then(|settings| settings.lifecycle.clone()).unwrap_or_default();
        rules.into_iter().filter_map(|rule| rule.id).collect()
    }

    /// Whether a bucket is closed to the public in every way.
    pub fn blocks_public_access(&self, bucket: &str) -> bool {
        let settings = self.state.settings.lock();
        let block = settings.get(bucket).and_then(|settings| settings.public_access.as_ref());
        block.is_some_and(|block| {
            let all = [
                block.block_public_acls,
                block.ignore_public_acls,
                block.block_public_policy,
                block.restrict_public_buckets,
            ];
            all == [Some(true); 4]
        })
    }

    /// The algorithms by which a bucket encrypts unless a request names another.
    pub fn encryption(&self, bucket: &str) -> Vec<String> {
        let settings = self.state.settings.lock();
        let found = settings.get(bucket).and_then(|settings| settings.encryption.clone());
        let rules = found.map(|found| found.rules).unwrap_or_default();
        let defaults = rules.into_iter().filter_map(|rule| rule.apply_server_side_encryption_by_default);
        defaults.map(|by_default| by_default.sse_algorithm.as_str().to_owned()).collect()
    }

    /// Has a bucket encrypt by an algorithm.
    pub fn encrypt(&self, bucket: &str, algorithm: &'static str) {
        let by_default = ServerSideEncryptionByDefault {
            sse_algorithm: ServerSideEncryption::from_static(algorithm),
            kms_master_key_id: None,
        };
        let rule = ServerSideEncryptionRule {
            apply_server_side_encryption_by_default: Some(by_default),
            ..Default::default()
        };
        let encryption = Some(ServerSideEncryptionConfiguration { rules: vec![rule] });
        self.state.settings.lock().entry(bucket.to_owned()).or_default().encryption = encryption;
    }

    /// Has a bucket keep versions, or not.
    pub fn keep_versions(&self, bucket: &str, kept: bool) {
        self.state.settings.lock().entry(bucket.to_owned()).or_default().versioning = Some(kept);
    }

    /// The names of the buckets that are there.
    pub fn buckets(&self) -> Vec<String> {
        self.state.settings.lock().keys().cloned().collect()
    }

    /// The PUTs so far, whatever became of them.
    pub fn puts(&self) -> u64 {
        self.state.requests.lock().puts.len() as u64
    }

    /// The paths of the PUTs behind the first so many.
    pub fn puts_since(&self, count: u64) -> Vec<String> {
        self.state.requests.lock().puts[count as usize..].to_vec()
    }

    /// The GETs of objects so far.
    pub fn gets(&self) -> u64 {
        self.state.requests.lock().gets
    }

    /// The objects whose key holds this text.
    pub fn count_objects(&self, part: &str) -> usize {
        self.keys(part).len()
    }

    /// The keys that hold this text, sorted.
    pub fn keys(&self, part: &str) -> Vec<String> {
        let bucket = self.state.bucket.lock();
        bucket.objects.keys().filter(|key| key.contains(part)).cloned().collect()
    }
}

async fn accept(listener: TcpListener, service: S3Service, state: Arc<State>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((connection, _)) = listener.accept().await else { continue };
        connections.spawn(serve(connection, service.clone(), Arc::clone(&state)));
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(connection: TcpStream, service: S3Service, state: Arc<State>) {
    // Else answers would wait for the acknowledgements of what came before them.
    let _ = connection.set_nodelay(true);
    let answer = service_fn(|request| answer(service.clone(), Arc::clone(&state), request));
    // A connection that breaks, perhaps on purpose, is the client's to deal with.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(connection), answer).await;
}

async fn answer(
    service: S3Service,
    state: Arc<State>,
    request: Request<Incoming>,
) -> Result<HttpResponse, io::Error> {
    let (head, body) = request.into_parts();
    // All of it, so that no fault cuts the client short while it sends.
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    state.requests.lock().note(&head);
    let fault = if head.method == Method::PUT { state.fault() } else { None };
    state.delay(&head.method).await;
    if fault == Some(Fault::Conflict) {
        return Ok(refusal(StatusCode::CONFLICT, "ConditionalRequestConflict"));
    }
    let answer = service.call(Request::from_parts(head, body.into())).await;
    match fault {
        Some(Fault::Unavailable) => Ok(refusal(StatusCode::SERVICE_UNAVAILABLE, "SlowDown")),
        Some(Fault::Reset) => Err(io::Error::from(io::ErrorKind::ConnectionReset)),
        _ => answer.map_err(|error| io::Error::other(format!("{error:?}"))),
    }
}

fn refusal(status: StatusCode, code: &str) -> HttpResponse {
    let body = format!("<Error><Code>{code}</Code></Error>");
    let mut response = HttpResponse::new(Bytes::from(body).into());
    *response.status_mut() = status;
    response
}

impl Requests {
    fn note(&mut self, head: &Parts) {
        let path = head.uri.path();
        let is_listing = path.trim_matches('/') == S3Server::BUCKET;
        match head.method {
            Method::PUT => self.puts.push(path.to_owned()),
            Method::GET if !is_listing => self.gets += 1,
            _ => {}
        }
    }
}

impl State {
    /// Lets as much time pass as requests take now.
    async fn delay(&self, method: &Method) {
        let is_put = method == Method::PUT;
        while is_put && self.faults.lock().0.hold_puts {
            tokio::time::sleep(HELD_LOOK).await;
        }
        let faults = self.faults.lock().0;
        let delay = if is_put { faults.delay.max(faults.put_delay) } else { faults.delay };
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
    }

    fn fault(&self) -> Option<Fault> {
        let (faults, random) = &mut *self.faults.lock();
        let drawn: f64 = random.random();
        let shares = [
            (faults.conflict, Fault::Conflict),
            (faults.unavailable, Fault::Unavailable),
            (faults.reset, Fault::Reset),
        ];
        let mut sum = 0.0;
        shares.into_iter().find_map(|(share, fault)| {
            sum += share;
            (drawn < sum).then_some(fault)
        })
    }
}

struct Objects(Arc<State>);

impl Objects {
    fn find(&self, bucket: &str, key: &str) -> S3Result<Stored> {
        if bucket != S3Server::BUCKET {
            return Err(s3_error!(NoSuchBucket));
        }
        self.0.bucket.lock().objects.get(key).cloned().ok_or_else(|| s3_error!(NoSuchKey))
    }
}

impl Objects {
    fn settings<T>(&self, bucket: &str, with: impl FnOnce(&mut BucketSettings) -> T) -> S3Result<T> {
        let mut settings = self.0.settings.lock();
        settings.get_mut(bucket).map(with).ok_or_else(|| s3_error!(NoSuchBucket))
    }
}

/// The time, by the system's clock: what a store's clock is compared with.
#[expect(clippy::disallowed_methods, reason = "another machine's clock is not the test's to set")]
fn now() -> SystemTime {
    SystemTime::now()
}

#[async_trait]
impl S3 for Objects {
    async fn head_bucket(
        &self,
        request: S3Request<HeadBucketInput>,
    ) -> S3Result<S3Response<HeadBucketOutput>> {
        self.settings(&request.input.bucket, |_| S3Response::new(HeadBucketOutput::default()))
    }

    async fn create_bucket(
        &self,
        request: S3Request<CreateBucketInput>,
    ) -> S3Result<S3Response<CreateBucketOutput>> {
        self.0.settings.lock().entry(request.input.bucket).or_default();
        Ok(S3Response::new(CreateBucketOutput::default()))
    }

    async fn get_public_access_block(
        &self,
        request: S3Request<GetPublicAccessBlockInput>,
    ) -> S3Result<S3Response<GetPublicAccessBlockOutput>> {
        let found = self.settings(&request.input.bucket, |settings| settings.public_access.clone())?;
        let missing =
            || s3s::S3Error::new(s3s::S3ErrorCode::Custom("NoSuchPublicAccessBlockConfiguration".into()));
        let public_access_block_configuration = Some(found.ok_or_else(missing)?);
        Ok(S3Response::new(GetPublicAccessBlockOutput { public_access_block_configuration }))
    }

    async fn put_public_access_block(
        &self,
        request: S3Request<PutPublicAccessBlockInput>,
    ) -> S3Result<S3Response<PutPublicAccessBlockOutput>> {
        let PutPublicAccessBlockInput { bucket, public_access_block_configuration, .. } = request.input;
        self.settings(&bucket, |settings| settings.public_access = Some(public_access_block_configuration))?;
        Ok(S3Response::new(PutPublicAccessBlockOutput::default()))
    }

    async fn get_bucket_encryption(
        &self,
        request: S3Request<GetBucketEncryptionInput>,
    ) -> S3Result<S3Response<GetBucketEncryptionOutput>> {
        let found = self.settings(&request.input.bucket, |settings| settings.encryption.clone())?;
        let found = found.ok_or_else(|| s3_error!(ServerSideEncryptionConfigurationNotFoundError))?;
        Ok(S3Response::new(GetBucketEncryptionOutput { server_side_encryption_configuration: Some(found) }))
    }

    async fn put_bucket_encryption(
        &self,
        request: S3Request<PutBucketEncryptionInput>,
    ) -> S3Result<S3Response<PutBucketEncryptionOutput>> {
        let PutBucketEncryptionInput { bucket, server_side_encryption_configuration, .. } = request.input;
        self.settings(&bucket, |settings| settings.encryption = Some(server_side_encryption_configuration))?;
        Ok(S3Response::new(PutBucketEncryptionOutput::default()))
    }

    async fn get_bucket_lifecycle_configuration(
        &self,
        request: S3Request<GetBucketLifecycleConfigurationInput>,
    ) -> S3Result<S3Response<GetBucketLifecycleConfigurationOutput>> {
        let found = self.settings(&request.input.bucket, |settings| settings.lifecycle.clone())?;
        let rules = Some(found.ok_or_else(|| s3_error!(NoSuchLifecycleConfiguration))?);
        Ok(S3Response::new(GetBucketLifecycleConfigurationOutput { rules, ..Default::default() }))
    }

    async fn put_bucket_lifecycle_configuration(
        &self,
        request: S3Request<PutBucketLifecycleConfigurationInput>,
    ) -> S3Result<S3Response<PutBucketLifecycleConfigurationOutput>> {
        let PutBucketLifecycleConfigurationInput { bucket, lifecycle_configuration, .. } = request.input;
        let rules = lifecycle_configuration.map(|all| all.rules);
        self.settings(&bucket, |settings| settings.lifecycle = rules)?;
        Ok(S3Response::new(PutBucketLifecycleConfigurationOutput::default()))
    }

    async fn get_bucket_versioning(
        &self,
        request: S3Request<GetBucketVersioningInput>,
    ) -> S3Result<S3Response<GetBucketVersioningOutput>> {
        let kept = self.settings(&request.input.bucket, |settings| settings.versioning)?;
        let kept = kept.ok_or_else(|| s3_error!(NotImplemented))?;
        let status = kept.then(|| BucketVersioningStatus::from_static(BucketVersioningStatus::ENABLED));
        Ok(S3Response::new(GetBucketVersioningOutput { status, ..Default::default() }))
    }

    async fn put_object(&self, request: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        let PutObjectInput { bucket, key, body, if_match, if_none_match, .. } = request.input;
        if bucket != S3Server::BUCKET {
            return Err(s3_error!(NoSuchBucket));
        }
        let body = match body {
            Some(body) => {
                s3s::Body::from(body).collect().await.map_err(|_| s3_error!(IncompleteBody))?.to_bytes()
            }
            None => Bytes::new(),
        };
        let unconditional = self.0.faults.lock().0.unconditional;
        let bucket = &mut *self.0.bucket.lock();
        let current = bucket.objects.get(&key);
        match (if_none_match, if_match) {
            _ if unconditional => {}
            (Some(_), _) if current.is_some() => return Err(s3_error!(PreconditionFailed)),
            (_, Some(expected)) => {
                let current = current.ok_or_else(|| s3_error!(NoSuchKey))?;
                if expected.as_etag() != Some(&current.e_tag()) {
                    return Err(s3_error!(PreconditionFailed));
                }
            }
            _ => {}
        }
        bucket.tags += 1;
        let stored = Stored { body, tag: bucket.tags, modified: now() };
        let e_tag = Some(stored.e_tag());
        bucket.objects.insert(key, stored);
        Ok(S3Response::new(PutObjectOutput { e_tag, ..Default::default() }))
    }

    async fn get_object(&self, request: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        let GetObjectInput { bucket, key, range, if_none_match, .. } = request.input;
        let stored = self.find(&bucket, &key)?;
        if if_none_match.is_some_and(|known| known.as_etag() == Some(&stored.e_tag())) {
            return Err(s3_error!(NotModified));
        }
        let size = stored.body.len() as u64;
        let part = match range {
            Some(range) => range.check(size)?,
            None => 0..size,
        };
        let content_range =
            range.map(|_| format!("bytes {}-{}/{size}", part.start, part.end.saturating_sub(1)));
        let body = stored.body.slice(part.start as usize..part.end as usize);
        Ok(S3Response::new(GetObjectOutput {
            content_length: Some(body.len() as i64),
            content_range,
            e_tag: Some(stored.e_tag()),
            last_modified: Some(stored.modified.into()),
            body: Some(s3s::Body::from(body).into()),
            ..Default::default()
        }))
    }

    async fn head_object(
        &self,
        request: S3Request<HeadObjectInput>,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        let stored = self.find(&request.input.bucket, &request.input.key)?;
        Ok(S3Response::new(HeadObjectOutput {
            content_length: Some(stored.body.len() as i64),
            e_tag: Some(stored.e_tag()),
            last_modified: Some(stored.modified.into()),
            ..Default::default()
        }))
    }

    async fn delete_object(
        &self,
        request: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        self.0.bucket.lock().objects.remove(&request.input.key);
        Ok(S3Response::new(DeleteObjectOutput::default()))
    }

    async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let ListObjectsV2Input { prefix, start_after, continuation_token, .. } = request.input;
        let prefix = prefix.unwrap_or_default();
        let after = continuation_token.or(start_after).unwrap_or_default();
        let bucket = self.0.bucket.lock();
        let later = bucket.objects.range((Bound::Excluded(after), Bound::Unbounded));
        let mut found = later.filter(|(key, _)| key.starts_with(&prefix));
        let page: Vec<Object> = found
            .by_ref()
            .take(PAGE_KEYS)
            .map(|(key, stored)| Object {
                key: Some(key.clone()),
                size: Some(stored.body.len() as i64),
                e_tag: Some(stored.e_tag()),
                last_modified: Some(stored.modified.into()),
                ..Default::default()
            })
            .collect();
        let more = found.next().is_some();
        let last = page.last().and_then(|object| object.key.clone());
        Ok(S3Response::new(ListObjectsV2Output {
            key_count: Some(page.len() as i32),
            contents: Some(page),
            is_truncated: Some(more),
            next_continuation_token: last.filter(|_| more),
            ..Default::default()
        }))
    }
}
