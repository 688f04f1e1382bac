//! Cursors: the one resume string of the API. A cursor always means "after this record".
//!
//! ```text
//! cursor   = body [ ".end" ]
//! body     = vector-of-one-topic | topic ":" one *( "," topic ":" one )
//! one      = epoch "." vector                epoch = 1*32 of [a-z0-9]
//! vector   = [ "p" ] ( positions | "z" packed )
//! positions = position *( "_" position )
//! position = partition "-" next [ "-" owner-epoch ]
//! ```
//!
//! - The *epoch* names the topic's incarnation; *next* is the first offset that was not yet consumed.
//! - `p` marks a *partial* cursor: it does not name every partition. Only a partial cursor may name none, or leave one
//!   out between others; a full one names them from 0 on, for what it leaves out at the end came later.
//! - `.end` marks a read that is complete, so that a reconnecting `EventSource` can be told to stop.
//! - More than [`PLAIN_POSITIONS_MAX`] positions are *packed*: `z` and base64url without padding over, for each
//!   position, the varints `gap << 1 | owned`, `next`, and the owner epoch if owned. The gap counts the partitions
//!   skipped since the last one.
//!
//! Separators never occur inside what they separate: `,` and `:` in nothing, `.` only in topic names, which end at the
//! `:`. Base64url uses `-` and `_`, but only behind `z`, where no position follows. Every cursor has exactly one text:
//! leading zeros, unsorted or repeated partitions and overlong varints are refused.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::BufMut;
use forebay_log::limits::PARTITIONS_MAX;
use forebay_log::model::{Topic, TopicName};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Positions up to which a vector is written in plain form.
pub const PLAIN_POSITIONS_MAX: usize = 16;
/// Topics in one cursor.
pub const CURSOR_TOPICS_MAX: usize = 64;
/// Characters of a cursor: bounds the work on a hostile one. A full cursor of 512 partitions has about 3,000.
pub const CURSOR_LEN_MAX: usize = 64 * 1024;
/// Characters of an epoch.
const EPOCH_LEN_MAX: usize = 32;
/// Ends a cursor of a completed read.
const END_MARK: &str = ".end";
/// A varint of 64 bits.
const VARINT_LEN_MAX: usize = 10;

/// A place in one or several topics, after which a read goes on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Cursor {
    /// One entry without a name, or any number of entries with distinct names.
    pub topics: Vec<(Option<TopicName>, TopicCursor)>,
    /// The read that gave this cursor is complete: there is nothing to resume.
    pub end: bool,
}

/// A place in one topic.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TopicCursor {
    /// Names the topic's incarnation: lower-case letters and digits.
    pub epoch: String,
    /// Some partitions are not named.
    pub partial: bool,
    /// Sorted by partition, without repeats.
    pub positions: Vec<Position>,
}

/// A place in one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Position {
    /// The partition's number.
    pub partition: u16,
    /// The first offset not yet consumed.
    pub next: u64,
    /// In cursors of a group: the epoch of the member's ownership, which fences a commit.
    pub owner_epoch: Option<u32>,
}

/// Why a text is no cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CursorError {
    /// Longer than [`CURSOR_LEN_MAX`].
    #[error("cursor is too long: limit={CURSOR_LEN_MAX}")]
    TooLong,
    /// More topics than [`CURSOR_TOPICS_MAX`].
    #[error("cursor names too many topics: limit={CURSOR_TOPICS_MAX}")]
    TooManyTopics,
    /// The same topic twice, or an unnamed topic beside another.
    #[error("cursor does not name each of its topics once")]
    TopicNames,
    /// The part before `:` is no topic name.
    #[error("cursor holds an invalid topic name")]
    TopicName,
    /// The part before `.` is missing or no epoch.
    #[error("cursor does not start with a topic's epoch")]
    Epoch,
    /// A position is not `partition-next` or `partition-next-owner`, or a number is out of range.
    #[error("cursor holds an invalid position")]
    Position,
    /// Partitions repeat or are not in order.
    #[error("cursor does not hold its partitions in order")]
    Order,
    /// The packed form is damaged, or used for too few positions.
    #[error("cursor is damaged in its packed part")]
    Packed,
    /// Neither partial nor naming a partition, or naming more than a topic can have.
    #[error("cursor names no or too many partitions: limit={PARTITIONS_MAX}")]
    Partitions,
    /// Not partial, and leaving a partition out before others.
    #[error("cursor leaves out a partition and is not marked as partial")]
    Hole,
}

impl Cursor {
    /// Makes the cursor of a read of one topic.
    pub fn single(topic: TopicCursor) -> Self {
        Self { topics: vec![(None, topic)], end: false }
    }

    /// Returns the part for a topic: by name, or the only one where the cursor names no topic.
    pub fn topic(&self, name: &TopicName) -> Option<&TopicCursor> {
        self.topics.iter().find(|(n, _)| n.as_ref().is_none_or(|n| n == name)).map(|(_, cursor)| cursor)
    }

    /// Tells whether a topic is the incarnation that the cursor names, if it names it, with all partitions it names.
    pub fn fits(&self, name: &TopicName, topic: &Topic) -> bool {
        self.topic(name).is_none_or(|cursor| {
            let has = |position: &Position| position.partition < topic.partitions;
            cursor.epoch == topic.epoch && cursor.positions.iter().all(has)
        })
    }

    /// Appends the text, which is plain ASCII for every cursor that keeps the rules of its fields.
    pub fn write_to(&self, out: &mut impl BufMut) {
        for (index, (name, topic)) in self.topics.iter().enumerate() {
            if index > 0 {
                out.put_u8(b',');
            }
            if let Some(name) = name {
                out.put_slice(name.as_str().as_bytes());
                out.put_u8(b':');
            }
            topic.write_to(out);
        }
        if self.end {
            out.put_slice(END_MARK.as_bytes());
        }
    }
}

impl TopicCursor {
    /// Returns where a partition goes on, if the cursor names it.
    pub fn position(&self, partition: u16) -> Option<&Position> {
        let index = self.positions.binary_search_by_key(&partition, |p| p.partition).ok()?;
        self.positions.get(index)
    }

    /// Appends the text without allocating, unless it has to be packed.
    pub fn write_to(&self, out: &mut impl BufMut) {
        debug_assert!(
            self.positions.is_sorted_by(|a, b| a.partition < b.partition),
            "positions are in order"
        );
        out.put_slice(self.epoch.as_bytes());
        out.put_u8(b'.');
        if self.partial {
            out.put_u8(b'p');
        }
        if self.positions.len() > PLAIN_POSITIONS_MAX {
            out.put_u8(b'z');
            out.put_slice(URL_SAFE_NO_PAD.encode(pack(&self.positions)).as_bytes());
            return;
        }
        let mut digits = itoa::Buffer::new();
        for (index, position) in self.positions.iter().enumerate() {
            if index > 0 {
                out.put_u8(b'_');
            }
            out.put_slice(digits.format(position.partition).as_bytes());
            out.put_u8(b'-');
            out.put_slice(digits.format(position.next).as_bytes());
            if let Some(owner_epoch) = position.owner_epoch {
                out.put_u8(b'-');
                out.put_slice(digits.format(owner_epoch).as_bytes());
            }
        }
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = Vec::with_capacity(64);
        self.write_to(&mut text);
        f.write_str(&String::from_utf8_lossy(&text))
    }
}

impl fmt::Display for TopicCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = Vec::with_capacity(64);
        self.write_to(&mut text);
        f.write_str(&String::from_utf8_lossy(&text))
    }
}

impl Serialize for Cursor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Cursor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl FromStr for Cursor {
    type Err = CursorError;

    fn from_str(text: &str) -> Result<Self, CursorError> {
        if text.len() > CURSOR_LEN_MAX {
            return Err(CursorError::TooLong);
        }
        let (body, end) = text.strip_suffix(END_MARK).map_or((text, false), |body| (body, true));
        if !body.contains([':', ',']) {
            return Ok(Self { topics: vec![(None, body.parse()?)], end });
        }
        let mut topics: Vec<(Option<TopicName>, TopicCursor)> = Vec::new();
        for item in body.split(',') {
            if topics.len() == CURSOR_TOPICS_MAX {
                return Err(CursorError::TooManyTopics);
            }
            let (name, one) = item.split_once(':').ok_or(CursorError::TopicNames)?;
            let name = Some(name.parse().map_err(|_| CursorError::TopicName)?);
            if topics.iter().any(|(other, _)| *other == name) {
                return Err(CursorError::TopicNames);
            }
            topics.push((name, one.parse()?));
        }
        Ok(Self { topics, end })
    }
}

impl FromStr for TopicCursor {
    type Err = CursorError;

    fn from_str(text: &str) -> Result<Self, CursorError> {
        let (epoch, vector) = text.split_once('.').ok_or(CursorError::Epoch)?;
        let word = epoch.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        if !word || epoch.is_empty() || epoch.len() > EPOCH_LEN_MAX {
            return Err(CursorError::Epoch);
        }
        let (vector, partial) = vector.strip_prefix('p').map_or((vector, false), |rest| (rest, true));
        let positions = match vector.strip_prefix('z') {
            Some(packed) => unpack(packed)?,
            None if vector.is_empty() && partial => Vec::new(),
            None => parse_plain(vector)?,
        };
        let in_a_row = positions.iter().zip(0..).all(|(position, number)| position.partition == number);
        if !partial && !in_a_row {
            return Err(CursorError::Hole);
        }
        Ok(Self { epoch: epoch.to_owned(), partial, positions })
    }
}

fn parse_plain(vector: &str) -> Result<Vec<Position>, CursorError> {
    if vector.is_empty() {
        return Err(CursorError::Partitions);
    }
    let mut positions: Vec<Position> = Vec::new();
    for item in vector.split('_') {
        if positions.len() == PLAIN_POSITIONS_MAX {
            return Err(CursorError::Partitions);
        }
        let mut numbers = item.split('-');
        let partition = numbers.next().and_then(number).ok_or(CursorError::Position)?;
        let next = numbers.next().and_then(number).ok_or(CursorError::Position)?;
        let owner_epoch = match numbers.next() {
            Some(text) => {
                let epoch = number(text).and_then(|n| u32::try_from(n).ok());
                Some(epoch.ok_or(CursorError::Position)?)
            }
            None => None,
        };
        if numbers.next().is_some() {
            return Err(CursorError::Position);
        }
        let partition = u16::try_from(partition).ok().filter(|p| *p < PARTITIONS_MAX);
        let partition = partition.ok_or(CursorError::Position)?;
        if positions.last().is_some_and(|last| last.partition >= partition) {
            return Err(CursorError::Order);
        }
        positions.push(Position { partition, next, owner_epoch });
    }
    Ok(positions)
}

/// Reads a decimal number in its one form: digits only, no leading zero.
fn number(text: &str) -> Option<u64> {
    let canonical = text == "0" || !text.starts_with(['0', '+']);
    if canonical { text.parse().ok() } else { None }
}

fn pack(positions: &[Position]) -> Vec<u8> {
    let mut out = Vec::with_capacity(positions.len() * 5);
    let mut expected = 0_u16;
    for position in positions {
        let gap = u64::from(position.partition.saturating_sub(expected));
        put_varint(&mut out, gap << 1 | u64::from(position.owner_epoch.is_some()));
        put_varint(&mut out, position.next);
        if let Some(owner_epoch) = position.owner_epoch {
            put_varint(&mut out, u64::from(owner_epoch));
        }
        expected = position.partition.saturating_add(1);
    }
    out
}

fn unpack(text: &str) -> Result<Vec<Position>, CursorError> {
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| CursorError::Packed)?;
    let mut rest = bytes.as_slice();
    let mut positions = Vec::with_capacity(usize::from(PARTITIONS_MAX).min(rest.len() / 2));
    let mut expected = 0_u64;
    while !rest.is_empty() {
        let head = take_varint(&mut rest).ok_or(CursorError::Packed)?;
        let next = take_varint(&mut rest).ok_or(CursorError::Packed)?;
        let owner_epoch = if head & 1 == 1 {
            let epoch = take_varint(&mut rest).and_then(|n| u32::try_from(n).ok());
            Some(epoch.ok_or(CursorError::Packed)?)
        } else {
            None
        };
        let partition = u16::try_from((head >> 1) + expected).ok().filter(|p| *p < PARTITIONS_MAX);
        let partition = partition.ok_or(CursorError::Partitions)?;
        expected = u64::from(partition) + 1;
        positions.push(Position { partition, next, owner_epoch });
    }
    if positions.len() <= PLAIN_POSITIONS_MAX {
        return Err(CursorError::Packed);
    }
    Ok(positions)
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Takes one varint off the front; none if it is cut, longer than 64 bits, or not in its shortest form.
fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for (index, &byte) in bytes.iter().take(VARINT_LEN_MAX).enumerate() {
        let bits = u64::from(byte & 0x7f);
        if index == VARINT_LEN_MAX - 1 && byte > 1 {
            return None;
        }
        value |= bits << (7 * index);
        if byte & 0x80 == 0 {
            let shortest = index == 0 || byte != 0;
            *bytes = bytes.get(index + 1..)?;
            return shortest.then_some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn position() -> impl Strategy<Value = (u64, Option<u32>)> {
        (prop_oneof![0_u64..1000, any::<u64>()], proptest::option::of(any::<u32>()))
    }

    fn topic_cursor() -> impl Strategy<Value = TopicCursor> {
        let partitions = proptest::collection::btree_map(0_u16..PARTITIONS_MAX, position(), 1..40);
        ("[a-z][a-z0-9]{0,7}", any::<bool>(), partitions).prop_map(|(epoch, partial, map)| {
            let place = |(number, (partition, (next, owner_epoch)))| {
                let partition = if partial { partition } else { number };
                Position { partition, next, owner_epoch }
            };
            TopicCursor { epoch, partial, positions: (0..).zip(map).map(place).collect() }
        })
    }

    fn cursor() -> impl Strategy<Value = Cursor> {
        let name = "[a-zA-Z0-9.-]{1,9}(\\.end)?".prop_filter_map("reserved", |n| n.parse::<TopicName>().ok());
        let named = proptest::collection::btree_map(name, topic_cursor(), 1..5)
            .prop_map(|map| map.into_iter().map(|(name, topic)| (Some(name), topic)).collect());
        let topics = prop_oneof![topic_cursor().prop_map(|topic| vec![(None, topic)]), named];
        (topics, any::<bool>()).prop_map(|(topics, end)| Cursor { topics, end })
    }

    proptest! {
        #[test]
        fn a_cursor_survives_its_text(cursor in cursor()) {
            let text = cursor.to_string();
            let allowed = |c: char| c.is_ascii_alphanumeric() || "._:,-".contains(c);
            prop_assert!(text.chars().all(allowed), "{text}");
            prop_assert_eq!(text.parse::<Cursor>(), Ok(cursor));
        }

        #[test]
        fn every_accepted_text_is_the_one_text_of_its_cursor(
            text in "([a-z]{1,3}:)?[a-z0-9]{1,2}\\.[pz]?[A-Za-z0-9_-]{0,60}(\\.end)?",
        ) {
            if let Ok(cursor) = text.parse::<Cursor>() {
                prop_assert_eq!(cursor.to_string(), text);
            }
        }

        #[test]
        fn no_text_panics(text in "[k7.pz0-9_:,A-Z-]{0,80}|\\PC{0,40}") {
            let _ = text.parse::<Cursor>();
        }

        #[test]
        fn damage_never_panics(cursor in cursor(), at in any::<proptest::sample::Index>(), to in "[a-z0-9.:,_-]") {
            let mut text = cursor.to_string();
            let at = at.index(text.len());
            text.replace_range(at..=at, &to);
            if let Ok(other) = text.parse::<Cursor>() {
                prop_assert_eq!(other.to_string(), text);
            }
        }
    }

    fn plain(epoch: &str, positions: &[(u16, u64)]) -> TopicCursor {
        let place = |&(partition, next)| Position { partition, next, owner_epoch: None };
        TopicCursor { epoch: epoch.into(), partial: false, positions: positions.iter().map(place).collect() }
    }

    #[test]
    fn the_documented_forms_are_written_as_documented() {
        let mut one = plain("k7", &[(0, 17), (1, 42)]);
        assert_eq!(Cursor::single(one.clone()).to_string(), "k7.0-17_1-42");
        one.partial = true;
        one.positions[0].owner_epoch = Some(3);
        assert_eq!(one.to_string(), "k7.p0-17-3_1-42");
        let named = |name: &str, topic| (Some(name.parse::<TopicName>().unwrap()), topic);
        let several = vec![named("orders", plain("k7", &[(0, 17)])), named("pay", plain("m2", &[(0, 77)]))];
        let several = Cursor { topics: several, end: true };
        assert_eq!(several.to_string(), "orders:k7.0-17,pay:m2.0-77.end");
        assert_eq!("orders:k7.0-17,pay:m2.0-77.end".parse(), Ok(several));
    }

    #[test]
    fn a_vector_is_packed_from_seventeen_partitions_on() {
        let positions: Vec<_> = (0..17).map(|p| (p, u64::from(p) * 1000)).collect();
        assert!(!plain("k7", &positions[..16]).to_string().contains('z'));
        assert!(plain("k7", &positions).to_string().starts_with("k7.z"));
        let full: Vec<_> = (0..PARTITIONS_MAX).map(|p| (p, 5_000_000)).collect();
        assert!(plain("k7", &full).to_string().len() < 3_500);
    }

    #[test]
    fn what_no_gateway_writes_is_refused() {
        use CursorError::*;
        let many = (0..17).map(|p| format!("{p}-1")).collect::<Vec<_>>().join("_");
        let cases = [
            ("", Epoch),
            ("k7", Epoch),
            (".0-1", Epoch),
            ("K7.0-1", Epoch),
            ("k7.", Partitions),
            ("k7.0", Position),
            ("k7.0-", Position),
            ("k7.00-1", Position),
            ("k7.0-01", Position),
            ("k7.0-+1", Position),
            ("k7.512-1", Position),
            ("k7.0-18446744073709551616", Position),
            ("k7.0-1-4294967296", Position),
            ("k7.0-1-2-3", Position),
            ("k7.0-1_0-2", Order),
            ("k7.1-1_0-2", Order),
            ("k7.zAAAA", Packed),
            ("k7.z!", Packed),
            ("k7.0-1,m2.0-1", TopicNames),
            ("a:k7.0-1,a:k7.0-1", TopicNames),
            ("..:k7.0-1", TopicName),
            (&format!("k7.{many}"), Partitions),
            ("k7.1-1", Hole),
            ("k7.0-1_2-1", Hole),
        ];
        for (text, error) in cases {
            assert_eq!(text.parse::<Cursor>(), Err(error), "{text}");
        }
        assert_eq!("x".repeat(CURSOR_LEN_MAX + 1).parse::<Cursor>(), Err(TooLong));
    }

    #[test]
    fn a_group_member_without_partitions_has_an_empty_partial_cursor() {
        let cursor: Cursor = "k7.p".parse().unwrap();
        assert_eq!(cursor.topics[0].1.positions, []);
        assert_eq!(cursor.to_string(), "k7.p");
    }

    #[test]
    fn a_name_finds_its_topic_and_an_unnamed_topic_answers_to_all() {
        let cursor: Cursor = "a:k7.0-1,b:m2.0-2".parse().unwrap();
        assert_eq!(cursor.topic(&"b".parse().unwrap()).and_then(|t| t.position(0)).map(|p| p.next), Some(2));
        assert_eq!(cursor.topic(&"c".parse().unwrap()), None);
        let cursor: Cursor = "k7.0-1".parse().unwrap();
        assert!(cursor.topic(&"c".parse().unwrap()).is_some_and(|t| t.position(1).is_none()));
    }
}
