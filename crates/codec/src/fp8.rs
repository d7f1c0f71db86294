//! E4M3 floats, one scale a row or a group: `e4m3(code) * scale`.
//!
//! What FP8 checkpoints hold (vllm-project/compressed-tensors `float-quantized`, huggingface/transformers
//! `integrations/finegrained_fp8.py`). The encoder brings the largest magnitude of a group to 448, the largest
//! E4M3 float; the scale of zeros is 1.

use crate::minifloat::{E4M3_MAX, e4m3, to_e4m3};
use crate::search::extreme;
use crate::tensor::{RowMut, group_len};
use crate::{Float, Group, Row};

/// Decodes a row.
pub(crate) fn values(group: Group, float: Float, row: Row<'_>, out: &mut [f32]) {
    let len = group_len(group, out.len());
    let groups = row.data.chunks_exact(len).zip(out.chunks_exact_mut(len));
    for (index, (codes, out)) in groups.enumerate() {
        let scale = float.read(row.scales, index);
        for (value, &code) in out.iter_mut().zip(codes) {
            *value = e4m3(code) * scale;
        }
    }
}

/// Encodes a row.
pub(crate) fn encode(group: Group, float: Float, values: &[f32], row: &mut RowMut<'_>) {
    let len = group_len(group, values.len());
    let groups = row.data.chunks_exact_mut(len).zip(values.chunks_exact(len));
    for (index, (codes, values)) in groups.enumerate() {
        let scale = float.round(extreme(values).abs() / E4M3_MAX);
        let scale = if scale == 0.0 { 1.0 } else { scale };
        float.write(row.scales, index, scale);
        for (code, value) in codes.iter_mut().zip(values) {
            *code = to_e4m3(value / scale);
        }
    }
}
