//! A number in each lane of a vector, on each instruction set.
//!
//! Every operation is the one of plain `f32` in each lane: no fused multiply-add, no approximate
//! division.

/// Numbers side by side.
///
/// # Safety
/// The operations of an implementation may only run where its instruction set was detected. That is why
/// making a vector ([`Vector::splat`], [`Vector::load`]) is unsafe; whoever has one may use it.
pub(super) trait Vector: Copy {
    /// How many there are; at most 16.
    const LANES: usize;
    /// A truth value in each lane.
    type Mask: Copy;

    /// The same number in each lane.
    ///
    /// # Safety
    /// The instruction set must be there.
    unsafe fn splat(value: f32) -> Self;
    /// The first numbers of `values`.
    ///
    /// # Safety
    /// The instruction set must be there.
    unsafe fn load(values: &[f32; 16]) -> Self;
    /// Writes the numbers to the front of `out`.
    fn store(self, out: &mut [f32; 16]);
    fn add(self, other: Self) -> Self;
    fn sub(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    fn div(self, other: Self) -> Self;
    /// `other` unless `self` is greater (so `other` if one is NaN).
    fn max(self, other: Self) -> Self;
    /// `other` unless `self` is less (so `other` if one is NaN).
    fn min(self, other: Self) -> Self;
    fn abs(self) -> Self;
    /// Whether `self` is less than `other`: no, if one is NaN.
    fn less(self, other: Self) -> Self::Mask;
    /// `self` where the mask holds, else `other`.
    fn where_mask(self, mask: Self::Mask, other: Self) -> Self;
    /// Whether both hold.
    fn both(a: Self::Mask, b: Self::Mask) -> Self::Mask;
}

/// Plain loops.
#[derive(Clone, Copy)]
pub(super) struct Plain([f32; 8]);

impl Plain {
    #[inline(always)]
    fn with(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Self(std::array::from_fn(|lane| f(self.0[lane], other.0[lane])))
    }
}

impl Vector for Plain {
    const LANES: usize = 8;
    type Mask = [bool; 8];

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Self([value; 8])
    }

    #[inline(always)]
    unsafe fn load(values: &[f32; 16]) -> Self {
        Self(std::array::from_fn(|lane| values[lane]))
    }

    #[inline(always)]
    fn store(self, out: &mut [f32; 16]) {
        out[..8].copy_from_slice(&self.0);
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self.with(other, |a, b| a + b)
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        self.with(other, |a, b| a - b)
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        self.with(other, |a, b| a * b)
    }

    #[inline(always)]
    fn div(self, other: Self) -> Self {
        self.with(other, |a, b| a / b)
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        self.with(other, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn min(self, other: Self) -> Self {
        self.with(other, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    fn abs(self) -> Self {
        Self(self.0.map(f32::abs))
    }

    #[inline(always)]
    fn less(self, other: Self) -> Self::Mask {
        std::array::from_fn(|lane| self.0[lane] < other.0[lane])
    }

    #[inline(always)]
    fn where_mask(self, mask: Self::Mask, other: Self) -> Self {
        Self(std::array::from_fn(|lane| if mask[lane] { self.0[lane] } else { other.0[lane] }))
    }

    #[inline(always)]
    fn both(a: Self::Mask, b: Self::Mask) -> Self::Mask {
        std::array::from_fn(|lane| a[lane] & b[lane])
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::Vector;

    /// Eight lanes.
    #[derive(Clone, Copy)]
    pub(in crate::encode) struct Avx2(__m256);

    /// Sixteen lanes.
    #[derive(Clone, Copy)]
    pub(in crate::encode) struct Avx512(__m512);

    /// Methods that are one instruction each.
    macro_rules! operations {
        ($($name:ident => $instruction:ident),*) => {
            $(
                #[inline(always)]
                fn $name(self, other: Self) -> Self {
                    // SAFETY: a vector exists only where its instruction set was detected.
                    Self(unsafe { $instruction(self.0, other.0) })
                }
            )*
        };
    }

    impl Vector for Avx2 {
        const LANES: usize = 8;
        type Mask = __m256;

        #[inline(always)]
        unsafe fn splat(value: f32) -> Self {
            // SAFETY: the caller vouches for the instruction set.
            Self(unsafe { _mm256_set1_ps(value) })
        }

        #[inline(always)]
        unsafe fn load(values: &[f32; 16]) -> Self {
            // SAFETY: the caller vouches for the instruction set; there are eight values.
            Self(unsafe { _mm256_loadu_ps(values.as_ptr()) })
        }

        #[inline(always)]
        fn store(self, out: &mut [f32; 16]) {
            // SAFETY: as for the operations; there is room for eight values.
            unsafe { _mm256_storeu_ps(out.as_mut_ptr(), self.0) }
        }

        // `max` and `min` give the second operand where the first is not greater or less.
        operations!(add => _mm256_add_ps, sub => _mm256_sub_ps, mul => _mm256_mul_ps,
            div => _mm256_div_ps, max => _mm256_max_ps, min => _mm256_min_ps);

        #[inline(always)]
        fn abs(self) -> Self {
            // SAFETY: as for the operations.
            Self(unsafe { _mm256_andnot_ps(_mm256_set1_ps(-0.0), self.0) })
        }

        #[inline(always)]
        fn less(self, other: Self) -> Self::Mask {
            // SAFETY: as for the operations.
            unsafe { _mm256_cmp_ps::<_CMP_LT_OQ>(self.0, other.0) }
        }

        #[inline(always)]
        fn where_mask(self, mask: Self::Mask, other: Self) -> Self {
            // SAFETY: as for the operations.
            Self(unsafe { _mm256_blendv_ps(other.0, self.0, mask) })
        }

        #[inline(always)]
        fn both(a: Self::Mask, b: Self::Mask) -> Self::Mask {
            // SAFETY: as for the operations: masks come from comparing vectors.
            unsafe { _mm256_and_ps(a, b) }
        }
    }

    impl Vector for Avx512 {
        const LANES: usize = 16;
        type Mask = __mmask16;

        #[inline(always)]
        unsafe fn splat(value: f32) -> Self {
            // SAFETY: the caller vouches for the instruction set.
            Self(unsafe { _mm512_set1_ps(value) })
        }

        #[inline(always)]
        unsafe fn load(values: &[f32; 16]) -> Self {
            // SAFETY: the caller vouches for the instruction set; there are sixteen values.
            Self(unsafe { _mm512_loadu_ps(values.as_ptr()) })
        }

        #[inline(always)]
        fn store(self, out: &mut [f32; 16]) {
            // SAFETY: as for the operations; there is room for sixteen values.
            unsafe { _mm512_storeu_ps(out.as_mut_ptr(), self.0) }
        }

        operations!(add => _mm512_add_ps, sub => _mm512_sub_ps, mul => _mm512_mul_ps,
            div => _mm512_div_ps, max => _mm512_max_ps, min => _mm512_min_ps);

        #[inline(always)]
        fn abs(self) -> Self {
            // SAFETY: as for the operations.
            Self(unsafe { _mm512_abs_ps(self.0) })
        }

        #[inline(always)]
        fn less(self, other: Self) -> Self::Mask {
            // SAFETY: as for the operations.
            unsafe { _mm512_cmp_ps_mask::<_CMP_LT_OQ>(self.0, other.0) }
        }

        #[inline(always)]
        fn where_mask(self, mask: Self::Mask, other: Self) -> Self {
            // SAFETY: as for the operations.
            Self(unsafe { _mm512_mask_blend_ps(mask, other.0, self.0) })
        }

        #[inline(always)]
        fn both(a: Self::Mask, b: Self::Mask) -> Self::Mask {
            a & b
        }
    }
}
