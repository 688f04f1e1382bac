//! A gateway's process, as far as it leads: a [`Taker`], then a [`BareLeader`], then a taker again. It may crash or stand
//! still between any two events, with requests on their way.

use std::collections::BTreeMap;

use forebay_log::error::Outcome;
use forebay_log::format::manifest::Manifest;
use forebay_log::format::snapshot::Snapshot;
use forebay_log::model::WalSeq;
use forebay_log::shard::append::{AppendError, Appended};
use forebay_log::shard::taker::{self, Ask, PutAnswer, Taker, TakerError};
use forebay_log::shard::writer::Ended;
use forebay_log::testing::bare::{BareLeader, Reply, Todo};
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::check::{Check, violation};
use crate::client::Message;
use crate::config::{MILLI, Micros, PARTITIONS, SECOND};
use crate::stats::{Fault, Row};
use crate::store::{Answer, Key, Op};
use crate::world::{Actor, CLUSTER, Event, SHARD, Wake, World, partition, timestamp};

/// What a node is.
#[derive(Debug, Default)]
pub(crate) enum Role {
    #[default]
    Idle,
    Down,
    Taking(Box<Taker>),
    Leading(Box<BareLeader>),
}

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Taking,
    Put(WalSeq),
    /// After a 409, or else after a 412.
    ReadBack(WalSeq, bool),
    ReadFloor(WalSeq),
}

/// An append whose answer the leader owes.
#[derive(Debug)]
struct Waiting {
    reply: Reply,
    message: Message,
}

/// One node.
#[derive(Debug, Default)]
pub(crate) struct Node {
    life: u64,
    pub(crate) stalled_until: Micros,
    /// What reached it while it stood still.
    pub(crate) deferred: Vec<Event>,
    pub(crate) role: Role,
    calls: BTreeMap<u64, (Purpose, Op)>,
    inbox: Vec<Message>,
    turn_due: bool,
    flush_due: bool,
    waiting: Vec<Waiting>,
    /// For each partition the highest offset acknowledged in this leadership.
    acked: [Option<u64>; PARTITIONS],
    /// For each partition what readers of this leadership saw last.
    watermarks: [u64; PARTITIONS],
}

impl Node {
    fn busy(&self) -> bool {
        matches!(self.role, Role::Taking(_) | Role::Leading(_))
    }
}

/// Returns the row of the outcome table by which a leader went after a 409 or 412.
fn row_of(conflict: bool, found: bool, todo: &Todo) -> Option<Row> {
    match todo {
        Todo::Put(..) if conflict => Some(Row::ConflictThenAbsent),
        Todo::Put(..) => Some(Row::TakenThenGone),
        Todo::Ended(Ended::Impossible { .. }) => Some(Row::TakenByOtherData),
        Todo::Nothing if found && conflict => Some(Row::ConflictThenTaken),
        Todo::Nothing if found => Some(Row::TakenByMine),
        // An EPOCH: which row it is the floor decides.
        _ => None,
    }
}

impl World {
    pub(crate) fn node_woken(&mut self, node: usize, life: u64, wake: Wake) -> Check {
        if matches!(wake, Wake::Tick) {
            self.node_tick(node);
            return Ok(());
        }
        if life != self.nodes[node].life {
            return Ok(());
        }
        match wake {
            Wake::Turn => self.turn(node),
            Wake::Flush => {
                self.nodes[node].flush_due = false;
                self.freeze(node);
                Ok(())
            }
            Wake::Send(call) => {
                if let Some((_, op)) = self.nodes[node].calls.get(&call) {
                    let op = op.clone();
                    self.node_sends(node, call, op);
                }
                Ok(())
            }
            Wake::Tick | Wake::Timeout(_) => Ok(()),
        }
    }

    fn node_tick(&mut self, node: usize) {
        let after = self.pause();
        self.wake(Actor::Node(node), 0, after, Wake::Tick);
        if self.rng.chance(self.config.crash) {
            return self.crash(node);
        }
        if matches!(self.nodes[node].role, Role::Down) {
            self.nodes[node].role = Role::Idle;
        }
        if self.rng.chance(self.config.stall) {
            self.stall(node);
        }
        if !matches!(self.nodes[node].role, Role::Idle) {
            return;
        }
        let now = self.now;
        let led = self.nodes.iter().any(|other| other.busy() && other.stalled_until <= now);
        if !led || self.rng.chance(self.config.takeover) {
            self.take_over(node);
        }
    }

    fn crash(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        if matches!(node.role, Role::Down) {
            return;
        }
        node.life += 1;
        node.role = Role::Down;
        node.calls.clear();
        (node.turn_due, node.flush_due) = (false, false);
        let lost: Vec<Message> =
            node.inbox.drain(..).chain(node.waiting.drain(..).map(|w| w.message)).collect();
        self.stats.fault(Fault::Crash);
        self.note(|_| format!("Node({number}) crashes"));
        for message in lost {
            // The connection breaks: nothing is known.
            self.answer_client(&message, Err(AppendError::NoLeader { outcome: Outcome::Unknown }));
        }
    }

    fn stall(&mut self, node: usize) {
        let stall = self.rng.log_between(self.config.pace, self.config.stall_max);
        self.nodes[node].stalled_until = self.now + stall;
        self.schedule(self.now + stall, Event::Resume { node });
        self.stats.fault(Fault::Stall);
        self.note(|_| format!("Node({node}) stands still for {} s", stall / SECOND));
    }

    fn node_asks(&mut self, node: usize, purpose: Purpose, op: Op, after: Micros) {
        let call = self.next_call();
        self.nodes[node].calls.insert(call, (purpose, op.clone()));
        if after == 0 {
            return self.node_sends(node, call, op);
        }
        let life = self.nodes[node].life;
        self.wake(Actor::Node(node), life, after, Wake::Send(call));
    }

    /// Sends a request; the worst time to stand still or to crash is right behind it.
    fn node_sends(&mut self, node: usize, call: u64, op: Op) {
        let put = matches!(op, Op::Create(..));
        self.send(Actor::Node(node), call, op);
        if put && self.rng.chance(self.config.stall * 0.5) {
            self.stall(node);
        } else if put && self.rng.chance(self.config.crash * 0.2) {
            self.crash(node);
        }
    }

    fn take_over(&mut self, node: usize) {
        if self.nodes.iter().any(Node::busy) {
            self.stats.fault(Fault::RacingTakers);
        }
        self.note(|_| format!("Node({node}) tries to take over"));
        let nonces = StdRng::seed_from_u64(self.rng.next());
        let (taker, ask) = Taker::new(CLUSTER, SHARD, timestamp(self.now), nonces);
        self.nodes[node].role = Role::Taking(Box::new(taker));
        self.take(node, ask);
    }

    /// Does what a taker asks.
    fn take(&mut self, node: usize, ask: Ask) {
        let pause = self.rng.log_between(50 * MILLI, 5 * SECOND);
        let (op, after) = match ask {
            Ask::Manifest => (Op::GetManifest, 0),
            Ask::CreateManifest(manifest) => {
                let manifest = Manifest { gap: self.config.gap, ..manifest };
                (Op::CreateManifest(manifest.encode().expect("a new manifest is small")), 0)
            }
            Ask::Snapshot(hash) => (Op::Get(Key::Snapshot(hash)), 0),
            Ask::Object(seq) => (Op::Get(Key::Wal(seq.get())), 0),
            Ask::PutEpoch { seq, body, again } => {
                (Op::Create(Key::Wal(seq.get()), body), if again { pause } else { 0 })
            }
            Ask::Lead(_) => return,
        };
        self.node_asks(node, Purpose::Taking, op, after);
    }

    pub(crate) fn node_answered(&mut self, node: usize, call: u64, answer: Answer) -> Check {
        let Some((purpose, op)) = self.nodes[node].calls.remove(&call) else { return Ok(()) };
        match purpose {
            Purpose::Taking => self.taker_answered(node, op, answer),
            Purpose::Put(seq) => {
                let put = match answer {
                    Answer::Put(put) => put,
                    _ => PutAnswer::Unknown,
                };
                match put {
                    PutAnswer::Created => self.stats.row(Row::Created),
                    PutAnswer::Unknown => self.stats.row(Row::NoAnswer),
                    PutAnswer::Exists | PutAnswer::Conflict => {}
                }
                let conflict = put == PutAnswer::Conflict;
                self.leader_told(node, conflict, |leader| leader.put_answered(seq, put))
            }
            Purpose::ReadBack(seq, conflict) => {
                let Answer::Object(found) = answer else {
                    self.node_asks(node, purpose, op, SECOND);
                    return Ok(());
                };
                let header = found.and_then(|object| object.header.clone());
                let mut row = None;
                let told = self.leader_told(node, false, |leader| {
                    let todo = leader.read_back(seq, header.as_ref());
                    row = row_of(conflict, header.is_some(), &todo);
                    todo
                });
                row.into_iter().for_each(|row| self.stats.row(row));
                told
            }
            Purpose::ReadFloor(seq) => {
                let Answer::Manifest(found) = answer else {
                    self.node_asks(node, purpose, op, SECOND);
                    return Ok(());
                };
                let manifest = found.map(|(bytes, _)| Manifest::decode(&bytes).expect("a manifest"));
                let floor = manifest.map_or(WalSeq::ZERO, |manifest| manifest.floor);
                self.stats.row(if floor > seq { Row::TakenByVoidEpoch } else { Row::TakenByEpoch });
                self.leader_told(node, false, |leader| leader.fence(seq, floor))
            }
        }
    }

    fn taker_answered(&mut self, node: usize, op: Op, answer: Answer) -> Check {
        let answer = match (&op, answer) {
            (Op::Create(..), Answer::Put(put)) => taker::Answer::Put(put),
            (Op::Create(..), _) => taker::Answer::Put(PutAnswer::Unknown),
            (_, Answer::Failed) => {
                if self.rng.chance(0.5) {
                    self.nodes[node].role = Role::Idle;
                } else {
                    self.node_asks(node, Purpose::Taking, op, SECOND);
                }
                return Ok(());
            }
            (_, Answer::Manifest(found)) => {
                let manifest = found.map(|(bytes, _)| Manifest::decode(&bytes).expect("a manifest"));
                taker::Answer::Manifest(manifest)
            }
            (Op::Get(Key::Snapshot(_)), Answer::Object(found)) => {
                let decode = |bytes: &[u8]| Snapshot::decode(bytes).expect("a snapshot");
                taker::Answer::Snapshot(found.map(|object| decode(&object.bytes)))
            }
            (_, Answer::Object(found)) => {
                taker::Answer::Object(found.and_then(|object| object.path_object()).map(Box::new))
            }
            _ => taker::Answer::ManifestCreated,
        };
        let Role::Taking(taker) = &mut self.nodes[node].role else { return Ok(()) };
        match taker.next(answer) {
            Ok(Ask::Lead(leadership)) => {
                let epoch = leadership.epoch;
                self.note(|_| format!("Node({node}) leads epoch {epoch} from {}", leadership.first_seq));
                self.stats.leaders += 1;
                let leader = BareLeader::new(*leadership, None);
                self.nodes[node].role = Role::Leading(Box::new(leader));
                self.nodes[node].acked = Default::default();
                self.nodes[node].watermarks = Default::default();
                self.judge.leads(epoch.get())
            }
            Ok(ask) => {
                self.take(node, ask);
                Ok(())
            }
            Err(TakerError::Contended { .. }) => {
                self.nodes[node].role = Role::Idle;
                Ok(())
            }
            Err(error) => violation("alarm", format!("Node({node}) cannot take over: {error:?}")),
        }
    }

    pub(crate) fn node_message(&mut self, number: usize, message: Message) {
        let node = &mut self.nodes[number];
        if !matches!(node.role, Role::Leading(_)) {
            return self.answer_client(&message, Err(AppendError::NoLeader { outcome: Outcome::NotApplied }));
        }
        node.inbox.push(message);
        if !std::mem::replace(&mut node.turn_due, true) {
            let life = node.life;
            let after = self.rng.below(5 * MILLI);
            self.wake(Actor::Node(number), life, after, Wake::Turn);
        }
    }

    fn turn(&mut self, number: usize) -> Check {
        let now = timestamp(self.now);
        let node = &mut self.nodes[number];
        node.turn_due = false;
        let inbox = std::mem::take(&mut node.inbox);
        let Role::Leading(leader) = &mut node.role else {
            for message in inbox {
                self.answer_client(&message, Err(AppendError::NoLeader { outcome: Outcome::NotApplied }));
            }
            return Ok(());
        };
        let appends = inbox.iter().map(Message::to_append).collect();
        let replies = leader.append(now, appends);
        let waiting = replies.into_iter().zip(inbox).map(|(reply, message)| Waiting { reply, message });
        node.waiting.extend(waiting);
        self.schedule_flush(number);
        self.poll_replies(number)
    }

    fn schedule_flush(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        if !std::mem::replace(&mut node.flush_due, true) {
            let life = node.life;
            let linger = self.rng.between(0, self.config.linger);
            self.wake(Actor::Node(number), life, linger, Wake::Flush);
        }
    }

    fn freeze(&mut self, node: usize) {
        loop {
            let Role::Leading(leader) = &mut self.nodes[node].role else { return };
            let Some((seq, bytes)) = leader.freeze(self.config.object_bytes) else { return };
            self.node_asks(node, Purpose::Put(seq), Op::Create(Key::Wal(seq.get()), bytes), 0);
        }
    }

    /// Tells a leader something and does what it says.
    fn leader_told(
        &mut self,
        number: usize,
        conflict: bool,
        tell: impl FnOnce(&mut BareLeader) -> Todo,
    ) -> Check {
        let Role::Leading(leader) = &mut self.nodes[number].role else { return Ok(()) };
        match tell(leader) {
            Todo::Nothing => self.schedule_flush(number),
            Todo::Put(seq, bytes) => {
                let pause = self.rng.log_between(50 * MILLI, 5 * SECOND);
                self.node_asks(number, Purpose::Put(seq), Op::Create(Key::Wal(seq.get()), bytes), pause);
            }
            Todo::ReadBack(seq) => {
                let purpose = Purpose::ReadBack(seq, conflict);
                self.node_asks(number, purpose, Op::Get(Key::Wal(seq.get())), 0);
            }
            Todo::ReadFloor(seq) => {
                self.node_asks(number, Purpose::ReadFloor(seq), Op::GetManifest, 0);
            }
            Todo::Ended(ended) => {
                self.note(|_| format!("Node({number}) leads no more: {ended:?}"));
                self.poll_replies(number)?;
                let node = &mut self.nodes[number];
                node.role = Role::Idle;
                node.waiting.clear();
                // What is on its way may land, but nothing more is sent with this nonce (W4).
                node.calls.clear();
                if let Ended::Impossible { seq } = ended {
                    return violation("alarm", format!("Node({number}) finds other DATA at {seq}"));
                }
            }
        }
        self.poll_replies(number)
    }

    /// Passes on what the leader has answered.
    fn poll_replies(&mut self, number: usize) -> Check {
        let mut waiting = std::mem::take(&mut self.nodes[number].waiting);
        let mut answered = Vec::new();
        waiting.retain_mut(|waiting| match waiting.reply.try_recv() {
            Ok(result) => {
                answered.push((waiting.message.clone(), result));
                false
            }
            Err(_) => true,
        });
        self.nodes[number].waiting = waiting;
        for (message, result) in answered {
            if let Ok(appended) = &result {
                self.acknowledged(number, &message, appended)?;
            }
            self.answer_client(&message, result);
        }
        self.check_watermarks(number)
    }

    /// What a leader shows is in the log, and never less than before.
    fn check_watermarks(&mut self, number: usize) -> Check {
        let node = &mut self.nodes[number];
        let Role::Leading(leader) = &node.role else { return Ok(()) };
        for (part, seen) in node.watermarks.iter_mut().enumerate() {
            let watermark = leader.high_watermark(partition(part)).get();
            let end = self.judge.log[part].len() as u64;
            if watermark < *seen || watermark > end {
                let detail =
                    format!("Node({number}) shows {part} up to {watermark}, before {seen}, of {end}");
                return violation("I2", detail);
            }
            *seen = watermark;
        }
        Ok(())
    }

    fn acknowledged(&mut self, number: usize, message: &Message, appended: &Appended) -> Check {
        self.stats.acked += 1;
        self.note(|_| format!("Node({number}) acknowledges {:?}: {appended:?}", message.records));
        for place in appended.placements.iter().filter(|_| !appended.replayed) {
            let part = usize::from(place.partition.partition.get());
            let base = place.base_offset.get();
            let before = self.nodes[number].acked[part].replace(base);
            if before.is_some_and(|before| before >= base) {
                return violation("I5", format!("{base} is acknowledged after {before:?}"));
            }
        }
        self.judge.acknowledged(appended, &message.records, message.invoked, self.now)
    }

    fn answer_client(&mut self, message: &Message, result: Result<Appended, AppendError>) {
        if self.rng.chance(self.config.late_message) {
            self.stats.fault(Fault::LateMessage);
            return;
        }
        let after = self.rng.between(MILLI, 20 * MILLI);
        let (client, attempt) = (message.client, message.attempt);
        self.schedule(self.now + after, Event::Result { client, attempt, result });
    }
}
