//! ggml's four bits into a table of uneven levels: IQ4_NL, one scale in 32 weights, and IQ4_XS, whose
//! runs of 32 have six-bit scales in a super-block of 256.
//!
//! Layouts and the encoder follow ggml-org/llama.cpp `ggml/src/ggml-quants.c` (`dequantize_row_iq4_*`,
//! `quantize_row_iq4_nl_impl`), in its order of `f32` operations.

use crate::Float;
use crate::planes::{gather, spread};
use crate::search::{NEGLIGIBLE, extreme, round_within};

/// The levels, in units of the scale.
const LEVELS: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// Weights that share a scale.
const RUN: usize = 32;
/// Bytes of a run's codes: low nibbles are its first half.
const RUN_BYTES: usize = RUN / 2;

/// A block of IQ4_NL: scale f16, then codes.
const NL_BYTES: usize = 2 + RUN_BYTES;

/// Runs in a super-block of IQ4_XS.
const RUNS: usize = 8;
/// Weights in a super-block.
const BLOCK: usize = RUNS * RUN;
/// Where a super-block's codes begin: behind the scale f16, the upper two bits of the runs' scales u16 and
/// their lower four bits [4].
const XS_CODES_AT: usize = 8;
/// Bytes of a super-block.
const XS_BYTES: usize = XS_CODES_AT + BLOCK / 2;

fn read_run(scale: f32, bytes: &[u8], out: &mut [f32]) {
    let mut codes = [0; RUN];
    spread(bytes, RUN_BYTES, 4, 0, &mut codes);
    for (value, code) in out.iter_mut().zip(codes) {
        *value = scale * f32::from(LEVELS[usize::from(code & 15)]);
    }
}

/// Decodes a row of IQ4_NL.
pub(crate) fn nl_values(data: &[u8], out: &mut [f32]) {
    for (block, out) in data.chunks_exact(NL_BYTES).zip(out.chunks_exact_mut(RUN)) {
        read_run(Float::F16.read(block, 0), &block[2..], out);
    }
}

/// Decodes a row of IQ4_XS.
pub(crate) fn xs_values(data: &[u8], out: &mut [f32]) {
    for (block, out) in data.chunks_exact(XS_BYTES).zip(out.chunks_exact_mut(BLOCK)) {
        let scale = Float::F16.read(block, 0);
        let mut factors = [0; RUNS];
        spread(&block[2..4], 1, 2, 4, &mut factors);
        spread(&block[4..XS_CODES_AT], 1, 4, 0, &mut factors);
        let runs = block[XS_CODES_AT..].chunks_exact(RUN_BYTES).zip(out.chunks_exact_mut(RUN));
        for ((bytes, out), factor) in runs.zip(factors) {
            read_run(scale * f32::from(factor as i8 - 32), bytes, out);
        }
    }
}

/// The code of the level nearest to `value`, the upper one of two equally near.
fn nearest(value: f32) -> u8 {
    let above = LEVELS.iter().position(|&level| value < f32::from(level));
    let above = above.unwrap_or(LEVELS.len());
    if above == 0 {
        return 0;
    }
    let Some(&upper) = LEVELS.get(above) else { return above as u8 - 1 };
    let lower_is_nearer = value - f32::from(LEVELS[above - 1]) < f32::from(upper) - value;
    if lower_is_nearer { above as u8 - 1 } else { above as u8 }
}

/// The scale that fits a run best, trying 15 besides the one that puts the largest value on the lowest
/// level.
fn fit(values: &[f32], weights: &[f32; RUN]) -> f32 {
    let largest = extreme(values);
    if largest.abs() < NEGLIGIBLE {
        return 0.0;
    }
    let lowest = f32::from(LEVELS[0]);
    let sums = |inverse: f32| {
        let (mut sum_qx, mut sum_qq) = (0.0f32, 0.0f32);
        for (&x, &w) in values.iter().zip(weights) {
            let q = f32::from(LEVELS[usize::from(nearest(inverse * x))]);
            sum_qx += w * q * x;
            sum_qq += w * q * q;
        }
        (sum_qx, sum_qq)
    };
    let (sum_qx, sum_qq) = sums(1.0 / (-largest / lowest));
    // Weights may be so small, or of so little importance, that both sums vanish.
    let mut scale = if sum_qq > 0.0 { sum_qx / sum_qq } else { 0.0 };
    let mut best = scale * sum_qx;
    for step in -7i8..=7 {
        let (sum_qx, sum_qq) = sums((f32::from(step) + lowest) / largest);
        if sum_qq > 0.0 && sum_qx * sum_qx > best * sum_qq {
            scale = sum_qx / sum_qq;
            best = scale * sum_qx;
        }
    }
    scale
}

/// What an error in each weight of a run counts, given twice the mean square of its block.
fn weights(values: &[f32], importance: Option<&[f32]>, mean_square: f32) -> [f32; RUN] {
    std::array::from_fn(|i| match importance {
        Some(importance) => importance[i] * (mean_square + values[i] * values[i]).sqrt(),
        None => values[i] * values[i],
    })
}

fn twice_mean_square(values: &[f32]) -> f32 {
    let mut sum = 0.0f32;
    for value in values {
        sum += value * value;
    }
    sum * (2.0 / values.len() as f32)
}

fn write_run(values: &[f32], scale: f32, bytes: &mut [u8]) {
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    let codes: [u8; RUN] = std::array::from_fn(|i| nearest(inverse * values[i]));
    gather(&codes, RUN_BYTES, 4, 0, bytes);
}

/// Encodes a row of IQ4_NL. `importance` has one weight a column.
pub(crate) fn nl_encode(values: &[f32], importance: Option<&[f32]>, data: &mut [u8]) {
    let blocks = data.chunks_exact_mut(NL_BYTES).zip(values.chunks_exact(RUN));
    for (index, (block, values)) in blocks.enumerate() {
        let importance = importance.map(|all| &all[index * RUN..][..RUN]);
        let scale = fit(values, &weights(values, importance, twice_mean_square(values)));
        Float::F16.write(block, 0, scale);
        write_run(values, scale, &mut block[2..]);
    }
}

/// Encodes a row of IQ4_XS. `importance` has one weight a column.
pub(crate) fn xs_encode(values: &[f32], importance: Option<&[f32]>, data: &mut [u8]) {
    let blocks = data.chunks_exact_mut(XS_BYTES).zip(values.chunks_exact(BLOCK));
    for (index, (block, values)) in blocks.enumerate() {
        let importance = importance.map(|all| &all[index * BLOCK..][..BLOCK]);
        let mean_square = twice_mean_square(values);
        let mut scales = [0.0; RUNS];
        for (run, values) in values.chunks_exact(RUN).enumerate() {
            let importance = importance.map(|all| &all[run * RUN..][..RUN]);
            scales[run] = fit(values, &weights(values, importance, mean_square));
        }
        let scale = -extreme(&scales) / 32.0;
        Float::F16.write(block, 0, scale);
        let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
        let factors = scales.map(|each| round_within(inverse * each, -32, 31));
        let packed = factors.map(|factor| (factor + 32) as u8);
        gather(&packed, 1, 2, 4, &mut block[2..4]);
        gather(&packed, 1, 4, 0, &mut block[4..XS_CODES_AT]);
        let runs = values.chunks_exact(RUN).zip(block[XS_CODES_AT..].chunks_exact_mut(RUN_BYTES));
        for ((values, bytes), factor) in runs.zip(factors) {
            write_run(values, scale * factor as f32, bytes);
        }
    }
}
