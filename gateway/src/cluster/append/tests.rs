//! The frames of an append stream, there and back, and damaged.

use std::time::Duration;

use bytes::Bytes;
use forebay_log::error::Outcome;
use forebay_log::format::record_batch;
use forebay_log::model::{
    Compression, Durability, Header, LeaderEpoch, NodeId, Offset, PartitionId, Record, Timestamp,
    TimestampType, TopicId, TopicPartition,
};
use forebay_log::shard::{Append, AppendError, Appended, BatchSource, Dedupe, NewBatch, Placement};

use super::wire::{Answer, Head, decode_answer, decode_frame, encode_answer, frame};
use super::*;
use crate::cluster::LeaderHint;

fn partition(number: u16) -> TopicPartition {
    TopicPartition { topic: TopicId::new(7), partition: PartitionId::new(number) }
}

fn records() -> Vec<Record> {
    let header = Header { name: Bytes::from_static(b"h"), value: None };
    let record = |millis| Record {
        key: (millis % 2 == 0).then(|| Bytes::from_static(b"k")),
        value: Some(Bytes::from(vec![b'v'; 100])),
        headers: vec![header.clone()],
        timestamp: Timestamp::from_millis(millis),
    };
    (0..5).map(record).collect()
}

/// An append that fills every field.
fn sample() -> Append {
    let few = BatchSource::Records {
        records: records(),
        compression: Compression::Zstd,
        timestamp_type: TimestampType::LogAppendTime,
    };
    let many = record_batch::encode(&records(), Compression::None, TimestampType::CreateTime).unwrap();
    Append {
        batches: vec![
            NewBatch { partition: partition(1), source: few, expected: None },
            NewBatch {
                partition: partition(2),
                source: BatchSource::Encoded(many),
                expected: Some(Offset::new(9)),
            },
        ],
        dedupe: Some(Dedupe { id: 1, producer_epoch: Some(-2), first_sequence: 3, body_hash: 4 }),
        level: Durability::Local,
    }
}

fn head() -> Head {
    Head { number: 5, after: 4, wait: Duration::from_millis(300), topics_version: 8 }
}

fn bytes() -> Bytes {
    Bytes::from(frame(&head(), &EncodedAppend::new(sample()).unwrap()).concat())
}

#[test]
fn an_append_comes_back_as_it_was() {
    let (found, append) = decode_frame(&bytes()).unwrap();
    assert_eq!(found, head());
    let here = EncodedAppend::new(sample()).unwrap().decode().unwrap();
    for append in [append, here] {
        assert_eq!((append.dedupe, append.level), (sample().dedupe, Durability::Local));
        let [few, many] = append.batches.as_slice() else { panic!("two batches") };
        assert_eq!((few.partition, few.expected), (partition(1), None));
        assert_eq!((many.partition, many.expected), (partition(2), Some(Offset::new(9))));
        let BatchSource::Records { records: found, compression, timestamp_type } = &few.source else {
            panic!("few records stay records");
        };
        assert_eq!(*found, records(), "each with its own timestamp");
        assert_eq!((*compression, *timestamp_type), (Compression::Zstd, TimestampType::LogAppendTime));
        let BatchSource::Encoded(batch) = &many.source else { panic!("an encoded batch stays one") };
        assert_eq!(batch.count(), 5);
    }
}

#[test]
fn a_damaged_append_is_an_error() {
    let bytes = bytes();
    for cut in 0..bytes.len() {
        assert!(decode_frame(&bytes.slice(..cut)).is_err(), "cut at {cut}");
    }
    for at in 0..bytes.len() {
        let mut damaged = bytes.to_vec();
        damaged[at] ^= 0x55;
        // Numbers may come out as others; nothing panics, and no batch is another.
        if let Ok((_, append)) = decode_frame(&Bytes::from(damaged)) {
            assert_eq!(append.batches.iter().map(|batch| batch.source.count()).sum::<u32>(), 10);
        }
    }
}

#[test]
fn every_answer_comes_back() {
    let placements = vec![Placement { partition: partition(1), base_offset: Offset::new(2), count: 3 }];
    let hint = LeaderHint {
        node: NodeId::new(1),
        incarnation: 2,
        address: "node:3".to_owned(),
        epoch: LeaderEpoch::new(4),
    };
    let errors = [
        AppendError::Overloaded,
        AppendError::Expected { expected: Offset::new(1), current: Offset::new(2) },
        AppendError::Mismatch,
        AppendError::SequenceGap { expected: 3 },
        AppendError::ProducerFenced { current: -4 },
        AppendError::InProgress,
        AppendError::TimedOut,
        AppendError::TooLarge { size: 5, limit: 6 },
        AppendError::Empty,
        AppendError::TopicGone,
        AppendError::NoLeader { outcome: Outcome::NotApplied },
        AppendError::NoLeader { outcome: Outcome::Unknown },
        AppendError::Draining,
    ];
    let mut answers: Vec<Answer> = errors.into_iter().map(|error| Answer::Of(7, Err(error))).collect();
    answers.push(Answer::Of(8, Ok(Appended { placements, replayed: true })));
    answers.push(Answer::Hint(hint));
    for answer in answers {
        let bytes = encode_answer(&answer);
        for cut in 0..bytes.len() {
            assert!(decode_answer(&bytes[..cut]).is_err(), "{answer:?} cut at {cut}");
        }
        assert_eq!(decode_answer(&bytes), Ok(answer));
    }
}
