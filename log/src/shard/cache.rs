//! The node's memory of what was read from the store, and reading ahead.
//!
//! A *block* is the bytes of one extent. All shards of a node share one [`BlockCache`], whose size is a setting.
//!
//! - A block is an allocation of its own, never a slice of an answer of the store, so that what is counted is what is held.
//! - However many ask for a block, one GET is under way for it; it goes on when all of them have gone away.
//! - A block that is asked for goes to the store at once. Reading ahead takes what GETs and what room are free, and does
//!   without when there are none.
//! - A block that was read ahead holds room until it is read or evicted: readers that do not come after it stop the
//!   reading ahead, and never fill the cache.
//!
//! The longest unused block leaves first. A cache that prefers what is read often would let go of what was read ahead,
//! because nobody has read that yet.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use foyer_memory::{Cache, LruConfig};
use futures::FutureExt;
use futures::future::Shared;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::limits;
use crate::model::ShardId;
use crate::shard::open::ShardStore;
use crate::shard::partition::{Extent, Source};
use crate::store::StoreError;

/// Parts of the cache, each with its lock and its share of the room.
const PARTS: usize = 4;
/// What a block takes beside its bytes.
const BLOCK_OVERHEAD_BYTES: usize = 256;
/// Bytes that one permit for reading ahead stands for.
const PERMIT_BYTES: usize = 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct BlockId {
    shard: ShardId,
    source: Source,
    position: u64,
}

impl BlockId {
    fn new(at: &ShardStore, extent: &Extent) -> Self {
        Self { shard: at.shard, source: extent.source, position: extent.entry.position }
    }
}

#[derive(Debug)]
struct Block {
    bytes: Bytes,
    /// The room it takes as one that was read ahead, until it is read.
    ahead: Mutex<Option<OwnedSemaphorePermit>>,
}

/// What a GET of neighbouring blocks gave: their bytes in order, or nothing where the object is gone.
type Answer = Result<Option<Arc<[Bytes]>>, Arc<StoreError>>;

/// A GET under way, and which of its blocks is meant.
#[derive(Debug, Clone)]
struct Awaited {
    answer: Shared<oneshot::Receiver<Answer>>,
    index: usize,
}

#[derive(Debug)]
struct Inner {
    blocks: Cache<BlockId, Block>,
    under_way: Mutex<HashMap<BlockId, Awaited>>,
    /// Room for blocks that were read ahead.
    ahead: Arc<Semaphore>,
    /// GETs that read ahead.
    gets: Arc<Semaphore>,
}

/// A bounded memory of blocks, shared by all shards of a node. Clones are handles to the same.
#[derive(Debug, Clone)]
pub struct BlockCache {
    inner: Arc<Inner>,
}

impl BlockCache {
    /// Makes an empty cache of this many bytes.
    pub fn new(bytes: usize) -> Self {
        let blocks = Cache::builder(bytes)
            .with_shards(PARTS)
            .with_eviction_config(LruConfig { high_priority_pool_ratio: 0.0 })
            .with_weighter(|_: &BlockId, block: &Block| block.bytes.len() + BLOCK_OVERHEAD_BYTES)
            .build();
        let ahead = Arc::new(Semaphore::new(bytes / limits::READ_AHEAD_CACHE_SHARE / PERMIT_BYTES));
        let gets = Arc::new(Semaphore::new(limits::READ_AHEAD_GETS_MAX));
        Self { inner: Arc::new(Inner { blocks, under_way: Mutex::default(), ahead, gets }) }
    }

    /// Returns the bytes of an extent, if they are in memory.
    pub(crate) fn get(&self, at: &ShardStore, extent: &Extent) -> Option<Bytes> {
        let block = self.inner.blocks.get(&BlockId::new(at, extent))?;
        block.ahead.lock().take();
        Some(block.bytes.clone())
    }

    /// Tells whether the bytes of an extent are in memory.
    pub(crate) fn holds(&self, at: &ShardStore, extent: &Extent) -> bool {
        self.inner.blocks.contains(&BlockId::new(at, extent))
    }

    /// Returns the bytes of an extent; nothing when its object is gone.
    ///
    /// # Errors
    /// The store's; none when the GET was given up because the process ends. A retry is safe.
    ///
    /// # Cost
    /// None if they are in memory, or on their way for another reader; else one ranged GET.
    pub(crate) async fn read(
        &self,
        at: &ShardStore,
        extent: &Extent,
    ) -> Result<Option<Bytes>, Option<Arc<StoreError>>> {
        let id = BlockId::new(at, extent);
        let awaited = {
            let mut under_way = self.inner.under_way.lock();
            // A GET's blocks are in memory before it is no longer under way.
            if let Some(bytes) = self.get(at, extent) {
                return Ok(Some(bytes));
            }
            match under_way.get(&id) {
                Some(awaited) => awaited.clone(),
                None => self.begin(&mut under_way, at, std::slice::from_ref(extent), None),
            }
        };
        let answer = awaited.answer.await.map_err(|_| None)?.map_err(Some)?;
        // The reader that a block was read ahead for has it now.
        self.get(at, extent);
        Ok(answer.and_then(|blocks| blocks.get(awaited.index).cloned()))
    }

    /// Begins to read extents that a reader will want next, in order, as far as there is room; those already here or on
    /// their way are left out. Nobody waits.
    ///
    /// # Cost
    /// One ranged GET for neighbours in one object, up to [`limits::READ_AHEAD_GET_BYTES`] each; none while half of what
    /// may be ahead is.
    pub(crate) fn read_ahead(&self, at: &ShardStore, extents: &[Extent]) {
        let mut under_way = self.inner.under_way.lock();
        let here =
            |extent: &Extent| under_way.contains_key(&BlockId::new(at, extent)) || self.holds(at, extent);
        let missing: Vec<Extent> = extents.iter().filter(|extent| !here(extent)).copied().collect();
        let Some(first) = missing.first() else { return };
        let ready = extents.iter().take_while(|extent| *extent != first);
        let (count, bytes) = ready.fold((0, 0), |(count, bytes), extent| (count + 1, bytes + length(extent)));
        if count >= limits::READ_AHEAD_EXTENTS / 2 || bytes >= limits::READ_AHEAD_BYTES / 2 {
            return;
        }
        for run in missing.chunk_by(neighbours).flat_map(gets) {
            let Ok(get) = Arc::clone(&self.inner.gets).try_acquire_owned() else { return };
            let permits = run
                .iter()
                .map(|extent| Arc::clone(&self.inner.ahead).try_acquire_many_owned(permits(extent)));
            let Ok(room) = permits.collect::<Result<Vec<_>, _>>() else { return };
            self.begin(&mut under_way, at, run, Some((get, room)));
        }
    }

    /// Begins one GET for extents that are neighbours in one object, and returns the first. `ahead` is what it takes of
    /// the room for reading ahead, none for a reader that waits.
    fn begin(
        &self,
        under_way: &mut HashMap<BlockId, Awaited>,
        at: &ShardStore,
        run: &[Extent],
        ahead: Option<(OwnedSemaphorePermit, Vec<OwnedSemaphorePermit>)>,
    ) -> Awaited {
        let (sender, receiver) = oneshot::channel();
        let first = Awaited { answer: receiver.shared(), index: 0 };
        for (index, extent) in run.iter().enumerate() {
            under_way.insert(BlockId::new(at, extent), Awaited { index, ..first.clone() });
        }
        let (inner, at, run) = (Arc::clone(&self.inner), at.clone(), run.to_vec());
        tokio::spawn(async move {
            let answer = get(&at, &run).await;
            let (_get, mut room) = ahead.map_or((None, Vec::new()), |(get, room)| (Some(get), room));
            for (extent, bytes) in run.iter().zip(answer.iter().flatten().flat_map(|blocks| blocks.iter())) {
                let ahead = Mutex::new((!room.is_empty()).then(|| room.remove(0)));
                inner.blocks.insert(BlockId::new(&at, extent), Block { bytes: bytes.clone(), ahead });
            }
            let mut under_way = inner.under_way.lock();
            run.iter().for_each(|extent| drop(under_way.remove(&BlockId::new(&at, extent))));
            // Whoever asked may have gone.
            let _ = sender.send(answer);
        });
        first
    }
}

/// Reads neighbours in one GET, and copies each out of the answer.
async fn get(at: &ShardStore, run: &[Extent]) -> Answer {
    let (Some(first), Some(last)) = (run.first(), run.last()) else { return Ok(None) };
    let key = match first.source {
        Source::Wal(seq) => at.keys.wal(at.shard, seq),
        Source::Rolled(rolled) => at.keys.rolled(at.shard, &rolled),
    };
    let start = first.entry.position;
    let Some(bytes) = at.store.get_range(&key, start..range(last).end).await.map_err(Arc::new)? else {
        return Ok(None);
    };
    let block = |extent: &Extent| {
        let within = |at: u64| usize::try_from(at - start).unwrap_or(usize::MAX).min(bytes.len());
        let Range { start, end } = range(extent);
        Bytes::copy_from_slice(&bytes[within(start)..within(end)])
    };
    Ok(Some(run.iter().map(block).collect()))
}

fn range(extent: &Extent) -> Range<u64> {
    extent.entry.position..extent.entry.position + u64::from(extent.entry.length)
}

fn length(extent: &Extent) -> usize {
    usize::try_from(extent.entry.length).unwrap_or(usize::MAX)
}

fn permits(extent: &Extent) -> u32 {
    u32::try_from(length(extent) / PERMIT_BYTES + 1).unwrap_or(u32::MAX)
}

/// Tells whether one run of batches lies right behind the other in one object.
fn neighbours(one: &Extent, other: &Extent) -> bool {
    one.source == other.source && range(one).end == other.entry.position
}

/// Cuts neighbours into GETs.
fn gets(run: &[Extent]) -> impl Iterator<Item = &[Extent]> {
    let mut rest = run;
    std::iter::from_fn(move || {
        let mut size = 0;
        let fits = |extent: &&Extent| {
            size += length(extent);
            size <= limits::READ_AHEAD_GET_BYTES
        };
        let count = rest.iter().take_while(fits).count().max(1).min(rest.len());
        let (next, behind) = rest.split_at(count);
        rest = behind;
        (!next.is_empty()).then_some(next)
    })
}
