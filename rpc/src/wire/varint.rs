//! Protobuf's variable-length integers: seven bits a byte, least significant first.

/// The most bytes that a 32-bit value takes.
pub(crate) const MAX_VARINT32_BYTES: usize = 5;

/// How many bytes `value` takes.
#[inline]
pub(crate) fn varint_len(value: u64) -> usize {
    // Bits, rounded up to whole groups of seven; zero takes a byte too. For up to 64 bits, 9/64 is
    // as good as a seventh.
    let bits = 64 - (value | 1).leading_zeros() as usize;
    (9 * bits + 64) / 64
}

/// Appends `value`.
#[expect(clippy::cast_possible_truncation, reason = "seven bits at a time")]
#[inline]
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// What the front of a buffer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Varint32 {
    /// The bytes so far begin a varint; more are needed.
    Incomplete,
    /// More than five bytes, or a value above 2^32 - 1.
    Malformed,
    /// A value, and how many bytes it took.
    Value(u32, usize),
}

/// Reads the varint at the front of `input`, which must fit 32 bits.
#[inline]
pub(crate) fn peek_varint32(input: &[u8]) -> Varint32 {
    match input.first() {
        Some(&byte) if byte < 0x80 => Varint32::Value(u32::from(byte), 1),
        _ => peek_long_varint32(input),
    }
}

fn peek_long_varint32(input: &[u8]) -> Varint32 {
    let mut value = 0u64;
    for (position, &byte) in input.iter().take(MAX_VARINT32_BYTES).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * position);
        if byte < 0x80 {
            return match u32::try_from(value) {
                Ok(value) => Varint32::Value(value, position + 1),
                Err(_) => Varint32::Malformed,
            };
        }
    }
    if input.len() < MAX_VARINT32_BYTES {
        Varint32::Incomplete
    } else {
        Varint32::Malformed
    }
}

/// Takes a varint of up to 64 bits off the front of `input`; `None` if it is cut off or too long.
#[inline]
pub(crate) fn take_varint(input: &mut &[u8]) -> Option<u64> {
    // Most are sizes, ids and timeouts of one or two bytes.
    match **input {
        [byte @ ..0x80, ref rest @ ..] => {
            *input = rest;
            Some(u64::from(byte))
        }
        [low, high @ ..0x80, ref rest @ ..] => {
            *input = rest;
            Some(u64::from(low & 0x7f) | u64::from(high) << 7)
        }
        _ => take_long_varint(input),
    }
}

fn take_long_varint(input: &mut &[u8]) -> Option<u64> {
    let (&first, mut rest) = input.split_first()?;
    let (mut byte, mut value, mut shift) = (first, u64::from(first & 0x7f), 0);
    while byte >= 0x80 {
        let (&next, after) = rest.split_first()?;
        (byte, rest) = (next, after);
        shift += 7;
        // The tenth byte carries the highest bit alone.
        if shift >= 63 && byte > 1 {
            return None;
        }
        value |= u64::from(byte & 0x7f) << shift;
    }
    *input = rest;
    Some(value)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_put_is_taken_and_its_length_is_known(value: u64) {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            prop_assert_eq!(out.len(), varint_len(value));
            let mut input = &out[..];
            prop_assert_eq!(take_varint(&mut input), Some(value));
            prop_assert!(input.is_empty());
            let mut with_prost = Vec::new();
            prost::encoding::encode_varint(value, &mut with_prost);
            prop_assert_eq!(out, with_prost);
        }

        #[test]
        fn a_prefix_of_a_32_bit_varint_is_incomplete(value: u32, more: Vec<u8>) {
            let mut out = Vec::new();
            put_varint(&mut out, u64::from(value));
            let len = out.len();
            for cut in 0..len {
                prop_assert_eq!(peek_varint32(&out[..cut]), Varint32::Incomplete);
            }
            out.extend(more);
            prop_assert_eq!(peek_varint32(&out), Varint32::Value(value, len));
        }
    }

    /// Negative (ten bytes) and eleven-byte varints, values above 32 bits.
    #[test]
    fn varints_that_do_not_fit_32_bits_are_malformed() {
        let negative = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        assert_eq!(peek_varint32(&negative), Varint32::Malformed);
        assert_eq!(peek_varint32(&[0xff; 11]), Varint32::Malformed);
        assert_eq!(
            peek_varint32(&[0x80, 0x80, 0x80, 0x80, 0x10]),
            Varint32::Malformed,
            "2^32"
        );
        assert_eq!(
            peek_varint32(&[0xff, 0xff, 0xff, 0xff, 0x0f]),
            Varint32::Value(u32::MAX, 5)
        );
        assert_eq!(take_varint(&mut &[0xff; 11][..]), None);
        assert_eq!(take_varint(&mut &[0x80][..]), None);
    }
}
