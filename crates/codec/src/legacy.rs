//! ggml's blocks of 32 weights: Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0.
//!
//! Layouts and encoders follow ggml-org/llama.cpp `ggml/src/ggml-quants.c` (`dequantize_row_*`,
//! `quantize_row_*_ref`, `quantize_row_*_impl`), in its order of `f32` operations.

use crate::Float;
use crate::planes::{gather, spread};
use crate::search::{self, Trials};

/// Weights in a block.
const BLOCK: usize = 32;
/// Bytes of the low four bits of a block's codes.
const LOW_BYTES: usize = BLOCK / 2;

/// Which of the 4- and 5-bit formats. A block is: scale f16, minimum f16 if there is one, fifth bits
/// u32 if there are five, then 16 bytes whose low nibbles are the first half of the codes.
#[derive(Clone, Copy)]
pub(crate) struct Small {
    /// Whether codes have a fifth bit.
    fifth: bool,
    /// Whether a minimum is added; otherwise codes are counted from their middle.
    minimum: bool,
}

pub(crate) const Q4_0: Small = Small { fifth: false, minimum: false };
pub(crate) const Q4_1: Small = Small { fifth: false, minimum: true };
pub(crate) const Q5_0: Small = Small { fifth: true, minimum: false };
pub(crate) const Q5_1: Small = Small { fifth: true, minimum: true };

impl Small {
    /// Where the fifth bits are, or would be.
    const fn fifth_at(self) -> usize {
        if self.minimum { 4 } else { 2 }
    }

    /// Where the low four bits are.
    const fn low_at(self) -> usize {
        self.fifth_at() + if self.fifth { 4 } else { 0 }
    }

    const fn block_bytes(self) -> usize {
        self.low_at() + LOW_BYTES
    }

    /// Half the number of codes: the middle one.
    const fn half(self) -> i32 {
        if self.fifth { 16 } else { 8 }
    }

    /// The highest code.
    const fn top(self) -> i32 {
        2 * self.half() - 1
    }

    fn read_codes(self, block: &[u8]) -> [u8; BLOCK] {
        let mut codes = [0; BLOCK];
        spread(&block[self.low_at()..], LOW_BYTES, 4, 0, &mut codes);
        if self.fifth {
            let bits = &block[self.fifth_at()..self.low_at()];
            for (codes, bits) in codes.chunks_exact_mut(8).zip(bits) {
                for (index, code) in codes.iter_mut().enumerate() {
                    *code |= ((bits >> index) & 1) << 4;
                }
            }
        }
        codes
    }

    fn write_codes(self, codes: &[u8; BLOCK], block: &mut [u8]) {
        gather(codes, LOW_BYTES, 4, 0, &mut block[self.low_at()..]);
        if self.fifth {
            let bits = &mut block[self.fifth_at()..self.low_at()];
            for (codes, bits) in codes.chunks_exact(8).zip(bits) {
                *bits = codes.iter().rev().fold(0, |bits, code| bits << 1 | code >> 4);
            }
        }
    }
}

/// Decodes a row of 4- or 5-bit blocks.
pub(crate) fn values(format: Small, data: &[u8], out: &mut [f32]) {
    for (block, out) in data.chunks_exact(format.block_bytes()).zip(out.chunks_exact_mut(BLOCK)) {
        let scale = Float::F16.read(block, 0);
        let codes = format.read_codes(block);
        if format.minimum {
            let lowest = Float::F16.read(block, 1);
            for (value, &code) in out.iter_mut().zip(&codes) {
                *value = f32::from(code) * scale + lowest;
            }
        } else {
            for (value, &code) in out.iter_mut().zip(&codes) {
                *value = (i32::from(code) - format.half()) as f32 * scale;
            }
        }
    }
}

/// The codes of a row of 4- or 5-bit blocks.
pub(crate) fn codes(format: Small, data: &[u8], out: &mut [u8]) {
    for (block, out) in data.chunks_exact(format.block_bytes()).zip(out.as_chunks_mut().0) {
        *out = format.read_codes(block);
    }
}

/// Encodes a row of 4- or 5-bit blocks. `importance` has one weight a column.
pub(crate) fn encode(format: Small, values: &[f32], importance: Option<&[f32]>, data: &mut [u8]) {
    let mut sum = 0.0f32;
    for value in values {
        sum += value * value;
    }
    let mean_square = sum / values.len() as f32;
    let blocks = data.chunks_exact_mut(format.block_bytes()).zip(values.chunks_exact(BLOCK));
    for (index, (block, values)) in blocks.enumerate() {
        let mut codes = [0; BLOCK];
        let importance = importance.map(|weights| &weights[index * BLOCK..][..BLOCK]);
        let (scale, lowest) = match importance {
            None if format.minimum => range(format, values, &mut codes),
            None => (largest(format, values, &mut codes), 0.0),
            Some(importance) => {
                let weights: [f32; BLOCK] = std::array::from_fn(|i| {
                    importance[i] * (mean_square + values[i] * values[i]).sqrt()
                });
                if format.minimum {
                    let trials = Trials::WITH_IMPORTANCE;
                    let top = format.top();
                    let fit = search::with_minimum(values, &weights, top, trials, &mut codes);
                    (fit.scale, fit.lowest)
                } else {
                    (search::symmetric(values, &weights, format.half(), &mut codes), 0.0)
                }
            }
        };
        Float::F16.write(block, 0, scale);
        if format.minimum {
            Float::F16.write(block, 1, lowest);
        }
        format.write_codes(&codes, block);
    }
}

/// Spans the codes over the values' range; gives the scale and the lowest value.
fn range(format: Small, values: &[f32], codes: &mut [u8; BLOCK]) -> (f32, f32) {
    let (lowest, highest) = search::extent(values);
    let top = format.top();
    let scale = (highest - lowest) / top as f32;
    let inverse = if scale != 0.0 { 1.0 / scale } else { 0.0 };
    for (code, value) in codes.iter_mut().zip(values) {
        *code = (((value - lowest) * inverse + 0.5) as u8).min(top as u8);
    }
    (scale, lowest)
}

/// Gives the value of largest magnitude the lowest code, exactly; gives the scale, which may be
/// negative.
fn largest(format: Small, values: &[f32], codes: &mut [u8; BLOCK]) -> f32 {
    let half = format.half() as f32;
    let scale = search::extreme(values) / -half;
    let inverse = if scale != 0.0 { 1.0 / scale } else { 0.0 };
    for (code, value) in codes.iter_mut().zip(values) {
        *code = ((value * inverse + (half + 0.5)) as u8).min(format.top() as u8);
    }
    scale
}

/// Bytes of a block of Q8_0: scale f16, then 32 signed codes.
const Q8_0_BYTES: usize = 2 + BLOCK;

/// Decodes a row of Q8_0.
pub(crate) fn q8_0_values(data: &[u8], out: &mut [f32]) {
    for (block, out) in data.chunks_exact(Q8_0_BYTES).zip(out.chunks_exact_mut(BLOCK)) {
        let scale = Float::F16.read(block, 0);
        for (value, &code) in out.iter_mut().zip(&block[2..]) {
            *value = f32::from(code as i8) * scale;
        }
    }
}

/// The codes of a row of Q8_0, two's complement.
pub(crate) fn q8_0_codes(data: &[u8], out: &mut [u8]) {
    for (block, out) in data.chunks_exact(Q8_0_BYTES).zip(out.chunks_exact_mut(BLOCK)) {
        out.copy_from_slice(&block[2..]);
    }
}

/// Encodes a row of Q8_0.
pub(crate) fn q8_0_encode(values: &[f32], data: &mut [u8]) {
    for (block, values) in data.chunks_exact_mut(Q8_0_BYTES).zip(values.chunks_exact(BLOCK)) {
        let scale = search::extreme(values).abs() / 127.0;
        let inverse = if scale != 0.0 { 1.0 / scale } else { 0.0 };
        Float::F16.write(block, 0, scale);
        for (code, value) in block[2..].iter_mut().zip(values) {
            // Halves go away from zero here.
            *code = (value * inverse).round() as i8 as u8;
        }
    }
}
