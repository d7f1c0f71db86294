//! What attention asks of registers beyond [`Lanes`], and functions on them.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

use crate::simd::{Lanes, exp};

/// A register of `f32` lanes, for attention.
///
/// # Safety
/// As [`Lanes`].
pub(super) trait AttentionLanes: Lanes {
    /// `yes` where `a < b`, `no` elsewhere (also where one of them is NaN).
    unsafe fn where_less(a: Self, b: Self, yes: Self, no: Self) -> Self;

    /// The nearest bf16 numbers, ties to even, NaN left as it is.
    unsafe fn round_to_bf16(self) -> Self;

    /// Stores `COUNT` values (up to 16) as the nearest binary16 numbers, ties to even.
    #[inline(always)]
    unsafe fn store_f16(self, to: *mut u8) {
        let mut values = [0.0; 16];
        // SAFETY: the caller vouches for the instructions and has room for as many numbers of two bytes.
        unsafe {
            self.store(values.as_mut_ptr());
            for (index, value) in values[..Self::COUNT].iter().enumerate() {
                let bytes = half::f16::from_f32(*value).to_ne_bytes();
                to.cast::<[u8; 2]>().add(index).write_unaligned(bytes);
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
impl AttentionLanes for __m256 {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn where_less(a: Self, b: Self, yes: Self, no: Self) -> Self {
        _mm256_blendv_ps(no, yes, _mm256_cmp_ps::<_CMP_LT_OQ>(a, b))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn round_to_bf16(self) -> Self {
        let bits = _mm256_castps_si256(self);
        // Half of the last place that is kept, less one if that place is even.
        let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
        let up = _mm256_add_epi32(_mm256_add_epi32(bits, odd), _mm256_set1_epi32(0x7fff));
        let kept = _mm256_and_si256(up, _mm256_set1_epi32(0xffff_0000_u32 as i32));
        let nan = _mm256_cmp_ps::<_CMP_UNORD_Q>(self, self);
        _mm256_blendv_ps(_mm256_castsi256_ps(kept), self, nan)
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn store_f16(self, to: *mut u8) {
        let narrow = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self);
        // SAFETY: the caller has room for eight numbers of two bytes there.
        unsafe { _mm_storeu_si128(to.cast(), narrow) }
    }
}

#[cfg(target_arch = "x86_64")]
impl AttentionLanes for __m512 {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn where_less(a: Self, b: Self, yes: Self, no: Self) -> Self {
        _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), no, yes)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn round_to_bf16(self) -> Self {
        let bits = _mm512_castps_si512(self);
        let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
        let up = _mm512_add_epi32(_mm512_add_epi32(bits, odd), _mm512_set1_epi32(0x7fff));
        let kept = _mm512_and_si512(up, _mm512_set1_epi32(0xffff_0000_u32 as i32));
        let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(self, self);
        _mm512_mask_blend_ps(nan, _mm512_castsi512_ps(kept), self)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn store_f16(self, to: *mut u8) {
        let narrow = _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self);
        // SAFETY: the caller has room for sixteen numbers of two bytes there.
        unsafe { _mm256_storeu_si256(to.cast(), narrow) }
    }
}

/// `cap * tanh(score / cap)`.
///
/// With `x = |score / cap|` and `t = e^(-2x)`, `tanh x = (1 - t) / (1 + t)`. Where `x` is small that
/// difference has few digits: there it is the Taylor series up to `x^11`, of which what is left out
/// is below a rounding for `x < 0.25`.
///
/// # Safety
/// The machine must have the instructions of `V`.
#[inline(always)]
pub(super) unsafe fn soft_cap<V: AttentionLanes>(score: V, cap: f32) -> V {
    const SERIES: [f32; 6] =
        [-1382.0 / 155_925.0, 62.0 / 2835.0, -17.0 / 315.0, 2.0 / 15.0, -1.0 / 3.0, 1.0];
    // SAFETY: the caller vouches for the instructions.
    unsafe {
        let (zero, one) = (V::splat(0.0), V::splat(1.0));
        let x = score.div(V::splat(cap));
        let size = x.max(zero.sub(x));
        let t = exp(size.mul(V::splat(-2.0)));
        let far = one.sub(t).div(one.add(t));
        let far = V::where_less(x, zero, zero.sub(far), far);
        let square = x.mul(x);
        let mut sum = V::splat(SERIES[0]);
        for coefficient in &SERIES[1..] {
            sum = sum.mul_add(square, V::splat(*coefficient));
        }
        V::where_less(size, V::splat(0.25), sum.mul(x), far).mul(V::splat(cap))
    }
}

/// [`crate::attention::whole`].
///
/// # Safety
/// The machine must have the instructions of `V`.
#[inline(always)]
pub(super) unsafe fn whole<V: AttentionLanes>(largest: V) -> V {
    // SAFETY: the caller vouches for the instructions.
    unsafe {
        let units = largest.mul(V::splat(std::f32::consts::LOG2_E)).round();
        units.mul(V::splat(std::f32::consts::LN_2))
    }
}

/// [`crate::attention::base`] of each lane.
///
/// # Safety
/// The machine must have the instructions of `V`.
#[inline(always)]
pub(super) unsafe fn base<V: AttentionLanes>(largest: V) -> V {
    // SAFETY: the caller vouches for the instructions.
    unsafe { largest.max(V::splat(f32::MIN)) }
}
