//! A keeper over a store that can be held up.

use std::sync::Arc;
use std::time::Duration;

use forebay_log::clock::SystemClock;
use forebay_log::coordinator::Lease;
use forebay_log::error::Outcome;
use forebay_log::keys::Keys;
use forebay_log::limits as log_limits;
use forebay_log::model::{
    ClusterId, Durability, Incarnation, LeaderEpoch, NodeId, PartitionId, Record, ShardId, TopicId,
    TopicPartition,
};
use forebay_log::shard::{
    Append, AppendError, BatchSource, BlockCache, LeaderOptions, NewBatch, ShardStore, Signals,
};
use forebay_log::store::{Operation, Store, StoreUrl};
use forebay_log::testing::{FaultyStore, Moment};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::keeper::{Common, Keeper, News, Order, Resign, Resigned, Why};
use super::local::{Local, Standings};
use super::{Compactor, Means};
use crate::cluster::follow::Wanted;
use crate::cluster::{PeerConfig, Peers};
use crate::config::CompactorMode;
use crate::limits;
use crate::produce::route::Routes;
use crate::shards::{ShardSlot, Shards};

const SHARD: ShardId = ShardId::new(0);

struct World {
    store: FaultyStore,
    routes: Arc<Routes>,
    orders: mpsc::Sender<Order>,
    news: mpsc::Receiver<(ShardId, News)>,
    _lease: watch::Sender<Option<Lease>>,
    _want: watch::Sender<Wanted>,
}

async fn means(at: ShardStore) -> Means {
    let signals = Signals::default();
    let slot = ShardSlot::new(at, BlockCache::new(log_limits::CACHE_BYTES_MIN));
    Means {
        options: LeaderOptions {
            clock: Arc::new(SystemClock),
            journal: None,
            signals: signals.clone(),
            flush_linger: log_limits::FLUSH_LINGER,
            unflushed_bytes_max: log_limits::SHARD_UNFLUSHED_BYTES_MAX,
            spill_bytes: log_limits::SHARD_SPILL_BYTES,
        },
        topics: Arc::clone(&crate::testing::node(1).await.topics),
        shards: Arc::new(Shards::new(vec![slot], signals)),
        compactor: Compactor::new(CompactorMode::Off, Arc::new(SystemClock)),
    }
}

impl World {
    async fn new() -> Self {
        let (cluster, me) = (ClusterId::new(1), NodeId::new(1));
        let faulty = FaultyStore::new(Store::open(&StoreUrl::Memory).await.unwrap().objects(), 1);
        let store = Store::with_objects(Arc::new(faulty.clone()), false);
        let means = means(ShardStore { store, keys: Keys::new(""), cluster, shard: SHARD }).await;
        let routes = Arc::new(Routes::moving(1));
        let local = Local {
            me: (me, Incarnation::new(1)),
            routes: Arc::clone(&routes),
            topics: Arc::clone(&means.topics),
            standings: Standings::default(),
            told: mpsc::channel(1).0,
        };
        let config = PeerConfig {
            listen: "127.0.0.1:0".parse().unwrap(),
            advertise: "localhost:0".to_owned(),
            secret: "the-secret-of-all".parse().unwrap(),
            tls: None,
        };
        let peers = Peers::new(&config, cluster, Arc::new(local)).unwrap();
        let (want, wanted) = watch::channel(Wanted::default());
        let (news, heard) = mpsc::channel(limits::TOLD_MAX);
        let (orders, ordered) = mpsc::channel(limits::ORDERS_MAX);
        let (lease, leased) = watch::channel(None);
        let common = Common { me, means, routes: Arc::clone(&routes), peers, wanted, news };
        tokio::spawn(Keeper::new(SHARD, common, leased, ordered, StdRng::seed_from_u64(1)).run());
        Self { store: faulty, routes, orders, news: heard, _lease: lease, _want: want }
    }

    /// Waits for news of a takeover.
    async fn next(&mut self) -> News {
        loop {
            let (_, news) = self.news.recv().await.expect("the keeper lives");
            if !matches!(news, News::CaughtUp { .. } | News::Unread) {
                return news;
            }
        }
    }

    async fn take_over(&mut self) -> LeaderEpoch {
        self.orders.send(Order::TakeOver).await.unwrap();
        let News::Began { epoch } = self.next().await else { panic!("it does not lead") };
        epoch
    }

    async fn resign(&self, epoch: LeaderEpoch, why: Why) -> Option<Resigned> {
        let (done, resigned) = oneshot::channel();
        let by = Instant::now() + Duration::from_millis(50);
        self.orders.send(Order::Resign(Resign { epoch, why, by, done })).await.unwrap();
        resigned.await.ok()
    }
}

fn append() -> Append {
    let source = BatchSource::Records {
        records: vec![Record { value: Some("value".into()), ..Record::default() }],
        compression: Default::default(),
        timestamp_type: Default::default(),
    };
    let partition = TopicPartition { topic: TopicId::new(7), partition: PartitionId::new(0) };
    Append {
        batches: vec![NewBatch { partition, source, expected: None }],
        dedupe: None,
        level: Durability::Object,
    }
}

#[tokio::test]
async fn an_order_that_means_another_leadership_ends_none() {
    let mut world = World::new().await;
    let epoch = world.take_over().await;
    for why in [Why::Balance, Why::MustGo, Why::Superseded] {
        assert_eq!(world.resign(epoch.plus(1), why).await, None);
    }
    assert!(world.routes.here(SHARD).is_some_and(|leader| leader.is_leading()));
    assert_eq!(world.take_over().await, epoch, "whoever asks learns that it leads");
    assert_eq!(world.resign(epoch, Why::Balance).await, Some(Resigned::Ended));
    assert_eq!(world.resign(epoch, Why::Balance).await, None);
    assert_eq!(world.take_over().await, epoch.plus(1));
    world.resign(epoch.plus(1), Why::Superseded).await;
    assert_eq!(world.next().await, News::Ended { superseded: true });
}

#[tokio::test]
async fn a_shard_is_not_moved_for_balance_while_much_waits_and_given_up_where_it_must_go() {
    let mut world = World::new().await;
    let epoch = world.take_over().await;
    let leader = world.routes.here(SHARD).unwrap();
    let hold = world.store.hold(Operation::Create, Moment::Request);
    let sent = leader.enqueue(append()).await.unwrap();
    hold.arrived(1).await;
    assert_eq!(world.resign(epoch, Why::Balance).await, Some(Resigned::Kept));
    leader.enqueue(append()).await.unwrap();
    assert_eq!(world.resign(epoch, Why::MustGo).await, Some(Resigned::Ended));
    assert!(!leader.is_leading() && world.routes.here(SHARD).is_none());
    assert_eq!(sent.acknowledged().await, Err(AppendError::NoLeader { outcome: Outcome::Unknown }));
    hold.release();
}

#[tokio::test(start_paused = true)]
async fn a_takeover_that_the_store_does_not_answer_ends() {
    let mut world = World::new().await;
    let hold = world.store.hold(Operation::Create, Moment::Request);
    // A log may be long: the next attempt has more time.
    for most in [limits::TAKEOVER_MAX, 2 * limits::TAKEOVER_MAX] {
        let start = Instant::now();
        world.orders.send(Order::TakeOver).await.unwrap();
        assert_eq!(world.next().await, News::NotBegun { for_want_of_the_store: true });
        assert_eq!(start.elapsed(), most);
    }
    hold.release();
    world.take_over().await;
}
