//! The judge: knows what the valid log is and always was, and what everybody was told.
//!
//! Written apart from the code under test: it walks the path by the protocol's definition, after each change of the
//! store, and knows nothing of takers, writers and readers. A violation names the invariant of PROTOCOL.md §3.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use forebay_log::format::manifest::Manifest;
use forebay_log::format::snapshot::Snapshot;
use forebay_log::format::wal_object::ObjectKind;
use forebay_log::limits;
use forebay_log::shard::append::Appended;

use crate::config::{Micros, PARTITIONS};
use crate::store::{Changed, Key, RecordId, Run, Store, topic_of};
use crate::world::number;

/// What was broken, and how it showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Violation {
    pub(crate) what: &'static str,
    pub(crate) detail: String,
}

pub(crate) type Check = Result<(), Violation>;

pub(crate) fn violation<T>(what: &'static str, detail: impl Into<String>) -> Result<T, Violation> {
    Err(Violation { what, detail: detail.into() })
}

/// The state of the log at one position of the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Position {
    epoch: u32,
    /// How many runs lie before it.
    runs: usize,
    entries: usize,
}

/// An object on the path, for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    seq: u64,
    nonce: u128,
    content: u64,
}

/// An acknowledged append.
#[derive(Debug, Clone, Copy)]
struct Acked {
    partition: usize,
    base: u64,
    at: Micros,
}

/// What a leadership knew when it began.
#[derive(Debug)]
pub(crate) struct Knew {
    pub(crate) epochs: BTreeSet<u128>,
    pub(crate) settled: Rc<BTreeSet<RecordId>>,
}

/// All that is known to be true.
#[derive(Debug)]
pub(crate) struct Judge {
    gap: u64,
    /// Every record of the valid log, by partition and offset.
    pub(crate) log: Vec<Vec<RecordId>>,
    /// Where each run of the log ends, by partition.
    runs: Vec<(usize, u64)>,
    places: BTreeMap<RecordId, (usize, u64)>,
    entries: Vec<Entry>,
    positions: BTreeMap<u64, Position>,
    epochs: BTreeMap<u64, u128>,
    tail: u64,
    floor: u64,
    led: BTreeSet<u32>,
    acked: Vec<Acked>,
    /// For each partition: of the appends acknowledged so far the highest base offset, by time.
    highest: Vec<Vec<(Micros, u64)>>,
    /// Records of which somebody was told that they are not stored.
    refused: BTreeSet<RecordId>,
    /// First records of appends.
    heads: BTreeSet<RecordId>,
    /// When each record was first in the log, and by which leadership.
    stored: BTreeMap<RecordId, (Micros, u128)>,
    pub(crate) now: Micros,
    /// Records sent at `local`: a journal may hold them.
    journalled: BTreeSet<RecordId>,
    /// Those that were acknowledged.
    local: BTreeSet<RecordId>,
    /// Topics that were deleted.
    deleted: BTreeSet<u64>,
    /// For each leadership: the epochs it knew, and what its node's journal says is settled.
    knew: BTreeMap<u128, Knew>,
    /// Records appended again that nobody could know to be there.
    pub(crate) repeats: u64,
}

impl Judge {
    pub(crate) fn new(gap: u64) -> Self {
        let start = Position { epoch: 0, runs: 0, entries: 0 };
        Self {
            gap,
            log: vec![Vec::new(); PARTITIONS],
            runs: Vec::new(),
            places: BTreeMap::new(),
            entries: Vec::new(),
            positions: BTreeMap::from([(0, start)]),
            epochs: BTreeMap::new(),
            tail: 0,
            floor: 0,
            led: BTreeSet::new(),
            acked: Vec::new(),
            highest: vec![Vec::new(); PARTITIONS],
            refused: BTreeSet::new(),
            heads: BTreeSet::new(),
            stored: BTreeMap::new(),
            now: 0,
            journalled: BTreeSet::new(),
            local: BTreeSet::new(),
            deleted: BTreeSet::new(),
            knew: BTreeMap::new(),
            repeats: 0,
        }
    }

    /// Looks at the store after a change of it.
    pub(crate) fn changed(&mut self, store: &Store, changed: Changed) -> Check {
        match changed {
            Changed::Nothing => Ok(()),
            Changed::Created(Key::Wal(seq)) if seq == self.tail => self.walk(store, seq),
            Changed::Created(_) => Ok(()),
            Changed::Manifest => self.manifest_changed(store),
            Changed::Deleted(Key::Wal(seq)) => {
                let entry = self.entries.binary_search_by_key(&seq, |entry| entry.seq).is_ok();
                let on_path = entry || self.epochs.contains_key(&seq);
                if on_path && seq >= self.floor {
                    return violation(
                        "I2",
                        format!("{seq} was deleted and is at or above the floor {}", self.floor),
                    );
                }
                Ok(())
            }
            Changed::Deleted(key) => self.still_named(store, key),
        }
    }

    /// Follows the path from a position that was on it.
    fn walk(&mut self, store: &Store, from: u64) -> Check {
        let Some(mut here) = self.positions.get(&from).copied() else {
            return violation("I2", format!("the path leads to {from}, which was never on it"));
        };
        let mut seq = from;
        while let Some(object) = store.objects.get(&Key::Wal(seq)) {
            let Some(header) = &object.header else {
                return violation("I4", format!("{seq} is no object of the log"));
            };
            let (epoch, nonce) = (header.epoch.get(), header.nonce.get());
            if header.seq.get() != seq {
                return violation("I4", format!("{seq} holds an object of {}", header.seq));
            }
            if header.kind == ObjectKind::Epoch {
                if epoch <= here.epoch {
                    return violation("I8", format!("epoch {epoch} at {seq} follows epoch {}", here.epoch));
                }
                if *self.epochs.entry(seq).or_insert(nonce) != nonce {
                    return violation("I2", format!("the EPOCH at {seq} is another than before"));
                }
                here.epoch = epoch;
                seq += self.gap;
            } else {
                if epoch != here.epoch {
                    return violation(
                        "I8",
                        format!("DATA of epoch {epoch} at {seq} in epoch {}", here.epoch),
                    );
                }
                let entry = Entry { seq, nonce, content: header.content_hash };
                if here.entries < self.entries.len() {
                    if self.entries[here.entries] != entry {
                        return violation("I2", format!("the log held another object than the one at {seq}"));
                    }
                } else {
                    self.entries.push(entry);
                    self.extend(&object.runs, seq, nonce)?;
                }
                here.runs += object.runs.len();
                here.entries += 1;
                seq += 1;
            }
            if *self.positions.entry(seq).or_insert(here) != here {
                return violation("I2", format!("the path at {seq} is another than before"));
            }
        }
        if here.entries < self.entries.len() {
            return violation("I2", format!("the path ends at {seq}; it was longer"));
        }
        self.tail = seq;
        Ok(())
    }

    fn extend(&mut self, runs: &[Run], seq: u64, nonce: u128) -> Check {
        for run in runs {
            self.make_room(run.partition);
            let end = self.log[run.partition].len() as u64;
            if run.base != end {
                return violation("I6", format!("{seq} begins at offset {} and not at {end}", run.base));
            }
            for record in &run.records {
                let place = (run.partition, self.log[run.partition].len() as u64);
                let first = self.places.insert(*record, place);
                if first.is_some() && !self.may_repeat(*record, nonce) {
                    return violation("I3", format!("record {record} is at {first:?} and at {place:?}"));
                }
                if self.refused.contains(record) {
                    return violation("I3", format!("record {record} was called not stored"));
                }
                self.repeats += u64::from(first.is_some());
                self.stored.entry(*record).or_insert((self.now, nonce));
                self.log[run.partition].push(*record);
            }
            self.runs.push((run.partition, self.log[run.partition].len() as u64));
        }
        Ok(())
    }

    fn make_room(&mut self, partition: usize) {
        let partitions = self.log.len().max(partition + 1);
        self.log.resize_with(partitions, Vec::new);
        self.highest.resize_with(partitions, Vec::new);
    }

    /// Returns where each partition ends at a position.
    fn ends_at(&self, here: &Position) -> Vec<u64> {
        let mut ends = vec![0; self.log.len()];
        for (partition, end) in &self.runs[..here.runs] {
            ends[*partition] = *end;
        }
        ends
    }

    /// Tells whether a leadership may append a record that is in the log: it comes from its node's journal, which does
    /// not say that it is settled, and the epoch in which it was stored or the names by which it would be known again
    /// are forgotten.
    fn may_repeat(&self, record: RecordId, nonce: u128) -> bool {
        let (Some((at, by)), Some(knew)) = (self.stored.get(&record), self.knew.get(&nonce)) else {
            return false;
        };
        let expired = at + limits::DEDUPE_AGE_MAX.as_micros() as Micros <= self.now;
        self.journalled.contains(&record)
            && !knew.settled.contains(&record)
            && (expired || !knew.epochs.contains(by))
    }

    fn manifest_changed(&mut self, store: &Store) -> Check {
        let Some((bytes, _)) = &store.manifest else { return Ok(()) };
        let manifest = Manifest::decode(bytes).expect("only manifests are stored");
        let floor = manifest.floor.get();
        if floor < self.floor {
            return violation("I2", format!("the floor went back from {} to {floor}", self.floor));
        }
        self.floor = floor;
        let Some(here) = self.positions.get(&floor).copied() else {
            return violation("I2", format!("the floor {floor} is not on the path"));
        };
        if manifest.epoch_at_floor.get() != here.epoch {
            let detail = format!("epoch {} at the floor, not {}", manifest.epoch_at_floor, here.epoch);
            return violation("I8", detail);
        }
        self.rolled_is_whole(store, &manifest, &here)?;
        self.walk(store, floor)
    }

    /// Compares what the manifest names with the log below the floor.
    fn rolled_is_whole(&self, store: &Store, manifest: &Manifest, here: &Position) -> Check {
        let (mut ends, there) = (vec![0; self.log.len()], self.ends_at(here));
        for reference in &manifest.rolled {
            let Some(object) = store.objects.get(&Key::Rolled(reference.job.get())) else {
                return violation("I2", format!("rolled object {} is missing", reference.job));
            };
            for run in &object.runs {
                let (from, end) = (run.base as usize, run.base as usize + run.records.len());
                let same = self.log[run.partition].get(from..end) == Some(&run.records[..]);
                if run.base != ends[run.partition] || !same {
                    let detail =
                        format!("rolled object {} differs at {}/{from}", reference.job, run.partition);
                    return violation("I2", detail);
                }
                ends[run.partition] = end as u64;
            }
        }
        if ends != there {
            return violation(
                "I2",
                format!("rolled up to {ends:?}, the log below the floor ends at {there:?}"),
            );
        }
        let Some(hash) = manifest.snapshot else { return Ok(()) };
        let Some(object) = store.objects.get(&Key::Snapshot(hash)) else {
            return violation("I2", "the snapshot at the floor is missing");
        };
        let snapshot = Snapshot::decode(&object.bytes).expect("only snapshots are stored");
        let mut ends = vec![0; self.log.len()];
        for end in &snapshot.partitions {
            ends[number(end.partition)] = end.next_offset.get();
        }
        if ends != there {
            return violation("I6", format!("the snapshot says {ends:?}, the log {there:?}"));
        }
        Ok(())
    }

    fn still_named(&self, store: &Store, key: Key) -> Check {
        let Some((bytes, _)) = &store.manifest else { return Ok(()) };
        let manifest = Manifest::decode(bytes).expect("only manifests are stored");
        let named = match key {
            Key::Rolled(job) => manifest.rolled.iter().any(|reference| reference.job.get() == job),
            Key::Snapshot(hash) => manifest.snapshot == Some(hash),
            Key::Wal(_) => false,
        };
        if named {
            violation("I2", format!("{key:?} was deleted and is named by the manifest"))
        } else {
            Ok(())
        }
    }

    /// Records are sent to be acknowledged by a journal.
    pub(crate) fn sent_local(&mut self, records: &[(usize, Vec<RecordId>)]) {
        self.journalled.extend(records.iter().flat_map(|(_, records)| records));
    }

    /// A leader acknowledges an append at `local`.
    pub(crate) fn acknowledged_local(&mut self, records: &[(usize, Vec<RecordId>)]) {
        self.local.extend(records.iter().flat_map(|(_, records)| records));
    }

    /// A topic was deleted: what was acknowledged in it at `local` need not be stored any more.
    pub(crate) fn deleted(&mut self, topic: u64) {
        self.deleted.insert(topic);
    }

    /// Returns a record that was acknowledged at `local` and is not in the log.
    pub(crate) fn missing_local(&self) -> Option<RecordId> {
        let is_missing = |record: &&RecordId| {
            !self.places.contains_key(record) && !self.deleted.contains(&topic_of(**record))
        };
        self.local.iter().find(is_missing).copied()
    }

    /// A node begins to lead.
    pub(crate) fn leads(&mut self, epoch: u32, nonce: u128, knew: Knew) -> Check {
        self.knew.insert(nonce, knew);
        if !self.led.insert(epoch) {
            return violation("I8", format!("epoch {epoch} is led twice"));
        }
        Ok(())
    }

    /// A leader acknowledges an append of these records, first sent at `invoked`.
    pub(crate) fn acknowledged(
        &mut self,
        appended: &Appended,
        records: &[(usize, Vec<RecordId>)],
        invoked: Micros,
        now: Micros,
    ) -> Check {
        for (partition, records) in records {
            let place = appended.placements.iter().find(|place| number(place.partition) == *partition);
            let Some(place) = place else {
                return violation("I4", "an acknowledgement leaves out a partition");
            };
            let (base, end) = (place.base_offset.get(), place.base_offset.get() + u64::from(place.count));
            self.make_room(*partition);
            let stored = self.log[*partition].get(base as usize..end as usize);
            if stored != Some(&records[..]) {
                let detail =
                    format!("acknowledged {records:?} at {partition}/{base}; the log has {stored:?}");
                return violation("I1", detail);
            }
            let before = self.highest[*partition].partition_point(|(at, _)| *at < invoked);
            let highest = before.checked_sub(1).map(|last| self.highest[*partition][last].1);
            if highest.is_some_and(|highest| base <= highest) {
                let detail = format!("{partition}/{base} was appended after {highest:?} was acknowledged");
                return violation("linearizable", detail);
            }
            let highest = self.highest[*partition].last().map_or(base, |(_, highest)| base.max(*highest));
            self.highest[*partition].push((now, highest));
            self.acked.push(Acked { partition: *partition, base, at: now });
        }
        Ok(())
    }

    /// Somebody is told that a partition ends at `end`; when that was asked it ended at `invoked`. A read of the log's
    /// end is linearizable if the log ended there at some moment in between: ends only grow, one append at a time.
    pub(crate) fn read_end(&self, partition: usize, end: u64, invoked: u64) -> Check {
        let now = self.log[partition].len() as u64;
        let next = self.log[partition].get(end as usize);
        if end < invoked || end > now || next.is_some_and(|next| !self.heads.contains(next)) {
            let detail =
                format!("{partition} is said to end at {end}; it ended at {invoked} before and at {now} now");
            return violation("linearizable", detail);
        }
        Ok(())
    }

    /// Somebody is told that records are not stored and never will be.
    pub(crate) fn refused(&mut self, records: &[(usize, Vec<RecordId>)]) -> Check {
        for record in records.iter().flat_map(|(_, records)| records) {
            if let Some(place) = self.places.get(record) {
                return violation("I3", format!("record {record} at {place:?} was called not stored"));
            }
            self.refused.insert(*record);
        }
        Ok(())
    }

    /// Records are sent, perhaps once more.
    pub(crate) fn sent(&mut self, records: &[(usize, Vec<RecordId>)]) {
        self.heads.extend(records.iter().filter_map(|(_, records)| records.first()));
        for record in records.iter().flat_map(|(_, records)| records) {
            self.refused.remove(record);
        }
    }

    /// An observer is shown records; `next` is what it had seen so far.
    pub(crate) fn shown(&self, who: &str, partition: usize, next: u64, run: &Run) -> Check {
        if run.base > next {
            return violation("I2", format!("{who} skips from {partition}/{next} to {}", run.base));
        }
        let (from, end) = (run.base as usize, run.base as usize + run.records.len());
        if self.log[partition].get(from..end) != Some(&run.records[..]) {
            return violation("I2", format!("{who} is shown what is not in the log at {partition}/{from}"));
        }
        Ok(())
    }

    /// Returns a seq that was acknowledged at some time, and whether it lies below the floor.
    pub(crate) fn any_entry(&self, choice: usize) -> Option<u64> {
        (!self.entries.is_empty()).then(|| self.entries[choice % self.entries.len()].seq)
    }

    pub(crate) fn floor(&self) -> u64 {
        self.floor
    }

    /// Everything acknowledged is still there: said of the store as it is, not of what was noted.
    pub(crate) fn all_acked_are_there(&self, store: &Store) -> Check {
        let floor = self.positions[&self.floor];
        for acked in &self.acked {
            if acked.base >= self.log[acked.partition].len() as u64 {
                return violation("I1", format!("{acked:?} is gone"));
            }
        }
        let mut copy = Self::new(self.gap);
        copy.log.clone_from(&self.log);
        copy.runs = self.runs[..floor.runs].to_vec();
        copy.highest.clone_from(&self.highest);
        for (log, end) in copy.log.iter_mut().zip(self.ends_at(&floor)) {
            log.truncate(end as usize);
        }
        let start = Position { entries: 0, ..floor };
        copy.positions = BTreeMap::from([(self.floor, start)]);
        copy.walk(store, self.floor)?;
        if copy.log != self.log {
            return violation("I1", "a walk from the floor finds another log");
        }
        Ok(())
    }

    /// Returns the number of appends acknowledged since.
    pub(crate) fn acked_since(&self, since: Micros) -> usize {
        self.acked.iter().filter(|acked| acked.at >= since).count()
    }
}
