//! ggml's blocks of E2M1 codes: MXFP4 with a power of two for 32 weights, NVFP4 with an E4M3 scale for
//! each 16 of 64.
//!
//! Layouts and encoders follow ggml-org/llama.cpp `ggml/src/ggml-quants.c` (`quantize_row_mxfp4_ref`,
//! `quantize_row_nvfp4_ref`) and `gguf-py/gguf/quants.py`. ggml doubles the codes' values and halves the
//! scales; the products are the same.

use crate::minifloat::{E2M1, E2M1_MAX, e4m3, e8m0, nearest_e2m1, power_of_two};
use crate::planes::{gather, spread};
use crate::search::extreme;

/// Weights in a block of MXFP4.
const MX_BLOCK: usize = 32;
/// Its bytes: the scale, then codes whose low nibbles are the first half.
const MX_BYTES: usize = 1 + MX_BLOCK / 2;

/// Weights of NVFP4 that share a scale.
const NV_RUN: usize = 16;
/// Runs in a block.
const NV_RUNS: usize = 4;
/// Bytes of a block: the scales, then 8 bytes a run whose low nibbles are its first half.
const NV_BYTES: usize = NV_RUNS + NV_RUNS * NV_RUN / 2;

/// Decodes codes whose low nibbles are the first half, given half their scale: at the ends of the range
/// that is a finite `f32` where the scale is not.
fn read_run(half_scale: f32, bytes: &[u8], out: &mut [f32]) {
    let mut codes = [0; MX_BLOCK];
    spread(bytes, bytes.len(), 4, 0, &mut codes[..out.len()]);
    for (value, code) in out.iter_mut().zip(codes) {
        // ggml's table has integers, so no zero with a minus sign; adding zero takes it away.
        *value = half_scale * (2.0 * E2M1[usize::from(code & 15)] + 0.0);
    }
}

fn write_run(values: &[f32], scale: f32, bytes: &mut [u8]) {
    let mut codes = [0; MX_BLOCK];
    for (code, &value) in codes.iter_mut().zip(values) {
        *code = nearest_e2m1(value, scale);
    }
    gather(&codes[..values.len()], bytes.len(), 4, 0, bytes);
}

/// Decodes a row of MXFP4.
pub(crate) fn mx_values(data: &[u8], out: &mut [f32]) {
    for (block, out) in data.chunks_exact(MX_BYTES).zip(out.chunks_exact_mut(MX_BLOCK)) {
        read_run(mx_half_scale(block[0]), &block[1..], out);
    }
}

/// Half the scale of a block of MXFP4.
fn mx_half_scale(byte: u8) -> f32 {
    if byte < 2 { f32::from_bits(0x0020_0000 << byte) } else { e8m0(byte - 1) }
}

/// Encodes a row of MXFP4: the largest magnitude lies in the binade of 4.
pub(crate) fn mx_encode(values: &[f32], data: &mut [u8]) {
    for (block, values) in data.chunks_exact_mut(MX_BYTES).zip(values.chunks_exact(MX_BLOCK)) {
        let largest = extreme(values).abs();
        // ggml takes the logarithm in f32, which may round up to the next integer.
        let exponent = (f64::from(largest).log2() as f32).floor() - 2.0 + 127.0;
        block[0] = exponent.max(0.0) as u8;
        write_run(values, 2.0 * mx_half_scale(block[0]), &mut block[1..]);
    }
}

/// A scale of NVFP4: E4M3 without its sign. The code for NaN counts as zero.
fn nv_scale(byte: u8) -> f32 {
    match byte {
        0x7f => 0.0,
        0xff => 480.0,
        _ => e4m3(byte & 0x7f),
    }
}

/// A scale as ggml rounds it: halves away from zero, and everything from 256 on to the largest one.
fn to_nv_scale(value: f32) -> u8 {
    let smallest_normal = power_of_two(-6);
    if value < smallest_normal {
        return ((value * 512.0 + 0.5) as u8).min(7);
    }
    // Exponent and three bits of fraction, rounded by the bit below them.
    let rounded = (value.to_bits() >> 19).div_ceil(2);
    let byte = rounded - (120 << 3);
    if byte >= 15 << 3 { 0x7e } else { byte as u8 }
}

/// Decodes a row of NVFP4.
pub(crate) fn nv_values(data: &[u8], out: &mut [f32]) {
    for (block, out) in data.chunks_exact(NV_BYTES).zip(out.chunks_exact_mut(NV_RUNS * NV_RUN)) {
        let (scales, codes) = block.split_at(NV_RUNS);
        let runs = codes.chunks_exact(NV_RUN / 2).zip(out.chunks_exact_mut(NV_RUN));
        for ((bytes, out), &scale) in runs.zip(scales) {
            read_run(0.5 * nv_scale(scale), bytes, out);
        }
    }
}

/// Encodes a row of NVFP4: the largest magnitude of a run becomes 6.
pub(crate) fn nv_encode(values: &[f32], data: &mut [u8]) {
    let blocks = data.chunks_exact_mut(NV_BYTES).zip(values.chunks_exact(NV_RUNS * NV_RUN));
    for (block, values) in blocks {
        let (scales, codes) = block.split_at_mut(NV_RUNS);
        let runs = values.chunks_exact(NV_RUN).zip(codes.chunks_exact_mut(NV_RUN / 2));
        for ((values, bytes), scale) in runs.zip(scales) {
            *scale = to_nv_scale(extreme(values).abs() / E2M1_MAX);
            write_run(values, nv_scale(*scale), bytes);
        }
    }
}
