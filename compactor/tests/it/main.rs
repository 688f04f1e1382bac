//! Rolls, sweeps and the embedded loop against a store in memory that fails on demand.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod crash;
mod embedded;
mod gc;
mod harness;
mod roll;
mod truncate;
