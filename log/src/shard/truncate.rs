//! Truncating: moves log starts forward, in the store first and then for readers.
//!
//! Log starts lie on the pages of the manifest. New pages are uploaded, then one swap of the manifest names them, so
//! that a truncation counts for all of its partitions or for none. A swap that loses a race begins anew from the fresh
//! manifest: rolls carry the pages along, a truncation carries along what rolls changed, and neither is lost. The
//! pages that are replaced are left to a compactor's sweep; records below a log start are not removed here either.
//!
//! A log start never lies above what the store holds of its partition. Where the journal is as good as the store, what is
//! only there is flushed first; on a store that others may write nobody sees it before it is stored, so that any node may
//! truncate up to the high watermark it knows, which is never above the leader's.

use crate::error::{ErrorKind, FormatError, Outcome};
use crate::format::manifest::Manifest;
use crate::limits;
use crate::model::{Offset, TopicPartition};
use crate::shard::fetch::ShardIndex;
use crate::shard::leader::Shard;
use crate::shard::open::{OpenError, ShardStore};
use crate::shard::pages::Pages;
use crate::store::{StoreError, Swap};

/// Why log starts were not moved. Doing it again is always safe.
#[derive(Debug, thiserror::Error)]
pub enum TruncateError {
    /// The offset is above the high watermark. Nothing was changed.
    #[error("offset is above the high watermark: partition={} high_watermark={high_watermark}", partition.partition)]
    AboveHighWatermark {
        /// Where.
        partition: TopicPartition,
        /// The furthest that its log may start.
        high_watermark: Offset,
    },
    /// The store is this node's alone, and its leader of the shard has ended. Nothing was changed.
    #[error("shard has no leader here")]
    NoLeader,
    /// The manifest or a page could not be read. Nothing was changed.
    #[error("cannot read the shard")]
    Read(#[from] OpenError),
    /// The store failed. The log starts may have moved.
    #[error("object store failed")]
    Store(#[from] StoreError),
    /// The manifest has no room for another page. Nothing was changed.
    #[error("manifest cannot hold more log starts")]
    Full(#[source] FormatError),
    /// Others kept changing the manifest. Nothing was changed.
    #[error("lost too many races for the manifest: attempts={attempts}")]
    Contended {
        /// How many swaps were tried.
        attempts: u32,
    },
}

impl TruncateError {
    /// Returns the class of the error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::AboveHighWatermark { .. } => ErrorKind::Invalid,
            Self::NoLeader | Self::Contended { .. } => ErrorKind::Unavailable,
            Self::Read(error) => error.kind(),
            Self::Store(error) => error.kind(),
            Self::Full(_) => ErrorKind::Internal,
        }
    }

    /// Returns what the caller may conclude.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Store(error) => error.outcome(),
            _ => Outcome::NotApplied,
        }
    }
}

/// A manifest with the log starts asked for, and its pages.
#[derive(Debug)]
pub struct Truncated {
    /// The manifest as it is stored.
    pub manifest: Manifest,
    /// The pages it names.
    pub pages: Pages,
}

impl ShardStore {
    /// Moves log starts forward in the manifest; one that is there already, or further on, stays. The caller makes sure
    /// that none lies above what the store holds. `known` saves reading pages again.
    ///
    /// # Errors
    /// [`TruncateError`]; a retry is safe.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the outcome unknown; a retry is safe.
    ///
    /// # Cost
    /// 1 GET, 1 GET for each page that is not known, 1 PUT for each page that changes (256 partitions each) and 1 swap;
    /// for each lost race as much again. When nothing changes, the reads alone.
    pub async fn truncate(
        &self,
        starts: &[(TopicPartition, Offset)],
        known: &Pages,
    ) -> Result<Truncated, TruncateError> {
        let key = self.keys.manifest(self.shard);
        let mut known = known.clone();
        for _ in 0..limits::SWAP_ATTEMPTS_MAX {
            let missing = || OpenError::Missing { key: key.to_string() };
            let (manifest, revision) = self.manifest().await?.ok_or_else(missing)?;
            known = self.pages(&manifest, &known).await?;
            let (pages, new) = known.with_log_starts(starts).map_err(TruncateError::Full)?;
            if new.is_empty() {
                return Ok(Truncated { manifest, pages });
            }
            let next = Manifest { version: manifest.version + 1, pages: pages.references(), ..manifest };
            let body = next.encode().map_err(TruncateError::Full)?;
            for page in new {
                let key = self.keys.page(self.shard, page.hash);
                self.store.create_named_by_content(&key, page.body.into()).await?;
            }
            match self.store.swap(&key, Some(&revision), body).await? {
                Swap::Swapped(_) => return Ok(Truncated { manifest: next, pages }),
                Swap::Conflict => {}
            }
        }
        Err(TruncateError::Contended { attempts: limits::SWAP_ATTEMPTS_MAX })
    }
}

impl Shard {
    /// Moves the log starts of partitions forward: nothing below them is ever read again, here at once and anywhere
    /// after a restart. One that is there already, or further on, stays.
    ///
    /// # Errors
    /// [`TruncateError`]; a retry is safe.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the outcome unknown, and readers of this node may go on below a log start that is
    /// stored. So a caller should let it end.
    ///
    /// # Cost
    /// As [`ShardStore::truncate`], and 1 PUT where records were only in the journal.
    pub async fn truncate(&self, starts: &[(TopicPartition, Offset)]) -> Result<(), TruncateError> {
        let index = self.index();
        index.check_starts(starts)?;
        if index.at.store.is_exclusive() {
            self.flush().await;
            if !self.is_leading() {
                return Err(TruncateError::NoLeader);
            }
        }
        index.truncate(starts).await
    }
}

impl ShardIndex {
    /// Checks that no log would start above what readers of this node see.
    fn check_starts(&self, starts: &[(TopicPartition, Offset)]) -> Result<(), TruncateError> {
        for (partition, start) in starts {
            let (partition, high_watermark) = (*partition, self.log(*partition).high_watermark());
            if *start > high_watermark {
                return Err(TruncateError::AboveHighWatermark { partition, high_watermark });
            }
        }
        Ok(())
    }

    /// Moves log starts forward as [`Shard::truncate`] does, on a store that others may write, whoever leads the shard: there
    /// a high watermark lies nowhere above what is stored.
    ///
    /// # Errors
    /// [`TruncateError`]; a retry is safe.
    ///
    /// # Cancel safety
    /// As [`Shard::truncate`].
    ///
    /// # Cost
    /// As [`ShardStore::truncate`].
    pub async fn truncate(&self, starts: &[(TopicPartition, Offset)]) -> Result<(), TruncateError> {
        self.check_starts(starts)?;
        let _alone = self.changes.lock().await;
        let done = self.at.truncate(starts, &self.pages()).await;
        match done {
            Ok(Truncated { pages, .. }) => {
                self.show(pages);
                Ok(())
            }
            Err(error) => {
                // Whatever the caller is told, readers go by what is stored, if the store says so.
                if let Ok(Some((manifest, _))) = self.at.manifest().await
                    && let Ok(pages) = self.at.pages(&manifest, &self.pages()).await
                {
                    self.show(pages);
                }
                Err(error)
            }
        }
    }
}
