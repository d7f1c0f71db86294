//! The vector tiers: the same primitives, compiled for each set of instructions.

use std::arch::x86_64::{__m256, __m512};

use keeve_codec::{Codec, Row};

use super::{accumulate, dots, exp_sum, rms_norm, silu, unpack};
use crate::kernels::Kernels;

/// Makes a tier: its type, which exists only where its instructions do, and its primitives.
macro_rules! tier {
    ($(#[$doc:meta])* $name:ident: $lanes:ty, $cols:literal columns, $($feature:tt)+) => {
        $(#[$doc])*
        pub(crate) struct $name(());

        impl $name {
            /// The tier, if this machine has it.
            pub fn detect() -> Option<&'static Self> {
                let found = true $(&& is_x86_feature_detected!($feature))+;
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

            fn accumulate(&self, by: &[f32], x: &[f32], out: &mut [f32]) {
                #[target_feature($(enable = $feature),+)]
                fn on_tier(by: &[f32], x: &[f32], out: &mut [f32]) {
                    // SAFETY: this function has the instructions.
                    unsafe { accumulate::<$lanes>(by, x, out) }
                }
                // SAFETY: `self` exists, so the machine has the instructions.
                unsafe { on_tier(by, x, out) }
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

            fn silu(&self, x: &mut [f32]) {
                #[target_feature($(enable = $feature),+)]
                fn on_tier(x: &mut [f32]) {
                    // SAFETY: this function has the instructions.
                    unsafe { silu::<$lanes>(x) }
                }
                // SAFETY: `self` exists, so the machine has the instructions.
                unsafe { on_tier(x) }
            }

            fn exp_sum(&self, scores: &mut [f32], scale: f32) -> f32 {
                #[target_feature($(enable = $feature),+)]
                fn on_tier(scores: &mut [f32], scale: f32) -> f32 {
                    // SAFETY: this function has the instructions.
                    unsafe { exp_sum::<$lanes>(scores, scale) }
                }
                // SAFETY: `self` exists, so the machine has the instructions.
                unsafe { on_tier(scores, scale) }
            }
        }
    };
}

tier!(
    /// AVX2 with FMA and F16C: 16 registers of 8 lanes.
    Avx2: __m256, 2 columns, "avx2" "fma" "f16c"
);

tier!(
    /// AVX-512 F, BW, DQ, VL and VNNI: 32 registers of 16 lanes.
    Avx512: __m512, 4 columns,
    "avx2" "fma" "f16c" "avx512f" "avx512bw" "avx512dq" "avx512vl" "avx512vnni"
);
