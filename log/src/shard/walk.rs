//! The path: which objects of a shard belong to its log.

use crate::format::wal_object::{ObjectKind, WalHeader};
use crate::model::{ClusterId, LeaderEpoch, Nonce, ShardId, Timestamp, WalSeq};
use crate::shard::taker::Leadership;

/// An object on the path that no writer following the rules could have put there.
///
/// The shard must stop: going on could skip or repeat records.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathFault {
    /// The object says it is another object than its key says.
    #[error("object is not what its key says: seq={seq} field={field}")]
    Identity {
        /// Where on the path.
        seq: WalSeq,
        /// What differs.
        field: &'static str,
    },
    /// DATA of another epoch than the path's.
    #[error("data of another epoch: seq={seq} found={found} expected={expected}")]
    DataEpoch {
        /// Where on the path.
        seq: WalSeq,
        /// The object's epoch.
        found: LeaderEpoch,
        /// The path's epoch.
        expected: LeaderEpoch,
    },
    /// An EPOCH that does not rise.
    #[error("epoch does not rise: seq={seq} found={found} current={current}")]
    EpochOrder {
        /// Where on the path.
        seq: WalSeq,
        /// The object's epoch.
        found: LeaderEpoch,
        /// The path's epoch.
        current: LeaderEpoch,
    },
    /// Offsets that do not continue.
    #[error("offsets do not continue: seq={seq} found={found} expected={expected}")]
    Offsets {
        /// Where on the path.
        seq: WalSeq,
        /// The base offset found.
        found: u64,
        /// The offset expected.
        expected: u64,
    },
}

/// A position on the path, moved by each object found there.
#[derive(Debug, Clone)]
pub struct Walk {
    cluster: ClusterId,
    shard: ShardId,
    gap: u64,
    position: WalSeq,
    epoch: LeaderEpoch,
    nonce: Option<Nonce>,
    append_time: Timestamp,
}

impl Walk {
    /// Starts at the floor of a manifest.
    pub fn from_manifest(manifest: &crate::format::manifest::Manifest) -> Self {
        let open = manifest.epochs.last().filter(|e| e.epoch == manifest.epoch_at_floor);
        Self {
            cluster: manifest.cluster,
            shard: manifest.shard,
            gap: manifest.gap,
            position: manifest.floor,
            epoch: manifest.epoch_at_floor,
            nonce: open.map(|e| e.nonce),
            append_time: manifest.append_time_at_floor,
        }
    }

    /// Starts where a leadership begins to write.
    pub(crate) fn of_leadership(leadership: &Leadership) -> Self {
        let Leadership { manifest, epoch, nonce, first_seq, append_time, .. } = leadership;
        Self {
            position: *first_seq,
            epoch: *epoch,
            nonce: Some(*nonce),
            append_time: *append_time,
            ..Self::from_manifest(manifest)
        }
    }

    /// Returns the next number to look at. While it is absent, it is the tail.
    pub fn position(&self) -> WalSeq {
        self.position
    }

    /// Returns the epoch of the path here; at the tail, the highest ever.
    pub fn epoch(&self) -> LeaderEpoch {
        self.epoch
    }

    /// Returns the append time of the newest object so far. Never decreases along the path.
    pub fn append_time(&self) -> Timestamp {
        self.append_time
    }

    /// Moves over numbers that were not looked at, as the rules never do.
    pub(crate) fn jump_to(&mut self, position: WalSeq) {
        self.position = position;
    }

    /// Tells whether an object is the DATA that belongs at [`Self::position`].
    pub(crate) fn is_next(&self, header: &WalHeader) -> bool {
        header.kind == ObjectKind::Data && self.clone().accept(header).is_ok()
    }

    /// Checks the object found at [`Self::position`] and moves past it (R2 to R5 of the protocol).
    ///
    /// # Errors
    /// A [`PathFault`] is for ever: the shard must stop with an alarm.
    pub fn accept(&mut self, header: &WalHeader) -> Result<(), PathFault> {
        let seq = self.position;
        let identity = |field| PathFault::Identity { seq, field };
        if header.seq != seq {
            return Err(identity("seq"));
        }
        if header.cluster != self.cluster {
            return Err(identity("cluster"));
        }
        if header.shard != self.shard {
            return Err(identity("shard"));
        }
        match header.kind {
            ObjectKind::Data => {
                if header.epoch != self.epoch {
                    let (found, expected) = (header.epoch, self.epoch);
                    return Err(PathFault::DataEpoch { seq, found, expected });
                }
                if self.nonce.is_some_and(|nonce| nonce != header.nonce) {
                    return Err(identity("nonce"));
                }
                self.position = seq.plus(1);
            }
            ObjectKind::Epoch => {
                if header.epoch <= self.epoch {
                    let (found, current) = (header.epoch, self.epoch);
                    return Err(PathFault::EpochOrder { seq, found, current });
                }
                self.position = seq.plus(self.gap);
                self.epoch = header.epoch;
                self.nonce = Some(header.nonce);
            }
            ObjectKind::Rolled => return Err(identity("kind")),
        }
        self.append_time = self.append_time.max(header.append_time);
        Ok(())
    }
}
