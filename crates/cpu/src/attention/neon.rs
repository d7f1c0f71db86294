//! What attention asks of registers, on aarch64.

use std::arch::aarch64::*;

use super::lanes::AttentionLanes;
use crate::vector::Floats;

impl<const N: usize> AttentionLanes for Floats<N> {
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn where_less(a: Self, b: Self, yes: Self, no: Self) -> Self {
        let (a, b) = (a.registers(), b.registers());
        let (yes, no) = (yes.registers(), no.registers());
        Self::of(std::array::from_fn(|index| {
            vbslq_f32(vcltq_f32(a[index], b[index]), yes[index], no[index])
        }))
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn round_to_bf16(self) -> Self {
        Self::of(self.registers().map(|values| {
            let bits = vreinterpretq_u32_f32(values);
            // Half of the last place that is kept, less one if that place is even.
            let odd = vandq_u32(vshrq_n_u32::<16>(bits), vdupq_n_u32(1));
            let up = vaddq_u32(vaddq_u32(bits, odd), vdupq_n_u32(0x7fff));
            let kept = vreinterpretq_f32_u32(vandq_u32(up, vdupq_n_u32(0xffff_0000)));
            // Only NaN does not equal itself.
            vbslq_f32(vceqq_f32(values, values), kept, values)
        }))
    }
}
