//! The bucket, behind one handle.
//!
//! A [`Store`] has two ways to write, and nobody else calls `put`:
//!
//! - *create-only* ([`Store::create`]): a name is written once and never again. WAL objects, rolled objects,
//!   segments, pages and snapshots are created;
//! - *register* ([`Store::swap`]): a name whose content is replaced only by who knows the content it replaces.
//!   Manifests, topics and the like are registers.
//!
//! Invariants: what a call reports as stored survives a crash of this machine (`file:`) or is as durable as the
//! bucket. No call retries a create whose outcome the shard log's protocol wants to judge itself. Every call ends
//! within [`STORE_CALL_MAX`] per conditional write or read it makes, and reads at most [`METADATA_BYTES_MAX`] bytes.
//!
//! [`METADATA_BYTES_MAX`]: crate::limits::METADATA_BYTES_MAX

mod create_only;
mod error;
mod folder;
mod local;
mod lock;
mod probe;
mod read;
mod register;
mod s3;
#[cfg(test)]
mod tests;
mod url;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use object_store::memory::InMemory;
use object_store::{ObjectStore, PutMode, PutOptions, PutResult};

pub use object_store::path::Path;
pub use object_store::{ObjectMeta, PutPayload};

pub use self::create_only::CreateAnswer;
pub use self::error::{OpenError, Operation, StoreError};
pub use self::lock::FolderLock;
pub use self::probe::{ProbeError, Property};
pub use self::register::{Register, Revision, Swap, Versioned};
pub use self::s3::{S3Endpoint, S3Keys, S3Options};
pub use self::url::{InvalidStoreUrl, StoreUrl};

use self::local::LocalObjects;
use self::s3::S3Objects;
use crate::limits::{PUT_BACKOFF_MAX, PUT_BACKOFF_MIN, PUT_CALL_MIN, PUT_RATE_MIN, STORE_CALL_MAX};

/// The bucket of one cluster. Clones are cheap and share everything, the lock of a `file:` store included.
#[derive(Clone, Debug)]
pub struct Store {
    objects: Arc<dyn ObjectStore>,
    exclusive: bool,
}

impl Store {
    /// Opens a store.
    ///
    /// `file:` makes the folder if it is missing and locks it for as long as a clone of the handle, or a write under
    /// way, lives. `memory:` is new and empty each time.
    ///
    /// `s3:` is the whole bucket, reached as the environment says, and not asked for anything yet: see
    /// [`Self::open_with`] and [`Self::probe`].
    ///
    /// # Errors
    /// [`OpenError::Locked`] if the folder is open elsewhere: a retry succeeds once it is closed there. Anything else
    /// needs the operator.
    pub async fn open(url: &StoreUrl) -> Result<Self, OpenError> {
        Self::open_with(url, &S3Options::default()).await
    }

    /// Opens a store as [`Self::open`] does; one on S3 is reached as the options say.
    ///
    /// # Errors
    /// As for [`Self::open`].
    pub async fn open_with(url: &StoreUrl, s3: &S3Options) -> Result<Self, OpenError> {
        let objects: Arc<dyn ObjectStore> = match url {
            StoreUrl::File(path) => Arc::new(LocalObjects::open(path).await?),
            StoreUrl::Memory => Arc::new(InMemory::new()),
            StoreUrl::S3 { bucket, .. } => Arc::new(S3Objects::open(bucket, s3)?),
        };
        Ok(Self { objects, exclusive: !matches!(url, StoreUrl::S3 { .. }) })
    }

    /// Wraps objects that somebody else opened and perhaps decorated. `exclusive` says that no other process can
    /// write them.
    ///
    /// They must offer `PutMode::Create`, and `PutMode::Update` by the ETag or version their reads show; if these
    /// show neither, by the content tag of [`Revision`]. Errors are read so: on a create `AlreadyExists` is
    /// [`CreateAnswer::Exists`] and `Precondition` is [`CreateAnswer::Conflict`]; on an update `Precondition` is 412
    /// and `AlreadyExists` is 409.
    pub fn with_objects(objects: Arc<dyn ObjectStore>, exclusive: bool) -> Self {
        Self { objects, exclusive }
    }

    /// Returns what is below, for a test to decorate.
    #[cfg(any(test, feature = "test-util"))]
    pub fn objects(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.objects)
    }

    /// Tells whether this process is the only one that can write here. Then a synced local journal is as durable as
    /// an object, and nobody can take over.
    pub fn is_exclusive(&self) -> bool {
        self.exclusive
    }

    /// Sends one conditional PUT: the only place that does.
    async fn put(
        &self,
        operation: Operation,
        key: &Path,
        body: PutPayload,
        mode: PutMode,
    ) -> Result<PutResult, StoreError> {
        let more = Duration::from_millis(body.content_length() as u64 * 1000 / PUT_RATE_MIN);
        let limit = STORE_CALL_MAX.min(PUT_CALL_MIN + more);
        bounded_by(limit, operation, key, async {
            let put = self.objects.put_opts(key, body, PutOptions::from(mode));
            put.await.map_err(failed(operation, key))
        })
        .await
    }
}

/// Waits for one answer of the store, but not for ever.
async fn bounded<T>(
    operation: Operation,
    key: &Path,
    call: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    bounded_by(STORE_CALL_MAX, operation, key, call).await
}

async fn bounded_by<T>(
    limit: Duration,
    operation: Operation,
    key: &Path,
    call: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    match tokio::time::timeout(limit, call).await {
        Ok(answer) => answer,
        Err(_) => Err(StoreError::TimedOut { operation, key: key.clone(), limit }),
    }
}

fn failed(operation: Operation, key: &Path) -> impl Fn(object_store::Error) -> StoreError {
    move |source| StoreError::Failed { operation, key: key.clone(), source }
}

/// Returns the pause after the given attempt, counted from 0.
fn backoff(attempt: u32) -> Duration {
    PUT_BACKOFF_MIN.saturating_mul(2u32.saturating_pow(attempt)).min(PUT_BACKOFF_MAX)
}
