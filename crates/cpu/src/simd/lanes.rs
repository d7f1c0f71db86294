//! Registers of `f32` lanes, and those of x86-64. Those of aarch64 are in `neon.rs`.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// A register of `f32` lanes of one tier.
///
/// # Safety
/// Every method may be called only on a machine that has the tier. Those that take pointers read
/// or write as many values there as they say; no alignment is asked for.
pub(crate) trait Lanes: Copy {
    /// Lanes of the register.
    const COUNT: usize;

    /// `value` in every lane.
    unsafe fn splat(value: f32) -> Self;

    /// `COUNT` values.
    unsafe fn load(from: *const f32) -> Self;

    /// The first `count` values (fewer than `COUNT`) and zeros.
    unsafe fn load_part(from: *const f32, count: usize) -> Self;

    /// `COUNT` binary16 values, widened.
    unsafe fn load_f16(from: *const u8) -> Self;

    /// `COUNT` bfloat16 values, widened.
    unsafe fn load_bf16(from: *const u8) -> Self;

    /// `COUNT` pairs of bfloat16 values, widened: the first of each and the second.
    unsafe fn load_bf16_pairs(from: *const u8) -> (Self, Self);

    /// `COUNT` unsigned bytes as numbers.
    unsafe fn load_u8(from: *const u8) -> Self;

    /// `COUNT` signed bytes as numbers.
    unsafe fn load_i8(from: *const i8) -> Self;

    /// `COUNT` integers as numbers.
    unsafe fn load_i32(from: *const i32) -> Self;

    /// Stores `COUNT` values.
    unsafe fn store(self, to: *mut f32);

    /// Stores `COUNT` values without bringing the memory into caches. The address must be a multiple
    /// of the register's size. Other threads may see it late, unless a fence is put after it.
    unsafe fn store_past_cache(self, to: *mut f32);

    /// Stores the first `count` values (fewer than `COUNT`).
    unsafe fn store_part(self, to: *mut f32, count: usize);

    /// The first `count` lanes (at most `COUNT`) of `self`, the others of `rest`.
    unsafe fn first(self, count: usize, rest: Self) -> Self;

    /// Sums.
    unsafe fn add(self, other: Self) -> Self;

    /// Differences.
    unsafe fn sub(self, other: Self) -> Self;

    /// Products.
    unsafe fn mul(self, other: Self) -> Self;

    /// Quotients.
    unsafe fn div(self, other: Self) -> Self;

    /// `self * by + plus`, rounded once.
    unsafe fn mul_add(self, by: Self, plus: Self) -> Self;

    /// The larger of each pair; `other` where one of them is NaN.
    unsafe fn max(self, other: Self) -> Self;

    /// The smaller of each pair; `other` where one of them is NaN.
    unsafe fn min(self, other: Self) -> Self;

    /// The nearest whole numbers, ties to even.
    unsafe fn round(self) -> Self;

    /// `self * 2^exponent`, rounded once, for numbers near 1 and whole exponents from -150 to 128.
    unsafe fn times_power_of_two(self, exponent: Self) -> Self;

    /// The sum of all lanes, added up as a tree.
    unsafe fn sum(self) -> f32;

    /// The largest lane.
    unsafe fn largest(self) -> f32;
}

/// A binary16 value, widened.
///
/// # Safety
/// The machine must have F16C.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "f16c")]
pub(crate) unsafe fn widen_f16(bytes: [u8; 2]) -> f32 {
    _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(u16::from_le_bytes(bytes)))))
}

/// A window on this, `8 - count` entries in, selects the first `count` of eight lanes.
#[cfg(target_arch = "x86_64")]
static FIRST_OF_EIGHT: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2")]
fn first_of_eight(count: usize) -> __m256i {
    let window = &FIRST_OF_EIGHT[8 - count..][..8];
    // SAFETY: the window has eight entries.
    unsafe { _mm256_loadu_si256(window.as_ptr().cast()) }
}

#[cfg(target_arch = "x86_64")]
impl Lanes for __m256 {
    const COUNT: usize = 8;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn splat(value: f32) -> Self {
        _mm256_set1_ps(value)
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller has eight values there.
        unsafe { _mm256_loadu_ps(from) }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn load_part(from: *const f32, count: usize) -> Self {
        // SAFETY: only `count` values are touched, which the caller has there.
        unsafe { _mm256_maskload_ps(from, first_of_eight(count)) }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn load_f16(from: *const u8) -> Self {
        // SAFETY: the caller has eight values of two bytes there.
        _mm256_cvtph_ps(unsafe { _mm_loadu_si128(from.cast()) })
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn load_bf16(from: *const u8) -> Self {
        // SAFETY: the caller has eight values of two bytes there.
        let narrow = unsafe { _mm_loadu_si128(from.cast()) };
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(narrow)))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn load_bf16_pairs(from: *const u8) -> (Self, Self) {
        // SAFETY: the caller has eight pairs of two bytes each there.
        let pairs = unsafe { _mm256_loadu_si256(from.cast()) };
        let second = _mm256_and_si256(pairs, _mm256_set1_epi32(0xffff_0000u32 as i32));
        (_mm256_castsi256_ps(_mm256_slli_epi32::<16>(pairs)), _mm256_castsi256_ps(second))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn load_u8(from: *const u8) -> Self {
        // SAFETY: the caller has eight bytes there.
        let bytes = unsafe { _mm_loadl_epi64(from.cast()) };
        _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn load_i8(from: *const i8) -> Self {
        // SAFETY: the caller has eight bytes there.
        let bytes = unsafe { _mm_loadl_epi64(from.cast()) };
        _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn load_i32(from: *const i32) -> Self {
        // SAFETY: the caller has eight values there.
        unsafe { _mm256_cvtepi32_ps(_mm256_loadu_si256(from.cast())) }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller has room for eight values there.
        unsafe { _mm256_storeu_ps(to, self) }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn store_past_cache(self, to: *mut f32) {
        // SAFETY: the caller has room there, aligned.
        unsafe { _mm256_stream_ps(to, self) }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn store_part(self, to: *mut f32, count: usize) {
        // SAFETY: only `count` values are touched, for which the caller has room there.
        unsafe { _mm256_maskstore_ps(to, first_of_eight(count), self) }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn first(self, count: usize, rest: Self) -> Self {
        _mm256_blendv_ps(rest, self, _mm256_castsi256_ps(first_of_eight(count)))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn add(self, other: Self) -> Self {
        _mm256_add_ps(self, other)
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn sub(self, other: Self) -> Self {
        _mm256_sub_ps(self, other)
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn mul(self, other: Self) -> Self {
        _mm256_mul_ps(self, other)
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn div(self, other: Self) -> Self {
        _mm256_div_ps(self, other)
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn mul_add(self, by: Self, plus: Self) -> Self {
        _mm256_fmadd_ps(self, by, plus)
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn max(self, other: Self) -> Self {
        _mm256_max_ps(self, other)
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn min(self, other: Self) -> Self {
        _mm256_min_ps(self, other)
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn round(self) -> Self {
        _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self)
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn times_power_of_two(self, exponent: Self) -> Self {
        // Two factors, as 2^-150 and 2^128 are no normal numbers. The first product is exact.
        let exponent = _mm256_cvtps_epi32(exponent);
        let half = _mm256_srai_epi32::<1>(exponent);
        let bias = _mm256_set1_epi32(127);
        let low = _mm256_slli_epi32::<23>(_mm256_add_epi32(half, bias));
        let rest = _mm256_sub_epi32(exponent, half);
        let high = _mm256_slli_epi32::<23>(_mm256_add_epi32(rest, bias));
        _mm256_mul_ps(_mm256_mul_ps(self, _mm256_castsi256_ps(low)), _mm256_castsi256_ps(high))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn sum(self) -> f32 {
        let four = _mm_add_ps(_mm256_castps256_ps128(self), _mm256_extractf128_ps::<1>(self));
        let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn largest(self) -> f32 {
        let four = _mm_max_ps(_mm256_castps256_ps128(self), _mm256_extractf128_ps::<1>(self));
        let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
    }
}

/// Selects the first `count` of sixteen lanes.
#[cfg(target_arch = "x86_64")]
fn first_of_sixteen(count: usize) -> __mmask16 {
    ((1u32 << count) - 1) as __mmask16
}

#[cfg(target_arch = "x86_64")]
impl Lanes for __m512 {
    const COUNT: usize = 16;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn splat(value: f32) -> Self {
        _mm512_set1_ps(value)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller has sixteen values there.
        unsafe { _mm512_loadu_ps(from) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn load_part(from: *const f32, count: usize) -> Self {
        // SAFETY: only `count` values are touched, which the caller has there.
        unsafe { _mm512_maskz_loadu_ps(first_of_sixteen(count), from) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn load_f16(from: *const u8) -> Self {
        // SAFETY: the caller has sixteen values of two bytes there.
        _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(from.cast()) })
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn load_bf16(from: *const u8) -> Self {
        // SAFETY: the caller has sixteen values of two bytes there.
        let narrow = unsafe { _mm256_loadu_si256(from.cast()) };
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(narrow)))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn load_bf16_pairs(from: *const u8) -> (Self, Self) {
        // SAFETY: the caller has sixteen pairs of two bytes each there.
        let pairs = unsafe { _mm512_loadu_si512(from.cast()) };
        let second = _mm512_and_si512(pairs, _mm512_set1_epi32(0xffff_0000u32 as i32));
        (_mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs)), _mm512_castsi512_ps(second))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn load_u8(from: *const u8) -> Self {
        // SAFETY: the caller has sixteen bytes there.
        let bytes = unsafe { _mm_loadu_si128(from.cast()) };
        _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn load_i8(from: *const i8) -> Self {
        // SAFETY: the caller has sixteen bytes there.
        let bytes = unsafe { _mm_loadu_si128(from.cast()) };
        _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn load_i32(from: *const i32) -> Self {
        // SAFETY: the caller has sixteen values there.
        unsafe { _mm512_cvtepi32_ps(_mm512_loadu_si512(from.cast())) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller has room for sixteen values there.
        unsafe { _mm512_storeu_ps(to, self) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn store_past_cache(self, to: *mut f32) {
        // SAFETY: the caller has room there, aligned.
        unsafe { _mm512_stream_ps(to, self) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn store_part(self, to: *mut f32, count: usize) {
        // SAFETY: only `count` values are touched, for which the caller has room there.
        unsafe { _mm512_mask_storeu_ps(to, first_of_sixteen(count), self) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn first(self, count: usize, rest: Self) -> Self {
        _mm512_mask_blend_ps(first_of_sixteen(count), rest, self)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn add(self, other: Self) -> Self {
        _mm512_add_ps(self, other)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn sub(self, other: Self) -> Self {
        _mm512_sub_ps(self, other)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn mul(self, other: Self) -> Self {
        _mm512_mul_ps(self, other)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn div(self, other: Self) -> Self {
        _mm512_div_ps(self, other)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn mul_add(self, by: Self, plus: Self) -> Self {
        _mm512_fmadd_ps(self, by, plus)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn max(self, other: Self) -> Self {
        _mm512_max_ps(self, other)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn min(self, other: Self) -> Self {
        _mm512_min_ps(self, other)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn round(self) -> Self {
        _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn times_power_of_two(self, exponent: Self) -> Self {
        _mm512_scalef_ps(self, exponent)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn sum(self) -> f32 {
        let eight = _mm256_add_ps(_mm512_castps512_ps256(self), _mm512_extractf32x8_ps::<1>(self));
        let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
        let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn largest(self) -> f32 {
        let eight = _mm256_max_ps(_mm512_castps512_ps256(self), _mm512_extractf32x8_ps::<1>(self));
        let four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
        let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
    }
}
