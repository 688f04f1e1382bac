use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::error::FormatError;
use crate::format::tests::{sample, strategy};
use crate::limits::ROLLED_EXTENT_BYTES;
use crate::model::{Offset, WalSeq};

fn offsets(entries: &[IndexEntry]) -> Vec<(u64, u64, u32)> {
    entries.iter().map(|entry| (entry.base_offset.get(), entry.end_offset.get(), entry.count)).collect()
}

fn slice(object: &[u8], entry: &IndexEntry) -> Vec<u8> {
    let start = usize::try_from(entry.position).unwrap();
    object[start..start + entry.length as usize].to_vec()
}

#[test]
fn an_epoch_is_a_header_and_data_is_longer() {
    let epoch = sample::epoch();
    assert_eq!(epoch.len(), WAL_HEADER_LEN);
    let (header, footer) = decode_object(&epoch).unwrap();
    assert_eq!(header.kind, ObjectKind::Epoch);
    assert_eq!(footer, Footer::default());
    assert!(sample::data().len > WAL_HEADER_LEN as u64);
    assert_eq!(decode_tail(&epoch, 256), Err(FormatError::Magic { what: "wal footer" }));
}

#[test]
fn the_header_is_read_from_a_longer_object() {
    let object = sample::data();
    assert_eq!(WalHeader::decode(&object.parts.concat()), Ok(object.header.clone()));
    assert_eq!(object.header.encode()[..], object.parts[0][..]);
}

#[test]
fn batches_are_grouped_by_partition_in_the_order_of_arrival() {
    let object = sample::data();
    let bytes = object.parts.concat();
    assert_eq!(bytes.len() as u64, object.len);
    let (_, footer) = decode_object(&bytes).unwrap();
    let texts: Vec<_> = footer.entries.iter().map(|entry| slice(&bytes, entry)).collect();
    assert_eq!(texts, [&b"first"[..], b"another partition", b"batch of two partsfollows"]);
    assert_eq!(offsets(footer.partition(sample::partition(9, 1))), [(20, 30, 10)]);
    assert_eq!(footer.partition(sample::partition(9, 2)), []);
    let dedupe: Vec<_> =
        footer.dedupe_entries().map(|(p, entry)| (p.partition.get(), entry.base_offset.get())).collect();
    assert_eq!(dedupe, [(0, 7), (1, 20), (1, 23), (1, 25)]);
}

#[test]
fn batches_are_not_copied() {
    let batch = Bytes::from(vec![7; 1000]);
    let mut builder = ObjectBuilder::new(sample::identity(ObjectKind::Data));
    builder.push(sample::extent(sample::partition(1, 0), 0, 1), [batch.clone()], []).unwrap();
    let object = builder.finish().unwrap();
    assert_eq!(object.parts.len(), 3);
    assert_eq!(object.parts[1].as_ptr(), batch.as_ptr());
}

#[test]
fn a_long_run_of_a_rolled_object_is_indexed_in_extents() {
    let mut builder = ObjectBuilder::new(sample::identity(ObjectKind::Rolled));
    let partition = sample::partition(1, 0);
    let batch = Bytes::from(vec![7; ROLLED_EXTENT_BYTES / 2]);
    for base in 0..5 {
        let extent = sample::extent(partition, base, base + 1);
        builder.push(extent, [batch.clone()], [sample::dedupe(base, 1)]).unwrap();
    }
    let footer = builder.finish().unwrap().footer;
    assert_eq!(offsets(&footer.entries), [(0, 2, 2), (2, 4, 2), (4, 5, 1)]);
    let indexes: Vec<_> = footer.dedupe.iter().map(|(index, _)| *index).collect();
    assert_eq!(indexes, [0, 0, 1, 1, 2]);
}

#[test]
fn a_jump_starts_an_extent_in_a_rolled_object_and_is_refused_in_data() {
    let footer = sample::rolled().footer;
    assert_eq!(offsets(footer.partition(sample::partition(9, 1))), [(20, 30, 10), (1000, 1030, 30)]);
    for (kind, base, fits) in [
        (ObjectKind::Rolled, 6, true),
        (ObjectKind::Data, 5, true),
        (ObjectKind::Data, 6, false),
        (ObjectKind::Data, 4, false),
        (ObjectKind::Rolled, 4, false),
    ] {
        let mut builder = ObjectBuilder::new(sample::identity(kind));
        let partition = sample::partition(1, 0);
        let batch = Bytes::from_static(b"batch");
        builder.push(sample::extent(partition, 0, 5), [batch.clone()], []).unwrap();
        let pushed = builder.push(sample::extent(partition, base, 9), [batch], []);
        assert_eq!(pushed.is_ok(), fits, "{kind:?} {base}");
    }
}

#[test]
fn what_no_reader_would_accept_is_not_built() {
    let push = |extent, parts: &[Bytes], dedupe| {
        let mut builder = ObjectBuilder::new(sample::identity(ObjectKind::Data));
        builder.push(extent, parts.iter().cloned(), dedupe)
    };
    let batch = [Bytes::from_static(b"batch")];
    let extent = sample::extent(sample::partition(1, 0), 5, 8);
    assert!(push(extent, &batch, Some(sample::dedupe(5, 3))).is_ok());
    assert!(push(extent, &[], None).is_err());
    assert!(push(extent, &[Bytes::new()], None).is_err());
    assert!(push(extent, &batch, Some(sample::dedupe(4, 2))).is_err());
    assert!(push(extent, &batch, Some(sample::dedupe(7, 2))).is_err());
    assert!(push(Extent { count: 4, ..extent }, &batch, None).is_err());
    assert!(push(Extent { count: 0, ..extent }, &batch, None).is_err());
    assert!(push(Extent { end_offset: Offset::new(5), ..extent }, &batch, None).is_err());

    assert!(ObjectBuilder::new(sample::identity(ObjectKind::Data)).finish().is_err());
    let wrong = [
        ObjectIdentity { last_seq: WalSeq::new(66), ..sample::identity(ObjectKind::Data) },
        ObjectIdentity { seq: WalSeq::new(999), ..sample::identity(ObjectKind::Rolled) },
        ObjectIdentity { jump: true, ..sample::identity(ObjectKind::Rolled) },
        sample::identity(ObjectKind::Epoch),
    ];
    for identity in wrong {
        let mut builder = ObjectBuilder::new(identity.clone());
        builder.push(extent, batch.clone(), []).unwrap();
        assert!(builder.finish().is_err(), "{identity:?}");
    }
}

#[test]
fn a_jump_may_announce_offsets_without_a_batch() {
    let (announced, continued) = (sample::partition(1, 0), sample::partition(1, 1));
    let push_all = |identity: ObjectIdentity, with_batch: bool| {
        let mut builder = ObjectBuilder::new(identity);
        builder.push(Extent { count: 0, ..sample::extent(announced, 1000, 1000) }, [], [])?;
        if with_batch {
            builder.push(sample::extent(announced, 1000, 1002), [Bytes::from_static(b"batch")], [])?;
            builder.push(sample::extent(continued, 5, 6), [Bytes::from_static(b"other")], [])?;
        }
        builder.finish()
    };
    let jump = ObjectIdentity { jump: true, ..sample::identity(ObjectKind::Data) };
    for (with_batch, entries) in [(false, vec![(1000, 1000, 0)]), (true, vec![(1000, 1002, 2), (5, 6, 1)])] {
        let object = push_all(jump.clone(), with_batch).unwrap();
        let bytes = object.parts.concat();
        assert!(object.len > WAL_HEADER_LEN as u64, "longer than an EPOCH");
        assert_eq!(decode_object(&bytes), Ok((object.header.clone(), object.footer.clone())));
        assert_eq!(decode_tail(&bytes, object.len), Ok(TailIndex::Complete(object.footer.clone())));
        assert_eq!(offsets(&object.footer.entries), entries);
    }
    for refused in [sample::identity(ObjectKind::Data), sample::identity(ObjectKind::Rolled)] {
        assert!(push_all(refused, false).is_err());
    }
}

#[test]
fn a_suffix_holds_the_index_or_says_what_to_read() {
    let object = sample::data();
    let bytes = object.parts.concat();
    let footer_start = usize::try_from(object.header.footer_position).unwrap();
    for start in 0..=bytes.len() - TRAILER_LEN {
        let tail = decode_tail(&bytes[start..], object.len).unwrap();
        if start <= footer_start {
            assert_eq!(tail, TailIndex::Complete(object.footer.clone()));
        } else {
            assert_eq!(tail, TailIndex::NeedsRange(object.header.footer_position..object.len));
            assert!(decode_footer(&bytes[start..], object.len).is_err());
        }
    }
    assert_eq!(decode_footer(&bytes[footer_start..], object.len), Ok(object.footer.clone()));
    assert!(decode_tail(&bytes, object.len + 1).is_err());
    assert!(decode_tail(&bytes, object.len - 1).is_err());
}

#[test]
fn a_footer_whose_entries_do_not_tile_the_object_is_refused() {
    let sound = sample::data().footer;
    assert!(sound.encode().is_ok());
    let refused = |change: fn(&mut Footer)| {
        let mut footer = sound.clone();
        change(&mut footer);
        footer.encode().is_err()
    };
    assert!(refused(|footer| footer.entries[0].position += 1));
    assert!(refused(|footer| footer.entries[1].length += 1));
    assert!(refused(|footer| footer.entries[1].length = 0));
    assert!(refused(|footer| footer.entries[0].partition = footer.entries[2].partition));
    assert!(refused(|footer| footer.entries[0].end_offset = Offset::ZERO));
    assert!(refused(|footer| footer.entries[0].count = 2));
    assert!(refused(|footer| footer.entries.clear()));
    assert!(refused(|footer| footer.dedupe[0].0 = 3));
    assert!(refused(|footer| footer.dedupe.swap(0, 1)));
    assert!(refused(|footer| footer.dedupe[0].1.base_offset = Offset::new(99)));
}

#[test]
fn data_with_two_entries_of_a_partition_is_refused() {
    let mut builder = ObjectBuilder::new(sample::identity(ObjectKind::Rolled));
    let partition = sample::partition(1, 0);
    for base in [0, 10] {
        let batch = Bytes::from_static(b"batch");
        builder.push(sample::extent(partition, base, base + 5), [batch], []).unwrap();
    }
    let object = builder.finish().unwrap();
    let mut bytes = object.parts.concat();
    assert!(decode_object(&bytes).is_ok());
    let data = WalHeader { kind: ObjectKind::Data, last_seq: object.header.seq, ..object.header };
    bytes[..WAL_HEADER_LEN].copy_from_slice(&data.encode());
    assert_eq!(decode_object(&bytes), Err(FormatError::Field { what: "wal object", field: "entries" }));
}

proptest! {
    #[test]
    fn every_object_comes_back(pushes in strategy::pushes(), rolled: bool) {
        let kind = if rolled { ObjectKind::Rolled } else { ObjectKind::Data };
        let mut builder = ObjectBuilder::new(sample::identity(kind));
        for (extent, parts, dedupe) in &pushes {
            builder.push(*extent, parts.clone(), *dedupe).unwrap();
        }
        let batch_bytes: usize = pushes.iter().flat_map(|(_, parts, _)| parts).map(Bytes::len).sum();
        let object = builder.finish().unwrap();
        let bytes = object.parts.concat();
        prop_assert_eq!(object.len, bytes.len() as u64);
        prop_assert_eq!(object.header.footer_position, (WAL_HEADER_LEN + batch_bytes) as u64);
        prop_assert_eq!(object.header.footer_len as usize + TRAILER_LEN, object.parts.last().unwrap().len());
        let (header, footer) = decode_object(&bytes).unwrap();
        prop_assert_eq!(&header, &object.header);
        prop_assert_eq!(&footer, &object.footer);

        for partition in footer.entries.iter().map(|entry| entry.partition) {
            let pushed = pushes.iter().filter(|(extent, ..)| extent.partition == partition);
            let expected: Vec<u8> = pushed.flat_map(|(_, parts, _)| parts.concat()).collect();
            let entries = footer.partition(partition).iter();
            let stored: Vec<u8> = entries.flat_map(|entry| slice(&bytes, entry)).collect();
            prop_assert_eq!(stored, expected);
        }
        let dedupe = pushes.iter().filter(|(.., dedupe)| dedupe.is_some()).count();
        prop_assert_eq!(footer.dedupe_entries().count(), dedupe);
    }
}
