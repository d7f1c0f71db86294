//! The vector tiers: the same primitives, compiled for each set of instructions.

#[cfg(target_arch = "aarch64")]
use std::arch::{aarch64::float32x4_t, is_aarch64_feature_detected as detected};
#[cfg(target_arch = "x86_64")]
use std::arch::{
    is_x86_feature_detected as detected,
    x86_64::{__m256, __m256i, __m512, __m512i},
};

use keeve_codec::{Codec, Row};
use keeve_graph::sampling::{RowSampling, Sampled, SamplingError, Workspace};

use crate::gemm::BF16_COLS;
use crate::gemv::{bf16, floats, int8};
use crate::kernels::{Kernels, TileKernels};
use crate::ops::rope;
use crate::packed::tiles::Layout;
use crate::scheme::activations;
use crate::scheme::activations::{BlockRows, Rounding};
use crate::scheme::panel::{PANEL_COLS, PanelPart, TILE_ROWS};
#[cfg(test)]
use crate::simd::elementwise::exp_all;
use crate::simd::elementwise::{dots, gelu_tanh, layer_norm, rms_norm, silu};
#[cfg(target_arch = "aarch64")]
use crate::simd::neon_ints::{Sdot, TileInts, Widening};
use crate::simd::unpack;

/// Whether the machine rounds to bf16 by an instruction. Processors with AVX-512 have it from Cooper Lake and
/// Zen 4 on, and all that have AMX.
fn has_avx512_bf16() -> bool {
    #[cfg(target_arch = "x86_64")]
    return is_x86_feature_detected!("avx512bf16");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Makes a tier: its type, which exists only where its instructions do, and its primitives.
macro_rules! tier {
    ($(#[$doc:meta])* $name:ident: $lanes:ty, $ints:ty, $cols:literal columns, $($feature:tt)+) => {
        $(#[$doc])*
        pub(crate) struct $name(());

        impl $name {
            /// The tier, if this machine has it.
            pub fn detect() -> Option<&'static Self> {
                let found = true $(&& detected!($feature))+;
                found.then_some(&Self(()))
            }
        }

        impl Kernels for $name {
            fn unpack(&self, codec: Codec, row: Row<'_>, out: &mut [f32]) {
                #[target_feature($(enable = $feature),+)]
                fn on_tier(codec: Codec, row: Row<'_>, out: &mut [f32]) {
                    // SAFETY: this function has the instructions.
                    unsafe { unpack::unpack::<$lanes>(codec, row, out) }
                }
                // SAFETY: `self` exists, so the machine has the instructions.
                unsafe { on_tier(codec, row, out) }
            }

            fn dots(&self, x: &[f32], weights: &[f32], k: usize, out: &mut [f32], stride: usize) {
                #[target_feature($(enable = $feature),+)]
                fn on_tier(x: &[f32], weights: &[f32], k: usize, out: &mut [f32], stride: usize) {
                    // SAFETY: this function has the instructions.
                    unsafe { dots::<$lanes, $cols>(x, weights, k, out, stride) }
                }
                // SAFETY: `self` exists, so the machine has the instructions.
                unsafe { on_tier(x, weights, k, out, stride) }
            }

            fn rms_norm(&self, x: &[f32], gain: &[f32], eps: f32, out: &mut [f32]) {
                #[target_feature($(enable = $feature),+)]
                fn on_tier(x: &[f32], gain: &[f32], eps: f32, out: &mut [f32]) {
                    // SAFETY: this function has the instructions.
                    unsafe { rms_norm::<$lanes>(x, gain, eps, out) }
                }
                // SAFETY: `self` exists, so the machine has the instructions.
                unsafe { on_tier(x, gain, eps, out) }
            }

            fn layer_norm(&self, x: &[f32], gain: &[f32], bias: &[f32], eps: f32, out: &mut [f32]) {
                #[target_feature($(enable = $feature),+)]
                fn on_tier(x: &[f32], gain: &[f32], bias: &[f32], eps: f32, out: &mut [f32]) {
                    // SAFETY: this function has the instructions.
                    unsafe { layer_norm::<$lanes>(x, gain, bias, eps, out) }
                }
                // SAFETY: `self` exists, so the machine has the instructions.
                unsafe { on_tier(x, gain, bias, eps, out) }
            }

            fn gelu_tanh(&self, x: &mut [f32]) {
                #[target_feature($(enable = $feature),+)]
                fn on_tier(x: &mut [f32]) {
                    // SAFETY: this function has the instructions.
                    unsafe { gelu_tanh::<$lanes>(x) }
                }
                // SAFETY: `self` exists, so the machine has the instructions.
                unsafe { on_tier(x) }
            }

            fn silu(&self, x: &mut [f32]) {
                #[target_feature($(enable = $feature),+)]
                fn on_tier(x: &mut [f32]) {
                    // SAFETY: this function has the instructions.
                    unsafe { silu::<$lanes>(x) }
                }
                // SAFETY: `self` exists, so the machine has the instructions.
                unsafe { on_tier(x) }
            }

            fn sample(
                &self,
                logits: &[f32],
                sampling: &RowSampling<'_>,
                work: &mut Workspace,
            ) -> Result<Option<Sampled>, SamplingError> {
                #[target_feature($(enable = $feature),+)]
                fn on_tier(
                    logits: &[f32],
                    sampling: &RowSampling<'_>,
                    work: &mut Workspace,
                ) -> Result<Option<Sampled>, SamplingError> {
                    keeve_graph::sampling::sample(logits, sampling, work)
                }
                // SAFETY: `self` exists, so the machine has the instructions.
                unsafe { on_tier(logits, sampling, work) }
            }

            #[cfg(test)]
            fn exp(&self, x: &mut [f32]) {
                #[target_feature($(enable = $feature),+)]
                fn on_tier(x: &mut [f32]) {
                    // SAFETY: this function has the instructions.
                    unsafe { exp_all::<$lanes>(x) }
                }
                // SAFETY: `self` exists, so the machine has the instructions.
                unsafe { on_tier(x) }
            }

            fn quantize(
                &self,
                x: &[f32],
                cols: usize,
                rounding: Rounding,
                codes: &mut [i8],
                scales: &mut [f32],
            ) {
                #[target_feature($(enable = $feature),+)]
                fn on_tier(
                    x: &[f32],
                    cols: usize,
                    rounding: Rounding,
                    codes: &mut [i8],
                    scales: &mut [f32],
                ) {
                    activations::row(x, cols, rounding, codes, scales);
                }
                // SAFETY: `self` exists, so the machine has the instructions.
                unsafe { on_tier(x, cols, rounding, codes, scales) }
            }

            fn turn(&self, heads: &mut [f32], head_dim: usize, cosines: &[f32], sines: &[f32]) {
                #[target_feature($(enable = $feature),+)]
                fn on_tier(heads: &mut [f32], head_dim: usize, cosines: &[f32], sines: &[f32]) {
                    rope::turn(heads, head_dim, cosines, sines);
                }
                // SAFETY: `self` exists, so the machine has the instructions.
                unsafe { on_tier(heads, head_dim, cosines, sines) }
            }

            fn quantize_in_parts(&self, x: &[f32], codes: &mut [i8], scales: &mut [f32]) {
                #[target_feature($(enable = $feature),+)]
                fn on_tier(x: &[f32], codes: &mut [i8], scales: &mut [f32]) {
                    activations::row_in_parts(x, codes, scales);
                }
                // SAFETY: `self` exists, so the machine has the instructions.
                unsafe { on_tier(x, codes, scales) }
            }

            fn sums(&self, codes: &[i8], scales: &[f32], sums: &mut [i16], weighted32: &mut [f32]) {
                #[target_feature($(enable = $feature),+)]
                fn on_tier(
                    codes: &[i8],
                    scales: &[f32],
                    sums: &mut [i16],
                    weighted32: &mut [f32],
                ) {
                    activations::sums(codes, scales, sums, weighted32);
                }
                // SAFETY: `self` exists, so the machine has the instructions.
                unsafe { on_tier(codes, scales, sums, weighted32) }
            }

            fn round_to_bf16(&self, x: &[f32], out: &mut [u16]) {
                #[target_feature($(enable = $feature),+)]
                fn on_tier(x: &[f32], out: &mut [u16]) {
                    crate::packed::bf16::round(x, out);
                }
                // SAFETY: `self` exists, so the machine has the instructions.
                unsafe { on_tier(x, out) }
            }

            fn hadamard(&self, values: &mut [f32], block: usize) {
                #[target_feature($(enable = $feature),+)]
                fn on_tier(values: &mut [f32], block: usize) {
                    keeve_codec::hadamard(values, block);
                }
                // SAFETY: `self` exists, so the machine has the instructions.
                unsafe { on_tier(values, block) }
            }

            fn bf16_products(&self, tile: &[u16], x: &[f32], out: &mut [[f32; TILE_ROWS]]) {
                #[target_feature($(enable = $feature),+)]
                fn on_tier<const ROWS: usize>(
                    tile: &[u16],
                    x: &[f32],
                    out: &mut [[f32; TILE_ROWS]],
                ) {
                    // SAFETY: this function has the instructions.
                    unsafe { bf16::products::<$lanes, ROWS>(tile, x, out) }
                }
                // SAFETY: `self` exists, so the machine has the instructions.
                unsafe {
                    match out.len() {
                        1 => on_tier::<1>(tile, x, out),
                        2 => on_tier::<2>(tile, x, out),
                        4 => on_tier::<4>(tile, x, out),
                        rows => unreachable!("no kernel for {rows} rows"),
                    }
                }
            }

            fn tiles(&self) -> Option<&dyn TileKernels> {
                Some(self)
            }
        }

        impl TileKernels for $name {
            fn decode(
                &self,
                layout: &Layout,
                tile: &[u8],
                x: &BlockRows,
                first: usize,
                out: &mut [[f32; TILE_ROWS]],
            ) {
                #[target_feature($(enable = $feature),+)]
                fn on_tier<const ROWS: usize>(
                    layout: &Layout,
                    tile: &[u8],
                    x: &BlockRows,
                    first: usize,
                    out: &mut [[f32; TILE_ROWS]],
                ) {
                    // SAFETY: this function has the instructions.
                    unsafe { int8::decode::<$ints, ROWS>(layout, tile, x, first, out) }
                }
                // SAFETY: `self` exists, so the machine has the instructions.
                unsafe {
                    match out.len() {
                        1 => on_tier::<1>(layout, tile, x, first, out),
                        2 => on_tier::<2>(layout, tile, x, first, out),
                        4 => on_tier::<4>(layout, tile, x, first, out),
                        rows => unreachable!("no kernel for {rows} rows"),
                    }
                }
            }

            fn panel(
                &self,
                layout: &Layout,
                tile: &[u8],
                block: usize,
                part: PanelPart,
                codes: &mut [i8; TILE_ROWS * PANEL_COLS],
                scales: &mut [f32; TILE_ROWS],
            ) {
                #[target_feature($(enable = $feature),+)]
                fn on_tier(
                    layout: &Layout,
                    tile: &[u8],
                    block: usize,
                    part: PanelPart,
                    codes: &mut [i8; TILE_ROWS * PANEL_COLS],
                    scales: &mut [f32; TILE_ROWS],
                ) {
                    // SAFETY: this function has the instructions.
                    unsafe { crate::gemm::unpack::panel::<$ints>(layout, tile, block, part, codes, scales) }
                }
                // SAFETY: `self` exists, so the machine has the instructions.
                unsafe { on_tier(layout, tile, block, part, codes, scales) }
            }

            fn bf16_panel(
                &self,
                layout: &Layout,
                tile: &[u8],
                block: usize,
                values: &mut [u16; TILE_ROWS * BF16_COLS],
            ) -> bool {
                #[target_feature($(enable = $feature),+)]
                fn on_tier<const NATIVE: bool>(
                    layout: &Layout,
                    tile: &[u8],
                    block: usize,
                    values: &mut [u16; TILE_ROWS * BF16_COLS],
                ) -> bool {
                    // SAFETY: this function has the instructions.
                    unsafe { floats::bf16_panel::<$ints, NATIVE>(layout, tile, block, values) }
                }
                // SAFETY: `self` exists, so the machine has the instructions.
                unsafe {
                    match has_avx512_bf16() {
                        true => on_tier::<true>(layout, tile, block, values),
                        false => on_tier::<false>(layout, tile, block, values),
                    }
                }
            }

            fn float_products(
                &self,
                layout: &Layout,
                tile: &[u8],
                x: &[f32],
                k: usize,
                out: &mut [[f32; TILE_ROWS]],
            ) {
                #[target_feature($(enable = $feature),+)]
                fn on_tier<const ROWS: usize>(
                    layout: &Layout,
                    tile: &[u8],
                    x: &[f32],
                    k: usize,
                    out: &mut [[f32; TILE_ROWS]],
                ) {
                    // SAFETY: this function has the instructions.
                    unsafe { floats::products::<$ints, ROWS>(layout, tile, x, k, out) }
                }
                // SAFETY: `self` exists, so the machine has the instructions.
                unsafe {
                    match out.len() {
                        1 => on_tier::<1>(layout, tile, x, k, out),
                        2 => on_tier::<2>(layout, tile, x, k, out),
                        4 => on_tier::<4>(layout, tile, x, k, out),
                        rows => unreachable!("no kernel for {rows} rows"),
                    }
                }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
tier!(
    /// AVX2 with FMA and F16C: 16 registers of 8 lanes.
    Avx2: __m256, __m256i, 2 columns, "avx2" "fma" "f16c"
);

#[cfg(target_arch = "x86_64")]
tier!(
    /// AVX-512 F, BW, DQ, VL and VNNI: 32 registers of 16 lanes.
    Avx512: __m512, __m512i, 4 columns, "avx2" "fma" "f16c" "avx512f" "avx512bw" "avx512dq" "avx512vl"
        "avx512vnni"
);

#[cfg(target_arch = "aarch64")]
tier!(
    /// NEON: 32 registers of four lanes.
    Neon: float32x4_t, TileInts<Widening>, 4 columns, "neon"
);

#[cfg(target_arch = "aarch64")]
tier!(
    /// NEON with `sdot`.
    Dotprod: float32x4_t, TileInts<Sdot>, 4 columns, "neon" "dotprod"
);
