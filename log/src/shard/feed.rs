//! What a leader offers to the nodes that follow its shard: its newest stored objects, in path order.
//!
//! Only objects that the leader has resolved are here, each after all before it. By then they are in the log, now and for
//! ever, whoever leads meanwhile: a leader's lowest unresolved number is a position of the path, and the EPOCH that ends
//! its epoch stands at a number which it can therefore never resolve. So what a leader without its shard offers is
//! harmless, and a follower may take an object where its own walk stands in front of it. Who has fallen out of the ring
//! reads the store.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::error::FormatError;
use crate::format::codec::{Decoder, Encoder, ensure};
use crate::format::wal_object::{
    EncodedObject, Footer, IndexEntry, ObjectKind, TRAILER_LEN, WalHeader, decode_footer,
};
use crate::limits;
use crate::model::{TopicId, WalSeq};

const WHAT: &str = "stored object";
const VERSION: u16 = 1;
const RUN_LEN: usize = 4;

const _: () = assert!(limits::FEED_BYTES_MAX <= limits::SHARD_TAIL_BYTES_MAX as u64);

/// A WAL object that is in the log: header, index, and the batches of some of its partitions.
#[derive(Debug, Clone)]
pub struct StoredObject {
    header: WalHeader,
    footer: Footer,
    /// The header as stored.
    head: Bytes,
    /// Footer and trailer as stored.
    index: Bytes,
    /// For each entry of the footer the buffers of its batches; none where they are not at hand.
    runs: Vec<Vec<Bytes>>,
}

impl From<EncodedObject> for StoredObject {
    fn from(object: EncodedObject) -> Self {
        let EncodedObject { header, footer, mut parts, .. } = object;
        let index = parts.pop().unwrap_or_default();
        let mut parts = parts.into_iter();
        let head = parts.next().unwrap_or_default();
        let run = |entry: &IndexEntry| {
            let (mut run, mut size) = (Vec::new(), 0);
            while size < entry.length as usize
                && let Some(part) = parts.next()
            {
                size += part.len();
                run.push(part);
            }
            run
        };
        let runs = footer.entries.iter().map(run).collect();
        Self { header, footer, head, index, runs }
    }
}

impl StoredObject {
    /// Returns its number.
    pub fn seq(&self) -> WalSeq {
        self.header.seq
    }

    /// Returns its header.
    pub fn header(&self) -> &WalHeader {
        &self.header
    }

    /// Returns its index.
    pub fn footer(&self) -> &Footer {
        &self.footer
    }

    /// Returns the batches of an entry of the footer, if they are at hand.
    pub(crate) fn batches(&self, entry: usize) -> Option<Bytes> {
        match self.runs.get(entry)?.as_slice() {
            [] => None,
            [run] => Some(run.clone()),
            parts => Some(parts.concat().into()),
        }
    }

    /// Encodes it for another node, with the batches of the topics wanted. The buffers follow each other on the wire;
    /// whoever sends them says where they end.
    ///
    /// # Cost
    /// No batch is copied.
    pub fn encode(&self, wanted: impl Fn(TopicId) -> bool) -> Vec<Bytes> {
        let with_runs = self.footer.entries.iter().zip(&self.runs).enumerate();
        let is_sent =
            |(entry, run): (&IndexEntry, &Vec<Bytes>)| !run.is_empty() && wanted(entry.partition.topic);
        let sent: Vec<usize> =
            with_runs.filter(|(_, of_entry)| is_sent(*of_entry)).map(|(number, _)| number).collect();
        let mut encoder = Encoder::with_capacity(2 + RUN_LEN * (1 + sent.len()));
        encoder.u16(VERSION).count(sent.len());
        for number in &sent {
            encoder.count(*number);
        }
        let mut parts = vec![Bytes::from(encoder.finish()), self.head.clone(), self.index.clone()];
        parts.extend(sent.iter().flat_map(|number| self.runs[*number].iter().cloned()));
        parts
    }

    /// Decodes what another node encoded. Batches are guarded by their own checksums.
    ///
    /// A run that is less than half of these bytes is copied: a slice of them, kept in memory for readers, would keep
    /// all of them there. So what is kept takes at most twice its size.
    ///
    /// # Errors
    /// Any [`FormatError`]; nothing of it may be used.
    pub fn decode(bytes: Bytes) -> Result<Self, FormatError> {
        let mut decoder = Decoder::new(WHAT, &bytes);
        let version = decoder.u16()?;
        if version != VERSION {
            return Err(FormatError::Version { what: WHAT, version: u32::from(version) });
        }
        let mut sent = Vec::new();
        for _ in 0..decoder.count(RUN_LEN)? {
            sent.push(usize::try_from(decoder.u32()?).unwrap_or(usize::MAX));
        }
        let mut take = |len: usize| decoder.bytes(len).map(|part| bytes.slice_ref(part));
        let head = take(limits::WAL_HEADER_LEN)?;
        let header = WalHeader::decode(&head)?;
        ensure(header.kind == ObjectKind::Data, WHAT, "kind")?;
        let index = take(header.footer_len as usize + TRAILER_LEN)?;
        let footer = decode_footer(&index, header.object_len)?;
        let end = footer.entries.last().map(|entry| entry.range().end);
        ensure(end == Some(header.footer_position), WHAT, "footer position")?;
        let mut runs = vec![Vec::new(); footer.entries.len()];
        ensure(sent.is_sorted_by(|a, b| a < b), WHAT, "order of runs")?;
        for number in sent {
            let entry = footer.entries.get(number);
            let entry = entry.ok_or(FormatError::Field { what: WHAT, field: "number of a run" })?;
            let run = take(entry.length as usize)?;
            let is_small = 2 * run.len() < bytes.len();
            runs[number] = vec![if is_small { Bytes::copy_from_slice(&run) } else { run }];
        }
        decoder.finish()?;
        Ok(Self { header, footer, head, index, runs })
    }
}

/// What a follower at some position gets.
#[derive(Debug)]
pub enum Fed {
    /// The objects from its position on, in path order.
    Objects(Vec<Arc<StoredObject>>),
    /// Nothing yet: wait for [`Feed::news`].
    Nothing,
    /// Its position lies before what is kept: it reads the store.
    Behind,
    /// It has everything, and the leadership has ended.
    Ended,
}

/// The newest objects that one leadership has stored.
#[derive(Debug)]
pub struct Feed {
    ring: Mutex<Ring>,
    news: watch::Sender<()>,
}

#[derive(Debug)]
struct Ring {
    objects: VecDeque<Arc<StoredObject>>,
    size_bytes: u64,
    next: WalSeq,
    ended: bool,
}

impl Feed {
    /// Begins at the first number of a leadership.
    pub(crate) fn new(first: WalSeq) -> Self {
        let ring = Ring { objects: VecDeque::new(), size_bytes: 0, next: first, ended: false };
        Self { ring: Mutex::new(ring), news: watch::Sender::new(()) }
    }

    /// Adds the next object; the oldest go where there are too many.
    pub(crate) fn push(&self, object: Arc<StoredObject>) {
        {
            let mut ring = self.ring.lock();
            ring.next = object.seq().plus(1);
            ring.size_bytes += object.header.object_len;
            ring.objects.push_back(object);
            ring.trim();
        }
        self.news.send_replace(());
    }

    /// Notes that nothing will follow.
    pub(crate) fn end(&self) {
        self.ring.lock().ended = true;
        self.news.send_replace(());
    }

    /// Returns what follows on a position of the path.
    pub fn since(&self, position: WalSeq) -> Fed {
        let ring = self.ring.lock();
        let first = ring.objects.front().map_or(ring.next, |object| object.seq());
        if position < first {
            return Fed::Behind;
        }
        let from = ring.objects.partition_point(|object| object.seq() < position);
        match ring.ended {
            _ if from < ring.objects.len() => Fed::Objects(ring.objects.range(from..).cloned().collect()),
            true => Fed::Ended,
            // One that is ahead has walked the store, which may be faster than the answers to this leader.
            false => Fed::Nothing,
        }
    }

    /// Returns a receiver that changes with each object, and with the end. Subscribe before asking [`Self::since`].
    pub fn news(&self) -> watch::Receiver<()> {
        self.news.subscribe()
    }
}

impl Ring {
    fn trim(&mut self) {
        let is_full = |ring: &Self| {
            ring.objects.len() > limits::FEED_OBJECTS_MAX || ring.size_bytes > limits::FEED_BYTES_MAX
        };
        while self.objects.len() > 1 && is_full(self) {
            let Some(oldest) = self.objects.pop_front() else { break };
            self.size_bytes -= oldest.header.object_len;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::tests::{encoded, encoded_of, partition, seq};

    /// An object with batches of two partitions, and one that announces a third.
    fn stored(at: u64) -> Arc<StoredObject> {
        Arc::new(encoded(at, 1, true, &[(0, 0, 2), (1, 5, 6), (2, 9, 9)]).into())
    }

    fn given(fed: &Fed) -> Vec<u64> {
        let Fed::Objects(objects) = fed else { panic!("{fed:?}") };
        objects.iter().map(|object| object.seq().get()).collect()
    }

    #[test]
    fn an_object_comes_over_the_wire_with_the_batches_that_were_wanted() {
        let object = stored(64);
        for wanted in [true, false] {
            let sent: Bytes = object.encode(|topic| wanted && topic == partition(0).topic).concat().into();
            let decoded = StoredObject::decode(sent.clone()).unwrap();
            assert_eq!((decoded.header(), decoded.footer()), (object.header(), object.footer()));
            let batch = wanted.then(|| Bytes::from_static(b"batch"));
            let held: Vec<_> = (0..4).map(|entry| decoded.batches(entry)).collect();
            assert_eq!(held, [batch.clone(), batch, None, None]);
            assert_eq!(decoded.encode(|_| true).concat(), sent, "it can be passed on");
        }
    }

    #[test]
    fn a_small_run_keeps_no_large_frame_in_memory() {
        let lies_in = |frame: &Bytes, run: Bytes| frame.as_ptr_range().contains(&run.as_ptr());
        for (body_len, is_copied) in [(5, true), (2_000, false)] {
            let object = encoded_of(64, 1, false, &[(0, 0, 2)], vec![7; body_len].into());
            let sent: Bytes = StoredObject::from(object).encode(|_| true).concat().into();
            let run = StoredObject::decode(sent.clone()).unwrap().batches(0).unwrap();
            assert_eq!(run.len(), body_len);
            assert_eq!(lies_in(&sent, run), !is_copied);
        }
    }

    #[test]
    fn damage_is_an_error_and_no_panic() {
        let sent = stored(64).encode(|_| true).concat();
        for len in 0..sent.len() {
            assert!(StoredObject::decode(Bytes::copy_from_slice(&sent[..len])).is_err(), "{len}");
        }
        // Batches are guarded by their own checksums.
        let without_batches = StoredObject::decode(sent.clone().into()).unwrap().encode(|_| false).concat();
        for bit in 0..8 * without_batches.len() {
            let mut flipped = without_batches.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(StoredObject::decode(flipped.into()).is_err(), "{bit}");
        }
    }

    #[test]
    fn a_follower_gets_what_follows_on_its_position() {
        let feed = Feed::new(seq(64));
        let mut news = feed.news();
        assert!(matches!(feed.since(seq(63)), Fed::Behind), "the EPOCH lies between");
        assert!(matches!(feed.since(seq(64)), Fed::Nothing));
        (64..67).for_each(|at| feed.push(stored(at)));
        assert!(news.has_changed().unwrap());
        assert_eq!(given(&feed.since(seq(64))), [64, 65, 66]);
        assert_eq!(given(&feed.since(seq(66))), [66]);
        assert!(matches!(feed.since(seq(67)), Fed::Nothing));
        assert!(matches!(feed.since(seq(68)), Fed::Nothing), "it walked the store, which was faster");
        news.mark_unchanged();
        feed.end();
        assert!(news.has_changed().unwrap());
        assert_eq!(given(&feed.since(seq(66))), [66], "what there is comes first");
        assert!(matches!(feed.since(seq(67)), Fed::Ended));
    }

    #[test]
    fn the_ring_is_bounded_by_objects_and_by_bytes() {
        let feed = Feed::new(seq(0));
        let count = limits::FEED_OBJECTS_MAX as u64;
        (0..=count).for_each(|at| feed.push(stored(at)));
        assert!(matches!(feed.since(seq(0)), Fed::Behind));
        assert_eq!(given(&feed.since(seq(1))).len(), limits::FEED_OBJECTS_MAX);
        let mut large = StoredObject::clone(&stored(count + 1));
        large.header.object_len = limits::FEED_BYTES_MAX;
        feed.push(Arc::new(large));
        assert!(matches!(feed.since(seq(count)), Fed::Behind));
        assert_eq!(given(&feed.since(seq(count + 1))), [count + 1], "the newest is kept, however large");
    }
}
