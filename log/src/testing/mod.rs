//! What tests of this crate and of those above it share: a store that fails on demand, and the contracts that every
//! store must keep.

pub mod contract;
mod faulty;

pub use faulty::{Fault, FaultyStore, Hold, Moment, Target};
