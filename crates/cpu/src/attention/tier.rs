//! Attention of the vector tiers, compiled for each set of instructions.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{__m256, __m512};
use std::ops::Range;

use half::f16;

use crate::attention::decode::split;
use crate::attention::load_kv::pack_f16;
use crate::attention::prefill::blocks;
use crate::attention::{AttentionKernels, Numbers, Partial, Queries};
use crate::kv_cache::KvShape;
use crate::runtime::scratch::Scratch;
#[cfg(target_arch = "x86_64")]
use crate::simd::{Avx2, Avx512};
#[cfg(target_arch = "aarch64")]
use crate::simd::{Neon, Pair};

/// Implements [`AttentionKernels`] for a tier, a type that exists only where its instructions do.
macro_rules! attention {
    ($name:ident: $lanes:ty, $($feature:tt)+) => {
        impl AttentionKernels for &'static $name {
            fn blocks(
                &self,
                queries: &Queries<'_>,
                numbers: Numbers,
                out: &mut [&mut [f32]],
                scratch: &mut Scratch,
            ) {
                #[target_feature($(enable = $feature),+)]
                fn on_tier(
                    queries: &Queries<'_>,
                    numbers: Numbers,
                    out: &mut [&mut [f32]],
                    scratch: &mut Scratch,
                ) {
                    // SAFETY: this function has the instructions.
                    unsafe { blocks::<$lanes>(queries, numbers, out, scratch) }
                }
                // SAFETY: `self` exists, so the machine has the instructions.
                unsafe { on_tier(queries, numbers, out, scratch) }
            }

            fn split(
                &self,
                queries: &Queries<'_>,
                tokens: Range<usize>,
                partial: Partial<'_>,
                work: &mut [f32],
            ) {
                #[target_feature($(enable = $feature),+)]
                fn on_tier(
                    queries: &Queries<'_>,
                    tokens: Range<usize>,
                    partial: Partial<'_>,
                    work: &mut [f32],
                ) {
                    // SAFETY: this function has the instructions.
                    unsafe { split::<$lanes>(queries, tokens, partial, work) }
                }
                // SAFETY: `self` exists, so the machine has the instructions.
                unsafe { on_tier(queries, tokens, partial, work) }
            }

            fn store(&self, shape: KvShape, bytes: &mut [u8], index: usize, values: &[f32]) {
                #[target_feature($(enable = $feature),+)]
                fn on_tier(shape: KvShape, bytes: &mut [u8], index: usize, values: &[f32]) {
                    // SAFETY: this function has the instructions.
                    let to_f16 = |values: &[f32], out: &mut [f16]| unsafe {
                        pack_f16::<$lanes>(values, out);
                    };
                    shape.store(bytes, index, values, to_f16);
                }
                // SAFETY: `self` exists, so the machine has the instructions.
                unsafe { on_tier(shape, bytes, index, values) }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
attention!(Avx2: __m256, "avx2" "fma" "f16c");
#[cfg(target_arch = "x86_64")]
attention!(Avx512: __m512, "avx2" "fma" "f16c" "avx512f" "avx512bw" "avx512dq" "avx512vl");
// Two registers: enough sums to hide the latency of one behind others.
#[cfg(target_arch = "aarch64")]
attention!(Neon: Pair<std::arch::aarch64::float32x4_t>, "neon");
