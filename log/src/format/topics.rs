//! The topics of a cluster: a JSON register, swapped whole by whichever gateway creates, alters or deletes a topic.
//!
//! An unknown field is refused, not dropped: a node that does not know it would otherwise erase it with its next swap.
//!
//! An *epoch word* names an incarnation of a topic in cursors. Each comes from a counter of the cluster that never
//! goes back: number n is the letter n mod 26 followed by n div 26 in base 36, so `a0`, `b0`, … `z0`, `a1`, ….

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::error::FormatError;
use crate::format::codec::{decode_json, encode_json, ensure, ensure_size};
use crate::limits::{PARTITIONS_MAX, SHARDS_MAX, TOPICS_DELETED_MAX, TOPICS_MAX};
use crate::model::{ShardId, Timestamp, Topic, TopicId, TopicName};

const WHAT: &str = "topics";
const FORMAT: u32 = 1;
const LETTERS: u64 = 26;

/// A deleted incarnation whose data may still lie in the bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeletedTopic {
    /// Its id; never used again.
    pub id: TopicId,
    /// The name it had.
    pub name: TopicName,
    /// Number of its partitions.
    pub partitions: u16,
    /// Shard of partition 0.
    pub first_shard: ShardId,
    /// The cluster's shard count when it was created.
    pub shard_count: u16,
    /// When it was deleted.
    pub deleted_at: Timestamp,
}

/// All topics of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TopicsFile {
    format: u32,
    /// 1 at creation, one more with each swap.
    pub version: u64,
    /// Number of the next epoch word; never goes back.
    pub next_epoch: u64,
    /// The topics that exist, at most [`TOPICS_MAX`].
    pub topics: BTreeMap<TopicName, Topic>,
    /// Topics that compactors have not removed yet, at most [`TOPICS_DELETED_MAX`].
    pub deleted: Vec<DeletedTopic>,
}

impl Default for TopicsFile {
    fn default() -> Self {
        Self { format: FORMAT, version: 1, next_epoch: 0, topics: BTreeMap::new(), deleted: Vec::new() }
    }
}

impl TopicsFile {
    /// Returns the register of a new cluster.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next epoch word: no other incarnation of any topic has it.
    pub fn take_epoch(&mut self) -> String {
        let word = epoch_word(self.next_epoch);
        self.next_epoch += 1;
        word
    }

    /// Moves a topic to the deleted ones and returns it; none if there is no such topic.
    pub fn delete(&mut self, name: &TopicName, now: Timestamp) -> Option<Topic> {
        let topic = self.topics.remove(name)?;
        if self.deleted.len() >= TOPICS_DELETED_MAX {
            // What is left of the oldest is still told by its id, which no topic has any more.
            self.deleted.remove(0);
        }
        self.deleted.push(DeletedTopic {
            id: topic.id,
            name: name.clone(),
            partitions: topic.partitions,
            first_shard: topic.first_shard,
            shard_count: topic.shard_count,
            deleted_at: now,
        });
        Some(topic)
    }

    /// Encodes the register.
    ///
    /// # Errors
    /// [`FormatError::TooLarge`] past a cap, [`FormatError::Field`] for what no reader would accept. A retry does not
    /// help.
    pub fn encode(&self) -> Result<Bytes, FormatError> {
        self.check()?;
        encode_json(WHAT, self)
    }

    /// Decodes the register.
    ///
    /// # Errors
    /// Any [`FormatError`]; a retry only helps if the store gave wrong bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let file: Self = decode_json(WHAT, FORMAT, bytes)?;
        file.check()?;
        Ok(file)
    }

    fn check(&self) -> Result<(), FormatError> {
        ensure(self.version > 0, WHAT, "version")?;
        ensure_size(self.topics.len(), TOPICS_MAX, WHAT)?;
        ensure_size(self.deleted.len(), TOPICS_DELETED_MAX, WHAT)?;
        let mut ids = BTreeSet::new();
        let mut epochs = BTreeSet::new();
        for topic in self.topics.values() {
            check_shards(topic.partitions, topic.first_shard, topic.shard_count)?;
            let epoch = epoch_number(&topic.epoch).filter(|number| *number < self.next_epoch);
            ensure(epoch.is_some_and(|number| epochs.insert(number)), WHAT, "epoch")?;
            ensure(ids.insert(topic.id), WHAT, "topic id")?;
        }
        for topic in &self.deleted {
            check_shards(topic.partitions, topic.first_shard, topic.shard_count)?;
            ensure(ids.insert(topic.id), WHAT, "topic id")?;
        }
        Ok(())
    }
}

fn check_shards(partitions: u16, first: ShardId, count: u16) -> Result<(), FormatError> {
    ensure((1..=PARTITIONS_MAX).contains(&partitions), WHAT, "partitions")?;
    ensure((1..=SHARDS_MAX).contains(&count), WHAT, "shard_count")?;
    ensure(first.get() < count, WHAT, "first_shard")
}

/// Returns the epoch word of a number.
pub fn epoch_word(number: u64) -> String {
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let mut rest = number / LETTERS;
    let mut word = Vec::new();
    loop {
        word.push(DIGITS[(rest % 36) as usize]);
        rest /= 36;
        if rest == 0 {
            break;
        }
    }
    word.push(b'a' + (number % LETTERS) as u8);
    word.iter().rev().copied().map(char::from).collect()
}

/// Returns the number of an epoch word; none for any other text.
pub fn epoch_number(word: &str) -> Option<u64> {
    let (letter, digits) = word.split_at_checked(1)?;
    let letter = u64::from(letter.bytes().next()?.checked_sub(b'a')?);
    let number = u64::from_str_radix(digits, 36).ok()?.checked_mul(LETTERS)?.checked_add(letter)?;
    (epoch_word(number) == word).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::tests::sample;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_epoch_word_names_one_number(number: u64) {
            let word = epoch_word(number);
            prop_assert!(word.starts_with(|c: char| c.is_ascii_lowercase()));
            prop_assert!(word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()));
            prop_assert_eq!(epoch_number(&word), Some(number));
        }

        #[test]
        fn any_text_is_refused_or_is_the_word_of_its_number(text in "[a-z0-9+A{]{0,15}") {
            if let Some(number) = epoch_number(&text) {
                prop_assert_eq!(epoch_word(number), text);
            }
        }

        #[test]
        fn any_bytes_are_refused_without_a_panic(bytes: Vec<u8>) {
            prop_assert!(TopicsFile::decode(&bytes).is_err());
        }
    }

    #[test]
    fn epoch_words_are_short_and_begin_with_a_letter() {
        let words: Vec<_> = [0, 1, 25, 26, 192, 936].map(epoch_word).into();
        assert_eq!(words, ["a0", "b0", "z0", "a1", "k7", "a10"]);
        for other in ["", "a", "7k", "k07", "K7", "k7-", "k+7", "é7", "{0"] {
            assert_eq!(epoch_number(other), None, "{other:?}");
        }
    }

    #[test]
    fn an_epoch_is_never_given_out_twice() {
        let mut file = sample::topics();
        let first = file.take_epoch();
        let mut file = TopicsFile::decode(&file.encode().unwrap()).unwrap();
        let second = file.take_epoch();
        assert_ne!(first, second);
        assert!(file.topics.values().all(|topic| topic.epoch != first && topic.epoch != second));
    }

    #[test]
    fn a_deleted_topic_keeps_its_place_until_it_is_removed() {
        let mut file = sample::topics();
        let name: TopicName = "orders".parse().unwrap();
        let topic = file.delete(&name, Timestamp::from_millis(7)).unwrap();
        assert_eq!(file.delete(&name, Timestamp::from_millis(8)), None);
        let deleted = file.deleted.last().unwrap();
        assert_eq!((deleted.id, deleted.deleted_at.as_millis()), (topic.id, 7));
        assert_eq!(TopicsFile::decode(&file.encode().unwrap()), Ok(file));
    }

    #[test]
    fn another_format_is_not_guessed_at() {
        let text = r#"{"format":2,"anything":[]}"#;
        let newer = FormatError::Version { what: "topics", version: 2 };
        assert_eq!(TopicsFile::decode(text.as_bytes()), Err(newer));
    }

    #[test]
    fn a_file_that_contradicts_itself_is_refused() {
        let refused = |change: fn(&mut TopicsFile)| {
            let mut file = sample::topics();
            change(&mut file);
            let json = serde_json::to_vec(&file).unwrap();
            file.encode().is_err() && TopicsFile::decode(&json).is_err()
        };
        fn first(file: &mut TopicsFile) -> &mut Topic {
            file.topics.values_mut().next().unwrap()
        }
        assert!(refused(|file| file.next_epoch = 0));
        assert!(refused(|file| file.version = 0));
        assert!(refused(|file| first(file).epoch = "K7".to_owned()));
        assert!(refused(|file| first(file).partitions = 0));
        assert!(refused(|file| first(file).partitions = PARTITIONS_MAX + 1));
        assert!(refused(|file| first(file).first_shard = ShardId::new(4)));
        assert!(refused(|file| first(file).shard_count = 0));
        assert!(refused(|file| first(file).id = file.deleted[0].id));
        assert!(!refused(|_| ()));
    }

    #[test]
    fn an_unknown_field_is_refused() {
        let json = String::from_utf8(sample::topics().encode().unwrap().to_vec()).unwrap();
        for at in [r#"{"format""#, r#"{"id""#] {
            let more = json.replacen(at, &at.replacen('{', r#"{"new":1,"#, 1), 1);
            assert_ne!(more, json);
            assert!(TopicsFile::decode(more.as_bytes()).is_err(), "{at}");
        }
    }
}
