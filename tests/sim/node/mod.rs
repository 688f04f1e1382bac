//! A gateway's process, as far as it leads: a [`Taker`], then a [`BareLeader`], then a taker again. It may crash or stand
//! still between any two events, with requests on their way.

mod leading;

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use forebay_log::error::Outcome;
use forebay_log::format::manifest::Manifest;
use forebay_log::format::snapshot::Snapshot;
use forebay_log::journal::frame::{self, FileHeader, Seal};
use forebay_log::journal::{Frame, FrameNumber, JournalEntry, JournalOptions, scan};
use forebay_log::model::{Durability, WalSeq};
use forebay_log::shard::SharedJournal;
use forebay_log::shard::append::AppendError;
use forebay_log::shard::state::ShardState;
use forebay_log::shard::taker::{self, Ask, PutAnswer, Taker, TakerError};
use forebay_log::testing::BareWriter;
use forebay_log::testing::bare::{BareLeader, BareOptions, Reply};
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::check::{Check, Knew, violation};
use crate::client::Message;
use crate::config::{Config, MILLI, Micros, PARTITIONS, SECOND};
use crate::disk::{Disk, SharedDisk};
use crate::rng::Rng;
use crate::stats::{Fault, Row};
use crate::store::{Answer, Key, Op, RecordId, decode_runs};
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
    Prove(WalSeq),
}

/// An append whose answer the leader owes.
#[derive(Debug)]
struct Waiting {
    reply: Reply,
    message: Message,
}

/// What a node keeps in its journal while its process lives.
#[derive(Debug)]
struct Process {
    journal: SharedJournal,
    writer: BareWriter,
    /// What the journal said to be settled when it was opened.
    settled: Rc<BTreeSet<RecordId>>,
}

/// One node.
#[derive(Debug, Default)]
pub(crate) struct Node {
    life: u64,
    /// Where its journal lies, if it has one.
    pub(crate) disk: Option<SharedDisk>,
    process: Option<Process>,
    /// Leaders that have ended and still owe answers by the journal.
    lingering: Vec<BareLeader>,
    journal_due: bool,
    pub(crate) stalled_until: Micros,
    /// What reached it while it stood still.
    pub(crate) deferred: Vec<Event>,
    pub(crate) role: Role,
    calls: BTreeMap<u64, (Purpose, Op)>,
    inbox: Vec<Message>,
    turn_due: bool,
    flush_due: bool,
    /// What the leader reads back from its journal.
    load: Vec<JournalEntry>,
    waiting: Vec<Waiting>,
    /// For each partition the highest offset acknowledged in this leadership.
    acked: [Option<u64>; PARTITIONS],
    /// For each partition what readers of this leadership saw last.
    watermarks: [u64; PARTITIONS],
}

impl Node {
    pub(crate) fn new(number: usize, config: &Config, rng: &mut Rng) -> Self {
        let disk = config
            .journals
            .then(|| SharedDisk::new(Disk::new(Rng::new(rng.next() + number as u64), config.disk.clone())));
        // One with a disk has to start first.
        let role = if disk.is_some() { Role::Down } else { Role::Idle };
        Self { disk, role, ..Self::default() }
    }

    fn busy(&self) -> bool {
        matches!(self.role, Role::Taking(_) | Role::Leading(_))
    }
}

/// Returns the records of which a journal says that nothing is left to do for them.
pub(crate) fn settled_in(files: &[(u64, Vec<u8>)]) -> BTreeSet<RecordId> {
    let seal = Seal::new(CLUSTER);
    let heads: Vec<_> = files.iter().map(|(_, bytes)| FileHeader::decode(bytes).ok()).collect();
    let mut records = Vec::new();
    let mut settled_below = FrameNumber::ZERO;
    for (index, (_, bytes)) in files.iter().enumerate() {
        let Some(head) = heads[index] else { break };
        let cut = heads[index + 1..].iter().flatten().map(|head| head.first).next();
        let found = scan::scan(bytes, &seal, Some(head.first)).found;
        let numbered = (head.first.get()..).map(FrameNumber::new).zip(found);
        for (_, found) in
            numbered.take_while(|(n, found)| *n == found.number && cut.is_none_or(|cut| *n < cut))
        {
            let image = Bytes::copy_from_slice(&bytes[found.position..found.position + found.len]);
            match frame::decode(&image) {
                Ok(Some(Frame::Append { level: Durability::Local, batches, .. })) => {
                    let runs = batches.into_iter().flat_map(|batch| decode_runs(0, batch.bytes));
                    records.extend(runs.flat_map(|run| run.records).map(|record| (found.number, record)));
                }
                Ok(Some(Frame::Settled { below, .. })) => settled_below = settled_below.max(below),
                _ => {}
            }
        }
    }
    records.into_iter().filter(|(number, _)| *number < settled_below).map(|(_, record)| record).collect()
}

impl World {
    pub(crate) fn node_woken(&mut self, node: usize, life: u64, wake: Wake) -> Check {
        if matches!(wake, Wake::Tick) {
            return self.node_tick(node);
        }
        if life != self.nodes[node].life {
            return Ok(());
        }
        match wake {
            Wake::Turn => self.turn(node),
            Wake::Flush => {
                self.nodes[node].flush_due = false;
                let at = Duration::from_micros(self.now);
                self.leader_told(node, false, None, |leader| leader.freeze_due(at, false))
            }
            Wake::Send(call) => {
                if let Some((_, op)) = self.nodes[node].calls.get(&call) {
                    let op = op.clone();
                    self.node_sends(node, call, op);
                }
                Ok(())
            }
            Wake::Journal => self.journal_turn(node),
            Wake::Load => self.load(node),
            Wake::Tick | Wake::Timeout(_) => Ok(()),
        }
    }

    fn node_tick(&mut self, node: usize) -> Check {
        let after = self.pause();
        self.wake(Actor::Node(node), 0, after, Wake::Tick);
        if self.rng.chance(self.config.crash) {
            self.crash(node);
            return Ok(());
        }
        if matches!(self.nodes[node].role, Role::Down) && !self.start(node) {
            return Ok(());
        }
        // Files that nobody needs any more are removed without being asked.
        self.journal_turn(node)?;
        if self.rng.chance(self.config.stall) {
            self.stall(node);
        }
        if !matches!(self.nodes[node].role, Role::Idle) {
            return Ok(());
        }
        let now = self.now;
        let led = self.nodes.iter().any(|other| other.busy() && other.stalled_until <= now);
        let process = self.nodes[node].process.as_ref();
        let owes = process.is_some_and(|process| process.journal.has_leftovers(SHARD));
        if !led || self.rng.chance(self.config.takeover) || owes && self.calm_since.is_some() {
            self.take_over(node);
        }
        Ok(())
    }

    /// Starts a node's process; false if it cannot read its disk.
    fn start(&mut self, number: usize) -> bool {
        let node = &mut self.nodes[number];
        if let Some(disk) = &node.disk {
            let bytes_max = self.config.journal_bytes;
            let options = JournalOptions { file_bytes: 4096, bytes_max, ..JournalOptions::new("", CLUSTER) };
            let settled = Rc::new(settled_in(&disk.get().contents()));
            let opened = BareWriter::open(&options, Box::new(disk.clone()), Arc::new(disk.clone()));
            let Ok((journal, writer, mut replay)) = opened else {
                disk.get().fail_power();
                return false;
            };
            let journal = SharedJournal::new(journal);
            if journal.adopt(&mut replay).is_err() {
                disk.get().fail_power();
                return false;
            }
            node.process = Some(Process { journal, writer, settled });
            self.note(|_| {
                format!("Node({number}) starts; torn {}, damage {:?}", replay.torn_bytes, replay.damage)
            });
        }
        self.nodes[number].role = Role::Idle;
        true
    }

    /// Sees to it that the journal's thread takes a turn, if something waits for it.
    fn schedule_journal(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        let waits = node.process.as_ref().is_some_and(|process| {
            let progress = *process.journal.journal().synced().borrow();
            !progress.dead && progress.below < process.journal.journal().next_frame()
        });
        if waits && !std::mem::replace(&mut node.journal_due, true) {
            let life = node.life;
            let after = self.rng.log_between(MILLI / 10, self.config.sync_max);
            self.wake(Actor::Node(number), life, after, Wake::Journal);
        }
    }

    fn load_soon(&mut self, number: usize) {
        let life = self.nodes[number].life;
        let after = self.rng.log_between(MILLI / 10, self.config.sync_max);
        self.wake(Actor::Node(number), life, after, Wake::Load);
    }

    /// Reads back what the leader asked for; one that has ended since did not.
    fn load(&mut self, number: usize) -> Check {
        let node = &mut self.nodes[number];
        let Role::Leading(leader) = &mut node.role else { return Ok(()) };
        if !leader.load(Duration::from_micros(self.now), &node.load) {
            self.load_soon(number);
            return Ok(());
        }
        self.act(number, false)
    }

    /// The journal's thread takes a turn, and the leaders hear of it.
    fn journal_turn(&mut self, number: usize) -> Check {
        let node = &mut self.nodes[number];
        node.journal_due = false;
        let (Some(process), Some(disk)) = (&mut node.process, &node.disk) else { return Ok(()) };
        process.writer.turn();
        if disk.get().crashed {
            // The process is gone before it can tell anybody.
            self.crash(number);
            return Ok(());
        }
        let progress = *process.journal.journal().synced().borrow();
        let at = Duration::from_micros(self.now);
        node.lingering.iter_mut().for_each(|leader| leader.journal_moved(at, progress));
        node.lingering.retain(BareLeader::is_lingering);
        self.leader_told(number, false, None, |leader| leader.journal_moved(at, progress))?;
        self.poll_replies(number)
    }

    fn crash(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        if matches!(node.role, Role::Down) {
            return;
        }
        node.life += 1;
        node.role = Role::Down;
        node.calls.clear();
        node.process = None;
        node.lingering.clear();
        (node.turn_due, node.flush_due, node.journal_due) = (false, false, false);
        if let Some(disk) = &node.disk {
            let power = self.rng.chance(self.config.power);
            if power { disk.get().fail_power() } else { disk.get().kill() }
        }
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
                self.leader_told(node, conflict, None, |leader| leader.put_answered(seq, put))
            }
            Purpose::ReadBack(seq, conflict) => {
                let Answer::Object(found) = answer else {
                    self.node_asks(node, purpose, op, SECOND);
                    return Ok(());
                };
                let header = found.and_then(|object| object.header.clone());
                let found = Some(header.is_some());
                self.leader_told(node, conflict, found, |leader| leader.read_back(seq, header.as_ref()))
            }
            Purpose::Prove(seq) => {
                let Answer::Object(found) = answer else {
                    self.node_asks(node, purpose, op, SECOND);
                    return Ok(());
                };
                let header = found.and_then(|object| object.header.clone());
                self.stats.proofs += 1;
                self.leader_told(node, false, None, |leader| leader.proof_read(seq, header.as_ref()))
            }
            Purpose::ReadFloor(seq) => {
                let Answer::Manifest(found) = answer else {
                    self.node_asks(node, purpose, op, SECOND);
                    return Ok(());
                };
                let manifest = found.map(|(bytes, _)| Manifest::decode(&bytes).expect("a manifest"));
                let floor = manifest.map_or(WalSeq::ZERO, |manifest| manifest.floor);
                self.stats.row(if floor > seq { Row::TakenByVoidEpoch } else { Row::TakenByEpoch });
                self.leader_told(node, false, None, |leader| leader.fence(seq, floor))
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
                let state = |bytes: &[u8]| {
                    ShardState::from_snapshot(Some(&Snapshot::decode(bytes).expect("a snapshot")))
                };
                taker::Answer::Snapshot(found.map(|object| Box::new(state(&object.bytes))))
            }
            (_, Answer::Object(found)) => {
                taker::Answer::Object(found.and_then(|object| object.path_object()).map(Box::new))
            }
            _ => taker::Answer::ManifestCreated,
        };
        let Role::Taking(taker) = &mut self.nodes[node].role else { return Ok(()) };
        match taker.next(answer) {
            Ok(Ask::Lead(leadership)) => {
                let (epoch, nonce) = (leadership.epoch, leadership.nonce);
                let epochs = leadership.epochs.iter().map(|epoch| epoch.nonce.get()).collect();
                self.note(|_| format!("Node({node}) leads epoch {epoch} from {}", leadership.first_seq));
                self.stats.leaders += 1;
                let process = self.nodes[node].process.as_ref();
                let journal = process.map(|process| process.journal.clone());
                let settled = process.map(|process| Rc::clone(&process.settled)).unwrap_or_default();
                let leftovers = journal.as_ref().is_some_and(|journal| journal.has_leftovers(SHARD));
                self.stats.with_leftovers += u64::from(leftovers);
                let options = BareOptions {
                    exclusive: false,
                    journal,
                    flush_linger: Duration::from_micros(self.config.linger),
                    object_bytes: self.config.object_bytes,
                    spill_bytes: self.config.spill_bytes,
                };
                let mut leader = BareLeader::new(*leadership, options);
                let partitions: Vec<_> = (0..PARTITIONS).map(partition).collect();
                leader.recovered(Duration::from_micros(self.now), false, &partitions);
                self.nodes[node].role = Role::Leading(Box::new(leader));
                self.nodes[node].acked = Default::default();
                self.nodes[node].watermarks = Default::default();
                self.judge.leads(epoch.get(), nonce.get(), Knew { epochs, settled })?;
                self.act(node, false)
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
}
