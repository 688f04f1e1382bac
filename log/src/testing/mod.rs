//! What tests of this crate and of those above it share: a store that fails on demand, the contracts that every store
//! must keep, and for the simulator: rules to break, and a leader without a driver.

pub mod contract;
mod faulty;

#[cfg(feature = "test-util")]
pub use crate::mutation;
#[cfg(feature = "test-util")]
pub use crate::{journal::bare::BareWriter, shard::leader::bare};
pub use faulty::{Fault, FaultyStore, Hold, Moment, Target};
