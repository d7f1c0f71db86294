//! Registers of `f32` lanes on aarch64, where every machine that runs this has NEON.

use std::arch::aarch64::*;

use crate::simd::lanes::Lanes;

/// Four unsigned bytes, widened to 32 bits.
///
/// # Safety
/// There must be four bytes at `from`.
#[inline]
#[target_feature(enable = "neon")]
pub(crate) unsafe fn widen_u8(from: *const u8) -> uint32x4_t {
    // SAFETY: the caller's promise.
    let bytes = unsafe { from.cast::<u32>().read_unaligned() };
    vmovl_u16(vget_low_u16(vmovl_u8(vcreate_u8(bytes.into()))))
}

/// Four signed bytes, widened to 32 bits.
///
/// # Safety
/// There must be four bytes at `from`.
#[inline]
#[target_feature(enable = "neon")]
pub(crate) unsafe fn widen_i8(from: *const u8) -> int32x4_t {
    // SAFETY: the caller's promise.
    let bytes = unsafe { from.cast::<u32>().read_unaligned() };
    vmovl_s16(vget_low_s16(vmovl_s8(vcreate_s8(bytes.into()))))
}

/// A binary16 value, widened.
///
/// # Safety
/// The machine must have NEON.
#[inline]
#[target_feature(enable = "neon")]
pub(crate) unsafe fn widen_f16(bytes: [u8; 2]) -> f32 {
    let all = vdup_n_u16(u16::from_le_bytes(bytes));
    vgetq_lane_f32::<0>(vcvt_f32_f16(vreinterpret_f16_u16(all)))
}

impl Lanes for float32x4_t {
    const COUNT: usize = 4;

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn splat(value: f32) -> Self {
        vdupq_n_f32(value)
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller has four values there.
        unsafe { vld1q_f32(from) }
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn load_part(from: *const f32, count: usize) -> Self {
        let mut values = [0.0; 4];
        for (index, value) in values.iter_mut().take(count).enumerate() {
            // SAFETY: only `count` values are touched, which the caller has there.
            *value = unsafe { *from.add(index) };
        }
        // SAFETY: there are four values.
        unsafe { vld1q_f32(values.as_ptr()) }
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn load_f16(from: *const u8) -> Self {
        // SAFETY: the caller has four values of two bytes there.
        vcvt_f32_f16(vreinterpret_f16_u8(unsafe { vld1_u8(from) }))
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn load_bf16(from: *const u8) -> Self {
        // SAFETY: the caller has four values of two bytes there.
        let narrow = vreinterpret_u16_u8(unsafe { vld1_u8(from) });
        vreinterpretq_f32_u32(vshll_n_u16::<16>(narrow))
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn load_bf16_pairs(from: *const u8) -> (Self, Self) {
        // SAFETY: the caller has four pairs of two bytes each there.
        let pairs = vreinterpretq_u32_u8(unsafe { vld1q_u8(from) });
        let second = vandq_u32(pairs, vdupq_n_u32(0xffff_0000));
        (vreinterpretq_f32_u32(vshlq_n_u32::<16>(pairs)), vreinterpretq_f32_u32(second))
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn load_u8(from: *const u8) -> Self {
        // SAFETY: the caller has four bytes there.
        vcvtq_f32_u32(unsafe { widen_u8(from) })
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn load_i8(from: *const i8) -> Self {
        // SAFETY: the caller has four bytes there.
        vcvtq_f32_s32(unsafe { widen_i8(from.cast()) })
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn load_i32(from: *const i32) -> Self {
        // SAFETY: the caller has four values there.
        vcvtq_f32_s32(unsafe { vld1q_s32(from) })
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller has room for four values there.
        unsafe { vst1q_f32(to, self) }
    }

    // There is no such store of a register in the intrinsics: this one goes through the caches.
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn store_past_cache(self, to: *mut f32) {
        // SAFETY: the caller has room there.
        unsafe { vst1q_f32(to, self) }
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn store_part(self, to: *mut f32, count: usize) {
        let mut values = [0.0; 4];
        // SAFETY: there is room for four values.
        unsafe { vst1q_f32(values.as_mut_ptr(), self) };
        for (index, value) in values.iter().take(count).enumerate() {
            // SAFETY: only `count` values are touched, for which the caller has room there.
            unsafe { *to.add(index) = *value };
        }
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn first(self, count: usize, rest: Self) -> Self {
        const PLACES: [u32; 4] = [0, 1, 2, 3];
        // SAFETY: there are four values.
        let places = unsafe { vld1q_u32(PLACES.as_ptr()) };
        vbslq_f32(vcltq_u32(places, vdupq_n_u32(count as u32)), self, rest)
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn add(self, other: Self) -> Self {
        vaddq_f32(self, other)
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn sub(self, other: Self) -> Self {
        vsubq_f32(self, other)
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn mul(self, other: Self) -> Self {
        vmulq_f32(self, other)
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn div(self, other: Self) -> Self {
        vdivq_f32(self, other)
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn mul_add(self, by: Self, plus: Self) -> Self {
        vfmaq_f32(plus, self, by)
    }

    // Not `fmax`, which gives NaN where one of them is.
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn max(self, other: Self) -> Self {
        vbslq_f32(vcgtq_f32(self, other), self, other)
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn min(self, other: Self) -> Self {
        vbslq_f32(vcltq_f32(self, other), self, other)
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn round(self) -> Self {
        vrndnq_f32(self)
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn times_power_of_two(self, exponent: Self) -> Self {
        // Two factors, as 2^-150 and 2^128 are no normal numbers. The first product is exact.
        let exponent = vcvtnq_s32_f32(exponent);
        let half = vshrq_n_s32::<1>(exponent);
        let bias = vdupq_n_s32(127);
        let low = vshlq_n_s32::<23>(vaddq_s32(half, bias));
        let high = vshlq_n_s32::<23>(vaddq_s32(vsubq_s32(exponent, half), bias));
        vmulq_f32(vmulq_f32(self, vreinterpretq_f32_s32(low)), vreinterpretq_f32_s32(high))
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn sum(self) -> f32 {
        vaddvq_f32(self)
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn largest(self) -> f32 {
        vmaxnmvq_f32(self)
    }
}
