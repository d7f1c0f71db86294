//! Registers of integers on aarch64.

use std::arch::aarch64::*;
use std::marker::PhantomData;

use super::ints::{IntLanes, shift};
use super::neon::{Floats, widen_i8, widen_u8};
use super::neon_products::sdot;

/// How four bytes of a lane are multiplied and added up.
///
/// # Safety
/// The method may be called only on a machine that has the instructions.
pub(crate) trait ByteProducts: Copy {
    /// `sum` plus, in each lane, the sum of the products of four signed bytes, exactly. `SMALL`: those of
    /// `codes` are from 0 to 127.
    unsafe fn dot<const SMALL: bool>(sum: int32x4_t, codes: int8x16_t, by: int8x16_t) -> int32x4_t;
}

/// With what every aarch64 has: products of 16 bits, added up in pairs.
#[derive(Clone, Copy)]
pub(crate) struct Widening;

impl ByteProducts for Widening {
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn dot<const SMALL: bool>(sum: int32x4_t, codes: int8x16_t, by: int8x16_t) -> int32x4_t {
        let low = vmull_s8(vget_low_s8(codes), vget_low_s8(by));
        let high = vmull_high_s8(codes, by);
        if SMALL {
            // Two products of at most 127 * 128 each fit into 16 bits.
            return vpadalq_s16(sum, vpaddq_s16(low, high));
        }
        vaddq_s32(sum, vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high)))
    }
}

/// With `sdot`.
#[derive(Clone, Copy)]
pub(crate) struct Sdot;

impl ByteProducts for Sdot {
    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    unsafe fn dot<const SMALL: bool>(sum: int32x4_t, codes: int8x16_t, by: int8x16_t) -> int32x4_t {
        sdot(sum, codes, by)
    }
}

/// A number for each row of a tile, with what every machine has.
pub(crate) type WideInts = Ints<Widening, 4>;
/// A number for each row of a tile, with `sdot`.
pub(crate) type DotInts = Ints<Sdot, 4>;

/// `N` registers of four 32-bit lanes, taken together.
#[derive(Clone, Copy)]
pub(crate) struct Ints<P, const N: usize>([int32x4_t; N], PhantomData<P>);

impl<P, const N: usize> Ints<P, N> {
    /// As one.
    #[inline]
    pub fn of(registers: [int32x4_t; N]) -> Self {
        Self(registers, PhantomData)
    }

    /// `of` the registers of both at the same place.
    #[inline]
    fn both(self, other: Self, of: impl Fn(int32x4_t, int32x4_t) -> int32x4_t) -> Self {
        Self::of(std::array::from_fn(|index| of(self.0[index], other.0[index])))
    }

    /// As [`Ints::both`], for registers of 16-bit numbers.
    #[inline]
    fn both16(self, other: Self, of: impl Fn(int16x8_t, int16x8_t) -> int16x8_t) -> Self {
        self.both(other, |a, b| {
            // SAFETY: every aarch64 that runs this has NEON: registers of it are what there is here.
            unsafe {
                let (a, b) = (vreinterpretq_s16_s32(a), vreinterpretq_s16_s32(b));
                vreinterpretq_s32_s16(of(a, b))
            }
        })
    }
}

impl<P: ByteProducts, const N: usize> IntLanes for Ints<P, N> {
    type Floats = Floats<N>;

    const COUNT: usize = 4 * N;

    const SIGNED: bool = true;

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn splat(value: i32) -> Self {
        Self::of([vdupq_n_s32(value); N])
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn load(from: *const u8) -> Self {
        Self::of(std::array::from_fn(|index| {
            // SAFETY: the caller has sixteen bytes for each register there.
            vreinterpretq_s32_u8(unsafe { vld1q_u8(from.add(16 * index)) })
        }))
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn load_u8(from: *const u8) -> Self {
        Self::of(std::array::from_fn(|index| {
            // SAFETY: the caller has four bytes for each register there.
            vreinterpretq_s32_u32(unsafe { widen_u8(from.add(4 * index)) })
        }))
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn load_i8(from: *const u8) -> Self {
        // SAFETY: the caller has four bytes for each register there.
        Self::of(std::array::from_fn(|index| unsafe { widen_i8(from.add(4 * index)) }))
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn store(self, to: *mut u8) {
        for (index, register) in self.0.into_iter().enumerate() {
            // SAFETY: the caller has room for sixteen bytes for each register there.
            unsafe { vst1q_u8(to.add(16 * index), vreinterpretq_u8_s32(register)) };
        }
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn and(self, other: Self) -> Self {
        self.both(other, |a, b| vandq_s32(a, b))
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn or(self, other: Self) -> Self {
        self.both(other, |a, b| vorrq_s32(a, b))
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn xor(self, other: Self) -> Self {
        self.both(other, |a, b| veorq_s32(a, b))
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn shift16<const LEFT: i32>(self) -> Self {
        Self::of(self.0.map(|register| {
            let numbers = vreinterpretq_u16_s32(register);
            vreinterpretq_s32_u16(
                shift!(LEFT, numbers, vshlq_n_u16, vshrq_n_u16, [1 2 3 4 5 6 7 8 9 10 11 12 13 14]),
            )
        }))
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn add(self, other: Self) -> Self {
        self.both(other, |a, b| vaddq_s32(a, b))
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn add16(self, other: Self) -> Self {
        self.both16(other, |a, b| vaddq_s16(a, b))
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn mul(self, other: Self) -> Self {
        self.both(other, |a, b| vmulq_s32(a, b))
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn mul_high16(self, other: Self) -> Self {
        // Doubles, which makes it a shift by 16. Only -2^15 times itself would be cut off.
        self.both16(other, |a, b| vqrdmulhq_s16(a, b))
    }

    // A loop and no closure: that would be a function of its own where `P` wants more than NEON.
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn dot<const SMALL: bool>(self, codes: Self, by: Self) -> Self {
        let mut sums = self.0;
        for (index, sum) in sums.iter_mut().enumerate() {
            let codes = vreinterpretq_s8_s32(codes.0[index]);
            let by = vreinterpretq_s8_s32(by.0[index]);
            // SAFETY: the caller vouches for the instructions.
            *sum = unsafe { P::dot::<SMALL>(*sum, codes, by) };
        }
        Self::of(sums)
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn to_floats(self) -> Floats<N> {
        Floats::of(self.0.map(|register| vcvtq_f32_s32(register)))
    }
}
