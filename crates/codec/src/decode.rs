//! From packed bytes to floats: the one place that picks a decoder by codec.

use crate::affine::Affine;
use crate::{Codec, PackedTensor, Row, affine, float, int, kquant, legacy};

/// Decodes one row's bytes to what arithmetic uses: unrounded `f32`.
///
/// For ggml's codecs this is ggml's own order of `f32` operations, bit for bit (products first, then one
/// subtraction or addition). For the codecs with scales apart it is `code * scale`, plus `bias`.
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
        Codec::Affine { bits, group, scale } => {
            affine::values(Affine { bits, group, float: scale }, row, out)
        }
        Codec::Int8 { group, scale } => int::int8_values(group, scale, row, out),
        Codec::Int4 { group, scale } => int::int4_values(group, scale, row, out),
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
/// arithmetic.
///
/// # Panics
/// If there is no such row, or `out` is not [`PackedTensor::cols`] long.
pub fn row_values(tensor: &PackedTensor, index: usize, out: &mut [f32]) {
    values(tensor.codec(), tensor.row(index), out);
}

/// Decodes row `index`, counted through the stack (`expert * rows + row`), as [`stored_values`] does: for
/// files and tools.
///
/// # Panics
/// If there is no such row, or `out` is not [`PackedTensor::cols`] long.
pub fn decode_row(tensor: &PackedTensor, index: usize, out: &mut [f32]) {
    stored_values(tensor.codec(), tensor.row(index), out);
}

/// Decodes all rows as [`decode_row`] does: `[experts, rows, cols]`, row after row.
pub fn decode(tensor: &PackedTensor) -> Vec<f32> {
    let mut out = vec![0.0; tensor.len()];
    for (index, row) in out.chunks_exact_mut(tensor.cols()).enumerate() {
        decode_row(tensor, index, row);
    }
    out
}
