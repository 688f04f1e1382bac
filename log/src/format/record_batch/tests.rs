//! The codec against the crate `kafka-protocol`, against itself, and against damage.

use bytes::BytesMut;
use kafka_protocol::records as oracle;
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;

use super::*;
use crate::limits;
use crate::model::{Compression, Header, LeaderEpoch, Offset, Record, Timestamp, TimestampType};

const BASE: Offset = Offset::new(0x0102_0304_0506_0708);
const EPOCH: LeaderEpoch = LeaderEpoch::new(0x090a_0b0c);

/// Bytes that zstd makes smaller, or none.
fn bytes() -> impl Strategy<Value = Option<Bytes>> {
    option::of(vec(b'a'..b'e', 0..200).prop_map(Bytes::from))
}

fn compression() -> impl Strategy<Value = Compression> {
    prop_oneof![Just(Compression::None), Just(Compression::Zstd)]
}

fn record(headers: impl Strategy<Value = Vec<Header>>) -> impl Strategy<Value = Record> {
    (bytes(), bytes(), headers, 0..i64::MAX / 2).prop_map(|(key, value, headers, millis)| Record {
        key,
        value,
        headers,
        timestamp: Timestamp::from_millis(millis),
    })
}

/// Records whose header names are unique, as the oracle needs it.
fn oracle_records() -> impl Strategy<Value = Vec<Record>> {
    let headers = btree_map("[a-z]{0,8}", bytes(), 0..4).prop_map(|headers| {
        headers.into_iter().map(|(name, value)| Header { name: name.into(), value }).collect()
    });
    vec(record(headers), 1..20)
}

/// Records with few header names, so that they repeat.
fn records() -> impl Strategy<Value = Vec<Record>> {
    let header = ("[ab]", bytes()).prop_map(|(name, value)| Header { name: name.into(), value });
    vec(record(vec(header, 0..4)), 1..20)
}

/// Records that fill every kind of field.
fn sample() -> Vec<Record> {
    let record = |i: u8| Record {
        key: (i != 1).then(|| Bytes::from(vec![b'k', i])),
        value: (i != 2).then(|| Bytes::from(vec![b'v'; 150])),
        headers: (0..i)
            .map(|h| Header { name: "name".into(), value: (h > 0).then(|| vec![h; 3].into()) })
            .collect(),
        timestamp: Timestamp::from_millis(1_700_000_000_000 - i64::from(i)),
    };
    (0..5).map(record).collect()
}

fn stored(records: &[Record], compression: Compression) -> Bytes {
    encode(records, compression, TimestampType::CreateTime).unwrap().place(BASE, EPOCH)
}

fn samples() -> [Bytes; 2] {
    [Compression::None, Compression::Zstd].map(|compression| {
        let batch = stored(&sample(), compression);
        assert_eq!(only(batch.clone()).header().compression, compression);
        batch
    })
}

fn only(bytes: Bytes) -> RecordBatch {
    let mut batches = batches(bytes);
    let batch = batches.next().unwrap().unwrap();
    assert!(batches.next().is_none());
    batch
}

fn views(batch: &RecordBatch) -> Vec<RecordView> {
    batch.records().unwrap().map(Result::unwrap).collect()
}

/// Reads all there is, and returns the first error.
fn read_all(bytes: Bytes) -> Result<(), FormatError> {
    for batch in batches(bytes) {
        for record in batch?.records()? {
            let _headers = record?.headers.count();
        }
    }
    Ok(())
}

/// Builds a batch of any section and attributes, under a valid checksum.
fn forged(section: &[u8], attributes: u16, count: u32) -> Bytes {
    let mut batch = stored(&[Record::default()], Compression::None)[..header::LEN].to_vec();
    batch.extend_from_slice(section);
    let length = u32::try_from(batch.len() - 12).unwrap();
    batch[8..12].copy_from_slice(&length.to_be_bytes());
    batch[21..23].copy_from_slice(&attributes.to_be_bytes());
    batch[23..27].copy_from_slice(&count.saturating_sub(1).to_be_bytes());
    batch[57..61].copy_from_slice(&count.to_be_bytes());
    header::seal(&mut batch);
    batch.into()
}

fn field(what: &'static str, field: &'static str) -> Result<(), FormatError> {
    Err(FormatError::Field { what, field })
}

fn oracle_record((i, record): (usize, &Record)) -> oracle::Record {
    let i = i32::try_from(i).unwrap();
    oracle::Record {
        transactional: false,
        control: false,
        delete_horizon: false,
        partition_leader_epoch: EPOCH.get().try_into().unwrap(),
        producer_id: oracle::NO_PRODUCER_ID,
        producer_epoch: oracle::NO_PRODUCER_EPOCH,
        timestamp_type: oracle::TimestampType::Creation,
        offset: i64::try_from(BASE.get()).unwrap() + i64::from(i),
        sequence: oracle::NO_SEQUENCE + i,
        timestamp: record.timestamp.as_millis(),
        key: record.key.clone(),
        value: record.value.clone(),
        headers: record
            .headers
            .iter()
            .map(|h| (h.name.clone().try_into().unwrap(), h.value.clone()))
            .collect(),
    }
}

proptest! {
    #[test]
    fn the_oracle_reads_what_is_written(records in oracle_records(), compression in compression()) {
        let expected: Vec<_> = records.iter().enumerate().map(oracle_record).collect();
        let mut bytes = stored(&records, compression);
        let decoded = oracle::RecordBatchDecoder::decode(&mut bytes).unwrap();
        prop_assert_eq!(decoded.version, 2);
        prop_assert_eq!(decoded.records, expected);
    }

    #[test]
    fn what_the_oracle_writes_is_read(records in oracle_records(), zstd: bool) {
        let written: Vec<_> = records.iter().enumerate().map(oracle_record).collect();
        let compression = if zstd { oracle::Compression::Zstd } else { oracle::Compression::None };
        let options = oracle::RecordEncodeOptions { version: 2, compression };
        let mut bytes = BytesMut::new();
        oracle::RecordBatchEncoder::encode(&mut bytes, &written, &options).unwrap();

        let batch = only(bytes.freeze());
        let header = batch.header();
        prop_assert_eq!((header.base_offset, header.leader_epoch), (BASE, EPOCH));
        prop_assert_eq!(header.end_offset(), BASE.plus(records.len() as u64));
        prop_assert_eq!(Some(header.max_timestamp), records.iter().map(|r| r.timestamp).max());
        let read: Vec<Record> = views(&batch).into_iter().map(Record::from).collect();
        prop_assert_eq!(read, records);
    }

    #[test]
    fn records_come_back_as_they_were(records in records(), compression in compression()) {
        let encoded = encode(&records, compression, TimestampType::CreateTime).unwrap();
        prop_assert_eq!(encoded.count() as usize, records.len());
        let size_bytes = encoded.size_bytes();
        let batch = only(encoded.place(BASE, EPOCH));
        prop_assert_eq!(batch.header().size_bytes, size_bytes);
        let views = views(&batch);
        for (view, i) in views.iter().zip(0..) {
            prop_assert_eq!(view.offset, BASE.plus(i));
        }
        let read: Vec<Record> = views.into_iter().map(Record::from).collect();
        prop_assert_eq!(read, records);
    }

    /// Gets past the checksum, to where a careless reader would trust what it reads.
    #[test]
    fn damage_under_a_valid_checksum_never_panics(
        zstd: bool,
        damage in vec((header::LEN - 40..header::LEN + 700, any::<u8>()), 1..8),
        cut in 0_usize..700,
    ) {
        let mut bytes = samples()[usize::from(zstd)].to_vec();
        bytes.truncate(bytes.len().saturating_sub(cut).max(header::LEN));
        for (at, byte) in damage {
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
        }
        let length = u32::try_from(bytes.len() - 12).unwrap();
        bytes[8..12].copy_from_slice(&length.to_be_bytes());
        header::seal(&mut bytes);
        let _outcome = read_all(bytes.into());
    }
}

#[test]
fn batches_are_split_in_order() {
    let [plain, compressed] = samples();
    let joined = Bytes::from([plain.as_ref(), &compressed, &plain].concat());
    let split: Vec<_> = batches(joined).map(|batch| batch.unwrap().bytes().clone()).collect();
    assert_eq!(split, [plain.clone(), compressed, plain]);
}

#[test]
fn nothing_follows_an_error() {
    let [plain, _] = samples();
    let mut joined = [plain.as_ref(), &plain, &plain].concat();
    joined[plain.len() + 16] = 1;
    let version = FormatError::Version { what: BATCH, version: 1 };
    let outcomes: Vec<_> = batches(joined.into()).map(|batch| batch.map(|_| ())).collect();
    assert_eq!(outcomes, [Ok(()), Err(version)]);
}

#[test]
fn any_timestamps_fit_in_one_batch() {
    let millis = [i64::MAX, i64::MIN, 0, -1];
    let records =
        millis.map(|millis| Record { timestamp: Timestamp::from_millis(millis), ..Record::default() });
    let views = views(&only(stored(&records, Compression::None)));
    assert_eq!(views.iter().map(|view| view.timestamp.as_millis()).collect::<Vec<_>>(), millis);
}

#[test]
fn log_append_time_gives_every_record_the_largest_timestamp() {
    let records = [3, 9, 5].map(|ms| Record { timestamp: Timestamp::from_millis(ms), ..Record::default() });
    let encoded = encode(&records, Compression::None, TimestampType::LogAppendTime).unwrap();
    assert_eq!(encoded.max_timestamp(), Timestamp::from_millis(9));
    let batch = only(encoded.place(BASE, EPOCH));
    assert_eq!(batch.header().timestamp_type, TimestampType::LogAppendTime);
    assert!(views(&batch).iter().all(|view| view.timestamp == Timestamp::from_millis(9)));
}

#[test]
fn place_changes_base_offset_and_leader_epoch_only() {
    let encoded = encode(&sample(), Compression::Zstd, TimestampType::CreateTime).unwrap();
    let before = encoded.clone().place(Offset::ZERO, LeaderEpoch::ZERO);
    let after = encoded.place(BASE, EPOCH);
    assert_eq!(after[..8], [1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(after[8..12], before[8..12]);
    assert_eq!(after[12..16], [9, 10, 11, 12]);
    assert_eq!(after[16..], before[16..]);
    only(after).verify().unwrap();
}

#[test]
fn compression_is_used_only_where_it_pays() {
    let chosen = |value: &[u8], asked| {
        let record = Record { value: Some(Bytes::copy_from_slice(value)), ..Record::default() };
        only(stored(&[record], asked)).header().compression
    };
    let noise: Vec<u8> =
        (0..200_u32).flat_map(|i| crc_fast::crc32_iscsi(&i.to_be_bytes()).to_be_bytes()).collect();
    assert_eq!(chosen(&[b'a'; 4096], Compression::Zstd), Compression::Zstd);
    assert_eq!(chosen(&[b'a'; 4096], Compression::None), Compression::None);
    assert_eq!(chosen(&[b'a'; 300], Compression::Zstd), Compression::None);
    assert_eq!(chosen(&noise, Compression::Zstd), Compression::None);
}

#[test]
fn empty_and_oversized_batches_are_not_encoded() {
    let create_time = TimestampType::CreateTime;
    let empty = encode(&[], Compression::None, create_time).map(|_| ());
    assert_eq!(empty, field(BATCH, "record count"));

    let value = Bytes::from(vec![0; limits::BATCH_BYTES_MAX / 4]);
    let records = vec![Record { value: Some(value), ..Record::default() }; 4];
    let large = encode(&records, Compression::Zstd, create_time).map(|_| ());
    assert!(matches!(large, Err(FormatError::TooLarge { .. })));
    assert!(encode(&records[..3], Compression::Zstd, create_time).is_ok());
}

#[test]
fn every_truncation_is_an_error() {
    for batch in samples() {
        for len in 1..batch.len() {
            assert!(read_all(batch.slice(..len)).is_err(), "len={len}");
        }
    }
}

#[test]
fn every_flipped_bit_under_the_checksum_is_found() {
    for batch in samples() {
        for bit in 0..batch.len() * 8 {
            let mut damaged = batch.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let outcome = read_all(damaged.into());
            let placed = bit / 8 < 8 || (12..16).contains(&(bit / 8));
            assert!(placed || outcome.is_err(), "bit={bit}");
        }
    }
}

#[test]
fn foreign_batches_are_refused() {
    let record: &[u8] = &[12, 0, 0, 0, 1, 1, 0];
    assert_eq!(read_all(forged(record, 0, 1)), Ok(()));
    let [gzip, snappy, lz4, unknown, transactional, control, delete_horizon] = [1, 2, 3, 7, 16, 32, 64];
    for attributes in [gzip, snappy, lz4, unknown, transactional, control, delete_horizon] {
        assert_eq!(read_all(forged(record, attributes, 1)), field(BATCH, "attributes"));
    }
}

#[test]
fn counts_and_lengths_that_disagree_are_refused() {
    let null_value: &[u8] = &[12, 0, 0, 0, 1, 1, 0];
    assert_eq!(read_all(forged(&[], 0, 0)), field(BATCH, "record count"));
    assert_eq!(read_all(forged(null_value, 0, 2)), Err(FormatError::Truncated { what: RECORD }));
    assert_eq!(read_all(forged(&null_value.repeat(2), 0, 1)), field(BATCH, "record count"));
    assert_eq!(read_all(forged(&null_value.repeat(2), 0, 2)), field(RECORD, "offset delta"));

    let past_the_last_delta: &[u8] = &[12, 0, 0, 2, 1, 1, 0];
    assert_eq!(read_all(forged(past_the_last_delta, 0, 1)), field(RECORD, "offset delta"));
    let longer_than_its_fields: &[u8] = &[14, 0, 0, 0, 1, 1, 0, 0];
    assert_eq!(read_all(forged(longer_than_its_fields, 0, 1)), field(RECORD, "length"));
    let null_header_name: &[u8] = &[16, 0, 0, 0, 1, 1, 2, 1, 1];
    assert_eq!(read_all(forged(null_header_name, 0, 1)), field(RECORD, "header name length"));
    let key_past_the_end: &[u8] = &[12, 0, 0, 0, 40, 1, 0];
    assert_eq!(read_all(forged(key_past_the_end, 0, 1)), Err(FormatError::Truncated { what: RECORD }));
}

#[test]
fn decompression_bombs_are_refused() {
    let zeros = vec![0; 2 * limits::BATCH_BYTES_MAX];
    let says_its_size = zstd::bulk::compress(&zeros, 1).unwrap();
    let outcome = read_all(forged(&says_its_size, 4, 1));
    assert!(matches!(outcome, Err(FormatError::TooLarge { size, .. }) if size == zeros.len()));

    let hides_its_size = zstd::stream::encode_all(zeros.as_slice(), 1).unwrap();
    assert_eq!(read_all(forged(&hides_its_size, 4, 1)), field(BATCH, "compressed records"));
}
