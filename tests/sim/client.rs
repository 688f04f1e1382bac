//! Producers: with names for their appends, which they may then repeat at will, or without, when they repeat only what is
//! definitely not stored. Any of them may give up at any time.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

use bytes::Bytes;
use forebay_log::error::Outcome;
use forebay_log::model::{Compression, Durability, Offset, Record, TimestampType};
use forebay_log::shard::append::{Append, AppendError, Appended, BatchSource, Dedupe, NewBatch};

use crate::check::{Check, violation};
use crate::config::{HOUR, MILLI, Micros, PARTITIONS};
use crate::node::Role;
use crate::stats::Fault;
use crate::store::RecordId;
use crate::world::{Actor, Event, Wake, World, partition, timestamp};

/// A producer never repeats an append for longer than this: dedupe entries live 24 hours.
const RETRY_MAX: Micros = 6 * HOUR;

/// One attempt on its way to a node.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub(crate) client: usize,
    pub(crate) attempt: u64,
    /// By partition.
    pub(crate) records: Vec<(usize, Vec<RecordId>)>,
    expected: Option<u64>,
    name: Option<Dedupe>,
    level: Durability,
    /// When the first attempt was sent.
    pub(crate) invoked: Micros,
}

impl Message {
    pub(crate) fn to_append(&self) -> Append {
        let batch = |(number, records): &(usize, Vec<RecordId>)| NewBatch {
            partition: partition(*number),
            source: BatchSource::Records {
                records: records.iter().map(|record| to_record(*record, self.invoked)).collect(),
                compression: Compression::None,
                timestamp_type: TimestampType::CreateTime,
            },
            expected: self.expected.map(Offset::new),
        };
        let batches = self.records.iter().map(batch).collect();
        Append { batches, dedupe: self.name, level: self.level }
    }

    /// Tells whether it may be acknowledged before it is stored. A conditional append never is.
    pub(crate) fn is_local(&self) -> bool {
        self.level == Durability::Local && self.expected.is_none()
    }
}

/// An append that a producer sent in a world without addresses.
#[derive(Debug, Clone)]
pub(crate) struct Sent {
    pub(crate) records: Vec<(usize, Vec<RecordId>)>,
    pub(crate) name: Option<Dedupe>,
}

impl Sent {
    pub(crate) fn to_append(&self, at: Micros) -> Append {
        let batch = |(number, records): &(usize, Vec<RecordId>)| NewBatch {
            partition: partition(*number),
            source: BatchSource::Records {
                records: records.iter().map(|record| to_record(*record, at)).collect(),
                compression: Compression::None,
                timestamp_type: TimestampType::CreateTime,
            },
            expected: None,
        };
        let batches = self.records.iter().map(batch).collect();
        Append { batches, dedupe: self.name, level: Durability::Object }
    }
}

fn to_record(id: RecordId, at: Micros) -> Record {
    let value = Some(Bytes::copy_from_slice(&id.to_be_bytes()));
    Record { value, timestamp: timestamp(at), ..Record::default() }
}

/// The append a client is busy with.
#[derive(Debug)]
struct Active {
    message: Message,
    attempts: u32,
    /// Some attempt may be stored, now or later.
    in_doubt: bool,
    /// Where the log ended when the attempt was sent.
    log_end: u64,
}

/// One producer.
#[derive(Debug)]
pub(crate) struct Client {
    id: usize,
    named: bool,
    sequence: u32,
    attempts: u64,
    active: Option<Active>,
    node: usize,
}

impl Client {
    pub(crate) fn new(id: usize, named: bool) -> Self {
        Self { id, named, sequence: 0, attempts: 0, active: None, node: 0 }
    }
}

impl World {
    pub(crate) fn client_woken(&mut self, client: usize, wake: Wake) -> Check {
        match wake {
            Wake::Tick if self.clients[client].active.is_none() => {
                if !self.clients_rest {
                    self.begin_append(client);
                }
            }
            Wake::Tick => self.attempt(client),
            Wake::Timeout(attempt) => {
                let unknown = Err(AppendError::NoLeader { outcome: Outcome::Unknown });
                self.client_result(client, attempt, unknown)?;
            }
            Wake::Turn | Wake::Flush | Wake::Journal | Wake::Load | Wake::Send(_) => {}
        }
        Ok(())
    }

    fn begin_append(&mut self, client: usize) {
        let conditional = self.rng.chance(self.config.conditional);
        let first = self.rng.index(PARTITIONS);
        let both = !conditional && self.rng.chance(0.3);
        let mut records = Vec::new();
        for number in (0..PARTITIONS).filter(|number| *number == first || both) {
            let count = self.rng.between(1, 3);
            records.push((number, (0..count).map(|_| self.next_record()).collect::<Vec<_>>()));
        }
        let end = self.judge.log[first].len() as u64;
        let expected = if self.rng.chance(0.8) { end } else { self.rng.below(end + 3) };
        let (now, named) = (self.now, self.clients[client].named);
        let state = &mut self.clients[client];
        state.sequence += 1;
        let mut hasher = DefaultHasher::new();
        records.hash(&mut hasher);
        let name = named.then(|| Dedupe {
            id: 1 + state.id as u128,
            producer_epoch: None,
            first_sequence: state.sequence,
            body_hash: hasher.finish(),
        });
        let expected = conditional.then_some(expected);
        let level = if self.rng.chance(self.config.local) { Durability::Local } else { Durability::Object };
        let message = Message { client, attempt: 0, records, expected, name, level, invoked: now };
        state.active = Some(Active { message, attempts: 0, in_doubt: false, log_end: end });
        self.attempt(client);
    }

    /// Sends the active append to some node.
    fn attempt(&mut self, client: usize) {
        let leads = |node: &crate::node::Node| matches!(node.role, Role::Leading(_));
        let leaders: Vec<usize> = (0..self.nodes.len()).filter(|node| leads(&self.nodes[*node])).collect();
        // Some leader or other, perhaps one that only believes it is one; or anybody.
        let node = match self.rng.below(4) {
            0 => self.rng.index(self.nodes.len()),
            1 if !leaders.is_empty() => leaders[self.rng.index(leaders.len())],
            _ => self.clients[client].node,
        };
        let state = &mut self.clients[client];
        let Some(active) = &mut state.active else { return };
        state.attempts += 1;
        state.node = node;
        active.attempts += 1;
        active.message.attempt = state.attempts;
        if let [(number, _)] = active.message.records[..] {
            active.log_end = self.judge.log[number].len() as u64;
        }
        let (message, attempt) = (active.message.clone(), state.attempts);
        self.judge.sent(&message.records);
        let late = self.rng.chance(self.config.late_message);
        let after = if late {
            self.stats.fault(Fault::LateMessage);
            self.rng.log_between(MILLI, HOUR)
        } else {
            self.rng.between(MILLI, 20 * MILLI)
        };
        self.note(|_| {
            format!("Client({client}) sends {:?} to Node({node}), attempt {attempt}", message.records)
        });
        self.schedule(self.now + after, Event::Message { node, message });
        let patience = self.rng.between(self.config.patience / 2, self.config.patience);
        self.wake(Actor::Client(client), 0, patience, Wake::Timeout(attempt));
    }

    pub(crate) fn client_result(
        &mut self,
        client: usize,
        attempt: u64,
        result: Result<Appended, AppendError>,
    ) -> Check {
        let Some(active) = &mut self.clients[client].active else { return Ok(()) };
        if active.message.attempt != attempt {
            return Ok(());
        }
        // Until the next attempt is sent nothing more is heard of this one.
        active.message.attempt = 0;
        if result.is_err() {
            self.clients[client].node = self.rng.index(self.nodes.len());
        }
        match result {
            Ok(appended) => self.appended(client, &appended)?,
            Err(AppendError::Mismatch) => {
                return violation("I3", "a retry is taken for another append");
            }
            Err(AppendError::Expected { current, .. }) => self.judged_stale(client, current)?,
            Err(error) if error.outcome() == Outcome::NotApplied => self.not_applied(client)?,
            Err(_) => self.unknown(client),
        }
        let after = self.pause();
        self.wake(Actor::Client(client), 0, after, Wake::Tick);
        Ok(())
    }

    fn appended(&mut self, client: usize, appended: &Appended) -> Check {
        let Some(active) = self.clients[client].active.take() else { return Ok(()) };
        let message = active.message;
        if message.is_local() {
            // Its offsets are not final.
            return Ok(());
        }
        for (placement, (number, records)) in appended.placements.iter().zip(&message.records) {
            let (base, end) =
                (placement.base_offset.get(), placement.base_offset.get() + records.len() as u64);
            if message.expected.is_some_and(|expected| expected != base) {
                let detail = format!("expected {:?} and was appended at {base}", message.expected);
                return violation("linearizable", detail);
            }
            // A read with `at_least` this append, by some observer.
            let reader = self.rng.index(self.readers.len());
            self.readers[reader].must_contain(*number, end, records.clone());
        }
        Ok(())
    }

    /// A conditional append met another offset: its client has read the log's end.
    fn judged_stale(&mut self, client: usize, current: Offset) -> Check {
        let Some(active) = self.clients[client].active.take() else { return Ok(()) };
        self.stats.refusals += 1;
        if let [(number, _)] = active.message.records[..] {
            self.judge.read_end(number, current.get(), active.log_end)?;
        }
        if active.in_doubt { Ok(()) } else { self.judge.refused(&active.message.records) }
    }

    fn not_applied(&mut self, client: usize) -> Check {
        let again = self.rng.chance(0.9);
        let Some(active) = &mut self.clients[client].active else { return Ok(()) };
        if !active.in_doubt {
            self.judge.refused(&active.message.records)?;
        }
        let named = active.message.name.is_some();
        // Without a name an append in doubt must not be sent again.
        let safe = named && self.now - active.message.invoked < RETRY_MAX || !active.in_doubt;
        if !(again && safe && active.attempts < 30) {
            self.clients[client].active = None;
        }
        Ok(())
    }

    fn unknown(&mut self, client: usize) {
        self.stats.fault(Fault::ClientGaveUp);
        let again = self.rng.chance(0.8);
        let Some(active) = &mut self.clients[client].active else { return };
        active.in_doubt = true;
        let safe = active.message.name.is_some() && self.now - active.message.invoked < RETRY_MAX;
        if !(again && safe) {
            self.clients[client].active = None;
        }
    }
}
