//! Encoders of the K-quants, giving the bytes of ggml's reference encoders.
//!
//! Source: ggml-org/llama.cpp `ggml/src/ggml-quants.c`, `quantize_row_q*_K_ref` (no weights of
//! importance) and `quantize_row_q*_K_impl` (with them). All are in three steps: fit each run by itself;
//! fit the runs' scales (and minimums) as small integers times one f16; round the weights again, on the
//! grid that was stored in the end.

use half::f16;

use crate::kquant::{BLOCK, Block, Layout, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K};
use crate::search::{self, Fit, Searches, Task, Trials, round_within};

/// A K-quant with minimums.
pub(crate) struct WithMinimum {
    layout: &'static Layout,
    /// The highest code.
    top: i32,
    /// The highest scale and minimum of a run.
    scale_top: i32,
    /// The search without importance.
    trials: Trials,
    /// Whether weights count by their magnitude alone when there is no importance, and by the mean
    /// square of the super-block when there is (else twice that).
    coarse: bool,
}

pub(crate) const Q2_K_ENCODER: WithMinimum = WithMinimum {
    layout: &Q2_K,
    top: 3,
    scale_top: 15,
    trials: Trials { start: -0.5, step: 0.1, steps: 15, absolute: true },
    coarse: true,
};
pub(crate) const Q4_K_ENCODER: WithMinimum = WithMinimum {
    layout: &Q4_K,
    top: 15,
    scale_top: 63,
    trials: Trials { start: -1.0, step: 0.1, steps: 20, absolute: false },
    coarse: false,
};
pub(crate) const Q5_K_ENCODER: WithMinimum = WithMinimum {
    layout: &Q5_K,
    top: 31,
    scale_top: 63,
    trials: Trials { start: -0.5, step: 0.1, steps: 15, absolute: false },
    coarse: false,
};

/// Calls `encode` with each super-block's values and weights of importance, and writes what it gives.
fn each_block(
    layout: &Layout,
    values: &[f32],
    importance: Option<&[f32]>,
    data: &mut [u8],
    encode: impl Fn(&[f32], Option<&[f32]>) -> Block,
) {
    let blocks = data.chunks_exact_mut(layout.bytes).zip(values.chunks_exact(BLOCK));
    for (index, (bytes, values)) in blocks.enumerate() {
        let importance = importance.map(|weights| &weights[index * BLOCK..][..BLOCK]);
        (layout.write)(&encode(values, importance), bytes);
    }
}

fn sum_of_squares(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |sum, value| sum + value * value)
}

/// How much each weight of a run counts: its importance, more for large weights. `energy` is the mean square
/// of the super-block, or twice that.
fn weigh(values: &[f32], importance: &[f32], energy: f32, weights: &mut [f32]) {
    for ((weight, value), importance) in weights.iter_mut().zip(values).zip(importance) {
        *weight = importance * (energy + value * value).sqrt();
    }
}

/// Encodes a row of Q2_K, Q4_K or Q5_K.
pub(crate) fn with_minimum(
    format: &WithMinimum,
    values: &[f32],
    importance: Option<&[f32]>,
    data: &mut [u8],
    searches: &dyn Searches,
) {
    each_block(format.layout, values, importance, data, |values, importance| {
        let run = format.layout.run;
        let runs = BLOCK / run;
        let mut block = Block::ZERO;
        let mut weights = [0.0; BLOCK];
        let (mut scales, mut minimums, mut totals) = ([0.0; 16], [0.0; 16], [0.0; 16]);
        let factor = if format.coarse { 1.0 } else { 2.0 };
        let energy = factor * sum_of_squares(values) / BLOCK as f32;
        for (index, values) in values.chunks_exact(run).enumerate() {
            let weights = &mut weights[index * run..][..run];
            match importance {
                Some(importance) => {
                    weigh(values, &importance[index * run..], energy, weights);
                    totals[index] = weights.iter().fold(0.0, |sum, weight| sum + weight);
                }
                None => {
                    let floor = match format.coarse {
                        true => 0.0,
                        false => (sum_of_squares(values) / run as f32).sqrt(),
                    };
                    for (weight, value) in weights.iter_mut().zip(values) {
                        *weight = floor + value.abs();
                    }
                }
            }
        }
        let trials = importance.map_or(format.trials, |_| Trials::WITH_IMPORTANCE);
        let mut fits = [Fit::default(); 16];
        let task = Task { run, values, weights: &weights, codes: &mut block.codes };
        searches.with_minimum(task, format.top, trials, &mut fits[..runs]);
        for (index, fit) in fits[..runs].iter().enumerate() {
            scales[index] = fit.scale;
            minimums[index] = -fit.lowest;
        }
        let fit = |values: &[f32; 16], small: &mut [u8; 16]| match importance {
            Some(_) => search::positive(
                &values[..runs],
                &totals[..runs],
                format.scale_top,
                &mut small[..runs],
            ),
            None => by_largest(&values[..runs], format.scale_top, &mut small[..runs]),
        };
        let mut small_scales = [0; 16];
        block.scale = f16::from_f32(fit(&scales, &mut small_scales));
        block.minimum = f16::from_f32(fit(&minimums, &mut block.minimums));
        block.scales = small_scales.map(|scale| scale as i8);
        for (index, values) in values.chunks_exact(run).enumerate() {
            let scale = block.scale.to_f32() * f32::from(block.scales[index]);
            if scale == 0.0 {
                continue;
            }
            let minimum = block.minimum.to_f32() * f32::from(block.minimums[index]);
            for (code, value) in block.codes[index * run..].iter_mut().zip(values) {
                *code = round_within((value + minimum) / scale, 0, format.top) as u8;
            }
        }
        block
    });
}

/// Stores values that are not negative as multiples of their largest over `top`.
fn by_largest(values: &[f32], top: i32, small: &mut [u8]) -> f32 {
    let largest = values.iter().fold(0.0f32, |best, &value| best.max(value));
    let inverse = if largest > 0.0 { top as f32 / largest } else { 0.0 };
    for (small, value) in small.iter_mut().zip(values) {
        *small = round_within(inverse * value, 0, top) as u8;
    }
    largest / top as f32
}

/// Encodes a row of Q3_K.
pub(crate) fn q3_k(
    values: &[f32],
    importance: Option<&[f32]>,
    data: &mut [u8],
    searches: &dyn Searches,
) {
    each_block(&Q3_K, values, importance, data, |values, importance| {
        let mut block = Block::ZERO;
        let mut scales = [0.0; 16];
        match importance {
            Some(importance) => {
                let energy = 2.0 * sum_of_squares(values) / BLOCK as f32;
                let mut totals = [0.0; 16];
                let mut weights = [0.0; BLOCK];
                for (index, values) in values.chunks_exact(Q3_K.run).enumerate() {
                    let weights = &mut weights[index * Q3_K.run..][..Q3_K.run];
                    weigh(values, &importance[index * Q3_K.run..], energy, weights);
                    totals[index] = weights.iter().fold(0.0, |sum, weight| sum + weight);
                }
                let codes = &mut block.codes;
                let task = Task { run: Q3_K.run, values, weights: &weights, codes };
                searches.symmetric(task, Q3_K.zero, &mut scales);
                let mut small = [0; 16];
                block.scale = f16::from_f32(search::symmetric(&scales, &totals, 32, &mut small));
                block.scales = small.map(|scale| scale as i8 - 32);
            }
            None => {
                for (index, values) in values.chunks_exact(Q3_K.run).enumerate() {
                    let codes = &mut block.codes[index * Q3_K.run..][..Q3_K.run];
                    scales[index] = search::symmetric_by_sweeps(values, Q3_K.zero, codes);
                }
                let largest = search::extreme(&scales);
                if largest == 0.0 {
                    block.scales = [-32; 16];
                } else {
                    let inverse = -32.0 / largest;
                    block.scales = scales.map(|scale| round_within(inverse * scale, -32, 31) as i8);
                    block.scale = f16::from_f32(1.0 / inverse);
                }
            }
        }
        round_symmetric(&Q3_K, values, &mut block);
        block
    });
}

/// Encodes a row of Q6_K.
pub(crate) fn q6_k(
    values: &[f32],
    importance: Option<&[f32]>,
    data: &mut [u8],
    searches: &dyn Searches,
) {
    each_block(&Q6_K, values, importance, data, |values, importance| {
        let mut block = Block::ZERO;
        let mut scales = [0.0; 16];
        let mut weights = [0.0; BLOCK];
        match importance {
            Some(importance) => weights.copy_from_slice(importance),
            None => weights.iter_mut().zip(values).for_each(|(w, value)| *w = value * value),
        }
        let task = Task { run: Q6_K.run, values, weights: &weights, codes: &mut block.codes };
        searches.symmetric(task, Q6_K.zero, &mut scales);
        let largest = search::extreme(&scales);
        if largest.abs() < search::NEGLIGIBLE {
            return Block::ZERO;
        }
        let inverse = -128.0 / largest;
        block.scales = scales.map(|scale| round_within(inverse * scale, -128, 127) as i8);
        block.scale = f16::from_f32(1.0 / inverse);
        round_symmetric(&Q6_K, values, &mut block);
        block
    });
}

/// Rounds the weights again, on the grid that is stored. Runs whose scale is zero keep their codes.
fn round_symmetric(layout: &Layout, values: &[f32], block: &mut Block) {
    for (index, values) in values.chunks_exact(layout.run).enumerate() {
        let scale = block.scale.to_f32() * f32::from(block.scales[index]);
        if scale == 0.0 {
            continue;
        }
        for (code, value) in block.codes[index * layout.run..].iter_mut().zip(values) {
            let code_from_zero = round_within(value / scale, -layout.zero, layout.zero - 1);
            *code = (code_from_zero + layout.zero) as u8;
        }
    }
}
