//! Instructions of aarch64 that stable Rust has no intrinsics for.

use std::arch::aarch64::{int8x16_t, int32x4_t};
use std::arch::asm;

/// `sum` plus, in each lane, the sum of the products of four signed bytes of `a` and `b`.
#[inline]
#[target_feature(enable = "neon,dotprod")]
pub(crate) fn sdot(mut sum: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: registers only; this function has the instruction.
    unsafe {
        asm!(
            "sdot {sum:v}.4s, {a:v}.16b, {b:v}.16b",
            sum = inout(vreg) sum,
            a = in(vreg) a,
            b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sum
}

/// `sum` plus the products of two rows of eight signed bytes of `a` with two of `b`: lane `2 i + j` has that
/// of row `i` of `a` and row `j` of `b`.
#[inline]
#[target_feature(enable = "neon,i8mm")]
pub(crate) fn smmla(mut sum: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: registers only; this function has the instruction.
    unsafe {
        asm!(
            "smmla {sum:v}.4s, {a:v}.16b, {b:v}.16b",
            sum = inout(vreg) sum,
            a = in(vreg) a,
            b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sum
}
