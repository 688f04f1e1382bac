//! Following a leader on another node.

use std::collections::BTreeSet;

use forebay_log::shard::{BlockCache, Following, Offered};

use super::*;
use crate::cluster::follow::{FollowEnd, FollowStream, Followed};
use crate::limits;

async fn follow(follower: &TestNode, leader: &TestNode, epoch: LeaderEpoch, from: WalSeq) -> FollowStream {
    let (_, wanted) = watch::channel(Wanted::new(BTreeSet::from([TOPIC])));
    follower.peers.follow(&leader.address, (SHARD, epoch), from, wanted).await.unwrap()
}

async fn end(stream: &mut FollowStream) -> FollowEnd {
    loop {
        if let Followed::End(end) = stream.next().await.unwrap() {
            return end;
        }
    }
}

/// Takes the next object into the follower's index.
async fn take(stream: &mut FollowStream, following: &mut Following) {
    let Followed::Object(object) = stream.next().await.unwrap() else { panic!("an object comes") };
    let offered = following.offer(&object);
    assert!(matches!(offered, Offered::Applied), "{offered:?}");
}

#[tokio::test]
async fn a_follower_sees_what_is_stored_and_resumes_where_it_was() {
    let (_, store) = shared_store().await;
    let (follower, node) = (TestNode::start().await, TestNode::start().await);
    let shard = node.lead(&store).await;
    shard.append(append("a")).await.unwrap();
    let index = Arc::new(ShardIndex::new(at(&store), BlockCache::new(log_limits::CACHE_BYTES_MIN)));
    let mut following = Following::new(at(&store), Arc::clone(&index), Signals::default());
    let from = following.catch_up().await.unwrap();
    let mut stream = follow(&follower, &node, shard.epoch(), from).await;
    shard.append(append("b")).await.unwrap();
    take(&mut stream, &mut following).await;
    assert_eq!(values_of(&index).await, ["a", "b"]);
    drop(stream);
    shard.append(append("c")).await.unwrap();
    shard.append(append("d")).await.unwrap();
    let mut stream = follow(&follower, &node, shard.epoch(), following.position().unwrap()).await;
    take(&mut stream, &mut following).await;
    take(&mut stream, &mut following).await;
    assert_eq!(values_of(&index).await, ["a", "b", "c", "d"]);
    shard.stop().await;
    assert_eq!(end(&mut stream).await, FollowEnd::Ended);
}

#[tokio::test]
async fn a_leader_sends_followers_away_that_it_cannot_serve() {
    let (_, store) = shared_store().await;
    let (follower, node) = (TestNode::start().await, TestNode::start().await);
    let mut stream = follow(&follower, &node, LeaderEpoch::new(1), WalSeq::ZERO).await;
    assert_eq!(end(&mut stream).await, FollowEnd::NotLeading);
    let epoch = node.lead(&store).await.epoch();
    let mut stream = follow(&follower, &node, epoch.plus(1), WalSeq::ZERO).await;
    assert_eq!(end(&mut stream).await, FollowEnd::NotLeading);
    let mut stream = follow(&follower, &node, epoch, WalSeq::ZERO).await;
    assert_eq!(end(&mut stream).await, FollowEnd::Behind);
}

#[tokio::test]
async fn a_slow_follower_holds_up_nobody_and_misses_nothing() {
    let (_, store) = shared_store().await;
    let (follower, node) = (TestNode::start().await, TestNode::start().await);
    let shard = node.lead(&store).await;
    let mut following = Following::new(
        at(&store),
        Arc::new(ShardIndex::new(at(&store), BlockCache::new(log_limits::CACHE_BYTES_MIN))),
        Signals::default(),
    );
    let mut next = following.catch_up().await.unwrap();
    let mut stream = follow(&follower, &node, shard.epoch(), next).await;
    // More than connection and stream hold together.
    let large = "x".repeat(limits::PEER_WINDOW_BYTES as usize / 4);
    for _ in 0..32 {
        shard.append(append(&large)).await.unwrap();
    }
    for _ in 0..32 {
        let Followed::Object(object) = stream.next().await.unwrap() else { panic!("an object comes") };
        assert_eq!(object.seq(), next);
        next = next.plus(1);
    }
}

#[tokio::test]
async fn batches_of_topics_that_nobody_wants_are_left_out() {
    let (_, store) = shared_store().await;
    let (follower, node) = (TestNode::start().await, TestNode::start().await);
    let shard = node.lead(&store).await;
    let mut following = Following::new(
        at(&store),
        Arc::new(ShardIndex::new(at(&store), BlockCache::new(log_limits::CACHE_BYTES_MIN))),
        Signals::default(),
    );
    let from = following.catch_up().await.unwrap();
    let (wants, wanted) = watch::channel(Wanted::default());
    let mut stream =
        follower.peers.follow(&node.address, (SHARD, shard.epoch()), from, wanted).await.unwrap();
    let size = |object: &forebay_log::shard::StoredObject| {
        object.encode(|_| true).iter().map(Bytes::len).sum::<usize>()
    };
    let large = "x".repeat(10_000);
    shard.append(append(&large)).await.unwrap();
    let Followed::Object(bare) = stream.next().await.unwrap() else { panic!("an object comes") };
    assert!(size(&bare) < 10_000);
    wants.send_replace(Wanted::new(BTreeSet::from([TOPIC])));
    // What it wants is known to the leader some time later.
    loop {
        shard.append(append(&large)).await.unwrap();
        let Followed::Object(object) = stream.next().await.unwrap() else { panic!("an object comes") };
        if size(&object) > 10_000 {
            break;
        }
    }
}
