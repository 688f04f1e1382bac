//! Observers: tail readers that follow the log without a leader, and one consumer that hops between nodes and readers.

use std::collections::VecDeque;
use std::rc::Rc;

use forebay_log::format::manifest::{Manifest, RolledRef};
use forebay_log::model::Offset;
use forebay_log::shard::reader::{self, Ask, Reader};

use crate::check::{Check, violation};
use crate::config::{PARTITIONS, SECOND};
use crate::node::Role;
use crate::stats::{Fault, Row};
use crate::store::{Answer, Key, Object, Op, RecordId, Run, decode_runs};
use crate::world::{Actor, Wake, World, partition};

/// A read that was asked to contain an append.
#[derive(Debug)]
struct AtLeast {
    partition: usize,
    end: u64,
    records: Vec<RecordId>,
}

/// What an observer has seen: a prefix of each partition.
#[derive(Debug, Default)]
pub(crate) struct Seen([Vec<RecordId>; PARTITIONS]);

impl Seen {
    fn next(&self, partition: usize) -> u64 {
        self.0[partition].len() as u64
    }

    /// Takes in what is new in a run; what was seen before must be the same.
    fn take(&mut self, run: &Run) -> Check {
        let seen = &mut self.0[run.partition];
        for (offset, record) in (run.base..).zip(&run.records) {
            match seen.get(offset as usize) {
                None => seen.push(*record),
                Some(before) if before == record => {}
                Some(before) => {
                    return violation("I2", format!("offset {offset} was {before} and is {record}"));
                }
            }
        }
        Ok(())
    }
}

/// A reader of the log without a leader.
#[derive(Debug)]
pub(crate) struct TailReader {
    reader: Reader,
    first: Option<Ask>,
    call: u64,
    op: Option<Op>,
    seen: Seen,
    /// Every object below is delivered.
    below: u64,
    /// Rolled objects to read before the path.
    rolled: VecDeque<RolledRef>,
    last: Option<Rc<Object>>,
    asked: Vec<AtLeast>,
}

impl TailReader {
    pub(crate) fn new() -> Self {
        let (reader, ask) = Reader::new();
        Self {
            reader,
            first: Some(ask),
            call: 0,
            op: None,
            seen: Seen::default(),
            below: 0,
            rolled: VecDeque::new(),
            last: None,
            asked: Vec::new(),
        }
    }

    pub(crate) fn has_seen(&self, ends: &[usize; PARTITIONS]) -> bool {
        (0..PARTITIONS).all(|number| self.seen.0[number].len() >= ends[number])
    }

    /// Asks that the next read that reaches `end` contains these records.
    pub(crate) fn must_contain(&mut self, partition: usize, end: u64, records: Vec<RecordId>) {
        self.asked.push(AtLeast { partition, end, records });
    }

    fn check_asked(&mut self) -> Check {
        let seen = &self.seen.0;
        for asked in self.asked.extract_if(.., |asked| seen[asked.partition].len() as u64 >= asked.end) {
            let base = asked.end as usize - asked.records.len();
            if seen[asked.partition][base..asked.end as usize] != asked.records[..] {
                return violation("at_least", format!("{asked:?} is not contained"));
            }
        }
        Ok(())
    }
}

impl World {
    pub(crate) fn reader_woken(&mut self, number: usize, wake: Wake) -> Check {
        if let Wake::Send(call) = wake {
            let reader = &self.readers[number];
            if let Some(op) = reader.op.clone().filter(|_| reader.call == call) {
                self.send(Actor::Reader(number), call, op);
            }
            return Ok(());
        }
        let reader = &mut self.readers[number];
        let ask = reader.first.take().unwrap_or_else(|| reader.reader.go_on());
        self.read(number, ask)
    }

    /// A reader that stands still goes on.
    pub(crate) fn reader_goes_on(&mut self, number: usize) {
        let call = self.readers[number].call;
        self.wake(Actor::Reader(number), 0, 0, Wake::Send(call));
    }

    fn reader_asks(&mut self, number: usize, op: Op) {
        let call = self.next_call();
        let reader = &mut self.readers[number];
        (reader.call, reader.op) = (call, Some(op.clone()));
        if self.rng.chance(self.config.stale_reader) {
            self.stats.fault(Fault::StaleReader);
            let after = self.rng.log_between(SECOND, self.config.stall_max);
            return self.wake(Actor::Reader(number), 0, after, Wake::Send(call));
        }
        self.send(Actor::Reader(number), call, op);
    }

    fn read(&mut self, number: usize, ask: Ask) -> Check {
        let mut ask = ask;
        loop {
            match ask {
                Ask::Manifest => {
                    self.reader_asks(number, Op::GetManifest);
                    return Ok(());
                }
                Ask::Object(seq) => {
                    self.reader_asks(number, Op::Get(Key::Wal(seq.get())));
                    return Ok(());
                }
                Ask::Wait(_) => {
                    let after = self.pause();
                    self.wake(Actor::Reader(number), 0, after, Wake::Tick);
                    return Ok(());
                }
                Ask::Restart(manifest) => {
                    let reader = &mut self.readers[number];
                    let unread = manifest.rolled.iter().filter(|one| one.last.get() >= reader.below);
                    reader.rolled = unread.copied().collect();
                    reader.below = manifest.floor.get();
                    if self.read_rolled(number) {
                        return Ok(());
                    }
                }
                Ask::Deliver(object) => {
                    let seq = object.header.seq.get();
                    let Some(last) = self.readers[number].last.take() else { return Ok(()) };
                    self.readers[number].below = seq + 1;
                    self.deliver(number, &last)?;
                }
            }
            ask = self.readers[number].reader.go_on();
        }
    }

    /// Asks for the next rolled object, if there is one.
    fn read_rolled(&mut self, number: usize) -> bool {
        let next = self.readers[number].rolled.front().copied();
        if let Some(reference) = next {
            self.reader_asks(number, Op::Get(Key::Rolled(reference.job.get())));
        }
        next.is_some()
    }

    fn deliver(&mut self, number: usize, object: &Object) -> Check {
        let who = format!("Reader({number})");
        for run in &object.runs {
            let next = self.readers[number].seen.next(run.partition);
            self.judge.shown(&who, run.partition, next, run)?;
            self.readers[number].seen.take(run)?;
            self.stats.delivered += self.readers[number].seen.next(run.partition) - next;
        }
        self.readers[number].check_asked()
    }

    pub(crate) fn reader_answered(&mut self, number: usize, call: u64, answer: Answer) -> Check {
        if self.readers[number].call != call || self.readers[number].op.is_none() {
            return Ok(());
        }
        if matches!(answer, Answer::Failed) {
            self.wake(Actor::Reader(number), 0, SECOND, Wake::Send(call));
            return Ok(());
        }
        self.readers[number].op = None;
        if self.readers[number].rolled.pop_front().is_some() {
            return self.rolled_answered(number, answer);
        }
        let answer = match answer {
            Answer::Manifest(found) => reader::Answer::Manifest(
                found.map(|(bytes, _)| Manifest::decode(&bytes).expect("a manifest")),
            ),
            Answer::Object(found) => {
                self.readers[number].last.clone_from(&found);
                reader::Answer::Object(found.and_then(|object| object.path_object()).map(Box::new))
            }
            _ => return Ok(()),
        };
        match self.readers[number].reader.next(answer) {
            Ok(ask) => self.read(number, ask),
            Err(error) => violation("alarm", format!("Reader({number}) stops: {error:?}")),
        }
    }

    fn rolled_answered(&mut self, number: usize, answer: Answer) -> Check {
        let Answer::Object(Some(object)) = answer else {
            // It was rolled again meanwhile: begin anew from a fresh manifest.
            let TailReader { seen, asked, .. } =
                std::mem::replace(&mut self.readers[number], TailReader::new());
            (self.readers[number].seen, self.readers[number].asked) = (seen, asked);
            return self.reader_woken(number, Wake::Tick);
        };
        self.deliver(number, &object)?;
        if self.read_rolled(number) {
            return Ok(());
        }
        let ask = self.readers[number].reader.go_on();
        self.read(number, ask)
    }
}

/// A consumer that reads now here, now there, with one cursor.
#[derive(Debug, Default)]
pub(crate) struct Hopper {
    seen: Seen,
    /// The number of an object that was in the log, being looked for.
    looking_for: Option<u64>,
}

impl World {
    pub(crate) fn hopper_woken(&mut self) -> Check {
        let after = self.pause();
        self.wake(Actor::Hopper, 0, after, Wake::Tick);
        if self.hopper.looking_for.is_none() && self.rng.chance(0.2) {
            let choice = self.rng.next() as usize;
            if let Some(seq) = self.judge.any_entry(choice) {
                self.hopper.looking_for = Some(seq);
                self.send(Actor::Hopper, 0, Op::Get(Key::Wal(seq)));
            }
        }
        let source = self.rng.index(self.nodes.len() + self.readers.len());
        for number in 0..PARTITIONS {
            for run in self.view(source, number) {
                let next = self.hopper.seen.next(number);
                self.judge.shown("a hopping consumer", number, next, &run)?;
                self.hopper.seen.take(&run)?;
            }
        }
        Ok(())
    }

    /// What a node or a reader would answer to a read from the consumer's cursor.
    fn view(&self, source: usize, number: usize) -> Vec<Run> {
        let next = self.hopper.seen.next(number);
        let Some(node) = self.nodes.get(source) else {
            let seen = &self.readers[source - self.nodes.len()].seen.0[number];
            let records = seen.get(next as usize..).unwrap_or_default().to_vec();
            return if records.is_empty() {
                Vec::new()
            } else {
                vec![Run { partition: number, base: next, records }]
            };
        };
        let Role::Leading(leader) = &node.role else { return Vec::new() };
        if node.stalled_until > self.now || leader.high_watermark(partition(number)).get() <= next {
            return Vec::new();
        }
        let batches = leader.tail(partition(number), Offset::new(next)).unwrap_or_default();
        let runs = batches.into_iter().flat_map(|bytes| decode_runs(number, bytes));
        // What memory does not hold any more or never held is read from the store, which other observers do.
        let mut reached = next;
        runs.take_while(|run| {
            let follows = run.base <= reached;
            reached = run.base + run.records.len() as u64;
            follows
        })
        .collect()
    }

    /// An object that was resolved may be gone only when it lies below the floor.
    pub(crate) fn hopper_answered(&mut self, answer: Answer) -> Check {
        match answer {
            Answer::Object(None) => {
                self.send(Actor::Hopper, 0, Op::GetManifest);
                return Ok(());
            }
            Answer::Manifest(Some((bytes, _))) => {
                let floor = Manifest::decode(&bytes).expect("a manifest").floor.get();
                self.stats.row(Row::ResolvedThenGone);
                if self.hopper.looking_for.is_some_and(|seq| seq >= floor) {
                    return violation("alarm", format!("{:?} is lost", self.hopper.looking_for));
                }
            }
            _ => {}
        }
        self.hopper.looking_for = None;
        Ok(())
    }
}
