//! One step of one object's upload: reading it back from the journal, a PUT, or the reading that its answer calls for.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::spawn_blocking;

use crate::format::wal_object::WalHeader;
use crate::journal::{JournalEntry, JournalError};
use crate::limits;
use crate::model::WalSeq;
use crate::shard::frames::SharedJournal;
use crate::shard::leader::spill::{Loaded, is_unread};
use crate::shard::open::{OpenError, ShardStore, next_pause};
use crate::shard::taker::PutAnswer;

/// What a step found.
#[derive(Debug)]
pub(super) enum Found {
    /// How the PUT ended.
    Put(PutAnswer),
    /// The header at the number, if there is one.
    Header(Option<WalHeader>),
    /// The header at a number where nothing was sent, if there is one.
    Proof(Option<WalHeader>),
    /// Something that no writer of this version wrote.
    Stranger,
    /// The manifest's floor.
    Floor(WalSeq),
    /// What the journal holds.
    Loaded(Loaded),
}

/// A finished step.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) seq: WalSeq,
    pub(super) found: Found,
}

pub(super) async fn put(at: ShardStore, seq: WalSeq, parts: Vec<Bytes>, pause: Duration) -> Step {
    if !pause.is_zero() {
        tokio::time::sleep(pause).await;
    }
    Step { seq, found: Found::Put(at.put(seq, parts).await) }
}

/// Reads until the store answers: without this answer the epoch can neither go on nor end. The pause between two
/// reads is bounded; whoever waits for the append has a deadline of its own.
pub(super) async fn read_back(at: ShardStore, seq: WalSeq) -> Step {
    let mut pause = limits::PUT_BACKOFF_MIN;
    loop {
        match at.wal_header(seq).await {
            Ok(header) => return Step { seq, found: Found::Header(header) },
            Err(OpenError::Format { .. }) => return Step { seq, found: Found::Stranger },
            Err(error) => {
                tracing::warn!(shard.id = %at.shard, wal.seq = %seq, error = %error, "cannot read back");
                tokio::time::sleep(pause).await;
                pause = next_pause(pause);
            }
        }
    }
}

/// Reads a header for a proof of leadership, as [`read_back`] does.
pub(super) async fn prove(at: ShardStore, seq: WalSeq) -> Step {
    let Step { seq, found } = read_back(at, seq).await;
    match found {
        Found::Header(header) => Step { seq, found: Found::Proof(header) },
        found => Step { seq, found },
    }
}

/// Reads frames of the journal back: without them the log cannot go on. A disk that does not give them after
/// [`limits::JOURNAL_READ_ATTEMPTS_MAX`] attempts is not waited for.
pub(super) async fn load(journal: SharedJournal, seq: WalSeq, entries: Vec<JournalEntry>) -> Step {
    let mut pause = limits::PUT_BACKOFF_MIN;
    let entries = Arc::new(entries);
    let mut attempt = 1;
    loop {
        let (from, wanted) = (journal.clone(), Arc::clone(&entries));
        let read = spawn_blocking(move || from.read(&wanted)).await;
        // Its thread fails with the runtime, at the end of the process.
        let loaded = read.unwrap_or_else(|_| entries.iter().map(|_| Err(JournalError::Dead)).collect());
        let unread = loaded.iter().find_map(|loaded| loaded.as_ref().err().filter(|error| is_unread(error)));
        match unread {
            Some(error) if attempt < limits::JOURNAL_READ_ATTEMPTS_MAX => {
                tracing::warn!(error = %error, "cannot read the journal back");
            }
            _ => return Step { seq, found: Found::Loaded(loaded) },
        }
        tokio::time::sleep(pause).await;
        pause = next_pause(pause);
        attempt += 1;
    }
}

/// Reads the floor, as [`read_back`] reads a header.
pub(super) async fn read_floor(at: ShardStore, seq: WalSeq) -> Step {
    let mut pause = limits::PUT_BACKOFF_MIN;
    loop {
        match at.manifest().await {
            Ok(manifest) => {
                let floor = manifest.map_or(WalSeq::ZERO, |(manifest, _)| manifest.floor);
                return Step { seq, found: Found::Floor(floor) };
            }
            Err(error) => {
                tracing::warn!(shard.id = %at.shard, error = %error, "cannot read the floor");
                tokio::time::sleep(pause).await;
                pause = next_pause(pause);
            }
        }
    }
}
