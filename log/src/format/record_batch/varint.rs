//! Zigzag variable-length integers and length-prefixed bytes, as records use them.
//!
//! Kafka's varint (32 bit) and varlong (64 bit) share one encoding; the readers below check the range. Readers take
//! from the front of a slice and never read past it.

use super::RECORD;
use crate::error::FormatError;

/// Bytes of the longest 64-bit number.
const BYTES_MAX: usize = 10;

/// Returns the bytes that [`put`] writes.
pub(super) fn len(value: i64) -> usize {
    let bits = u64::BITS - (zigzag(value) | 1).leading_zeros();
    bits.div_ceil(7) as usize
}

/// Appends a number.
pub(super) fn put(out: &mut Vec<u8>, value: i64) {
    let mut rest = zigzag(value);
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// Takes a 64-bit number.
pub(super) fn take(input: &mut &[u8]) -> Result<i64, FormatError> {
    let mut value = 0;
    for (i, &byte) in input.iter().take(BYTES_MAX).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte < 0x80 {
            let overflows = i + 1 == BYTES_MAX && byte > 1;
            *input = &input[i + 1..];
            return if overflows { Err(too_long()) } else { Ok(unzigzag(value)) };
        }
    }
    Err(if input.len() < BYTES_MAX { truncated() } else { too_long() })
}

/// Takes a 32-bit number that is not negative: a count or a delta of offsets.
pub(super) fn take_u31(input: &mut &[u8], field: &'static str) -> Result<u32, FormatError> {
    let value = i32::try_from(take(input)?).and_then(u32::try_from);
    value.map_err(|_| FormatError::Field { what: RECORD, field })
}

/// Returns the bytes that [`put_bytes`] writes.
pub(super) fn bytes_len(bytes: Option<&[u8]>) -> usize {
    bytes.map_or(len(-1), |bytes| len(signed(bytes.len())) + bytes.len())
}

/// Appends bytes behind their length, or a null.
pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    match bytes {
        None => put(out, -1),
        Some(bytes) => {
            put(out, signed(bytes.len()));
            out.extend_from_slice(bytes);
        }
    }
}

/// Takes bytes behind their length, or a null.
pub(super) fn take_bytes<'a>(
    input: &mut &'a [u8],
    field: &'static str,
) -> Result<Option<&'a [u8]>, FormatError> {
    let len = take(input)?;
    if len == -1 {
        return Ok(None);
    }
    let len = usize::try_from(len).map_err(|_| FormatError::Field { what: RECORD, field })?;
    let (bytes, rest) = input.split_at_checked(len).ok_or(truncated())?;
    *input = rest;
    Ok(Some(bytes))
}

/// Returns a length as the number that is stored.
pub(super) fn signed(len: usize) -> i64 {
    i64::try_from(len).expect("nothing in memory has 2^63 bytes")
}

pub(super) fn truncated() -> FormatError {
    FormatError::Truncated { what: RECORD }
}

fn too_long() -> FormatError {
    FormatError::Field { what: RECORD, field: "varint" }
}

fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(value: i64) -> Vec<u8> {
        let mut out = Vec::new();
        put(&mut out, value);
        out
    }

    #[test]
    fn numbers_have_kafkas_bytes() {
        let cases: [(i64, &[u8]); 8] = [
            (0, &[0x00]),
            (-1, &[0x01]),
            (1, &[0x02]),
            (63, &[0x7e]),
            (-64, &[0x7f]),
            (64, &[0x80, 0x01]),
            (i64::from(i32::MAX), &[0xfe, 0xff, 0xff, 0xff, 0x0f]),
            (i64::MIN, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]),
        ];
        for (value, bytes) in cases {
            assert_eq!(written(value), bytes, "value={value}");
        }
    }

    #[test]
    fn every_width_comes_back_and_is_predicted() {
        for bit in 0..63 {
            for value in [(1_i64 << bit) - 1, 1 << bit, -(1 << bit), !(1 << bit)] {
                let bytes = written(value);
                assert_eq!(bytes.len(), len(value), "value={value}");
                let mut input = bytes.as_slice();
                assert_eq!(take(&mut input), Ok(value));
                assert!(input.is_empty());
            }
        }
    }

    #[test]
    fn unfinished_and_overlong_numbers_are_errors() {
        assert_eq!(take(&mut [].as_slice()), Err(truncated()));
        assert_eq!(take(&mut [0x80; 9].as_slice()), Err(truncated()));
        assert_eq!(take(&mut [0x80; 10].as_slice()), Err(too_long()));
        let mut overflow = [0xff; 10];
        overflow[9] = 0x02;
        assert_eq!(take(&mut overflow.as_slice()), Err(too_long()));
    }

    #[test]
    fn lengths_below_a_null_are_errors() {
        let field = "key";
        let bytes = written(-2);
        let expected = Err(FormatError::Field { what: RECORD, field });
        assert_eq!(take_bytes(&mut bytes.as_slice(), field), expected);
    }
}
