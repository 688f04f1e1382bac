//! Leaders: how they begin, what they do with the store, and how they end.

use std::rc::Rc;
use std::time::Duration;

use forebay_log::coordinator::NodeInfo;
use forebay_log::coordinator::lease;
use forebay_log::format::manifest::Manifest;
use forebay_log::journal::JournalEntry;
use forebay_log::model::{LeaderEpoch, ShardId, WalSeq};
use forebay_log::shard::append::Appended;
use forebay_log::shard::taker::PutAnswer;
use forebay_log::shard::writer::Ended;
use forebay_log::testing::bare::{Action, BareLeader, BareOptions, Reply};
use tokio::sync::oneshot::error::TryRecvError;

use super::client::Heard;
use super::node::id;
use super::produce::Routed;
use super::redis::Call;
use super::{Cluster, Event, Led, Read};
use crate::check::{Check, Knew};
use crate::config::{MILLI, Micros};
use crate::store::Key;
use crate::takeover::{GAP, take_over};

const FLUSH_LINGER: Micros = 50 * MILLI;
/// How long a leader that gives its shard away stores what it took.
const FLUSH_MAX: Micros = 2_000 * MILLI;

/// A shard that the node leads.
#[derive(Debug)]
pub(crate) struct Leading {
    pub(super) leader: BareLeader,
    pub(super) waiting: Vec<(Reply, Routed)>,
    pub(super) flush_due: bool,
    /// What it reads back from the journal.
    load: Vec<JournalEntry>,
    /// It takes nothing new, and stops once everything is stored.
    pub(super) resigns: Option<Resigns>,
}

/// Why a leader stops by itself.
#[derive(Debug)]
pub(crate) enum Resigns {
    /// It gives the shard away, perhaps to nobody.
    For(Option<NodeInfo>),
    /// Somebody claims to lead a later epoch.
    InDoubt,
}

impl Cluster {
    /// Takes a shard over, now that the node knows the topics.
    pub(crate) fn take_over(&mut self, number: usize, shard: usize) -> Check {
        let life = self.nodes[number].life;
        let Some(process) = &mut self.nodes[number].process else { return Ok(()) };
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
        // What the journal holds of topics that are gone by now is dropped.
        let partitions = self.partitions_of(number, shard);
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
        leader.recovered(Duration::from_micros(self.now), false, &partitions);
        let leading =
            Leading { leader, waiting: Vec::new(), flush_due: false, load: Vec::new(), resigns: None };
        process.leading.insert(shard, leading);
        self.note(|_| format!("node {number} leads shard {shard} in epoch {epoch}"));
        self.tell(number, lease::Event::Began { shard: id(shard), epoch: LeaderEpoch::new(epoch) });
        self.act(Led { node: number, life, shard, epoch })
    }

    /// The successor has been asked whether it is there; if it is, the leader takes nothing new and flushes.
    pub(crate) fn hand_over(&mut self, led: Led, to: Option<NodeInfo>) -> Check {
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
    pub(crate) fn pass_lease_on(
        &mut self,
        number: usize,
        (shard, epoch): (ShardId, LeaderEpoch),
        to: Option<NodeInfo>,
    ) {
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
    pub(crate) fn lead(&mut self, number: usize, life: u64, from: Led) {
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
                self.pass_lease_on(led.node, (shard, LeaderEpoch::new(led.epoch)), to);
            }
            _ => self.tell(led.node, lease::Event::Ended { shard, superseded: true }),
        }
    }

    /// The leader flushes and stops: if it was superseded, it meets the EPOCH of whom it was superseded by.
    pub(crate) fn doubt(&mut self, led: Led) -> Check {
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
                self.pass_lease_on(led.node, (id(led.shard), LeaderEpoch::new(led.epoch)), to);
            }
            _ => self.tell(led.node, lease::Event::Ended { shard: id(led.shard), superseded: true }),
        }
        Ok(())
    }

    pub(crate) fn leader_told(&mut self, led: Led, tell: impl FnOnce(&mut BareLeader)) -> Check {
        let Some(leading) = self.nodes[led.node].led(led) else { return Ok(()) };
        tell(&mut leading.leader);
        self.act(led)
    }

    /// Does what a leader has decided, and sees to what comes next.
    pub(crate) fn act(&mut self, led: Led) -> Check {
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

    fn do_action(&mut self, led: Led, action: Action) -> Check {
        let after = self.network();
        match action {
            Action::Load { entries, .. } => {
                if let Some(leading) = self.nodes[led.node].led(led) {
                    leading.load = entries;
                }
                self.after(after, Event::Load { led });
            }
            Action::Put { seq, pause, .. } if self.nodes[led.node].cut_off => {
                let after = after + pause.as_micros() as Micros;
                let answer = PutAnswer::Unknown;
                self.after(after, Event::PutAnswered { led, seq: seq.get(), answer });
            }
            Action::Put { seq, parts, pause } => {
                let late = self.rng.chance(self.lossy);
                let after = if late { self.rng.log_between(after, 60_000 * MILLI) } else { after };
                let answered = !late && !self.rng.chance(self.lossy);
                let after = after + pause.as_micros() as Micros;
                let bytes = parts.concat().into();
                self.after(after, Event::Put { led, seq: seq.get(), bytes, answered });
                if late {
                    let answer = PutAnswer::Unknown;
                    self.after(5_000 * MILLI, Event::PutAnswered { led, seq: seq.get(), answer });
                }
            }
            Action::ReadBack(seq) => self.after(after, Event::Read { led, seq: seq.get(), what: Read::Back }),
            Action::ReadFloor(seq) => {
                self.after(after, Event::Read { led, seq: seq.get(), what: Read::Floor })
            }
            Action::Prove(seq) => self.after(after, Event::Read { led, seq: seq.get(), what: Read::Proof }),
            Action::Ended(_) => return self.end(led),
            Action::Stored(_) | Action::Wake(_) => {}
        }
        Ok(())
    }

    pub(crate) fn read(&mut self, led: Led, seq: u64, what: Read) -> Check {
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
    pub(crate) fn load(&mut self, led: Led) -> Check {
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

    /// Passes on what a leader has answered.
    pub(crate) fn poll(&mut self, led: Led) -> Check {
        let Some(leading) = self.nodes[led.node].led(led) else { return Ok(()) };
        for (routed, result) in take_answers(&mut leading.waiting) {
            self.note(|_| format!("node {} answers {routed:?}: {result:?}", led.node));
            let (request, judge) = (&routed.request, &mut self.shards[led.shard].judge);
            match &result {
                Some(_) if request.local => judge.acknowledged_local(routed.records()),
                Some(appended) => {
                    self.stats.acked += 1;
                    judge.acknowledged(appended, routed.records(), request.invoked, self.now)?;
                    self.register.acknowledged(routed.topic, request.sent)?;
                }
                None => {}
            }
            let heard = result.map_or(Heard::Failed, |_| Heard::Acked(routed.topic));
            self.answer(&routed.request, heard);
        }
        Ok(())
    }
}

/// Takes out the requests that have been answered, with where they are if they are stored.
pub(super) fn take_answers(waiting: &mut Vec<(Reply, Routed)>) -> Vec<(Routed, Option<Appended>)> {
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
