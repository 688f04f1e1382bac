use std::sync::Arc;

use bytes::Bytes;
use forebay_log::format::record_batch::RecordView;
use forebay_log::model::{Offset, PartitionId};

use super::*;
use crate::node::Node;
use crate::testing::{append, node, reader, record, topic};

/// Joins values with commas.
#[derive(Debug, Default)]
struct Values(Vec<u8>);

impl RecordSink for Values {
    fn record(&mut self, _: &[TopicPosition], _: usize, _: usize, record: &RecordView) -> usize {
        let value = record.value.clone().unwrap_or_default();
        self.0.extend_from_slice(&value);
        self.0.push(b',');
        value.len() + 1
    }
}

impl ChunkSink for Values {
    fn take(&mut self, _: &[TopicPosition]) -> Bytes {
        std::mem::take(&mut self.0).into()
    }
}

fn slot(partition: u16, next: u64) -> Slot {
    Slot { partition: PartitionId::new(partition), next: Offset::new(next), until: None }
}

fn offsets(ends: &[u64]) -> Arc<[Offset]> {
    ends.iter().copied().map(Offset::new).collect()
}

fn ring(end: &[u64]) -> Ring {
    let (begin, end) = (offsets(end), offsets(end));
    let state = State { chunks: VecDeque::new(), first: 0, bytes: 0, begin, end, closed: false };
    Ring { state: Mutex::new(state), news: watch::Sender::new(()), total: Arc::default() }
}

#[test]
fn a_reader_enters_behind_what_it_has_yet_to_read_and_never_before_what_it_has_read() {
    let ring = ring(&[5, 7]);
    ring.push(Bytes::from_static(b"a"), offsets(&[6, 7]));
    match ring.entry(&[slot(0, 2), slot(1, 7)]) {
        Entry::Behind { end, next } => assert_eq!((end, next), (offsets(&[6, 7]), 1)),
        other => panic!("{other:?}"),
    }
    assert!(matches!(ring.entry(&[slot(0, 6), slot(1, 8)]), Entry::Ahead));
    assert!(matches!(ring.entry(&[slot(0, 6), slot(1, 7), slot(2, 0)]), Entry::Ahead), "a partition is new");
    ring.close();
    assert!(matches!(ring.entry(&[slot(0, 6), slot(1, 7)]), Entry::Closed));
}

#[test]
fn a_slow_reader_is_told_that_it_fell_out() {
    let ring = ring(&[0]);
    let large = Bytes::from(vec![b'x'; limits::RING_BYTES / 2]);
    for end in 1..=4 {
        ring.push(large.clone(), offsets(&[end]));
    }
    assert!(matches!(ring.following(0), Following::Left));
    assert!(matches!(ring.following(1), Following::Left));
    assert!(matches!(ring.following(2), Following::Chunk(chunk) if chunk.end == offsets(&[3])));
    assert!(ring.begins_below(&offsets(&[3])) && !ring.begins_below(&offsets(&[2])));
    assert!(matches!(ring.following(4), Following::Nothing));
    ring.push(Bytes::from(vec![b'x'; limits::RING_BYTES + 1]), offsets(&[5]));
    assert!(matches!(ring.following(4), Following::Chunk(_)), "the newest is kept whatever its size");
    ring.close();
    assert!(matches!(ring.following(4), Following::Chunk(_)), "what there is can still be read");
    assert!(matches!(ring.following(5), Following::Left));
    ring.push(large, offsets(&[6]));
    assert!(matches!(ring.following(5), Following::Left), "a closed ring takes nothing");
    ring.discard();
    assert!(matches!(ring.following(4), Following::Left), "nothing can be read any more");
}

#[test]
fn all_rings_together_keep_no_more_than_one_chunk_each_past_their_limit() {
    let total = Arc::new(AtomicUsize::new(limits::RINGS_BYTES - 10));
    let mut ring = ring(&[0]);
    ring.total = Arc::clone(&total);
    for end in 1..=9 {
        ring.push(Bytes::from_static(b"12345"), offsets(&[end]));
    }
    assert_eq!(total.load(Ordering::Relaxed), limits::RINGS_BYTES);
    assert!(matches!(ring.following(6), Following::Left));
    assert!(matches!(ring.following(7), Following::Chunk(_)));
    total.fetch_add(limits::RINGS_BYTES, Ordering::Relaxed);
    ring.push(Bytes::from_static(b"12345"), offsets(&[10]));
    assert!(matches!(ring.following(8), Following::Left));
    assert!(matches!(ring.following(9), Following::Chunk(_)));
    let others = 2 * limits::RINGS_BYTES - 10;
    ring.discard();
    assert_eq!(total.load(Ordering::Relaxed), others, "what is discarded counts no more");
    drop(ring);
    assert_eq!(total.load(Ordering::Relaxed), others, "nor is it taken off twice");
}

#[test]
fn positions_without_records_make_no_chunk() {
    let ring = ring(&[0]);
    ring.push(Bytes::new(), offsets(&[3]));
    assert!(matches!(ring.following(0), Following::Nothing));
    assert!(matches!(ring.entry(&[slot(0, 3)]), Entry::Behind { next: 0, .. }));
}

fn join(node: &Arc<Node>, topic: &Arc<forebay_log::model::Topic>, format: &'static str) -> Arc<Ring> {
    node.rings.join(topic.id, format, || reader(node, "orders", topic), Values::default())
}

async fn chunk(ring: &Ring, number: u64) -> Chunk {
    let mut news = ring.news();
    loop {
        news.mark_unchanged();
        match ring.following(number) {
            Following::Chunk(chunk) => return chunk,
            Following::Nothing => news.changed().await.unwrap(),
            Following::Left => panic!("the ring was left"),
        }
    }
}

#[tokio::test]
async fn all_subscribers_of_a_format_share_a_ring_and_its_chunks_follow_the_log() {
    let node = node(1).await;
    let orders = topic(&node, "orders", 1).await;
    let first = join(&node, &orders, "record");
    assert!(Arc::ptr_eq(&first, &join(&node, &orders, "record")));
    assert!(!Arc::ptr_eq(&first, &join(&node, &orders, "value")));
    append(&node, &orders, [record(0, "a"), record(0, "b")]).await;
    let seen = chunk(&first, 0).await;
    assert_eq!((seen.bytes.as_ref(), &seen.end), (&b"a,b,"[..], &offsets(&[2])));
    append(&node, &orders, [record(0, "c")]).await;
    assert_eq!(chunk(&first, 1).await.bytes, "c,");
}

#[tokio::test(start_paused = true)]
async fn a_ring_takes_on_new_partitions_and_ends_with_its_last_subscriber() {
    let node = node(1).await;
    let orders = topic(&node, "orders", 1).await;
    let ring = join(&node, &orders, "record");
    let more = serde_json::json!({"partitions": 2}).as_object().unwrap().clone();
    let wider = node.topics.alter(&"orders".parse().unwrap(), &more, None).await.unwrap();
    append(&node, &wider, [record(1, "new")]).await;
    let seen = chunk(&ring, 0).await;
    assert_eq!((seen.bytes.as_ref(), &seen.end), (&b"new,"[..], &offsets(&[0, 1])));
    let gone = Arc::downgrade(&ring);
    drop(ring);
    assert!(gone.upgrade().is_none(), "only subscribers keep a ring");
    let again = join(&node, &wider, "record");
    assert_eq!(chunk(&again, 0).await.bytes, "new,", "the next one begins where its first subscriber stands");
}

#[tokio::test]
async fn a_ring_closes_when_its_topic_is_gone() {
    let node = node(1).await;
    let orders = topic(&node, "orders", 1).await;
    let ring = join(&node, &orders, "record");
    let mut news = ring.news();
    node.topics.delete(&"orders".parse().unwrap(), None).await.unwrap();
    node.shards.signals().forget(orders.id);
    while !matches!(ring.following(0), Following::Left) {
        news.changed().await.unwrap();
    }
    assert!(!Arc::ptr_eq(&ring, &join(&node, &orders, "record")), "a closed ring is not joined");
}
