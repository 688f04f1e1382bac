//! What the formats have in common: big-endian numbers, bounded reads, checksums.
//!
//! A *sealed* structure is magic (8 bytes), version (2 bytes), body, CRC-32C of all that (4 bytes). A reader looks at
//! the magic and the version before the checksum, so that a newer format is reported as newer and not as damaged.
//! A length read from the bytes is checked against the bytes left before anything is allocated for it.

use bytes::Bytes;
use crc_fast::CrcAlgorithm;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::FormatError;
use crate::limits;
use crate::model::{Offset, PartitionId, Timestamp, TopicId, TopicPartition};

const CRC_LEN: usize = 4;

/// Returns the CRC-32C (Castagnoli) of the bytes.
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

/// Returns the CRC-64/NVME of the bytes: tells contents apart, but not against someone who forges them.
pub fn hash64(bytes: &[u8]) -> u64 {
    crc_fast::crc64_nvme(bytes)
}

/// Returns the 128-bit name of what is stored under its own hash: CRC-64/NVME, then CRC-64/XZ.
///
/// Two different polynomials make the halves independent; one polynomial with two salts would not. Not
/// cryptographic: a writer that finds other bytes under its name must report it, as for any create-only object.
pub fn hash128(bytes: &[u8]) -> u128 {
    let low = crc_fast::checksum(CrcAlgorithm::Crc64Xz, bytes);
    u128::from(hash64(bytes)) << 64 | u128::from(low)
}

/// [`hash64`] of bytes that come in parts.
#[derive(Debug, Clone)]
pub struct Hash64(crc_fast::Digest);

impl Default for Hash64 {
    fn default() -> Self {
        Self(crc_fast::Digest::new(CrcAlgorithm::Crc64Nvme))
    }
}

impl Hash64 {
    /// Starts with no bytes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Returns the hash of all bytes so far.
    pub fn finish(&self) -> u64 {
        self.0.finalize()
    }
}

/// Appends numbers to a buffer, big endian.
#[derive(Debug, Default)]
pub struct Encoder(Vec<u8>);

macro_rules! put {
    ($($name:ident),*) => {$(
        /// Appends a number.
        pub fn $name(&mut self, value: $name) -> &mut Self {
            self.bytes(&value.to_be_bytes())
        }
    )*};
}

impl Encoder {
    /// Starts with an empty buffer.
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts with an empty buffer that has room for so many bytes.
    pub fn with_capacity(bytes: usize) -> Self {
        Self(Vec::with_capacity(bytes))
    }

    /// Starts a sealed structure; [`Self::seal`] ends it.
    pub fn sealed(magic: &[u8; 8], version: u16) -> Self {
        let mut encoder = Self::new();
        encoder.bytes(magic).u16(version);
        encoder
    }

    put!(u8, u16, u32, u64, u128, i16, i64);

    /// Appends bytes as they are, without their length.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// Appends a number of entries (4 bytes).
    ///
    /// # Panics
    /// At 2^32 entries: every list has a far lower cap.
    pub fn count(&mut self, entries: usize) -> &mut Self {
        self.u32(u32::try_from(entries).expect("lists are capped far below 2^32 entries"))
    }

    /// Appends milliseconds (8 bytes).
    pub fn timestamp(&mut self, timestamp: Timestamp) -> &mut Self {
        self.i64(timestamp.as_millis())
    }

    /// Appends topic id and partition number (18 bytes).
    pub fn partition(&mut self, partition: TopicPartition) -> &mut Self {
        self.u128(partition.topic.get()).u16(partition.partition.get())
    }

    /// Appends whether there is a number (1 byte), and the number or 0 (16 bytes).
    pub fn optional(&mut self, value: Option<u128>) -> &mut Self {
        self.u8(u8::from(value.is_some())).u128(value.unwrap_or_default())
    }

    /// Appends zeros up to a length.
    pub fn pad_to(&mut self, len: usize) -> &mut Self {
        self.0.resize(len.max(self.0.len()), 0);
        self
    }

    /// Returns the number of bytes so far.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Tells whether nothing was appended yet.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the buffer.
    pub fn finish(self) -> Vec<u8> {
        self.0
    }

    /// Appends the CRC-32C of everything so far and returns the buffer.
    pub fn seal(mut self) -> Vec<u8> {
        let crc = crc32c(&self.0);
        self.u32(crc);
        self.0
    }
}

/// Reads numbers from bytes, big endian. Every read past the end is [`FormatError::Truncated`].
#[derive(Debug, Clone)]
pub struct Decoder<'a> {
    what: &'static str,
    rest: &'a [u8],
}

macro_rules! get {
    ($($name:ident),*) => {$(
        /// Reads a number.
        ///
        /// # Errors
        /// [`FormatError::Truncated`].
        pub fn $name(&mut self) -> Result<$name, FormatError> {
            self.array().map($name::from_be_bytes)
        }
    )*};
}

impl<'a> Decoder<'a> {
    /// Starts at the first byte; `what` names the structure in errors.
    pub fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Self { what, rest: bytes }
    }

    /// Checks magic, version and checksum of a sealed structure and starts at its body.
    ///
    /// # Errors
    /// [`FormatError::Truncated`], [`FormatError::Magic`], [`FormatError::Version`] or [`FormatError::Checksum`].
    pub fn sealed(
        what: &'static str,
        magic: &[u8; 8],
        version: u16,
        bytes: &'a [u8],
    ) -> Result<Self, FormatError> {
        let mut decoder = Self::new(what, bytes);
        if decoder.array()? != *magic {
            return Err(FormatError::Magic { what });
        }
        let found = decoder.u16()?;
        if found != version {
            return Err(FormatError::Version { what, version: u32::from(found) });
        }
        let body = decoder.rest.split_last_chunk::<CRC_LEN>();
        let (body, crc) = body.ok_or(FormatError::Truncated { what })?;
        if crc32c(&bytes[..bytes.len() - CRC_LEN]) != u32::from_be_bytes(*crc) {
            return Err(FormatError::Checksum { what });
        }
        Ok(Self::new(what, body))
    }

    get!(u8, u16, u32, u64, u128, i16, i64);

    /// Reads a fixed number of bytes.
    ///
    /// # Errors
    /// [`FormatError::Truncated`].
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        let (head, rest) = self.rest.split_first_chunk().ok_or(FormatError::Truncated { what: self.what })?;
        self.rest = rest;
        Ok(*head)
    }

    /// Reads bytes as they are, without copying them.
    ///
    /// # Errors
    /// [`FormatError::Truncated`].
    pub fn bytes(&mut self, len: usize) -> Result<&'a [u8], FormatError> {
        let (head, rest) =
            self.rest.split_at_checked(len).ok_or(FormatError::Truncated { what: self.what })?;
        self.rest = rest;
        Ok(head)
    }

    /// Reads a number of entries that take at least `entry_len` bytes each, all of which must still be there.
    /// A vector of so many entries may be allocated.
    ///
    /// # Errors
    /// [`FormatError::Truncated`].
    pub fn count(&mut self, entry_len: usize) -> Result<usize, FormatError> {
        let count = usize::try_from(self.u32()?).unwrap_or(usize::MAX);
        match count.checked_mul(entry_len) {
            Some(len) if len <= self.rest.len() => Ok(count),
            _ => Err(FormatError::Truncated { what: self.what }),
        }
    }

    /// Reads milliseconds.
    ///
    /// # Errors
    /// [`FormatError::Truncated`].
    pub fn timestamp(&mut self) -> Result<Timestamp, FormatError> {
        self.i64().map(Timestamp::from_millis)
    }

    /// Reads an offset.
    ///
    /// # Errors
    /// [`FormatError::Truncated`].
    pub fn offset(&mut self) -> Result<Offset, FormatError> {
        self.u64().map(Offset::new)
    }

    /// Reads topic id and partition number.
    ///
    /// # Errors
    /// [`FormatError::Truncated`].
    pub fn partition(&mut self) -> Result<TopicPartition, FormatError> {
        let topic = TopicId::new(self.u128()?);
        Ok(TopicPartition { topic, partition: PartitionId::new(self.u16()?) })
    }

    /// Reads whether there is a number, and the number.
    ///
    /// # Errors
    /// [`FormatError::Truncated`], or [`FormatError::Field`] for a second way to write the same.
    pub fn optional(&mut self) -> Result<Option<u128>, FormatError> {
        match (self.u8()?, self.u128()?) {
            (0, 0) => Ok(None),
            (1, value) => Ok(Some(value)),
            _ => Err(FormatError::Field { what: self.what, field: "optional number" }),
        }
    }

    /// Returns the bytes not read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Passes if the condition holds.
    ///
    /// # Errors
    /// [`FormatError::Field`] with this field otherwise.
    pub fn ensure(&self, holds: bool, field: &'static str) -> Result<(), FormatError> {
        ensure(holds, self.what, field)
    }

    /// Checks that every byte was read.
    ///
    /// # Errors
    /// [`FormatError::Field`] when bytes are left.
    pub fn finish(self) -> Result<(), FormatError> {
        self.ensure(self.rest.is_empty(), "length")
    }
}

/// Passes if the condition holds, and blames the field otherwise.
pub(crate) fn ensure(holds: bool, what: &'static str, field: &'static str) -> Result<(), FormatError> {
    if holds { Ok(()) } else { Err(FormatError::Field { what, field }) }
}

/// Passes if the size is at most the limit.
pub(crate) fn ensure_size(size: usize, limit: usize, what: &'static str) -> Result<(), FormatError> {
    if size <= limit { Ok(()) } else { Err(FormatError::TooLarge { what, size, limit }) }
}

/// Encodes a JSON register.
pub(crate) fn encode_json(what: &'static str, value: &impl Serialize) -> Result<Bytes, FormatError> {
    let json = serde_json::to_vec(value).map_err(|_| FormatError::Field { what, field: "json" })?;
    ensure_size(json.len(), limits::METADATA_BYTES_MAX, what)?;
    Ok(Bytes::from(json))
}

/// Decodes a JSON register. Its `format` is read first, so that a newer one is reported as such.
pub(crate) fn decode_json<T: DeserializeOwned>(
    what: &'static str,
    format: u32,
    bytes: &[u8],
) -> Result<T, FormatError> {
    #[derive(Deserialize)]
    struct Probe {
        format: u32,
    }
    ensure_size(bytes.len(), limits::METADATA_BYTES_MAX, what)?;
    let json = |_| FormatError::Field { what, field: "json" };
    let probe: Probe = serde_json::from_slice(bytes).map_err(json)?;
    if probe.format != format {
        return Err(FormatError::Version { what, version: probe.format });
    }
    serde_json::from_slice(bytes).map_err(json)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_the_catalogued_ones() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(hash64(b"123456789"), 0xae8b_1486_0a79_9888);
        assert_eq!(hash128(b"123456789"), 0xae8b_1486_0a79_9888_995d_c9bb_df19_39fa);
        assert_eq!(hash64(b""), 0);
    }

    #[test]
    fn a_hash_of_parts_is_the_hash_of_the_whole() {
        let whole: Vec<u8> = (0..=255).cycle().take(5_000).collect();
        for cut in [0, 1, 15, 16, 255, 256, 4_999, 5_000] {
            let mut hash = Hash64::new();
            hash.update(&whole[..cut]);
            hash.update(&whole[cut..]);
            assert_eq!(hash.finish(), hash64(&whole), "cut at {cut}");
        }
    }

    #[test]
    fn numbers_come_back_in_order() {
        let mut encoder = Encoder::new();
        encoder.u8(1).u16(2).u32(3).u64(4).u128(5).i16(-6).i64(-7).bytes(b"end");
        let bytes = encoder.finish();
        assert_eq!(bytes[..3], [1, 0, 2]);
        let mut decoder = Decoder::new("numbers", &bytes);
        assert_eq!(decoder.u8(), Ok(1));
        assert_eq!(decoder.u16(), Ok(2));
        assert_eq!(decoder.u32(), Ok(3));
        assert_eq!(decoder.u64(), Ok(4));
        assert_eq!(decoder.u128(), Ok(5));
        assert_eq!(decoder.i16(), Ok(-6));
        assert_eq!(decoder.i64(), Ok(-7));
        assert_eq!(decoder.bytes(4), Err(FormatError::Truncated { what: "numbers" }));
        assert_eq!(decoder.bytes(3), Ok(&b"end"[..]));
        assert_eq!(decoder.finish(), Ok(()));
    }

    #[test]
    fn a_count_must_fit_in_the_bytes_left() {
        let mut encoder = Encoder::new();
        encoder.count(2).bytes(&[0; 7]);
        let bytes = encoder.finish();
        assert_eq!(Decoder::new("list", &bytes).count(3), Ok(2));
        assert_eq!(Decoder::new("list", &bytes).count(4), Err(FormatError::Truncated { what: "list" }));
        let huge = u32::MAX.to_be_bytes();
        assert!(Decoder::new("list", &huge).count(usize::MAX).is_err());
    }

    #[test]
    fn a_newer_version_is_not_reported_as_damage() {
        let what = "thing";
        let mut encoder = Encoder::sealed(b"FBTHINGS", 2);
        encoder.u8(9);
        let bytes = encoder.seal();
        assert_eq!(Decoder::sealed(what, b"FBTHINGS", 2, &bytes).map(|d| d.rest()), Ok(&[9][..]));
        let error = |magic, version, bytes| Decoder::sealed(what, magic, version, bytes).err();
        assert_eq!(error(b"FBTHINGS", 1, &bytes), Some(FormatError::Version { what, version: 2 }));
        assert_eq!(error(b"FBOTHERS", 2, &bytes), Some(FormatError::Magic { what }));
        let mut damaged = bytes.clone();
        damaged[10] ^= 1;
        assert_eq!(error(b"FBTHINGS", 2, &damaged), Some(FormatError::Checksum { what }));
    }
}
