//! MLX affine: `code * scale + bias` in groups, codes as one little-endian bit stream a row.
//!
//! The layout and both roundings follow ml-explore/mlx (`mx.quantize`, `mx.dequantize`); the rules for
//! scales and biases were derived from its outputs and meet them bit for bit.

use crate::search::{extent, round_within};
use crate::stream::{OCTET, read_codes, top_code, write_codes};
use crate::tensor::RowMut;
use crate::{Float, Row};

/// Which of the affine formats.
#[derive(Clone, Copy)]
pub(crate) struct Affine {
    /// Bits of a code.
    pub(crate) bits: u8,
    /// Weights that share a scale and a bias.
    pub(crate) group: u16,
    /// How scales and biases are stored.
    pub(crate) float: Float,
}

impl Affine {
    /// Weights in a group.
    fn group_len(self) -> usize {
        usize::from(self.group)
    }

    /// Bytes of a group's codes.
    fn group_bytes(self) -> usize {
        self.group_len() / OCTET * usize::from(self.bits)
    }
}

/// The largest group there is.
const LARGEST_GROUP: usize = 128;

/// Calls `decode` with each group's codes, scale, bias and place in `out`.
#[inline(always)]
fn each_group(
    format: Affine,
    row: Row<'_>,
    out: &mut [f32],
    decode: impl Fn(&[u8], f32, f32, &mut [f32]),
) {
    let mut codes = [0; LARGEST_GROUP];
    let codes = &mut codes[..format.group_len()];
    let groups =
        row.data.chunks_exact(format.group_bytes()).zip(out.chunks_exact_mut(format.group_len()));
    for (index, (stream, out)) in groups.enumerate() {
        read_codes(format.bits, stream, codes);
        let read = |part| format.float.read(part, index);
        decode(codes, read(row.scales), read(row.biases), out);
    }
}

/// Decodes a row without rounding: product, then sum, in `f32`.
pub(crate) fn values(format: Affine, row: Row<'_>, out: &mut [f32]) {
    each_group(format, row, out, |codes, scale, bias, out| {
        for (value, &code) in out.iter_mut().zip(codes) {
            *value = f32::from(code) * scale + bias;
        }
    });
}

/// Decodes a row as `mx.dequantize` does on the CPU: product and sum are each rounded to the type of the
/// scales.
pub(crate) fn stored(format: Affine, row: Row<'_>, out: &mut [f32]) {
    let float = format.float;
    each_group(format, row, out, |codes, scale, bias, out| {
        for (value, &code) in out.iter_mut().zip(codes) {
            *value = float.round(float.round(f32::from(code) * scale) + bias);
        }
    });
}

/// The least scale of a group.
const LEAST_SCALE: f32 = 1e-7;

/// Scale and bias of a group as `mx.quantize` picks them, before they are rounded to their type.
///
/// The end of the range that is further from zero is on the grid, and so is zero if the range spans it.
/// With one bit the two codes are the ends of the range.
fn fit(values: &[f32], bits: u8) -> (f32, f32) {
    let (lowest, highest) = extent(values);
    let top = f32::from(top_code(bits));
    let scale = ((highest - lowest) / top).max(LEAST_SCALE);
    if bits == 1 {
        return (scale, lowest);
    }
    let (edge, scale) =
        if lowest.abs() > highest.abs() { (lowest, scale) } else { (highest, -scale) };
    let steps = (edge / scale).round_ties_even();
    if steps == 0.0 { (scale, 0.0) } else { (edge / steps, edge) }
}

/// Encodes a row as `mx.quantize` does.
pub(crate) fn encode(format: Affine, values: &[f32], row: &mut RowMut<'_>) {
    let top = i32::from(top_code(format.bits));
    let mut codes = [0; LARGEST_GROUP];
    let codes = &mut codes[..format.group_len()];
    let groups = row
        .data
        .chunks_exact_mut(format.group_bytes())
        .zip(values.chunks_exact(format.group_len()));
    for (index, (stream, values)) in groups.enumerate() {
        // Codes come from the exact scale and bias; what is stored is rounded to their type.
        let (scale, bias) = fit(values, format.bits);
        for (code, value) in codes.iter_mut().zip(values) {
            *code = round_within((value - bias) / scale, 0, top) as u8;
        }
        write_codes(format.bits, codes, stream);
        format.float.write(row.scales, index, scale);
        format.float.write(row.biases, index, bias);
    }
}
