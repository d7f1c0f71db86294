//! From packed bytes to floats: the one place that picks a decoder by codec.

use crate::affine::Affine;
use crate::{
    Codec, PackedTensor, Row, affine, float, fp4, fp8, int, iq_grid, iq4, kquant, legacy, mlx_fp,
    ternary,
};

/// Decodes one row's bytes to what arithmetic uses: unrounded `f32`.
///
/// For ggml's codecs this is ggml's own order of `f32` operations, bit for bit (products first, then one
/// subtraction or addition). For the codecs with scales apart it is `code * scale`, plus `bias`, where a
/// global scale is part of `scale`.
/// Any bytes decode to something; scales that are infinite or NaN give infinite or NaN values.
///
/// # Panics
/// If `row` does not have the bytes of `out.len()` weights of a codec that [`Codec::row_parts`] accepts.
/// Rows from [`PackedTensor::row`] do.
pub fn values(codec: Codec, row: Row<'_>, out: &mut [f32]) {
    row.expect_lengths(codec, out.len());
    match codec {
        Codec::Float(float) => float::values(float, row.data, out),
        Codec::Q4_0 => legacy::values(legacy::Q4_0, row.data, out),
        Codec::Q4_1 => legacy::values(legacy::Q4_1, row.data, out),
        Codec::Q5_0 => legacy::values(legacy::Q5_0, row.data, out),
        Codec::Q5_1 => legacy::values(legacy::Q5_1, row.data, out),
        Codec::Q8_0 => legacy::q8_0_values(row.data, out),
        Codec::Q2K => kquant::values(&kquant::Q2_K, row.data, out),
        Codec::Q3K => kquant::values(&kquant::Q3_K, row.data, out),
        Codec::Q4K => kquant::values(&kquant::Q4_K, row.data, out),
        Codec::Q5K => kquant::values(&kquant::Q5_K, row.data, out),
        Codec::Q6K => kquant::values(&kquant::Q6_K, row.data, out),
        Codec::Iq4Nl => iq4::nl_values(row.data, out),
        Codec::Iq4Xs => iq4::xs_values(row.data, out),
        Codec::Iq1S => iq_grid::iq1_s_values(row.data, out),
        Codec::Iq1M => iq_grid::iq1_m_values(row.data, out),
        Codec::Iq2Xxs => iq_grid::iq2_xxs_values(row.data, out),
        Codec::Iq2Xs => iq_grid::iq2_xs_values(row.data, out),
        Codec::Iq2S => iq_grid::iq2_s_values(row.data, out),
        Codec::Iq3Xxs => iq_grid::iq3_xxs_values(row.data, out),
        Codec::Iq3S => iq_grid::iq3_s_values(row.data, out),
        Codec::Tq1_0 => ternary::trits_values(&ternary::TQ1_0, row.data, out),
        Codec::Ptq1_0 => ternary::trits_values(&ternary::PTQ1_0, row.data, out),
        Codec::Tq2_0 => ternary::bits_values(&ternary::TQ2_0, row.data, out),
        Codec::Q1_0 => ternary::bits_values(&ternary::Q1_0, row.data, out),
        Codec::Q2_0 => ternary::bits_values(&ternary::Q2_0, row.data, out),
        Codec::Pq2_0 => ternary::bits_values(&ternary::PQ2_0, row.data, out),
        Codec::Mxfp4 => fp4::mx_values(row.data, out),
        Codec::Nvfp4 => fp4::nv_values(row.data, out),
        Codec::MlxMxfp4 => mlx_fp::mxfp4_values(row, out),
        Codec::MlxMxfp8 => mlx_fp::mxfp8_values(row, out),
        Codec::MlxNvfp4 { .. } => mlx_fp::nvfp4_values(row, out),
        Codec::Affine { bits, group, scale } => {
            affine::values(Affine { bits, group, float: scale }, row, out)
        }
        Codec::Int8 { group, scale } => int::int8_values(group, scale, row, out),
        Codec::Int4 { group, scale } => int::int4_values(group, scale, row, out),
        Codec::Fp8 { group, scale } => fp8::values(group, scale, row, out),
    }
}

/// Decodes one row's bytes to what the format's reference library would store: as [`values`], but MLX
/// affine with 16-bit scales is rounded to their type after the product and again after the sum.
///
/// # Panics
/// As [`values`].
pub fn stored_values(codec: Codec, row: Row<'_>, out: &mut [f32]) {
    match codec {
        Codec::Affine { bits, group, scale } => {
            row.expect_lengths(codec, out.len());
            affine::stored(Affine { bits, group, float: scale }, row, out);
        }
        _ => values(codec, row, out),
    }
}

/// Decodes row `index`, counted through the stack (`expert * rows + row`), as [`values`] does: for
/// arithmetic. Rows that are stored in another basis are turned back.
///
/// # Panics
/// If there is no such row, or `out` is not [`PackedTensor::cols`] long.
pub fn row_values(tensor: &PackedTensor, index: usize, out: &mut [f32]) {
    values(tensor.codec(), tensor.row(index), out);
    if let Some(basis) = tensor.basis() {
        basis.undo(out);
    }
}

/// Decodes row `index`, counted through the stack (`expert * rows + row`), as [`stored_values`] does: for
/// files and tools. Rows that are stored in another basis are turned back.
///
/// # Panics
/// If there is no such row, or `out` is not [`PackedTensor::cols`] long.
pub fn decode_row(tensor: &PackedTensor, index: usize, out: &mut [f32]) {
    stored_values(tensor.codec(), tensor.row(index), out);
    if let Some(basis) = tensor.basis() {
        basis.undo(out);
    }
}

/// Decodes all rows as [`decode_row`] does: `[experts, rows, cols]`, row after row.
pub fn decode(tensor: &PackedTensor) -> Vec<f32> {
    let mut out = vec![0.0; tensor.len()];
    for (index, row) in out.chunks_exact_mut(tensor.cols()).enumerate() {
        decode_row(tensor, index, row);
    }
    out
}
