//! MLX's floating-point modes: codes in the order of the weights (the first of two nibbles in the low one),
//! one-byte scales in a part of their own.
//!
//! Layouts, the order of operations and the encoder were derived from ml-explore/mlx (`mx.quantize`,
//! `mx.dequantize`, 0.32 on the CPU) and meet it bit for bit, but for groups whose largest magnitude is
//! subnormal in the type of the source: there MLX's scales underflow or wrap around.

use crate::Row;
use crate::minifloat::{
    E2M1, E2M1_MAX, E4M3_MAX, NVFP4_MAX, e4m3, e8m0, nearest_e2m1, power_of_two, to_e4m3,
};
use crate::search::extreme;
use crate::tensor::RowMut;

/// Weights that share a scale in mxfp4 and mxfp8.
pub(crate) const MX_GROUP: u16 = 32;
/// Weights that share a scale in nvfp4.
pub(crate) const NV_GROUP: u16 = 16;

fn read_nibbles(scale: f32, bytes: &[u8], out: &mut [f32]) {
    for (pair, &byte) in out.as_chunks_mut().0.iter_mut().zip(bytes) {
        *pair = [byte & 15, byte >> 4].map(|code| E2M1[usize::from(code)] * scale);
    }
}

fn write_nibbles(values: &[f32], scale: f32, bytes: &mut [u8]) {
    for (byte, pair) in bytes.iter_mut().zip(values.as_chunks::<2>().0) {
        let [even, odd] = pair.map(|value| nearest_e2m1(value, scale));
        *byte = even | odd << 4;
    }
}

/// Decodes a row of mxfp4.
pub(crate) fn mxfp4_values(row: Row<'_>, out: &mut [f32]) {
    let group = usize::from(MX_GROUP);
    let groups = row.data.chunks_exact(group / 2).zip(out.chunks_exact_mut(group));
    for ((bytes, out), &scale) in groups.zip(row.scales) {
        read_nibbles(e8m0(scale), bytes, out);
    }
}

/// Decodes a row of mxfp8.
pub(crate) fn mxfp8_values(row: Row<'_>, out: &mut [f32]) {
    let group = usize::from(MX_GROUP);
    let groups = row.data.chunks_exact(group).zip(out.chunks_exact_mut(group));
    for ((bytes, out), &scale) in groups.zip(row.scales) {
        let scale = e8m0(scale);
        for (value, &byte) in out.iter_mut().zip(bytes) {
            *value = e4m3(byte) * scale;
        }
    }
}

/// Decodes a row of nvfp4, with or without a global scale.
pub(crate) fn nvfp4_values(row: Row<'_>, out: &mut [f32]) {
    let global = row.global_scale.first_chunk().map(|bytes| f32::from_le_bytes(*bytes) / NVFP4_MAX);
    let group = usize::from(NV_GROUP);
    let groups = row.data.chunks_exact(group / 2).zip(out.chunks_exact_mut(group));
    for ((bytes, out), &scale) in groups.zip(row.scales) {
        let scale = e4m3(scale);
        read_nibbles(global.map_or(scale, |global| scale * global), bytes, out);
    }
}

/// The power of two, as E8M0, that brings `values` within `largest` and no further; 1 for zeros.
fn fit(values: &[f32], largest: f32) -> u8 {
    let ratio = extreme(values).abs() / largest;
    if ratio == 0.0 {
        return 127;
    }
    // The exponent, rounded up. It is below 254: the ratio is a third of the largest f32 at most.
    let bits = ratio.to_bits();
    (bits >> 23) as u8 + u8::from(bits & 0x007f_ffff != 0)
}

/// Encodes a row of mxfp4.
pub(crate) fn mxfp4_encode(values: &[f32], row: &mut RowMut<'_>) {
    let group = usize::from(MX_GROUP);
    let groups = row.data.chunks_exact_mut(group / 2).zip(values.chunks_exact(group));
    for ((bytes, values), scale) in groups.zip(&mut *row.scales) {
        *scale = fit(values, E2M1_MAX);
        write_nibbles(values, e8m0(*scale), bytes);
    }
}

/// Encodes a row of mxfp8.
pub(crate) fn mxfp8_encode(values: &[f32], row: &mut RowMut<'_>) {
    let group = usize::from(MX_GROUP);
    let groups = row.data.chunks_exact_mut(group).zip(values.chunks_exact(group));
    for ((bytes, values), scale) in groups.zip(&mut *row.scales) {
        *scale = fit(values, E4M3_MAX);
        let inverse = power_of_two(127 - i32::from(*scale));
        for (byte, &value) in bytes.iter_mut().zip(values) {
            *byte = to_e4m3(value * inverse);
        }
    }
}

/// Encodes a row of nvfp4 without a global scale.
pub(crate) fn nvfp4_encode(values: &[f32], row: &mut RowMut<'_>) {
    let group = usize::from(NV_GROUP);
    let groups = row.data.chunks_exact_mut(group / 2).zip(values.chunks_exact(group));
    for ((bytes, values), scale) in groups.zip(&mut *row.scales) {
        *scale = to_e4m3(extreme(values).abs() / E2M1_MAX);
        write_nibbles(values, e4m3(*scale), bytes);
    }
}
