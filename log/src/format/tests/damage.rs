//! Cut, flipped and random bytes: always an error, never a panic, never a value.

use std::fmt::Debug;

use proptest::prelude::*;

use super::sample;
use crate::error::FormatError;
use crate::format::access::AccessFile;
use crate::format::cluster::ClusterFile;
use crate::format::codec::{Encoder, crc32c};
use crate::format::manifest::Manifest;
use crate::format::page::Page;
use crate::format::snapshot::Snapshot;
use crate::format::topics::TopicsFile;
use crate::format::wal_object::{Footer, TailIndex, WalHeader, decode_footer, decode_object, decode_tail};

fn refuses_every_cut_and_flip<T: Debug>(bytes: &[u8], decode: impl Fn(&[u8]) -> Result<T, FormatError>) {
    decode(bytes).unwrap();
    for len in 0..bytes.len() {
        decode(&bytes[..len]).expect_err("cut");
    }
    let mut longer = bytes.to_vec();
    longer.push(0);
    decode(&longer).expect_err("one byte more");
    let mut flipped = bytes.to_vec();
    for bit in 0..bytes.len() * 8 {
        flipped[bit / 8] ^= 1 << (bit % 8);
        decode(&flipped).expect_err("flip");
        flipped[bit / 8] ^= 1 << (bit % 8);
    }
}

#[test]
fn damage_to_wal_objects_shows() {
    refuses_every_cut_and_flip(&sample::epoch(), decode_object);
    refuses_every_cut_and_flip(&sample::data().parts.concat(), decode_object);
    refuses_every_cut_and_flip(&sample::rolled().parts.concat(), decode_object);
}

#[test]
fn damage_to_the_tail_shows_without_the_rest_of_the_object() {
    let object = sample::data();
    let tail = object.parts.last().unwrap();
    refuses_every_cut_and_flip(tail, |bytes| decode_footer(bytes, object.len));
}

#[test]
fn damage_to_the_root_of_a_shard_shows() {
    refuses_every_cut_and_flip(&sample::manifest().encode().unwrap(), Manifest::decode);
    refuses_every_cut_and_flip(&sample::page().encode().unwrap(), Page::decode);
    refuses_every_cut_and_flip(&sample::snapshot().encode().unwrap(), Snapshot::decode);
}

#[test]
fn a_cut_register_is_refused() {
    let cut = |bytes: &[u8], refused: fn(&[u8]) -> bool| {
        (0..bytes.len()).all(|len| refused(&bytes[..len])) && !refused(bytes)
    };
    assert!(cut(&sample::topics().encode().unwrap(), |b| TopicsFile::decode(b).is_err()));
    assert!(cut(&sample::access().encode().unwrap(), |b| AccessFile::decode(b).is_err()));
    assert!(cut(&sample::cluster_redis().encode().unwrap(), |b| ClusterFile::decode(b).is_err()));
}

/// Random bytes that begin like one of the formats and may carry a right checksum, so that they get past the first checks.
fn plausible() -> impl Strategy<Value = Vec<u8>> {
    let magic = prop_oneof![Just(b"FBWALOBJ"), Just(b"FBMANIFE"), Just(b"FBMFPAGE"), Just(b"FBSNAPSH"),];
    (magic, prop::collection::vec(any::<u8>(), 0..400), any::<bool>()).prop_map(|(magic, body, right)| {
        let mut encoder = Encoder::sealed(magic, 1);
        encoder.bytes(&body);
        if right { encoder.seal() } else { encoder.finish() }
    })
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in prop_oneof![any::<Vec<u8>>(), plausible()], position: u64) {
        let _ = WalHeader::decode(&bytes);
        let _ = decode_object(&bytes);
        let _ = decode_tail(&bytes, bytes.len() as u64);
        let _ = Footer::decode(&bytes, position);
        let _ = Manifest::decode(&bytes);
        let _ = Page::decode(&bytes);
        let _ = Snapshot::decode(&bytes);
        let _ = AccessFile::decode(&bytes);
        let _ = ClusterFile::decode(&bytes);
    }

    #[test]
    fn a_changed_footer_with_a_right_checksum_never_panics(at in 0usize..600, byte: u8) {
        let object = sample::data();
        let mut tail = object.parts.last().unwrap().to_vec();
        let footer_len = object.header.footer_len as usize;
        tail[at % footer_len] = byte;
        let crc = crc32c(&tail[..footer_len]);
        tail[footer_len + 12..footer_len + 16].copy_from_slice(&crc.to_be_bytes());
        if let Ok(TailIndex::Complete(footer)) = decode_tail(&tail, object.len) {
            prop_assert_eq!(footer.encode().unwrap(), tail);
        }
    }
}
