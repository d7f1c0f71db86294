//! What attention asks of registers, on aarch64.

use std::arch::aarch64::*;

use crate::attention::lanes::AttentionLanes;
use crate::simd::Pair;

impl AttentionLanes for float32x4_t {
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn where_less(a: Self, b: Self, yes: Self, no: Self) -> Self {
        vbslq_f32(vcltq_f32(a, b), yes, no)
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn round_to_bf16(self) -> Self {
        let bits = vreinterpretq_u32_f32(self);
        // Half of the last place that is kept, less one if that place is even.
        let odd = vandq_u32(vshrq_n_u32::<16>(bits), vdupq_n_u32(1));
        let up = vaddq_u32(vaddq_u32(bits, odd), vdupq_n_u32(0x7fff));
        let kept = vreinterpretq_f32_u32(vandq_u32(up, vdupq_n_u32(0xffff_0000)));
        // Only NaN does not equal itself.
        vbslq_f32(vceqq_f32(self, self), kept, self)
    }
}

impl<V: AttentionLanes> AttentionLanes for Pair<V> {
    #[inline(always)]
    unsafe fn where_less(a: Self, b: Self, yes: Self, no: Self) -> Self {
        // SAFETY: the caller's promise.
        unsafe { Self(V::where_less(a.0, b.0, yes.0, no.0), V::where_less(a.1, b.1, yes.1, no.1)) }
    }

    #[inline(always)]
    unsafe fn round_to_bf16(self) -> Self {
        // SAFETY: the caller's promise.
        unsafe { Self(self.0.round_to_bf16(), self.1.round_to_bf16()) }
    }
}
