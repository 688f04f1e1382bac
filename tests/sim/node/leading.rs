//! A node that leads: what it takes, what it does with the store, and what it answers.

use std::time::Duration;

use forebay_log::error::Outcome;
use forebay_log::shard::append::{AppendError, Appended};
use forebay_log::shard::writer::Ended;
use forebay_log::testing::bare::{Action, BareLeader};
use tokio::sync::oneshot::error::TryRecvError;

use super::{Purpose, Role, Waiting};
use crate::check::{Check, violation};
use crate::client::Message;
use crate::config::{MILLI, Micros, SECOND};
use crate::stats::{Fault, Row};
use crate::store::{Key, Op};
use crate::world::{Actor, Event, Wake, World, partition, timestamp};

/// Returns the row of the outcome table by which a leader went after a 409 or 412.
fn row_of(conflict: bool, found: bool, next: Option<&Action>) -> Option<Row> {
    match next {
        Some(Action::Put { .. }) if conflict => Some(Row::ConflictThenAbsent),
        Some(Action::Put { .. }) => Some(Row::TakenThenGone),
        Some(Action::Ended(Ended::Impossible { .. })) => Some(Row::TakenByOtherData),
        // An EPOCH: which row it is the floor decides.
        Some(Action::ReadFloor(_) | Action::Ended(_)) => None,
        _ if found && conflict => Some(Row::ConflictThenTaken),
        _ if found => Some(Row::TakenByMine),
        _ => None,
    }
}

impl World {
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

    pub(super) fn turn(&mut self, number: usize) -> Check {
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
        if !leader.takes_appends() {
            (node.inbox, node.turn_due) = (inbox, true);
            let life = node.life;
            let after = self.rng.log_between(MILLI, SECOND);
            self.wake(Actor::Node(number), life, after, Wake::Turn);
            return Ok(());
        }
        for message in inbox.iter().filter(|message| message.is_local()) {
            self.judge.sent_local(&message.records);
        }
        let appends = inbox.iter().map(Message::to_append).collect();
        let replies = leader.append(Duration::from_micros(self.now), now, appends);
        let waiting = replies.into_iter().zip(inbox).map(|(reply, message)| Waiting { reply, message });
        node.waiting.extend(waiting);
        self.act(number, false)
    }

    /// Tells a leader something and does what it decides. `read_back`: whether a 409 or 412 led here by an object found.
    pub(super) fn leader_told(
        &mut self,
        number: usize,
        conflict: bool,
        read_back: Option<bool>,
        tell: impl FnOnce(&mut BareLeader),
    ) -> Check {
        let Role::Leading(leader) = &mut self.nodes[number].role else { return Ok(()) };
        tell(leader);
        let first = leader.next_action();
        if let Some(found) = read_back {
            let row = row_of(conflict, found, first.as_ref());
            row.into_iter().for_each(|row| self.stats.row(row));
        }
        if let Some(first) = first {
            self.do_action(number, conflict, first)?;
        }
        self.act(number, conflict)
    }

    /// Does everything that the leader has decided.
    pub(super) fn act(&mut self, number: usize, conflict: bool) -> Check {
        loop {
            let Role::Leading(leader) = &mut self.nodes[number].role else { return Ok(()) };
            let Some(action) = leader.next_action() else { break };
            self.do_action(number, conflict, action)?;
        }
        self.schedule_flush(number);
        self.schedule_journal(number);
        self.poll_replies(number)
    }

    pub(super) fn do_action(&mut self, number: usize, conflict: bool, action: Action) -> Check {
        match action {
            Action::Put { seq, parts, pause } => {
                let op = Op::Create(Key::Wal(seq.get()), parts.concat().into());
                let pause = pause.as_micros() as Micros;
                let pause = if pause > 0 { self.rng.log_between(pause, pause.max(5 * SECOND)) } else { 0 };
                self.node_asks(number, Purpose::Put(seq), op, pause);
            }
            Action::ReadBack(seq) => {
                let purpose = Purpose::ReadBack(seq, conflict);
                self.node_asks(number, purpose, Op::Get(Key::Wal(seq.get())), 0);
            }
            Action::ReadFloor(seq) => {
                self.node_asks(number, Purpose::ReadFloor(seq), Op::GetManifest, 0);
            }
            Action::Ended(ended) => {
                self.note(|_| format!("Node({number}) leads no more: {ended:?}"));
                self.poll_replies(number)?;
                let node = &mut self.nodes[number];
                if let Role::Leading(leader) = std::mem::take(&mut node.role)
                    && leader.is_lingering()
                {
                    self.stats.lingering += 1;
                    node.lingering.push(*leader);
                }
                // What is on its way may land, but nothing more is sent with this nonce (W4).
                node.calls.clear();
                if let Ended::Impossible { seq } = ended {
                    return violation("alarm", format!("Node({number}) finds other DATA at {seq}"));
                }
            }
            Action::Prove(seq) => {
                self.node_asks(number, Purpose::Prove(seq), Op::Get(Key::Wal(seq.get())), 0);
            }
            Action::Load { entries, .. } => {
                let node = &mut self.nodes[number];
                let spilled = matches!(&node.role, Role::Leading(leader) if leader.takes_appends());
                self.stats.read_back += u64::from(spilled);
                node.load = entries;
                self.load_soon(number);
            }
            Action::Stored(_) | Action::Wake(_) => {}
        }
        Ok(())
    }

    /// Sees to it that the leader freezes what is due, soon after it is.
    pub(super) fn schedule_flush(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        let Role::Leading(leader) = &node.role else { return };
        let Some(at) = leader.flush_at() else { return };
        if !std::mem::replace(&mut node.flush_due, true) {
            let life = node.life;
            let wait = (at.as_micros() as Micros).saturating_sub(self.now);
            let linger = self.rng.between(0, self.config.linger);
            self.wake(Actor::Node(number), life, wait.max(linger), Wake::Flush);
        }
    }

    /// Passes on what the leader has answered.
    pub(super) fn poll_replies(&mut self, number: usize) -> Check {
        let mut waiting = std::mem::take(&mut self.nodes[number].waiting);
        let mut answered = Vec::new();
        waiting.retain_mut(|waiting| match waiting.reply.try_recv() {
            Ok(result) => {
                answered.push((waiting.message.clone(), result));
                false
            }
            Err(TryRecvError::Empty) => true,
            Err(TryRecvError::Closed) => false,
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
    pub(super) fn check_watermarks(&mut self, number: usize) -> Check {
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

    pub(super) fn acknowledged(&mut self, number: usize, message: &Message, appended: &Appended) -> Check {
        if message.is_local() {
            self.stats.local += 1;
            self.note(|_| format!("Node({number}) acknowledges {:?} at local", message.records));
            self.judge.acknowledged_local(&message.records);
            return Ok(());
        }
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

    pub(super) fn answer_client(&mut self, message: &Message, result: Result<Appended, AppendError>) {
        if self.rng.chance(self.config.late_message) {
            self.stats.fault(Fault::LateMessage);
            return;
        }
        let after = self.rng.between(MILLI, 20 * MILLI);
        let (client, attempt) = (message.client, message.attempt);
        self.schedule(self.now + after, Event::Result { client, attempt, result });
    }
}
