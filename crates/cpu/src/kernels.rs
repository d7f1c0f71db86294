//! The primitives that differ by instruction set. Operations are written once, on top of these.

use keeve_codec::{Codec, Row};

use crate::isa::Isa;
use crate::scalar::Scalar;

/// Primitives of one tier. Each result depends only on the arguments that it is computed from
/// (never on how many rows share a call), which is what row invariance rests on.
pub(crate) trait Kernels: Send + Sync {
    /// Unpacks one weight row to the unrounded `f32` of [`keeve_codec::row_values`].
    fn unpack(&self, codec: Codec, row: Row<'_>, out: &mut [f32]);

    /// `out[r] = x[r] . weights` for each row of `x` (`[rows, weights.len()]`).
    fn dots(&self, x: &[f32], weights: &[f32], out: &mut [f32]);

    /// `y += by * x`.
    fn add_scaled(&self, by: f32, x: &[f32], y: &mut [f32]);

    /// `out = x / sqrt(mean(x^2) + eps) * gain`.
    fn rms_norm(&self, x: &[f32], gain: &[f32], eps: f32, out: &mut [f32]);

    /// Replaces each `x` by `x * sigmoid(x)`.
    fn silu(&self, x: &mut [f32]);

    /// Replaces scores by `exp(score - max)` and returns their sum.
    fn exp_sum(&self, scores: &mut [f32], max: f32) -> f32;
}

/// The primitives of `isa`, which must be one that this machine has.
pub(crate) fn kernels(isa: Isa) -> &'static dyn Kernels {
    match isa {
        Isa::Scalar | Isa::Avx2 | Isa::Avx512 => &Scalar,
    }
}
