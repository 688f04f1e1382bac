//! The frames of a follow stream.
//!
//! ```text
//! to the leader:   count of topics u32 | topic ids u128: those wanted from now on, instead of the ones before
//! from the leader: 1 | stored object    or 2, a heartbeat    or 3 | version of the manifest u64    or 4 | reason u8
//! ```

use std::collections::BTreeSet;

use bytes::Bytes;
use forebay_log::error::FormatError;
use forebay_log::format::codec::{Decoder, Encoder};
use forebay_log::model::TopicId;
use forebay_log::shard::StoredObject;

use crate::limits;

const FOLLOWED: &str = "frame of a followed shard";
const TOPIC_LEN: usize = 16;

/// Why a leader ended a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FollowEnd {
    /// What comes next is older than what the leader keeps: it has to be read from the store.
    Behind,
    /// The leadership has ended, and everything it stored was sent.
    Ended,
    /// The node does not lead with this epoch.
    NotLeading,
}

/// What comes from the leader.
#[derive(Debug)]
pub(super) enum Frame {
    Object(Box<StoredObject>),
    Heartbeat,
    Manifest(u64),
    End(FollowEnd),
}

/// Encodes which topics are wanted; of too many the first.
pub(super) fn encode_wanted(topics: &BTreeSet<TopicId>) -> Bytes {
    let count = topics.len().min(limits::FOLLOW_TOPICS_MAX);
    let mut encoder = Encoder::with_capacity(4 + count * TOPIC_LEN);
    encoder.count(count);
    for topic in topics.iter().take(count) {
        encoder.u128(topic.get());
    }
    Bytes::from(encoder.finish())
}

/// Reads which topics are wanted.
pub(super) fn decode_wanted(bytes: &[u8]) -> Result<BTreeSet<TopicId>, FormatError> {
    let mut decoder = Decoder::new(FOLLOWED, bytes);
    let count = decoder.count(TOPIC_LEN)?;
    decoder.ensure(count <= limits::FOLLOW_TOPICS_MAX, "count of topics")?;
    let topics = (0..count).map(|_| decoder.u128().map(TopicId::new)).collect::<Result<_, _>>()?;
    decoder.finish()?;
    Ok(topics)
}

/// Returns the parts of an object's frame.
pub(super) fn encode_object(object: &StoredObject, wanted: &BTreeSet<TopicId>) -> Vec<Bytes> {
    let mut parts = vec![Bytes::from_static(&[1])];
    parts.extend(object.encode(|topic| wanted.contains(&topic)));
    parts
}

pub(super) fn encode_heartbeat() -> Bytes {
    Bytes::from_static(&[2])
}

pub(super) fn encode_manifest(version: u64) -> Bytes {
    let mut encoder = Encoder::new();
    encoder.u8(3).u64(version);
    Bytes::from(encoder.finish())
}

pub(super) fn encode_end(end: FollowEnd) -> Bytes {
    Bytes::from_static(match end {
        FollowEnd::Behind => &[4, 1],
        FollowEnd::Ended => &[4, 2],
        FollowEnd::NotLeading => &[4, 3],
    })
}

/// Reads a frame from the leader.
pub(super) fn decode(bytes: &Bytes) -> Result<Frame, FormatError> {
    let invalid = |field| FormatError::Field { what: FOLLOWED, field };
    let mut decoder = Decoder::new(FOLLOWED, bytes);
    let frame = match decoder.u8()? {
        1 => return Ok(Frame::Object(Box::new(StoredObject::decode(bytes.slice(1..))?))),
        2 => Frame::Heartbeat,
        3 => Frame::Manifest(decoder.u64()?),
        4 => Frame::End(match decoder.u8()? {
            1 => FollowEnd::Behind,
            2 => FollowEnd::Ended,
            3 => FollowEnd::NotLeading,
            _ => return Err(invalid("reason")),
        }),
        _ => return Err(invalid("kind")),
    };
    decoder.finish()?;
    Ok(frame)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_frames_come_back_and_others_are_errors() {
        let topics = BTreeSet::from([TopicId::new(1), TopicId::new(u128::MAX)]);
        let wanted = encode_wanted(&topics);
        assert_eq!(decode_wanted(&wanted), Ok(topics));
        assert!(decode_wanted(&wanted[..wanted.len() - 1]).is_err());
        assert!(matches!(decode(&encode_heartbeat()), Ok(Frame::Heartbeat)));
        assert!(matches!(decode(&encode_manifest(7)), Ok(Frame::Manifest(7))));
        for end in [FollowEnd::Behind, FollowEnd::Ended, FollowEnd::NotLeading] {
            assert!(matches!(decode(&encode_end(end)), Ok(Frame::End(found)) if found == end));
        }
        for bytes in [&[][..], &[0], &[1], &[1, 0, 0], &[2, 0], &[3, 0], &[4], &[4, 9], &[5]] {
            assert!(decode(&Bytes::copy_from_slice(bytes)).is_err(), "{bytes:?}");
        }
    }
}
