use forebay_log::model::{ClusterId, JobId, LeaderEpoch, Nonce, ShardId, WalSeq};
use proptest::prelude::*;

use super::*;

const MIB: u64 = 1 << 20;
const NOW: Timestamp = Timestamp::from_millis(1_000_000);

fn header(kind: ObjectKind, object_len: u64, append_time: i64) -> WalHeader {
    WalHeader {
        kind,
        jump: false,
        cluster: ClusterId::new(1),
        shard: ShardId::new(0),
        epoch: LeaderEpoch::new(1),
        seq: WalSeq::ZERO,
        last_seq: WalSeq::ZERO,
        nonce: Nonce::new(1),
        append_time: Timestamp::from_millis(append_time),
        footer_position: 0,
        footer_len: 0,
        object_len,
        content_hash: 0,
    }
}

fn data(object_len: u64) -> WalHeader {
    header(ObjectKind::Data, object_len, NOW.as_millis())
}

fn epoch() -> WalHeader {
    header(ObjectKind::Epoch, limits::WAL_HEADER_LEN as u64, 0)
}

fn manifest(sizes: &[u64]) -> Manifest {
    let mut manifest = Manifest::new(ClusterId::new(1), ShardId::new(0));
    for (size, number) in sizes.iter().zip(0_u64..) {
        let (first, last) = (WalSeq::new(number), WalSeq::new(number));
        let job = JobId::new(number.into());
        manifest.rolled.push(RolledRef { first, last, job, size: *size, append_time_max: NOW });
    }
    manifest
}

fn planned(sizes: &[u64], path: &[WalHeader]) -> Option<Plan> {
    plan(&manifest(sizes), path, NOW, &Policy::default())
}

#[test]
fn a_roll_is_due_at_a_number_of_objects_epochs_included() {
    let mut path = vec![epoch(); limits::ROLL_OBJECTS - 2];
    path.push(data(300));
    assert_eq!(planned(&[], &path), None);
    path.push(data(300));
    assert_eq!(planned(&[], &path), Some(Plan { objects: limits::ROLL_OBJECTS, rolled: 0 }));
}

#[test]
fn a_roll_is_due_at_a_number_of_bytes_and_takes_no_more() {
    assert_eq!(planned(&[], &vec![data(8 * MIB); 7]), None);
    assert_eq!(planned(&[], &vec![data(8 * MIB); 30]), Some(Plan { objects: 8, rolled: 0 }));
}

#[test]
fn a_roll_is_due_when_data_is_old_but_not_for_an_old_epoch() {
    let age = i64::try_from(limits::ROLL_AGE.as_millis()).unwrap();
    let aged = |age| header(ObjectKind::Data, 300, NOW.as_millis() - age);
    assert_eq!(planned(&[], &[epoch(), aged(age - 1)]), None);
    assert_eq!(planned(&[], &[epoch(), aged(age)]), Some(Plan { objects: 2, rolled: 0 }));
    assert_eq!(planned(&[], &[epoch()]), None);
    assert_eq!(planned(&[], &[]), None);
}

#[test]
fn small_rolled_objects_at_the_end_are_taken_along() {
    let path = vec![data(MIB); 64];
    assert_eq!(planned(&[MIB], &path).map(|plan| plan.rolled), Some(0), "one roll cannot hold both");
    let path = vec![data(4096); limits::ROLL_OBJECTS];
    let taken = |sizes: &[u64]| planned(sizes, &path).map(|plan| plan.rolled);
    assert_eq!(taken(&[2 * MIB]), Some(1));
    assert_eq!(taken(&[2 * MIB + 1]), Some(0));
    assert_eq!(
        taken(&[MIB, 32 * MIB, 6 * MIB, 2 * MIB]),
        Some(2),
        "9 MiB, and 32 MiB are more than twice that"
    );
}

#[test]
fn epochs_alone_take_no_rolled_object_along() {
    let path = vec![epoch(); limits::ROLL_OBJECTS];
    assert_eq!(planned(&[10], &path), Some(Plan { objects: limits::ROLL_OBJECTS, rolled: 0 }));
}

proptest! {
    #[test]
    fn a_plan_takes_a_due_prefix_and_what_fits(
        path in prop::collection::vec((any::<bool>(), 257..9 * MIB, 0..120_000_i64), 0..400),
        rolled in prop::collection::vec(300..70 * MIB, 0..20),
    ) {
        let mut path: Vec<WalHeader> = path.into_iter().map(|(is_data, len, age)| {
            if is_data { header(ObjectKind::Data, len, NOW.as_millis() - age) } else { epoch() }
        }).collect();
        path.sort_by_key(|header| header.append_time);
        let (manifest, policy) = (manifest(&rolled), Policy::default());
        let mut whole = Backlog::default();
        path.iter().for_each(|header| take(&mut whole, header));
        let plan = plan(&manifest, &path, NOW, &policy);
        prop_assert_eq!(plan.is_some(), !path.is_empty() && policy.is_due(&whole, NOW));
        let Some(plan) = plan else { return Ok(()) };
        prop_assert!(plan.objects > 0 && plan.rolled <= rolled.len());
        let size: u64 = path[..plan.objects].iter().map(|header| header.object_len).sum();
        let last = path[plan.objects - 1].object_len;
        prop_assert!(size - last < policy.size_bytes);
        prop_assert!(plan.objects == path.len() || size >= policy.size_bytes);
        let along: u64 = rolled[rolled.len() - plan.rolled..].iter().sum();
        prop_assert!(plan.rolled == 0 || size + along <= policy.size_bytes + 256 * 400);
    }

    #[test]
    fn the_number_of_rolled_objects_stays_logarithmic(
        rolls in prop::collection::vec(prop_oneof![257..100_000_u64, 257..64 * MIB], 1..400),
    ) {
        let policy = Policy { objects: 1, ..Policy::default() };
        let mut sizes: Vec<u64> = Vec::new();
        let mut total = 0;
        for roll in rolls {
            let plan = plan(&manifest(&sizes), &[data(roll)], NOW, &policy).unwrap();
            let along: u64 = sizes.split_off(sizes.len() - plan.rolled).iter().sum();
            sizes.push(roll + along);
            total += roll;
        }
        let logarithm = u64::from(policy.size_bytes.ilog2()) + 1;
        let bound = logarithm + 2 * total.div_ceil(policy.size_bytes);
        prop_assert!(sizes.len() as u64 <= bound, "{} > {bound}", sizes.len());
    }
}
