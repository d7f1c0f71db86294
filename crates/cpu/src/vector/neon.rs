//! Registers of `f32` lanes on aarch64, where every machine has NEON.

use std::arch::aarch64::*;

use super::lanes::Lanes;

/// `N` registers of four lanes, taken together. Several of them do the work of one wide register where a
/// single one would have to wait for its own results.
#[derive(Clone, Copy)]
pub(crate) struct Floats<const N: usize>([float32x4_t; N]);

impl<const N: usize> Floats<N> {
    /// The registers.
    #[inline]
    pub fn registers(self) -> [float32x4_t; N] {
        self.0
    }

    /// As one.
    #[inline]
    pub fn of(registers: [float32x4_t; N]) -> Self {
        Self(registers)
    }

    /// `of` each register.
    #[inline]
    fn each(self, of: impl Fn(float32x4_t) -> float32x4_t) -> Self {
        Self(self.0.map(of))
    }

    /// `of` the registers of both at the same place.
    #[inline]
    pub fn both(self, other: Self, of: impl Fn(float32x4_t, float32x4_t) -> float32x4_t) -> Self {
        Self(std::array::from_fn(|index| of(self.0[index], other.0[index])))
    }

    /// `of` all registers, added up as a tree; `N` is a power of two.
    #[inline]
    fn tree(self, of: impl Fn(float32x4_t, float32x4_t) -> float32x4_t) -> float32x4_t {
        let (mut registers, mut count) = (self.0, N);
        while count > 1 {
            count /= 2;
            for index in 0..count {
                registers[index] = of(registers[index], registers[index + count]);
            }
        }
        registers[0]
    }
}

/// Four unsigned bytes, widened to 32 bits.
///
/// # Safety
/// There must be four bytes at `from`.
#[inline]
#[target_feature(enable = "neon")]
pub(super) unsafe fn widen_u8(from: *const u8) -> uint32x4_t {
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
pub(super) unsafe fn widen_i8(from: *const u8) -> int32x4_t {
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

impl<const N: usize> Lanes for Floats<N> {
    const COUNT: usize = 4 * N;

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn splat(value: f32) -> Self {
        Self([vdupq_n_f32(value); N])
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller has four values for each register there.
        Self(std::array::from_fn(|index| unsafe { vld1q_f32(from.add(4 * index)) }))
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn load_part(from: *const f32, count: usize) -> Self {
        let mut values = [[0.0; 4]; N];
        for (index, value) in values.as_flattened_mut().iter_mut().take(count).enumerate() {
            // SAFETY: only `count` values are touched, which the caller has there.
            *value = unsafe { *from.add(index) };
        }
        // SAFETY: there are as many values.
        unsafe { Self::load(values.as_ptr().cast()) }
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn load_f16(from: *const u8) -> Self {
        Self(std::array::from_fn(|index| {
            // SAFETY: the caller has four values of two bytes for each register there.
            let bytes = unsafe { vld1_u8(from.add(8 * index)) };
            vcvt_f32_f16(vreinterpret_f16_u8(bytes))
        }))
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn load_bf16(from: *const u8) -> Self {
        Self(std::array::from_fn(|index| {
            // SAFETY: the caller has four values of two bytes for each register there.
            let bytes = unsafe { vld1_u8(from.add(8 * index)) };
            vreinterpretq_f32_u32(vshll_n_u16::<16>(vreinterpret_u16_u8(bytes)))
        }))
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn load_u8(from: *const u8) -> Self {
        // SAFETY: the caller has four bytes for each register there.
        Self(std::array::from_fn(|index| unsafe { vcvtq_f32_u32(widen_u8(from.add(4 * index))) }))
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn load_i8(from: *const i8) -> Self {
        Self(std::array::from_fn(|index| {
            // SAFETY: the caller has four bytes for each register there.
            vcvtq_f32_s32(unsafe { widen_i8(from.cast::<u8>().add(4 * index)) })
        }))
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn load_i32(from: *const i32) -> Self {
        // SAFETY: the caller has four values for each register there.
        Self(std::array::from_fn(|index| unsafe { vcvtq_f32_s32(vld1q_s32(from.add(4 * index))) }))
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn store(self, to: *mut f32) {
        for (index, register) in self.0.into_iter().enumerate() {
            // SAFETY: the caller has room for four values for each register there.
            unsafe { vst1q_f32(to.add(4 * index), register) };
        }
    }

    // There is no such store of a register in the intrinsics: this one goes through the caches.
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn store_past_cache(self, to: *mut f32) {
        // SAFETY: the caller has room there.
        unsafe { self.store(to) }
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn store_part(self, to: *mut f32, count: usize) {
        let mut values = [[0.0; 4]; N];
        // SAFETY: there is as much room.
        unsafe { self.store(values.as_mut_ptr().cast()) };
        for (index, value) in values.as_flattened().iter().take(count).enumerate() {
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
        Self(std::array::from_fn(|index| {
            let count = vdupq_n_u32(count.saturating_sub(4 * index) as u32);
            vbslq_f32(vcltq_u32(places, count), self.0[index], rest.0[index])
        }))
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn add(self, other: Self) -> Self {
        self.both(other, |a, b| vaddq_f32(a, b))
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn sub(self, other: Self) -> Self {
        self.both(other, |a, b| vsubq_f32(a, b))
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn mul(self, other: Self) -> Self {
        self.both(other, |a, b| vmulq_f32(a, b))
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn div(self, other: Self) -> Self {
        self.both(other, |a, b| vdivq_f32(a, b))
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn mul_add(self, by: Self, plus: Self) -> Self {
        Self(std::array::from_fn(|index| vfmaq_f32(plus.0[index], self.0[index], by.0[index])))
    }

    // Not `fmax`, which gives NaN where one of them is.
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn max(self, other: Self) -> Self {
        self.both(other, |a, b| vbslq_f32(vcgtq_f32(a, b), a, b))
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn min(self, other: Self) -> Self {
        self.both(other, |a, b| vbslq_f32(vcltq_f32(a, b), a, b))
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn round(self) -> Self {
        self.each(|a| vrndnq_f32(a))
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn times_power_of_two(self, exponent: Self) -> Self {
        // Two factors, as 2^-150 and 2^128 are no normal numbers. The first product is exact.
        self.both(exponent, |value, exponent| {
            let exponent = vcvtnq_s32_f32(exponent);
            let half = vshrq_n_s32::<1>(exponent);
            let bias = vdupq_n_s32(127);
            let low = vshlq_n_s32::<23>(vaddq_s32(half, bias));
            let high = vshlq_n_s32::<23>(vaddq_s32(vsubq_s32(exponent, half), bias));
            vmulq_f32(vmulq_f32(value, vreinterpretq_f32_s32(low)), vreinterpretq_f32_s32(high))
        })
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn sum(self) -> f32 {
        vaddvq_f32(self.tree(|a, b| vaddq_f32(a, b)))
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn largest(self) -> f32 {
        vmaxnmvq_f32(self.tree(|a, b| vmaxnmq_f32(a, b)))
    }
}
