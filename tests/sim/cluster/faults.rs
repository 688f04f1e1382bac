//! What fails, until nothing does.

use std::cmp::Reverse;

use forebay_log::coordinator::lease;

use super::event::Scheduled;
use super::redis::Redis;
use super::{Cluster, Event};
use crate::check::Check;
use crate::config::{MILLI, SECOND};

impl Cluster {
    /// From now on nothing fails.
    pub(crate) fn mend(&mut self) {
        self.note(|_| "nothing fails from now on".into());
        (self.calm, self.lossy, self.cut) = (true, 0.0, None);
        self.local = self.local.min(0.3);
        self.redis.iter_mut().for_each(|redis| redis.gone_until = 0);
        for node in 0..self.nodes.len() {
            self.nodes[node].redis = 0;
            self.nodes[node].blind_until = 0;
            self.goes_on(node);
            if self.nodes[node].is_down() {
                self.after(MILLI, Event::Start { node });
            }
        }
    }

    /// Lets a node that stands still go on at once.
    fn goes_on(&mut self, node: usize) {
        let until = std::mem::take(&mut self.nodes[node].stalled_until);
        let waits = |next: &Scheduled| next.at == until && next.event.at_node() == Some(node);
        let queue = std::mem::take(&mut self.queue).into_iter();
        let now = self.now;
        let moved = queue.map(|Reverse(next)| {
            let at = if waits(&next) { now } else { next.at };
            Reverse(Scheduled { at, ..next })
        });
        self.queue = moved.collect();
    }

    /// Something fails, now and then, until nothing does.
    pub(crate) fn fault(&mut self) -> Check {
        if self.calm {
            return Ok(());
        }
        let again = self.rng.log_between(500 * MILLI, 20 * SECOND);
        self.after(again, Event::Fault);
        let node = self.rng.index(self.nodes.len());
        let lasts = self.rng.log_between(100 * MILLI, 20 * SECOND);
        match self.rng.below(10) {
            0 | 1 => {
                self.crash(node);
                self.after(lasts, Event::Start { node });
            }
            2 | 3 => self.drain(node)?,
            // What waits for the end of one stall would not know of another.
            4 if self.nodes[node].stalled_until <= self.now => {
                self.stats.stalls += 1;
                self.note(|_| format!("node {node} stands still for {lasts}"));
                self.nodes[node].stalled_until = self.now + lasts;
            }
            4 => {}
            5 => {
                self.stats.wipes += 1;
                self.note(|_| "Redis is wiped".into());
                self.redis[0].wipe();
            }
            6 => {
                self.stats.outages += 1;
                self.note(|_| format!("Redis is gone for {lasts}"));
                self.redis[0].gone_until = self.now + lasts;
            }
            7 => {
                // A replica that is behind so much will take its place.
                let behind = self.rng.log_between(100 * MILLI, 5 * SECOND);
                let copy = Box::new(self.redis[0].clone());
                self.after(behind, Event::RollBack { copy });
            }
            8 => {
                self.note(|_| format!("node {node} does not reach the register of topics for {lasts}"));
                self.stats.blind += 1;
                self.nodes[node].blind_until = self.now + lasts;
            }
            _ if self.rng.chance(0.5) => {
                self.stats.splits += 1;
                self.nodes[node].redis = 1 - self.nodes[node].redis;
                self.note(|world| format!("node {node} sees Redis {}", world.nodes[node].redis));
            }
            _ => {
                let other = self.rng.index(self.nodes.len());
                self.cut = (node != other && self.cut.is_none()).then_some((node, other));
                self.stats.cuts += u64::from(self.cut.is_some());
                self.note(|world| format!("cut: {:?}", world.cut));
            }
        }
        Ok(())
    }

    /// A replica takes the place of Redis, as it was some time ago.
    pub(crate) fn roll_back(&mut self, copy: Redis) {
        if !self.calm {
            self.stats.rollbacks += 1;
            self.note(|_| "Redis is rolled back".into());
            self.redis[0].roll_back(copy);
        }
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
}
