use super::*;
use crate::shard::walk::{PathFault, Walk};

#[test]
fn data_leads_to_the_next_number_and_an_epoch_over_the_gap() {
    let mut walk = Walk::from_manifest(&manifest(0, 0));
    for (object, position, epoch) in [
        (epoch_at(0, 1), GAP, 1),
        (data_at(GAP, 1, &[(0, 0, 1)]), GAP + 1, 1),
        (epoch_at(GAP + 1, 4), 2 * GAP + 1, 4),
        (epoch_at(2 * GAP + 1, 5), 3 * GAP + 1, 5),
        (data_at(3 * GAP + 1, 5, &[(0, 1, 2)]), 3 * GAP + 2, 5),
    ] {
        walk.accept(&object.header).unwrap();
        assert_eq!((walk.position(), walk.epoch()), (seq(position), LeaderEpoch::new(epoch)));
    }
    assert_eq!(walk.append_time(), Timestamp::from_millis(i64::try_from(3 * GAP + 1).unwrap()));
}

#[test]
fn what_no_writer_could_have_put_there_is_a_fault() {
    let walk = Walk::from_manifest(&manifest(100, 3));
    let faulty = |change: fn(&mut WalHeader)| {
        let mut header = data_at(100, 3, &[(0, 0, 1)]).header;
        change(&mut header);
        walk.clone().accept(&header)
    };
    assert_eq!(faulty(|_| {}), Ok(()));
    let identity = |field| Err(PathFault::Identity { seq: seq(100), field });
    assert_eq!(faulty(|header| header.seq = seq(101)), identity("seq"));
    assert_eq!(faulty(|header| header.cluster = ClusterId::new(8)), identity("cluster"));
    assert_eq!(faulty(|header| header.shard = ShardId::new(4)), identity("shard"));
    assert_eq!(faulty(|header| header.nonce = nonce(2)), identity("nonce"));
    assert_eq!(faulty(|header| header.kind = ObjectKind::Rolled), identity("kind"));
    assert!(matches!(faulty(|header| header.epoch = LeaderEpoch::new(4)), Err(PathFault::DataEpoch { .. })));
    for epoch in [2, 3] {
        let fault = walk.clone().accept(&epoch_at(100, epoch).header);
        assert!(matches!(fault, Err(PathFault::EpochOrder { .. })), "{epoch}");
    }
}

#[test]
fn append_time_never_decreases_along_the_path() {
    let mut walk = Walk::from_manifest(&Manifest {
        append_time_at_floor: Timestamp::from_millis(5_000),
        ..manifest(100, 3)
    });
    walk.accept(&data_at(100, 3, &[(0, 0, 1)]).header).unwrap();
    assert_eq!(walk.append_time(), Timestamp::from_millis(5_000));
}
