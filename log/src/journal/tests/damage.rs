//! Torn tails are cut, and damage is told.

use super::*;
use crate::journal::scan::Gap;

#[tokio::test]
async fn a_tail_torn_at_any_byte_is_cut_and_appending_goes_on() {
    let whole = file(&[(0, 0), (1, 1), (2, 2)]);
    let last = range_of(&whole, 2);
    for cut in last.clone() {
        for zeros in [0, 100] {
            let mut bytes = whole[..cut].to_vec();
            let data_end = bytes.iter().rposition(|&b| b != 0).unwrap() + 1;
            bytes.resize(cut + zeros, 0);
            let dir = folder(&bytes);
            let (journal, mut replay) = open(dir.path()).await;
            assert_eq!(replay.damage, [], "cut at {cut}");
            assert_eq!(replay.torn_bytes as usize, data_end - last.start, "cut at {cut}");
            assert_eq!(numbers(&mut replay), [0, 1], "cut at {cut}");
            assert_eq!(journal.append(settled(9), false).await.unwrap().number.get(), 2);
            journal.close().await.unwrap();
            let (_, mut replay) = open(dir.path()).await;
            assert_eq!((replay.torn_bytes, replay.damage.len()), (0, 0), "cut at {cut}");
            let replayed = rest(&mut replay);
            assert_eq!(replayed.len(), 3, "cut at {cut}");
            assert_eq!(replayed[2].frame, settled(9));
        }
    }
}

#[tokio::test]
async fn a_flipped_bit_in_a_synced_frame_is_damage_and_later_frames_return() {
    let dir = tempfile::tempdir().unwrap();
    {
        let (journal, _) = open(dir.path()).await;
        for n in 0..5 {
            let number = journal.append(mixed(n), true).await.unwrap().number;
            until_synced(&journal, number).await;
        }
    }
    let path = path_of(dir.path(), 0);
    let mut bytes = fs::read(&path).unwrap();
    let bad = range_of(&bytes, 2);
    bytes[bad.start + 30] ^= 4;
    fs::write(&path, bytes).unwrap();
    let expected = Damage {
        file: 0,
        position: bad.start as u64,
        first: FrameNumber::new(2),
        next: Some(FrameNumber::new(3)),
    };
    // At the second start the file is not the last one any more.
    for _ in 0..2 {
        let (_journal, mut replay) = open(dir.path()).await;
        assert_eq!(replay.damage, [expected]);
        assert_eq!(replay.torn_bytes, 0);
        assert_eq!(numbers(&mut replay), [0, 1, 3, 4]);
    }
}

#[tokio::test]
async fn an_unsynced_group_written_in_part_is_cut_from_its_first_hole() {
    let mut bytes = file(&[(0, 0), (1, 1), (2, 1), (3, 1), (4, 1)]);
    let hole = range_of(&bytes, 2);
    bytes[hole.clone()].fill(0);
    let torn = bytes.len() - hole.start;
    let dir = folder(&bytes);
    let (journal, mut replay) = open(dir.path()).await;
    assert_eq!(replay.damage, []);
    assert!((torn - 2..=torn).contains(&(replay.torn_bytes as usize)), "{}", replay.torn_bytes);
    assert_eq!(numbers(&mut replay), [0, 1]);
    // The frames behind the hole are still in the old file; new ones with their numbers come in their place.
    for n in 2..6 {
        assert_eq!(journal.append(settled(100 + n), false).await.unwrap().number.get(), n);
    }
    journal.close().await.unwrap();
    let (_, mut replay) = open(dir.path()).await;
    assert_eq!(replay.damage, []);
    let frames: Vec<_> = rest(&mut replay).into_iter().map(|replayed| replayed.frame).collect();
    assert_eq!(frames[2..], [settled(102), settled(103), settled(104), settled(105)]);
}

#[test]
fn damage_and_a_torn_tail_in_one_file_are_told_apart() {
    let mut bytes = file(&[(0, 0), (1, 1), (2, 2), (3, 3), (4, 3), (5, 3)]);
    let (damaged, torn) = (range_of(&bytes, 1), range_of(&bytes, 4));
    bytes[damaged.start + 10] ^= 1;
    bytes[torn.start + 10] ^= 1;
    let tail = scan(&bytes, &Seal::new(CLUSTER), Some(FrameNumber::ZERO)).tail(FrameNumber::ZERO);
    let gap = Gap { position: damaged.start, first: FrameNumber::new(1), next: Some(FrameNumber::new(2)) };
    assert_eq!(tail.gaps, [gap]);
    assert_eq!((tail.end.get(), tail.torn_bytes), (4, bytes.len() - torn.start));
}

#[tokio::test]
async fn a_missing_file_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path(), 3).await;
    fill(dir.path(), 3).await;
    fill(dir.path(), 3).await;
    fs::remove_file(path_of(dir.path(), 1)).unwrap();
    let (_, mut replay) = open(dir.path()).await;
    let [damage] = &replay.damage[..] else { panic!("{:?}", replay.damage) };
    assert_eq!((damage.first.get(), damage.next), (3, Some(FrameNumber::new(6))));
    assert_eq!(numbers(&mut replay), [0, 1, 2, 6, 7, 8]);
}

#[tokio::test]
async fn a_shortened_file_that_is_not_the_last_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path(), 3).await;
    fill(dir.path(), 3).await;
    let path = path_of(dir.path(), 0);
    let bytes = fs::read(&path).unwrap();
    let cut = range_of(&bytes, 2);
    fs::write(&path, &bytes[..cut.start + 5]).unwrap();
    let (_, mut replay) = open(dir.path()).await;
    let expected = Damage {
        file: 0,
        position: cut.start as u64,
        first: FrameNumber::new(2),
        next: Some(FrameNumber::new(3)),
    };
    assert_eq!(replay.damage, [expected]);
    assert_eq!(numbers(&mut replay), [0, 1, 3, 4, 5]);
}

#[tokio::test]
async fn a_damaged_header_is_reported_and_the_frames_behind_it_return() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path(), 3).await;
    fill(dir.path(), 3).await;
    let path = path_of(dir.path(), 1);
    let mut bytes = fs::read(&path).unwrap();
    bytes[20] ^= 1;
    fs::write(&path, bytes).unwrap();
    let (_, mut replay) = open(dir.path()).await;
    let third = FrameNumber::new(3);
    assert_eq!(replay.damage, [Damage { file: 1, position: 0, first: third, next: Some(third) }]);
    assert_eq!(numbers(&mut replay), [0, 1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn a_wiped_last_file_is_damage_at_every_start_until_it_is_released() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path(), 3).await;
    fill(dir.path(), 3).await;
    let path = path_of(dir.path(), 1);
    fs::write(&path, vec![0; 500]).unwrap();
    for _ in 0..2 {
        let (journal, mut replay) = open(dir.path()).await;
        assert_eq!(replay.damage[0].first.get(), 3);
        assert!(journal.next_frame().get() > 5, "numbers of lost frames are not given out again");
        assert_eq!(numbers(&mut replay), [0, 1, 2]);
    }
    let (journal, _) = open(dir.path()).await;
    journal.release_below(journal.next_frame());
    journal.close().await.unwrap();
    assert_eq!(open(dir.path()).await.1.damage, []);
}

#[tokio::test]
async fn a_file_whose_creation_was_cut_short_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path(), 3).await;
    let header = FileHeader { cluster: CLUSTER, file: 1, first: FrameNumber::new(3) }.encode();
    for len in [0, 1, FILE_HEADER_LEN - 1] {
        fs::write(path_of(dir.path(), 1), &header[..len]).unwrap();
        let (journal, mut replay) = open(dir.path()).await;
        assert_eq!(replay.damage, [], "{len} bytes");
        assert_eq!(numbers(&mut replay), [0, 1, 2], "{len} bytes");
        assert_eq!(journal.next_frame().get(), 3);
        drop(journal);
        assert_eq!(list(dir.path()).unwrap(), [0, 1]);
    }
}

#[test]
fn the_image_of_a_frame_in_a_torn_body_is_not_a_frame() {
    let forged = image(settled(1), ClusterId::new(0xbad), 2, 2);
    let mut bytes = file(&[(0, 0)]);
    let torn = bytes.len();
    bytes.extend(image(append(1, [forged, vec![1; 100]].concat()), CLUSTER, 1, 1));
    bytes.truncate(bytes.len() - 50);
    let scan = scan(&bytes, &Seal::new(CLUSTER), Some(FrameNumber::ZERO));
    assert_eq!(scan.found.len(), 1);
    let tail = scan.tail(FrameNumber::ZERO);
    assert_eq!((tail.end.get(), tail.torn_bytes, tail.gaps), (1, bytes.len() - torn, vec![]));
}

#[test]
fn a_search_that_gets_too_expensive_ends_in_damage_and_not_in_a_cut() {
    let mut bytes = file(&[(0, 0)]);
    let bad = bytes.len();
    for _ in 0..10_000 {
        bytes.extend(frame::FRAME_MAGIC);
        bytes.extend(100_000_u32.to_be_bytes());
        bytes.extend(1_u64.to_be_bytes());
        bytes.extend(0_u64.to_be_bytes());
        bytes.push(1);
    }
    let scan = scan(&bytes, &Seal::new(CLUSTER), Some(FrameNumber::ZERO));
    assert!(!scan.searched);
    let tail = scan.tail(FrameNumber::ZERO);
    assert_eq!(tail.gaps, [Gap { position: bad, first: FrameNumber::new(1), next: None }]);
    assert!(tail.end.get() > 1);
}
