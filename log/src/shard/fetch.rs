//! Reads batches of a partition: from memory at the tail, else from the object that the index names.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use crate::error::{ErrorKind, FormatError};
use crate::format::manifest::{Manifest, RolledRef};
use crate::format::record_batch::{self, RecordBatch};
use crate::format::wal_object::{Footer, IndexEntry, WalHeader};
use crate::limits;
use crate::model::{JobId, Offset, Timestamp, TopicId, TopicPartition, WalSeq};
use crate::shard::open::{OpenError, ShardStore};
use crate::shard::pages::Pages;
use crate::shard::partition::{Extent, Located, PartitionLog, Source};

/// Why a fetch gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The offset is below the log start.
    #[error("offset is below the log start: log_start={log_start}")]
    Expired {
        /// The first offset that may still be read.
        log_start: Offset,
    },
    /// The store did not answer, or what the index names was not there after several looks. Try later.
    #[error("store is unavailable")]
    Unavailable(#[source] Option<crate::store::StoreError>),
    /// A stored batch is damaged.
    #[error("stored batch is damaged")]
    Corrupt(#[from] FormatError),
}

impl FetchError {
    /// Returns the class of the error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Expired { .. } => ErrorKind::NotFound,
            Self::Unavailable(_) => ErrorKind::Unavailable,
            Self::Corrupt(_) => ErrorKind::Corrupt,
        }
    }
}

/// Batches of one partition, as stored.
#[derive(Debug, Default)]
pub struct Fetched {
    /// In offset order; the first may begin below the offset asked for. Empty at the high watermark.
    pub batches: Vec<RecordBatch>,
    /// Where the next fetch goes on.
    pub next: Offset,
}

impl Fetched {
    fn new(batches: Vec<RecordBatch>, without: Offset) -> Self {
        let next = batches.last().map_or(without, |batch| batch.header().end_offset());
        Self { batches, next }
    }
}

#[derive(Debug, Clone)]
struct ByLength;

impl Weighter<(Source, u64), Bytes> for ByLength {
    fn weight(&self, _: &(Source, u64), bytes: &Bytes) -> u64 {
        bytes.len() as u64
    }
}

/// What a shard's partitions look like to readers, and the way to their bytes.
#[derive(Debug)]
pub struct ShardIndex {
    pub(super) at: ShardStore,
    logs: RwLock<HashMap<TopicPartition, Arc<PartitionLog>>>,
    blocks: Cache<(Source, u64), Bytes, ByLength>,
    rolled: Mutex<Rolled>,
    gone: RwLock<Gone>,
    /// Held while this node changes the manifest, so that its own changes do not race each other.
    pub(super) changes: tokio::sync::Mutex<()>,
}

/// What the index took over from the manifest.
#[derive(Debug, Default)]
struct Rolled {
    version: u64,
    floor: WalSeq,
    /// What each rolled object holds.
    entries: HashMap<JobId, Arc<[IndexEntry]>>,
    pages: Pages,
    above: VecDeque<ObjectAbove>,
}

/// Topics that were deleted: what the log still holds of them is nobody's.
#[derive(Debug, Default)]
struct Gone {
    topics: HashSet<TopicId>,
    oldest_first: VecDeque<TopicId>,
}

/// A WAL object above the floor.
#[derive(Debug, Clone, Copy)]
struct ObjectAbove {
    seq: WalSeq,
    size_bytes: u64,
    append_time: Timestamp,
}

/// What lies above the floor: what a roll would take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Backlog {
    /// DATA objects.
    pub objects: usize,
    /// Their bytes.
    pub size_bytes: u64,
    /// Append time of the oldest.
    pub oldest: Option<Timestamp>,
}

impl ShardIndex {
    pub(crate) fn new(at: ShardStore) -> Self {
        let blocks = Cache::with_weighter(1024, limits::SHARD_BLOCK_CACHE_BYTES, ByLength);
        let (logs, rolled, gone) = (RwLock::default(), Mutex::default(), RwLock::default());
        Self { at, logs, blocks, rolled, gone, changes: tokio::sync::Mutex::default() }
    }

    /// Returns a partition's index; an empty one when it never had a record, or its topic is gone.
    pub fn log(&self, partition: TopicPartition) -> Arc<PartitionLog> {
        if let Some(log) = self.logs.read().get(&partition) {
            return Arc::clone(log);
        }
        let mut logs = self.logs.write();
        let new = || Arc::new(PartitionLog::new(partition));
        // Under the lock that [`Self::forget`] takes after it has noted the topic.
        if self.is_gone(partition.topic) {
            return new();
        }
        Arc::clone(logs.entry(partition).or_insert_with(new))
    }

    /// Forgets a deleted topic: nothing of it is read or kept in memory any more, and appends to it are refused. Of the
    /// topics forgotten the last [`limits::TOPICS_DELETED_MAX`] are remembered.
    pub fn forget(&self, topic: TopicId) {
        {
            let mut gone = self.gone.write();
            if gone.topics.insert(topic) {
                gone.oldest_first.push_back(topic);
            }
            if gone.oldest_first.len() > limits::TOPICS_DELETED_MAX {
                let oldest = gone.oldest_first.pop_front();
                oldest.map(|oldest| gone.topics.remove(&oldest));
            }
        }
        // A leader holds on to logs of what it stored last; what is in them is freed now.
        let of_topic =
            self.logs.write().extract_if(|partition, _| partition.topic == topic).collect::<Vec<_>>();
        of_topic.iter().for_each(|(_, log)| log.clear());
        for entries in self.rolled.lock().entries.values_mut() {
            if entries.iter().any(|entry| entry.partition.topic == topic) {
                *entries = entries.iter().filter(|entry| entry.partition.topic != topic).copied().collect();
            }
        }
    }

    /// Tells whether a topic was deleted.
    pub fn is_gone(&self, topic: TopicId) -> bool {
        self.gone.read().topics.contains(&topic)
    }

    /// Reads batches from an offset on, up to about `max_bytes` as stored.
    ///
    /// # Errors
    /// [`FetchError`]; a retry is safe.
    ///
    /// # Cost
    /// None at the tail; else at most one ranged GET for up to [`limits::WAL_OBJECT_BYTES_MAX`], and none when it was
    /// read recently. An object that is gone has been rolled: the index is looked at again, a few times.
    pub async fn fetch(
        &self,
        partition: TopicPartition,
        from: Offset,
        max_bytes: usize,
    ) -> Result<Fetched, FetchError> {
        let log = self.log(partition);
        let mut pause = limits::PUT_BACKOFF_MIN;
        for _ in 0..limits::FETCH_ATTEMPTS_MAX {
            match log.locate(from, max_bytes) {
                Located::NotYet => return Ok(Fetched::new(Vec::new(), from)),
                Located::Expired { log_start } => return Err(FetchError::Expired { log_start }),
                Located::Tail { batches, high_watermark } => {
                    let batches = batches.into_iter().flat_map(record_batch::batches);
                    return Ok(Fetched::new(batches.collect::<Result<_, _>>()?, high_watermark));
                }
                Located::Extent(extent) => {
                    if let Some(bytes) = self.read(&extent).await? {
                        return Ok(Fetched::new(cut(bytes, from, max_bytes)?, extent.entry.end_offset));
                    }
                }
            }
            tokio::time::sleep(pause).await;
            pause = crate::shard::open::next_pause(pause);
        }
        tracing::error!(shard.id = %self.at.shard, topic.id = %partition.topic, "an object named by the index is missing");
        Err(FetchError::Unavailable(None))
    }

    /// Returns the first offset whose record's timestamp is not before this one; none when there is none yet.
    ///
    /// # Errors
    /// [`FetchError`]; a retry is safe.
    ///
    /// # Cost
    /// At most one ranged GET.
    pub async fn offset_at(
        &self,
        partition: TopicPartition,
        timestamp: Timestamp,
    ) -> Result<Option<Offset>, FetchError> {
        let log = self.log(partition);
        let Some(mut at) = log.first_at(timestamp) else { return Ok(None) };
        loop {
            let fetched = match self.fetch(partition, at, limits::WAL_OBJECT_BYTES_MAX).await {
                // It moved while we looked.
                Err(FetchError::Expired { log_start }) => {
                    at = log_start;
                    continue;
                }
                fetched => fetched?,
            };
            if fetched.next <= at {
                return Ok(None);
            }
            let from = std::mem::replace(&mut at, fetched.next);
            for batch in fetched.batches.iter().filter(|b| b.header().max_timestamp >= timestamp) {
                for record in batch.records()? {
                    let record = record?;
                    if record.timestamp >= timestamp && record.offset >= from {
                        return Ok(Some(record.offset));
                    }
                }
            }
        }
    }

    async fn read(&self, extent: &Extent) -> Result<Option<Bytes>, FetchError> {
        let block = (extent.source, extent.entry.position);
        if let Some(bytes) = self.blocks.get(&block) {
            return Ok(Some(bytes));
        }
        let key = match extent.source {
            Source::Wal(seq) => self.at.keys.wal(self.at.shard, seq),
            Source::Rolled(rolled) => self.at.keys.rolled(self.at.shard, &rolled),
        };
        let end = extent.entry.position + u64::from(extent.entry.length);
        let read = self.at.store.get_range(&key, extent.entry.position..end).await;
        let bytes = read.map_err(|error| FetchError::Unavailable(Some(error)))?;
        if let Some(bytes) = &bytes {
            self.blocks.insert(block, bytes.clone());
        }
        Ok(bytes)
    }

    /// Adds what a WAL object holds, unless it was rolled before its leader knew that it is stored.
    pub(crate) fn add_object(&self, header: &WalHeader, footer: &Footer) {
        let seq = header.seq;
        let mut rolled = self.rolled.lock();
        if seq < rolled.floor {
            return;
        }
        let (size_bytes, append_time) = (header.object_len, header.append_time);
        rolled.above.push_back(ObjectAbove { seq, size_bytes, append_time });
        let held = |entry: &&IndexEntry| entry.count > 0 && !self.is_gone(entry.partition.topic);
        for entry in footer.entries.iter().filter(held) {
            self.log(entry.partition).add_extent(Extent { source: Source::Wal(seq), entry: *entry });
        }
    }

    /// Takes over what a manifest says about everything below its floor, and its log starts. An older manifest than the
    /// last is ignored.
    ///
    /// # Errors
    /// [`OpenError`]; the index is unchanged, and a retry is safe.
    ///
    /// # Cost
    /// Up to 3 GETs for each rolled object that is new to the index, one for each page.
    pub async fn adopt(&self, manifest: &Manifest) -> Result<(), OpenError> {
        match self.read_named(manifest).await {
            Ok((entries, pages)) => {
                self.take_over(manifest, entries, pages);
                Ok(())
            }
            // What an older manifest names may be deleted once the next is taken over.
            Err(_) if self.rolled.lock().version > manifest.version => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Reads what a manifest names, as far as it is new to the index.
    async fn read_named(
        &self,
        manifest: &Manifest,
    ) -> Result<(HashMap<JobId, Arc<[IndexEntry]>>, Pages), OpenError> {
        let mut entries = HashMap::new();
        for reference in &manifest.rolled {
            let known = self.rolled.lock().entries.get(&reference.job).cloned();
            let held = match known {
                Some(held) => held,
                None => self.rolled_entries(reference).await?,
            };
            entries.insert(reference.job, held);
        }
        let known = self.pages();
        Ok((entries, self.at.pages(manifest, &known).await?))
    }

    fn take_over(&self, manifest: &Manifest, entries: HashMap<JobId, Arc<[IndexEntry]>>, pages: Pages) {
        let mut extents: HashMap<TopicPartition, Vec<Extent>> = HashMap::new();
        for reference in &manifest.rolled {
            for entry in entries.get(&reference.job).into_iter().flat_map(|held| held.iter()) {
                let extent = Extent { source: Source::Rolled(*reference), entry: *entry };
                extents.entry(entry.partition).or_default().push(extent);
            }
        }
        let mut rolled = self.rolled.lock();
        if manifest.version < rolled.version {
            return;
        }
        rolled.version = manifest.version;
        rolled.floor = manifest.floor;
        rolled.entries = entries;
        rolled.above.retain(|object| object.seq >= manifest.floor);
        // All of them: a partition that no rolled object holds any more must forget those that did.
        let known: Vec<_> = self.logs.read().keys().copied().collect();
        for partition in known {
            extents.entry(partition).or_default();
        }
        for (partition, extents) in extents {
            if !self.is_gone(partition.topic) {
                self.log(partition).replace_below(manifest.floor, extents);
            }
        }
        drop(rolled);
        self.show(pages);
    }

    /// Returns the pages last shown.
    pub(super) fn pages(&self) -> Pages {
        self.rolled.lock().pages.clone()
    }

    /// Moves the log starts of readers to what pages say. Older pages than the last move nothing back.
    pub(super) fn show(&self, pages: Pages) {
        for noted in pages.partitions().filter(|noted| !self.is_gone(noted.partition.topic)) {
            self.log(noted.partition).start_at(noted.log_start);
        }
        self.rolled.lock().pages = pages;
    }

    /// Returns what lies above the floor.
    pub fn backlog(&self) -> Backlog {
        let rolled = self.rolled.lock();
        Backlog {
            objects: rolled.above.len(),
            size_bytes: rolled.above.iter().map(|object| object.size_bytes).sum(),
            oldest: rolled.above.front().map(|object| object.append_time),
        }
    }

    /// Reads what a rolled object holds of topics that are there.
    async fn rolled_entries(&self, reference: &RolledRef) -> Result<Arc<[IndexEntry]>, OpenError> {
        let key = self.at.keys.rolled(self.at.shard, reference);
        let object = self.at.object(&key).await?;
        let object = object.ok_or_else(|| OpenError::Missing { key: key.to_string() })?;
        let entries = object.footer.entries.into_iter();
        Ok(entries.filter(|entry| !self.is_gone(entry.partition.topic)).collect())
    }
}

/// Keeps the batches from an offset on, up to about `max_bytes`.
fn cut(bytes: Bytes, from: Offset, max_bytes: usize) -> Result<Vec<RecordBatch>, FormatError> {
    let mut kept = Vec::new();
    let mut size = 0;
    for batch in record_batch::batches(bytes) {
        let batch = batch?;
        if batch.header().end_offset() <= from {
            continue;
        }
        if size > 0 && size + batch.header().size_bytes > max_bytes {
            break;
        }
        size += batch.header().size_bytes;
        kept.push(batch);
    }
    Ok(kept)
}
