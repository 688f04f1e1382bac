//! Nodes, leases and hints in a real Redis that is wiped, killed and stopped meanwhile.

use std::time::Duration;

use forebay_log::coordinator::{
    Coordinator, CoordinatorError, Held, Hint, Lease, NodeInfo, RedisCoordinator, View,
};
use forebay_log::error::ErrorKind;
use forebay_log::limits::{LEASE_TTL, NODES_MAX};
use forebay_log::model::{ClusterId, Incarnation, LeaderEpoch, NodeId, ShardId};
use harness::{Redis, eventually, in_time};
use redis::cmd;

const CLUSTER: ClusterId = ClusterId::new(0xc1);
const S: ShardId = ShardId::new(3);

async fn connect(redis: &Redis) -> RedisCoordinator {
    try_connect(&redis.url()).await.expect("Redis can be used")
}

async fn try_connect(url: &str) -> Result<RedisCoordinator, CoordinatorError> {
    RedisCoordinator::connect(&url.parse().expect("a url"), CLUSTER).await
}

fn node(number: u128) -> NodeInfo {
    NodeInfo {
        id: NodeId::new(number),
        incarnation: Incarnation::new(number << 64),
        address: format!("n{number}:1"),
        ready: true,
        draining: false,
        leftovers: vec![S],
    }
}

fn held(epoch: u32) -> [Held; 1] {
    [Held { shard: S, epoch: LeaderEpoch::new(epoch) }]
}

fn lease(number: u128, epoch: u32) -> Option<Lease> {
    Some(node(number).lease(LeaderEpoch::new(epoch)))
}

async fn view(coordinator: &RedisCoordinator, me: u128, held: &[Held]) -> View {
    coordinator.beat(&node(me), held).await.expect("a beat is answered")
}

async fn holder(coordinator: &RedisCoordinator) -> Option<Lease> {
    view(coordinator, 9, &[]).await.leases.remove(&S)
}

fn key(what: &str) -> String {
    format!("forebay:{{{CLUSTER}}}:{what}")
}

#[tokio::test]
async fn beats_show_all_nodes_and_leases_to_all() {
    let redis = Redis::start().await;
    let (one, two) = (connect(&redis).await, connect(&redis).await);
    assert_eq!(view(&one, 1, &held(5)).await.nodes, [node(1)]);
    let seen = view(&two, 2, &[]).await;
    assert_eq!(seen.nodes, [node(1), node(2)]);
    assert_eq!(seen.leases.get(&S).cloned(), lease(1, 5));
    // Another run of the same node takes its place.
    let mut again = node(2);
    again.incarnation = Incarnation::new(7);
    assert_eq!(two.beat(&again, &[]).await.expect("an answer").nodes, [node(1), again.clone()]);
    // The run before has nothing left to take with it.
    two.leave(&node(2)).await.expect("an answer");
    assert_eq!(view(&one, 1, &held(5)).await.nodes, [node(1), again.clone()]);
    two.leave(&again).await.expect("an answer");
    one.leave(&node(1)).await.expect("an answer");
    let seen = view(&two, 3, &[]).await;
    assert_eq!((seen.nodes, seen.leases.len()), (vec![node(3)], 0));
}

#[tokio::test]
async fn a_lease_that_was_wiped_is_made_again_by_the_next_beat() {
    let redis = Redis::start().await;
    let coordinator = connect(&redis).await;
    view(&coordinator, 1, &held(5)).await;
    redis.flush_all().await;
    assert_eq!(holder(&coordinator).await, None);
    view(&coordinator, 1, &held(5)).await;
    assert_eq!(holder(&coordinator).await, lease(1, 5));
}

#[tokio::test]
async fn what_is_not_renewed_expires_by_the_clock_of_redis() {
    let redis = Redis::start().await;
    let coordinator = connect(&redis).await;
    let start = tokio::time::Instant::now();
    view(&coordinator, 1, &held(5)).await;
    // As if it had been written by a server whose clock ran ahead.
    let far = format!("99999999999999 {}", "x");
    redis.query::<()>(cmd("HSET").arg(key("leases")).arg(7).arg(far)).await;
    let left = eventually("the lease expires", || async {
        let seen = view(&coordinator, 2, &[]).await;
        assert!(!seen.leases.contains_key(&ShardId::new(7)));
        (!seen.leases.contains_key(&S)).then_some(seen.nodes)
    })
    .await;
    assert_eq!(left, [node(2)]);
    assert!(start.elapsed() > LEASE_TTL / 2);
    // Nothing stays behind once nobody beats.
    let left: i64 = redis.query(cmd("PTTL").arg(key("nodes"))).await;
    assert!(Duration::from_millis(left.try_into().expect("it expires")) <= LEASE_TTL);
}

#[tokio::test]
async fn a_lease_is_taken_only_from_the_holder_that_was_named() {
    let redis = Redis::start().await;
    let coordinator = connect(&redis).await;
    let acquire = async |me: u128, instead_of: Option<u128>| {
        let instead_of = instead_of.map(|number| node(number).incarnation);
        coordinator.acquire(S, &node(me), instead_of).await.expect("an answer")
    };
    assert!(acquire(1, None).await);
    assert!(acquire(1, None).await, "again, because the answer may have been lost");
    assert_eq!(holder(&coordinator).await, lease(1, 0));
    assert!(!acquire(2, None).await);
    assert!(!acquire(2, Some(3)).await);
    assert!(acquire(2, Some(1)).await);
    assert_eq!(holder(&coordinator).await, lease(2, 0));

    let hand_over =
        async |me: u128, to: u128| coordinator.hand_over(S, &node(me), &node(to)).await.expect("an answer");
    assert!(!hand_over(1, 3).await);
    assert!(hand_over(2, 3).await);
    assert!(hand_over(2, 3).await, "again, because the answer may have been lost");
    coordinator.release(S, &node(2)).await.expect("an answer");
    assert_eq!(holder(&coordinator).await, lease(3, 0));
    coordinator.release(S, &node(3)).await.expect("an answer");
    assert_eq!(holder(&coordinator).await, None);
    assert!(acquire(2, Some(1)).await, "absent is as good");
}

#[tokio::test]
async fn a_beat_claims_what_a_superseded_leader_holds_and_nothing_else() {
    let redis = Redis::start().await;
    let coordinator = connect(&redis).await;
    view(&coordinator, 1, &held(5)).await;
    for (claim, holds) in [(0, 1), (4, 1), (5, 1), (6, 2)] {
        view(&coordinator, 2, &held(claim)).await;
        assert_eq!(holder(&coordinator).await.map(|lease| lease.node), Some(NodeId::new(holds)), "{claim}");
    }
    // Who takes over may be about to lead the next epoch.
    coordinator.acquire(S, &node(3), Some(node(2).incarnation)).await.expect("an answer");
    assert_eq!(view(&coordinator, 2, &held(6)).await.leases.remove(&S), lease(3, 0));
}

#[tokio::test]
async fn leases_and_hints_go_on_after_redis_was_killed() {
    let mut redis = Redis::start().await;
    let coordinator = connect(&redis).await;
    let mut hints = coordinator.hints();
    let hint = Hint::ManifestChanged { shard: S, version: 8 };
    coordinator.publish(hint).await.expect("an answer");
    assert_eq!(in_time("the hint arrives", hints.recv()).await.ok(), Some(hint));
    view(&coordinator, 1, &held(5)).await;

    redis.kill9().await;
    let error = coordinator.beat(&node(1), &held(5)).await.expect_err("nobody is there");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    redis.restart().await;
    eventually("beats are answered again", || async { coordinator.beat(&node(1), &held(5)).await.ok() })
        .await;
    assert_eq!(holder(&coordinator).await, lease(1, 5));

    let hint = Hint::TopicsChanged { version: 3 };
    // Not ours, or of a later version.
    redis.query::<()>(cmd("PUBLISH").arg(key("hints")).arg("topics soon")).await;
    redis.query::<()>(cmd("PUBLISH").arg(key("hints")).arg(b"\xff\xfe")).await;
    let heard = eventually("hints arrive again", || {
        let heard = hints.try_recv().ok();
        let published = coordinator.publish(hint);
        async move {
            published.await.expect("an answer");
            heard
        }
    })
    .await;
    assert_eq!(heard, hint);
}

#[tokio::test]
async fn a_redis_that_stands_still_costs_one_bounded_wait_per_call() {
    let redis = Redis::start().await;
    let coordinator = connect(&redis).await;
    view(&coordinator, 1, &[]).await;
    redis.stop();
    for _ in 0..2 {
        let error = in_time("the call ends", coordinator.beat(&node(1), &[])).await.expect_err("no answer");
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    }
    let error = in_time("the call ends", try_connect(&redis.url())).await.expect_err("no answer");
    assert!(error.is_retriable(), "{error}");
    redis.cont();
    eventually("beats are answered again", || async { coordinator.beat(&node(1), &[]).await.ok() }).await;
}

#[tokio::test]
async fn what_others_wrote_at_our_names_is_an_error_and_no_end() {
    let redis = Redis::start().await;
    let coordinator = connect(&redis).await;
    for name in ["nodes", "leases"] {
        redis.query::<()>(cmd("SET").arg(key(name)).arg("mine")).await;
        let error = coordinator.beat(&node(1), &held(5)).await.expect_err("it is no hash");
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        redis.query::<()>(cmd("DEL").arg(key(name))).await;
        view(&coordinator, 1, &held(5)).await;
    }
    redis.query::<()>(cmd("SET").arg(key("leases")).arg("mine")).await;
    assert!(coordinator.acquire(S, &node(1), None).await.is_err());
    assert!(coordinator.release(S, &node(1)).await.is_err());
    assert!(coordinator.leave(&node(1)).await.is_err());
    redis.flush_all().await;
    // Values that nobody of ours wrote expire at once, and do not hinder the rest.
    for (name, field, value) in
        [("nodes", "x", "1"), ("nodes", "y", "z z"), ("leases", "3", ""), ("leases", "q", "1 2 3")]
    {
        redis.query::<()>(cmd("HSET").arg(key(name)).arg(field).arg(value)).await;
    }
    let seen = view(&coordinator, 1, &held(5)).await;
    assert_eq!((seen.nodes, seen.leases.len()), (vec![node(1)], 1));
    let fields: usize = redis.query(cmd("HLEN").arg(key("nodes"))).await;
    assert_eq!(fields, 1);
}

#[tokio::test]
async fn a_cluster_takes_a_bounded_number_of_nodes() {
    let redis = Redis::start().await;
    let coordinator = connect(&redis).await;
    for number in 0..NODES_MAX {
        view(&coordinator, number as u128, &[]).await;
    }
    let error = coordinator.beat(&node(NODES_MAX as u128), &[]).await.expect_err("it is full");
    assert!(matches!(error, CoordinatorError::Full), "{error}");
    assert_eq!(view(&coordinator, 0, &[]).await.nodes.len(), NODES_MAX);
    let mut large = node(1);
    large.address = "a".repeat(20_000);
    assert!(matches!(coordinator.beat(&large, &[]).await, Err(CoordinatorError::TooLarge { .. })));
}

#[tokio::test]
async fn servers_that_a_cluster_cannot_use_are_refused_in_words() {
    for (args, words) in [
        (&["--appendonly", "no", "--cluster-enabled", "yes"][..], "runs as a cluster"),
        (&["--replicaof", "127.0.0.1 1"], "is a replica"),
    ] {
        let redis = Redis::start_with(args).await;
        let error = try_connect(&redis.url()).await.expect_err("it is refused");
        assert!(error.to_string().contains(words) && !error.is_retriable(), "{error}");
    }
    // Nobody speaks TLS there.
    let redis = Redis::start_with(&["--requirepass", "secret"]).await;
    let error = try_connect(&redis.url().replace("redis:", "rediss:")).await.expect_err("it is refused");
    assert!(error.is_retriable(), "{error}");
    // The password is wanted, and never told.
    for url in [redis.url(), redis.url().replace("//", "//:wrongone@")] {
        let error = try_connect(&url).await.expect_err("it is refused");
        assert!(!error.is_retriable() && !format!("{error} {error:?}").contains("wrongone"), "{error}");
    }
    let coordinator = try_connect(&redis.url().replace("//", "//:secret@")).await.expect("it is right");
    view(&coordinator, 1, &[]).await;
    assert!(!format!("{coordinator:?}").contains("secret"));
}
