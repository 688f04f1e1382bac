//! Reads batches of a partition: from memory at the tail, else from the object that the index names.
//!
//! An index lasts as long as its node, over all leaderships and followings of its shard. All of them add the objects of one
//! path in its order, one at a time, so that each goes on where the last one got to: below [`ShardIndex::path`] nothing is
//! missing, and what is added again is ignored.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard, watch};

use crate::error::{ErrorKind, FormatError};
use crate::format::manifest::{Manifest, RolledRef};
use crate::format::record_batch::{self, RecordBatch};
use crate::format::wal_object::{Footer, IndexEntry, WalHeader};
use crate::limits;
use crate::model::{JobId, Offset, Timestamp, TopicId, TopicPartition, WalSeq};
use crate::shard::cache::BlockCache;
use crate::shard::feed::StoredObject;
use crate::shard::open::{OpenError, ShardStore};
use crate::shard::pages::Pages;
use crate::shard::partition::{Extent, Located, PartitionLog, Source};
use crate::shard::tail::Tail;
use crate::shard::walk::{PathFault, Walk};
use crate::store::{Revision, StoreError};

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
    Unavailable(#[source] Option<Arc<StoreError>>),
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

/// Where a fetch finds its batches.
#[derive(Debug)]
enum Found {
    /// In memory.
    Here(Fetched),
    /// In the store alone.
    Stored(Extent),
}

/// What a shard's partitions look like to readers, and the way to their bytes.
#[derive(Debug)]
pub struct ShardIndex {
    pub(super) at: ShardStore,
    logs: RwLock<HashMap<TopicPartition, Arc<PartitionLog>>>,
    blocks: BlockCache,
    rolled: Mutex<Rolled>,
    /// The version of the manifest that was taken over last.
    versions: watch::Sender<u64>,
    gone: RwLock<Gone>,
    tail: Mutex<Tail>,
    /// Held by who adds objects of the path.
    feeding: Arc<AsyncMutex<()>>,
    /// The root that [`Self::refresh`] has seen last.
    seen: AsyncMutex<Option<Revision>>,
    /// Held while this node changes the manifest, so that its own changes do not race each other.
    pub(super) changes: AsyncMutex<()>,
}

/// What the index took over from the manifest, and how far it goes above.
#[derive(Debug, Default)]
struct Rolled {
    version: u64,
    /// What each rolled object holds.
    entries: HashMap<JobId, Arc<[IndexEntry]>>,
    pages: Pages,
    above: VecDeque<ObjectAbove>,
    /// Every DATA object of the path below was added, or is rolled.
    next: WalSeq,
    /// A position of the path below which nothing is missing; none before a manifest was adopted.
    path: Option<Walk>,
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
    /// Begins the index of a shard, without anything in it yet. `blocks` is the node's.
    pub fn new(at: ShardStore, blocks: BlockCache) -> Self {
        Self {
            at,
            logs: RwLock::default(),
            blocks,
            rolled: Mutex::default(),
            versions: watch::Sender::new(0),
            gone: RwLock::default(),
            tail: Mutex::default(),
            feeding: Arc::default(),
            seen: AsyncMutex::default(),
            changes: AsyncMutex::default(),
        }
    }

    /// Returns what changes with the version of the manifest that readers go by.
    pub fn manifest_versions(&self) -> watch::Receiver<u64> {
        self.versions.subscribe()
    }

    /// Returns the topics of which something is or was here.
    pub(crate) fn topics(&self) -> HashSet<TopicId> {
        self.logs.read().keys().map(|partition| partition.topic).collect()
    }

    /// Waits until nobody else adds objects of the path, and keeps them out.
    pub(crate) async fn feed_alone(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.feeding).lock_owned().await
    }

    /// As [`Self::feed_alone`], without waiting.
    pub(crate) fn try_feed_alone(&self) -> Option<OwnedMutexGuard<()>> {
        Arc::clone(&self.feeding).try_lock_owned().ok()
    }

    /// Returns a position of the path below which nothing is missing here; none in a new index.
    pub(crate) fn path(&self) -> Option<Walk> {
        self.rolled.lock().path.clone()
    }

    /// Notes a position of the path below which nothing is missing here.
    pub(crate) fn walked(&self, walk: Walk) {
        self.rolled.lock().path = Some(walk);
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

    /// Reads what is in memory of the batches from an offset on, up to about `max_bytes` as stored; nothing where they
    /// are in the store alone.
    ///
    /// # Errors
    /// [`FetchError`]; a retry is safe.
    ///
    /// # Cost
    /// What a reader in order will want next may be read ahead: up to [`limits::READ_AHEAD_BYTES`], in the background.
    pub fn fetch_from_memory(
        &self,
        partition: TopicPartition,
        from: Offset,
        max_bytes: usize,
    ) -> Result<Option<Fetched>, FetchError> {
        match self.find(&self.log(partition), from, max_bytes)? {
            Found::Here(fetched) => Ok(Some(fetched)),
            Found::Stored(_) => Ok(None),
        }
    }

    /// Reads batches from an offset on, up to about `max_bytes` as stored.
    ///
    /// # Errors
    /// [`FetchError`]; a retry is safe.
    ///
    /// # Cost
    /// None at the tail; else at most one ranged GET for up to [`limits::WAL_OBJECT_BYTES_MAX`], and none when it was
    /// read recently. An object that is gone has been rolled: the root and the index are looked at again, a few times.
    /// Reads ahead as [`Self::fetch_from_memory`] does.
    pub async fn fetch(
        &self,
        partition: TopicPartition,
        from: Offset,
        max_bytes: usize,
    ) -> Result<Fetched, FetchError> {
        let log = self.log(partition);
        let mut pause = limits::PUT_BACKOFF_MIN;
        for _ in 0..limits::FETCH_ATTEMPTS_MAX {
            let extent = match self.find(&log, from, max_bytes)? {
                Found::Here(fetched) => return Ok(fetched),
                Found::Stored(extent) => extent,
            };
            if let Some(bytes) = self.blocks.read(&self.at, &extent).await.map_err(FetchError::Unavailable)? {
                return Ok(Fetched::new(cut(&extent, bytes, from, max_bytes)?, extent.entry.end_offset));
            }
            // Another node may have rolled it. A root that cannot be read now is looked at again in the next turn.
            if !self.refresh().await.unwrap_or(false) {
                tokio::time::sleep(pause).await;
                pause = crate::shard::open::next_pause(pause);
            }
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

    fn find(&self, log: &PartitionLog, from: Offset, max_bytes: usize) -> Result<Found, FetchError> {
        let extent = match log.locate(from, max_bytes) {
            Located::NotYet => return Ok(Found::Here(Fetched::new(Vec::new(), from))),
            Located::Expired { log_start } => return Err(FetchError::Expired { log_start }),
            Located::Tail { batches, high_watermark } => {
                let batches = batches.into_iter().flat_map(record_batch::batches);
                return Ok(Found::Here(Fetched::new(batches.collect::<Result<_, _>>()?, high_watermark)));
            }
            Located::Extent(extent) => extent,
        };
        self.read_ahead(log, from, &extent);
        let Some(bytes) = self.blocks.get(&self.at, &extent) else { return Ok(Found::Stored(extent)) };
        let batches = cut(&extent, bytes, from, max_bytes)?;
        Ok(Found::Here(Fetched::new(batches, extent.entry.end_offset)))
    }

    /// Reads ahead of a reader that goes from one extent to the next: it is at the beginning of this one, and the one
    /// before was read lately. Who looks here and there is left alone.
    fn read_ahead(&self, log: &PartitionLog, from: Offset, extent: &Extent) {
        if from > extent.entry.base_offset {
            return;
        }
        let (before, behind) = log.around(extent, limits::READ_AHEAD_EXTENTS, limits::READ_AHEAD_BYTES);
        if before.is_some_and(|before| self.blocks.holds(&self.at, &before)) {
            self.blocks.read_ahead(&self.at, &behind);
        }
    }

    /// Checks that the offsets of the path's next object continue where those here end (R5). An object that is here is
    /// not looked at.
    pub(crate) fn check_offsets(&self, header: &WalHeader, footer: &Footer) -> Result<(), PathFault> {
        let (seq, rolled) = (header.seq, self.rolled.lock());
        if seq < rolled.next || header.jump {
            return Ok(());
        }
        let breaks = footer.entries.iter().find_map(|entry| {
            let expected = self.log(entry.partition).next_offsets();
            let continues = expected.contains(&entry.base_offset);
            // Asked last, for it may be forgotten at any time.
            (!continues && !self.is_gone(entry.partition.topic))
                .then_some((entry.base_offset, *expected.end()))
        });
        match breaks {
            Some((found, expected)) => {
                Err(PathFault::Offsets { seq, found: found.get(), expected: expected.get() })
            }
            None => Ok(()),
        }
    }

    /// Adds what the path's next DATA object holds, unless it is here or was rolled already: readers see it from now on.
    pub(crate) fn add_object(&self, header: &WalHeader, footer: &Footer) {
        self.add(header, footer, |_| None);
    }

    /// As [`Self::add_object`], and keeps the batches that are at hand in memory.
    pub(crate) fn add_stored(&self, object: &StoredObject) {
        self.add(object.header(), object.footer(), |entry| object.batches(entry));
    }

    fn add(&self, header: &WalHeader, footer: &Footer, batches: impl Fn(usize) -> Option<Bytes>) {
        let WalHeader { seq, object_len: size_bytes, append_time, .. } = *header;
        let mut rolled = self.rolled.lock();
        if seq < rolled.next {
            return;
        }
        rolled.next = seq.plus(1);
        if let Some(path) = rolled.path.as_mut().filter(|path| path.is_next(header)) {
            // It was just found to be what stands there.
            let _ = path.accept(header);
        }
        rolled.above.push_back(ObjectAbove { seq, size_bytes, append_time });
        let mut tail = self.tail.lock();
        for (number, entry) in footer.entries.iter().enumerate() {
            if entry.count == 0 || self.is_gone(entry.partition.topic) {
                continue;
            }
            let log = self.log(entry.partition);
            if log.add_extent(Extent { source: Source::Wal(seq), entry: *entry }, || batches(number)) {
                tail.add(log, entry.end_offset, u64::from(entry.length));
            }
        }
        tail.trim();
    }

    /// Forgets batches in memory that their leader has not stored: its leadership has ended.
    pub(crate) fn drop_unpublished(&self) {
        self.logs.read().values().for_each(|log| log.drop_unpublished());
    }

    /// Looks at the root of the shard and [adopts](Self::adopt) it if it is new: what other nodes rolled or truncated shows
    /// from now on. Tells whether it was new.
    ///
    /// # Errors
    /// [`OpenError`]; a retry is safe.
    ///
    /// # Cost
    /// 1 GET, without a body where nothing has changed since the last look; and what [`Self::adopt`] costs.
    pub async fn refresh(&self) -> Result<bool, OpenError> {
        let mut seen = self.seen.lock().await;
        let Some((manifest, revision)) = self.at.manifest_if_changed(seen.as_ref()).await? else {
            return Ok(false);
        };
        let is_new = self.is_behind(&manifest);
        if is_new {
            self.adopt(&manifest).await?;
        }
        *seen = Some(revision);
        Ok(is_new)
    }

    /// Tells whether a manifest is newer than the one that readers go by.
    pub(crate) fn is_behind(&self, manifest: &Manifest) -> bool {
        manifest.version > self.rolled.lock().version
    }

    /// Takes over what a manifest says about everything below its floor, and its log starts. An older manifest than the
    /// last is ignored.
    ///
    /// # Errors
    /// [`OpenError`]; the index is unchanged, and a retry is safe.
    ///
    /// # Cost
    /// Up to 3 GETs for each rolled object that is new to the index, [`limits::READ_AHEAD_MAX`] objects at once; one for
    /// each page.
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
        let mut entries = self.rolled.lock().entries.clone();
        let new: Vec<RolledRef> = manifest
            .rolled
            .iter()
            .filter(|reference| !entries.contains_key(&reference.job))
            .copied()
            .collect();
        entries.retain(|job, _| manifest.rolled.iter().any(|reference| reference.job == *job));
        let reads = new.into_iter().map(|reference| self.rolled_entries(reference));
        let reads = stream::iter(reads).buffer_unordered(limits::READ_AHEAD_MAX);
        entries.extend(reads.try_collect::<Vec<_>>().await?);
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
        self.versions.send_replace(manifest.version);
        rolled.next = rolled.next.max(manifest.floor);
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
    async fn rolled_entries(&self, reference: RolledRef) -> Result<(JobId, Arc<[IndexEntry]>), OpenError> {
        let key = self.at.keys.rolled(self.at.shard, &reference);
        let object = self.at.object(&key).await?;
        let object = object.ok_or_else(|| OpenError::Missing { key: key.to_string() })?;
        let entries = object.footer.entries.into_iter();
        Ok((reference.job, entries.filter(|entry| !self.is_gone(entry.partition.topic)).collect()))
    }
}

/// Keeps the batches of an extent from an offset on, up to about `max_bytes`.
fn cut(
    extent: &Extent,
    bytes: Bytes,
    from: Offset,
    max_bytes: usize,
) -> Result<Vec<RecordBatch>, FormatError> {
    if bytes.len() as u64 != u64::from(extent.entry.length) {
        return Err(FormatError::Truncated { what: "run of batches" });
    }
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
