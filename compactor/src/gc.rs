//! Deletes what no manifest needs (rules C2 and E1).
//!
//! What may go:
//! - DATA below the floor of any manifest, fresh or stale, for a floor never decreases. That covers what was rolled,
//!   what a leader without its shard wrote into a gap, and what a late retry wrote again. Never an EPOCH, which fences
//!   such leaders, and nothing at or above the floor;
//! - rolled objects and snapshots that no manifest names and that no roll under way can commit any more. A roll
//!   commits only while the floor lies where it started, its rolled object ends above that floor and its snapshot is
//!   taken above it. So one that ends below the present floor, or was taken at or below it, will never be named. They
//!   are left alone for [`limits::ORPHAN_AGE`] all the same, for readers that still go by an older manifest;
//! - pages that no manifest names and that can never be named again, because some log start is lower on them than on
//!   the pages that are named: it never moves back. They are left alone as long.

use std::collections::HashSet;

use futures::{StreamExt, stream};

use forebay_log::format::manifest::Manifest;
use forebay_log::limits;
use forebay_log::model::{Timestamp, WalSeq};
use forebay_log::shard::{OpenError, Pages, ShardStore};
use forebay_log::store::{ObjectMeta, Path};

use crate::error::CompactorError;
use crate::roll;

/// A manifest that is known to be committed, and what it no longer needs. Readers go over to the manifest before the
/// garbage is deleted.
#[derive(Debug)]
#[must_use = "readers must go over to the manifest, and the garbage must be deleted"]
pub struct Commit {
    /// The manifest.
    pub manifest: Manifest,
    /// What may be deleted.
    pub garbage: Garbage,
}

/// Objects that may be deleted, now or later, any number of times.
#[derive(Debug, Default)]
pub struct Garbage {
    keys: Vec<Path>,
}

impl Garbage {
    pub(crate) fn new(keys: Vec<Path>) -> Self {
        Self { keys }
    }

    /// Returns the names.
    pub fn keys(&self) -> &[Path] {
        &self.keys
    }

    /// Deletes all of it.
    ///
    /// # Errors
    /// The first failure, after every object was tried; a retry is safe, and a sweep finds what is left.
    ///
    /// # Cost
    /// One DELETE per object.
    pub async fn delete(&self, at: &ShardStore) -> Result<(), CompactorError> {
        let deletes = stream::iter(self.keys.iter().cloned()).map(|key| {
            let store = at.store.clone();
            async move { store.delete(&key).await }
        });
        let mut deletes = deletes.buffer_unordered(limits::DELETES_IN_FLIGHT_MAX);
        let mut outcome = Ok(());
        while let Some(deleted) = deletes.next().await {
            outcome = outcome.and(deleted);
        }
        Ok(outcome?)
    }
}

/// Looks for garbage in a whole shard; none when the shard has no manifest. Deletes nothing.
///
/// # Errors
/// [`CompactorError`]; a retry looks again.
///
/// # Cost
/// Four listings, one GET of the manifest and one of each of its pages, and one GET for each old snapshot or page that
/// is not named. At most [`limits::LIST_KEYS_MAX`] objects of each kind are found at once.
pub async fn sweep(at: &ShardStore, now: Timestamp) -> Result<Option<Commit>, CompactorError> {
    let wal = list_data(at).await?;
    let rolled = at.store.list(&at.keys.rolled_prefix(at.shard), None).await?;
    let snapshots = at.store.list(&at.keys.snapshot_prefix(at.shard), None).await?;
    let pages = at.store.list(&at.keys.page_prefix(at.shard), None).await?;
    // Read after the listings: what was listed and is not named here was replaced, or is not committed yet.
    let Some((manifest, _)) = roll::read_manifest(at).await? else { return Ok(None) };

    let mut keys: Vec<Path> =
        wal.into_iter().filter(|(seq, _)| *seq < manifest.floor).map(|(_, key)| key).collect();
    let named: HashSet<Path> =
        manifest.rolled.iter().map(|reference| at.keys.rolled(at.shard, reference)).collect();
    for object in rolled.into_iter().filter(|object| is_old(object, now)) {
        let key = object.location;
        let ended = at.keys.parse_rolled(&key).is_some_and(|(_, last)| last < manifest.floor);
        if ended && !named.contains(&key) {
            keys.push(key);
        }
    }
    for object in snapshots.into_iter().filter(|object| is_old(object, now)) {
        let Some((_, hash)) = at.keys.parse_snapshot(&object.location) else { continue };
        if manifest.snapshot != Some(hash) && is_void(at, hash, manifest.floor).await? {
            keys.push(object.location);
        }
    }
    keys.extend(void_pages(at, &manifest, pages.into_iter().filter(|object| is_old(object, now))).await?);
    Ok(Some(Commit { manifest, garbage: Garbage { keys } }))
}

/// Finds the pages that can never be named again.
async fn void_pages(
    at: &ShardStore,
    manifest: &Manifest,
    old: impl Iterator<Item = ObjectMeta>,
) -> Result<Vec<Path>, CompactorError> {
    let named: HashSet<u128> = manifest.pages.iter().map(|reference| reference.hash).collect();
    let mut now: Option<Pages> = None;
    let mut void = Vec::new();
    for object in old {
        let Some((_, hash)) = at.keys.parse_page(&object.location) else { continue };
        if named.contains(&hash) {
            continue;
        }
        let now = match &mut now {
            Some(now) => now,
            none => none.insert(at.pages(manifest, &Pages::default()).await?),
        };
        let is_void = match at.page(hash).await {
            Ok(Some(page)) => {
                page.partitions.iter().any(|noted| noted.log_start < now.log_start(noted.partition))
            }
            Ok(None) => false,
            Err(OpenError::Format { .. }) => true,
            Err(error) => return Err(error.into()),
        };
        if is_void {
            void.push(object.location);
        }
    }
    Ok(void)
}

/// Lists the DATA of a shard, above the floor too. EPOCHs are told by their size.
async fn list_data(at: &ShardStore) -> Result<Vec<(WalSeq, Path)>, CompactorError> {
    let mut data = Vec::new();
    let mut after: Option<Path> = None;
    while data.len() < limits::LIST_KEYS_MAX {
        let page = at.store.list(&at.keys.wal_prefix(at.shard), after.as_ref()).await?;
        let is_last = page.len() < limits::LIST_KEYS_MAX;
        after = page.last().map(|object| object.location.clone());
        for object in page.into_iter().filter(|object| object.size > limits::WAL_HEADER_LEN as u64) {
            if let Some((_, seq)) = at.keys.parse_wal(&object.location) {
                data.push((seq, object.location));
            }
        }
        if is_last {
            break;
        }
    }
    Ok(data)
}

fn is_old(object: &ObjectMeta, now: Timestamp) -> bool {
    let age = now.as_millis().saturating_sub(object.last_modified.timestamp_millis());
    i64::try_from(limits::ORPHAN_AGE.as_millis()).is_ok_and(|limit| age > limit)
}

/// Tells whether no roll can commit a snapshot any more: it was taken at or below the floor, or its bytes are not
/// those of its name.
async fn is_void(at: &ShardStore, hash: u128, floor: WalSeq) -> Result<bool, CompactorError> {
    match at.snapshot(hash).await {
        Ok(Some(snapshot)) => Ok(snapshot.floor <= floor),
        Ok(None) => Ok(false),
        Err(OpenError::Format { .. }) => Ok(true),
        Err(error) => Err(error.into()),
    }
}
