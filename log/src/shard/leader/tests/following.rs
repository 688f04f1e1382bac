//! One index over leaderships and followings of its shard.

use super::*;
use crate::format::manifest::Manifest;
use crate::shard::leader::Ending;
use crate::shard::{Fed, Following, Offered, StoredObject};
use crate::store::{Operation, Swap};
use crate::testing::{Fault, Moment, Target};

/// A node that follows the shard.
struct Follows {
    index: Arc<ShardIndex>,
    signals: Signals,
    following: Following,
}

impl Follows {
    fn new(store: &Store) -> Self {
        Self::on(store, Arc::new(ShardIndex::new(at(store), BlockCache::new(limits::CACHE_BYTES_MIN))))
    }

    fn on(store: &Store, index: Arc<ShardIndex>) -> Self {
        let signals = Signals::default();
        let following = Following::new(at(store), Arc::clone(&index), signals.clone());
        Self { index, signals, following }
    }

    async fn catch_up(&mut self) -> u64 {
        self.following.catch_up().await.unwrap().get()
    }

    /// Takes what a leader offers from the follower's position on, as it comes over the wire.
    fn take(&mut self, node: &Node, wanted: bool) -> Vec<Offered> {
        let Fed::Objects(objects) = node.shard.feed().since(self.following.position().unwrap()) else {
            return Vec::new();
        };
        objects.iter().map(|object| self.following.offer(&sent(object, wanted))).collect()
    }
}

/// What another node gets of an object.
fn sent(object: &StoredObject, wanted: bool) -> StoredObject {
    StoredObject::decode(object.encode(|_| wanted).concat().into()).unwrap()
}

async fn shared() -> Store {
    faulty(1, false).await.0
}

/// Leads over an index that is there.
async fn lead(store: &Store, index: &Arc<ShardIndex>, seed: u64) -> Node {
    let nonces = StdRng::seed_from_u64(seed);
    let opened = Shard::open(at(store), Arc::clone(index), options(None), nonces).await;
    let (shard, task) = opened.unwrap();
    shard.recovered(false, Vec::new()).await.unwrap();
    Node { shard, task, journal: None, damage: Vec::new() }
}

/// Makes the manifest what `change` says.
async fn swap(store: &Store, change: impl FnOnce(&mut Manifest)) {
    let at = at(store);
    let (mut manifest, revision) = at.manifest().await.unwrap().unwrap();
    manifest.version += 1;
    change(&mut manifest);
    let key = at.keys.manifest(SHARD);
    let swapped = store.swap(&key, Some(&revision), manifest.encode().unwrap()).await.unwrap();
    assert!(matches!(swapped, Swap::Swapped(_)));
}

#[tokio::test(start_paused = true)]
async fn what_a_leader_offers_is_read_from_memory_and_wakes_readers() {
    let (store, faulty) = faulty(1, false).await;
    let node = Node::open(&store, 1).await;
    let mut follows = Follows::new(&store);
    assert_eq!((follows.following.position(), follows.catch_up().await), (None, FIRST));
    let reader = follows.signals.subscribe(partition(0).topic);
    let mut news = node.shard.feed().news();
    news.mark_unchanged();
    node.append(unit(0, &["a", "b"])).await.unwrap();
    node.append(unit(0, &["c"])).await.unwrap();
    assert!(news.has_changed().unwrap());
    assert_eq!(follows.take(&node, true), [Offered::Applied; 2]);
    assert!(reader.has_changed().unwrap());
    let reads = faulty.calls(Operation::Get);
    assert_eq!(read(&follows.index, 0).await, numbered(&["a", "b", "c"]));
    assert_eq!(faulty.calls(Operation::Get), reads, "without a request");
}

#[tokio::test(start_paused = true)]
async fn batches_that_were_not_sent_are_read_from_the_store() {
    let store = shared().await;
    let node = Node::open(&store, 1).await;
    let mut follows = Follows::new(&store);
    follows.catch_up().await;
    // With, without, with: no reader may step from the first over to the third.
    for (value, wanted) in [("a", true), ("b", false), ("c", true)] {
        node.append(unit(0, &[value])).await.unwrap();
        assert_eq!(follows.take(&node, wanted), [Offered::Applied]);
    }
    assert_eq!(read(&follows.index, 0).await, numbered(&["a", "b", "c"]));
}

#[tokio::test(start_paused = true)]
async fn an_offer_is_taken_at_its_place_only() {
    let store = shared().await;
    let old = Node::open(&store, 1).await;
    let mut follows = Follows::new(&store);
    old.append(unit(0, &["a"])).await.unwrap();
    old.append(unit(0, &["b"])).await.unwrap();
    let Fed::Objects(offered) = old.shard.feed().since(WalSeq::new(FIRST)) else { panic!() };
    assert_eq!(follows.following.offer(&offered[0]), Offered::Gap, "it has no position yet");
    follows.catch_up().await;
    assert_eq!(follows.following.offer(&offered[1]), Offered::Known);
    let new = Node::open(&store, 2).await;
    new.append(unit(0, &["c"])).await.unwrap();
    let Fed::Behind = new.shard.feed().since(follows.following.position().unwrap()) else {
        panic!("an EPOCH lies between")
    };
    let Fed::Objects(ahead) = new.shard.feed().since(WalSeq::new(2 * FIRST + 2)) else { panic!() };
    assert_eq!(follows.following.offer(&ahead[0]), Offered::Gap);
    assert_eq!(follows.catch_up().await, 2 * FIRST + 3);
    assert_eq!(read(&follows.index, 0).await, numbered(&["a", "b", "c"]));
}

#[tokio::test(start_paused = true)]
async fn what_a_leader_could_not_store_is_gone_when_its_leadership_ends() {
    let (store, faulty) = faulty(1, false).await;
    let index = Arc::new(ShardIndex::new(at(&store), BlockCache::new(limits::CACHE_BYTES_MIN)));
    let old = lead(&store, &index, 1).await;
    old.append(unit(0, &["a"])).await.unwrap();
    // On its way to the store, and behind it.
    let hold = faulty.hold(Target::at(Operation::Create, &wal(FIRST + 1)), Moment::Request);
    let lost = old.enqueue(unit(0, &["lost"])).await;
    let behind = old.enqueue(unit(1, &["lost"])).await;
    hold.arrived(1).await;
    let ended = old.shard.clone();
    old.task.abort();
    assert_eq!(ended.ended().await, Ending::Died);
    assert_eq!((lost.acknowledged().await, behind.acknowledged().await), (Err(unknown()), Err(unknown())));
    let Fed::Ended = ended.feed().since(WalSeq::new(FIRST + 1)) else { panic!() };
    hold.release();
    // Another node leads and gives the same offsets to others.
    let new = Node::open(&store, 2).await;
    new.append(unit(0, &["b", "c"])).await.unwrap();
    let mut follows = Follows::on(&store, Arc::clone(&index));
    assert_eq!(
        follows.following.position(),
        Some(WalSeq::new(FIRST + 1)),
        "it goes on where the leader stood"
    );
    follows.catch_up().await;
    assert_eq!(read(&index, 0).await, numbered(&["a", "b", "c"]));
    assert_eq!(index.log(partition(1)).high_watermark(), Offset::ZERO);
    // And this node leads again, over the same index.
    let again = lead(&store, &index, 3).await;
    again.append(unit(0, &["d"])).await.unwrap();
    again.append(unit(1, &["e"])).await.unwrap();
    assert_eq!(again.read(0).await, numbered(&["a", "b", "c", "d"]));
    assert_eq!(again.read(1).await, numbered(&["e"]));
    assert_eq!(Node::open(&store, 4).await.read(0).await, again.read(0).await);
}

#[tokio::test(start_paused = true)]
async fn a_leadership_says_how_it_ended() {
    let store = shared().await;
    let index = Arc::new(ShardIndex::new(at(&store), BlockCache::new(limits::CACHE_BYTES_MIN)));
    let old = lead(&store, &index, 1).await;
    let new = Node::open(&store, 2).await;
    assert_eq!(old.append(unit(0, &["lost"])).await, Err(not_stored()));
    assert_eq!((old.shard.ended().await, old.shard.is_leading()), (Ending::Fenced, false));
    let stopped = new.shard.clone();
    new.append(unit(0, &["a"])).await.unwrap();
    stopped.stop().await;
    assert_eq!(stopped.ended().await, Ending::Stopped);
}

#[tokio::test(start_paused = true)]
async fn a_follower_waits_while_its_own_node_leads() {
    let store = shared().await;
    let index = Arc::new(ShardIndex::new(at(&store), BlockCache::new(limits::CACHE_BYTES_MIN)));
    let node = lead(&store, &index, 1).await;
    let mut follows = Follows::on(&store, Arc::clone(&index));
    node.append(unit(0, &["a"])).await.unwrap();
    let Fed::Objects(offered) = node.shard.feed().since(WalSeq::new(FIRST)) else { panic!() };
    assert_eq!(follows.following.offer(&offered[0]), Offered::Gap);
    let stopped = node.shard.clone();
    let (tail, ()) = tokio::join!(follows.catch_up(), stopped.stop());
    assert_eq!(tail, FIRST + 1);
    assert_eq!(read(&index, 0).await, numbered(&["a"]));
}

#[tokio::test(start_paused = true)]
async fn an_adoption_that_fails_is_begun_anew_before_anything_above_is_shown() {
    let (store, faulty) = faulty(1, false).await;
    let node = Node::open(&store, 1).await;
    let mut follows = Follows::new(&store);
    node.append(unit(0, &["a"])).await.unwrap();
    node.shard.truncate(&[(partition(0), Offset::new(1))]).await.unwrap();
    let (manifest, _) = at(&store).manifest().await.unwrap().unwrap();
    let page = at(&store).keys.page(SHARD, manifest.pages[0].hash);
    faulty.inject(Target::at(Operation::Get, &page), Fault::Fail);
    assert!(follows.following.catch_up().await.is_err());
    assert_eq!(follows.index.log(partition(0)).high_watermark(), Offset::ZERO);
    follows.catch_up().await;
    let view = follows.index.log(partition(0)).view();
    assert_eq!((view.log_start.get(), view.high_watermark.get()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn who_walks_the_store_sees_at_its_tail_what_others_truncated() {
    let store = shared().await;
    let node = Node::open(&store, 1).await;
    let mut follows = Follows::new(&store);
    node.append(unit(0, &["a", "b"])).await.unwrap();
    let tail = follows.catch_up().await;
    node.shard.truncate(&[(partition(0), Offset::new(1))]).await.unwrap();
    let topics = follows.signals.subscribe(partition(0).topic);
    assert_eq!(follows.catch_up().await, tail);
    assert_eq!(follows.index.log(partition(0)).view().log_start, Offset::new(1));
    assert!(topics.has_changed().unwrap(), "readers are told");
}

#[tokio::test(start_paused = true)]
async fn any_node_truncates_up_to_the_high_watermark_it_knows() {
    let store = shared().await;
    let node = Node::open(&store, 1).await;
    let mut follows = Follows::new(&store);
    node.append(unit(0, &["a", "b"])).await.unwrap();
    follows.catch_up().await;
    node.append(unit(0, &["c"])).await.unwrap();
    let start = |offset| [(partition(0), Offset::new(offset))];
    assert!(follows.index.truncate(&start(3)).await.is_err(), "it knows of two records");
    follows.index.truncate(&start(2)).await.unwrap();
    assert_eq!(follows.index.log(partition(0)).view().log_start, Offset::new(2));
    // The leader hears of it when it looks, and goes further; the follower's objects still fit.
    assert!(node.shard.index().refresh().await.unwrap() && !node.shard.index().refresh().await.unwrap());
    assert_eq!(node.shard.index().log(partition(0)).view().log_start, Offset::new(2));
    node.shard.truncate(&start(3)).await.unwrap();
    follows.following.refresh_manifest().await.unwrap();
    assert_eq!(follows.take(&node, true), [Offered::Applied]);
    let view = follows.index.log(partition(0)).view();
    assert_eq!((view.log_start.get(), view.high_watermark.get()), (3, 3));
}

#[tokio::test(start_paused = true)]
async fn a_follower_that_fell_below_the_floor_begins_anew_there() {
    let store = shared().await;
    let node = Node::open(&store, 1).await;
    let mut follows = Follows::new(&store);
    follows.catch_up().await;
    // As a compactor that found nothing worth keeping would leave it.
    node.append(unit(0, &["a"])).await.unwrap();
    swap(&store, |manifest| {
        manifest.floor = WalSeq::new(FIRST + 1);
        manifest.epoch_at_floor = node.shard.epoch();
    })
    .await;
    store.delete(&wal(FIRST)).await.unwrap();
    assert_eq!(follows.catch_up().await, FIRST + 1);
    assert_eq!(follows.index.backlog().objects, 0);
}

#[tokio::test(start_paused = true)]
async fn a_log_with_a_hole_stops_its_follower_for_good() {
    let store = shared().await;
    let node = Node::open(&store, 1).await;
    let mut follows = Follows::new(&store);
    follows.catch_up().await;
    node.append(unit(0, &["a"])).await.unwrap();
    node.append(unit(0, &["b"])).await.unwrap();
    // The index is told that the first object was seen, which it never was.
    let Fed::Objects(objects) = node.shard.feed().since(WalSeq::new(FIRST)) else { panic!() };
    let header = objects[0].header().clone();
    follows.index.add_object(&header, &crate::format::wal_object::Footer::default());
    for _ in 0..2 {
        let stopped = follows.following.catch_up().await;
        assert_eq!(stopped.unwrap_err().kind(), crate::error::ErrorKind::Corrupt);
    }
    assert_eq!(follows.index.log(partition(0)).high_watermark(), Offset::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_takeover_reads_many_objects_at_once() {
    let (store, faulty) = faulty(1, false).await;
    let node = Node::open(&store, 1).await;
    for _ in 0..1_024 {
        node.append(unit(0, &["a"])).await.unwrap();
    }
    faulty.set_latency(std::time::Duration::from_millis(30));
    let (begun, reads) = (tokio::time::Instant::now(), faulty.calls(Operation::Get));
    let new = Node::open(&store, 2).await;
    let (took, reads) = (begun.elapsed().as_millis(), faulty.calls(Operation::Get) - reads);
    assert_eq!(new.shard.index().log(partition(0)).high_watermark(), Offset::new(1_024));
    // 32 at once, a few rounds to get there, and what every takeover asks besides.
    let rounds = took / 30;
    assert!((32..=48).contains(&rounds), "{rounds} rounds");
    assert!(reads <= 1_024 + limits::READ_AHEAD_MAX + 8, "{reads} reads");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_read_ahead_at_the_tail() {
    let (store, faulty) = faulty(1, false).await;
    let node = Node::open(&store, 1).await;
    let mut follows = Follows::new(&store);
    node.append(unit(0, &["a"])).await.unwrap();
    follows.catch_up().await;
    let reads = faulty.calls(Operation::Get);
    follows.catch_up().await;
    assert_eq!(faulty.calls(Operation::Get) - reads, 2, "the number and the floor");
}

#[tokio::test(start_paused = true)]
async fn what_was_absent_when_it_was_read_ahead_is_read_again() {
    let (store, faulty) = faulty(1, false).await;
    let node = Node::open(&store, 1).await;
    node.append(unit(0, &["a"])).await.unwrap();
    let mut follows = Follows::new(&store);
    // The first object is read; the number behind it finds nothing, and is filled while its answer is on the way.
    let hold = faulty.hold(Target::at(Operation::Get, &wal(FIRST + 1)), Moment::Reply);
    let filled = async {
        hold.arrived(1).await;
        node.append(unit(0, &["b"])).await.unwrap();
        hold.release();
    };
    let (tail, ()) = tokio::join!(follows.catch_up(), filled);
    assert_eq!(tail, FIRST + 2);
    assert_eq!(read(&follows.index, 0).await, numbered(&["a", "b"]));
}
