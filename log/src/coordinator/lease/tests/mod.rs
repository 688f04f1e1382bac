//! One node's machine, told by hand what happens around it.

mod giving;

use std::time::Duration;

use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::*;
use crate::limits::{
    ACQUIRE_WAIT_MAX, BEAT_INTERVAL, HANDOVERS_MAX, LEAD_BACKOFF_MAX, LEASE_TTL, MOVE_AFTER, PROBE_PAUSE,
    TAKEOVERS_MAX, TAKING_OVER_PAUSE,
};
use crate::model::NodeId;

const S: ShardId = ShardId::ZERO;

fn node(number: u128) -> NodeInfo {
    NodeInfo {
        id: NodeId::new(number),
        incarnation: Incarnation::new(number),
        address: format!("n{number}:1"),
        ready: true,
        draining: false,
        leftovers: Vec::new(),
    }
}

fn epoch(number: u32) -> LeaderEpoch {
    LeaderEpoch::new(number)
}

/// A node and the time, with the registry and the leases as the next beats show them.
struct World {
    leases: Leases,
    now: Duration,
    nodes: Vec<NodeInfo>,
    held: BTreeMap<ShardId, Lease>,
    beat_is_due: bool,
}

impl World {
    /// The node `me` among others, all of them ready.
    fn new(me: u128, others: &[u128]) -> Self {
        Self::with_shards(me, others, 1)
    }

    fn with_shards(me: u128, others: &[u128], shards: u16) -> Self {
        let leases = Leases::new(node(me), shards, StdRng::seed_from_u64(7));
        let nodes = others.iter().map(|number| node(*number)).collect();
        Self { leases, now: Duration::ZERO, nodes, held: BTreeMap::new(), beat_is_due: false }
    }

    fn tell(&mut self, event: Event) -> Vec<Action> {
        let mut actions = self.leases.handle(event, self.now);
        self.beat_is_due |= actions.contains(&Action::Beat);
        actions.retain(|action| *action != Action::Beat);
        actions
    }

    /// Beats now, and returns what it makes the node do.
    fn beat(&mut self) -> Vec<Action> {
        self.beat_is_due = false;
        let mut nodes = self.nodes.clone();
        nodes.push(self.leases.me().clone());
        self.tell(Event::Viewed(View { nodes, leases: self.held.clone() }))
    }

    /// Lets time pass with beats as usual, and returns what the node does meanwhile.
    fn pass(&mut self, time: Duration) -> Vec<Action> {
        let until = self.now + time;
        let mut actions = Vec::new();
        while self.now < until || self.beat_is_due {
            if self.beat_is_due {
                actions.extend(self.beat());
                continue;
            }
            self.now = self.leases.wake().max(self.now + Duration::from_micros(1)).min(until);
            actions.extend(self.tell(Event::Tick));
        }
        actions
    }

    fn answer(&mut self, whom: u128, probe: Probe) -> Vec<Action> {
        self.tell(Event::Probed { shard: S, whom: Incarnation::new(whom), probe })
    }

    /// Makes the node leader of a shard.
    fn lead(&mut self, shard: ShardId, number: u32) {
        assert_eq!(
            self.tell(Event::Lead { shard, ended: LeaderEpoch::ZERO }).first(),
            Some(&Action::TakeOver { shard })
        );
        self.tell(Event::Began { shard, epoch: epoch(number) });
        self.held.insert(shard, self.leases.me().lease(epoch(number)));
        self.beat();
    }

    fn is_idle(&self) -> bool {
        self.leases.held().is_empty()
    }
}

/// The nodes 1 to 9 in the order in which they are the best for shard 0.
fn ranking() -> Vec<u128> {
    let mut left: Vec<NodeInfo> = (1..10).map(node).collect();
    let mut ranking = Vec::new();
    while let Some(best) = place::best(S, left.iter()).map(|best| best.id) {
        ranking.push(best.get());
        left.retain(|node| node.id != best);
    }
    ranking
}

fn acquires(actions: &[Action]) -> Option<Option<Incarnation>> {
    actions.iter().find_map(|action| match action {
        Action::Acquire { instead_of, .. } => Some(*instead_of),
        _ => None,
    })
}

fn gives(to: u128) -> Action {
    Action::HandOver { shard: S, epoch: epoch(5), to: Some(node(to)), stopped: false }
}

fn probes(actions: &[Action]) -> Vec<u128> {
    let probed = actions.iter().filter_map(|action| match action {
        Action::Probe { whom, .. } => Some(whom.incarnation.get()),
        _ => None,
    });
    probed.collect()
}

#[test]
fn a_shard_that_never_had_a_leader_is_led_at_once_by_the_best_node() {
    let order = ranking();
    let mut world = World::new(order[0], &order[1..3]);
    world.beat();
    assert_eq!(acquires(&world.tell(Event::NeverLed { shard: S })), Some(None));
    let actions = world.tell(Event::Acquired { shard: S, won: true });
    assert_eq!(actions, [Action::TakeOver { shard: S }]);
    let actions = world.tell(Event::Began { shard: S, epoch: epoch(1) });
    assert!(actions.contains(&Action::Announce { shard: S }));
    assert_eq!(world.leases.held(), [Held { shard: S, epoch: epoch(1) }]);

    let mut other = World::new(order[1], &[order[0], order[2]]);
    other.tell(Event::NeverLed { shard: S });
    assert_eq!(other.pass(10 * LEASE_TTL), []);
}

#[test]
fn a_node_that_is_not_ready_tries_nothing_and_no_other_waits_for_it() {
    let order = ranking();
    let mut world = World::new(order[0], &[order[1]]);
    world.tell(Event::Ready(false));
    world.tell(Event::NeverLed { shard: S });
    assert_eq!(world.pass(10 * LEASE_TTL), []);
    assert_eq!(world.tell(Event::Lead { shard: S, ended: LeaderEpoch::ZERO }), []);
    let mut other = World::new(order[1], &[order[0]]);
    other.nodes[0].ready = false;
    other.beat();
    assert!(acquires(&other.tell(Event::NeverLed { shard: S })).is_some());
}

#[test]
fn a_lease_absent_from_the_start_is_tried_after_a_lifetime() {
    let order = ranking();
    let mut world = World::new(order[0], &[order[1]]);
    assert_eq!(world.pass(LEASE_TTL - Duration::from_millis(1)), []);
    assert_eq!(acquires(&world.pass(BEAT_INTERVAL + ACQUIRE_WAIT_MAX)), Some(None));
}

#[test]
fn time_without_beats_is_not_time_without_a_lease() {
    let order = ranking();
    let mut world = World::new(order[0], &[order[1]]);
    world.pass(LEASE_TTL - BEAT_INTERVAL);
    world.tell(Event::BeatFailed);
    assert_eq!(world.pass(LEASE_TTL - Duration::from_millis(1)), []);
    // A process that stood still has seen nothing meanwhile either.
    world.now += 5 * LEASE_TTL;
    assert_eq!(acquires(&world.beat()), None);
    assert_eq!(acquires(&world.pass(LEASE_TTL / 2)), None);
    assert_eq!(acquires(&world.pass(LEASE_TTL)), Some(None));
}

#[test]
fn a_wiped_coordinator_moves_nobody() {
    let order = ranking();
    // The node is the best, but another leads.
    let mut world = World::new(order[0], &[order[1]]);
    let leader = node(order[1]).lease(epoch(4));
    world.held.insert(S, leader.clone());
    world.beat();
    world.held.clear();
    world.nodes.clear();
    let mut asked = 0;
    for _ in 0..20 {
        let actions = world.pass(BEAT_INTERVAL);
        assert_eq!(acquires(&actions), None);
        for whom in probes(&actions) {
            asked += 1;
            assert_eq!(acquires(&world.answer(whom, Probe::Answered(Standing::Leads(leader.clone())))), None);
        }
    }
    assert!(asked > 1, "it is asked again and again");
    // And a leader that sees its own lease gone, or another's in its place, goes on and claims it with each beat.
    let mut world = World::new(order[0], &[order[1]]);
    world.lead(S, 5);
    world.held.clear();
    assert_eq!(world.pass(10 * LEASE_TTL), []);
    world.held.insert(S, node(order[1]).lease(LeaderEpoch::ZERO));
    assert_eq!(world.pass(10 * LEASE_TTL), []);
    assert_eq!(world.leases.held(), [Held { shard: S, epoch: epoch(5) }]);
}

#[test]
fn without_a_coordinator_leaders_lead_and_nobody_tries() {
    let order = ranking();
    let mut world = World::with_shards(order[0], &[order[1]], 2);
    world.lead(S, 5);
    world.held.insert(ShardId::new(1), node(order[1]).lease(epoch(3)));
    world.beat();
    for _ in 0..10 {
        world.now += BEAT_INTERVAL;
        world.tell(Event::Tick);
        assert!(std::mem::take(&mut world.beat_is_due));
        let actions = world.tell(Event::BeatFailed);
        assert_eq!(acquires(&actions), None);
    }
    assert_eq!(world.leases.held(), [Held { shard: S, epoch: epoch(5) }]);
    assert_eq!(world.leases.leader_of(ShardId::new(1)), Some(node(order[1]).lease(epoch(3))));
}

#[test]
fn a_process_that_is_gone_is_replaced_after_two_refusals_without_waiting_for_its_lease() {
    let order = ranking();
    // The dead leader is still registered, and the best.
    let mut world = World::new(order[1], &[order[0], order[2]]);
    world.held.insert(S, node(order[0]).lease(epoch(4)));
    world.beat();
    assert_eq!(probes(&world.tell(Event::FollowBroken { shard: S })), [order[0]]);
    assert_eq!(world.answer(order[0], Probe::Refused), []);
    assert_eq!(probes(&world.pass(2 * PROBE_PAUSE)), [order[0]]);
    let mut actions = world.answer(order[0], Probe::Refused);
    actions.extend(world.pass(ACQUIRE_WAIT_MAX));
    assert_eq!(acquires(&actions), Some(Some(Incarnation::new(order[0]))));
    // The third best sees the same, and leaves it to the second.
    let mut world = World::new(order[2], &order[..2]);
    world.held.insert(S, node(order[0]).lease(epoch(4)));
    world.beat();
    world.tell(Event::FollowBroken { shard: S });
    world.answer(order[0], Probe::Refused);
    world.pass(2 * PROBE_PAUSE);
    world.answer(order[0], Probe::Refused);
    assert_eq!(acquires(&world.pass(LEASE_TTL)), None);
}

#[test]
fn a_broken_stream_of_a_leader_that_lives_changes_nothing() {
    let order = ranking();
    let mut world = World::new(order[0], &[order[1]]);
    let leader = node(order[1]).lease(epoch(4));
    world.held.insert(S, leader.clone());
    world.beat();
    world.tell(Event::FollowBroken { shard: S });
    world.answer(order[1], Probe::Refused);
    world.pass(2 * PROBE_PAUSE);
    world.answer(order[1], Probe::Answered(Standing::Leads(leader)));
    assert_eq!(acquires(&world.pass(10 * LEASE_TTL)), None);
}

#[test]
fn a_holder_that_neither_leads_nor_takes_over_is_replaced() {
    let order = ranking();
    let mut world = World::new(order[0], &[order[1]]);
    world.held.insert(S, node(order[1]).lease(epoch(4)));
    world.beat();
    world.tell(Event::FollowBroken { shard: S });
    let mut actions = world.answer(order[1], Probe::Answered(Standing::Neither(None)));
    actions.extend(world.pass(ACQUIRE_WAIT_MAX));
    assert_eq!(acquires(&actions), Some(Some(Incarnation::new(order[1]))));
}

#[test]
fn a_holder_that_is_silent_is_replaced_once_its_lease_expires() {
    let order = ranking();
    let mut world = World::new(order[0], &[order[1]]);
    world.held.insert(S, node(order[1]).lease(epoch(4)));
    world.beat();
    world.tell(Event::FollowBroken { shard: S });
    world.answer(order[1], Probe::Silent);
    assert_eq!(acquires(&world.pass(BEAT_INTERVAL)), None);
    world.held.clear();
    let actions = world.pass(BEAT_INTERVAL);
    assert_eq!((acquires(&actions), probes(&actions)), (None, vec![order[1]]), "it may be back");
    let mut actions = world.answer(order[1], Probe::Silent);
    actions.extend(world.pass(ACQUIRE_WAIT_MAX));
    assert!(acquires(&actions).is_some());
}

#[test]
fn a_holder_whose_node_came_back_as_another_process_is_asked_without_a_broken_stream() {
    let order = ranking();
    let mut world = World::new(order[0], &[order[1]]);
    world.held.insert(S, node(order[1]).lease(epoch(4)));
    world.nodes[0].incarnation = Incarnation::new(77);
    assert_eq!(probes(&world.beat()), [order[1]]);
    let mut actions = world.answer(order[1], Probe::Answered(Standing::Neither(None)));
    actions.extend(world.pass(ACQUIRE_WAIT_MAX));
    assert_eq!(acquires(&actions), Some(Some(Incarnation::new(order[1]))));
}

#[test]
fn the_lease_of_the_process_before_is_taken_without_a_question() {
    let order = ranking();
    let mut world = World::new(order[0], &[order[1]]);
    let mut before = node(order[0]);
    before.incarnation = Incarnation::new(77);
    world.held.insert(S, before.lease(epoch(4)));
    assert_eq!(acquires(&world.pass(ACQUIRE_WAIT_MAX + BEAT_INTERVAL)), Some(Some(before.incarnation)));
}

#[test]
fn a_late_answer_about_another_process_counts_for_nothing() {
    let order = ranking();
    let mut world = World::new(order[0], &order[1..3]);
    world.held.insert(S, node(order[1]).lease(epoch(4)));
    world.beat();
    world.tell(Event::FollowBroken { shard: S });
    world.answer(order[2], Probe::Answered(Standing::Neither(None)));
    assert_eq!(acquires(&world.pass(LEASE_TTL)), None);
}

#[test]
fn a_leader_that_was_superseded_and_does_not_know_it_looks_at_the_store() {
    let order = ranking();
    let mut world = World::new(order[0], &[order[1]]);
    world.lead(S, 5);
    world.held.insert(S, node(order[1]).lease(epoch(6)));
    assert_eq!(world.beat(), [Action::Doubt { shard: S, epoch: epoch(5) }]);
    assert!(!world.is_idle(), "only the store ends it");
    let actions = world.tell(Event::Ended { shard: S, superseded: true });
    assert!(actions.contains(&Action::Release { shard: S }));
    world.beat();
    assert_eq!(world.leases.leader_of(S), Some(node(order[1]).lease(epoch(6))));
    assert_eq!(acquires(&world.pass(LEAD_BACKOFF_MAX)), None);
}

#[test]
fn the_lease_of_a_zombie_counts_for_nothing_once_a_later_epoch_is_known() {
    let order = ranking();
    let mut world = World::new(order[0], &order[1..3]);
    world.held.insert(S, node(order[1]).lease(epoch(4)));
    world.beat();
    let leader = node(order[2]).lease(epoch(5));
    world.leases.hint(S, &leader);
    assert_eq!(probes(&world.beat()), [order[2]]);
    world.answer(order[2], Probe::Answered(Standing::Leads(leader.clone())));
    assert_eq!(acquires(&world.pass(LEASE_TTL - BEAT_INTERVAL)), None);
    assert_eq!(world.leases.leader_of(S), Some(leader));
    // The real leader dies; its zombie of a predecessor still renews.
    assert_eq!(probes(&world.tell(Event::FollowBroken { shard: S })), [order[2]]);
    let mut actions = world.answer(order[2], Probe::Answered(Standing::Neither(None)));
    actions.extend(world.pass(LEASE_TTL + ACQUIRE_WAIT_MAX));
    assert_eq!(acquires(&actions), Some(Some(Incarnation::new(order[1]))));
}

#[test]
fn an_attempt_that_fails_gives_the_lease_back_and_waits_longer_each_time() {
    let order = ranking();
    let mut world = World::new(order[0], &[]);
    world.tell(Event::NeverLed { shard: S });
    let mut pauses = Vec::new();
    for _ in 0..8 {
        let start = world.now;
        while acquires(&world.pass(Duration::from_millis(1))).is_none() {}
        pauses.push(world.now - start);
        world.tell(Event::Acquired { shard: S, won: true });
        let actions = world.tell(Event::Ended { shard: S, superseded: false });
        assert!(actions.contains(&Action::Release { shard: S }));
    }
    assert!(pauses[1] < Duration::from_millis(600) && pauses[7] > LEAD_BACKOFF_MAX / 3, "{pauses:?}");
    assert!(pauses.iter().all(|pause| *pause <= LEAD_BACKOFF_MAX + ACQUIRE_WAIT_MAX));
}

#[test]
fn a_lease_that_came_with_a_lost_answer_is_used_or_given_back() {
    let order = ranking();
    let mut world = World::new(order[0], &[order[1]]);
    world.held.insert(S, world.leases.me().lease(LeaderEpoch::ZERO));
    assert!(acquires(&world.pass(BEAT_INTERVAL + ACQUIRE_WAIT_MAX)).is_some());
    let mut world = World::new(order[1], &[order[0]]);
    world.held.insert(S, world.leases.me().lease(LeaderEpoch::ZERO));
    assert_eq!(world.beat(), [Action::Release { shard: S }]);
}

#[test]
fn takeovers_under_way_are_bounded_and_the_rest_follows() {
    let order = ranking();
    let mut world = World::with_shards(order[0], &[], 64);
    world.beat();
    let mut actions = Vec::new();
    (0..64).for_each(|shard| actions.extend(world.tell(Event::NeverLed { shard: ShardId::new(shard) })));
    let mut led = 0;
    while let Some(at) = actions.iter().position(|action| matches!(action, Action::Acquire { .. })) {
        assert!(
            actions.iter().filter(|action| matches!(action, Action::Acquire { .. })).count() <= TAKEOVERS_MAX
        );
        let Action::Acquire { shard, .. } = actions.remove(at) else { unreachable!("it is one") };
        actions.extend(world.tell(Event::Acquired { shard, won: true }));
        actions.extend(world.tell(Event::Began { shard, epoch: epoch(1) }));
        led += 1;
    }
    assert_eq!(led, 64);
}

#[test]
fn a_node_answers_for_what_it_does() {
    let order = ranking();
    let mut world = World::new(order[0], &[order[1]]);
    let other = node(order[1]).lease(epoch(2));
    assert_eq!(world.leases.standing(S), Standing::Neither(None));
    world.leases.hint(S, &other);
    assert_eq!(world.leases.standing(S), Standing::Neither(Some(other)));
    world.tell(Event::Lead { shard: S, ended: epoch(2) });
    assert_eq!(world.leases.standing(S), Standing::TakesOver(node(order[0]).lease(LeaderEpoch::ZERO)));
    world.tell(Event::Began { shard: S, epoch: epoch(3) });
    assert_eq!(world.leases.standing(S), Standing::Leads(node(order[0]).lease(epoch(3))));
    assert_eq!(world.leases.standing(ShardId::new(9)), Standing::Neither(None));
}

#[test]
fn an_older_leader_is_never_believed_again() {
    let order = ranking();
    let mut world = World::new(order[0], &order[1..3]);
    let (old, new) = (node(order[1]).lease(epoch(4)), node(order[2]).lease(epoch(5)));
    world.leases.hint(S, &new);
    world.leases.hint(S, &old);
    assert_eq!(world.leases.leader_of(S), Some(new));
    // One that takes over now may be about to be newer.
    let taker = node(order[1]).lease(LeaderEpoch::ZERO);
    world.leases.hint(S, &taker);
    assert_eq!(world.leases.leader_of(S), Some(taker));
}

#[test]
fn two_that_send_to_each_other_are_asked_once() {
    let order = ranking();
    let mut world = World::new(order[0], &order[1..3]);
    let (one, two) = (node(order[1]).lease(epoch(4)), node(order[2]).lease(LeaderEpoch::ZERO));
    world.held.insert(S, one.clone());
    world.beat();
    assert_eq!(probes(&world.tell(Event::FollowBroken { shard: S })), [order[1]]);
    world.held.clear();
    world.beat();
    let mut actions = world.answer(order[1], Probe::Answered(Standing::Neither(Some(two))));
    assert_eq!(probes(&actions), [order[2]]);
    actions = world.answer(order[2], Probe::Answered(Standing::Neither(Some(one))));
    actions.extend(world.pass(ACQUIRE_WAIT_MAX));
    assert_eq!((probes(&actions), acquires(&actions).is_some()), (Vec::new(), true));
}

#[test]
fn a_leader_is_told_once_to_look_whether_it_is_one() {
    let order = ranking();
    let mut world = World::new(order[0], &[order[1]]);
    world.lead(S, 5);
    world.held.insert(S, node(order[1]).lease(epoch(6)));
    assert_eq!(world.beat(), [Action::Doubt { shard: S, epoch: epoch(5) }]);
    assert_eq!(world.pass(10 * LEASE_TTL), []);
    world.tell(Event::Ended { shard: S, superseded: true });
    world.tell(Event::Lead { shard: S, ended: epoch(6) });
    world.tell(Event::Began { shard: S, epoch: epoch(7) });
    world.held.insert(S, node(order[1]).lease(epoch(8)));
    assert_eq!(world.beat(), [Action::Doubt { shard: S, epoch: epoch(7) }]);
}

#[test]
fn without_views_the_successor_of_a_leader_that_stopped_is_asked() {
    let order = ranking();
    let unsighted = || {
        let mut world = World::new(order[2], &order[..2]);
        world.held.insert(S, node(order[0]).lease(epoch(4)));
        world.beat();
        assert_eq!(world.tell(Event::BeatFailed), []);
        assert_eq!(probes(&world.tell(Event::FollowBroken { shard: S })), [order[0]]);
        world
    };
    let (taker, leader) = (node(order[1]).lease(LeaderEpoch::ZERO), node(order[1]).lease(epoch(5)));
    // It names the successor, which is asked until it leads.
    let mut world = unsighted();
    let named = Probe::Answered(Standing::Neither(Some(taker.clone())));
    assert_eq!(probes(&world.answer(order[0], named)), [order[1]]);
    assert_eq!(world.answer(order[1], Probe::Answered(Standing::TakesOver(taker))), []);
    world.now += TAKING_OVER_PAUSE;
    assert_eq!(probes(&world.tell(Event::Tick)), [order[1]]);
    assert_eq!(world.answer(order[1], Probe::Answered(Standing::Leads(leader.clone()))), []);
    assert_eq!(world.leases.leader_of(S), Some(leader.clone()));
    assert_eq!(world.tell(Event::BeatFailed), []);
    // Its process is gone: the best of the last view may lead.
    let mut world = unsighted();
    world.answer(order[0], Probe::Refused);
    world.now += 2 * PROBE_PAUSE;
    assert_eq!(probes(&world.tell(Event::Tick)), [order[0]]);
    assert_eq!(probes(&world.answer(order[0], Probe::Refused)), [order[1]]);
    assert_eq!(world.answer(order[1], Probe::Answered(Standing::Neither(None))), []);
    // Not yet: it is asked again.
    world.now += BEAT_INTERVAL;
    assert_eq!(probes(&world.tell(Event::BeatFailed)), [order[1]]);
    world.answer(order[1], Probe::Answered(Standing::Leads(leader.clone())));
    assert_eq!(world.leases.leader_of(S), Some(leader));
}
