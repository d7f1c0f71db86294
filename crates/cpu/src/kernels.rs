//! The primitives that differ by instruction set. Operations are written once, on top of these.

use keeve_codec::{Codec, Row};

#[cfg(target_arch = "x86_64")]
use crate::gemm::Amx;
use crate::isa::Isa;
use crate::scalar::Scalar;
#[cfg(target_arch = "x86_64")]
use crate::vector::{Avx2, Avx512};

/// Primitives of one tier. Each result depends only on the arguments that it is computed from
/// (never on how many rows share a call), which is what row invariance rests on.
pub(crate) trait Kernels: Send + Sync {
    /// Unpacks one weight row to the unrounded `f32` of [`keeve_codec::row_values`], bit for bit.
    fn unpack(&self, codec: Codec, row: Row<'_>, out: &mut [f32]);

    /// `out[c * stride + r] = x[r] . weights[c]`, for each row of `x` (`[rows, k]`) and each of
    /// `weights` (`[cols, k]`); `stride` is at least `rows`.
    fn dots(&self, x: &[f32], weights: &[f32], k: usize, out: &mut [f32], stride: usize);

    /// `out += by[i] * x[i]` over the rows of `x` (`[by.len(), out.len()]`), in order.
    fn accumulate(&self, by: &[f32], x: &[f32], out: &mut [f32]);

    /// `out = x / sqrt(mean(x^2) + eps) * gain`.
    fn rms_norm(&self, x: &[f32], gain: &[f32], eps: f32, out: &mut [f32]);

    /// Replaces each `x` by `x * sigmoid(x)`.
    fn silu(&self, x: &mut [f32]);

    /// Replaces scores by `exp(scale * score - m)`, `m` being the largest `scale * score`, and
    /// returns their sum.
    fn exp_sum(&self, scores: &mut [f32], scale: f32) -> f32;
}

/// The primitives of `isa`, if this machine (and this build) has them.
pub(crate) fn kernels(isa: Isa) -> Option<&'static dyn Kernels> {
    match isa {
        Isa::Scalar => Some(&Scalar),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => Avx2::detect().map(|tier| tier as &dyn Kernels),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => Avx512::detect().map(|tier| tier as &dyn Kernels),
        // The tile unit has no use for single values: these primitives are those of AVX-512.
        #[cfg(target_arch = "x86_64")]
        Isa::Amx => Amx::detect().and_then(|_| Avx512::detect()).map(|tier| tier as &dyn Kernels),
        #[cfg(not(target_arch = "x86_64"))]
        Isa::Avx2 | Isa::Avx512 | Isa::Amx => None,
    }
}

#[cfg(test)]
mod tests;
