//! The bytes of frames and files.

use proptest::prelude::*;

use super::*;

const SETTLED: &str = concat!(
    "f70ba71e0000001a00000000000000050000000000000004040001000000000000000000000000000000020000000000",
    "000009d4181f51",
);
const FROZEN: &str = concat!(
    "f70ba71e0000002a00000000000000050000000000000004020001000000000000000000000000000000020000000000",
    "00000a0000000000000009000000000000000ad41fd512",
);
/// A mark that said what became of one WAL object.
const EARLIER_SETTLED: &str = concat!(
    "f70ba71e0000001b00000000000000050000000000000004030001000000000000000000000000000000020000000000",
    "00000900ff2b1cb0",
);

#[test]
fn a_mark_of_the_earlier_layout_is_passed_over() {
    let byte = |at: usize| u8::from_str_radix(&EARLIER_SETTLED[at..at + 2], 16).unwrap();
    let earlier: Vec<u8> = (0..EARLIER_SETTLED.len()).step_by(2).map(byte).collect();
    assert!(Seal::new(CLUSTER).holds(&earlier));
    assert_eq!(frame::decode(&Bytes::from(earlier)), Ok(None));
}

#[test]
fn the_bytes_of_version_1_do_not_change() {
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let header = FileHeader { cluster: CLUSTER, file: 2, first: FrameNumber::new(3) }.encode();
    assert_eq!(header.len(), FILE_HEADER_LEN);
    assert_eq!(
        hex(&header),
        "46424a524e4c0d0a0001000000000000000000000000000000c100000000000000020000000000000003581fcc36"
    );
    assert_eq!(hex(&image(settled(9), CLUSTER, 5, 4)), SETTLED);
    assert_eq!(hex(&image(mixed(10), CLUSTER, 5, 4)), FROZEN);
    assert_eq!(
        hex(&image(append(9, &b"body"[..]), CLUSTER, 5, 4)),
        concat!(
            "f70ba71e0000008300000000000000050000000000000004010001000000000000000000000000000000020100000000",
            "000000030000000100000000000000000000000000000005000600000000000000090000000100000000000000080000",
            "000400000001000000000000000000000000000000070001000000020000000000000009000000010000000000000003",
            "0000000000000004626f64798da7054c",
        )
    );
}

fn any_frame() -> impl Strategy<Value = Frame> {
    let bodies = prop::collection::vec(any::<u8>(), 0..200);
    prop_oneof![
        (any::<u64>(), prop::collection::vec(bodies, 0..5)).prop_map(|(offset, bodies)| {
            let Frame::Append { shard, nonce, level, append_time, batches } = append(offset, vec![]) else {
                unreachable!()
            };
            let batch = |body: Vec<u8>| JournalBatch { bytes: body.into(), ..batches[0].clone() };
            let batches = bodies.into_iter().map(batch).collect();
            Frame::Append { shard, nonce, level, append_time, batches }
        }),
        any::<u64>().prop_map(|n| mixed(n / 3 * 3 + 1)),
        any::<u64>().prop_map(settled),
    ]
}

proptest! {
    #[test]
    fn every_frame_comes_back(frame in any_frame(), number in 1..u64::MAX) {
        let bytes = Bytes::from(image(frame.clone(), CLUSTER, number, number - 1));
        prop_assert!(Seal::new(CLUSTER).holds(&bytes));
        prop_assert!(!Seal::new(ClusterId::new(1)).holds(&bytes));
        prop_assert_eq!(frame::decode(&bytes), Ok(Some(frame)));
        let claimed = frame::claim(&bytes).unwrap();
        prop_assert_eq!((claimed.number.get(), claimed.len), (number, bytes.len()));
        prop_assert_eq!(claimed.synced_below.get(), number - 1);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = frame::decode(&Bytes::from(bytes.clone()));
        let _ = FileHeader::decode(&bytes);
        let scan = scan(&bytes, &Seal::new(CLUSTER), None);
        prop_assert_eq!(scan.found, vec![]);
    }

    #[test]
    fn a_corrupted_file_yields_only_frames_that_were_written(
        synced in prop::collection::vec(any::<bool>(), 1..20),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 1..40_usize), 0..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut below = 0;
        let frames: Vec<(u64, u64)> = (0..).zip(&synced).map(|(n, &sync)| {
            below = if sync { n } else { below };
            (n, below)
        }).collect();
        let whole = file(&frames);
        let seal = Seal::new(CLUSTER);
        let written = scan(&whole, &seal, Some(FrameNumber::ZERO)).found;
        prop_assert_eq!(written.len(), frames.len());
        let mut bytes = whole.clone();
        for (at, value, len) in edits {
            let at = at.index(bytes.len());
            let end = bytes.len().min(at + len);
            bytes[at..end].fill(value);
        }
        bytes.truncate(cut.index(bytes.len()) + 1);
        let found = scan(&bytes, &seal, Some(FrameNumber::ZERO));
        prop_assert!(found.found.iter().all(|frame| written.contains(frame)));
        let tail = found.tail(FrameNumber::ZERO);
        // Nothing that a surviving frame proves as synced is cut silently.
        let kept = |n: u64| n < tail.end.get();
        let proven = found.found.iter().map(|frame| frame.synced_below.get()).max().unwrap_or(0);
        prop_assert!((0..proven).all(kept));
        let gaps = found.closed(FrameNumber::ZERO, FrameNumber::new(frames.len() as u64));
        let missing: u64 = gaps.iter().map(|gap| gap.next.unwrap().get() - gap.first.get()).sum();
        prop_assert_eq!(missing as usize + found.found.len(), frames.len());
    }
}
