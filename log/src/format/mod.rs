//! One file per persisted thing: encode, decode, version. Integers are big endian. Golden files freeze the bytes.

pub mod access;
pub mod cluster;
pub mod codec;
pub mod dedupe;
pub mod manifest;
pub mod page;
pub mod record_batch;
pub mod snapshot;
#[cfg(test)]
pub(crate) mod tests;
pub mod topics;
pub mod wal_object;
