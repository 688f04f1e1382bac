//! Runs a [`Taker`] against the store, and reads objects of the path.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use object_store::PutPayload;
use rand::rngs::StdRng;
use tokio::task::spawn_blocking;

use crate::error::{ErrorKind, FormatError};
use crate::format::manifest::Manifest;
use crate::format::page::Page;
use crate::format::snapshot::Snapshot;
use crate::format::wal_object::{self, Footer, ObjectKind, TailIndex, WalHeader};
use crate::keys::Keys;
use crate::limits;
use crate::model::{ClusterId, ShardId, Timestamp, WalSeq};
use crate::shard::ahead::ReadAhead;
use crate::shard::pages::Pages;
use crate::shard::state::ShardState;
use crate::shard::taker::{Answer, Ask, Leadership, PathObject, PutAnswer, Taker, TakerError};
use crate::store::{CreateAnswer, Register, Revision, Store, StoreError, Swap};

/// Bytes of an object's end that usually hold its index.
const SUFFIX_LEN: u64 = 64 * 1024;

/// Why a shard could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The store did not answer. A retry later may.
    #[error("store is unavailable")]
    Store(#[from] StoreError),
    /// Stored bytes are not what was written.
    #[error("stored object is damaged: {key}")]
    Format {
        /// The object.
        key: String,
        /// What is wrong with it.
        #[source]
        source: FormatError,
    },
    /// The takeover ended without leadership.
    #[error("shard cannot be led")]
    Taker(#[from] TakerError),
    /// A rolled object or page that the manifest names, or the manifest itself, is not there.
    #[error("object of the shard is missing: {key}")]
    Missing {
        /// The object.
        key: String,
    },
}

impl OpenError {
    /// Returns the class of the error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Store(error) => error.kind(),
            Self::Format { .. } | Self::Missing { .. } => ErrorKind::Corrupt,
            Self::Taker(error) => error.kind(),
        }
    }
}

/// One shard's objects in a store.
#[derive(Debug, Clone)]
pub struct ShardStore {
    /// The bucket.
    pub store: Store,
    /// Where its objects lie.
    pub keys: Keys,
    /// The cluster they belong to.
    pub cluster: ClusterId,
    /// Which shard.
    pub shard: ShardId,
}

impl ShardStore {
    /// Takes the shard over: walks its log, writes an EPOCH, checks that it counts.
    ///
    /// # Errors
    /// [`OpenError`]; a retry begins anew and is always safe.
    ///
    /// # Cost
    /// 3 GETs of the manifest, 1 PUT, and up to 3 GETs for each WAL object above the floor, up to
    /// [`limits::READ_AHEAD_MAX`] objects at once; as many GETs at most find nothing.
    pub async fn take_over(&self, now: Timestamp, nonces: StdRng) -> Result<Leadership, OpenError> {
        let (mut taker, mut ask) = Taker::new(self.cluster, self.shard, now, nonces);
        let mut pause = limits::PUT_BACKOFF_MIN;
        let mut ahead = ReadAhead::new(self.clone());
        loop {
            let answer = match ask {
                Ask::Lead(leadership) => return Ok(*leadership),
                Ask::Manifest => {
                    ahead.forget();
                    Answer::Manifest(self.manifest().await?.map(|(manifest, _)| manifest))
                }
                Ask::CreateManifest(manifest) => {
                    self.create_manifest(&manifest).await?;
                    Answer::ManifestCreated
                }
                Ask::Snapshot(hash) => Answer::Snapshot(self.state(hash).await?.map(Box::new)),
                Ask::Object(seq) => Answer::Object(ahead.object(seq).await?.map(Box::new)),
                Ask::PutEpoch { seq, body, again } => {
                    if again {
                        tokio::time::sleep(pause).await;
                        pause = next_pause(pause);
                    }
                    Answer::Put(self.put(seq, vec![body]).await)
                }
            };
            ask = taker.next(answer)?;
        }
    }

    /// Reads the manifest and its revision.
    ///
    /// # Errors
    /// [`OpenError`]; a retry is safe.
    ///
    /// # Cost
    /// 1 GET.
    pub async fn manifest(&self) -> Result<Option<(Manifest, Revision)>, OpenError> {
        let key = self.keys.manifest(self.shard);
        let Some(found) = self.store.read_register(&key).await? else { return Ok(None) };
        let manifest = Manifest::decode(&found.body).map_err(|source| damaged(&key, source))?;
        Ok(Some((manifest, found.revision)))
    }

    /// Reads the manifest and its revision unless it still has a known revision; none if it has, or if there is none.
    ///
    /// # Errors
    /// [`OpenError`]; a retry is safe.
    ///
    /// # Cost
    /// 1 GET; without a body where nothing has changed and the store has ETags.
    pub async fn manifest_if_changed(
        &self,
        known: Option<&Revision>,
    ) -> Result<Option<(Manifest, Revision)>, OpenError> {
        let key = self.keys.manifest(self.shard);
        let Register::Changed(found) = self.store.read_register_if_changed(&key, known).await? else {
            return Ok(None);
        };
        let manifest = Manifest::decode(&found.body).map_err(|source| damaged(&key, source))?;
        Ok(Some((manifest, found.revision)))
    }

    /// Reads a snapshot; none when it is gone.
    ///
    /// # Errors
    /// [`OpenError`]; a retry is safe.
    ///
    /// # Cost
    /// 1 GET; decoded on a blocking thread.
    pub async fn snapshot(&self, hash: u128) -> Result<Option<Snapshot>, OpenError> {
        self.snapshot_as(hash, |snapshot| snapshot).await
    }

    /// Reads a snapshot, as [`Self::snapshot`] does, and builds the state that it describes there too: that takes as long.
    async fn state(&self, hash: u128) -> Result<Option<ShardState>, OpenError> {
        self.snapshot_as(hash, |snapshot| ShardState::from_snapshot(Some(&snapshot))).await
    }

    /// Makes something of a snapshot where blocking is allowed: it may hold a million dedupe entries.
    async fn snapshot_as<T: Send + 'static>(
        &self,
        hash: u128,
        make: impl FnOnce(Snapshot) -> T + Send + 'static,
    ) -> Result<Option<T>, OpenError> {
        let key = self.keys.snapshot(self.shard, hash);
        let Some(body) = self.store.get(&key).await? else { return Ok(None) };
        let made = spawn_blocking(move || Snapshot::decode(&body).map(make));
        let made =
            made.await.expect("decoding does not panic, and ends before the runtime that waits for it");
        made.map(Some).map_err(|source| damaged(&key, source))
    }

    /// Reads the pages that a manifest names, but for those already known.
    ///
    /// # Errors
    /// [`OpenError`]; after [`OpenError::Missing`] a newer manifest names another page.
    ///
    /// # Cost
    /// 1 GET for each page that is not known.
    pub async fn pages(&self, manifest: &Manifest, known: &Pages) -> Result<Pages, OpenError> {
        let mut pages = Pages::default();
        for reference in &manifest.pages {
            let page = match known.get(reference) {
                Some(page) => page,
                None => {
                    let missing =
                        || OpenError::Missing { key: self.keys.page(self.shard, reference.hash).to_string() };
                    Arc::new(self.page(reference.hash).await?.ok_or_else(missing)?)
                }
            };
            pages.insert(*reference, page);
        }
        Ok(pages)
    }

    /// Reads a page; none when it is gone.
    ///
    /// # Errors
    /// [`OpenError`]; a retry is safe.
    ///
    /// # Cost
    /// 1 GET.
    pub async fn page(&self, hash: u128) -> Result<Option<Page>, OpenError> {
        let key = self.keys.page(self.shard, hash);
        let Some(body) = self.store.get(&key).await? else { return Ok(None) };
        Page::decode(&body).map(Some).map_err(|source| damaged(&key, source))
    }

    /// Reads header and index of a WAL object; none when there is none.
    ///
    /// # Errors
    /// [`OpenError`]; a retry is safe.
    ///
    /// # Cost
    /// 1 GET for small objects, 2 for large ones, 3 when the index is longer than 64 KiB.
    pub async fn wal_object(&self, seq: WalSeq) -> Result<Option<PathObject>, OpenError> {
        self.object(&self.keys.wal(self.shard, seq)).await
    }

    /// Reads header and index of a WAL object or rolled object by its key.
    ///
    /// # Errors
    /// [`OpenError`]; a retry is safe.
    ///
    /// # Cost
    /// As [`Self::wal_object`].
    pub async fn object(&self, key: &object_store::path::Path) -> Result<Option<PathObject>, OpenError> {
        let Some((suffix, size)) = self.store.get_suffix(key, SUFFIX_LEN).await? else { return Ok(None) };
        let head = if size <= suffix.len() as u64 {
            suffix.clone()
        } else {
            let range = 0..limits::WAL_HEADER_LEN as u64;
            let Some(head) = self.store.get_range(key, range).await? else { return Ok(None) };
            head
        };
        let header = WalHeader::decode(&head).map_err(|source| damaged(key, source))?;
        if header.kind == ObjectKind::Epoch {
            return Ok(Some(PathObject { header, footer: Footer::default() }));
        }
        let footer = match wal_object::decode_tail(&suffix, size).map_err(|source| damaged(key, source))? {
            TailIndex::Complete(footer) => footer,
            TailIndex::NeedsRange(range) => {
                let Some(bytes) = self.store.get_range(key, range).await? else { return Ok(None) };
                wal_object::decode_footer(&bytes, size).map_err(|source| damaged(key, source))?
            }
        };
        Ok(Some(PathObject { header, footer }))
    }

    /// PUTs a WAL object, create-only, once.
    ///
    /// # Cost
    /// 1 PUT.
    pub async fn put(&self, seq: WalSeq, parts: Vec<Bytes>) -> PutAnswer {
        let key = self.keys.wal(self.shard, seq);
        match self.store.create(&key, PutPayload::from_iter(parts)).await {
            CreateAnswer::Created => PutAnswer::Created,
            CreateAnswer::Exists => PutAnswer::Exists,
            CreateAnswer::Conflict => PutAnswer::Conflict,
            CreateAnswer::Unknown(error) => {
                tracing::warn!(shard.id = %self.shard, wal.seq = %seq, error = %error, "put has no answer");
                PutAnswer::Unknown
            }
        }
    }

    /// Reads only the header of a WAL object.
    ///
    /// # Errors
    /// [`OpenError`]; a retry is safe.
    ///
    /// # Cost
    /// 1 GET.
    pub async fn wal_header(&self, seq: WalSeq) -> Result<Option<WalHeader>, OpenError> {
        let key = self.keys.wal(self.shard, seq);
        let Some(head) = self.store.get_range(&key, 0..limits::WAL_HEADER_LEN as u64).await? else {
            return Ok(None);
        };
        WalHeader::decode(&head).map(Some).map_err(|source| damaged(&key, source))
    }

    async fn create_manifest(&self, manifest: &Manifest) -> Result<(), OpenError> {
        let key = self.keys.manifest(self.shard);
        let body = manifest.encode().map_err(|source| damaged(&key, source))?;
        match self.store.swap(&key, None, body).await? {
            Swap::Swapped(_) | Swap::Conflict => Ok(()),
        }
    }
}

/// Doubles a pause, up to [`limits::PUT_BACKOFF_MAX`].
pub(crate) fn next_pause(pause: Duration) -> Duration {
    (pause * 2).min(limits::PUT_BACKOFF_MAX)
}

pub(crate) fn damaged(key: &object_store::path::Path, source: FormatError) -> OpenError {
    OpenError::Format { key: key.to_string(), source }
}
