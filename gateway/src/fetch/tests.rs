use std::collections::BTreeMap;
use std::time::Duration;

use forebay_log::model::{Offset, PartitionId};

use super::*;
use crate::fetch::filter::Pattern;
use crate::fetch::position::{cursor_of, update_cursor};
use crate::testing::{append, node, reader, record, topic};

/// Collects partition and value of each record.
#[derive(Debug, Default)]
struct Collect(Vec<(u16, String)>);

impl RecordSink for Collect {
    fn record(
        &mut self,
        positions: &[TopicPosition],
        topic: usize,
        slot: usize,
        record: &RecordView,
    ) -> usize {
        let value = record.value.clone().unwrap_or_default();
        let partition = positions[topic].slots[slot].partition.get();
        self.0.push((partition, String::from_utf8(value.to_vec()).unwrap()));
        value.len()
    }
}

const ALL: PageLimit = PageLimit { records: 1000, bytes: usize::MAX };

#[tokio::test]
async fn pages_of_any_size_give_each_record_once_and_in_its_partitions_order() {
    let node = node(2).await;
    let orders = topic(&node, "orders", 3).await;
    for round in 0..7 {
        append(&node, &orders, (0..20).map(|n| record(n % 3, &format!("{:04}", round * 20 + n)))).await;
    }
    for limit in [
        PageLimit { records: 1, bytes: usize::MAX },
        PageLimit { records: 7, bytes: usize::MAX },
        PageLimit { records: 1000, bytes: 10 },
        ALL,
    ] {
        let (mut reader, mut sink) = (reader(&node, "orders", &orders), Collect::default());
        loop {
            let before = sink.0.len();
            let end = reader.page(limit, &mut sink).await.unwrap();
            assert_eq!(end.records, sink.0.len() - before);
            assert!(end.records <= limit.records);
            if end.caught_up {
                break;
            }
            assert!(end.records > 0, "every page makes progress");
        }
        let mut by_partition: BTreeMap<u16, Vec<String>> = BTreeMap::new();
        for (partition, value) in sink.0 {
            by_partition.entry(partition).or_default().push(value);
        }
        assert_eq!(by_partition.values().map(Vec::len).sum::<usize>(), 140);
        assert!(by_partition.values().all(|values| values.is_sorted_by(|a, b| a < b)), "{limit:?}");
    }
}

#[tokio::test]
async fn a_busy_partition_starves_none() {
    let node = node(1).await;
    let orders = topic(&node, "orders", 2).await;
    append(&node, &orders, (0..1000).map(|_| record(0, "busy"))).await;
    append(&node, &orders, [record(1, "calm")]).await;
    let (mut reader, mut sink) = (reader(&node, "orders", &orders), Collect::default());
    reader.page(PageLimit { records: 10, bytes: usize::MAX }, &mut sink).await.unwrap();
    assert!(sink.0.contains(&(1, "calm".to_owned())), "{:?}", sink.0);
}

#[tokio::test]
async fn pages_cut_by_bytes_reach_every_partition_soon() {
    let node = node(1).await;
    let orders = topic(&node, "orders", 4).await;
    append(&node, &orders, (0..4000).map(|n| record(n % 4, "value"))).await;
    let (mut reader, mut sink) = (reader(&node, "orders", &orders), Collect::default());
    for _ in 0..32 {
        // Always the same number of records: a rotation by position alone would return to the same partition.
        reader.page(PageLimit { records: 1000, bytes: 5 * 8 }, &mut sink).await.unwrap();
    }
    let seen: std::collections::BTreeSet<u16> = sink.0.iter().map(|(partition, _)| *partition).collect();
    assert_eq!(seen.len(), 4);
}

#[tokio::test]
async fn an_end_is_exclusive_and_new_partitions_lie_behind_it() {
    let node = node(1).await;
    let orders = topic(&node, "orders", 1).await;
    append(&node, &orders, (0..10).map(|n| record(0, &n.to_string()))).await;
    let (mut reader, mut sink) = (reader(&node, "orders", &orders), Collect::default());
    reader.positions[0].slots[0].until = Some(Offset::new(4));
    let more = serde_json::json!({"partitions": 2}).as_object().unwrap().clone();
    let wider = node.topics.alter(&"orders".parse().unwrap(), &more, None).await.unwrap();
    append(&node, &wider, [record(1, "new")]).await;
    let end = reader.page(ALL, &mut sink).await.unwrap();
    assert_eq!((end.records, end.caught_up, reader.is_done()), (4, true, true));
    assert_eq!(reader.positions[0].slots.len(), 2);
    assert_eq!(reader.positions[0].slots[0].next, Offset::new(4));
}

#[tokio::test]
async fn a_filter_moves_the_position_without_records() {
    let node = node(1).await;
    let orders = topic(&node, "orders", 1).await;
    append(&node, &orders, (0..10).map(|n| record(0, &n.to_string()))).await;
    let (mut reader, mut sink) = (reader(&node, "orders", &orders), Collect::default());
    reader.filter.key = Some(Pattern::parse("k*"));
    let end = reader.page(ALL, &mut sink).await.unwrap();
    assert_eq!(end, PageEnd { records: 0, moved: true, caught_up: true });
    assert_eq!(reader.positions[0].slots[0].next, Offset::new(10));
}

#[tokio::test]
async fn a_position_above_the_high_watermark_is_ahead_and_stays() {
    let node = node(1).await;
    let orders = topic(&node, "orders", 1).await;
    let (mut reader, mut sink) = (reader(&node, "orders", &orders), Collect::default());
    assert!(!reader.is_ahead());
    reader.positions[0].slots[0].next = Offset::new(3);
    let end = reader.page(ALL, &mut sink).await.unwrap();
    assert_eq!(end, PageEnd { records: 0, moved: false, caught_up: true });
    assert!(reader.is_ahead());
    append(&node, &orders, (0..4).map(|n| record(0, &n.to_string()))).await;
    reader.page(ALL, &mut sink).await.unwrap();
    assert_eq!(sink.0, [(0, "3".to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn a_wait_ends_with_a_record_with_the_topic_or_at_its_deadline() {
    let node = node(1).await;
    let orders = topic(&node, "orders", 1).await;
    let (mut reader, mut sink) = (reader(&node, "orders", &orders), Collect::default());
    reader.page(ALL, &mut sink).await.unwrap();
    let hour = Duration::from_secs(3600);
    assert!(!reader.wait(Instant::now() + hour).await);
    append(&node, &orders, [record(0, "a")]).await;
    let begun = Instant::now();
    assert!(reader.wait(begun + hour).await, "a record that came before the wait is not missed");
    reader.page(ALL, &mut sink).await.unwrap();
    let deleted = node.topics.delete(&"orders".parse().unwrap(), None).await.unwrap();
    node.shards.signals().forget(deleted.id);
    assert!(reader.wait(begun + hour).await);
    assert!(Instant::now() < begun + hour);
    let gone = reader.page(ALL, &mut sink).await;
    assert!(matches!(gone, Err(ReadError::TopicGone { .. })), "{gone:?}");
}

#[tokio::test]
async fn another_topic_of_that_name_is_not_taken_for_it_but_a_read_may_go_over_to_it() {
    let node = node(1).await;
    let orders = topic(&node, "orders", 2).await;
    append(&node, &orders, [record(0, "old"), record(1, "old")]).await;
    let (mut whole, mut sink) = (reader(&node, "orders", &orders), Collect::default());
    whole.page(ALL, &mut sink).await.unwrap();
    let mut second = reader(&node, "orders", &orders);
    (second.positions[0].whole, second.positions[0].slots) = (false, second.positions[0].slots.split_off(1));
    let mut bounded = reader(&node, "orders", &orders);
    bounded.positions[0].slots[0].until = Some(Offset::new(1));
    node.topics.delete(&"orders".parse().unwrap(), None).await.unwrap();
    let anew = topic(&node, "orders", 1).await;
    append(&node, &anew, [record(0, "new")]).await;
    for reader in [&mut whole, &mut second, &mut bounded] {
        let error = reader.page(ALL, &mut sink).await.unwrap_err();
        assert!(error.is_gap(), "{error:?}");
        let ReadError::TopicRecreated { earliest, .. } = error else { panic!("{error:?}") };
        assert!(earliest.to_string().starts_with(&format!("{}.", anew.epoch)), "{earliest}");
    }
    assert!(!second.close_gap(), "it lacks the partition");
    assert!(!bounded.close_gap(), "its end was in the topic that is gone");
    assert!(whole.close_gap());
    let mut sink = Collect::default();
    whole.page(ALL, &mut sink).await.unwrap();
    assert_eq!(sink.0, [(0, "new".to_owned())]);
    let hour = Instant::now() + Duration::from_secs(3600);
    append(&node, &anew, [record(0, "newer")]).await;
    assert!(whole.wait(hour).await, "it hears of the new topic");
}

#[tokio::test]
async fn a_gap_is_closed_in_the_partitions_that_have_one() {
    let node = node(1).await;
    let orders = topic(&node, "orders", 2).await;
    append(&node, &orders, (0..20).map(|n| record(n % 2, &n.to_string()))).await;
    let (mut reader, mut sink) = (reader(&node, "orders", &orders), Collect::default());
    reader.positions[0].slots[1].next = Offset::new(4);
    node.truncate(&orders, vec![(PartitionId::new(0), Offset::new(9))]).await.unwrap();
    let error = reader.page(ALL, &mut sink).await.unwrap_err();
    let ReadError::Expired { earliest, .. } = error else { panic!("{error:?}") };
    assert!(earliest.to_string().ends_with(".0-9_1-0"), "{earliest}");
    assert!(reader.close_gap());
    // What was read before the gap was met is not read again.
    reader.page(ALL, &mut sink).await.unwrap();
    let of = |partition: u16| sink.0.iter().filter(|(p, _)| *p == partition).count();
    assert_eq!((of(0), of(1)), (1, 6));
    // A partition that is new to the reader begins at its log start, which is no gap.
    let more = serde_json::json!({"partitions": 3}).as_object().unwrap().clone();
    let wider = node.topics.alter(&"orders".parse().unwrap(), &more, None).await.unwrap();
    append(&node, &wider, (0..4).map(|n| record(2, &n.to_string()))).await;
    node.truncate(&wider, vec![(PartitionId::new(2), Offset::new(3))]).await.unwrap();
    let end = reader.page(ALL, &mut sink).await.unwrap();
    assert_eq!(end.records, 1);
}

#[tokio::test]
async fn an_updated_cursor_equals_a_new_one() {
    let node = node(1).await;
    let orders = topic(&node, "orders", 2).await;
    let mut positions = vec![reader(&node, "orders", &orders).positions.remove(0)];
    let mut cursor = cursor_of(&positions);
    positions[0].slots[1].next = Offset::new(9);
    update_cursor(&mut cursor, &positions);
    assert_eq!(cursor, cursor_of(&positions));
    positions[0].extend(3);
    assert_eq!(positions[0].slots[2].partition, PartitionId::new(2));
    update_cursor(&mut cursor, &positions);
    assert_eq!(cursor, cursor_of(&positions));
    positions.push(TopicPosition { name: "pay".parse().unwrap(), ..positions[0].clone() });
    update_cursor(&mut cursor, &positions);
    assert_eq!(cursor, cursor_of(&positions));
}
