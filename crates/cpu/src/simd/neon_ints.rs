//! Registers of integers on aarch64.

use std::arch::aarch64::*;
use std::marker::PhantomData;

use crate::simd::ints::{IntLanes, shift};
use crate::simd::neon::{widen_i8, widen_u8};
use crate::simd::neon_products::sdot;
use crate::simd::pair::Pair;

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

/// A number for each row of a tile.
pub(crate) type TileInts<P> = Pair<Pair<Ints<P>>>;

/// Four 32-bit lanes, multiplied as `P` does.
#[derive(Clone, Copy)]
pub(crate) struct Ints<P>(int32x4_t, PhantomData<P>);

impl<P> Ints<P> {
    /// The lanes of a register.
    #[inline]
    pub fn of(register: int32x4_t) -> Self {
        Self(register, PhantomData)
    }
}

impl<P: ByteProducts> IntLanes for Ints<P> {
    type Floats = float32x4_t;

    const COUNT: usize = 4;

    const SIGNED: bool = true;

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn splat(value: i32) -> Self {
        Self::of(vdupq_n_s32(value))
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn load(from: *const u8) -> Self {
        // SAFETY: the caller has sixteen bytes there.
        Self::of(vreinterpretq_s32_u8(unsafe { vld1q_u8(from) }))
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn load_u8(from: *const u8) -> Self {
        // SAFETY: the caller has four bytes there.
        Self::of(vreinterpretq_s32_u32(unsafe { widen_u8(from) }))
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn load_i8(from: *const u8) -> Self {
        // SAFETY: the caller has four bytes there.
        Self::of(unsafe { widen_i8(from) })
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn store(self, to: *mut u8) {
        // SAFETY: the caller has room for sixteen bytes there.
        unsafe { vst1q_u8(to, vreinterpretq_u8_s32(self.0)) }
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn and(self, other: Self) -> Self {
        Self::of(vandq_s32(self.0, other.0))
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn or(self, other: Self) -> Self {
        Self::of(vorrq_s32(self.0, other.0))
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn xor(self, other: Self) -> Self {
        Self::of(veorq_s32(self.0, other.0))
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn shift16<const LEFT: i32>(self) -> Self {
        let numbers = vreinterpretq_u16_s32(self.0);
        Self::of(vreinterpretq_s32_u16(
            shift!(LEFT, numbers, vshlq_n_u16, vshrq_n_u16, [1 2 3 4 5 6 7 8 9 10 11 12 13 14]),
        ))
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn add(self, other: Self) -> Self {
        Self::of(vaddq_s32(self.0, other.0))
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn add16(self, other: Self) -> Self {
        let (a, b) = (vreinterpretq_s16_s32(self.0), vreinterpretq_s16_s32(other.0));
        Self::of(vreinterpretq_s32_s16(vaddq_s16(a, b)))
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn mul(self, other: Self) -> Self {
        Self::of(vmulq_s32(self.0, other.0))
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn add_saturating16(self, other: Self) -> Self {
        let (a, b) = (vreinterpretq_s16_s32(self.0), vreinterpretq_s16_s32(other.0));
        Self::of(vreinterpretq_s32_s16(vqaddq_s16(a, b)))
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn mul_low16(self, other: Self) -> Self {
        let (a, b) = (vreinterpretq_s16_s32(self.0), vreinterpretq_s16_s32(other.0));
        Self::of(vreinterpretq_s32_s16(vmulq_s16(a, b)))
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn mul_high16(self, other: Self) -> Self {
        // Doubles, which makes it a shift by 16. Only -2^15 times itself would be cut off.
        let (a, b) = (vreinterpretq_s16_s32(self.0), vreinterpretq_s16_s32(other.0));
        Self::of(vreinterpretq_s32_s16(vqrdmulhq_s16(a, b)))
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn dot<const SMALL: bool>(self, codes: Self, by: Self) -> Self {
        let (codes, by) = (vreinterpretq_s8_s32(codes.0), vreinterpretq_s8_s32(by.0));
        // SAFETY: the caller vouches for the instructions.
        Self::of(unsafe { P::dot::<SMALL>(self.0, codes, by) })
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn dot_pairs(self, by: Self) -> Self {
        let (a, b) = (vreinterpretq_s16_s32(self.0), vreinterpretq_s16_s32(by.0));
        Self::of(vpaddq_s32(vmull_s16(vget_low_s16(a), vget_low_s16(b)), vmull_high_s16(a, b)))
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn pair_with(self, upper: Self) -> Self {
        let (a, b) = (vreinterpretq_s16_s32(self.0), vreinterpretq_s16_s32(upper.0));
        Self::of(vreinterpretq_s32_s16(vtrn1q_s16(a, b)))
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn upper_bytes(self) -> Self {
        Self::of(vreinterpretq_s32_s16(vshrq_n_s16::<8>(vreinterpretq_s16_s32(self.0))))
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn to_floats(self) -> float32x4_t {
        vcvtq_f32_s32(self.0)
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn byte<const AT: i32>(self) -> Self {
        let low = vdupq_n_u32(0xff);
        let bits = vreinterpretq_u32_s32(self.0);
        let byte = match AT {
            0 => vandq_u32(bits, low),
            1 => vandq_u32(vshrq_n_u32::<8>(bits), low),
            2 => vandq_u32(vshrq_n_u32::<16>(bits), low),
            _ => vshrq_n_u32::<24>(bits),
        };
        Self::of(vreinterpretq_s32_u32(byte))
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn bf16_pairs(even: float32x4_t, odd: float32x4_t) -> Self {
        /// The number in the upper halves; the lower ones hold anything.
        #[inline]
        #[target_feature(enable = "neon")]
        fn rounded(value: float32x4_t) -> uint32x4_t {
            let bits = vreinterpretq_u32_f32(value);
            let last = vandq_u32(vshrq_n_u32::<16>(bits), vdupq_n_u32(1));
            vaddq_u32(vaddq_u32(bits, vdupq_n_u32(0x7fff)), last)
        }
        // The upper half of each lane stays, the lower one becomes that of `even`.
        let pairs = vsriq_n_u32::<16>(rounded(odd), rounded(even));
        Self::of(vreinterpretq_s32_u32(pairs))
    }
}
