//! Reads, listings and deletes. Each is sent once: a caller that can wait sends it again.

use std::ops::Range;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{Error as Below, GetOptions, GetRange, ObjectMeta, ObjectStoreExt};

use super::{Operation, Store, StoreError, bounded, failed};
use crate::limits::{LIST_KEYS_MAX, METADATA_BYTES_MAX};

impl Store {
    /// Reads a whole object; `None` if it is not there.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`] above [`METADATA_BYTES_MAX`] bytes, else the store's failure. A retry repeats the
    /// read.
    ///
    /// # Cost
    /// One GET.
    pub async fn get(&self, key: &Path) -> Result<Option<Bytes>, StoreError> {
        Ok(self.fetch(key, None).await?.map(|(_, body)| body))
    }

    /// Reads a range of an object's bytes; `None` if the object is not there. A range is cut at the object's end, so
    /// one past it is empty.
    ///
    /// # Errors
    /// As [`Store::get`]; the bound is on the range.
    ///
    /// # Cost
    /// One GET; one HEAD more if the range is past the end, or one instead if it is empty.
    pub async fn get_range(&self, key: &Path, range: Range<u64>) -> Result<Option<Bytes>, StoreError> {
        let start = range.start;
        if range.is_empty() {
            return Ok(self.size(key).await?.map(|_| Bytes::new()));
        }
        match self.fetch(key, Some(GetRange::Bounded(range))).await {
            Err(error) => Ok(self.past_end(key, start, error).await?.map(|_| Bytes::new())),
            found => Ok(found?.map(|(_, body)| body)),
        }
    }

    /// Reads the last `len` bytes of an object, or all of it if it is shorter, and tells its size; `None` if it is
    /// not there.
    ///
    /// # Errors
    /// As [`Store::get`]; the bound is on `len`.
    ///
    /// # Cost
    /// One GET, or one HEAD if `len` is 0; one HEAD more if the object is empty.
    pub async fn get_suffix(&self, key: &Path, len: u64) -> Result<Option<(Bytes, u64)>, StoreError> {
        if len == 0 {
            return Ok(self.size(key).await?.map(|size| (Bytes::new(), size)));
        }
        match self.fetch(key, Some(GetRange::Suffix(len))).await {
            Err(error) => Ok(self.past_end(key, 0, error).await?.map(|size| (Bytes::new(), size))),
            found => Ok(found?.map(|(meta, body)| (body, meta.size))),
        }
    }

    /// Lists the objects in a folder and its subfolders, those after `start_after` only, sorted by key.
    ///
    /// At most [`LIST_KEYS_MAX`], the first ones: if there are as many, ask again after the last.
    ///
    /// # Errors
    /// The store's failure. A retry repeats the listing.
    ///
    /// # Cost
    /// One LIST per 1,000 keys on S3.
    pub async fn list(
        &self,
        prefix: &Path,
        start_after: Option<&Path>,
    ) -> Result<Vec<ObjectMeta>, StoreError> {
        let mut listing = match start_after {
            Some(after) => self.objects.list_with_offset(Some(prefix), after),
            None => self.objects.list(Some(prefix)),
        };
        let mut found = Vec::new();
        loop {
            let next = async { listing.try_next().await.map_err(failed(Operation::List, prefix)) };
            let Some(object) = bounded(Operation::List, prefix, next).await? else { break };
            // Not every server honours the offset.
            if start_after.is_none_or(|after| object.location > *after) {
                found.push(object);
            }
            if found.len() >= 2 * LIST_KEYS_MAX {
                keep_first(&mut found);
            }
        }
        keep_first(&mut found);
        Ok(found)
    }

    /// Deletes an object. One that is not there is no error.
    ///
    /// On a `file:` store a deleted object may come back after a power cut.
    ///
    /// # Errors
    /// The store's failure: the object may be deleted, now or later. A retry is always safe.
    ///
    /// # Cost
    /// One DELETE.
    pub async fn delete(&self, key: &Path) -> Result<(), StoreError> {
        bounded(Operation::Delete, key, async {
            match self.objects.delete(key).await {
                Err(Below::NotFound { .. }) => Ok(()),
                deleted => deleted.map_err(failed(Operation::Delete, key)),
            }
        })
        .await
    }

    /// Reads an object or a part of it, and what the store says about it.
    pub(super) async fn fetch(
        &self,
        key: &Path,
        range: Option<GetRange>,
    ) -> Result<Option<(ObjectMeta, Bytes)>, StoreError> {
        self.fetch_with(key, GetOptions { range, ..GetOptions::default() }).await
    }

    /// Reads as [`Self::fetch`] does, with a range or a condition.
    pub(super) async fn fetch_with(
        &self,
        key: &Path,
        options: GetOptions,
    ) -> Result<Option<(ObjectMeta, Bytes)>, StoreError> {
        let failed = failed(Operation::Get, key);
        bounded(Operation::Get, key, async {
            let found = match self.objects.get_opts(key, options).await {
                Err(Below::NotFound { .. }) => return Ok(None),
                found => found.map_err(&failed)?,
            };
            let (size, limit) = (found.range.end - found.range.start, METADATA_BYTES_MAX as u64);
            if size > limit {
                return Err(StoreError::TooLarge {
                    operation: Operation::Get,
                    key: key.clone(),
                    size,
                    limit,
                });
            }
            let meta = found.meta.clone();
            Ok(Some((meta, found.bytes().await.map_err(&failed)?)))
        })
        .await
    }

    async fn size(&self, key: &Path) -> Result<Option<u64>, StoreError> {
        bounded(Operation::Get, key, async {
            match self.objects.head(key).await {
                Err(Below::NotFound { .. }) => Ok(None),
                found => Ok(Some(found.map_err(failed(Operation::Get, key))?.size)),
            }
        })
        .await
    }

    /// Looks whether a read failed because it starts past the end, which stores report as they like, and then
    /// returns the size; `None` if the object is not there.
    async fn past_end(&self, key: &Path, start: u64, error: StoreError) -> Result<Option<u64>, StoreError> {
        if !matches!(error, StoreError::Failed { source: Below::Generic { .. }, .. }) {
            return Err(error);
        }
        match self.size(key).await? {
            Some(size) if size > start => Err(error),
            size => Ok(size),
        }
    }
}

/// Keeps the first keys, sorted.
fn keep_first(found: &mut Vec<ObjectMeta>) {
    found.sort_unstable_by(|a, b| a.location.cmp(&b.location));
    found.truncate(LIST_KEYS_MAX);
}
