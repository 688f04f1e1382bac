//! Streams of appends: what arrives, what breaks, what comes of it.

use forebay_log::error::Outcome;
use forebay_log::format::record_batch;
use forebay_log::shard::{AppendError, Appended, Dedupe};
use forebay_log::store::Operation;
use forebay_log::testing::Moment;
use futures::StreamExt as _;
use tokio::time::Instant;

use super::*;
use crate::cluster::append::{AppendStream, EncodedAppend, Sent};

const NOT_APPLIED: AppendError = AppendError::NoLeader { outcome: Outcome::NotApplied };

async fn send(stream: &AppendStream, append: Append) -> Sent {
    let deadline = Instant::now() + Duration::from_secs(60);
    stream.enqueue(&EncodedAppend::new(append).unwrap(), 0, deadline).await.unwrap()
}

async fn answer(stream: &AppendStream, append: Append) -> Result<Appended, AppendError> {
    send(stream, append).await.receipt.acknowledged().await
}

#[tokio::test]
async fn appends_are_stored_in_their_order_and_answered() {
    let (_, store) = shared_store().await;
    let (gateway, node) = (TestNode::start().await, TestNode::start().await);
    let shard = node.lead(&store).await;
    let stream = node.from(&gateway).stream();
    let mut sent = Vec::new();
    for number in 0..1000 {
        sent.push(send(&stream, append(&number.to_string())).await);
    }
    for (at, Sent { receipt, .. }) in (0..).zip(sent) {
        assert_eq!(receipt.acknowledged().await.unwrap().placements[0].base_offset, Offset::new(at));
    }
    let expected: Vec<String> = (0..1000).map(|number| number.to_string()).collect();
    assert_eq!(values(&shard).await, expected);
}

#[tokio::test]
async fn a_large_batch_a_condition_and_a_name_arrive_as_they_are() {
    let (_, store) = shared_store().await;
    let (gateway, node) = (TestNode::start().await, TestNode::start().await);
    let shard = node.lead(&store).await;
    let stream = node.from(&gateway).stream();
    let value = "x".repeat(3 << 20);
    let mut large = append(&value);
    let BatchSource::Records { records, .. } = &large.batches[0].source else { panic!() };
    let batch = record_batch::encode(records, Compression::None, TimestampType::CreateTime).unwrap();
    large.batches[0].source = BatchSource::Encoded(batch);
    large.batches[0].expected = Some(Offset::ZERO);
    large.dedupe = Some(Dedupe { id: 1, producer_epoch: Some(2), first_sequence: 3, body_hash: 4 });
    assert!(!answer(&stream, large.clone()).await.unwrap().replayed);
    assert!(answer(&stream, large.clone()).await.unwrap().replayed);
    large.dedupe = None;
    let refused = AppendError::Expected { expected: Offset::ZERO, current: Offset::new(1) };
    assert_eq!(answer(&stream, large).await, Err(refused));
    assert_eq!(values(&shard).await, [value]);
}

#[tokio::test]
async fn who_does_not_lead_refuses_says_who_does_and_goes_on_refusing() {
    let (_, store) = shared_store().await;
    let (gateway, node) = (TestNode::start().await, TestNode::start().await);
    let hint = LeaderHint {
        node: NodeId::new(3),
        incarnation: 4,
        address: "elsewhere:1".to_owned(),
        epoch: LeaderEpoch::new(5),
    };
    *node.local.hint.lock() = Some(hint.clone());
    let remote = node.from(&gateway);
    let stream = remote.stream();
    assert_eq!(answer(&stream, append("a")).await, Err(NOT_APPLIED));
    until(|| *gateway.local.learned.lock() == [hint.clone()]).await;
    let shard = node.lead(&store).await;
    assert_eq!(answer(&stream, append("b")).await, Err(NOT_APPLIED), "though it leads now");
    assert_eq!(answer(&remote.stream(), append("c")).await, Err(NOT_APPLIED), "another epoch");
    let stream = node.from(&gateway).stream();
    answer(&stream, append("d")).await.unwrap();
    shard.drain();
    assert_eq!(answer(&stream, append("e")).await, Err(AppendError::Draining));
    assert_eq!(values(&shard).await, ["d"]);
}

#[tokio::test]
async fn a_broken_stream_leaves_open_what_was_written_and_nothing_else() {
    let (faulty, store) = shared_store().await;
    let (gateway, node) = (TestNode::start().await, TestNode::start().await);
    let shard = node.lead(&store).await;
    let remote = node.from(&gateway);
    let stream = remote.stream();
    answer(&stream, append("a")).await.unwrap();
    let hold = faulty.hold(Operation::Create, Moment::Request);
    let written = send(&stream, append("b")).await;
    let next = shard.index().log(partition(0));
    assert_eq!(next.high_watermark(), Offset::new(1));
    hold.arrived(1).await;
    node.stop.send_replace(true);
    let unknown = AppendError::NoLeader { outcome: Outcome::Unknown };
    assert_eq!(written.receipt.acknowledged().await, Err(unknown));
    let late = stream.enqueue(&EncodedAppend::new(append("c")).unwrap(), 0, Instant::now()).await;
    assert_eq!(late.map(|_| ()), Err(NOT_APPLIED));
    assert_eq!(answer(&remote.stream(), append("d")).await, Err(NOT_APPLIED), "nobody listens");
    hold.release();
    shard.flush().await;
    assert_eq!(values(&shard).await, ["a", "b"], "it was stored all the same");
}

#[tokio::test]
async fn a_leader_that_knows_less_of_the_topics_looks_first() {
    let (_, store) = shared_store().await;
    let (gateway, node) = (TestNode::start().await, TestNode::start().await);
    node.lead(&store).await;
    gateway.local.topics_version.store(9, Ordering::Relaxed);
    answer(&node.from(&gateway).stream(), append("a")).await.unwrap();
    assert_eq!(node.local.topics_version(), 9);
}

#[tokio::test]
async fn a_stream_that_nobody_holds_ends_when_all_is_answered() {
    let (faulty, store) = shared_store().await;
    let (gateway, node) = (TestNode::start().await, TestNode::start().await);
    node.lead(&store).await;
    let hold = faulty.hold(Operation::Create, Moment::Request);
    let sent = send(&node.from(&gateway).stream(), append("a")).await;
    hold.arrived(1).await;
    hold.release();
    sent.receipt.acknowledged().await.unwrap();
}

/// Appends so many records, so many at a time. Returns how long one took, of all.
async fn pace<F: Future<Output = Result<Appended, AppendError>>>(
    count: u32,
    at_once: usize,
    one: impl Fn() -> F,
) -> Duration {
    let begun = Instant::now();
    let answers = futures::stream::iter(0..count).map(|_| one()).buffer_unordered(at_once);
    assert!(answers.all(|answer| std::future::ready(answer.is_ok())).await);
    begun.elapsed() / count
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints what a hop costs"]
async fn the_price_of_a_hop() {
    let (gateway, node) = (TestNode::start().await, TestNode::start().await);
    // In memory and exclusive, so that the leader answers at once.
    let shard = node.lead(&Store::open(&StoreUrl::Memory).await.unwrap()).await;
    let stream = node.from(&gateway).stream();
    for at_once in [1, 16, 256] {
        let here = pace(10_000, at_once, || shard.append(append("x"))).await;
        let there = pace(10_000, at_once, || answer(&stream, append("x"))).await;
        eprintln!("{at_once} at once: {here:?} here, {there:?} forwarded");
    }
}
