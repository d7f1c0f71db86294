//! The oracle: plain loops. Read these to know what an operation means.

pub(crate) mod oracle;

use keeve_codec::{Codec, Row};
use keeve_graph::sampling::{RowSampling, Sampled, SamplingError, Workspace};

use crate::kernels::{GELU_CUBE, Kernels, SQRT_2_OVER_PI};
use crate::ops::rope;
use crate::packed::bf16;
use crate::scheme::activations;
use crate::scheme::activations::Rounding;
use crate::scheme::panel::TILE_ROWS;

/// The scalar tier.
pub(crate) struct Scalar;

impl Kernels for Scalar {
    fn sample(
        &self,
        logits: &[f32],
        sampling: &RowSampling<'_>,
        work: &mut Workspace,
    ) -> Result<Option<Sampled>, SamplingError> {
        keeve_graph::sampling::sample(logits, sampling, work)
    }

    fn unpack(&self, codec: Codec, row: Row<'_>, out: &mut [f32]) {
        keeve_codec::values(codec, row, out);
    }

    fn dots(&self, x: &[f32], weights: &[f32], k: usize, out: &mut [f32], stride: usize) {
        for (c, weights) in weights.chunks_exact(k).enumerate() {
            for (r, x) in x.chunks_exact(k).enumerate() {
                out[c * stride + r] = dot(x, weights);
            }
        }
    }

    fn rms_norm(&self, x: &[f32], gain: &[f32], eps: f32, out: &mut [f32]) {
        let factor = 1.0 / (dot(x, x) / x.len() as f32 + eps).sqrt();
        for ((out, x), gain) in out.iter_mut().zip(x).zip(gain) {
            *out = x * factor * gain;
        }
    }

    fn layer_norm(&self, x: &[f32], gain: &[f32], bias: &[f32], eps: f32, out: &mut [f32]) {
        let mean = x.iter().sum::<f32>() / x.len() as f32;
        let squares: f32 = x.iter().map(|x| (x - mean) * (x - mean)).sum();
        let factor = 1.0 / (squares / x.len() as f32 + eps).sqrt();
        for ((out, x), (gain, bias)) in out.iter_mut().zip(x).zip(gain.iter().zip(bias)) {
            *out = (x - mean) * factor * gain + bias;
        }
    }

    fn gelu_tanh(&self, x: &mut [f32]) {
        for x in x {
            let inner = SQRT_2_OVER_PI * (*x + GELU_CUBE * *x * *x * *x);
            *x *= 0.5 * (1.0 + inner.tanh());
        }
    }

    #[cfg(test)]
    fn exp(&self, x: &mut [f32]) {
        x.iter_mut().for_each(|x| *x = x.exp());
    }

    fn silu(&self, x: &mut [f32]) {
        x.iter_mut().for_each(|x| *x = silu(*x));
    }

    fn turn(&self, heads: &mut [f32], head_dim: usize, cosines: &[f32], sines: &[f32]) {
        rope::turn(heads, head_dim, cosines, sines);
    }

    fn quantize(
        &self,
        x: &[f32],
        cols: usize,
        rounding: Rounding,
        codes: &mut [i8],
        scales: &mut [f32],
    ) {
        activations::row(x, cols, rounding, codes, scales);
    }

    fn quantize_in_parts(&self, x: &[f32], codes: &mut [i8], scales: &mut [f32]) {
        activations::row_in_parts(x, codes, scales);
    }

    fn sums(&self, codes: &[i8], scales: &[f32], sums: &mut [i16], weighted32: &mut [f32]) {
        activations::sums(codes, scales, sums, weighted32);
    }

    fn round_to_bf16(&self, x: &[f32], out: &mut [u16]) {
        bf16::round(x, out);
    }

    fn hadamard(&self, values: &mut [f32], block: usize) {
        keeve_codec::hadamard(values, block);
    }

    fn bf16_products(&self, tile: &[u16], x: &[f32], out: &mut [[f32; TILE_ROWS]]) {
        bf16::products(tile, x, out);
    }
}

/// `x * sigmoid(x)`.
pub(crate) fn silu(x: f32) -> f32 {
    x / (1.0 + (-x).exp())
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
