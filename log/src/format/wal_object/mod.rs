//! An object of a shard's write-ahead log: record batches of many partitions, or the EPOCH record of a new leader.
//!
//! ```text
//! header 256 bytes │ batches, by topic id and partition │ footer: index and dedupe entries │ trailer 24 bytes
//! ```
//!
//! - *DATA*: one flush of one shard; one footer entry per partition.
//! - *EPOCH*: the header alone, exactly 256 bytes. DATA is always longer, so that a listing shows the kind.
//! - *rolled*: many DATA objects in one, with several footer entries per partition.
//!
//! The header identifies the object: it holds the nonce, the sequence number, every length and the hash of all that
//! follows, so that reading 256 bytes back tells whether an object is one's own. Batches are opaque here and guarded
//! by their own checksums; the entries of the footer tile the space between header and footer without a gap.

mod builder;
mod footer;
mod header;
#[cfg(test)]
mod tests;

pub use builder::{EncodedObject, Extent, ObjectBuilder, ObjectIdentity};
pub use footer::{Footer, IndexEntry, TRAILER_LEN, TailIndex, decode_footer, decode_tail};
pub use header::{ObjectKind, WalHeader, encode_epoch};

use crate::error::FormatError;
use crate::format::codec::{self, ensure};
use crate::limits::WAL_HEADER_LEN;

/// Decodes a whole object and checks its length and content hash. The footer of an EPOCH is empty.
///
/// # Errors
/// Any [`FormatError`]; the object is damaged or not of this version, and another read of it may only help if the
/// store gave wrong bytes.
///
/// # Cost
/// One pass over all bytes for the content hash.
pub fn decode_object(object: &[u8]) -> Result<(WalHeader, Footer), FormatError> {
    const WHAT: &str = "wal object";
    let header = WalHeader::decode(object)?;
    let len = object.len() as u64;
    if len < header.object_len {
        return Err(FormatError::Truncated { what: WHAT });
    }
    ensure(len == header.object_len, WHAT, "length")?;
    if codec::hash64(&object[WAL_HEADER_LEN..]) != header.content_hash {
        return Err(FormatError::Checksum { what: WHAT });
    }
    if header.kind == ObjectKind::Epoch {
        return Ok((header, Footer::default()));
    }
    let footer = decode_footer(object, len)?;
    ensure(footer.end_of_batches() == header.footer_position, WHAT, "footer position")?;
    let single = header.kind == ObjectKind::Rolled || footer.has_one_entry_per_partition();
    ensure(single, WHAT, "entries")?;
    Ok((header, footer))
}
