//! One simulated cluster around one shard: the queue of events, and the network between actors and the store.
//!
//! Everything happens at one instant of simulated time and in one order, which the seed alone decides.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use forebay_log::limits;
use forebay_log::model::{ClusterId, PartitionId, ShardId, Timestamp, TopicId, TopicPartition};
use forebay_log::shard::append::{AppendError, Appended};
use forebay_log::shard::taker::PutAnswer;

use crate::check::{Check, Judge, violation};
use crate::client::{Client, Message};
use crate::compactor::{Compactor, Sweeper};
use crate::config::{Config, HOUR, MILLI, MINUTE, Micros, SECOND};
use crate::disk::DiskConfig;
use crate::node::Node;
use crate::reader::{Hopper, TailReader};
use crate::rng::Rng;
use crate::stats::{Fault, Row, Stats};
use crate::store::{Answer, Changed, Key, Op, Store};

pub(crate) const CLUSTER: ClusterId = ClusterId::new(0x5eed);
pub(crate) const SHARD: ShardId = ShardId::new(0);
/// The first topic's id; others follow it.
const TOPIC: u128 = 0x70;
/// Most partitions of a topic.
pub(crate) const TOPIC_PARTITIONS_MAX: u16 = 4;
/// Where clocks stand when a simulation begins.
const EPOCH_MILLIS: i64 = 1_700_000_000_000;

/// Returns the id of the topic of a number.
pub(crate) fn topic(number: u64) -> TopicId {
    TopicId::new(TOPIC + u128::from(number))
}

/// Returns the partition of a number: those of the first topic come first.
pub(crate) fn partition(number: usize) -> TopicPartition {
    let topics = usize::from(TOPIC_PARTITIONS_MAX);
    let partition = PartitionId::new((number % topics) as u16);
    TopicPartition { topic: topic((number / topics) as u64), partition }
}

/// Returns the number of a topic.
pub(crate) fn topic_number(id: TopicId) -> u64 {
    (id.get() - TOPIC) as u64
}

/// Returns the number of a partition.
pub(crate) fn number(partition: TopicPartition) -> usize {
    let first = topic_number(partition.topic) as usize * usize::from(TOPIC_PARTITIONS_MAX);
    first + usize::from(partition.partition.get())
}

pub(crate) fn timestamp(now: Micros) -> Timestamp {
    Timestamp::from_millis(EPOCH_MILLIS + (now / MILLI) as i64)
}

/// Who acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Actor {
    Node(usize),
    Client(usize),
    Reader(usize),
    Compactor(usize),
    Sweeper,
    Hopper,
}

/// Something that happens.
#[derive(Debug)]
pub(crate) enum Event {
    /// A request reaches the store; its answer goes to whoever waits for it.
    Land { op: Op, reply: Option<(Actor, u64)> },
    /// An answer, or its absence, reaches an actor.
    Answered { to: Actor, call: u64, answer: Answer },
    /// An actor's own time has come. A crash in between makes it void.
    Wake { actor: Actor, life: u64, wake: Wake },
    /// A client's request reaches a node.
    Message { node: usize, message: Message },
    /// A node that stood still goes on.
    Resume { node: usize },
    /// The answer reaches the client.
    Result { client: usize, attempt: u64, result: Result<Appended, AppendError> },
}

/// Why an actor wakes.
#[derive(Debug, Clone)]
pub(crate) enum Wake {
    /// It is time to do something.
    Tick,
    /// A node's turn over its queue.
    Turn,
    /// A leader freezes what waits.
    Flush,
    /// The journal's thread takes a turn.
    Journal,
    /// A leader gets what it reads back from the journal.
    Load,
    /// A request is sent (again), under the number of its call.
    Send(u64),
    /// A client's attempt had no answer.
    Timeout(u64),
}

#[derive(Debug)]
struct Scheduled {
    at: Micros,
    tie: u64,
    event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    /// The earliest is the greatest, for a heap gives out the greatest.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.tie).cmp(&(self.at, self.tie))
    }
}

/// All of it.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) config: Config,
    pub(crate) rng: Rng,
    pub(crate) now: Micros,
    queue: BinaryHeap<Scheduled>,
    tie: u64,
    calls: u64,
    records: u64,
    pub(crate) store: Store,
    pub(crate) judge: Judge,
    pub(crate) stats: Stats,
    pub(crate) nodes: Vec<Node>,
    pub(crate) clients: Vec<Client>,
    pub(crate) readers: Vec<TailReader>,
    pub(crate) compactors: Vec<Compactor>,
    pub(crate) sweeper: Sweeper,
    pub(crate) hopper: Hopper,
    burst_until: Micros,
    outage_until: Micros,
    /// No client begins anything new.
    pub(crate) clients_rest: bool,
    /// Since when there are no new faults.
    pub(crate) calm_since: Option<Micros>,
    trace: Option<Vec<String>>,
}

/// How a run of one seed ended.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) stats: Stats,
    pub(crate) result: Check,
    /// Everything that happened, if it was asked for.
    pub(crate) trace: Vec<String>,
}

/// Plays one seed.
pub(crate) fn run(seed: u64, traced: bool) -> Run {
    let mut rng = Rng::new(seed);
    let config = Config::draw(&mut rng);
    let mut world = World::new(config, rng, traced);
    let result = world.play();
    world.stats.micros = world.now;
    for disk in world.nodes.iter().filter_map(|node| node.disk.as_ref()) {
        world.stats.add_disk(disk.get().faults());
    }
    Run { stats: world.stats, result, trace: world.trace.unwrap_or_default() }
}

impl World {
    fn new(config: Config, mut rng: Rng, traced: bool) -> Self {
        let clients = (0..config.clients).map(|id| Client::new(id, rng.chance(config.with_ids))).collect();
        let mut world = Self {
            judge: Judge::new(config.gap),
            now: 0,
            queue: BinaryHeap::new(),
            tie: 0,
            calls: 0,
            records: 0,
            store: Store::default(),
            stats: Stats::default(),
            nodes: (0..config.nodes).map(|number| Node::new(number, &config, &mut rng)).collect(),
            clients,
            readers: (0..config.readers).map(|_| TailReader::new()).collect(),
            compactors: (0..config.compactors).map(|_| Compactor::default()).collect(),
            sweeper: Sweeper::default(),
            hopper: Hopper::default(),
            burst_until: 0,
            outage_until: 0,
            clients_rest: false,
            calm_since: None,
            trace: traced.then(Vec::new),
            config,
            rng,
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        let actors = (0..self.nodes.len())
            .map(Actor::Node)
            .chain((0..self.clients.len()).map(Actor::Client))
            .chain((0..self.readers.len()).map(Actor::Reader))
            .chain((0..self.compactors.len()).map(Actor::Compactor))
            .chain([Actor::Sweeper, Actor::Hopper]);
        for actor in actors.collect::<Vec<_>>() {
            let after = self.rng.below(self.config.pace);
            self.wake(actor, 0, after, Wake::Tick);
        }
        self.note(|world| format!("{:?}", world.config));
    }

    /// Plays the part with faults, then shows that the shard goes on without them.
    fn play(&mut self) -> Check {
        while self.stats.steps < self.config.steps {
            self.step()?;
        }
        self.calm();
        let begun = self.now;
        let bound = begun + 2 * HOUR + 300 * self.config.pace;
        let to_read = std::array::from_fn(|partition| self.judge.log[partition].len());
        loop {
            for _ in 0..20 {
                self.step()?;
            }
            let served = self.judge.acked_since(begun) >= 3;
            let read = self.readers.iter().all(|reader| reader.has_seen(&to_read));
            let missing = self.judge.missing_local();
            if served && read && missing.is_none() {
                break;
            }
            // Whoever still has something in a journal need not run after the log's end.
            self.clients_rest = served && read;
            if self.now > bound && served && read {
                return violation("I1", format!("{missing:?} was acknowledged at local and is lost"));
            }
            if self.now > bound {
                let acked = self.judge.acked_since(begun);
                return violation("liveness", format!("acknowledged: {acked}, readers at the end: {read}"));
            }
        }
        self.stats.repeats = self.judge.repeats;
        self.judge.all_acked_are_there(&self.store)
    }

    fn calm(&mut self) {
        self.note(|_| "no new faults from now on".into());
        self.config.calm();
        self.calm_since = Some(self.now);
        (self.burst_until, self.outage_until) = (0, 0);
        self.nodes.iter().filter_map(|node| node.disk.as_ref()).for_each(|disk| {
            disk.get().config = DiskConfig::default();
        });
        (0..self.readers.len()).for_each(|reader| self.reader_goes_on(reader));
        let (now, stay) = (self.now, self.config.zombies_stay);
        for number in 0..self.nodes.len() {
            let node = &mut self.nodes[number];
            // With all the others gone for ever one that is awake must do.
            if number > 0 && stay && node.stalled_until > now {
                node.stalled_until = Micros::MAX;
            } else if node.stalled_until > now {
                node.stalled_until = now;
                self.schedule(now, Event::Resume { node: number });
            }
        }
    }

    fn step(&mut self) -> Check {
        let Some(Scheduled { at, event, .. }) = self.queue.pop() else {
            return violation("liveness", "nothing will ever happen again");
        };
        self.now = self.now.max(at);
        self.stats.steps += 1;
        match event {
            Event::Land { op, reply } => self.land(&op, reply),
            Event::Answered { to, call, answer } => {
                if let Some(event) = self.deferred(to, Event::Answered { to, call, answer }) {
                    let Event::Answered { answer, .. } = event else { return Ok(()) };
                    self.trace_answer(to, &answer);
                    return self.answered(to, call, answer);
                }
                Ok(())
            }
            Event::Wake { actor, life, wake } => {
                if let Some(Event::Wake { wake, .. }) =
                    self.deferred(actor, Event::Wake { actor, life, wake })
                {
                    return self.woken(actor, life, wake);
                }
                Ok(())
            }
            Event::Message { node, message } => {
                if let Some(Event::Message { message, .. }) =
                    self.deferred(Actor::Node(node), Event::Message { node, message })
                {
                    self.node_message(node, message);
                }
                Ok(())
            }
            Event::Resume { node } => {
                if self.nodes[node].stalled_until <= self.now {
                    for event in std::mem::take(&mut self.nodes[node].deferred) {
                        self.schedule(self.now, event);
                    }
                }
                Ok(())
            }
            Event::Result { client, attempt, result } => self.client_result(client, attempt, result),
        }
    }

    /// Keeps an event for a node that stands still until it goes on.
    fn deferred(&mut self, to: Actor, event: Event) -> Option<Event> {
        if let Actor::Node(node) = to
            && self.nodes[node].stalled_until > self.now
        {
            self.nodes[node].deferred.push(event);
            return None;
        }
        Some(event)
    }

    fn answered(&mut self, to: Actor, call: u64, answer: Answer) -> Check {
        match to {
            Actor::Node(node) => self.node_answered(node, call, answer),
            Actor::Reader(reader) => self.reader_answered(reader, call, answer),
            Actor::Compactor(compactor) => self.compactor_answered(compactor, call, answer),
            Actor::Sweeper => self.sweeper_answered(answer),
            Actor::Hopper => self.hopper_answered(answer),
            Actor::Client(_) => Ok(()),
        }
    }

    fn woken(&mut self, actor: Actor, life: u64, wake: Wake) -> Check {
        match actor {
            Actor::Node(node) => self.node_woken(node, life, wake),
            Actor::Client(client) => self.client_woken(client, wake),
            Actor::Reader(reader) => self.reader_woken(reader, wake),
            Actor::Compactor(compactor) => self.compactor_woken(compactor, wake),
            Actor::Sweeper => {
                self.sweeper_woken();
                Ok(())
            }
            Actor::Hopper => self.hopper_woken(),
        }
    }

    pub(crate) fn schedule(&mut self, at: Micros, event: Event) {
        self.tie += 1;
        self.queue.push(Scheduled { at, tie: self.tie, event });
    }

    pub(crate) fn wake(&mut self, actor: Actor, life: u64, after: Micros, wake: Wake) {
        self.schedule(self.now.saturating_add(after), Event::Wake { actor, life, wake });
    }

    /// A pause around the pace of this seed.
    pub(crate) fn pause(&mut self) -> Micros {
        let pace = self.config.pace;
        self.rng.between(pace / 4, pace * 7 / 4)
    }

    pub(crate) fn next_call(&mut self) -> u64 {
        self.calls += 1;
        self.calls
    }

    pub(crate) fn next_record(&mut self) -> u64 {
        self.records += 1;
        self.records
    }

    /// Sends a request to the store: it may land at once, late, twice or never, and be answered or not.
    pub(crate) fn send(&mut self, from: Actor, call: u64, op: Op) {
        self.stats.requests += 1;
        self.trace_send(from, &op);
        let reply = Some((from, call));
        let store_call_max = limits::STORE_CALL_MAX.as_micros() as Micros;
        let (out, timeout) =
            (self.rng.between(5 * MILLI, 50 * MILLI), self.rng.between(SECOND, store_call_max));
        if self.fails_now() {
            return self.answer_after(out, from, call, Answer::Failed);
        }
        let writes = !matches!(op, Op::Get(_) | Op::GetManifest | Op::ListWal);
        // Late EPOCHs do the most harm.
        let is_epoch = matches!(&op, Op::Create(_, bytes) if bytes.len() == limits::WAL_HEADER_LEN);
        if writes && self.rng.chance(self.config.late * if is_epoch { 2.5 } else { 1.0 }) {
            self.stats.fault(Fault::LateLanding);
            let late = self.rng.log_between(timeout, timeout + self.config.late_max);
            self.schedule(self.now + late, Event::Land { op, reply: None });
            let quick = self.rng.chance(0.5);
            return self.answer_after(if quick { out } else { timeout }, from, call, Answer::Failed);
        }
        if self.rng.chance(self.config.reset) {
            self.stats.fault(Fault::Reset);
            return self.answer_after(out, from, call, Answer::Failed);
        }
        if matches!(op, Op::Create(Key::Wal(_), _)) && self.rng.chance(self.config.conflict) {
            self.stats.fault(Fault::Conflict);
            if self.rng.chance(0.5) {
                let later = self.rng.log_between(MILLI, MINUTE);
                self.schedule(self.now + later, Event::Land { op, reply: None });
            }
            return self.answer_after(out, from, call, Answer::Put(PutAnswer::Conflict));
        }
        if writes && self.rng.chance(self.config.lost_reply) {
            self.stats.fault(Fault::LostReply);
            self.schedule(self.now + out, Event::Land { op, reply: None });
            return self.answer_after(timeout, from, call, Answer::Failed);
        }
        if writes && self.rng.chance(self.config.duplicate) {
            self.stats.fault(Fault::DuplicateLanding);
            let other = self.rng.log_between(MILLI, 10 * MINUTE);
            self.schedule(self.now + other, Event::Land { op: op.clone(), reply: None });
        }
        let slow = self.rng.chance(self.config.slow);
        if slow {
            self.stats.fault(Fault::SlowTail);
        }
        let out = if slow { self.rng.log_between(out, store_call_max) } else { out };
        self.schedule(self.now + out, Event::Land { op, reply });
    }

    /// Bursts of 503 and whole outages begin with some request and end by themselves.
    fn fails_now(&mut self) -> bool {
        if self.now < self.outage_until {
            self.stats.fault(Fault::Outage);
            return true;
        }
        if self.now < self.burst_until && self.rng.chance(0.8) {
            self.stats.fault(Fault::Unavailable);
            return true;
        }
        if self.rng.chance(self.config.burst) {
            self.burst_until = self.now + self.rng.log_between(SECOND, 10 * self.config.pace);
        }
        if self.rng.chance(self.config.outage) {
            self.outage_until = self.now + self.rng.log_between(SECOND, 30 * self.config.pace);
        }
        false
    }

    fn answer_after(&mut self, after: Micros, to: Actor, call: u64, answer: Answer) {
        self.schedule(self.now + after, Event::Answered { to, call, answer });
    }

    /// A request reaches the store.
    fn land(&mut self, op: &Op, reply: Option<(Actor, u64)>) -> Check {
        let (answer, changed) = self.store.apply(op);
        self.trace_land(op, &answer, changed);
        self.observe(op, &answer, changed);
        self.judge.now = self.now;
        self.judge.changed(&self.store, changed)?;
        let Some((to, call)) = reply else { return Ok(()) };
        let back = self.rng.between(5 * MILLI, 50 * MILLI);
        self.answer_after(back, to, call, answer);
        Ok(())
    }

    /// Counts what is rare, and deletes DATA below the floor where it hurts most: a collector may do so at any time.
    fn observe(&mut self, op: &Op, answer: &Answer, changed: Changed) {
        match (op, answer, changed) {
            (Op::Create(Key::Wal(seq), _), Answer::Put(PutAnswer::Exists), _) => {
                let below = *seq < self.judge.floor();
                let data = self.store.objects.get(&Key::Wal(*seq)).is_some_and(|object| !object.is_epoch());
                if below && data && self.rng.chance(self.config.gone) {
                    self.stats.fault(Fault::GoneAfterTaken);
                    let op = Op::Delete(Key::Wal(*seq));
                    self.schedule(self.now + MILLI, Event::Land { op, reply: None });
                }
            }
            (Op::Create(Key::Wal(seq), _), Answer::Put(PutAnswer::Created), _)
                if *seq < self.judge.floor() =>
            {
                self.stats.row(Row::CreatedAgain);
            }
            (Op::Swap(..), Answer::Swapped(false), _) => self.stats.fault(Fault::SwapConflict),
            (_, _, Changed::Deleted(Key::Wal(_))) => self.stats.fault(Fault::DeletedBelowFloor),
            _ => {}
        }
    }

    /// Adds a line to the trace, if there is one.
    pub(crate) fn note(&mut self, line: impl FnOnce(&Self) -> String) {
        if self.trace.is_none() {
            return;
        }
        let at = self.now as f64 / SECOND as f64;
        let line = format!("{:>7} {at:>14.6} {}", self.stats.steps, line(self));
        if let Some(trace) = &mut self.trace {
            trace.push(line);
        }
    }

    fn trace_send(&mut self, from: Actor, op: &Op) {
        self.note(|_| format!("{from:?} asks: {}", name(op)));
    }

    fn trace_land(&mut self, op: &Op, answer: &Answer, changed: Changed) {
        if changed != Changed::Nothing || !matches!(op, Op::Get(_) | Op::GetManifest) {
            self.note(|_| format!("store: {} -> {}", name(op), outcome(answer)));
        }
    }

    fn trace_answer(&mut self, to: Actor, answer: &Answer) {
        self.note(|_| format!("{to:?} is told: {}", outcome(answer)));
    }
}

fn name(op: &Op) -> String {
    match op {
        Op::GetManifest => "GET manifest".into(),
        Op::Get(key) => format!("GET {key:?}"),
        Op::Create(key, bytes) => format!("PUT {key:?}, {} bytes", bytes.len()),
        Op::CreateManifest(_) => "PUT first manifest".into(),
        Op::Swap(revision, _) => format!("swap manifest {revision:?}"),
        Op::Delete(key) => format!("DELETE {key:?}"),
        Op::ListWal => "LIST wal/".into(),
    }
}

fn outcome(answer: &Answer) -> String {
    match answer {
        Answer::Manifest(found) => format!("manifest {:?}", found.as_ref().map(|(_, revision)| revision)),
        Answer::Object(None) => "nothing there".into(),
        Answer::Object(Some(object)) => match &object.header {
            Some(header) => format!("{:?} {} of epoch {}", header.kind, header.seq, header.epoch),
            None => "a snapshot".into(),
        },
        Answer::Put(put) => format!("{put:?}"),
        Answer::Swapped(swapped) => format!("swapped: {swapped}"),
        Answer::Deleted => "deleted".into(),
        Answer::Listed(names) => format!("{} names", names.len()),
        Answer::Failed => "no answer".into(),
    }
}
