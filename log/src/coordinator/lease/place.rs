//! Which node should lead a shard: every node computes the same answer from the same view, without a word.
//!
//! Rendezvous hashing: each pair of node and shard has a weight, and the heaviest node leads. So a node that comes takes
//! its share from all others and nothing else moves, and one that goes leaves its share to all others.

use crate::coordinator::NodeInfo;
use crate::model::{NodeId, ShardId};

/// Returns the best leader of a shard among nodes that may lead.
///
/// One that lists the shard in its leftovers comes first: only it can append them again.
pub(super) fn best<'a>(shard: ShardId, nodes: impl Iterator<Item = &'a NodeInfo>) -> Option<&'a NodeInfo> {
    let may_lead = nodes.filter(|node| node.ready && !node.draining);
    may_lead.max_by_key(|node| (node.leftovers.contains(&shard), weight(node.id, shard), node.id))
}

/// Mixes node and shard. Part of what nodes of all versions agree on: another function would move shards to and fro
/// while versions are mixed.
fn weight(node: NodeId, shard: ShardId) -> u64 {
    let [low, high] = [node.get() as u64, (node.get() >> 64) as u64];
    let shard = (u64::from(shard.get()) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mix(mix(low ^ shard) ^ high)
}

/// The finalizer of SplitMix64.
fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::*;
    use crate::limits::SHARDS_MAX;
    use crate::model::Incarnation;

    fn nodes(count: usize) -> Vec<NodeInfo> {
        let mut random = StdRng::seed_from_u64(1);
        let mut node = || NodeInfo {
            id: NodeId::random(&mut random),
            incarnation: Incarnation::new(1),
            address: String::new(),
            ready: true,
            draining: false,
            leftovers: Vec::new(),
        };
        (0..count).map(|_| node()).collect()
    }

    fn leaders(nodes: &[NodeInfo]) -> Vec<NodeId> {
        let leader = |shard| best(ShardId::new(shard), nodes.iter()).expect("there are nodes").id;
        (0..SHARDS_MAX).map(leader).collect()
    }

    #[test]
    fn weights_never_change() {
        let weights = [(0, 0), (1, 0), (1 << 64, 0), (1, 1023)]
            .map(|(node, shard)| weight(NodeId::new(node), ShardId::new(shard)));
        assert_eq!(
            weights,
            [0x4821_8226_ff3c_d4bf, 0x4450_18e3_0581_0b78, 0x9e01_6029_3a33_aaf7, 0xcdc2_4c31_5e8e_207b]
        );
    }

    #[test]
    fn shards_are_spread_evenly() {
        let nodes = nodes(4);
        let leaders = leaders(&nodes);
        for node in &nodes {
            let share = leaders.iter().filter(|leader| **leader == node.id).count();
            assert!((200..=312).contains(&share), "{share} of 1024");
        }
    }

    #[test]
    fn a_node_that_comes_takes_its_share_and_moves_nothing_else() {
        let nodes = nodes(5);
        let (before, after) = (leaders(&nodes[..4]), leaders(&nodes));
        let moved: Vec<_> = before.iter().zip(&after).filter(|(before, after)| before != after).collect();
        assert!((150..=260).contains(&moved.len()), "{} of 1024", moved.len());
        assert!(moved.iter().all(|(_, after)| **after == nodes[4].id));
    }

    #[test]
    fn leftovers_come_first_but_not_on_a_node_that_may_not_lead() {
        let mut nodes = nodes(3);
        let shard = ShardId::new(7);
        let usual = best(shard, nodes.iter()).expect("there are nodes").id;
        let other = nodes.iter().position(|node| node.id != usual).expect("there are others");
        nodes[other].leftovers.push(shard);
        assert_eq!(best(shard, nodes.iter()).map(|node| node.id), Some(nodes[other].id));
        nodes[other].draining = true;
        assert_eq!(best(shard, nodes.iter()).map(|node| node.id), Some(usual));
        nodes.iter_mut().for_each(|node| node.ready = false);
        assert_eq!(best(shard, nodes.iter()), None);
    }
}
