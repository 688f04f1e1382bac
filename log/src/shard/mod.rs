//! The shard log: who may write, what counts, who recovers, what may be read.
//!
//! A shard's write-ahead log is a run of create-only objects, numbered by [`WalSeq`](crate::model::WalSeq). What
//! belongs to the log is decided by the *path*: it starts at the manifest's floor; DATA leads to the next number; an
//! EPOCH leads [`EPOCH_GAP`](crate::limits::EPOCH_GAP) numbers further on; the first absent number ends it. No
//! leader writes further ahead than that gap, so a leader that lost its shard can never reach a number of the next
//! epoch. Leases and clocks decide who tries to lead; only the create-only PUT on the path decides who wins.
//!
//! The deciding parts are pure and do no IO: [`walk`] (the path), [`state`] (offsets), [`dedupe`] (what was appended
//! under which name), [`taker`] (becoming leader), [`writer`] (a leader's PUTs and acknowledgements) and [`reader`]
//! (following without leading). The drivers do the IO: [`open`] runs a taker, [`leader`] a writer beside the journal,
//! [`follow`] a reader, [`fetch`] reads what [`partition`] says is where, through [`cache`], and [`truncate`] moves log starts, which
//! [`pages`] hold.
//!
//! A node has one [`ShardIndex`] per shard for all its life. Its readers go by that alone; it is fed by the leader's
//! task while the node leads the shard, else by a [`Following`], which takes what another node's leader offers
//! ([`feed`]) and reads the store where that does not fit.

mod ahead;
pub mod append;
pub mod cache;
pub mod dedupe;
pub mod feed;
pub mod fetch;
pub mod follow;
pub mod frames;
pub mod leader;
pub mod open;
pub mod pages;
pub mod partition;
pub mod reader;
pub mod signal;
pub mod state;
mod tail;
pub mod taker;
#[cfg(test)]
mod tests;
pub mod truncate;
mod upload;
pub mod walk;
pub mod writer;

pub use append::{Append, AppendError, Appended, BatchSource, Dedupe, NewBatch, Placement};
pub use cache::BlockCache;
pub use feed::{Fed, Feed, StoredObject};
pub use fetch::{Backlog, FetchError, Fetched, ShardIndex};
pub use follow::{FollowError, Following, Offered};
pub use frames::SharedJournal;
pub use leader::leftover::RECOVERED_HEADER;
pub use leader::{Completion, Ending, LeaderOptions, Receipt, RecoverError, Shard};
pub use open::{OpenError, ShardStore};
pub use pages::Pages;
pub use partition::{PartitionLog, PartitionUsage, PartitionView};
pub use signal::Signals;
pub use truncate::{TruncateError, Truncated};
