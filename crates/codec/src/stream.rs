//! Codes as one little-endian bit stream: code `i` of `bits` bits lies at bits `i * bits ..`, the lowest bit
//! first, across the borders of bytes and words.
//!
//! MLX affine, pack-quantized and GPTQ rows are such streams, at any width.

/// Codes that fill a whole number of bytes at any width.
pub(crate) const OCTET: usize = 8;

/// The highest code of `bits` bits.
pub(crate) fn top_code(bits: u8) -> u8 {
    (u16::MAX >> (16 - bits)) as u8
}

/// Reads `out.len()` codes of `BITS` bits. `stream` has `BITS` bytes for every eight of them.
fn unpack<const BITS: usize>(stream: &[u8], out: &mut [u8]) {
    let mask = (1u64 << BITS) - 1;
    for (octet, out) in stream.as_chunks::<BITS>().0.iter().zip(out.as_chunks_mut::<OCTET>().0) {
        let mut word = [0; 8];
        word[..BITS].copy_from_slice(octet);
        let word = u64::from_le_bytes(word);
        *out = std::array::from_fn(|index| ((word >> (index * BITS)) & mask) as u8);
    }
}

/// Reads codes of `bits` bits, a byte each: as many whole runs of eight as both slices have. `bits` must be one
/// of [`crate::Codec::AFFINE_BITS`]; others are read as 8.
pub fn read_codes(bits: u8, stream: &[u8], out: &mut [u8]) {
    match bits {
        1 => unpack::<1>(stream, out),
        2 => unpack::<2>(stream, out),
        3 => unpack::<3>(stream, out),
        4 => unpack::<4>(stream, out),
        5 => unpack::<5>(stream, out),
        6 => unpack::<6>(stream, out),
        _ => unpack::<8>(stream, out),
    }
}

/// Writes codes of `bits` bits, which must be from 1 to 8; the inverse of [`read_codes`]. Bits of a code above
/// `bits` are dropped.
pub fn write_codes(bits: u8, codes: &[u8], stream: &mut [u8]) {
    let (top, bits) = (top_code(bits), usize::from(bits));
    for (octet, codes) in stream.chunks_exact_mut(bits).zip(codes.chunks_exact(OCTET)) {
        let word =
            codes.iter().rev().fold(0u64, |word, &code| word << bits | u64::from(code & top));
        octet.copy_from_slice(&word.to_le_bytes()[..bits]);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Codec;

    proptest! {
        #[test]
        fn streams_are_little_endian(codes in proptest::collection::vec(any::<u8>(), 64)) {
            for bits in Codec::AFFINE_BITS {
                let codes: Vec<u8> = codes.iter().map(|code| code & top_code(bits)).collect();
                let mut stream = vec![0; 8 * usize::from(bits)];
                write_codes(bits, &codes, &mut stream);
                for (index, &code) in codes.iter().enumerate() {
                    for bit in 0..usize::from(bits) {
                        let at = index * usize::from(bits) + bit;
                        prop_assert_eq!(stream[at / 8] >> (at % 8) & 1, code >> bit & 1);
                    }
                }
                let mut back = vec![0; codes.len()];
                read_codes(bits, &stream, &mut back);
                prop_assert_eq!(codes, back);
            }
        }
    }
}
