//! The primitives that differ by instruction set. Operations are written once, on top of these.

use keeve_codec::{Codec, Row};
use keeve_graph::sampling::{RowSampling, Sampled, SamplingError, Workspace};

use crate::gemm::BF16_COLS;
use crate::packed::tiles::Layout;
use crate::scheme::activations::{BlockRows, Rounding};
use crate::scheme::panel::{PANEL_COLS, PanelPart, TILE_ROWS};

/// Primitives of one tier. Each result depends only on the arguments that it is computed from
/// (never on how many rows share a call), which is what row invariance rests on.
pub(crate) trait Kernels: Send + Sync {
    /// Unpacks one weight row to the unrounded `f32` of [`keeve_codec::row_values`], bit for bit.
    fn unpack(&self, codec: Codec, row: Row<'_>, out: &mut [f32]);

    /// `out[c * stride + r] = x[r] . weights[c]`, for each row of `x` (`[rows, k]`) and each of
    /// `weights` (`[cols, k]`); `stride` is at least `rows`.
    fn dots(&self, x: &[f32], weights: &[f32], k: usize, out: &mut [f32], stride: usize);

    /// `out = x / sqrt(mean(x^2) + eps) * gain`.
    fn rms_norm(&self, x: &[f32], gain: &[f32], eps: f32, out: &mut [f32]);

    /// `out = (x - mean(x)) / sqrt(variance(x) + eps) * gain + bias`.
    fn layer_norm(&self, x: &[f32], gain: &[f32], bias: &[f32], eps: f32, out: &mut [f32]);

    /// Replaces each `x` by `x / 2 * (1 + tanh(sqrt(2 / pi) * (x + GELU_CUBE * x^3)))`.
    fn gelu_tanh(&self, x: &mut [f32]);

    /// Replaces each `x` by `x * sigmoid(x)`.
    fn silu(&self, x: &mut [f32]);

    /// Replaces each `x`, of which there is a multiple of 16, by `e^x` as the tier computes it.
    #[cfg(test)]
    fn exp(&self, x: &mut [f32]);

    /// Turns heads: [`crate::ops::rope::turn`], bit for bit.
    fn turn(&self, heads: &mut [f32], head_dim: usize, cosines: &[f32], sines: &[f32]);

    /// Quantizes a row of activations: [`crate::scheme::activations::row`].
    fn quantize(
        &self,
        x: &[f32],
        cols: usize,
        rounding: Rounding,
        codes: &mut [i8],
        scales: &mut [f32],
    );

    /// Quantizes a row of activations in two parts: [`crate::scheme::activations::row_in_parts`].
    fn quantize_in_parts(&self, x: &[f32], codes: &mut [i8], scales: &mut [f32]);

    /// Fills the sums of a row: [`crate::scheme::activations::sums`].
    fn sums(&self, codes: &[i8], scales: &[f32], sums: &mut [i16], weighted32: &mut [f32]);

    /// Rounds values to bf16: [`crate::packed::bf16::round`].
    fn round_to_bf16(&self, x: &[f32], out: &mut [u16]);

    /// Multiplies each `block` values by a Hadamard matrix: [`keeve_codec::hadamard`].
    fn hadamard(&self, values: &mut [f32], block: usize);

    /// Products with a tile of bf16, nothing rounded: [`crate::packed::bf16::products`]. `out` has 1, 2 or 4 rows.
    fn bf16_products(&self, tile: &[u16], x: &[f32], out: &mut [[f32; TILE_ROWS]]);

    /// Samples from a row of logits: [`keeve_graph::sampling::sample`], bit for bit.
    fn sample(
        &self,
        logits: &[f32],
        sampling: &RowSampling<'_>,
        work: &mut Workspace,
    ) -> Result<Option<Sampled>, SamplingError>;

    /// The kernels for tiles; `None` for the scalar tier, which computes with weights as they are stored.
    fn tiles(&self) -> Option<&dyn TileKernels> {
        None
    }
}

/// The factor of the cube in [`Kernels::gelu_tanh`].
pub(crate) const GELU_CUBE: f32 = 0.044_715;
/// The square root of `2 / pi`.
pub(crate) const SQRT_2_OVER_PI: f32 = 0.797_884_6;

/// The most activation rows of [`TileKernels::decode`].
pub(crate) const DECODE_ROWS: usize = 4;

/// Kernels of a vector tier that read tiles. They give the bits that [`crate::reference::oracle`] gives.
pub(crate) trait TileKernels: Send + Sync {
    /// `out[r] = x[first + r] . weights`, for the 16 weight rows of `tile`; `out` has 1, 2 or 4 rows. The
    /// recipe is the one of `x`: [`crate::scheme::Recipe::Block`], [`crate::scheme::Recipe::FineBlock`] (if
    /// it has two parts) or [`crate::scheme::Recipe::Token`].
    fn decode(
        &self,
        layout: &Layout,
        tile: &[u8],
        x: &BlockRows,
        first: usize,
        out: &mut [[f32; TILE_ROWS]],
    );

    /// Unpacks 256 columns of a tile: [`crate::packed::Packed::int8_panel`], or what that leaves, which must
    /// have codes of at most two bits.
    fn panel(
        &self,
        layout: &Layout,
        tile: &[u8],
        block: usize,
        part: PanelPart,
        codes: &mut [i8; TILE_ROWS * PANEL_COLS],
        scales: &mut [f32; TILE_ROWS],
    );

    /// Unpacks the 128 columns from `128 * block` on of a tile, rounded to bf16: `[64][16][2]`, zeros past the
    /// last column. `false` if weights may not be finite or normal numbers: [`crate::packed::tiles::Tiles::bf16_panel`]
    /// rounds these.
    fn bf16_panel(
        &self,
        layout: &Layout,
        tile: &[u8],
        block: usize,
        values: &mut [u16; TILE_ROWS * BF16_COLS],
    ) -> bool;

    /// `out[r] = x[r] . weights`, for the 16 weight rows of `tile`, with nothing rounded: [`crate::packed::bf16::sums`].
    /// `x` is `[out.len()][k]`, where `k` is a multiple of 32; `out` has 1, 2 or 4 rows.
    fn float_products(
        &self,
        layout: &Layout,
        tile: &[u8],
        x: &[f32],
        k: usize,
        out: &mut [[f32; TILE_ROWS]],
    );
}

#[cfg(test)]
mod tests;
