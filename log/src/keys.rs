//! The name of every object: built and parsed here, nowhere else.
//!
//! Numbers are padded with zeros so that names sort as the numbers do. A name is parsed strictly: whatever is not
//! written exactly as [`Keys`] writes it is a stranger's object.

use object_store::path::Path;

use crate::format::manifest::RolledRef;
use crate::model::{ShardId, Timestamp, WalSeq};

/// The names of a cluster's objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys {
    prefix: Path,
}

impl Keys {
    /// Takes the cluster's prefix in its bucket or folder; empty for none. Slashes at its ends and doubled ones do not
    /// matter; characters that are unsafe in names are percent-encoded.
    pub fn new(prefix: &str) -> Self {
        Self { prefix: Path::from(prefix) }
    }

    /// Returns the prefix.
    pub fn prefix(&self) -> &Path {
        &self.prefix
    }

    /// Returns the register with the cluster's id.
    pub fn cluster(&self) -> Path {
        self.child("cluster.json")
    }

    /// Returns the folder that a store is probed in.
    pub fn probes(&self) -> Path {
        self.child("probe")
    }

    /// Returns the register with all topics.
    pub fn topics(&self) -> Path {
        self.child("meta/topics.json")
    }

    /// Returns the register with API keys and the signing secret.
    pub fn access(&self) -> Path {
        self.child("meta/access.json")
    }

    /// Returns a WAL object: DATA or EPOCH, create-only.
    pub fn wal(&self, shard: ShardId, seq: WalSeq) -> Path {
        self.shard(shard, &format!("wal/{seq:020}"))
    }

    /// Returns the folder of a shard's WAL objects.
    pub fn wal_prefix(&self, shard: ShardId) -> Path {
        self.shard(shard, "wal")
    }

    /// Returns shard and sequence number of a WAL object; none for any other object.
    pub fn parse_wal(&self, path: &Path) -> Option<(ShardId, WalSeq)> {
        let mut parts = path.prefix_match(&self.prefix)?.skip(1);
        let shard = ShardId::new(parts.next()?.as_ref().parse().ok()?);
        let seq = WalSeq::new(parts.nth(1)?.as_ref().parse().ok()?);
        (self.wal(shard, seq) == *path).then_some((shard, seq))
    }

    /// Returns a rolled object: create-only.
    pub fn rolled(&self, shard: ShardId, rolled: &RolledRef) -> Path {
        let RolledRef { first, last, job, .. } = rolled;
        self.shard(shard, &format!("rolled/{first:020}-{last:020}-{job}"))
    }

    /// Returns the folder of a shard's rolled objects.
    pub fn rolled_prefix(&self, shard: ShardId) -> Path {
        self.shard(shard, "rolled")
    }

    /// Returns shard and last sequence number of a rolled object; none for any other object.
    pub fn parse_rolled(&self, path: &Path) -> Option<(ShardId, WalSeq)> {
        let mut parts = path.prefix_match(&self.prefix)?.skip(1);
        let shard = ShardId::new(parts.next()?.as_ref().parse().ok()?);
        let name = parts.nth(1)?;
        let mut fields = name.as_ref().splitn(3, '-');
        let first = WalSeq::new(fields.next()?.parse().ok()?);
        let last = WalSeq::new(fields.next()?.parse().ok()?);
        let job = fields.next()?.parse().ok()?;
        let named = RolledRef { first, last, job, size: 0, append_time_max: Timestamp::default() };
        (self.rolled(shard, &named) == *path).then_some((shard, last))
    }

    /// Returns the register that is a shard's root.
    pub fn manifest(&self, shard: ShardId) -> Path {
        self.shard(shard, "manifest")
    }

    /// Returns a page of the manifest: create-only, named by its hash.
    pub fn page(&self, shard: ShardId, hash: u128) -> Path {
        self.shard(shard, &format!("pages/{hash:032x}"))
    }

    /// Returns the folder of a shard's pages.
    pub fn page_prefix(&self, shard: ShardId) -> Path {
        self.shard(shard, "pages")
    }

    /// Returns shard and hash of a page; none for any other object.
    pub fn parse_page(&self, path: &Path) -> Option<(ShardId, u128)> {
        let (shard, hash) = self.parse_hash(path)?;
        (self.page(shard, hash) == *path).then_some((shard, hash))
    }

    /// Returns a snapshot: create-only, named by its hash.
    pub fn snapshot(&self, shard: ShardId, hash: u128) -> Path {
        self.shard(shard, &format!("snapshots/{hash:032x}"))
    }

    /// Returns the folder of a shard's snapshots.
    pub fn snapshot_prefix(&self, shard: ShardId) -> Path {
        self.shard(shard, "snapshots")
    }

    /// Returns shard and hash of a snapshot; none for any other object.
    pub fn parse_snapshot(&self, path: &Path) -> Option<(ShardId, u128)> {
        let (shard, hash) = self.parse_hash(path)?;
        (self.snapshot(shard, hash) == *path).then_some((shard, hash))
    }

    /// Reads shard and hash of what is named by its content.
    fn parse_hash(&self, path: &Path) -> Option<(ShardId, u128)> {
        let mut parts = path.prefix_match(&self.prefix)?.skip(1);
        let shard = ShardId::new(parts.next()?.as_ref().parse().ok()?);
        Some((shard, u128::from_str_radix(parts.nth(1)?.as_ref(), 16).ok()?))
    }

    fn shard(&self, shard: ShardId, rest: &str) -> Path {
        self.child(&format!("shards/{shard:04}/{rest}"))
    }

    fn child(&self, rest: &str) -> Path {
        rest.split('/').fold(self.prefix.clone(), Path::join)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::SHARDS_MAX;
    use crate::model::JobId;
    use proptest::prelude::*;

    const SHARD: ShardId = ShardId::new(7);

    #[test]
    fn names_are_the_documented_ones() {
        let keys = Keys::new("/team/events/");
        let rolled = RolledRef {
            first: WalSeq::new(64),
            last: WalSeq::new(319),
            job: JobId::new(0xabc),
            size: 1,
            append_time_max: Timestamp::default(),
        };
        let names = [
            (keys.cluster(), "cluster.json"),
            (keys.topics(), "meta/topics.json"),
            (keys.access(), "meta/access.json"),
            (keys.wal(SHARD, WalSeq::new(42)), "shards/0007/wal/00000000000000000042"),
            (keys.wal_prefix(SHARD), "shards/0007/wal"),
            (keys.manifest(SHARD), "shards/0007/manifest"),
            (keys.page(SHARD, 0x1f), "shards/0007/pages/0000000000000000000000000000001f"),
            (keys.snapshot(SHARD, 0x2f), "shards/0007/snapshots/0000000000000000000000000000002f"),
            (
                keys.rolled(SHARD, &rolled),
                "shards/0007/rolled/00000000000000000064-00000000000000000319-00000000000000000000000000000abc",
            ),
        ];
        for (path, name) in names {
            assert_eq!(path.as_ref(), format!("team/events/{name}"));
        }
        assert_eq!(Keys::new("").cluster().as_ref(), "cluster.json");
    }

    #[test]
    fn a_strangers_object_is_no_wal_object() {
        let keys = Keys::new("team");
        for name in [
            "shards/0007/wal/00000000000000000042",
            "team/shards/0007/wal/42",
            "team/shards/0007/wal/+0000000000000000042",
            "team/shards/7/wal/00000000000000000042",
            "team/shards/0007/wal/00000000000000000042/x",
            "team/shards/0007/rolled/00000000000000000042",
            "team/shards/0007/wal/00000000000000000042.tmp",
            "team/shards/0007/wal/99999999999999999999",
            "team/shards/99999/wal/00000000000000000042",
            "teams/shards/0007/wal/00000000000000000042",
            "team/shards/0007/manifest",
            "team",
        ] {
            assert_eq!(keys.parse_wal(&Path::from(name)), None, "{name}");
            assert_eq!(keys.parse_rolled(&Path::from(name)), None, "{name}");
            assert_eq!(keys.parse_snapshot(&Path::from(name)), None, "{name}");
        }
    }

    proptest! {
        #[test]
        fn a_wal_name_is_parsed_back(
            prefix in "[a-z %/é]{0,12}", shard in 0..SHARDS_MAX, seq: u64,
        ) {
            let keys = Keys::new(&prefix);
            let (shard, seq) = (ShardId::new(shard), WalSeq::new(seq));
            let path = keys.wal(shard, seq);
            prop_assert_eq!(keys.parse_wal(&path), Some((shard, seq)));
            prop_assert!(path.prefix_matches(&keys.wal_prefix(shard)));
        }

        #[test]
        fn names_of_rolled_objects_snapshots_and_pages_are_parsed_back(
            prefix in "[a-z %/é]{0,12}", shard in 0..SHARDS_MAX, first: u64, last: u64, hash: u128,
        ) {
            let keys = Keys::new(&prefix);
            let (shard, last) = (ShardId::new(shard), WalSeq::new(last));
            let (first, job) = (WalSeq::new(first), JobId::new(hash));
            let reference = RolledRef { first, last, job, size: 1, append_time_max: Timestamp::default() };
            let rolled = keys.rolled(shard, &reference);
            prop_assert_eq!(keys.parse_rolled(&rolled), Some((shard, last)));
            prop_assert!(rolled.prefix_matches(&keys.rolled_prefix(shard)));
            let snapshot = keys.snapshot(shard, hash);
            prop_assert_eq!(keys.parse_snapshot(&snapshot), Some((shard, hash)));
            prop_assert!(snapshot.prefix_matches(&keys.snapshot_prefix(shard)));
            let page = keys.page(shard, hash);
            prop_assert_eq!(keys.parse_page(&page), Some((shard, hash)));
            prop_assert!(page.prefix_matches(&keys.page_prefix(shard)));
            prop_assert_eq!((keys.parse_page(&snapshot), keys.parse_snapshot(&page)), (None, None));
            prop_assert_eq!((keys.parse_rolled(&snapshot), keys.parse_snapshot(&rolled)), (None, None));
        }

        #[test]
        fn wal_names_sort_as_their_numbers(a: u64, b: u64) {
            let keys = Keys::new("p");
            let (x, y) = (keys.wal(SHARD, WalSeq::new(a)), keys.wal(SHARD, WalSeq::new(b)));
            prop_assert_eq!(a.cmp(&b), x.as_ref().cmp(y.as_ref()));
        }
    }
}
