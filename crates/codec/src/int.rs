//! Symmetric integers, one scale a row or a group: int8 (`code * scale`) and int4
//! (`(code - 8) * scale`, two codes a byte, the even column in the low nibble).
//!
//! The encoders follow Mininglamp-AI/cider `cider/ops.py` (`quantize_weight_int8`, `pack_weight_int4`)
//! and `cider/nn.py` (`_symmetric_quantize_pergroup`): the scale is the largest magnitude over 127 or 7,
//! or 1 if that is zero; halves round to even. Its int4 layout differs ([K/2, N], even row in the high
//! nibble); ours goes along rows like every other codec's.

use crate::search::{extreme, round_within};
use crate::tensor::{RowMut, group_len};
use crate::{Float, Group, Row};

/// Decodes a row of int8.
pub(crate) fn int8_values(group: Group, float: Float, row: Row<'_>, out: &mut [f32]) {
    let len = group_len(group, out.len());
    let groups = row.data.chunks_exact(len).zip(out.chunks_exact_mut(len));
    for (index, (codes, out)) in groups.enumerate() {
        let scale = float.read(row.scales, index);
        for (value, &code) in out.iter_mut().zip(codes) {
            *value = f32::from(code as i8) * scale;
        }
    }
}

/// Decodes a row of int4.
pub(crate) fn int4_values(group: Group, float: Float, row: Row<'_>, out: &mut [f32]) {
    let len = group_len(group, out.len());
    let groups = row.data.chunks_exact(len / 2).zip(out.chunks_exact_mut(len));
    for (index, (bytes, out)) in groups.enumerate() {
        let scale = float.read(row.scales, index);
        for (pair, &byte) in out.as_chunks_mut().0.iter_mut().zip(bytes) {
            *pair = [byte & 15, byte >> 4].map(|code| (i32::from(code) - 8) as f32 * scale);
        }
    }
}

/// The scale of a group whose largest code is `top`, as it will be stored. Codes are rounded with the
/// stored scale, so that a 16-bit one costs no more than its own grid.
fn fit(values: &[f32], top: f32, float: Float) -> f32 {
    let scale = float.round(extreme(values).abs() / top);
    if scale == 0.0 { 1.0 } else { scale }
}

/// Encodes a row of int8.
pub(crate) fn int8_encode(group: Group, float: Float, values: &[f32], row: &mut RowMut<'_>) {
    let len = group_len(group, values.len());
    let groups = row.data.chunks_exact_mut(len).zip(values.chunks_exact(len));
    for (index, (codes, values)) in groups.enumerate() {
        let scale = fit(values, 127.0, float);
        float.write(row.scales, index, scale);
        for (code, value) in codes.iter_mut().zip(values) {
            *code = round_within(value / scale, -128, 127) as i8 as u8;
        }
    }
}

/// Encodes a row of int4.
pub(crate) fn int4_encode(group: Group, float: Float, values: &[f32], row: &mut RowMut<'_>) {
    let len = group_len(group, values.len());
    let groups = row.data.chunks_exact_mut(len / 2).zip(values.chunks_exact(len));
    for (index, (bytes, values)) in groups.enumerate() {
        let scale = fit(values, 7.0, float);
        float.write(row.scales, index, scale);
        for (byte, pair) in bytes.iter_mut().zip(values.as_chunks::<2>().0) {
            let [even, odd] = pair.map(|value| (round_within(value / scale, -8, 7) + 8) as u8);
            *byte = even | odd << 4;
        }
    }
}
