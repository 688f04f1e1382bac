//! The bytes of every released version, kept in `tests/golden/`. `FOREBAY_WRITE_GOLDEN=1` writes files that are
//! missing; a file that is there is never written again.

use std::fs;
use std::io::Write;
use std::path::Path;

use super::sample;
use crate::format::access::AccessFile;
use crate::format::cluster::ClusterFile;
use crate::format::manifest::Manifest;
use crate::format::page::Page;
use crate::format::snapshot::{self, Snapshot};
use crate::format::topics::TopicsFile;
use crate::format::wal_object::{EncodedObject, WalHeader, decode_object};

/// Returns the bytes of a golden file. `encoded` is what this version writes for its value.
fn golden(name: &str, encoded: &[u8]) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden");
    let path = folder.join(name);
    if !path.exists() && std::env::var("FOREBAY_WRITE_GOLDEN").is_ok_and(|value| value == "1") {
        fs::create_dir_all(&folder).unwrap();
        fs::File::create_new(&path).unwrap().write_all(encoded).unwrap();
    }
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn concat(object: &EncodedObject) -> Vec<u8> {
    object.parts.concat()
}

#[test]
fn wal_epoch_v1() {
    let encoded = sample::epoch();
    let bytes = golden("wal_epoch.v1.bin", &encoded);
    assert_eq!(bytes, encoded);
    let (header, footer) = decode_object(&bytes).unwrap();
    assert_eq!(header.encode()[..], bytes[..]);
    assert!(footer.entries.is_empty());
}

#[test]
fn wal_data_and_rolled_v1() {
    for (name, object) in [("wal_data.v1.bin", sample::data()), ("wal_rolled.v1.bin", sample::rolled())] {
        let bytes = golden(name, &concat(&object));
        assert_eq!(bytes, concat(&object), "{name}");
        assert_eq!(WalHeader::decode(&bytes), Ok(object.header.clone()), "{name}");
        assert_eq!(decode_object(&bytes), Ok((object.header, object.footer)), "{name}");
    }
}

#[test]
fn manifest_v1() {
    let value = sample::manifest();
    let bytes = golden("manifest.v1.bin", &value.encode().unwrap());
    assert_eq!(Manifest::decode(&bytes).as_ref(), Ok(&value));
    assert_eq!(value.encode().unwrap(), bytes);
}

#[test]
fn page_v1() {
    let value = sample::page();
    let bytes = golden("page.v1.bin", &value.encode().unwrap());
    assert_eq!(Page::decode(&bytes).as_ref(), Ok(&value));
    assert_eq!(value.encode().unwrap(), bytes);
}

/// Another release of the compressor may write other bytes, so the content is compared.
#[test]
fn snapshot_v1() {
    let value = sample::snapshot();
    let encoded = value.encode().unwrap();
    let bytes = golden("snapshot.v1.bin", &encoded);
    assert_eq!(Snapshot::decode(&bytes), Ok(value));
    let content = snapshot::decompress(&bytes).unwrap();
    assert_eq!(snapshot::decompress(&encoded).unwrap(), content);
    assert_eq!(encoded[..18], bytes[..18]);
}

#[test]
fn topics_v1() {
    let value = sample::topics();
    let bytes = golden("topics.v1.json", &value.encode().unwrap());
    assert_eq!(TopicsFile::decode(&bytes).as_ref(), Ok(&value));
    assert_eq!(value.encode().unwrap(), bytes);
}

#[test]
fn cluster_v1() {
    for (name, value) in [
        ("cluster_embedded.v1.json", sample::cluster_embedded()),
        ("cluster_redis.v1.json", sample::cluster_redis()),
    ] {
        let bytes = golden(name, &value.encode().unwrap());
        assert_eq!(ClusterFile::decode(&bytes).as_ref(), Ok(&value));
        assert_eq!(value.encode().unwrap(), bytes);
    }
}

#[test]
fn access_v1() {
    let value = sample::access();
    let encoded = value.encode().unwrap();
    let bytes = golden("access.v1.json", &encoded);
    assert_eq!(AccessFile::decode(&bytes), Ok(value));
    assert_eq!(encoded, bytes);
}
