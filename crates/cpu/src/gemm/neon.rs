//! Products on aarch64, compiled for each set of instructions.

use std::arch::aarch64::float32x4_t;

use crate::gemm::bf16_lanes;
use crate::gemm::epilogue::{Finish, Finished};
use crate::gemm::int_lanes;
use crate::gemm::operands::{Group, Operands, Product, Sums};
use crate::gemm::smmla;
use crate::simd::{Sdot, TileInts, Widening};

/// Rows of activations that are multiplied at the same time in bf16.
const BF16_ROWS: usize = 8;

/// How int8 is multiplied. A value of it says that the machine has the instructions.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Neon {
    /// With what every machine has.
    Plain,
    /// By `sdot`.
    Dotprod,
    /// By `smmla`.
    I8mm,
}

impl Neon {
    /// Adds the products of a group to its sums.
    ///
    /// # Safety
    /// The machine must have the instructions; the operands must have the group.
    pub unsafe fn multiply(
        self,
        operands: &Operands<'_>,
        group: Group,
        product: Product,
        sums: &mut Sums,
    ) {
        #[target_feature(enable = "neon")]
        fn bf16(operands: &Operands<'_>, group: Group, sums: &mut Sums) {
            // SAFETY: this function has the instructions.
            unsafe { bf16_lanes::multiply::<float32x4_t, BF16_ROWS>(operands, group, sums) }
        }
        #[target_feature(enable = "neon")]
        fn plain(operands: &Operands<'_>, group: Group, product: Product, sums: &mut Sums) {
            // SAFETY: this function has the instructions.
            unsafe { int_lanes::multiply::<TileInts<Widening>>(operands, group, product, sums) }
        }
        #[target_feature(enable = "neon,dotprod")]
        fn dotprod(operands: &Operands<'_>, group: Group, product: Product, sums: &mut Sums) {
            // SAFETY: this function has the instructions.
            unsafe { int_lanes::multiply::<TileInts<Sdot>>(operands, group, product, sums) }
        }
        // SAFETY: the caller's promise.
        unsafe {
            match (product, self) {
                (Product::Bf16, _) => bf16(operands, group, sums),
                (_, Self::Plain) => plain(operands, group, product, sums),
                (_, Self::Dotprod) => dotprod(operands, group, product, sums),
                (_, Self::I8mm) => smmla::multiply(operands, group, product, sums),
            }
        }
    }

    /// Hands results out.
    ///
    /// # Safety
    /// The group must be the task's own.
    pub unsafe fn finish(finish: &Finish<'_>, part: &Finished<'_>) {
        /// # Safety
        /// The group must be the task's own, and the machine must have the instructions.
        #[target_feature(enable = "neon")]
        unsafe fn on_neon(finish: &Finish<'_>, part: &Finished<'_>) {
            // SAFETY: the caller's promise.
            unsafe { finish.finish_lanes::<float32x4_t>(part) }
        }
        // SAFETY: the caller's promise; all machines have NEON.
        unsafe { on_neon(finish, part) }
    }
}
