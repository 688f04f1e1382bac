//! Finds the frames in a file's bytes, and tells a torn tail from damage. Pure: bytes in, positions out.
//!
//! Frame numbers of a journal have no gaps, and each file begins with a header that names its first frame. So a file
//! that has a successor holds exactly the frames from its first to the successor's first; every one of them was
//! synced before the successor was created. One that is missing there is *damage*. Frames at or above the
//! successor's first are what a crash left of an unsynced tail: the successor's header cut them off.
//!
//! In the last file a frame n is missing when it cannot be read but a later one can. Each frame says below which
//! number everything was synced before it was written.
//! - Some later frame says more than n: n was synced, perhaps acknowledged, and is lost. Damage.
//! - None does: every later frame was written before the sync that would have covered n had returned. The journal
//!   never reported n or any later frame as synced. After a crash any subset of such frames may be on the disk, in any
//!   order of writing, and what follows a hole has no place in the log. The tail is *torn*: cut at n.
//!
//! What this cannot see is damage to the last synced group when nothing was written after it: no byte says that its
//! sync had returned, so it looks torn.

use std::collections::VecDeque;

use crate::mutation::{self, Mutation};

use super::frame::{FILE_HEADER_LEN, FRAME_LEN_MIN, FRAME_MAGIC, FrameNumber, Seal, claim};

/// Checksummed bytes per byte of the file while searching behind a bad frame: bodies may be full of false starts.
const SEARCH_COST_MAX: usize = 16;

/// A frame whose checksum holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Its number.
    pub number: FrameNumber,
    /// What it says about its predecessors: those numbered below this were synced before it was written.
    pub synced_below: FrameNumber,
    /// Where it begins in the file.
    pub position: usize,
    /// Bytes it takes.
    pub len: usize,
}

/// The frames of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scan {
    /// In order; numbers strictly rise.
    pub found: Vec<Found>,
    /// End of the bytes that are not the zeros at the end of the file.
    pub data_end: usize,
    /// Bytes of the file.
    pub len: usize,
    /// False when the search for frames behind a bad one was given up because it got too expensive.
    pub searched: bool,
}

/// Frames that were synced and cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// End of the last good frame before them.
    pub position: usize,
    /// The first one.
    pub first: FrameNumber,
    /// The next good frame, if there is one in this file or the next.
    pub next: Option<FrameNumber>,
}

/// What the last file of a journal holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tail {
    /// One past the last frame that counts.
    pub end: FrameNumber,
    /// Bytes behind it that are cut off.
    pub torn_bytes: usize,
    /// Damage before the end.
    pub gaps: Vec<Gap>,
}

/// Finds the frames of a file. `first` is the first frame by the file's header, `None` when that cannot be read.
///
/// # Cost
///
/// One pass; behind a bad frame at most [`SEARCH_COST_MAX`] checksummed bytes per byte of the file.
pub fn scan(bytes: &[u8], seal: &Seal, first: Option<FrameNumber>) -> Scan {
    let data_end = bytes.iter().rposition(|&b| b != 0).map_or(0, |last| last + 1);
    let mut found: Vec<Found> = Vec::new();
    let mut budget = bytes.len().saturating_mul(SEARCH_COST_MAX);
    let mut good_end = FILE_HEADER_LEN;
    let mut position = FILE_HEADER_LEN;
    while position < data_end {
        let expected = found.last().map(|last| last.number.plus(1)).or(first);
        let claimed = claim(&bytes[position..]).filter(|claimed| {
            // Whatever is missing must have had room between the last good frame and here.
            let room = ((position - good_end) / FRAME_LEN_MIN) as u64;
            expected.is_none_or(|n| n <= claimed.number && claimed.number <= n.plus(room))
        });
        if let Some(claimed) = claimed {
            if position != good_end && budget < claimed.len {
                return Scan { found, data_end, len: bytes.len(), searched: false };
            }
            if seal.holds(&bytes[position..position + claimed.len]) || mutation::is(Mutation::ReplayUnchecked)
            {
                found.push(Found { position, ..claimed });
                position += claimed.len;
                good_end = position;
                continue;
            }
            budget = budget.saturating_sub(claimed.len);
        }
        position = next_magic(bytes, position + 1);
    }
    Scan { found, data_end, len: bytes.len(), searched: true }
}

fn next_magic(bytes: &[u8], from: usize) -> usize {
    let rest = bytes.get(from..).unwrap_or_default();
    rest.windows(FRAME_MAGIC.len()).position(|w| w == FRAME_MAGIC).map_or(bytes.len(), |at| from + at)
}

impl Scan {
    /// Returns the damage in a file that has a successor and so must hold all frames of `first..end`.
    pub fn closed(&self, first: FrameNumber, end: FrameNumber) -> Vec<Gap> {
        let mut gaps = Vec::new();
        let mut expected = first;
        let mut position = FILE_HEADER_LEN;
        for frame in self.found.iter().filter(|frame| first <= frame.number && frame.number < end) {
            if frame.number > expected {
                gaps.push(Gap { position, first: expected, next: Some(frame.number) });
            }
            expected = frame.number.plus(1);
            position = frame.position + frame.len;
        }
        if expected < end {
            gaps.push(Gap { position, first: expected, next: Some(end) });
        }
        gaps
    }

    /// Decides where the last file ends, and what is damaged before that. `first` as in the file's header.
    pub fn tail(&self, first: FrameNumber) -> Tail {
        let mut gaps = Vec::new();
        let mut expected = first;
        let mut position = FILE_HEADER_LEN;
        for (frame, proven_below) in self.found.iter().zip(self.proven_below()) {
            if frame.number > expected {
                // Where the search was given up the proof may lie in what was not searched: better a false alarm.
                let torn = proven_below <= expected && self.searched;
                if torn && mutation::is(Mutation::ReplayPastBadFrame) {
                    expected = frame.number;
                } else if torn {
                    return Tail { end: expected, torn_bytes: self.data_end.saturating_sub(position), gaps };
                }
                if frame.number > expected {
                    gaps.push(Gap { position, first: expected, next: Some(frame.number) });
                }
            }
            expected = frame.number.plus(1);
            position = frame.position + frame.len;
        }
        if self.searched {
            return Tail { end: expected, torn_bytes: self.data_end.saturating_sub(position), gaps };
        }
        gaps.push(Gap { position, first: expected, next: None });
        let lost = (self.len.saturating_sub(position) / FRAME_LEN_MIN) as u64;
        Tail { end: expected.plus(lost), torn_bytes: 0, gaps }
    }

    /// For each frame: the number below which it and the frames after it prove everything synced.
    fn proven_below(&self) -> VecDeque<FrameNumber> {
        let mut proven = VecDeque::with_capacity(self.found.len());
        let mut below = FrameNumber::ZERO;
        for frame in self.found.iter().rev() {
            below = below.max(frame.synced_below);
            proven.push_front(below);
        }
        proven
    }
}
