//! Giving shards away: to a better node, because the node stops, or because it cannot use the store.

use super::*;

#[test]
fn a_shard_moves_to_a_better_node_that_stays() {
    let order = ranking();
    let mut world = World::new(order[1], &[]);
    world.lead(S, 5);
    world.nodes.push(node(order[0]));
    world.nodes[0].ready = false;
    assert_eq!(world.pass(4 * MOVE_AFTER), [], "no move to a node that is not ready");
    world.nodes[0].ready = true;
    let start = world.now;
    let actions = world.pass(MOVE_AFTER + 2 * BEAT_INTERVAL);
    assert_eq!(actions, [gives(order[0])]);
    assert!(world.now - start >= MOVE_AFTER);
    world.tell(Event::HandedOver { shard: S, epoch: epoch(5) });
    assert!(world.is_idle());
    assert_eq!(world.leases.leader_of(S), Some(node(order[0]).lease(LeaderEpoch::ZERO)));
}

#[test]
fn two_joiners_do_not_take_turns() {
    let order = ranking();
    let mut world = World::new(order[2], &[]);
    world.lead(S, 5);
    world.nodes.push(node(order[1]));
    assert_eq!(world.pass(MOVE_AFTER / 2), []);
    // The better of the two comes before the shard has moved: it moves once.
    world.nodes.push(node(order[0]));
    let mut actions = world.pass(MOVE_AFTER / 2 + BEAT_INTERVAL);
    assert_eq!(actions, []);
    actions = world.pass(MOVE_AFTER);
    assert_eq!(actions, [gives(order[0])]);
}

#[test]
fn shards_move_one_at_a_time_and_stay_if_the_successor_does_not_answer() {
    let order = ranking();
    let mut world = World::with_shards(order[1], &[], 64);
    let shards: Vec<ShardId> = (0..64).map(ShardId::new).collect();
    shards.iter().for_each(|shard| world.lead(*shard, 5));
    world.nodes.push(node(order[0]));
    let actions = world.pass(4 * MOVE_AFTER);
    let [Action::HandOver { shard, .. }] = actions[..] else { panic!("{actions:?}") };
    let next = world.tell(Event::Kept { shard, epoch: epoch(5) });
    assert!(world.leases.held().len() == 64);
    let [Action::HandOver { shard: second, .. }] = next[..] else { panic!("{next:?}") };
    assert_ne!(second, shard, "it waits for its turn");
    let next = world.tell(Event::HandedOver { shard: second, epoch: epoch(5) });
    assert!(matches!(next[..], [Action::Release { .. }, Action::HandOver { .. }]), "{next:?}");
}

#[test]
fn leftovers_come_first() {
    let order = ranking();
    let mut world = World::new(order[0], &[order[1]]);
    world.lead(S, 5);
    world.nodes[0].leftovers.push(S);
    let actions = world.pass(MOVE_AFTER + 2 * BEAT_INTERVAL);
    assert!(matches!(&actions[..], [Action::HandOver { to: Some(to), .. }] if to.id == node(order[1]).id));
}

#[test]
fn a_node_that_stops_gives_everything_to_the_best_of_the_others_and_leaves() {
    let order = ranking();
    let mut world = World::with_shards(order[0], &order[1..3], 64);
    (0..64).for_each(|shard| world.lead(ShardId::new(shard), 5));
    let mut actions = world.tell(Event::Drain);
    assert!(world.leases.me().draining);
    let mut given = 0;
    while given < 64 {
        let handed: Vec<(ShardId, Option<NodeInfo>)> = actions
            .iter()
            .filter_map(|action| match action {
                Action::HandOver { shard, to, .. } => Some((*shard, to.clone())),
                _ => None,
            })
            .collect();
        assert!(!handed.is_empty() && handed.len() <= HANDOVERS_MAX && !actions.contains(&Action::Leave));
        actions.clear();
        for (shard, to) in handed {
            let best = place::best(shard, world.nodes.iter()).cloned();
            assert_eq!(to, best);
            given += 1;
            actions.extend(world.tell(Event::HandedOver { shard, epoch: epoch(5) }));
        }
    }
    assert!(!actions.contains(&Action::Leave), "nobody is known to lead yet");
    world.held.clear();
    let left = world.pass(10 * LEASE_TTL);
    assert_eq!(left.iter().filter(|action| **action == Action::Leave).count(), 1);
    assert_eq!(world.pass(10 * LEASE_TTL), []);
}

#[test]
fn a_node_that_stops_alone_gives_to_nobody() {
    let order = ranking();
    let mut world = World::new(order[0], &[]);
    world.lead(S, 5);
    let actions = world.tell(Event::Drain);
    assert!(
        actions.contains(&Action::HandOver { shard: S, epoch: epoch(5), to: None, stopped: false }),
        "{actions:?}"
    );
    assert!(world.tell(Event::HandedOver { shard: S, epoch: epoch(5) }).contains(&Action::Leave));
    // With a successor that does not answer it is the same.
    let mut world = World::new(order[0], &[order[1]]);
    world.lead(S, 5);
    world.tell(Event::Drain);
    let actions = world.tell(Event::Kept { shard: S, epoch: epoch(5) });
    assert!(
        actions.contains(&Action::HandOver { shard: S, epoch: epoch(5), to: None, stopped: false }),
        "{actions:?}"
    );
}

#[test]
fn a_node_that_stops_while_it_takes_over_gives_that_away_too() {
    let order = ranking();
    let mut world = World::new(order[0], &[order[1]]);
    world.beat();
    world.tell(Event::Lead { shard: S, ended: LeaderEpoch::ZERO });
    assert!(!world.tell(Event::Drain).contains(&Action::Leave));
    let actions = world.tell(Event::Began { shard: S, epoch: epoch(6) });
    assert!(
        actions.contains(&Action::HandOver {
            shard: S,
            epoch: epoch(6),
            to: Some(node(order[1])),
            stopped: false
        }),
        "{actions:?}"
    );
}

#[test]
fn a_late_view_does_not_bring_back_what_was_given_away() {
    let order = ranking();
    let mut world = World::new(order[1], &[order[0]]);
    world.lead(S, 5);
    world.pass(MOVE_AFTER + 2 * BEAT_INTERVAL);
    world.tell(Event::HandedOver { shard: S, epoch: epoch(5) });
    // The view was asked for before; then Redis is wiped, and the successor is not back yet.
    world.beat();
    world.held.clear();
    world.nodes.clear();
    let actions = world.pass(LEASE_TTL + BEAT_INTERVAL);
    assert_eq!((acquires(&actions), probes(&actions)), (None, vec![order[0]]));
}

#[test]
fn a_leader_that_is_given_its_own_shard_was_superseded_and_leads_anew() {
    let order = ranking();
    let mut world = World::new(order[0], &[order[1]]);
    world.lead(S, 5);
    let given = |ended| Event::Lead { shard: S, ended: epoch(ended) };
    assert_eq!(world.tell(given(4)), [], "the message is late");
    assert_eq!(world.tell(given(6)), [Action::Doubt { shard: S, epoch: epoch(5) }]);
    assert_eq!(world.tell(Event::Ended { shard: S, superseded: true }), [Action::TakeOver { shard: S }]);
    world.tell(Event::Began { shard: S, epoch: epoch(7) });
    assert!(world.tell(Event::Ended { shard: S, superseded: true }).contains(&Action::Release { shard: S }));
    assert_eq!(world.tell(given(6)), [], "somebody has led since");
}

#[test]
fn the_end_of_a_hand_over_of_another_leadership_counts_for_nothing() {
    let order = ranking();
    let mut world = World::new(order[1], &[order[0]]);
    world.lead(S, 5);
    assert_eq!(world.pass(MOVE_AFTER + 2 * BEAT_INTERVAL), [gives(order[0])]);
    for event in [
        Event::HandedOver { shard: S, epoch: epoch(4) },
        Event::Kept { shard: S, epoch: epoch(4) },
        Event::Declined { shard: S, epoch: epoch(4), stopped: true },
    ] {
        assert_eq!(world.tell(event), []);
        assert!(!world.is_idle());
    }
    world.tell(Event::HandedOver { shard: S, epoch: epoch(5) });
    assert!(world.is_idle());
}

#[test]
fn a_shard_that_its_successor_declines_goes_to_the_next_best() {
    let order = ranking();
    let mut world = World::new(order[2], &order[..2]);
    world.lead(S, 5);
    world.pass(MOVE_AFTER + 2 * BEAT_INTERVAL);
    let declined = || Event::Declined { shard: S, epoch: epoch(5), stopped: true };
    let to = Some(node(order[1]));
    assert_eq!(world.tell(declined()), [Action::HandOver { shard: S, epoch: epoch(5), to, stopped: true }]);
    // Nobody else is left but the node itself.
    assert_eq!(world.tell(declined()), [Action::TakeOver { shard: S }]);
    // One that was asked in time may choose again, when it likes.
    let mut world = World::new(order[2], &order[..2]);
    world.lead(S, 5);
    world.pass(MOVE_AFTER + 2 * BEAT_INTERVAL);
    assert_eq!(world.tell(Event::Declined { shard: S, epoch: epoch(5), stopped: false }), []);
    assert_eq!(world.leases.held(), [Held { shard: S, epoch: epoch(5) }]);
    // One that stops gives it to nobody then.
    let mut world = World::new(order[2], &order[..1]);
    world.lead(S, 5);
    world.tell(Event::Drain);
    assert_eq!(
        world.tell(declined()),
        [Action::HandOver { shard: S, epoch: epoch(5), to: None, stopped: true }]
    );
}

#[test]
fn a_leader_that_cannot_use_the_store_gives_all_it_leads_to_those_that_can() {
    let order = ranking();
    let mut world = World::with_shards(order[0], &[order[1]], 3);
    (0..3).for_each(|shard| world.lead(ShardId::new(shard), 5));
    world.tell(Event::Ready(false));
    assert!(!world.leases.would_lead());
    assert_eq!(world.pass(MOVE_AFTER - BEAT_INTERVAL), [], "it may be over soon");
    let actions = world.pass(2 * BEAT_INTERVAL);
    let given = actions.iter().filter(|action| matches!(action, Action::HandOver { to: Some(_), .. }));
    assert_eq!((given.count(), actions.len()), (3, 3), "{actions:?}");
    // Where no node can use it nothing moves.
    let mut world = World::new(order[0], &[order[1]]);
    world.nodes[0].ready = false;
    world.lead(S, 5);
    world.tell(Event::Ready(false));
    assert_eq!(world.pass(10 * MOVE_AFTER), []);
    assert_eq!(world.leases.held(), [Held { shard: S, epoch: epoch(5) }]);
}

#[test]
fn a_node_that_stops_stays_until_it_knows_who_leads_or_nobody_waits_for_it() {
    let order = ranking();
    let stopping = || {
        let mut world = World::new(order[0], &[order[1]]);
        world.lead(S, 5);
        assert_eq!(world.tell(Event::Drain), [gives(order[1])]);
        world.held.insert(S, node(order[1]).lease(LeaderEpoch::ZERO));
        assert!(!world.tell(Event::HandedOver { shard: S, epoch: epoch(5) }).contains(&Action::Leave));
        world
    };
    let mut world = stopping();
    assert_eq!(world.pass(SUCCESSORS_WAIT_MAX / 2), []);
    world.held.insert(S, node(order[1]).lease(epoch(6)));
    assert_eq!(world.beat(), [Action::Leave]);
    assert_eq!(world.leases.leader_of(S), Some(node(order[1]).lease(epoch(6))));
    let mut world = stopping();
    assert_eq!(world.tell(Event::Leave), [Action::Leave]);
    let mut world = stopping();
    assert_eq!(world.pass(SUCCESSORS_WAIT_MAX), [Action::Leave]);
}
