//! A node: its lease machine, what carries out the machine's actions, its leaders, and their one journal.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use forebay_log::coordinator::lease::{self, Action, Leases, Probe, Standing};
use forebay_log::coordinator::{Lease, NodeInfo};
use forebay_log::format::manifest::Manifest;
use forebay_log::journal::{JournalEntry, JournalOptions};
use forebay_log::limits::{PROBE_MAX, REDIS_CALL_MAX};
use forebay_log::model::{Incarnation, LeaderEpoch, NodeId, ShardId, WalSeq};
use forebay_log::shard::SharedJournal;
use forebay_log::shard::writer::Ended;
use forebay_log::testing::BareWriter;
use forebay_log::testing::bare::{Action as LeaderAction, BareLeader, BareOptions, Reply};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::oneshot::error::TryRecvError;

use super::client::Request;
use super::redis::{Answer, Call};
use super::{Cluster, Event, Led, Read};
use crate::check::{Check, Knew, violation};
use crate::config::{MILLI, Micros, PARTITIONS};
use crate::disk::{Disk, DiskConfig, SharedDisk};
use crate::exclusive::{GAP, take_over};
use crate::node::settled_in;
use crate::rng::Rng;
use crate::store::{Key, RecordId};
use crate::world::{CLUSTER, partition, timestamp};

/// How often a request is passed on before it is refused.
const HOPS_MAX: u32 = 3;
/// How often a node looks whether the leaders it follows are there, as a broken stream would tell it.
const FOLLOW_EVERY: Micros = 200 * MILLI;
const FLUSH_LINGER: Micros = 50 * MILLI;
/// How long a successor has to answer.
const TELL_MAX: Micros = 2_000 * MILLI;
/// How long a leader that gives its shard away stores what it took.
const FLUSH_MAX: Micros = 2_000 * MILLI;

/// A shard that the node leads.
#[derive(Debug)]
struct Leading {
    leader: BareLeader,
    waiting: Vec<(Reply, Request)>,
    flush_due: bool,
    /// What it reads back from the journal.
    load: Vec<JournalEntry>,
    /// It takes nothing new, and stops once everything is stored.
    resigns: Option<Resigns>,
}

/// Why a leader stops by itself.
#[derive(Debug)]
enum Resigns {
    /// It gives the shard away, perhaps to nobody.
    For(Option<NodeInfo>),
    /// Somebody claims to lead a later epoch.
    InDoubt,
}

/// What dies with the process.
#[derive(Debug)]
struct Process {
    leases: Leases,
    wake_at: Micros,
    journal: SharedJournal,
    writer: BareWriter,
    journal_due: bool,
    settled: Rc<BTreeSet<RecordId>>,
    leading: BTreeMap<usize, Leading>,
    /// Leaders that have ended and still owe answers by the journal.
    lingering: Vec<Leading>,
}

/// One node, running or not.
#[derive(Debug)]
pub(crate) struct Node {
    id: NodeId,
    life: u64,
    disk: SharedDisk,
    process: Option<Process>,
    pub(crate) stalled_until: Micros,
    /// Which Redis it sees.
    pub(crate) redis: usize,
    /// Nothing that it sends to the store gets there.
    pub(crate) cut_off: bool,
}

impl Node {
    pub(crate) fn new(number: usize, rng: &mut Rng) -> Self {
        let disk = SharedDisk::new(Disk::new(Rng::new(rng.next()), DiskConfig::default()));
        let id = NodeId::new(u128::from(rng.next()) << 32 | number as u128);
        Self { id, life: 0, disk, process: None, stalled_until: 0, redis: 0, cut_off: false }
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

    fn leading(&mut self, shard: usize) -> Option<&mut Leading> {
        self.process.as_mut()?.leading.get_mut(&shard)
    }

    /// Returns the leadership's state, if it is still the same one.
    fn led(&mut self, led: Led) -> Option<&mut Leading> {
        let is_same = self.life == led.life && self.epoch_of(led.shard) == Some(led.epoch);
        if is_same { self.leading(led.shard) } else { None }
    }

    /// Returns the shards of which the journal has something to append again.
    fn leftovers(&self, shards: usize) -> Vec<ShardId> {
        let Some(process) = &self.process else { return Vec::new() };
        let is_owed =
            |shard: &usize| !process.leading.contains_key(shard) && process.journal.has_leftovers(id(*shard));
        (0..shards).filter(is_owed).map(id).collect()
    }
}

pub(crate) fn id(shard: usize) -> ShardId {
    ShardId::new(shard as u16)
}

fn incarnation(node: usize, life: u64) -> Incarnation {
    Incarnation::new((node as u128) << 64 | u128::from(life))
}

fn number(shard: ShardId) -> usize {
    usize::from(shard.get())
}

impl Cluster {
    pub(crate) fn start(&mut self, number: usize) -> Check {
        if !self.nodes[number].is_down() {
            return Ok(());
        }
        let seed = self.rng.next();
        let shards = self.shards.len();
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

    pub(crate) fn crash(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        if node.process.take().is_none() {
            return;
        }
        node.life += 1;
        node.stalled_until = 0;
        let power = self.rng.chance(0.5);
        if power {
            self.nodes[number].disk.get().fail_power()
        } else {
            self.nodes[number].disk.get().kill()
        }
        self.stats.crashes += 1;
        self.note(|_| format!("node {number} crashes"));
    }

    pub(crate) fn drain(&mut self, number: usize) -> Check {
        if !self.nodes[number].is_down() {
            self.stats.drains += 1;
            self.note(|_| format!("node {number} is told to stop"));
            self.tell(number, lease::Event::Drain);
        }
        Ok(())
    }

    /// Returns the node that should lead a shard, by what itself says.
    pub(crate) fn best(&self, shard: usize) -> Option<usize> {
        let says = |node: &Node| {
            let process = node.process.as_ref()?;
            process.leases.best(id(shard))
        };
        let says: BTreeSet<Option<Incarnation>> = self.nodes.iter().map(says).collect();
        let [Some(best)] = says.into_iter().collect::<Vec<_>>()[..] else { return None };
        (0..self.nodes.len()).find(|node| incarnation(*node, self.nodes[*node].life) == best)
    }

    /// Tells the lease machine something, and begins what it wants done.
    pub(crate) fn tell(&mut self, number: usize, event: lease::Event) {
        let now = self.at();
        let Some(process) = &mut self.nodes[number].process else { return };
        let actions = process.leases.handle(event, now);
        for action in actions {
            self.begin(number, action);
        }
        let node = &mut self.nodes[number];
        let life = node.life;
        let Some(process) = &mut node.process else { return };
        let at = process.leases.wake().as_nanos().div_ceil(1_000).min(u128::from(u64::MAX)) as Micros;
        if at < process.wake_at || process.wake_at <= self.now {
            process.wake_at = at;
            self.schedule(at.max(self.now), Event::Wake { node: number, life });
        }
    }

    fn begin(&mut self, number: usize, action: Action) {
        let node = &mut self.nodes[number];
        let life = node.life;
        let Some(process) = &mut node.process else { return };
        let (me, held) = (process.leases.me().clone(), process.leases.held());
        if action != Action::Beat {
            self.note(|_| format!("node {number}: {action:?}"));
        }
        let after = self.network();
        match action {
            Action::Beat => self.call(number, Call::Beat(me, held)),
            Action::Probe { shard, whom } => {
                self.after(after, Event::Probe { node: number, life, shard, whom })
            }
            Action::Acquire { shard, instead_of } => self.call(number, Call::Acquire(shard, me, instead_of)),
            Action::TakeOver { shard } => {
                let after = self.rng.log_between(5 * MILLI, 300 * MILLI);
                self.after(after, Event::TakeOver { node: number, life, shard: self::number(shard) });
            }
            Action::HandOver { shard, epoch, to, stopped } => {
                if stopped {
                    return self.pass_on(number, (shard, epoch), to);
                }
                let led = Led { node: number, life, shard: self::number(shard), epoch: epoch.get() };
                self.after(2 * after, Event::HandOver { led, to });
            }
            Action::Release { shard } => self.call(number, Call::Release(shard, me.incarnation)),
            Action::Announce { shard } => self.announce(number, shard),
            Action::Doubt { shard, epoch } => {
                self.stats.doubts += 1;
                let led = Led { node: number, life, shard: self::number(shard), epoch: epoch.get() };
                self.after(after, Event::Doubt { led });
            }
            Action::Leave => {
                self.call(number, Call::Leave(me));
                self.nodes[number].process = None;
                self.nodes[number].life += 1;
                self.nodes[number].disk.get().kill();
                let after = self.rng.log_between(100 * MILLI, 10_000 * MILLI);
                self.after(after, Event::Start { node: number });
            }
        }
    }

    fn announce(&mut self, number: usize, shard: ShardId) {
        for node in 0..self.nodes.len() {
            let heard = self.nodes[node].redis == self.nodes[number].redis && !self.rng.chance(self.lossy);
            if heard && self.redis[self.nodes[node].redis].gone_until <= self.now {
                let (life, after) = (self.nodes[node].life, self.network());
                self.after(after, Event::Told { node, life, event: lease::Event::LeaderChanged { shard } });
            }
        }
    }

    fn call(&mut self, node: usize, call: Call) {
        let (life, after) = (self.nodes[node].life, self.network());
        self.after(after, Event::Call { node, life, call });
    }

    pub(crate) fn call_lands(&mut self, node: usize, life: u64, call: &Call) {
        let redis = self.nodes[node].redis;
        let is_there = self.redis[redis].gone_until <= self.now && !self.rng.chance(self.lossy);
        let answer = is_there.then(|| self.redis[redis].apply(call, self.now));
        let answer = answer.filter(|_| !self.rng.chance(self.lossy));
        let after = if answer.is_some() { self.network() } else { REDIS_CALL_MAX.as_micros() as Micros };
        let event = match (call, answer) {
            (Call::Beat(..), Some(Answer::View(view))) => lease::Event::Viewed(view),
            (Call::Beat(..), _) => lease::Event::BeatFailed,
            (Call::Acquire(shard, ..), answer) => {
                lease::Event::Acquired { shard: *shard, won: matches!(answer, Some(Answer::Won(true))) }
            }
            (Call::HandOver((shard, epoch), _, to), _) => {
                // Whether or not the lease could be handed over, the successor is told.
                let successor = to.address.parse().expect("addresses are numbers");
                if self.reaches(node, successor) && !self.rng.chance(self.lossy) {
                    let later = after + self.network();
                    let from = Led { node, life, shard: self::number(*shard), epoch: epoch.get() };
                    let life = self.nodes[successor].life;
                    self.after(later, Event::Lead { node: successor, life, from });
                }
                // It may stand still, and answer later than anybody waits.
                let given_up = lease::Event::HandedOver { shard: *shard, epoch: *epoch };
                return self.after(after + TELL_MAX, Event::Told { node, life, event: given_up });
            }
            (Call::Release(..) | Call::Leave(_), _) => return,
        };
        self.after(after, Event::Told { node, life, event });
    }

    pub(crate) fn probe_lands(&mut self, node: usize, life: u64, shard: ShardId, whom: Lease) {
        let target: usize = whom.address.parse().expect("addresses are numbers");
        let other = &self.nodes[target];
        let silent = !self.reaches(node, target) || other.stalled_until > self.now;
        let probe = match &other.process {
            _ if silent => Probe::Silent,
            None => Probe::Refused,
            Some(process) => Probe::Answered(process.leases.standing(shard)),
        };
        let after = if silent { PROBE_MAX.as_micros() as Micros } else { self.network() };
        let event = lease::Event::Probed { shard, whom: whom.incarnation, probe };
        self.after(after, Event::Told { node, life, event });
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
            Event::TakeOver { node, life, shard } => self.take_over(node, life, shard),
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
            Event::Journal { node, life } if self.nodes[node].life == life => self.journal_turn(node),
            Event::Follow { node, life } if self.nodes[node].life == life => {
                self.follow(node);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn tell_if(&mut self, node: usize, life: u64, event: lease::Event) {
        if self.nodes[node].life == life {
            self.tell(node, event);
        }
    }

    /// Looks at the leaders this node follows, as its streams of their objects do, and at what its journal owes.
    fn follow(&mut self, number: usize) {
        let life = self.nodes[number].life;
        self.after(FOLLOW_EVERY, Event::Follow { node: number, life });
        for shard in 0..self.shards.len() {
            if self.shards[shard].store.manifest.is_none() {
                self.tell(number, lease::Event::NeverLed { shard: id(shard) });
            }
            let Some(process) = &self.nodes[number].process else { return };
            let Some(leader) = process.leases.leader_of(id(shard)) else { continue };
            let target: usize = leader.address.parse().expect("addresses are numbers");
            let other = &self.nodes[target];
            let is_there = self.reaches(number, target)
                && other.stalled_until <= self.now
                && other.process.as_ref().is_some_and(|other| other.leading.contains_key(&shard));
            if target != number && !is_there {
                self.tell(number, lease::Event::FollowBroken { shard: id(shard) });
            }
        }
        let leftovers = self.nodes[number].leftovers(self.shards.len());
        let told = self.nodes[number].process.as_ref().map(|process| process.leases.me().leftovers.clone());
        if told.is_some_and(|told| told != leftovers) {
            self.tell(number, lease::Event::Leftovers(leftovers));
        }
    }

    fn take_over(&mut self, number: usize, life: u64, shard: usize) -> Check {
        let node = &mut self.nodes[number];
        let Some(process) = node.process.as_mut().filter(|_| node.life == life) else { return Ok(()) };
        let lingers = process.lingering.iter().any(|leading| leading.leader.is_lingering());
        if lingers || self.rng.chance(self.lossy) {
            let event = lease::Event::Ended { shard: id(shard), superseded: false };
            self.tell(number, event);
            return Ok(());
        }
        let nonces = self.rng.next();
        let leadership = take_over(&mut self.shards[shard].store, id(shard), self.now, nonces)?;
        let (epoch, nonce) = (leadership.epoch.get(), leadership.nonce.get());
        self.taken(shard, epoch, leadership.first_seq.get() - GAP)?;
        let epochs = leadership.epochs.iter().map(|epoch| epoch.nonce.get()).collect();
        let object_bytes = [1, 200, 4_000][self.rng.index(3)];
        let Some(process) = &mut self.nodes[number].process else { return Ok(()) };
        self.stats.leaderships += 1;
        self.stats.with_leftovers += u64::from(process.journal.has_leftovers(id(shard)));
        let knew = Knew { epochs, settled: Rc::clone(&process.settled) };
        self.shards[shard].judge.leads(epoch, nonce, knew)?;
        let options = BareOptions {
            exclusive: false,
            journal: Some(process.journal.clone()),
            flush_linger: Duration::from_micros(FLUSH_LINGER),
            object_bytes,
            // Spilling is played in the world of one shard.
            spill_bytes: usize::MAX,
        };
        let mut leader = BareLeader::new(leadership, options);
        let partitions: Vec<_> = (0..PARTITIONS).map(partition).collect();
        leader.recovered(Duration::from_micros(self.now), false, &partitions);
        let leading =
            Leading { leader, waiting: Vec::new(), flush_due: false, load: Vec::new(), resigns: None };
        process.leading.insert(shard, leading);
        self.note(|_| format!("node {number} leads shard {shard} in epoch {epoch}"));
        self.tell(number, lease::Event::Began { shard: id(shard), epoch: LeaderEpoch::new(epoch) });
        self.act(Led { node: number, life, shard, epoch })
    }

    /// The successor has been asked whether it is there; if it is, the leader takes nothing new and flushes.
    fn hand_over(&mut self, led: Led, to: Option<NodeInfo>) -> Check {
        if self.nodes[led.node].life != led.life {
            return Ok(());
        }
        if let Some(to) = &to {
            let successor: usize = to.address.parse().expect("addresses are numbers");
            let other = &self.nodes[successor];
            let is_there =
                other.process.as_ref().is_some_and(|other| other.leases.me().incarnation == to.incarnation);
            let (shard, epoch) = (id(led.shard), LeaderEpoch::new(led.epoch));
            if !is_there || !self.reaches(led.node, successor) || other.stalled_until > self.now {
                self.tell(led.node, lease::Event::Kept { shard, epoch });
                return Ok(());
            }
            if !other.process.as_ref().is_some_and(|other| other.leases.would_lead()) {
                self.tell(led.node, lease::Event::Declined { shard, epoch, stopped: false });
                return Ok(());
            }
        }
        let Some(leading) = self.nodes[led.node].led(led) else { return Ok(()) };
        leading.resigns = Some(Resigns::For(to));
        self.after(FLUSH_MAX, Event::GiveUp { led });
        self.act(led)
    }

    /// Gives a lease of a leadership that has ended to the successor, or to nobody.
    fn pass_on(&mut self, number: usize, (shard, epoch): (ShardId, LeaderEpoch), to: Option<NodeInfo>) {
        let Some(process) = &self.nodes[number].process else { return };
        let me = process.leases.me().clone();
        match to {
            Some(to) => self.call(number, Call::HandOver((shard, epoch), me, to)),
            None => {
                self.call(number, Call::Release(shard, me.incarnation));
                self.tell(number, lease::Event::HandedOver { shard, epoch });
            }
        }
    }

    /// The successor is told to lead. Its answer goes back to who led before.
    fn lead(&mut self, number: usize, life: u64, from: Led) {
        let (shard, epoch) = (id(from.shard), LeaderEpoch::new(from.epoch));
        let process = self.nodes[number].process.as_ref().filter(|_| self.nodes[number].life == life);
        let declines = process.is_some_and(|process| !process.leases.would_lead());
        self.tell_if(number, life, lease::Event::Lead { shard, ended: epoch });
        let event = match declines {
            true => lease::Event::Declined { shard, epoch, stopped: true },
            false => lease::Event::HandedOver { shard, epoch },
        };
        let after = self.network();
        self.after(after, Event::Told { node: from.node, life: from.life, event });
    }

    /// Ends the leadership of one that resigns once everything is stored.
    fn finish(&mut self, led: Led) {
        let node = &mut self.nodes[led.node];
        let Some(process) = &mut node.process else { return };
        let is_done = process.leading.get(&led.shard).is_some_and(|leading| {
            leading.resigns.is_some() && leading.leader.is_idle() && leading.waiting.is_empty()
        });
        if !is_done {
            return;
        }
        let Some(leading) = process.leading.remove(&led.shard) else { return };
        self.note(|_| format!("node {} has stopped leading shard {}", led.node, led.shard));
        let shard = id(led.shard);
        match leading.resigns {
            Some(Resigns::For(to)) => {
                self.stats.moves += u64::from(to.is_some());
                self.pass_on(led.node, (shard, LeaderEpoch::new(led.epoch)), to);
            }
            _ => self.tell(led.node, lease::Event::Ended { shard, superseded: true }),
        }
    }

    /// The leader flushes and stops: if it was superseded, it meets the EPOCH of whom it was superseded by.
    fn doubt(&mut self, led: Led) -> Check {
        if let Some(leading) = self.nodes[led.node].led(led) {
            leading.resigns.get_or_insert(Resigns::InDoubt);
        }
        self.act(led)
    }

    /// A leadership has ended: whoever waits hears nothing, unless the journal still answers.
    fn end(&mut self, led: Led) -> Check {
        self.poll(led)?;
        let Some(process) = &mut self.nodes[led.node].process else { return Ok(()) };
        let Some(mut leading) = process.leading.remove(&led.shard) else { return Ok(()) };
        let (resigns, gave_up) =
            (leading.resigns.take(), matches!(leading.leader.ended(), Some(Ended::GivenUp { .. })));
        if leading.leader.is_lingering() {
            process.lingering.push(leading);
        }
        self.note(|_| format!("node {} leads shard {} no more", led.node, led.shard));
        match resigns {
            // Not everything could be stored in time.
            Some(Resigns::For(to)) if gave_up => {
                self.stats.given_up += 1;
                self.pass_on(led.node, (id(led.shard), LeaderEpoch::new(led.epoch)), to);
            }
            _ => self.tell(led.node, lease::Event::Ended { shard: id(led.shard), superseded: true }),
        }
        Ok(())
    }

    pub(crate) fn request(&mut self, number: usize, request: Request, hops: u32) -> Check {
        let (client, attempt, shard) = (request.client, request.attempt, request.shard);
        let after = self.network();
        let now = self.at();
        let refused = Event::Result { client, attempt, result: Some(false) };
        let node = &mut self.nodes[number];
        let life = node.life;
        let Some(process) = &mut node.process else {
            self.after(after, refused);
            return Ok(());
        };
        if let Some(leading) = process.leading.get_mut(&shard).filter(|leading| leading.resigns.is_none()) {
            if !leading.leader.takes_appends() {
                self.after(after, Event::Request { node: number, request, hops });
                return Ok(());
            }
            if request.local {
                self.shards[shard].judge.sent_local(request.records());
            }
            let epoch = leading.leader.epoch().get();
            let replies = leading.leader.append(now, timestamp(self.now), vec![request.to_append()]);
            leading.waiting.extend(replies.into_iter().map(|reply| (reply, request.clone())));
            return self.act(Led { node: number, life, shard, epoch });
        }
        // Whoever sent it learns whom this node knows.
        let known = match process.leases.standing(id(shard)) {
            Standing::Neither(known) => known,
            Standing::Leads(_) | Standing::TakesOver(_) => None,
        };
        let to = known.map(|known| known.address.parse::<usize>().expect("addresses are numbers"));
        match to.filter(|to| *to != number && hops < HOPS_MAX && self.reaches(number, *to)) {
            Some(to) => {
                self.stats.forwarded += 1;
                self.after(after, Event::Request { node: to, request, hops: hops + 1 });
            }
            None => self.after(after, refused),
        }
        Ok(())
    }

    fn leader_told(&mut self, led: Led, tell: impl FnOnce(&mut BareLeader)) -> Check {
        let Some(leading) = self.nodes[led.node].led(led) else { return Ok(()) };
        tell(&mut leading.leader);
        self.act(led)
    }

    /// Does what a leader has decided, and sees to what comes next.
    fn act(&mut self, led: Led) -> Check {
        let at = self.at();
        loop {
            let Some(leading) = self.nodes[led.node].led(led) else { return Ok(()) };
            if leading.resigns.is_some() {
                leading.leader.freeze_due(at, true);
            }
            let Some(action) = leading.leader.next_action() else { break };
            self.do_action(led, action)?;
        }
        self.schedule_flush(led);
        self.schedule_journal(led.node);
        self.poll(led)?;
        self.finish(led);
        Ok(())
    }

    fn do_action(&mut self, led: Led, action: LeaderAction) -> Check {
        let after = self.network();
        match action {
            LeaderAction::Load { entries, .. } => {
                if let Some(leading) = self.nodes[led.node].led(led) {
                    leading.load = entries;
                }
                self.after(after, Event::Load { led });
            }
            LeaderAction::Put { seq, pause, .. } if self.nodes[led.node].cut_off => {
                let answer = forebay_log::shard::taker::PutAnswer::Unknown;
                let after = after + pause.as_micros() as Micros;
                self.after(after, Event::PutAnswered { led, seq: seq.get(), answer });
            }
            LeaderAction::Put { seq, parts, pause } => {
                let late = self.rng.chance(self.lossy);
                let after = if late { self.rng.log_between(after, 60_000 * MILLI) } else { after };
                let answered = !late && !self.rng.chance(self.lossy);
                let after = after + pause.as_micros() as Micros;
                let bytes = parts.concat().into();
                self.after(after, Event::Put { led, seq: seq.get(), bytes, answered });
                if late {
                    let answer = forebay_log::shard::taker::PutAnswer::Unknown;
                    self.after(5_000 * MILLI, Event::PutAnswered { led, seq: seq.get(), answer });
                }
            }
            LeaderAction::ReadBack(seq) => {
                self.after(after, Event::Read { led, seq: seq.get(), what: Read::Back })
            }
            LeaderAction::ReadFloor(seq) => {
                self.after(after, Event::Read { led, seq: seq.get(), what: Read::Floor })
            }
            LeaderAction::Prove(seq) => {
                self.after(after, Event::Read { led, seq: seq.get(), what: Read::Proof })
            }
            LeaderAction::Ended(_) => return self.end(led),
            LeaderAction::Stored(_) | LeaderAction::Wake(_) => {}
        }
        Ok(())
    }

    fn read(&mut self, led: Led, seq: u64, what: Read) -> Check {
        let store = &self.shards[led.shard].store;
        let header = store.objects.get(&Key::Wal(seq)).and_then(|object| object.header.clone());
        let manifest = store.manifest.as_ref().map(|(bytes, _)| Manifest::decode(bytes).expect("a manifest"));
        let floor = manifest.map_or(WalSeq::ZERO, |manifest| manifest.floor);
        let seq = WalSeq::new(seq);
        self.leader_told(led, |leader| match what {
            Read::Back => leader.read_back(seq, header.as_ref()),
            Read::Floor => leader.fence(seq, floor),
            Read::Proof => leader.proof_read(seq, header.as_ref()),
        })
    }

    /// Reads back from the journal what the leader asked for.
    fn load(&mut self, led: Led) -> Check {
        let at = self.at();
        let Some(leading) = self.nodes[led.node].led(led) else { return Ok(()) };
        if leading.leader.load(at, &leading.load) {
            return self.act(led);
        }
        self.after(MILLI, Event::Load { led });
        Ok(())
    }

    fn schedule_flush(&mut self, led: Led) {
        let Some(leading) = self.nodes[led.node].led(led) else { return };
        let Some(at) = leading.leader.flush_at() else { return };
        if !std::mem::replace(&mut leading.flush_due, true) {
            let at = (at.as_micros() as Micros).max(self.now + 1);
            self.schedule(at, Event::Flush { led });
        }
    }

    fn schedule_journal(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        let life = node.life;
        let Some(process) = &mut node.process else { return };
        let progress = *process.journal.journal().synced().borrow();
        let waits = !progress.dead && progress.below < process.journal.journal().next_frame();
        if waits && !std::mem::replace(&mut process.journal_due, true) {
            let after = self.rng.log_between(MILLI / 10, 20 * MILLI);
            self.after(after, Event::Journal { node: number, life });
        }
    }

    /// The journal's thread takes a turn, and all leaders of the node hear of it.
    fn journal_turn(&mut self, number: usize) -> Check {
        let at = self.at();
        let node = &mut self.nodes[number];
        let life = node.life;
        let Some(process) = &mut node.process else { return Ok(()) };
        process.journal_due = false;
        process.writer.turn();
        let progress = *process.journal.journal().synced().borrow();
        process.lingering.iter_mut().for_each(|leading| leading.leader.journal_moved(at, progress));
        let mut ended = std::mem::take(&mut process.lingering);
        let leaders: Vec<(usize, u32)> =
            process.leading.iter().map(|(shard, leading)| (*shard, leading.leader.epoch().get())).collect();
        ended.retain_mut(|leading| {
            let answered = take_answers(&mut leading.waiting);
            let lingers = leading.leader.is_lingering();
            for (request, result) in answered {
                if result.is_some() && request.local {
                    self.shards[request.shard].judge.acknowledged_local(request.records());
                }
            }
            lingers
        });
        if let Some(process) = &mut self.nodes[number].process {
            process.lingering = ended;
        }
        for (shard, epoch) in leaders {
            let led = Led { node: number, life, shard, epoch };
            self.leader_told(led, |leader| leader.journal_moved(at, progress))?;
        }
        self.schedule_journal(number);
        Ok(())
    }

    /// Passes on what a leader has answered.
    fn poll(&mut self, led: Led) -> Check {
        let Some(leading) = self.nodes[led.node].led(led) else { return Ok(()) };
        for (request, result) in take_answers(&mut leading.waiting) {
            let after = self.network();
            self.note(|_| format!("node {} answers {request:?}: {result:?}", led.node));
            let judge = &mut self.shards[led.shard].judge;
            match &result {
                Some(_) if request.local => judge.acknowledged_local(request.records()),
                Some(appended) => {
                    self.stats.acked += 1;
                    judge.acknowledged(appended, request.records(), request.invoked, self.now)?;
                }
                None => {}
            }
            let (client, attempt) = (request.client, request.attempt);
            self.after(after, Event::Result { client, attempt, result: Some(result.is_some()) });
        }
        Ok(())
    }
}

type Appended = forebay_log::shard::append::Appended;

/// Takes out the requests that have been answered, with where they are if they are stored.
fn take_answers(waiting: &mut Vec<(Reply, Request)>) -> Vec<(Request, Option<Appended>)> {
    let mut answered = Vec::new();
    waiting.retain_mut(|(reply, request)| match reply.try_recv() {
        Ok(result) => {
            answered.push((request.clone(), result.ok()));
            false
        }
        Err(TryRecvError::Empty) => true,
        Err(TryRecvError::Closed) => {
            answered.push((request.clone(), None));
            false
        }
    });
    answered
}
