//! The root of a shard: what has been rolled and merged, and the *floor*, the first WAL sequence number still needed.
//!
//! A sealed binary structure of at most [`MANIFEST_BYTES_MAX`] bytes, changed only by compare-and-swap. Everything
//! larger (pages, snapshot, rolled objects) is uploaded first and referred to by name, so that one swap commits it.
//!
//! Layout after magic and version (2 bytes): version (8), cluster (16), shard (2), gap (8), floor (8), epoch at floor
//! (4), append time at floor (8), snapshot there (1) and its name (16), then three lists, each with its number of
//! entries (4): epochs (36 each), rolled objects (48), pages (18).

use bytes::Bytes;

use crate::error::FormatError;
use crate::format::codec::{Decoder, Encoder, ensure, ensure_size};
use crate::limits::{EPOCH_GAP, MANIFEST_BYTES_MAX, MANIFEST_EPOCHS_MAX};
use crate::model::{ClusterId, JobId, LeaderEpoch, Nonce, ShardId, Timestamp, WalSeq};

const WHAT: &str = "manifest";
const MAGIC: &[u8; 8] = b"FBMANIFE";
const VERSION: u16 = 1;
const EPOCH_LEN: usize = 36;
/// Stands for the end of an epoch that has not ended; no log comes near this number.
const LASTS: u64 = u64::MAX;
const ROLLED_LEN: usize = 48;
const PAGE_LEN: usize = 18;

/// One leadership on the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochEntry {
    /// Its number.
    pub epoch: LeaderEpoch,
    /// Nonce of its EPOCH object.
    pub nonce: Nonce,
    /// Sequence number of its first DATA: the gap after its EPOCH.
    pub first_seq: WalSeq,
    /// Sequence number of the EPOCH that ended it, which is the first that is not its own; none while it lasts.
    pub end_seq: Option<WalSeq>,
}

/// A rolled object: WAL objects `first` to `last` in one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RolledRef {
    /// First sequence number in it.
    pub first: WalSeq,
    /// Last sequence number in it.
    pub last: WalSeq,
    /// The attempt that wrote it; part of its name.
    pub job: JobId,
    /// Bytes of the object.
    pub size: u64,
    /// Newest append time in it.
    pub append_time_max: Timestamp,
}

/// A page with the segments of up to 256 partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageRef {
    /// Its place in the list of pages.
    pub index: u16,
    /// Its name: [`hash128`](crate::format::codec::hash128) of its bytes.
    pub hash: u128,
}

/// The root of one shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// 1 at creation, one more with each swap.
    pub version: u64,
    /// The cluster it belongs to.
    pub cluster: ClusterId,
    /// The shard it describes.
    pub shard: ShardId,
    /// G: how much further than an EPOCH the path goes on. Written at creation, never changed.
    pub gap: u64,
    /// Where the path starts: WAL objects below are rolled, or were never on the path. Never decreases.
    pub floor: WalSeq,
    /// Epoch of the path at the floor; 0 before the first EPOCH.
    pub epoch_at_floor: LeaderEpoch,
    /// Append time of the last DATA below the floor: the next leader's is not earlier. 0 before the first.
    pub append_time_at_floor: Timestamp,
    /// The newest epochs, ascending, at most [`MANIFEST_EPOCHS_MAX`].
    pub epochs: Vec<EpochEntry>,
    /// Name of the snapshot at the floor; none while the floor is where it began.
    pub snapshot: Option<u128>,
    /// Rolled objects with data not merged yet, ascending.
    pub rolled: Vec<RolledRef>,
    /// Pages, by index.
    pub pages: Vec<PageRef>,
}

impl Manifest {
    /// Returns the manifest of a new shard.
    pub fn new(cluster: ClusterId, shard: ShardId) -> Self {
        Self {
            version: 1,
            cluster,
            shard,
            gap: EPOCH_GAP,
            floor: WalSeq::ZERO,
            epoch_at_floor: LeaderEpoch::ZERO,
            append_time_at_floor: Timestamp::default(),
            epochs: Vec::new(),
            snapshot: None,
            rolled: Vec::new(),
            pages: Vec::new(),
        }
    }

    /// Encodes the manifest.
    ///
    /// # Errors
    /// [`FormatError::TooLarge`] past a cap, [`FormatError::Field`] for what no reader would accept. Nothing was
    /// written; a retry does not help.
    pub fn encode(&self) -> Result<Bytes, FormatError> {
        self.check()?;
        let mut encoder = Encoder::sealed(MAGIC, VERSION);
        encoder
            .u64(self.version)
            .u128(self.cluster.get())
            .u16(self.shard.get())
            .u64(self.gap)
            .u64(self.floor.get())
            .u32(self.epoch_at_floor.get())
            .timestamp(self.append_time_at_floor)
            .optional(self.snapshot);
        encoder.count(self.epochs.len());
        for entry in &self.epochs {
            encoder.u32(entry.epoch.get()).u128(entry.nonce.get());
            encoder.u64(entry.first_seq.get()).u64(entry.end_seq.map_or(LASTS, WalSeq::get));
        }
        encoder.count(self.rolled.len());
        for rolled in &self.rolled {
            encoder.u64(rolled.first.get()).u64(rolled.last.get()).u128(rolled.job.get());
            encoder.u64(rolled.size).timestamp(rolled.append_time_max);
        }
        encoder.count(self.pages.len());
        for page in &self.pages {
            encoder.u16(page.index).u128(page.hash);
        }
        let bytes = encoder.seal();
        ensure_size(bytes.len(), MANIFEST_BYTES_MAX, WHAT)?;
        Ok(Bytes::from(bytes))
    }

    /// Decodes a manifest.
    ///
    /// # Errors
    /// Any [`FormatError`]; the shard must not be served. A retry only helps if the store gave wrong bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        ensure_size(bytes.len(), MANIFEST_BYTES_MAX, WHAT)?;
        let mut decoder = Decoder::sealed(WHAT, MAGIC, VERSION, bytes)?;
        let mut manifest = Self {
            version: decoder.u64()?,
            cluster: ClusterId::new(decoder.u128()?),
            shard: ShardId::new(decoder.u16()?),
            gap: decoder.u64()?,
            floor: WalSeq::new(decoder.u64()?),
            epoch_at_floor: LeaderEpoch::new(decoder.u32()?),
            append_time_at_floor: decoder.timestamp()?,
            snapshot: decoder.optional()?,
            epochs: Vec::new(),
            rolled: Vec::new(),
            pages: Vec::new(),
        };
        for _ in 0..decoder.count(EPOCH_LEN)? {
            manifest.epochs.push(EpochEntry {
                epoch: LeaderEpoch::new(decoder.u32()?),
                nonce: Nonce::new(decoder.u128()?),
                first_seq: WalSeq::new(decoder.u64()?),
                end_seq: Some(decoder.u64()?).filter(|end| *end != LASTS).map(WalSeq::new),
            });
        }
        for _ in 0..decoder.count(ROLLED_LEN)? {
            manifest.rolled.push(RolledRef {
                first: WalSeq::new(decoder.u64()?),
                last: WalSeq::new(decoder.u64()?),
                job: JobId::new(decoder.u128()?),
                size: decoder.u64()?,
                append_time_max: decoder.timestamp()?,
            });
        }
        for _ in 0..decoder.count(PAGE_LEN)? {
            manifest.pages.push(PageRef { index: decoder.u16()?, hash: decoder.u128()? });
        }
        decoder.finish()?;
        manifest.check()?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), FormatError> {
        ensure(self.version > 0, WHAT, "version")?;
        ensure(self.gap > 0, WHAT, "gap")?;
        ensure_size(self.epochs.len(), MANIFEST_EPOCHS_MAX, WHAT)?;
        let sound =
            |entry: &EpochEntry| entry.end_seq.is_none_or(|end| entry.first_seq <= end && end.get() < LASTS);
        ensure(self.epochs.iter().all(sound), WHAT, "epoch")?;
        let follows = |pair: &[EpochEntry]| {
            let ended = pair[0].end_seq.is_some_and(|end| end < pair[1].first_seq);
            ended && pair[0].epoch < pair[1].epoch
        };
        ensure(self.epochs.windows(2).all(follows), WHAT, "order of epochs")?;
        let sound = |rolled: &RolledRef| rolled.first <= rolled.last && rolled.last < self.floor;
        ensure(self.rolled.iter().all(sound), WHAT, "rolled object")?;
        let ascending = self.rolled.windows(2).all(|pair| pair[0].last < pair[1].first);
        ensure(ascending, WHAT, "order of rolled objects")?;
        let ascending = self.pages.windows(2).all(|pair| pair[0].index < pair[1].index);
        ensure(ascending, WHAT, "order of pages")
    }
}
