//! Nodes in one process that call each other over the loopback interface.

mod append;
mod calls;
mod follow;
mod order;
mod tls;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use forebay_log::clock::SystemClock;
use forebay_log::keys::Keys;
use forebay_log::limits as log_limits;
use forebay_log::model::{
    ClusterId, Compression, Durability, LeaderEpoch, Offset, PartitionId, Record, ShardId, Timestamp,
    TimestampType, TopicId, TopicPartition,
};
use forebay_log::shard::{
    Append, BatchSource, BlockCache, LeaderOptions, NewBatch, Shard, ShardIndex, ShardStore, Signals,
};
use forebay_log::store::{Store, StoreUrl};
use forebay_log::testing::FaultyStore;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::*;

pub(super) const SHARD: ShardId = ShardId::new(0);
pub(super) const TOPIC: TopicId = TopicId::new(7);

/// What a node knows and was told.
#[derive(Debug, Default)]
pub(super) struct Local {
    pub(super) leaders: Mutex<HashMap<ShardId, Shard>>,
    pub(super) hint: Mutex<Option<LeaderHint>>,
    pub(super) learned: Mutex<Vec<LeaderHint>>,
    pub(super) told: Mutex<Vec<(ShardId, LeaderEpoch)>>,
    pub(super) declines: AtomicBool,
    pub(super) taking_over: Mutex<bool>,
    pub(super) topics_version: AtomicU64,
}

impl LocalShards for Local {
    fn leader(&self, shard: ShardId) -> Option<Shard> {
        self.leaders.lock().get(&shard).cloned()
    }

    fn is_taking_over(&self, _: ShardId) -> bool {
        *self.taking_over.lock()
    }

    fn hint(&self, _: ShardId) -> Option<LeaderHint> {
        self.hint.lock().clone()
    }

    fn learned(&self, _: ShardId, hint: LeaderHint) {
        self.learned.lock().push(hint);
    }

    fn lead_now(&self, shard: ShardId, ended: LeaderEpoch) -> bool {
        let would_lead = self.would_lead();
        if would_lead {
            self.told.lock().push((shard, ended));
        }
        would_lead
    }

    fn me(&self) -> (NodeId, u128) {
        (NodeId::new(1), 2)
    }

    fn would_lead(&self) -> bool {
        !self.declines.load(Ordering::Relaxed)
    }

    fn topics_version(&self) -> u64 {
        self.topics_version.load(Ordering::Relaxed)
    }

    fn refresh_topics(&self, version: u64) -> BoxFuture<'_, ()> {
        self.topics_version.store(version, Ordering::Relaxed);
        std::future::ready(()).boxed()
    }

    fn manifest_versions(&self, _: ShardId) -> Option<watch::Receiver<u64>> {
        None
    }
}

/// A node that other nodes can call.
#[derive(Debug)]
pub(super) struct TestNode {
    pub(super) local: Arc<Local>,
    pub(super) address: String,
    pub(super) peers: Peers,
    pub(super) stop: watch::Sender<bool>,
}

pub(super) fn config(secret: &str, tls: Option<PeerTls>) -> PeerConfig {
    PeerConfig {
        listen: "127.0.0.1:0".parse().unwrap(),
        advertise: "localhost:0".to_owned(),
        secret: secret.parse().unwrap(),
        tls,
    }
}

impl TestNode {
    pub(super) async fn start() -> Self {
        Self::with(&config("the-secret-of-all", None), ClusterId::new(1)).await
    }

    pub(super) async fn with(config: &PeerConfig, cluster: ClusterId) -> Self {
        let local = Arc::new(Local::default());
        let peers = Peers::new(config, cluster, Arc::clone(&local) as Arc<dyn LocalShards>).unwrap();
        let listener = TcpListener::bind(config.listen).await.unwrap();
        let address = format!("localhost:{}", listener.local_addr().unwrap().port());
        let (stop, stopping) = watch::channel(false);
        tokio::spawn(PeerListener::new(listener, peers.clone()).serve(stopping));
        Self { local, address, peers, stop }
    }

    /// Leads the shard from now on, whoever did before.
    pub(super) async fn lead(&self, store: &Store) -> Shard {
        let shard = open(store).await;
        self.local.leaders.lock().insert(SHARD, shard.clone());
        shard
    }

    /// Returns the way from `other` to what this node leads.
    pub(super) fn from(&self, other: &Self) -> RemoteShard {
        let epoch = self.local.leader(SHARD).map_or(LeaderEpoch::ZERO, |shard| shard.epoch());
        other.peers.shard(&self.address, SHARD, epoch)
    }
}

/// A store that others may write, with a hand on it.
pub(super) async fn shared_store() -> (FaultyStore, Store) {
    let faulty = FaultyStore::new(Store::open(&StoreUrl::Memory).await.unwrap().objects(), 1);
    (faulty.clone(), Store::with_objects(Arc::new(faulty), false))
}

pub(super) fn at(store: &Store) -> ShardStore {
    let (store, keys) = (store.clone(), Keys::new(""));
    ShardStore { store, keys, cluster: ClusterId::new(1), shard: SHARD }
}

/// Takes the shard over, with a nonce of its own each time.
async fn open(store: &Store) -> Shard {
    static SEEDS: AtomicU64 = AtomicU64::new(0);
    let seed = SEEDS.fetch_add(1, Ordering::Relaxed);
    let at =
        ShardStore { store: store.clone(), keys: Keys::new(""), cluster: ClusterId::new(1), shard: SHARD };
    let options = LeaderOptions {
        clock: Arc::new(SystemClock),
        journal: None,
        signals: Signals::default(),
        flush_linger: Duration::from_millis(1),
        unflushed_bytes_max: log_limits::SHARD_UNFLUSHED_BYTES_MAX,
        spill_bytes: log_limits::SHARD_SPILL_BYTES,
    };
    let index = Arc::new(ShardIndex::new(at.clone(), BlockCache::new(log_limits::CACHE_BYTES_MIN)));
    let (shard, _task) = Shard::open(at, index, options, StdRng::seed_from_u64(seed)).await.unwrap();
    shard.recovered(false, Vec::new()).await.unwrap();
    shard
}

pub(super) fn partition(number: u16) -> TopicPartition {
    TopicPartition { topic: TOPIC, partition: PartitionId::new(number) }
}

/// One record for one partition.
pub(super) fn append(value: &str) -> Append {
    let value = Some(Bytes::from(value.to_owned()));
    let records = vec![Record { value, timestamp: Timestamp::from_millis(1), ..Record::default() }];
    let (compression, timestamp_type) = (Compression::None, TimestampType::CreateTime);
    let source = BatchSource::Records { records, compression, timestamp_type };
    let batches = vec![NewBatch { partition: partition(0), source, expected: None }];
    Append { batches, dedupe: None, level: Durability::Object }
}

/// Reads all values of the partition.
pub(super) async fn values(shard: &Shard) -> Vec<String> {
    values_of(shard.index()).await
}

/// Reads all values of the partition, as this index knows it.
pub(super) async fn values_of(index: &ShardIndex) -> Vec<String> {
    let (mut values, mut at) = (Vec::new(), Offset::ZERO);
    loop {
        let fetched = index.fetch(partition(0), at, usize::MAX).await.unwrap();
        if fetched.next == at {
            return values;
        }
        for record in fetched.batches.iter().flat_map(|batch| batch.records().unwrap()) {
            let record = record.unwrap();
            if record.offset >= at {
                values.push(String::from_utf8(record.value.unwrap().to_vec()).unwrap());
            }
        }
        at = fetched.next;
    }
}

/// Waits for something that other tasks bring about.
pub(super) async fn until(what: impl Fn() -> bool) {
    while !what() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
