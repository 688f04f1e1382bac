//! What a roll leaves behind, alone and in a race.

use forebay_compactor::{Policy, roll};
use forebay_log::clock::Clock;
use forebay_log::error::ErrorKind;
use forebay_log::format::manifest::PageRef;
use forebay_log::format::wal_object::encode_epoch;
use forebay_log::limits;
use forebay_log::model::{LeaderEpoch, Nonce, Offset, Timestamp, WalSeq};
use forebay_log::shard::Dedupe;
use forebay_log::store::{Operation, Swap};
use forebay_log::testing::{Moment, Target};

use crate::harness::{Bench, EAGER, partition, read_all, unit};

#[tokio::test(start_paused = true)]
async fn rolled_batches_are_the_stored_ones() {
    let bench = Bench::new();
    bench.fill(40).await;
    let shard = bench.open().await;
    let before = read_all(&shard).await;
    let commit = bench.roll().await.unwrap().unwrap();
    let manifest = bench.manifest().await;
    assert_eq!(commit.manifest, manifest);
    assert_eq!(manifest.rolled.len(), 1);
    let first = WalSeq::new(limits::EPOCH_GAP);
    assert_eq!((manifest.rolled[0].first, manifest.rolled[0].last), (first, first.plus(39)));

    shard.index().adopt(&commit.manifest).await.unwrap();
    commit.garbage.delete(&bench.at).await.unwrap();
    assert_eq!(shard.index().backlog().objects, 0);
    assert_eq!(read_all(&shard).await, before);
    assert_eq!(commit.garbage.keys().len(), 40);
    assert_eq!(bench.objects().await.len(), 3, "manifest, rolled object, snapshot");
    assert_eq!(read_all(&bench.open().await).await, before);
}

#[tokio::test(start_paused = true)]
async fn offsets_and_dedupe_entries_outlive_their_wal_objects() {
    let bench = Bench::new();
    let name = Dedupe { id: 77, producer_epoch: None, first_sequence: 3, body_hash: 5 };
    let shard = bench.open().await;
    bench.append(&shard, unit(0, 4, 10, None)).await;
    let first = bench.append(&shard, unit(0, 2, 10, Some(name))).await;
    drop(shard);
    // Twice, so that the second snapshot is made from the first one.
    for _ in 0..2 {
        let commit = bench.roll().await.unwrap().unwrap();
        commit.garbage.delete(&bench.at).await.unwrap();
        let shard = bench.open().await;
        let again = bench.append(&shard, unit(0, 2, 10, Some(name))).await;
        assert!(again.replayed);
        assert_eq!(again.placements, first.placements);
    }
    let shard = bench.open().await;
    let next = bench.append(&shard, unit(0, 1, 10, None)).await;
    assert_eq!(next.placements[0].base_offset, Offset::new(6));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_rolled_before_it_is_due() {
    let bench = Bench::new();
    assert!(bench.roll().await.unwrap().is_none(), "no manifest");
    bench.fill(3).await;
    assert!(bench.roll_by(&Policy::default()).await.unwrap().is_none());
    let age = i64::try_from(limits::ROLL_AGE.as_millis()).unwrap();
    bench.clock.set(Timestamp::from_millis(1_000_000 + age));
    assert!(bench.roll_by(&Policy::default()).await.unwrap().is_some());
    assert!(bench.roll().await.unwrap().is_none(), "nothing is left");
}

#[tokio::test(start_paused = true)]
async fn epochs_alone_move_the_floor_and_are_never_deleted() {
    let bench = Bench::new();
    for _ in 0..3 {
        drop(bench.open().await);
    }
    let commit = bench.roll().await.unwrap().unwrap();
    assert_eq!(commit.manifest.floor, WalSeq::new(3 * limits::EPOCH_GAP));
    assert_eq!(commit.manifest.epoch_at_floor.get(), 3);
    assert!(commit.manifest.rolled.is_empty() && commit.garbage.keys().is_empty());
    let epochs: Vec<_> =
        commit.manifest.epochs.iter().map(|e| (e.epoch.get(), e.end_seq.map(WalSeq::get))).collect();
    assert_eq!(epochs, [(1, Some(64)), (2, Some(128)), (3, None)]);

    let shard = bench.open().await;
    assert_eq!(shard.epoch().get(), 4);
    bench.append(&shard, unit(0, 1, 10, None)).await;
    let commit = bench.roll().await.unwrap().unwrap();
    commit.garbage.delete(&bench.at).await.unwrap();
    assert_eq!(bench.epochs().await, 4);
    assert_eq!(commit.manifest.epochs.last().map(|e| e.first_seq), Some(WalSeq::new(256)));
}

#[tokio::test(start_paused = true)]
async fn many_small_rolls_leave_few_rolled_objects() {
    let bench = Bench::new();
    let shard = bench.open().await;
    let mut most = 0;
    for n in 0..50 {
        bench.append(&shard, unit(n % 3, 1 + usize::from(n % 7), 200, None)).await;
        let commit = bench.roll().await.unwrap().unwrap();
        shard.index().adopt(&commit.manifest).await.unwrap();
        commit.garbage.delete(&bench.at).await.unwrap();
        most = most.max(commit.manifest.rolled.len());
        assert!(commit.manifest.encode().is_ok());
    }
    assert!(most <= 7, "rolled objects: {most}");
    let left = bench.objects().await.len();
    assert_eq!(left, 2 + bench.manifest().await.rolled.len());
    drop(shard);
    let batches: usize = read_all(&bench.open().await).await.iter().map(|(_, batches)| batches.len()).sum();
    assert_eq!(batches, 50);
}

#[tokio::test(start_paused = true)]
async fn of_two_rolls_at_once_one_counts() {
    let bench = Bench::new();
    bench.fill(10).await;
    let before = read_all(&bench.open().await).await;
    let hold = bench.faulty.hold(Operation::Swap, Moment::Request);
    let (a, b, ()) = tokio::join!(bench.roll(), bench.roll(), async {
        hold.arrived(2).await;
        hold.release();
    });
    let commits: Vec<_> = [a.unwrap(), b.unwrap()].into_iter().flatten().collect();
    assert_eq!(commits.len(), 1);
    assert_eq!(commits[0].manifest, bench.manifest().await);
    commits[0].garbage.delete(&bench.at).await.unwrap();
    assert_eq!(
        bench.names(&bench.at.keys.rolled_prefix(bench.at.shard)).await.len(),
        1,
        "the loser's is gone"
    );
    assert_eq!(read_all(&bench.open().await).await, before);
}

#[tokio::test(start_paused = true)]
async fn a_roll_whose_floor_has_moved_is_thrown_away() {
    let bench = Bench::new();
    bench.fill(10).await;
    let before = read_all(&bench.open().await).await;
    let hold = bench.faulty.hold(Operation::Swap, Moment::Request);
    let (stale, ()) = tokio::join!(bench.roll(), async {
        hold.arrived(1).await;
        let (sound, now) = (bench.sound(), bench.clock.now());
        let commit = roll(&sound, &EAGER, now, &mut bench.rng()).await.unwrap().unwrap();
        commit.garbage.delete(&sound).await.unwrap();
        hold.release();
    });
    assert!(stale.unwrap().is_none());
    assert_eq!(bench.manifest().await.version, 2);
    assert_eq!(bench.objects().await.len(), 3, "the stale roll's object is gone");
    assert_eq!(read_all(&bench.open().await).await, before);
}

#[tokio::test(start_paused = true)]
async fn a_walker_that_the_floor_has_passed_gives_up() {
    let bench = Bench::new();
    bench.fill(10).await;
    let second = bench.at.keys.wal(bench.at.shard, WalSeq::new(limits::EPOCH_GAP + 1));
    let hold = bench.faulty.hold(Target::at(Operation::Get, &second), Moment::Request);
    let (stale, ()) = tokio::join!(bench.roll(), async {
        hold.arrived(1).await;
        let (sound, now) = (bench.sound(), bench.clock.now());
        let commit = roll(&sound, &EAGER, now, &mut bench.rng()).await.unwrap().unwrap();
        commit.garbage.delete(&sound).await.unwrap();
        hold.release();
    });
    assert!(stale.unwrap().is_none());
    assert_eq!(bench.manifest().await.version, 2);
}

#[tokio::test(start_paused = true)]
async fn a_change_elsewhere_in_the_manifest_is_kept() {
    let bench = Bench::new();
    bench.fill(10).await;
    let hold = bench.faulty.hold(Operation::Swap, Moment::Request);
    let page = PageRef { index: 3, hash: 4 };
    let (rolled, ()) = tokio::join!(bench.roll(), async {
        hold.arrived(1).await;
        let sound = bench.sound();
        let (mut manifest, revision) = sound.manifest().await.unwrap().unwrap();
        manifest.version += 1;
        manifest.pages.push(page);
        let key = sound.keys.manifest(sound.shard);
        let swap = sound.store.swap(&key, Some(&revision), manifest.encode().unwrap()).await.unwrap();
        assert!(matches!(swap, Swap::Swapped(_)));
        hold.release();
    });
    let manifest = rolled.unwrap().unwrap().manifest;
    assert_eq!(manifest, bench.manifest().await);
    assert_eq!((manifest.version, &manifest.pages[..], manifest.rolled.len()), (3, &[page][..], 1));
}

#[tokio::test(start_paused = true)]
async fn damage_on_the_path_stops_the_roll_and_changes_nothing() {
    let bench = Bench::new();
    bench.fill(2).await;
    let key = bench.at.keys.wal(bench.at.shard, WalSeq::new(limits::EPOCH_GAP + 2));
    let strange = encode_epoch(
        bench.at.cluster,
        bench.at.shard,
        LeaderEpoch::new(1),
        WalSeq::new(limits::EPOCH_GAP + 2),
        Nonce::new(1),
        Timestamp::default(),
    );
    bench.at.store.create_named_by_content(&key, strange.into()).await.unwrap();
    let before = bench.objects().await;
    assert_eq!(bench.roll().await.unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(bench.objects().await, before);
}

#[tokio::test(start_paused = true)]
async fn offsets_announced_after_damage_are_not_given_out_again() {
    let bench = Bench::new();
    let shard = bench.open_unrecovered().await;
    shard.recovered(true, vec![partition(0)]).await.unwrap();
    shard.flush().await;
    drop(shard);
    let commit = bench.roll().await.unwrap().unwrap();
    assert!(commit.manifest.rolled.is_empty(), "there is nothing to copy");
    assert_eq!(commit.garbage.keys().len(), 1);
    commit.garbage.delete(&bench.at).await.unwrap();
    let shard = bench.open().await;
    let appended = bench.append(&shard, unit(0, 1, 10, None)).await;
    assert_eq!(appended.placements[0].base_offset, Offset::new(limits::OFFSET_JUMP));
}
