//! What a roll changes in a manifest, so that it can be applied again to a version that somebody else has written
//! meanwhile.

use forebay_log::format::manifest::{EpochEntry, Manifest, RolledRef};
use forebay_log::format::wal_object::WalHeader;
use forebay_log::limits;
use forebay_log::model::{LeaderEpoch, Timestamp, WalSeq};

/// The result of one roll.
#[derive(Debug, Clone)]
pub struct Change {
    /// The floor from which the roll walked. While a manifest still has it, nothing that was read can have been
    /// deleted, and the walk followed the path.
    pub from: WalSeq,
    /// The new floor: the path's position behind what was rolled.
    pub floor: WalSeq,
    /// Epoch of the path there.
    pub epoch_at_floor: LeaderEpoch,
    /// Append time of the last object below it.
    pub append_time_at_floor: Timestamp,
    /// The EPOCHs that were walked.
    pub epochs: Vec<WalHeader>,
    /// Rolled objects that were copied into the new one.
    pub replaced: Vec<RolledRef>,
    /// The new rolled object; none when no DATA with batches was walked.
    pub rolled: Option<RolledRef>,
    /// The snapshot at the new floor.
    pub snapshot: u128,
}

impl Change {
    /// Returns the manifest after this one; none when it no longer fits, and the roll's work is void.
    pub fn apply(&self, manifest: &Manifest) -> Option<Manifest> {
        let referenced = self.replaced.iter().all(|reference| manifest.rolled.contains(reference));
        if manifest.floor != self.from || !referenced {
            return None;
        }
        let mut next = manifest.clone();
        next.version += 1;
        next.floor = self.floor;
        next.epoch_at_floor = self.epoch_at_floor;
        next.append_time_at_floor = self.append_time_at_floor;
        next.snapshot = Some(self.snapshot);
        next.rolled.retain(|reference| !self.replaced.contains(reference));
        next.rolled.extend(self.rolled);
        for header in &self.epochs {
            if let Some(last) = next.epochs.last_mut() {
                last.end_seq.get_or_insert(header.seq);
            }
            next.epochs.push(EpochEntry {
                epoch: header.epoch,
                nonce: header.nonce,
                first_seq: header.seq.plus(manifest.gap),
                end_seq: None,
            });
        }
        let excess = next.epochs.len().saturating_sub(limits::MANIFEST_EPOCHS_MAX);
        next.epochs.drain(..excess);
        Some(next)
    }
}

#[cfg(test)]
mod tests {
    use forebay_log::format::wal_object::encode_epoch;
    use forebay_log::model::{ClusterId, JobId, Nonce, ShardId};

    use super::*;

    fn rolled(first: u64, last: u64) -> RolledRef {
        let job = JobId::new(u128::from(first));
        let (first, last) = (WalSeq::new(first), WalSeq::new(last));
        RolledRef { first, last, job, size: 1, append_time_max: Timestamp::default() }
    }

    fn epoch(number: u32, seq: u64) -> WalHeader {
        let (cluster, shard) = (ClusterId::new(1), ShardId::new(0));
        let (epoch, nonce) = (LeaderEpoch::new(number), Nonce::new(u128::from(number)));
        let body = encode_epoch(cluster, shard, epoch, WalSeq::new(seq), nonce, Timestamp::default());
        WalHeader::decode(&body).unwrap()
    }

    fn manifest() -> Manifest {
        let mut manifest = Manifest::new(ClusterId::new(1), ShardId::new(0));
        manifest.floor = WalSeq::new(100);
        manifest.rolled = vec![rolled(64, 80), rolled(81, 99)];
        manifest
    }

    fn change(epochs: Vec<WalHeader>) -> Change {
        Change {
            from: WalSeq::new(100),
            floor: WalSeq::new(200),
            epoch_at_floor: LeaderEpoch::new(300),
            append_time_at_floor: Timestamp::from_millis(7),
            epochs,
            replaced: vec![rolled(81, 99)],
            rolled: Some(rolled(82, 150)),
            snapshot: 9,
        }
    }

    #[test]
    fn replaced_objects_make_room_for_the_new_one() {
        let next = change(Vec::new()).apply(&manifest()).unwrap();
        assert_eq!(next.rolled, [rolled(64, 80), rolled(82, 150)]);
        assert_eq!((next.version, next.floor, next.snapshot), (2, WalSeq::new(200), Some(9)));
        assert!(next.encode().is_ok());
    }

    #[test]
    fn a_manifest_that_somebody_else_has_changed_elsewhere_still_takes_it() {
        let mut other = manifest();
        other.version = 41;
        other.rolled.remove(0);
        let next = change(Vec::new()).apply(&other).unwrap();
        assert_eq!((next.version, next.rolled), (42, vec![rolled(82, 150)]));
    }

    #[test]
    fn it_is_void_once_the_floor_has_moved_or_an_input_is_gone() {
        let mut moved = manifest();
        moved.floor = WalSeq::new(101);
        assert!(change(Vec::new()).apply(&moved).is_none());
        let mut gone = manifest();
        gone.rolled.pop();
        assert!(change(Vec::new()).apply(&gone).is_none());
    }

    #[test]
    fn each_epoch_ends_where_the_next_one_stands_and_only_the_newest_are_kept() {
        let epochs: Vec<WalHeader> = (1..=300).map(|n| epoch(n, 64 * u64::from(n))).collect();
        let mut change = change(epochs);
        change.floor = WalSeq::new(64 * 301);
        let next = change.apply(&manifest()).unwrap();
        assert_eq!(next.epochs.len(), limits::MANIFEST_EPOCHS_MAX);
        assert!(next.epochs.windows(2).all(|pair| pair[0].end_seq == Some(pair[0].first_seq)));
        let last = next.epochs.last().unwrap();
        assert_eq!((last.epoch.get(), last.first_seq, last.end_seq), (300, WalSeq::new(64 * 301), None));
        assert!(next.encode().is_ok());
    }
}
