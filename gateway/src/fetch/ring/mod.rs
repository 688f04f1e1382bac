//! The tail ring: the newest records of one topic, encoded once for all subscribers that read the whole topic.
//!
//! One task per topic with subscribers puts new records of all partitions in one order and encodes them into chunks.
//! A subscriber enters behind a chunk only after it has read the log exactly up to that chunk's end in every
//! partition, so that the ring's order makes all subscribers' positions equal. One that falls out of the ring goes
//! back to the log, as all do when a log start moves: what the ring holds may no longer be shown. All rings together
//! keep so many bytes; past that each keeps less, down to its newest chunk.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use forebay_log::model::{Offset, TopicId};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::fetch::position::{Slot, TopicPosition};
use crate::fetch::{PageLimit, Reader, RecordSink};
use crate::limits;

/// Turns records into the bytes that a subscriber gets.
pub trait ChunkSink: RecordSink + Send + 'static {
    /// Takes the chunk that the records since the last call make.
    fn take(&mut self, positions: &[TopicPosition]) -> Bytes;
}

/// Some records, encoded.
#[derive(Debug, Clone)]
pub struct Chunk {
    /// What the subscriber gets.
    pub bytes: Bytes,
    /// The next offset of each partition after these records.
    pub end: Arc<[Offset]>,
}

#[derive(Debug)]
struct State {
    chunks: VecDeque<Chunk>,
    first: u64,
    bytes: usize,
    /// Where the first chunk begins.
    begin: Arc<[Offset]>,
    end: Arc<[Offset]>,
    closed: bool,
}

/// The newest chunks of one topic in one format.
#[derive(Debug)]
pub struct Ring {
    state: Mutex<State>,
    news: watch::Sender<()>,
    /// Bytes in all rings of the node.
    total: Arc<AtomicUsize>,
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.total.fetch_sub(self.state.get_mut().bytes, Ordering::Relaxed);
    }
}

/// How a reader stands to the ring.
#[derive(Debug)]
pub enum Entry {
    /// Read the log up to these offsets; then go on with the chunk of this number.
    Behind {
        /// The next offset of each partition.
        end: Arc<[Offset]>,
        /// The chunk that follows.
        next: u64,
    },
    /// The reader is further than the ring in some partition: wait for news.
    Ahead,
    /// The ring has ended: read the log.
    Closed,
}

/// What follows for a subscriber.
#[derive(Debug)]
pub enum Following {
    /// This chunk.
    Chunk(Chunk),
    /// Nothing yet: wait for news.
    Nothing,
    /// The chunk is not in the ring any more, or never will be: read the log.
    Left,
}

impl Ring {
    /// Finds the place where a reader enters.
    pub fn entry(&self, slots: &[Slot]) -> Entry {
        let state = self.state.lock();
        if state.closed {
            return Entry::Closed;
        }
        let ahead =
            slots.len() > state.end.len() || slots.iter().zip(&*state.end).any(|(s, end)| s.next > *end);
        if ahead {
            return Entry::Ahead;
        }
        Entry::Behind { end: Arc::clone(&state.end), next: state.first + state.chunks.len() as u64 }
    }

    /// Returns the chunk of this number.
    pub fn following(&self, number: u64) -> Following {
        let state = self.state.lock();
        let Some(index) = number.checked_sub(state.first) else { return Following::Left };
        match usize::try_from(index).ok().and_then(|index| state.chunks.get(index)) {
            Some(chunk) => Following::Chunk(chunk.clone()),
            None if state.closed => Following::Left,
            None => Following::Nothing,
        }
    }

    /// Returns what changes whenever the ring does.
    pub fn news(&self) -> watch::Receiver<()> {
        self.news.subscribe()
    }

    /// Tells whether it may hold something below one of these log starts.
    fn begins_below(&self, log_starts: &[Offset]) -> bool {
        let begin = Arc::clone(&self.state.lock().begin);
        begin.iter().zip(log_starts).any(|(begin, log_start)| begin < log_start)
    }

    fn end(&self) -> Arc<[Offset]> {
        Arc::clone(&self.state.lock().end)
    }

    fn push(&self, bytes: Bytes, end: Arc<[Offset]>) {
        let mut state = self.state.lock();
        if state.closed {
            return;
        }
        state.end = Arc::clone(&end);
        if !bytes.is_empty() {
            state.bytes += bytes.len();
            let mut total = self.total.fetch_add(bytes.len(), Ordering::Relaxed) + bytes.len();
            state.chunks.push_back(Chunk { bytes, end });
            let too_much = |own: usize, total: usize| own > limits::RING_BYTES || total > limits::RINGS_BYTES;
            while too_much(state.bytes, total) && state.chunks.len() > 1 {
                let Some(Chunk { bytes, end }) = state.chunks.pop_front() else { break };
                total = self.total.fetch_sub(bytes.len(), Ordering::Relaxed) - bytes.len();
                state.bytes -= bytes.len();
                state.begin = end;
                state.first += 1;
            }
        }
        drop(state);
        self.news.send_replace(());
    }

    /// Ends the ring; what it holds can still be taken.
    fn close(&self) {
        self.state.lock().closed = true;
        self.news.send_replace(());
    }

    /// Ends the ring; what its subscribers have not taken yet they read from the log.
    fn discard(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.first += state.chunks.len() as u64;
        state.chunks.clear();
        self.total.fetch_sub(std::mem::take(&mut state.bytes), Ordering::Relaxed);
        drop(state);
        self.news.send_replace(());
    }

    fn is_closed(&self) -> bool {
        self.state.lock().closed
    }
}

/// The rings of a node, one per topic and format that has subscribers.
#[derive(Debug, Default)]
pub struct Rings {
    total: Arc<AtomicUsize>,
    rings: Mutex<HashMap<(TopicId, &'static str), Weak<Ring>>>,
}

impl Rings {
    /// Returns the ring of a topic in a format; if there is none, one that begins where a reader of the whole topic
    /// stands.
    pub fn join(
        &self,
        topic: TopicId,
        format: &'static str,
        reader: impl FnOnce() -> Reader,
        sink: impl ChunkSink,
    ) -> Arc<Ring> {
        let mut rings = self.rings.lock();
        rings.retain(|_, ring| ring.strong_count() > 0);
        let known = rings.get(&(topic, format)).and_then(Weak::upgrade);
        if let Some(ring) = known.filter(|ring| !ring.is_closed()) {
            return ring;
        }
        let reader = reader();
        let end = ends(&reader.positions);
        let begin = Arc::clone(&end);
        let state = State { chunks: VecDeque::new(), first: 0, bytes: 0, begin, end, closed: false };
        let (state, total) = (Mutex::new(state), Arc::clone(&self.total));
        let ring = Arc::new(Ring { state, news: watch::Sender::new(()), total });
        rings.insert((topic, format), Arc::downgrade(&ring));
        tokio::spawn(fill(Arc::downgrade(&ring), reader, sink));
        ring
    }

    /// Ends the rings of a topic whose log starts have moved: nothing they hold is shown any more.
    pub fn discard(&self, topic: TopicId) {
        let rings = self.rings.lock();
        let of_topic = rings.iter().filter(|((of, _), _)| *of == topic);
        of_topic.filter_map(|(_, ring)| ring.upgrade()).for_each(|ring| ring.discard());
    }
}

/// Fills a ring while it has subscribers.
async fn fill(ring: Weak<Ring>, mut reader: Reader, mut sink: impl ChunkSink) {
    let limit = PageLimit { records: limits::PAGE_RECORDS_MAX, bytes: limits::CHUNK_BYTES };
    let mut looked = Instant::now();
    loop {
        let page = reader.page(limit, &mut sink).await;
        let Some(ring) = ring.upgrade().filter(|ring| !ring.is_closed()) else { return };
        if looked.elapsed() >= limits::LOG_STARTS_LOOK {
            looked = Instant::now();
            // Moved by another node, too.
            if ring.begins_below(&reader.log_starts()) {
                return ring.discard();
            }
        }
        match page {
            Ok(end) => {
                let ends = ends(&reader.positions);
                // Also without a record, when a partition is new.
                if end.moved || ends != ring.end() {
                    ring.push(sink.take(&reader.positions), ends);
                }
                drop(ring);
                if end.caught_up {
                    reader.wait(Instant::now() + limits::PARTITIONS_REFRESH).await;
                }
            }
            // Every subscriber meets the same error in the log, where it is told to the client.
            Err(error) if error.is_gap() => return ring.discard(),
            Err(_) => return ring.close(),
        }
    }
}

fn ends(positions: &[TopicPosition]) -> Arc<[Offset]> {
    positions.iter().flat_map(|position| &position.slots).map(|slot| slot.next).collect()
}

#[cfg(test)]
mod tests;
