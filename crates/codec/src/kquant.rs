//! ggml's K-quants: super-blocks of 256 weights in runs of 16 or 32, whose scales (and minimums) are
//! themselves small integers times one f16.
//!
//! Layouts follow ggml-org/llama.cpp `ggml/src/ggml-common.h` (`block_q2_K` to `block_q6_K`) and
//! `ggml/src/ggml-quants.c` (`dequantize_row_*_K`).

use half::f16;

use crate::planes::{gather, spread};

/// Weights in a super-block.
pub(crate) const BLOCK: usize = 256;

/// A super-block taken apart into the numbers it stores.
#[derive(Debug, Clone, PartialEq)]
pub struct Block {
    /// What the runs' scales are multiples of.
    pub scale: f16,
    /// What the runs' minimums are multiples of; zero where the format has none.
    pub minimum: f16,
    /// Scales of the runs. Formats with runs of 32 use the first eight.
    pub scales: [i8; 16],
    /// Minimums of the runs, zero where the format has none.
    pub minimums: [u8; 16],
    /// Codes, counted from zero.
    pub codes: [u8; BLOCK],
}

impl Block {
    /// A block of zeros.
    pub(crate) const ZERO: Self = Self {
        scale: f16::ZERO,
        minimum: f16::ZERO,
        scales: [0; 16],
        minimums: [0; 16],
        codes: [0; BLOCK],
    };
}

/// How one K-quant lays out its super-blocks.
pub(crate) struct Layout {
    /// Bytes of a super-block.
    pub(crate) bytes: usize,
    /// Weights in a run.
    pub(crate) run: usize,
    /// The code that stands for zero.
    pub(crate) zero: i32,
    /// Takes a super-block apart.
    pub(crate) read: fn(&[u8]) -> Block,
    /// Puts a super-block together.
    pub(crate) write: fn(&Block, &mut [u8]),
}

/// 4-bit scales and minimums in one byte a run [16], codes [64], scale, minimum.
pub(crate) const Q2_K: Layout =
    Layout { bytes: 84, run: 16, zero: 0, read: read_q2_k, write: write_q2_k };
/// Third bits of codes [32], low two bits [64], 6-bit scales [12], scale.
pub(crate) const Q3_K: Layout =
    Layout { bytes: 110, run: 16, zero: 4, read: read_q3_k, write: write_q3_k };
/// Scale, minimum, 6-bit scales and minimums [12], codes [128].
pub(crate) const Q4_K: Layout =
    Layout { bytes: 144, run: 32, zero: 0, read: read_q4_k, write: write_q4_k };
/// Scale, minimum, 6-bit scales and minimums [12], fifth bits of codes [32], low four bits [128].
pub(crate) const Q5_K: Layout =
    Layout { bytes: 176, run: 32, zero: 0, read: read_q5_k, write: write_q5_k };
/// Low four bits of codes [128], upper two bits [64], 8-bit scales [16], scale.
pub(crate) const Q6_K: Layout =
    Layout { bytes: 210, run: 16, zero: 32, read: read_q6_k, write: write_q6_k };

/// Decodes a row: `scale * code - minimum`, the two products first, as ggml does.
pub(crate) fn values(layout: &Layout, data: &[u8], out: &mut [f32]) {
    for (bytes, out) in data.chunks_exact(layout.bytes).zip(out.chunks_exact_mut(BLOCK)) {
        let block = (layout.read)(bytes);
        let (scale, minimum) = (block.scale.to_f32(), block.minimum.to_f32());
        let runs = out.chunks_exact_mut(layout.run).zip(block.codes.chunks_exact(layout.run));
        for (run, (out, codes)) in runs.enumerate() {
            let scale = scale * f32::from(block.scales[run]);
            let minimum = minimum * f32::from(block.minimums[run]);
            for (value, &code) in out.iter_mut().zip(codes) {
                *value = scale * (i32::from(code) - layout.zero) as f32 - minimum;
            }
        }
    }
}

fn read_f16(bytes: &[u8], at: usize) -> f16 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn write_f16(value: f16, bytes: &mut [u8], at: usize) {
    bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
}

fn read_q2_k(bytes: &[u8]) -> Block {
    let mut block = Block::ZERO;
    for (run, byte) in bytes[..16].iter().enumerate() {
        block.scales[run] = (byte & 15) as i8;
        block.minimums[run] = byte >> 4;
    }
    spread(&bytes[16..80], 32, 2, 0, &mut block.codes);
    block.scale = read_f16(bytes, 80);
    block.minimum = read_f16(bytes, 82);
    block
}

fn write_q2_k(block: &Block, bytes: &mut [u8]) {
    for (run, byte) in bytes[..16].iter_mut().enumerate() {
        *byte = block.scales[run] as u8 | block.minimums[run] << 4;
    }
    gather(&block.codes, 32, 2, 0, &mut bytes[16..80]);
    write_f16(block.scale, bytes, 80);
    write_f16(block.minimum, bytes, 82);
}

fn read_q3_k(bytes: &[u8]) -> Block {
    let mut block = Block::ZERO;
    spread(&bytes[32..96], 32, 2, 0, &mut block.codes);
    spread(&bytes[..32], 32, 1, 2, &mut block.codes);
    let mut scales = [0; 16];
    spread(&bytes[96..104], 8, 4, 0, &mut scales);
    spread(&bytes[104..108], 4, 2, 4, &mut scales);
    block.scales = scales.map(|scale| scale as i8 - 32);
    block.scale = read_f16(bytes, 108);
    block
}

fn write_q3_k(block: &Block, bytes: &mut [u8]) {
    gather(&block.codes, 32, 2, 0, &mut bytes[32..96]);
    gather(&block.codes, 32, 1, 2, &mut bytes[..32]);
    let scales = block.scales.map(|scale| (scale + 32) as u8);
    gather(&scales, 8, 4, 0, &mut bytes[96..104]);
    gather(&scales, 4, 2, 4, &mut bytes[104..108]);
    write_f16(block.scale, bytes, 108);
}

/// Scale and minimum, and the 6-bit scales and minimums of Q4_K and Q5_K: in 12 bytes the first four
/// of each, whose upper two bits belong to the last four, then those's low four bits.
fn read_head(bytes: &[u8]) -> Block {
    let mut block = Block::ZERO;
    block.scale = read_f16(bytes, 0);
    block.minimum = read_f16(bytes, 2);
    let packed = &bytes[4..16];
    for run in 0..4 {
        let (scale, minimum, low) = (packed[run], packed[run + 4], packed[run + 8]);
        block.scales[run] = (scale & 63) as i8;
        block.minimums[run] = minimum & 63;
        block.scales[run + 4] = (low & 15 | scale >> 6 << 4) as i8;
        block.minimums[run + 4] = low >> 4 | minimum >> 6 << 4;
    }
    block
}

fn write_head(block: &Block, bytes: &mut [u8]) {
    write_f16(block.scale, bytes, 0);
    write_f16(block.minimum, bytes, 2);
    let packed = &mut bytes[4..16];
    for run in 0..4 {
        let (scale, minimum) = (block.scales[run + 4] as u8, block.minimums[run + 4]);
        packed[run] = block.scales[run] as u8 | scale >> 4 << 6;
        packed[run + 4] = block.minimums[run] | minimum >> 4 << 6;
        packed[run + 8] = scale & 15 | minimum << 4;
    }
}

fn read_q4_k(bytes: &[u8]) -> Block {
    let mut block = read_head(bytes);
    spread(&bytes[16..144], 32, 4, 0, &mut block.codes);
    block
}

fn write_q4_k(block: &Block, bytes: &mut [u8]) {
    write_head(block, bytes);
    gather(&block.codes, 32, 4, 0, &mut bytes[16..144]);
}

fn read_q5_k(bytes: &[u8]) -> Block {
    let mut block = read_head(bytes);
    spread(&bytes[48..176], 32, 4, 0, &mut block.codes);
    spread(&bytes[16..48], 32, 1, 4, &mut block.codes);
    block
}

fn write_q5_k(block: &Block, bytes: &mut [u8]) {
    write_head(block, bytes);
    gather(&block.codes, 32, 4, 0, &mut bytes[48..176]);
    gather(&block.codes, 32, 1, 4, &mut bytes[16..48]);
}

fn read_q6_k(bytes: &[u8]) -> Block {
    let mut block = Block::ZERO;
    spread(&bytes[..128], 64, 4, 0, &mut block.codes);
    spread(&bytes[128..192], 32, 2, 4, &mut block.codes);
    for (scale, byte) in block.scales.iter_mut().zip(&bytes[192..208]) {
        *scale = *byte as i8;
    }
    block.scale = read_f16(bytes, 208);
    block
}

fn write_q6_k(block: &Block, bytes: &mut [u8]) {
    gather(&block.codes, 64, 4, 0, &mut bytes[..128]);
    gather(&block.codes, 32, 2, 4, &mut bytes[128..192]);
    for (scale, byte) in block.scales.iter().zip(&mut bytes[192..208]) {
        *byte = *scale as u8;
    }
    write_f16(block.scale, bytes, 208);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Every bit of a super-block is a bit of one of its numbers.
        #[test]
        fn blocks_are_put_together_as_they_came_apart(
            bytes in proptest::collection::vec(any::<u8>(), 210),
        ) {
            for layout in [Q2_K, Q3_K, Q4_K, Q5_K, Q6_K] {
                let bytes = &bytes[..layout.bytes];
                let mut back = vec![0xa5; layout.bytes];
                (layout.write)(&(layout.read)(bytes), &mut back);
                prop_assert_eq!(bytes, &back[..]);
            }
        }
    }
}
