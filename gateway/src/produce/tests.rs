use std::time::Duration;

use bytes::Bytes;
use forebay_log::clock::SystemClock;
use forebay_log::keys::Keys;
use forebay_log::model::{ClusterId, Header};
use forebay_log::partitioner::partition_for_key;
use forebay_log::shard::{BlockCache, LeaderOptions, Shard, ShardStore, Signals};
use forebay_log::store::{Operation, Store, StoreUrl};
use forebay_log::testing::{FaultyStore, Moment};
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::*;
use crate::shards::ShardSlot;
use crate::testing::{append, node, record, topic};

fn unit(records: impl IntoIterator<Item = NewRecord>) -> Unit {
    let mut unit = Unit::default();
    records.into_iter().for_each(|record| unit.push(record));
    unit
}

fn keyed(key: Option<&str>, value: &str) -> NewRecord {
    let mut new = NewRecord { partition: None, ..record(0, value) };
    new.record.key = key.map(|key| Bytes::from(key.to_owned()));
    new
}

#[tokio::test]
async fn keys_decide_the_partition_and_the_rest_of_a_request_stays_together() {
    let node = node(2).await;
    let orders = topic(&node, "orders", 8).await;
    let keys = ["a", "b", "c", "d", "e"];
    let records = keys.iter().flat_map(|key| [keyed(Some(key), "1"), keyed(None, "2")]);
    let produced = append(&node, &orders, records).await;
    let sticky = produced.records[1].partition;
    for (index, key) in keys.iter().enumerate() {
        assert_eq!(produced.records[index * 2].partition, partition_for_key(key.as_bytes(), 8));
        assert_eq!(produced.records[index * 2 + 1].partition, sticky);
    }
    assert!(produced.runs.is_sorted_by_key(|run| run.partition));
    assert_eq!(produced.runs.iter().map(|run| run.count).sum::<u64>(), 10);
    for place in &produced.records {
        let run = produced.runs.iter().find(|run| run.partition == place.partition).unwrap();
        assert!(run.base_offset <= place.offset && place.offset < run.end_offset);
    }
}

#[tokio::test]
async fn a_record_that_names_another_partition_than_the_request_is_named() {
    let node = node(1).await;
    let orders = topic(&node, "orders", 3).await;
    let options = ProduceOptions { partition: Some(PartitionId::new(2)), ..ProduceOptions::default() };
    let sticky = PartitionId::new(0);
    let records = unit([record(2, "a"), record(1, "b")]);
    let refused = node
        .producer
        .enqueue(&orders, records, sticky, &mut Progress::default(), &options)
        .await
        .unwrap_err();
    assert!(
        matches!(refused, ProduceError::OtherPartition { index: 1, named: 1, partition: 2 }),
        "{refused:?}"
    );
    let options = ProduceOptions::default();
    let refused = node
        .producer
        .enqueue(&orders, unit([record(3, "a")]), sticky, &mut Progress::default(), &options)
        .await;
    assert!(matches!(refused, Err(ProduceError::Partition { index: 0, .. })), "{refused:?}");
}

#[tokio::test]
async fn a_retry_is_answered_with_the_first_places_and_another_body_is_refused() {
    let node = node(2).await;
    let orders = topic(&node, "orders", 4).await;
    let options =
        ProduceOptions { idempotency: Some(Idempotency::Request { id: 77 }), ..ProduceOptions::default() };
    let sticky = node.producer.sticky_partition(&orders, &options);
    assert_eq!(sticky, node.producer.sticky_partition(&orders, &options), "a retry meets its entry");
    let send = async |value: &str| {
        let records = unit(["a", "b", "c"].map(|key| keyed(Some(key), value)));
        node.producer
            .enqueue(&orders, records, sticky, &mut Progress::default(), &options)
            .await
            .unwrap()
            .acknowledged()
            .await
    };
    let (first, second) = (send("1").await.unwrap(), send("1").await.unwrap());
    assert!(!first.replayed && second.replayed);
    assert_eq!(first.runs, second.runs);
    let refused = send("2").await.unwrap_err();
    assert!(matches!(refused, ProduceError::Append(AppendError::Mismatch)), "{refused:?}");
    assert_eq!(refused.outcome(), Outcome::NotApplied);
}

#[tokio::test]
async fn a_producers_records_go_to_one_partition_and_count_on_over_units() {
    let node = node(2).await;
    let orders = topic(&node, "orders", 4).await;
    let sequenced = |sequence| ProduceOptions {
        idempotency: Some(Idempotency::of_producer(&orders, "p", 0, sequence)),
        ..ProduceOptions::default()
    };
    let options = sequenced(7);
    let sticky = node.producer.sticky_partition(&orders, &options);
    assert_eq!(sticky, node.producer.sticky_partition(&orders, &sequenced(9)), "whatever the sequence");
    let send = async |records: Vec<NewRecord>, progress: &mut Progress, options: &ProduceOptions| {
        node.producer.enqueue(&orders, unit(records), sticky, progress, options).await?.acknowledged().await
    };
    let mut progress = Progress::default();
    let first = vec![keyed(None, "1"), keyed(None, "2")];
    let first = send(first, &mut progress, &options).await.unwrap();
    let second = send(vec![keyed(None, "3")], &mut progress, &options).await.unwrap();
    assert_eq!((first.runs[0].partition, second.runs[0].base_offset), (sticky, Offset::new(2)));
    let elsewhere = ["a", "b", "c", "d", "e", "f", "g", "h"]
        .into_iter()
        .find(|key| partition_for_key(key.as_bytes(), 4) != sticky)
        .unwrap();
    let refused = send(vec![keyed(Some(elsewhere), "4")], &mut progress, &options).await.unwrap_err();
    assert!(matches!(refused, ProduceError::SeveralPartitions { index: 0 }), "{refused:?}");
    let both = vec![keyed(None, "4"), keyed(Some(elsewhere), "5")];
    let refused = send(both, &mut Progress::default(), &sequenced(10)).await.unwrap_err();
    assert!(matches!(refused, ProduceError::SeveralPartitions { index: 1 }), "{refused:?}");
    let gap = send(vec![keyed(None, "4")], &mut Progress::default(), &sequenced(11)).await.unwrap_err();
    assert!(
        matches!(gap, ProduceError::Append(AppendError::SequenceGap { expected: 10 })),
        "{gap:?}: the two refused units took no sequence"
    );
    // Sequences are those of a partition: in another one the producer is not known.
    let apart = send(vec![keyed(Some(elsewhere), "5")], &mut Progress::default(), &sequenced(99)).await;
    assert!(!apart.unwrap().replayed);
}

#[tokio::test]
async fn names_of_requests_and_producers_never_meet() {
    let node = node(1).await;
    let orders = topic(&node, "orders", 1).await;
    let name = "orders".parse().unwrap();
    let ids = [
        Idempotency::of_request(&name, &orders, "a").id(),
        Idempotency::of_producer(&orders, "a", 0, 0).id(),
        Idempotency::of_producer(&orders, "b", 0, 0).id(),
        idempotency::id_in_partition(Idempotency::of_producer(&orders, "a", 0, 0).id(), PartitionId::new(0)),
        idempotency::id_in_partition(Idempotency::of_producer(&orders, "a", 0, 0).id(), PartitionId::new(1)),
        idempotency::id_in_partition(Idempotency::of_producer(&orders, "b", 0, 0).id(), PartitionId::new(0)),
    ];
    let distinct: std::collections::HashSet<u128> = ids.into_iter().collect();
    assert_eq!(distinct.len(), ids.len());
    assert_eq!(
        Idempotency::of_producer(&orders, "a", 1, 5).id(),
        ids[1],
        "epoch and sequence do not name it"
    );
}

#[tokio::test(start_paused = true)]
async fn a_retry_waits_for_its_first_attempt_until_its_own_deadline() {
    let faulty = FaultyStore::new(Store::open(&StoreUrl::Memory).await.unwrap().objects(), 1);
    let store = Store::with_objects(Arc::new(faulty.clone()), false);
    let at = ShardStore { store, keys: Keys::new(""), cluster: ClusterId::new(1), shard: ShardId::new(0) };
    let options = LeaderOptions {
        clock: Arc::new(SystemClock),
        journal: None,
        signals: Signals::default(),
        flush_linger: log_limits::FLUSH_LINGER,
        unflushed_bytes_max: log_limits::SHARD_UNFLUSHED_BYTES_MAX,
        spill_bytes: log_limits::SHARD_SPILL_BYTES,
    };
    let slot = ShardSlot::new(at.clone(), BlockCache::new(log_limits::CACHE_BYTES_MIN));
    let index = Arc::clone(slot.index());
    let (shard, _task) = Shard::open(at, index, options, StdRng::seed_from_u64(1)).await.unwrap();
    shard.recovered(false, Vec::new()).await.unwrap();
    let routes = Arc::new(Routes::fixed(vec![shard]));
    let shards = Arc::new(Shards::new(vec![slot], Signals::default()));
    let producer = Producer::new(shards, routes, Arc::new(SystemClock));
    let node = node(1).await;
    let orders = topic(&node, "orders", 1).await;
    let options = ProduceOptions {
        idempotency: Some(Idempotency::of_producer(&orders, "p", 0, 0)),
        ..ProduceOptions::default()
    };
    let send = async || {
        let (records, mut progress) = (unit([record(0, "a")]), Progress::default());
        producer.enqueue(&orders, records, PartitionId::new(0), &mut progress, &options).await.unwrap()
    };
    let hold = faulty.hold(Operation::Create, Moment::Request);
    let (first, again) = (send().await, send().await);
    let begun = tokio::time::Instant::now();
    let (first, again) = tokio::join!(first.acknowledged(), again.acknowledged());
    assert!(begun.elapsed() >= limits::PRODUCE_WAIT_MAX);
    assert!(matches!(first, Err(ProduceError::Append(AppendError::TimedOut))), "{first:?}");
    assert!(matches!(again, Err(ProduceError::Append(AppendError::InProgress))), "{again:?}");
    let later = send().await;
    hold.release();
    assert!(later.acknowledged().await.unwrap().replayed);
}

#[tokio::test]
async fn a_unit_that_only_some_shards_stored_is_neither_stored_nor_not() {
    let node = node(2).await;
    let orders = topic(&node, "orders", 2).await;
    let stored = append(&node, &orders, [record(0, "a")]).await;
    let both = async |options: ProduceOptions| {
        let sticky = PartitionId::new(0);
        let records = unit([record(0, "x"), record(1, "y")]);
        node.producer
            .enqueue(&orders, records, sticky, &mut Progress::default(), &options)
            .await
            .unwrap()
            .acknowledged()
            .await
    };
    // One expectation for both partitions: only the empty one meets it.
    let expected = Some(Offset::ZERO);
    let failed = both(ProduceOptions { expected, ..ProduceOptions::default() }).await.unwrap_err();
    assert!(matches!(failed, ProduceError::Partly(AppendError::Expected { .. })), "{failed:?}");
    let options = ProduceOptions { expected: Some(Offset::new(99)), ..ProduceOptions::default() };
    let failed = both(options).await.unwrap_err();
    assert!(matches!(failed, ProduceError::Append(AppendError::Expected { .. })), "{failed:?}");
    assert_eq!(stored.runs[0].end_offset, Offset::new(1));
}

#[tokio::test]
async fn a_drained_node_stores_nothing_and_says_so() {
    let node = node(1).await;
    let orders = topic(&node, "orders", 1).await;
    node.begin_stop();
    let options = ProduceOptions::default();
    let refused = node
        .producer
        .enqueue(&orders, unit([record(0, "a")]), PartitionId::new(0), &mut Progress::default(), &options)
        .await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.outcome(), Outcome::NotApplied);
    assert!(matches!(refused, ProduceError::Append(AppendError::Draining)), "{refused:?}");
    node.stop(Duration::from_secs(5)).await.unwrap();
}

#[test]
fn a_unit_is_cut_by_count_and_bytes_and_takes_one_larger_record() {
    let mut full = Unit::default();
    for _ in 0..log_limits::UNIT_RECORDS_MAX {
        assert!(!full.is_full_for(&record(0, "").record));
        full.push(record(0, ""));
    }
    assert!(full.is_full_for(&record(0, "").record));
    let large = record(0, &"x".repeat(log_limits::UNIT_BYTES_MAX + 1));
    assert!(!Unit::default().is_full_for(&large.record));
    assert!(unit([record(0, "a")]).is_full_for(&large.record));
    assert!(unit([large]).is_full_for(&record(0, "a").record));
}

#[test]
fn everything_a_producer_sent_tells_bodies_apart() {
    let hash = |change: &dyn Fn(&mut NewRecord)| {
        let mut new = record(0, "v");
        change(&mut new);
        unit([new]).body_hash()
    };
    let header = |name: &'static str| Header { name: name.into(), value: None };
    let hashes = [
        hash(&|_| {}),
        hash(&|new| new.partition = None),
        hash(&|new| new.record.key = Some(Bytes::new())),
        hash(&|new| new.record.value = None),
        hash(&|new| new.record.timestamp = Timestamp::from_millis(1)),
        hash(&|new| new.record.headers.push(header("a"))),
        unit([record(0, "v"), record(0, "v")]).body_hash(),
    ];
    let distinct: std::collections::HashSet<u64> = hashes.into_iter().collect();
    assert_eq!(distinct.len(), hashes.len());
    assert_eq!(hash(&|_| {}), hashes[0]);
}

#[test]
fn a_total_of_runs_ends_where_the_last_one_does() {
    let run = |base, end, count| Run {
        partition: PartitionId::new(0),
        base_offset: Offset::new(base),
        end_offset: Offset::new(end),
        count,
    };
    let mut total = run(3, 5, 2);
    total.extend(run(9, 10, 1));
    assert_eq!(total, run(3, 10, 3), "records of others lie between");
}
