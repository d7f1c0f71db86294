//! Blocks of one and two bits a weight: ggml's TQ1_0, TQ2_0, Q1_0 and Q2_0, and mlx-kquant's PQ2_0
//! and PTQ1_0.
//!
//! Layouts and encoders of ggml's follow ggml-org/llama.cpp `ggml/src/ggml-quants.c` and
//! `gguf-py/gguf/quants.py`. The two of mlx-kquant were derived from what it packs and unpacks.

use crate::Float;
use crate::planes::{gather, spread};
use crate::search::extreme;

/// Bytes of a block's scale, an f16.
const SCALE_BYTES: usize = 2;

/// Most weights in a block.
const LARGEST_BLOCK: usize = 256;

/// `1 / scale`, or zero.
fn inverse(scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { 1.0 / scale }
}

/// -1, 0 or 1, counted from zero: `value * inverse` rounded, halves away from zero.
fn trit(value: f32, inverse: f32) -> u8 {
    ((value * inverse).round().clamp(-1.0, 1.0) as i8 + 1) as u8
}

/// A block of codes of one or two bits and a scale.
pub(crate) struct Bits {
    /// Weights in a block.
    block: usize,
    /// Bits of a code.
    width: usize,
    /// How far apart the codes of a byte are; see [`crate::planes`].
    run: usize,
    /// Whether the scale comes after the codes, not before.
    scale_last: bool,
    /// What each code is, in units of the scale.
    levels: [f32; 4],
}

pub(crate) const TQ2_0: Bits =
    Bits { block: 256, width: 2, run: 32, scale_last: true, levels: [-1.0, 0.0, 1.0, 2.0] };
pub(crate) const Q2_0: Bits = Bits { block: 64, run: 1, scale_last: false, ..TQ2_0 };
pub(crate) const PQ2_0: Bits = Bits { block: 128, ..Q2_0 };
pub(crate) const Q1_0: Bits = Bits { width: 1, levels: [-1.0, 1.0, 0.0, 0.0], ..PQ2_0 };

impl Bits {
    fn code_bytes(&self) -> usize {
        self.block / 8 * self.width
    }

    /// Where codes and scale begin.
    fn places(&self) -> (usize, usize) {
        if self.scale_last { (0, self.code_bytes()) } else { (SCALE_BYTES, 0) }
    }
}

/// The codes of a row.
pub(crate) fn bits_codes(format: &Bits, data: &[u8], out: &mut [u8]) {
    let (codes_at, _) = format.places();
    let bytes = format.code_bytes();
    out.fill(0);
    let blocks = data.chunks_exact(bytes + SCALE_BYTES).zip(out.chunks_exact_mut(format.block));
    for (block, out) in blocks {
        spread(&block[codes_at..][..bytes], format.run, format.width, 0, out);
    }
}

/// Decodes a row.
pub(crate) fn bits_values(format: &Bits, data: &[u8], out: &mut [f32]) {
    let (codes_at, scale_at) = format.places();
    let bytes = format.code_bytes();
    let blocks = data.chunks_exact(bytes + SCALE_BYTES).zip(out.chunks_exact_mut(format.block));
    for (block, out) in blocks {
        let scale = Float::F16.read(&block[scale_at..], 0);
        let mut codes = [0; LARGEST_BLOCK];
        let codes = &mut codes[..format.block];
        spread(&block[codes_at..][..bytes], format.run, format.width, 0, codes);
        for (value, &code) in out.iter_mut().zip(&*codes) {
            *value = scale * format.levels[usize::from(code & 3)];
        }
    }
}

/// Encodes a row: signs and the mean magnitude with one bit, the nearest of -1, 0 and 1 times the largest
/// magnitude with two.
pub(crate) fn bits_encode(format: &Bits, values: &[f32], data: &mut [u8]) {
    let (codes_at, scale_at) = format.places();
    let bytes = format.code_bytes();
    let blocks = data.chunks_exact_mut(bytes + SCALE_BYTES).zip(values.chunks_exact(format.block));
    for (block, values) in blocks {
        let mut codes = [0; LARGEST_BLOCK];
        let codes = &mut codes[..format.block];
        let scale = if format.width == 1 {
            for (code, &value) in codes.iter_mut().zip(values) {
                *code = u8::from(value >= 0.0);
            }
            values.iter().fold(0.0f32, |sum, value| sum + value.abs()) / format.block as f32
        } else {
            let scale = extreme(values).abs();
            for (code, &value) in codes.iter_mut().zip(values) {
                *code = trit(value, inverse(scale));
            }
            scale
        };
        Float::F16.write(&mut block[scale_at..], 0, scale);
        gather(codes, format.run, format.width, 0, &mut block[codes_at..][..bytes]);
    }
}

/// A block of base-3 digits and a scale behind them. A stretch of `bytes` bytes holds `digits` runs of
/// `bytes` weights: byte `i` has the digits of weight `i` of every run, the first run's on top.
///
/// A byte is the number its digits make up, scaled from `0..3^5` to `0..256`, rounded up: multiplied by
/// `3^n` modulo 256, its upper part is digit `n`.
pub(crate) struct Trits {
    /// Weights in a block.
    block: usize,
    /// Bytes and digits a byte of each stretch.
    stretches: [(usize, usize); 3],
}

pub(crate) const TQ1_0: Trits = Trits { block: 256, stretches: [(32, 5), (16, 5), (4, 4)] };
pub(crate) const PTQ1_0: Trits = Trits { block: 128, stretches: [(16, 5), (8, 5), (2, 4)] };

impl Trits {
    /// Bytes of a block's digits.
    fn digit_bytes(&self) -> usize {
        self.stretches.iter().map(|(bytes, _)| bytes).sum()
    }

    /// Calls `each` with the bytes of every stretch and the weights that they hold.
    fn each_stretch<B, W>(
        &self,
        mut block: &mut [B],
        mut weights: &mut [W],
        mut each: impl FnMut(&mut [B], &mut [W]),
    ) {
        for (bytes, digits) in self.stretches {
            let (these, rest) = block.split_at_mut(bytes);
            let (held, others) = weights.split_at_mut(bytes * digits);
            each(these, held);
            (block, weights) = (rest, others);
        }
    }
}

/// The digits of a row.
pub(crate) fn trits_codes(format: &Trits, data: &[u8], out: &mut [u8]) {
    let bytes = format.digit_bytes();
    let blocks = data.chunks_exact(bytes + SCALE_BYTES).zip(out.chunks_exact_mut(format.block));
    for (block, out) in blocks {
        let mut rest = [0; 64];
        let rest = &mut rest[..bytes];
        rest.copy_from_slice(&block[..bytes]);
        format.each_stretch(rest, out, |bytes, out| {
            for out in out.chunks_exact_mut(bytes.len()) {
                for (code, byte) in out.iter_mut().zip(bytes.iter_mut()) {
                    *code = ((u16::from(*byte) * 3) >> 8) as u8;
                    *byte = byte.wrapping_mul(3);
                }
            }
        });
    }
}

/// Decodes a row.
pub(crate) fn trits_values(format: &Trits, data: &[u8], out: &mut [f32]) {
    let bytes = format.digit_bytes() + SCALE_BYTES;
    let mut codes = [0; LARGEST_BLOCK];
    let codes = &mut codes[..format.block];
    for (block, out) in data.chunks_exact(bytes).zip(out.chunks_exact_mut(format.block)) {
        trits_codes(format, block, codes);
        let scale = Float::F16.read(&block[bytes - SCALE_BYTES..], 0);
        for (value, &code) in out.iter_mut().zip(&*codes) {
            *value = scale * (i32::from(code) - 1) as f32;
        }
    }
}

/// Encodes a row: the nearest of -1, 0 and 1 times the largest magnitude.
pub(crate) fn trits_encode(format: &Trits, values: &[f32], data: &mut [u8]) {
    let bytes = format.digit_bytes();
    let blocks = data.chunks_exact_mut(bytes + SCALE_BYTES).zip(values.chunks_exact(format.block));
    for (block, values) in blocks {
        let scale = extreme(values).abs();
        let (digits, scale_bytes) = block.split_at_mut(bytes);
        Float::F16.write(scale_bytes, 0, scale);
        let mut codes = [0; LARGEST_BLOCK];
        let codes = &mut codes[..format.block];
        for (code, &value) in codes.iter_mut().zip(values) {
            *code = trit(value, inverse(scale));
        }
        format.each_stretch(digits, codes, |bytes, codes| {
            let run = bytes.len();
            for (index, byte) in bytes.iter_mut().enumerate() {
                // Always five digits: a run that is not there counts as zeros.
                let number = (0..5).fold(0u16, |number, digit| {
                    number * 3 + codes.get(digit * run + index).map_or(0, |code| u16::from(*code))
                });
                *byte = (number * 256).div_ceil(243) as u8;
            }
        });
    }
}
