//! Decides whether a roll is due and what it takes. Values in, values out.

use std::time::Duration;

use forebay_log::format::manifest::{Manifest, RolledRef};
use forebay_log::format::wal_object::{ObjectKind, WalHeader};
use forebay_log::limits;
use forebay_log::model::Timestamp;
use forebay_log::shard::Backlog;

/// When a roll is due: as soon as one of these is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Objects on the path above the floor.
    pub objects: usize,
    /// Their bytes; also about the most that one roll takes.
    pub size_bytes: u64,
    /// Age of the oldest DATA.
    pub age: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self { objects: limits::ROLL_OBJECTS, size_bytes: limits::ROLL_BYTES, age: limits::ROLL_AGE }
    }
}

impl Policy {
    /// Tells whether so much above the floor is worth a roll.
    pub fn is_due(&self, backlog: &Backlog, now: Timestamp) -> bool {
        let age = i64::try_from(self.age.as_millis()).unwrap_or(i64::MAX);
        let is_old = |oldest: Timestamp| now.as_millis().saturating_sub(oldest.as_millis()) >= age;
        backlog.objects >= self.objects || self.is_full(backlog) || backlog.oldest.is_some_and(is_old)
    }

    /// Tells whether one roll should take no more than this.
    pub fn is_full(&self, taken: &Backlog) -> bool {
        taken.size_bytes >= self.size_bytes
    }
}

/// Adds an object of the path to what a roll takes. EPOCHs count as objects, for they make the path longer, but do
/// not age: they hold nothing.
pub fn take(taken: &mut Backlog, header: &WalHeader) {
    taken.objects += 1;
    taken.size_bytes += header.object_len;
    if header.kind == ObjectKind::Data {
        taken.oldest = taken.oldest.or(Some(header.append_time));
    }
}

/// What a roll takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// The first so many objects of the path.
    pub objects: usize,
    /// The last so many rolled objects of the manifest, to be rolled together with them.
    pub rolled: usize,
}

/// Plans a roll from the headers of the path above a manifest's floor, or of its beginning; none when none is due.
///
/// Rolled objects at the end of the manifest are taken along while they are at most twice as large as all that is
/// taken so far and one roll can hold them. So each remaining one is about twice as large as the next, or the two do
/// not fit into one roll: their number grows with the logarithm of what was rolled, then with its bytes over
/// [`Policy::size_bytes`], and a byte is copied again a logarithmic number of times.
pub fn plan(manifest: &Manifest, path: &[WalHeader], now: Timestamp, policy: &Policy) -> Option<Plan> {
    let mut taken = Backlog::default();
    let mut data_bytes = 0;
    for header in path {
        if policy.is_full(&taken) {
            break;
        }
        take(&mut taken, header);
        if header.kind == ObjectKind::Data {
            data_bytes += header.object_len;
        }
    }
    if taken.objects == 0 || !policy.is_due(&taken, now) {
        return None;
    }
    Some(Plan {
        objects: taken.objects,
        rolled: count_small(&manifest.rolled, data_bytes, policy.size_bytes),
    })
}

/// Counts the rolled objects at the end that are small beside so many bytes. Without DATA there is no new object that
/// could take them in.
fn count_small(rolled: &[RolledRef], data_bytes: u64, limit: u64) -> usize {
    let mut size = data_bytes;
    let is_small = |reference: &&RolledRef| {
        let joined = size.saturating_add(reference.size);
        let small = data_bytes > 0 && reference.size <= size.saturating_mul(2) && joined <= limit;
        size = if small { joined } else { size };
        small
    };
    rolled.iter().rev().take_while(is_small).count()
}

#[cfg(test)]
mod tests;
