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

#[derive(Debug)]
struct State {
    bucket: Mutex<Bucket>,
    faults: Mutex<(S3Faults, StdRng)>,
    puts: Mutex<u64>,
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
        let state = Arc::new(State { bucket: Mutex::default(), faults, puts: Mutex::default() });
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

    /// The PUTs so far, whatever became of them.
    pub fn puts(&self) -> u64 {
        *self.state.puts.lock()
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
    let fault = if head.method == Method::PUT { state.fault() } else { None };
    let delay = state.faults.lock().0.delay;
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
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

impl State {
    fn fault(&self) -> Option<Fault> {
        *self.puts.lock() += 1;
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

#[async_trait]
impl S3 for Objects {
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
        let stored = Stored { body, tag: bucket.tags };
        let e_tag = Some(stored.e_tag());
        bucket.objects.insert(key, stored);
        Ok(S3Response::new(PutObjectOutput { e_tag, ..Default::default() }))
    }

    async fn get_object(&self, request: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        let GetObjectInput { bucket, key, range, .. } = request.input;
        let stored = self.find(&bucket, &key)?;
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
            last_modified: Some(SystemTime::UNIX_EPOCH.into()),
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
            last_modified: Some(SystemTime::UNIX_EPOCH.into()),
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
                last_modified: Some(SystemTime::UNIX_EPOCH.into()),
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
