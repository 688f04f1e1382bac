//! One shard on a faulty store in memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use object_store::memory::InMemory;
use rand::SeedableRng;
use rand::rngs::StdRng;

use forebay_compactor::{Commit, CompactorError, Policy, roll};
use forebay_log::clock::{Clock, ManualClock};
use forebay_log::format::manifest::Manifest;
use forebay_log::keys::Keys;
use forebay_log::limits;
use forebay_log::model::{
    ClusterId, Compression, Durability, Offset, PartitionId, Record, ShardId, Timestamp, TimestampType,
    TopicId, TopicPartition,
};
use forebay_log::shard::{
    Append, Appended, BatchSource, BlockCache, Dedupe, LeaderOptions, NewBatch, Shard, ShardIndex,
    ShardStore, Signals,
};
use forebay_log::store::{Path, Store};
use forebay_log::testing::FaultyStore;

pub(crate) const PARTITIONS: u16 = 3;
/// Rolls whatever is there.
pub(crate) const EAGER: Policy =
    Policy { objects: 1, size_bytes: limits::ROLL_BYTES, age: Duration::from_secs(60) };

/// All batches of a partition, with its number.
pub(crate) type Contents = Vec<(u16, Vec<Bytes>)>;

pub(crate) struct Bench {
    memory: Arc<InMemory>,
    pub(crate) faulty: FaultyStore,
    pub(crate) at: ShardStore,
    pub(crate) clock: Arc<ManualClock>,
    seeds: AtomicU64,
}

pub(crate) fn partition(number: u16) -> TopicPartition {
    TopicPartition { topic: TopicId::new(0xabc), partition: PartitionId::new(number) }
}

pub(crate) fn unit(number: u16, records: usize, value_len: usize, dedupe: Option<Dedupe>) -> Append {
    let record = |n: usize| Record {
        value: Some(vec![u8::try_from(n % 251).unwrap_or(0); value_len].into()),
        ..Record::default()
    };
    let source = BatchSource::Records {
        records: (0..records).map(record).collect(),
        compression: Compression::None,
        timestamp_type: TimestampType::CreateTime,
    };
    let batches = vec![NewBatch { partition: partition(number), source, expected: None }];
    Append { batches, dedupe, level: Durability::Object }
}

impl Bench {
    pub(crate) fn new() -> Self {
        let memory = Arc::new(InMemory::new());
        let faulty = FaultyStore::new(memory.clone(), 7);
        let at = ShardStore {
            store: Store::with_objects(Arc::new(faulty.clone()), true),
            keys: Keys::new("cluster"),
            cluster: ClusterId::new(1),
            shard: ShardId::new(2),
        };
        let clock = Arc::new(ManualClock::default());
        clock.set(Timestamp::from_millis(1_000_000));
        Self { memory, faulty, at, clock, seeds: AtomicU64::new(0) }
    }

    /// Never the same twice.
    pub(crate) fn seed(&self) -> u64 {
        self.seeds.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn rng(&self) -> StdRng {
        StdRng::seed_from_u64(self.seed())
    }

    /// Returns the same shard, reached without faults.
    pub(crate) fn sound(&self) -> ShardStore {
        ShardStore { store: Store::with_objects(self.memory.clone(), true), ..self.at.clone() }
    }

    pub(crate) async fn open(&self) -> Shard {
        let shard = self.open_unrecovered().await;
        shard.recovered(false, Vec::new()).await.unwrap();
        shard
    }

    pub(crate) async fn open_unrecovered(&self) -> Shard {
        let options = LeaderOptions {
            clock: self.clock.clone(),
            journal: None,
            signals: Signals::default(),
            flush_linger: Duration::ZERO,
            unflushed_bytes_max: limits::SHARD_UNFLUSHED_BYTES_MAX,
            spill_bytes: limits::SHARD_SPILL_BYTES,
        };
        let index = Arc::new(ShardIndex::new(self.at.clone(), BlockCache::new(limits::CACHE_BYTES_MIN)));
        Shard::open(self.at.clone(), index, options, self.rng()).await.unwrap().0
    }

    /// Appends a unit and stores it in a WAL object of its own.
    pub(crate) async fn append(&self, shard: &Shard, append: Append) -> Appended {
        let appended = shard.append(append).await.unwrap();
        shard.flush().await;
        appended
    }

    /// Leads the shard, stores so many WAL objects, and leaves. So no reader has any of it in memory.
    pub(crate) async fn fill(&self, objects: u16) {
        let shard = self.open().await;
        for n in 0..objects {
            self.append(&shard, unit(n % PARTITIONS, 1 + usize::from(n % 4), 100, None)).await;
        }
    }

    pub(crate) async fn roll(&self) -> Result<Option<Commit>, CompactorError> {
        self.roll_by(&EAGER).await
    }

    pub(crate) async fn roll_by(&self, policy: &Policy) -> Result<Option<Commit>, CompactorError> {
        roll(&self.at, policy, self.clock.now(), &mut self.rng()).await
    }

    pub(crate) async fn manifest(&self) -> Manifest {
        self.at.manifest().await.unwrap().unwrap().0
    }

    pub(crate) async fn names(&self, prefix: &Path) -> Vec<Path> {
        let listed = self.at.store.list(prefix, None).await.unwrap();
        listed.into_iter().map(|object| object.location).collect()
    }

    /// Returns the names of all objects of the shard but its EPOCHs.
    pub(crate) async fn objects(&self) -> Vec<Path> {
        let listed = self.at.store.list(&Path::from("cluster"), None).await.unwrap();
        let epoch_len = limits::WAL_HEADER_LEN as u64;
        let is_epoch = |key: &Path, size| self.at.keys.parse_wal(key).is_some() && size == epoch_len;
        listed.into_iter().filter(|o| !is_epoch(&o.location, o.size)).map(|o| o.location).collect()
    }

    pub(crate) async fn epochs(&self) -> usize {
        let listed = self.at.store.list(&self.at.keys.wal_prefix(self.at.shard), None).await.unwrap();
        listed.iter().filter(|object| object.size == limits::WAL_HEADER_LEN as u64).count()
    }
}

/// Reads every batch that a shard's readers see.
pub(crate) async fn read_all(shard: &Shard) -> Contents {
    let mut contents = Vec::new();
    for number in 0..PARTITIONS {
        let (mut at, mut batches) = (Offset::ZERO, Vec::new());
        loop {
            let fetched = shard.index().fetch(partition(number), at, 10_000).await.unwrap();
            if fetched.next <= at {
                break;
            }
            at = fetched.next;
            for batch in fetched.batches {
                batch.verify().unwrap();
                batches.push(batch.bytes().clone());
            }
        }
        assert_eq!(at, shard.index().log(partition(number)).high_watermark());
        contents.push((number, batches));
    }
    contents
}
