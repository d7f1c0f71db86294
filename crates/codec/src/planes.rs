//! Bit planes: how ggml spreads the bits of its codes over the bytes of a block.
//!
//! Every ggml format but one (the fifth bits of Q5_0 and Q5_1) cuts its bytes into stretches of
//! `run` bytes. A stretch holds `8 / width` runs of `run` codes: bits `r * width ..` of its byte `l`
//! are `width` bits of code `l` of run `r`. Source: ggml-org/llama.cpp `ggml/src/ggml-quants.c`.

/// Adds the bits in `bytes` to `codes`, `shift` places up. `codes` has `8 / width` entries a byte.
#[inline(always)]
pub(crate) fn spread(bytes: &[u8], run: usize, width: usize, shift: usize, codes: &mut [u8]) {
    let mask = (1u8 << width) - 1;
    let stretches = bytes.chunks_exact(run).zip(codes.chunks_exact_mut(run * 8 / width));
    for (bytes, codes) in stretches {
        for (index, codes) in codes.chunks_exact_mut(run).enumerate() {
            for (code, byte) in codes.iter_mut().zip(bytes) {
                *code |= ((byte >> (index * width)) & mask) << shift;
            }
        }
    }
}

/// The inverse of [`spread`]: sets `bytes` from bits `shift .. shift + width` of `codes`.
#[inline(always)]
pub(crate) fn gather(codes: &[u8], run: usize, width: usize, shift: usize, bytes: &mut [u8]) {
    let mask = (1u8 << width) - 1;
    let stretches = bytes.chunks_exact_mut(run).zip(codes.chunks_exact(run * 8 / width));
    for (bytes, codes) in stretches {
        bytes.fill(0);
        for (index, codes) in codes.chunks_exact(run).enumerate() {
            for (byte, code) in bytes.iter_mut().zip(codes) {
                *byte |= ((code >> shift) & mask) << (index * width);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nibbles_of_a_run_of_two() {
        let mut codes = [0; 8];
        spread(&[0x21, 0x43, 0x65, 0x87], 2, 4, 0, &mut codes);
        assert_eq!(codes, [1, 3, 2, 4, 5, 7, 6, 8]);
        let mut bytes = [0xff; 4];
        gather(&codes, 2, 4, 0, &mut bytes);
        assert_eq!(bytes, [0x21, 0x43, 0x65, 0x87]);
    }

    #[test]
    fn high_bits_are_added_to_low_ones() {
        let mut codes = [1; 16];
        spread(&[0b0000_0010, 0b1000_0000], 2, 1, 2, &mut codes);
        let mut expected = [1; 16];
        expected[2] = 5; // bit 1 of byte 0: run 1, code 0
        expected[15] = 5; // bit 7 of byte 1: run 7, code 1
        assert_eq!(codes, expected);
    }
}
