//! A node: what dies with its process, and what does not.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use forebay_log::coordinator::NodeInfo;
use forebay_log::coordinator::lease::{self, Leases};
use forebay_log::journal::JournalOptions;
use forebay_log::model::{Incarnation, NodeId, ShardId, WalSeq};
use forebay_log::shard::SharedJournal;
use forebay_log::testing::BareWriter;
use forebay_log::testing::bare::BareLeader;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::leading::Leading;
use super::topics::{Copy, Purpose};
use super::{Cluster, Event, Led};
use crate::check::{Check, violation};
use crate::config::Micros;
use crate::disk::{Disk, DiskConfig, SharedDisk};
use crate::node::settled_in;
use crate::rng::Rng;
use crate::store::RecordId;
use crate::world::CLUSTER;

/// What dies with the process.
#[derive(Debug)]
pub(crate) struct Process {
    pub(super) leases: Leases,
    pub(super) topics: Copy,
    pub(super) wake_at: Micros,
    pub(super) journal: SharedJournal,
    pub(super) writer: BareWriter,
    pub(super) journal_due: bool,
    pub(super) settled: Rc<BTreeSet<RecordId>>,
    pub(super) leading: BTreeMap<usize, Leading>,
    /// Leaders that have ended and still owe answers by the journal.
    pub(super) lingering: Vec<Leading>,
}

/// One node, running or not.
#[derive(Debug)]
pub(crate) struct Node {
    id: NodeId,
    pub(super) life: u64,
    pub(super) disk: SharedDisk,
    pub(super) process: Option<Process>,
    pub(crate) stalled_until: Micros,
    /// Which Redis it sees.
    pub(crate) redis: usize,
    /// Nothing that it sends to the store gets there.
    pub(crate) cut_off: bool,
    /// Until then it does not reach the register of topics.
    pub(crate) blind_until: Micros,
    /// What its clock shows after 1,000 µs.
    pub(crate) clock_rate: u64,
}

impl Node {
    pub(crate) fn new(number: usize, rng: &mut Rng) -> Self {
        let disk = SharedDisk::new(Disk::new(Rng::new(rng.next()), DiskConfig::default()));
        let id = NodeId::new(u128::from(rng.next()) << 32 | number as u128);
        let clock_rate = rng.between(980, 1_020);
        Self {
            id,
            life: 0,
            disk,
            process: None,
            stalled_until: 0,
            redis: 0,
            cut_off: false,
            blind_until: 0,
            clock_rate,
        }
    }

    pub(crate) fn is_down(&self) -> bool {
        self.process.is_none()
    }

    pub(crate) fn leads(&self, shard: usize) -> bool {
        self.process.as_ref().is_some_and(|process| process.leading.contains_key(&shard))
    }

    /// Tells whether it is not there, or not for long.
    pub(crate) fn is_leaving(&self) -> bool {
        self.process.as_ref().is_none_or(|process| process.leases.me().draining)
    }

    /// Tells whether it says that its journal has something to append again.
    pub(crate) fn owes(&self) -> bool {
        self.process.as_ref().is_some_and(|process| !process.leases.me().leftovers.is_empty())
    }

    pub(crate) fn epoch_of(&self, shard: usize) -> Option<u32> {
        let leading = self.process.as_ref()?.leading.get(&shard)?;
        Some(leading.leader.epoch().get())
    }

    pub(super) fn leading(&mut self, shard: usize) -> Option<&mut Leading> {
        self.process.as_mut()?.leading.get_mut(&shard)
    }

    /// Returns the leadership's state, if it is still the same one.
    pub(super) fn led(&mut self, led: Led) -> Option<&mut Leading> {
        let is_same = self.life == led.life && self.epoch_of(led.shard) == Some(led.epoch);
        if is_same { self.leading(led.shard) } else { None }
    }

    /// Returns the shards of which the journal has something to append again.
    pub(super) fn leftovers(&self, shards: usize) -> Vec<ShardId> {
        let Some(process) = &self.process else { return Vec::new() };
        let is_owed =
            |shard: &usize| !process.leading.contains_key(shard) && process.journal.has_leftovers(id(*shard));
        (0..shards).filter(is_owed).map(id).collect()
    }
}

pub(crate) fn id(shard: usize) -> ShardId {
    ShardId::new(shard as u16)
}

pub(super) fn incarnation(node: usize, life: u64) -> Incarnation {
    Incarnation::new((node as u128) << 64 | u128::from(life))
}

pub(super) fn number(shard: ShardId) -> usize {
    usize::from(shard.get())
}

impl Cluster {
    pub(crate) fn start(&mut self, number: usize) -> Check {
        if !self.nodes[number].is_down() {
            return Ok(());
        }
        let seed = self.rng.next();
        let shards = self.shards.len();
        let topics = Copy::new(self.register.content(), self.clock(number));
        let node = &mut self.nodes[number];
        node.life += 1;
        let options = JournalOptions { file_bytes: 4096, ..JournalOptions::new("", CLUSTER) };
        let settled = Rc::new(settled_in(&node.disk.get().contents()));
        let opened = BareWriter::open(&options, Box::new(node.disk.clone()), Arc::new(node.disk.clone()));
        let Ok((journal, writer, mut replay)) = opened else {
            return violation("alarm", "a healthy disk, and the journal cannot be opened");
        };
        let journal = SharedJournal::new(journal);
        if journal.adopt(&mut replay).is_err() {
            return violation("alarm", "a healthy disk, and the journal cannot be read");
        }
        let me = NodeInfo {
            id: node.id,
            incarnation: incarnation(number, node.life),
            address: number.to_string(),
            ready: true,
            draining: false,
            leftovers: Vec::new(),
        };
        node.process = Some(Process {
            leases: Leases::new(me, shards as u16, StdRng::seed_from_u64(seed)),
            topics,
            wake_at: Micros::MAX,
            journal,
            writer,
            journal_due: false,
            settled,
            leading: BTreeMap::new(),
            lingering: Vec::new(),
        });
        let life = node.life;
        let leftovers = node.leftovers(shards);
        self.note(|_| format!("node {number} starts; leftovers {leftovers:?}"));
        self.tell(number, lease::Event::Leftovers(leftovers));
        self.after(0, Event::Follow { node: number, life });
        Ok(())
    }

    pub(crate) fn node_event(&mut self, event: Event) -> Check {
        match event {
            Event::Wake { node, life } => {
                self.tell_if(node, life, lease::Event::Tick);
                Ok(())
            }
            Event::Told { node, life, event } => {
                self.tell_if(node, life, event);
                Ok(())
            }
            Event::TakeOver { node, life, shard } if self.nodes[node].life == life => {
                self.ask(node, Purpose::Lead(shard))
            }
            Event::HandOver { led, to } => self.hand_over(led, to),
            Event::GiveUp { led } => self.leader_told(led, BareLeader::give_up),
            Event::Lead { node, life, from } => {
                self.lead(node, life, from);
                Ok(())
            }
            Event::Doubt { led } => self.doubt(led),
            Event::PutAnswered { led, seq, answer } => {
                self.leader_told(led, |leader| leader.put_answered(WalSeq::new(seq), answer))
            }
            Event::Read { led, seq, what } => self.read(led, seq, what),
            Event::Flush { led } => {
                let at = self.at();
                if let Some(leading) = self.nodes[led.node].led(led) {
                    leading.flush_due = false;
                }
                self.leader_told(led, |leader| leader.freeze_due(at, false))
            }
            Event::Load { led } => self.load(led),
            event => self.process_event(event),
        }
    }

    /// What happens to a process, unless it is another by now.
    fn process_event(&mut self, event: Event) -> Check {
        match event {
            Event::AskAgain { node, life } if self.nodes[node].life == life => self.ask_again(node),
            Event::RegisterShown { node, life, call, shown } if self.nodes[node].life == life => {
                self.register_shown(node, call, shown)
            }
            Event::SwapAnswered { node, life, call, answer } if self.nodes[node].life == life => {
                self.swap_answered(node, call, answer)
            }
            Event::DeleteAnswered { node, life, id } if self.nodes[node].life == life => {
                self.delete_answered(node, id);
                Ok(())
            }
            Event::Hint { node, life, version } if self.nodes[node].life == life => {
                self.hinted(node, version);
                Ok(())
            }
            Event::Journal { node, life } if self.nodes[node].life == life => self.journal_turn(node),
            Event::Follow { node, life } if self.nodes[node].life == life => {
                self.follow(node);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
