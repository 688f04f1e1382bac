//! Keeps a shard's log short: rolls its WAL objects into larger ones and deletes what nobody needs any more.
//!
//! - [`plan`] decides, without IO, whether a *roll* is due and what it takes;
//! - [`mod@roll`] reads that, copies the batches without decoding them and commits the result with one swap of the
//!   manifest;
//! - [`gc`] finds and deletes what no manifest needs;
//! - [`embedded`] does all this inside a gateway, for the shards that it leads.
//!
//! The order is the safety argument: *commit, let readers go over, delete*. Any number of compactors may work on one
//! shard at once: the swap decides whose work counts. A compactor may stop between any two requests; what it leaves
//! behind is either part of the log or garbage that a later sweep finds.

mod change;
mod copy;
pub mod embedded;
mod error;
pub mod gc;
pub mod plan;
pub mod roll;

pub use change::Change;
pub use copy::Input;
pub use error::CompactorError;
pub use gc::{Commit, Garbage};
pub use plan::Policy;
pub use roll::{Prepared, Work, roll};
