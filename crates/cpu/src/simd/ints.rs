//! Registers of integers: 32-bit lanes, each of which may be four bytes or two 16-bit numbers.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

use crate::simd::lanes::Lanes;

/// A register of `COUNT` 32-bit lanes of one tier.
///
/// # Safety
/// Every method may be called only on a machine that has the tier. Those that take pointers read
/// or write as many bytes there as they say; no alignment is asked for.
pub(crate) trait IntLanes: Copy {
    /// As many `f32`.
    type Floats: Lanes;

    /// Lanes of the register.
    const COUNT: usize;

    /// Whether [`IntLanes::dot`] takes codes as signed bytes.
    const SIGNED: bool;

    /// `value` in every lane.
    unsafe fn splat(value: i32) -> Self;

    /// `4 * COUNT` bytes.
    unsafe fn load(from: *const u8) -> Self;

    /// `COUNT` unsigned bytes, widened.
    unsafe fn load_u8(from: *const u8) -> Self;

    /// `COUNT` signed bytes, widened.
    unsafe fn load_i8(from: *const u8) -> Self;

    /// Stores `4 * COUNT` bytes.
    unsafe fn store(self, to: *mut u8);

    /// Bits set in both.
    unsafe fn and(self, other: Self) -> Self;

    /// Bits set in either.
    unsafe fn or(self, other: Self) -> Self;

    /// Bits set in one.
    unsafe fn xor(self, other: Self) -> Self;

    /// Every 16-bit number shifted to the left by `LEFT` bits (from -14 to 14; less than zero: to the
    /// right), filled up with zeros.
    unsafe fn shift16<const LEFT: i32>(self) -> Self;

    /// Sums of 32-bit lanes, wrapping.
    unsafe fn add(self, other: Self) -> Self;

    /// Sums of 16-bit numbers, wrapping.
    unsafe fn add16(self, other: Self) -> Self;

    /// Sums of signed 16-bit numbers, or the nearest that there is.
    unsafe fn add_saturating16(self, other: Self) -> Self;

    /// Products of 32-bit lanes, wrapping.
    unsafe fn mul(self, other: Self) -> Self;

    /// Products of 16-bit numbers, wrapping.
    unsafe fn mul_low16(self, other: Self) -> Self;

    /// Products of signed 16-bit numbers over 2^15, rounded to nearest, halves up.
    unsafe fn mul_high16(self, other: Self) -> Self;

    /// `self` plus, in each lane, the sum of the products of four bytes of `codes`, which are unsigned
    /// unless [`IntLanes::SIGNED`], with four signed ones of `by`, exactly. `SMALL`: those of `codes` are
    /// from 0 to 127, so that it does not matter.
    unsafe fn dot<const SMALL: bool>(self, codes: Self, by: Self) -> Self;

    /// In each lane, the sum of the products of its two signed 16-bit numbers with those of `by`.
    unsafe fn dot_pairs(self, by: Self) -> Self;

    /// The lower 16 bits of each lane, and above them those of `upper`.
    unsafe fn pair_with(self, upper: Self) -> Self;

    /// The upper byte of every 16-bit number, signed, widened.
    unsafe fn upper_bytes(self) -> Self;

    /// As floats, rounded to nearest.
    unsafe fn to_floats(self) -> Self::Floats;

    /// Byte `AT` of each lane (0 is the lowest), without a sign, widened.
    unsafe fn byte<const AT: i32>(self) -> Self;

    /// Rounded as by [`crate::gemm::to_bf16`]: `even` in the lower 16 bits of each lane, `odd` above. They must
    /// be zero or normal numbers that stay finite.
    unsafe fn bf16_pairs(even: Self::Floats, odd: Self::Floats) -> Self;

    /// [`Self::bf16_pairs`] with the instruction that AVX512-BF16 has for it: the same bits.
    ///
    /// # Safety
    /// As there; the machine must have AVX512-BF16 if it has AVX-512.
    #[inline(always)]
    unsafe fn native_bf16_pairs(even: Self::Floats, odd: Self::Floats) -> Self {
        // SAFETY: the caller's promise.
        unsafe { Self::bf16_pairs(even, odd) }
    }
}

/// A shift by a constant of either sign: the instructions want theirs as a literal.
macro_rules! shift {
    ($left:expr, $self:expr, $sll:ident, $srl:ident, [$($n:literal)+]) => {
        match $left {
            $($n => $sll::<$n>($self),)+
            0 => $self,
            left => match -left {
                $($n => $srl::<$n>($self),)+
                _ => unreachable!("shifts are by at most 14 bits"),
            },
        }
    };
}

#[cfg(target_arch = "aarch64")]
pub(crate) use shift;

/// Bytes that are even, of each 16-bit number.
#[cfg(target_arch = "x86_64")]
const LOW: i16 = 0xff;

#[cfg(target_arch = "x86_64")]
impl IntLanes for __m256i {
    type Floats = __m256;

    const COUNT: usize = 8;

    const SIGNED: bool = false;

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn splat(value: i32) -> Self {
        _mm256_set1_epi32(value)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn load(from: *const u8) -> Self {
        // SAFETY: the caller has 32 bytes there.
        unsafe { _mm256_loadu_si256(from.cast()) }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn load_u8(from: *const u8) -> Self {
        // SAFETY: the caller has eight bytes there.
        _mm256_cvtepu8_epi32(unsafe { _mm_loadl_epi64(from.cast()) })
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn load_i8(from: *const u8) -> Self {
        // SAFETY: the caller has eight bytes there.
        _mm256_cvtepi8_epi32(unsafe { _mm_loadl_epi64(from.cast()) })
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn store(self, to: *mut u8) {
        // SAFETY: the caller has room for 32 bytes there.
        unsafe { _mm256_storeu_si256(to.cast(), self) }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn and(self, other: Self) -> Self {
        _mm256_and_si256(self, other)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn or(self, other: Self) -> Self {
        _mm256_or_si256(self, other)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn xor(self, other: Self) -> Self {
        _mm256_xor_si256(self, other)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn shift16<const LEFT: i32>(self) -> Self {
        shift!(LEFT, self, _mm256_slli_epi16, _mm256_srli_epi16, [1 2 3 4 5 6 7 8 9 10 11 12 13 14])
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn add(self, other: Self) -> Self {
        _mm256_add_epi32(self, other)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn add16(self, other: Self) -> Self {
        _mm256_add_epi16(self, other)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn add_saturating16(self, other: Self) -> Self {
        _mm256_adds_epi16(self, other)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn mul_low16(self, other: Self) -> Self {
        _mm256_mullo_epi16(self, other)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn mul(self, other: Self) -> Self {
        _mm256_mullo_epi32(self, other)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn mul_high16(self, other: Self) -> Self {
        _mm256_mulhrs_epi16(self, other)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn dot<const SMALL: bool>(self, codes: Self, by: Self) -> Self {
        if SMALL {
            // Two products of at most 127 * 128 each fit into 16 bits.
            let pairs = _mm256_maddubs_epi16(codes, by);
            return _mm256_add_epi32(self, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
        }
        let even = _mm256_and_si256(codes, _mm256_set1_epi16(LOW));
        let odd = _mm256_srli_epi16::<8>(codes);
        let even_by = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(by));
        let odd_by = _mm256_srai_epi16::<8>(by);
        let even = _mm256_madd_epi16(even, even_by);
        let odd = _mm256_madd_epi16(odd, odd_by);
        _mm256_add_epi32(self, _mm256_add_epi32(even, odd))
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn dot_pairs(self, by: Self) -> Self {
        _mm256_madd_epi16(self, by)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn pair_with(self, upper: Self) -> Self {
        _mm256_blend_epi16::<0b1010_1010>(self, _mm256_slli_epi32::<16>(upper))
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn upper_bytes(self) -> Self {
        _mm256_srai_epi16::<8>(self)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn to_floats(self) -> __m256 {
        _mm256_cvtepi32_ps(self)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn byte<const AT: i32>(self) -> Self {
        match AT {
            0 => _mm256_and_si256(self, _mm256_set1_epi32(0xff)),
            1 => _mm256_and_si256(_mm256_srli_epi32::<8>(self), _mm256_set1_epi32(0xff)),
            2 => _mm256_and_si256(_mm256_srli_epi32::<16>(self), _mm256_set1_epi32(0xff)),
            _ => _mm256_srli_epi32::<24>(self),
        }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn bf16_pairs(even: __m256, odd: __m256) -> Self {
        /// The number in the upper halves; the lower ones hold anything.
        #[inline]
        #[target_feature(enable = "avx2")]
        fn rounded(value: __m256) -> __m256i {
            let bits = _mm256_castps_si256(value);
            let last = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
            let half = _mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff));
            _mm256_add_epi32(half, last)
        }
        let lower = _mm256_srli_epi32::<16>(rounded(even));
        _mm256_blend_epi16::<0b1010_1010>(lower, rounded(odd))
    }
}

#[cfg(target_arch = "x86_64")]
impl IntLanes for __m512i {
    type Floats = __m512;

    const COUNT: usize = 16;

    const SIGNED: bool = false;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn splat(value: i32) -> Self {
        _mm512_set1_epi32(value)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn load(from: *const u8) -> Self {
        // SAFETY: the caller has 64 bytes there.
        unsafe { _mm512_loadu_si512(from.cast()) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn load_u8(from: *const u8) -> Self {
        // SAFETY: the caller has sixteen bytes there.
        _mm512_cvtepu8_epi32(unsafe { _mm_loadu_si128(from.cast()) })
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn load_i8(from: *const u8) -> Self {
        // SAFETY: the caller has sixteen bytes there.
        _mm512_cvtepi8_epi32(unsafe { _mm_loadu_si128(from.cast()) })
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn store(self, to: *mut u8) {
        // SAFETY: the caller has room for 64 bytes there.
        unsafe { _mm512_storeu_si512(to.cast(), self) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn and(self, other: Self) -> Self {
        _mm512_and_si512(self, other)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn or(self, other: Self) -> Self {
        _mm512_or_si512(self, other)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn xor(self, other: Self) -> Self {
        _mm512_xor_si512(self, other)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn shift16<const LEFT: i32>(self) -> Self {
        shift!(LEFT, self, _mm512_slli_epi16, _mm512_srli_epi16, [1 2 3 4 5 6 7 8 9 10 11 12 13 14])
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn add(self, other: Self) -> Self {
        _mm512_add_epi32(self, other)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn add16(self, other: Self) -> Self {
        _mm512_add_epi16(self, other)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn add_saturating16(self, other: Self) -> Self {
        _mm512_adds_epi16(self, other)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn mul_low16(self, other: Self) -> Self {
        _mm512_mullo_epi16(self, other)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn mul(self, other: Self) -> Self {
        _mm512_mullo_epi32(self, other)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn mul_high16(self, other: Self) -> Self {
        _mm512_mulhrs_epi16(self, other)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn dot<const SMALL: bool>(self, codes: Self, by: Self) -> Self {
        _mm512_dpbusd_epi32(self, codes, by)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn dot_pairs(self, by: Self) -> Self {
        _mm512_madd_epi16(self, by)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn pair_with(self, upper: Self) -> Self {
        _mm512_mask_blend_epi16(0xaaaa_aaaa, self, _mm512_slli_epi32::<16>(upper))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn upper_bytes(self) -> Self {
        _mm512_srai_epi16::<8>(self)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn to_floats(self) -> __m512 {
        _mm512_cvtepi32_ps(self)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn byte<const AT: i32>(self) -> Self {
        match AT {
            0 => _mm512_and_si512(self, _mm512_set1_epi32(0xff)),
            1 => _mm512_and_si512(_mm512_srli_epi32::<8>(self), _mm512_set1_epi32(0xff)),
            2 => _mm512_and_si512(_mm512_srli_epi32::<16>(self), _mm512_set1_epi32(0xff)),
            _ => _mm512_srli_epi32::<24>(self),
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn bf16_pairs(even: __m512, odd: __m512) -> Self {
        /// The number in the upper halves; the lower ones hold anything.
        #[inline]
        #[target_feature(enable = "avx512f,avx512bw")]
        fn rounded(value: __m512) -> __m512i {
            let bits = _mm512_castps_si512(value);
            let last = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let half = _mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff));
            _mm512_add_epi32(half, last)
        }
        let lower = _mm512_srli_epi32::<16>(rounded(even));
        _mm512_mask_blend_epi16(0xaaaa_aaaa, lower, rounded(odd))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn native_bf16_pairs(even: __m512, odd: __m512) -> Self {
        /// Of 32 numbers, the first and the seventeenth, and so on.
        const IN_TURN: [u16; 32] = {
            let mut places = [0; 32];
            let mut lane = 0;
            while lane < 32 {
                places[lane] = lane as u16 / 2 + lane as u16 % 2 * 16;
                lane += 1;
            }
            places
        };
        let both: __m512i;
        // SAFETY: the caller vouches for the instruction, which has no effect but its result.
        unsafe {
            std::arch::asm!(
                "vcvtne2ps2bf16 {both}, {odd}, {even}",
                both = lateout(zmm_reg) both,
                odd = in(zmm_reg) odd,
                even = in(zmm_reg) even,
                options(pure, nomem, nostack, preserves_flags),
            );
            _mm512_permutexvar_epi16(_mm512_loadu_si512(IN_TURN.as_ptr().cast()), both)
        }
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use std::arch::x86_64::*;

    use super::IntLanes;

    /// All numbers of a sign and exponent whose 17 last bits are at, just below or just above a tie.
    fn ties(exponent: u32) -> impl Iterator<Item = f32> {
        let upper = (0..128u32)
            .flat_map(move |upper| [0, 1 << 15].map(|sign| sign | exponent << 7 | upper));
        let lower = [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff];
        upper.flat_map(move |upper| lower.map(|lower| f32::from_bits(upper << 16 | lower)))
    }

    #[test]
    fn both_ways_to_round_to_bf16_agree() {
        #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
        fn compare(values: &[f32; 32]) {
            let mut both = [[0u8; 64]; 2];
            // SAFETY: the caller has seen the instructions; there are twice 16 values, and room for as many.
            unsafe {
                let even = _mm512_loadu_ps(values.as_ptr());
                let odd = _mm512_loadu_ps(values[16..].as_ptr());
                <__m512i as IntLanes>::bf16_pairs(even, odd).store(both[0].as_mut_ptr());
                <__m512i as IntLanes>::native_bf16_pairs(even, odd).store(both[1].as_mut_ptr());
            }
            assert!(both[0] == both[1], "{values:?}: {both:?}");
        }
        if !(is_x86_feature_detected!("avx512bf16") && is_x86_feature_detected!("avx512vnni")) {
            return;
        }
        let all: Vec<f32> = [0.0, -0.0].into_iter().chain((1..254).flat_map(ties)).collect();
        for values in all.as_chunks::<32>().0 {
            // SAFETY: the machine has the instructions.
            unsafe { compare(values) };
        }
    }
}
