//! What the tests of the leader share: a node with one shard, over a store and perhaps a journal.

mod exclusive;
mod following;
mod leftover;
mod recovery;
mod shared;
mod spill;
mod turn;

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::task::JoinHandle;

use crate::clock::ManualClock;
use crate::error::Outcome;
use crate::journal::{Damage, Journal, JournalOptions};
use crate::keys::Keys;
use crate::limits;
use crate::model::{
    ClusterId, Compression, Durability, Offset, PartitionId, Record, ShardId, Timestamp, TimestampType,
    TopicId, TopicPartition, WalSeq,
};
use crate::shard::append::{Append, AppendError, Appended, BatchSource, Dedupe, NewBatch};
use crate::shard::cache::BlockCache;
use crate::shard::leader::{LeaderOptions, Receipt, Shard};
use crate::shard::taker::PathObject;
use crate::shard::{ShardIndex, ShardStore, SharedJournal, Signals};
use crate::store::{Store, StoreUrl};
use crate::testing::FaultyStore;

const CLUSTER: ClusterId = ClusterId::new(7);
const SHARD: ShardId = ShardId::new(0);
/// The first number of the first leader.
const FIRST: u64 = limits::EPOCH_GAP;

fn partition(number: u16) -> TopicPartition {
    TopicPartition { topic: TopicId::new(1), partition: PartitionId::new(number) }
}

/// One unit with a record per value, for one partition.
fn unit(number: u16, values: &[&str]) -> Append {
    let record = |value: &&str| Record { value: Some(Bytes::from((*value).to_owned())), ..Record::default() };
    let source = BatchSource::Records {
        records: values.iter().map(record).collect(),
        compression: Compression::None,
        timestamp_type: TimestampType::CreateTime,
    };
    let batches = vec![NewBatch { partition: partition(number), source, expected: None }];
    Append { batches, dedupe: None, level: Durability::Object }
}

fn expecting(expected: u64, mut append: Append) -> Append {
    append.batches[0].expected = Some(Offset::new(expected));
    append
}

fn named(first_sequence: u32, body_hash: u64, mut append: Append) -> Append {
    append.dedupe = Some(Dedupe { id: 1, producer_epoch: None, first_sequence, body_hash });
    append
}

fn local(mut append: Append) -> Append {
    append.level = Durability::Local;
    append
}

fn base(appended: &Appended) -> u64 {
    appended.placements[0].base_offset.get()
}

async fn memory() -> Store {
    Store::open(&StoreUrl::Memory).await.unwrap()
}

/// A store that others may write, and the way to make it fail.
async fn faulty(seed: u64, exclusive: bool) -> (Store, FaultyStore) {
    let faulty = FaultyStore::new(memory().await.objects(), seed);
    (Store::with_objects(Arc::new(faulty.clone()), exclusive), faulty)
}

fn at(store: &Store) -> ShardStore {
    ShardStore { store: store.clone(), keys: Keys::new(""), cluster: CLUSTER, shard: SHARD }
}

fn wal(seq: u64) -> crate::store::Path {
    Keys::new("").wal(SHARD, WalSeq::new(seq))
}

fn options(journal: Option<SharedJournal>) -> LeaderOptions {
    let clock = ManualClock::default();
    clock.set(Timestamp::from_millis(1_000));
    LeaderOptions {
        clock: Arc::new(clock),
        journal,
        signals: Signals::default(),
        flush_linger: limits::FLUSH_LINGER,
        unflushed_bytes_max: limits::SHARD_UNFLUSHED_BYTES_MAX,
        spill_bytes: limits::SHARD_SPILL_BYTES,
    }
}

/// Takes the shard over, with an index of its own.
async fn open(store: &Store, options: LeaderOptions, seed: u64) -> (Shard, JoinHandle<()>) {
    let (at, nonces) = (at(store), StdRng::seed_from_u64(seed));
    Shard::open(
        at.clone(),
        Arc::new(ShardIndex::new(at, BlockCache::new(limits::CACHE_BYTES_MIN))),
        options,
        nonces,
    )
    .await
    .unwrap()
}

/// A node that leads the shard.
struct Node {
    shard: Shard,
    task: JoinHandle<()>,
    journal: Option<SharedJournal>,
    damage: Vec<Damage>,
}

impl Node {
    /// Leads without a journal.
    async fn open(store: &Store, seed: u64) -> Self {
        Self::open_with(store, options(None), seed).await
    }

    async fn open_with(store: &Store, options: LeaderOptions, seed: u64) -> Self {
        let journal = options.journal.clone();
        let (shard, task) = open(store, options, seed).await;
        shard.recovered(false, Vec::new()).await.unwrap();
        Self { shard, task, journal, damage: Vec::new() }
    }

    /// Leads with the journal in a folder, and brings back what it holds.
    async fn restart(store: &Store, dir: &Path, seed: u64) -> Self {
        let mut options_of_journal = JournalOptions::new(dir, CLUSTER);
        options_of_journal.file_bytes = 64 * 1024;
        let (journal, mut replay) = Journal::open(options_of_journal).await.unwrap();
        let journal = SharedJournal::new(journal);
        if !store.is_exclusive() {
            journal.adopt(&mut replay).unwrap();
        }
        let options = options(Some(journal.clone()));
        let (shard, task) = open(store, options, seed).await;
        while let Some(replayed) = replay.next().unwrap() {
            shard.recover(replayed).await.unwrap();
        }
        let damage = std::mem::take(&mut replay.damage);
        shard.recovered(!damage.is_empty(), vec![partition(0), partition(9)]).await.unwrap();
        Self { shard, task, journal: Some(journal), damage }
    }

    /// Leads once more with the same journal, in the same process.
    async fn lead_again(&self, store: &Store, seed: u64) -> Self {
        let options = options(self.journal.clone());
        let journal = options.journal.clone();
        let (shard, task) = open(store, options, seed).await;
        shard.recovered(false, vec![partition(0), partition(9)]).await.unwrap();
        Self { shard, task, journal, damage: Vec::new() }
    }

    async fn append(&self, append: Append) -> Result<Appended, AppendError> {
        self.shard.append(append).await
    }

    async fn enqueue(&self, append: Append) -> Receipt {
        self.shard.enqueue(append).await.unwrap()
    }

    /// Returns offset and value of every record below the high watermark.
    async fn read(&self, number: u16) -> Vec<(u64, String)> {
        read(self.shard.index(), number).await
    }

    /// Ends as a crash does: nothing more is stored, nothing of the journal's queue is written.
    async fn kill(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }

    /// Ends in order.
    async fn close(self) {
        drop(self.shard);
        self.task.await.unwrap();
        if let Some(journal) = self.journal {
            assert!(journal.close().await, "the journal is left empty and whole");
        }
    }
}

/// Returns offset and value of every record that readers of an index see.
async fn read(index: &ShardIndex, number: u16) -> Vec<(u64, String)> {
    let mut at = Offset::ZERO;
    let mut found = Vec::new();
    loop {
        let fetched = index.fetch(partition(number), at, 1 << 20).await.unwrap();
        if fetched.next == at {
            return found;
        }
        for record in fetched.batches.iter().flat_map(|batch| batch.records().unwrap()) {
            let record = record.unwrap();
            let value = record.value.unwrap_or_default();
            found.push((record.offset.get(), String::from_utf8(value.to_vec()).unwrap()));
        }
        at = fetched.next;
    }
}

/// Returns the objects of the log above the floor, EPOCHs included, by number.
async fn objects(store: &Store) -> Vec<PathObject> {
    let at = at(store);
    let mut found = Vec::new();
    for meta in store.list(&at.keys.wal_prefix(SHARD), None).await.unwrap() {
        found.push(at.object(&meta.location).await.unwrap().unwrap());
    }
    found
}

async fn data_objects(store: &Store) -> usize {
    objects(store).await.iter().filter(|object| !object.footer.entries.is_empty()).count()
}

fn numbered(values: &[&str]) -> Vec<(u64, String)> {
    (0..).zip(values.iter().map(|value| (*value).to_owned())).collect()
}

fn not_stored() -> AppendError {
    AppendError::NoLeader { outcome: Outcome::NotApplied }
}

fn unknown() -> AppendError {
    AppendError::NoLeader { outcome: Outcome::Unknown }
}
