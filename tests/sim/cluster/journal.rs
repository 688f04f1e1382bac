//! The one journal of a node, for all that it leads.

use super::leading::take_answers;
use super::{Cluster, Event, Led};
use crate::check::Check;
use crate::config::MILLI;

impl Cluster {
    pub(crate) fn schedule_journal(&mut self, number: usize) {
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
    pub(crate) fn journal_turn(&mut self, number: usize) -> Check {
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
            for (routed, result) in answered {
                if result.is_some() && routed.request.local {
                    self.shards[routed.shard].judge.acknowledged_local(routed.records());
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
}
