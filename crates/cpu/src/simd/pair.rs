//! Several registers taken together, as if they were one that is twice as wide.
//!
//! They do the work of one wide register where narrow ones would read the same memory more often, or would
//! have to wait for their own results.

use crate::simd::ints::IntLanes;
use crate::simd::lanes::Lanes;

/// The lanes of one register, and then those of another.
#[derive(Clone, Copy)]
pub(crate) struct Pair<V>(pub V, pub V);

impl<V: Lanes> Lanes for Pair<V> {
    const COUNT: usize = 2 * V::COUNT;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: the caller's promise, for twice as many values.
        unsafe { Self(V::splat(value), V::splat(value)) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's promise, for twice as many values.
        unsafe { Self(V::load(from), V::load(from.add(V::COUNT))) }
    }

    #[inline(always)]
    unsafe fn load_part(from: *const f32, count: usize) -> Self {
        // SAFETY: the caller's promise, for twice as many values.
        unsafe {
            if count < V::COUNT {
                return Self(V::load_part(from, count), V::splat(0.0));
            }
            Self(V::load(from), V::load_part(from.add(V::COUNT), count - V::COUNT))
        }
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const u8) -> Self {
        // SAFETY: the caller's promise, for twice as many values.
        unsafe { Self(V::load_f16(from), V::load_f16(from.add(2 * V::COUNT))) }
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const u8) -> Self {
        // SAFETY: the caller's promise, for twice as many values.
        unsafe { Self(V::load_bf16(from), V::load_bf16(from.add(2 * V::COUNT))) }
    }

    #[inline(always)]
    unsafe fn load_bf16_pairs(from: *const u8) -> (Self, Self) {
        // SAFETY: the caller's promise, for twice as many values.
        unsafe {
            let (low, high) =
                (V::load_bf16_pairs(from), V::load_bf16_pairs(from.add(4 * V::COUNT)));
            (Self(low.0, high.0), Self(low.1, high.1))
        }
    }

    #[inline(always)]
    unsafe fn load_u8(from: *const u8) -> Self {
        // SAFETY: the caller's promise, for twice as many values.
        unsafe { Self(V::load_u8(from), V::load_u8(from.add(V::COUNT))) }
    }

    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> Self {
        // SAFETY: the caller's promise, for twice as many values.
        unsafe { Self(V::load_i8(from), V::load_i8(from.add(V::COUNT))) }
    }

    #[inline(always)]
    unsafe fn load_i32(from: *const i32) -> Self {
        // SAFETY: the caller's promise, for twice as many values.
        unsafe { Self(V::load_i32(from), V::load_i32(from.add(V::COUNT))) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's promise, for twice as many values.
        unsafe {
            self.0.store(to);
            self.1.store(to.add(V::COUNT));
        }
    }

    #[inline(always)]
    unsafe fn store_past_cache(self, to: *mut f32) {
        // SAFETY: the caller's promise, for twice as many values.
        unsafe {
            self.0.store_past_cache(to);
            self.1.store_past_cache(to.add(V::COUNT));
        }
    }

    #[inline(always)]
    unsafe fn store_part(self, to: *mut f32, count: usize) {
        // SAFETY: the caller's promise, for twice as many values.
        unsafe {
            if count < V::COUNT {
                return self.0.store_part(to, count);
            }
            self.0.store(to);
            self.1.store_part(to.add(V::COUNT), count - V::COUNT);
        }
    }

    #[inline(always)]
    unsafe fn first(self, count: usize, rest: Self) -> Self {
        // SAFETY: the caller's promise, for twice as many values.
        unsafe {
            let left = count.saturating_sub(V::COUNT);
            Self(self.0.first(count.min(V::COUNT), rest.0), self.1.first(left, rest.1))
        }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: the caller's promise, for twice as many values.
        unsafe { Self(self.0.add(other.0), self.1.add(other.1)) }
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        // SAFETY: the caller's promise, for twice as many values.
        unsafe { Self(self.0.sub(other.0), self.1.sub(other.1)) }
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        // SAFETY: the caller's promise, for twice as many values.
        unsafe { Self(self.0.mul(other.0), self.1.mul(other.1)) }
    }

    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        // SAFETY: the caller's promise, for twice as many values.
        unsafe { Self(self.0.div(other.0), self.1.div(other.1)) }
    }

    #[inline(always)]
    unsafe fn mul_add(self, by: Self, plus: Self) -> Self {
        // SAFETY: the caller's promise, for twice as many values.
        unsafe { Self(self.0.mul_add(by.0, plus.0), self.1.mul_add(by.1, plus.1)) }
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        // SAFETY: the caller's promise, for twice as many values.
        unsafe { Self(self.0.max(other.0), self.1.max(other.1)) }
    }

    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        // SAFETY: the caller's promise, for twice as many values.
        unsafe { Self(self.0.min(other.0), self.1.min(other.1)) }
    }

    #[inline(always)]
    unsafe fn round(self) -> Self {
        // SAFETY: the caller's promise, for twice as many values.
        unsafe { Self(self.0.round(), self.1.round()) }
    }

    #[inline(always)]
    unsafe fn times_power_of_two(self, exponent: Self) -> Self {
        // SAFETY: the caller's promise, for twice as many values.
        unsafe {
            Self(self.0.times_power_of_two(exponent.0), self.1.times_power_of_two(exponent.1))
        }
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        // SAFETY: the caller's promise, for twice as many values.
        unsafe { self.0.add(self.1).sum() }
    }

    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        // SAFETY: the caller's promise, for twice as many values.
        unsafe { self.0.max(self.1).largest() }
    }
}

impl<V: IntLanes> IntLanes for Pair<V> {
    type Floats = Pair<V::Floats>;

    const COUNT: usize = 2 * V::COUNT;

    const SIGNED: bool = V::SIGNED;

    #[inline(always)]
    unsafe fn splat(value: i32) -> Self {
        // SAFETY: the caller's promise, for twice as many values.
        unsafe { Self(V::splat(value), V::splat(value)) }
    }

    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self {
        // SAFETY: the caller's promise, for twice as many values.
        unsafe { Self(V::load(from), V::load(from.add(4 * V::COUNT))) }
    }

    #[inline(always)]
    unsafe fn load_u8(from: *const u8) -> Self {
        // SAFETY: the caller's promise, for twice as many values.
        unsafe { Self(V::load_u8(from), V::load_u8(from.add(V::COUNT))) }
    }

    #[inline(always)]
    unsafe fn load_i8(from: *const u8) -> Self {
        // SAFETY: the caller's promise, for twice as many values.
        unsafe { Self(V::load_i8(from), V::load_i8(from.add(V::COUNT))) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut u8) {
        // SAFETY: the caller's promise, for twice as many values.
        unsafe {
            self.0.store(to);
            self.1.store(to.add(4 * V::COUNT));
        }
    }

    #[inline(always)]
    unsafe fn and(self, other: Self) -> Self {
        // SAFETY: the caller's promise, for twice as many values.
        unsafe { Self(self.0.and(other.0), self.1.and(other.1)) }
    }

    #[inline(always)]
    unsafe fn or(self, other: Self) -> Self {
        // SAFETY: the caller's promise, for twice as many values.
        unsafe { Self(self.0.or(other.0), self.1.or(other.1)) }
    }

    #[inline(always)]
    unsafe fn xor(self, other: Self) -> Self {
        // SAFETY: the caller's promise, for twice as many values.
        unsafe { Self(self.0.xor(other.0), self.1.xor(other.1)) }
    }

    #[inline(always)]
    unsafe fn shift16<const LEFT: i32>(self) -> Self {
        // SAFETY: the caller's promise, for twice as many values.
        unsafe { Self(self.0.shift16::<LEFT>(), self.1.shift16::<LEFT>()) }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: the caller's promise, for twice as many values.
        unsafe { Self(self.0.add(other.0), self.1.add(other.1)) }
    }

    #[inline(always)]
    unsafe fn add16(self, other: Self) -> Self {
        // SAFETY: the caller's promise, for twice as many values.
        unsafe { Self(self.0.add16(other.0), self.1.add16(other.1)) }
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        // SAFETY: the caller's promise, for twice as many values.
        unsafe { Self(self.0.mul(other.0), self.1.mul(other.1)) }
    }

    #[inline(always)]
    unsafe fn add_saturating16(self, other: Self) -> Self {
        // SAFETY: the caller's promise, for twice as many values.
        unsafe { Self(self.0.add_saturating16(other.0), self.1.add_saturating16(other.1)) }
    }

    #[inline(always)]
    unsafe fn mul_low16(self, other: Self) -> Self {
        // SAFETY: the caller's promise, for twice as many values.
        unsafe { Self(self.0.mul_low16(other.0), self.1.mul_low16(other.1)) }
    }

    #[inline(always)]
    unsafe fn mul_high16(self, other: Self) -> Self {
        // SAFETY: the caller's promise, for twice as many values.
        unsafe { Self(self.0.mul_high16(other.0), self.1.mul_high16(other.1)) }
    }

    #[inline(always)]
    unsafe fn dot<const SMALL: bool>(self, codes: Self, by: Self) -> Self {
        // SAFETY: the caller's promise, for twice as many values.
        unsafe { Self(self.0.dot::<SMALL>(codes.0, by.0), self.1.dot::<SMALL>(codes.1, by.1)) }
    }

    #[inline(always)]
    unsafe fn dot_pairs(self, by: Self) -> Self {
        // SAFETY: the caller's promise, for twice as many values.
        unsafe { Self(self.0.dot_pairs(by.0), self.1.dot_pairs(by.1)) }
    }

    #[inline(always)]
    unsafe fn pair_with(self, upper: Self) -> Self {
        // SAFETY: the caller's promise, for twice as many values.
        unsafe { Self(self.0.pair_with(upper.0), self.1.pair_with(upper.1)) }
    }

    #[inline(always)]
    unsafe fn upper_bytes(self) -> Self {
        // SAFETY: the caller's promise, for twice as many values.
        unsafe { Self(self.0.upper_bytes(), self.1.upper_bytes()) }
    }

    #[inline(always)]
    unsafe fn to_floats(self) -> Self::Floats {
        // SAFETY: the caller's promise, for twice as many values.
        unsafe { Pair(self.0.to_floats(), self.1.to_floats()) }
    }

    #[inline(always)]
    unsafe fn byte<const AT: i32>(self) -> Self {
        // SAFETY: the caller's promise.
        unsafe { Self(self.0.byte::<AT>(), self.1.byte::<AT>()) }
    }

    #[inline(always)]
    unsafe fn bf16_pairs(even: Self::Floats, odd: Self::Floats) -> Self {
        // SAFETY: the caller's promise.
        unsafe { Self(V::bf16_pairs(even.0, odd.0), V::bf16_pairs(even.1, odd.1)) }
    }
}

#[cfg(test)]
mod tests {
    use std::arch::aarch64::float32x4_t;

    use super::*;

    type Eight = Pair<float32x4_t>;

    #[test]
    fn parts_of_a_pair_end_in_either_half() {
        let from = [1.0, -2.0, 3.0, -4.0, 5.0, -6.0, 7.0, -8.0];
        for count in 0..8 {
            let (mut loaded, mut stored, mut chosen) = ([9.0; 8], [9.0; 8], [9.0; 8]);
            // SAFETY: every machine that runs this has NEON; there are eight values everywhere.
            unsafe {
                Eight::load_part(from.as_ptr(), count).store(loaded.as_mut_ptr());
                Eight::load(from.as_ptr()).store_part(stored.as_mut_ptr(), count);
                let rest = Eight::splat(0.5);
                Eight::load(from.as_ptr()).first(count, rest).store(chosen.as_mut_ptr());
            }
            for at in 0..8 {
                let or = |other: f32| if at < count { from[at] } else { other };
                assert_eq!([loaded[at], stored[at], chosen[at]], [or(0.0), or(9.0), or(0.5)]);
            }
        }
    }

    #[test]
    fn a_pair_is_summed_up_and_compared_as_a_whole() {
        for place in 0..8 {
            let mut values = [-1.0; 8];
            values[place] = 64.0;
            // SAFETY: every machine that runs this has NEON; there are eight values.
            let (sum, largest) = unsafe {
                let pair = Eight::load(values.as_ptr());
                (pair.sum(), pair.largest())
            };
            assert_eq!((sum, largest), (57.0, 64.0));
        }
    }
}
