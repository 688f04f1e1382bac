use forebay_log::format::record_batch::encode;
use forebay_log::format::wal_object::ObjectKind;
use forebay_log::limits::WAL_HEADER_LEN;
use forebay_log::model::{
    ClusterId, Compression, LeaderEpoch, Nonce, Offset, PartitionId, Record, ShardId, Timestamp,
    TimestampType, TopicId, WalSeq,
};

use super::*;

const EPOCH: LeaderEpoch = LeaderEpoch::new(3);

fn partition(number: u16) -> TopicPartition {
    TopicPartition { topic: TopicId::new(7), partition: PartitionId::new(number) }
}

fn identity(kind: ObjectKind, first: u64, last: u64) -> ObjectIdentity {
    ObjectIdentity {
        kind,
        jump: false,
        cluster: ClusterId::new(1),
        shard: ShardId::new(0),
        epoch: EPOCH,
        seq: WalSeq::new(first),
        last_seq: WalSeq::new(last),
        nonce: Nonce::new(9),
        append_time: Timestamp::from_millis(5),
    }
}

fn batch(base: u64, count: usize, value_len: usize) -> Bytes {
    let records = vec![Record { value: Some(vec![b'v'; value_len].into()), ..Record::default() }; count];
    let encoded = encode(&records, Compression::None, TimestampType::CreateTime).unwrap();
    encoded.place(Offset::new(base), EPOCH)
}

fn push(builder: &mut ObjectBuilder, at: TopicPartition, bytes: Bytes, base: u64, count: u32) {
    let extent = Extent {
        partition: at,
        base_offset: Offset::new(base),
        end_offset: Offset::new(base + u64::from(count)),
        count,
        max_timestamp: Timestamp::default(),
        append_time: Timestamp::from_millis(5),
    };
    builder.push(extent, [bytes], []).unwrap();
}

fn input(builder: ObjectBuilder) -> Input {
    let object = builder.finish().unwrap();
    Input::decode(Path::from("input"), Bytes::from(object.parts.concat())).unwrap()
}

fn data(seq: u64, batches: &[(u16, u64, usize, usize)]) -> Input {
    let mut builder = ObjectBuilder::new(identity(ObjectKind::Data, seq, seq));
    for (number, base, count, value_len) in batches {
        let bytes = batch(*base, *count, *value_len);
        push(&mut builder, partition(*number), bytes, *base, u32::try_from(*count).unwrap());
    }
    input(builder)
}

fn rolled(inputs: &[Input]) -> Result<Option<EncodedObject>, CompactorError> {
    copy(identity(ObjectKind::Rolled, 64, 99), inputs)
}

#[test]
fn batches_are_regrouped_by_partition_and_unchanged() {
    let inputs = [data(64, &[(0, 0, 2, 10), (1, 5, 1, 20)]), data(65, &[(0, 2, 3, 30), (1, 6, 1, 40)])];
    let object = rolled(&inputs).unwrap().unwrap();
    let offsets: Vec<_> =
        object.footer.entries.iter().map(|e| (e.base_offset.get(), e.end_offset.get())).collect();
    assert_eq!(offsets, [(0, 5), (5, 7)]);
    let bytes = Bytes::from(object.parts.concat());
    decode_object(&bytes).unwrap();
    let end = usize::try_from(object.header.footer_position).unwrap();
    let expected = [batch(0, 2, 10), batch(2, 3, 30), batch(5, 1, 20), batch(6, 1, 40)];
    assert_eq!(bytes[WAL_HEADER_LEN..end], expected.concat());
}

#[test]
fn a_long_run_is_split_into_entries_that_a_reader_fetches_at_once() {
    let batches: Vec<_> = (0..6).map(|n| (0, n, 1, 400_000)).collect();
    let object = rolled(&[data(64, &batches)]).unwrap().unwrap();
    let counts: Vec<_> = object.footer.entries.iter().map(|entry| entry.count).collect();
    assert_eq!(counts, [2, 2, 2]);
}

#[test]
fn a_rolled_object_is_copied_again_with_what_follows() {
    let first = rolled(&[data(64, &[(0, 0, 2, 10), (1, 0, 1, 10)])]).unwrap().unwrap();
    let first = Input::decode(Path::from("rolled"), Bytes::from(first.parts.concat())).unwrap();
    let object = rolled(&[first, data(70, &[(0, 2, 1, 10)])]).unwrap().unwrap();
    let offsets: Vec<_> =
        object.footer.entries.iter().map(|e| (e.base_offset.get(), e.end_offset.get())).collect();
    assert_eq!(offsets, [(0, 3), (0, 1)]);
}

#[test]
fn objects_without_a_batch_make_no_object() {
    assert!(rolled(&[]).unwrap().is_none());
    let mut builder = ObjectBuilder::new(ObjectIdentity { jump: true, ..identity(ObjectKind::Data, 64, 64) });
    let at = Offset::new(1000);
    let announcement = Extent {
        partition: partition(0),
        base_offset: at,
        end_offset: at,
        count: 0,
        max_timestamp: Timestamp::MIN,
        append_time: Timestamp::default(),
    };
    builder.push(announcement, [], []).unwrap();
    assert!(rolled(&[input(builder)]).unwrap().is_none());
}

#[test]
fn an_index_that_contradicts_its_batches_stops_the_roll() {
    let lies =
        [(batch(0, 3, 10), 0, 2), (batch(0, 2, 10), 0, 3), (batch(1, 2, 10), 0, 2), (batch(0, 2, 10), 1, 2)];
    for (bytes, base, count) in lies {
        let mut builder = ObjectBuilder::new(identity(ObjectKind::Data, 64, 64));
        push(&mut builder, partition(0), bytes, base, count);
        let outcome = rolled(&[input(builder)]).map(|_| ());
        assert!(
            matches!(outcome, Err(CompactorError::Damaged { .. })),
            "base={base} count={count}: {outcome:?}"
        );
    }
}

#[test]
fn a_copy_under_another_partition_is_noticed() {
    let mut here = ObjectBuilder::new(identity(ObjectKind::Rolled, 64, 99));
    let mut there = ObjectBuilder::new(identity(ObjectKind::Rolled, 64, 99));
    push(&mut here, partition(0), batch(0, 2, 10), 0, 2);
    push(&mut there, partition(1), batch(0, 2, 10), 0, 2);
    let (here, there) =
        (Tally::of(&here.finish().unwrap()).unwrap(), Tally::of(&there.finish().unwrap()).unwrap());
    assert_eq!((here.batches, here.records), (there.batches, there.records));
    assert_ne!(here, there);
}

#[test]
fn damaged_bytes_are_no_input() {
    let mut builder = ObjectBuilder::new(identity(ObjectKind::Data, 64, 64));
    push(&mut builder, partition(0), batch(0, 2, 10), 0, 2);
    let mut bytes = builder.finish().unwrap().parts.concat();
    bytes[300] ^= 1;
    let outcome = Input::decode(Path::from("input"), bytes.into()).map(|_| ());
    assert!(matches!(outcome, Err(CompactorError::Damaged { .. })), "{outcome:?}");
}
