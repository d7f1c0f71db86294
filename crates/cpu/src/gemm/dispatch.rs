//! The units that multiply, chosen by tier.

#[cfg(target_arch = "x86_64")]
use crate::gemm::amx::{Amx, Tiles};
#[cfg(target_arch = "x86_64")]
use crate::gemm::amx_steps::FETCHING_BLOCKS;
use crate::gemm::epilogue::{Finish, Finished};
#[cfg(target_arch = "aarch64")]
use crate::gemm::neon::Neon;
use crate::gemm::operands::{Group, Operands, Product, Results, Sums};
use crate::gemm::oracle;
#[cfg(target_arch = "x86_64")]
use crate::gemm::{amx_products, avx2, bf16_lanes, vnni};
use crate::isa::Isa;
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{__m256, __m512};

/// What multiplies. A value of it says that the machine has the instructions.
#[derive(Clone, Copy)]
pub(crate) enum Unit {
    /// Plain Rust.
    Oracle,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Amx(Amx),
    #[cfg(target_arch = "aarch64")]
    Neon(Neon),
}

impl Unit {
    /// The unit of a tier; the oracle where the machine does not have the tier.
    pub fn of(isa: Isa) -> Self {
        #[cfg(target_arch = "x86_64")]
        if crate::dispatch::kernels(isa).is_some() {
            return match isa {
                Isa::Scalar => Self::Oracle,
                Isa::Avx2 => Self::Avx2,
                Isa::Avx512 => Self::Avx512,
                Isa::Amx => Amx::detect().map_or(Self::Avx512, Self::Amx),
                Isa::Neon | Isa::Dotprod | Isa::I8mm => Self::Oracle,
            };
        }
        #[cfg(target_arch = "aarch64")]
        if crate::dispatch::kernels(isa).is_some() {
            return match isa {
                Isa::Neon => Self::Neon(Neon::Plain),
                Isa::Dotprod => Self::Neon(Neon::Dotprod),
                Isa::I8mm => Self::Neon(Neon::I8mm),
                Isa::Scalar | Isa::Avx2 | Isa::Avx512 | Isa::Amx => Self::Oracle,
            };
        }
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        let _ = isa;
        Self::Oracle
    }

    /// Makes the unit ready on this thread, for products whose sums are flushed after `span` columns.
    pub fn start(self, span: usize) -> Started {
        #[cfg(not(target_arch = "x86_64"))]
        let _ = span;
        match self {
            Self::Oracle => Started::Oracle,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => Started::Avx2,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => Started::Avx512,
            #[cfg(target_arch = "x86_64")]
            Self::Amx(amx) => Started::Amx(amx.tiles_of(span)),
            #[cfg(target_arch = "aarch64")]
            Self::Neon(neon) => Started::Neon(neon),
        }
    }
}

/// A unit that is ready on this thread.
pub(crate) enum Started {
    Oracle,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Amx(Tiles),
    #[cfg(target_arch = "aarch64")]
    Neon(Neon),
}

impl Started {
    /// Whether the unit asks for memory while it multiplies so many blocks.
    pub fn fetches(&self, blocks: usize) -> bool {
        #[cfg(not(target_arch = "x86_64"))]
        let _ = blocks;
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Amx(_) => blocks >= FETCHING_BLOCKS,
            _ => false,
        }
    }

    /// Whether the unit can write results by itself.
    pub fn writes_results(&self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Amx(_) => true,
            _ => false,
        }
    }

    /// Adds the products of a group to its sums, or to zero if `fresh`. Results are
    /// written if [`Self::writes_results`].
    pub fn multiply(
        &mut self,
        operands: &Operands<'_>,
        group: Group,
        product: Product,
        fresh: bool,
        results: Results,
        sums: &mut Sums,
    ) {
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma,f16c")]
        fn bf16_avx2(operands: &Operands<'_>, group: Group, sums: &mut Sums) {
            // SAFETY: this function has the instructions.
            unsafe { bf16_lanes::multiply::<__m256, 4>(operands, group, sums) }
        }
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
        fn bf16_avx512(operands: &Operands<'_>, group: Group, sums: &mut Sums) {
            // SAFETY: this function has the instructions.
            unsafe { bf16_lanes::multiply::<__m512, 8>(operands, group, sums) }
        }
        // The tile unit starts from zero by itself.
        #[cfg(target_arch = "x86_64")]
        let starts_itself = matches!(self, Self::Amx(_));
        #[cfg(not(target_arch = "x86_64"))]
        let starts_itself = false;
        #[cfg(not(target_arch = "x86_64"))]
        let _ = results;
        if fresh && !starts_itself {
            *sums = Sums::ZERO;
        }
        match self {
            Self::Oracle => oracle::multiply(operands, group, product, sums),
            // SAFETY: a value of `Unit` says that the machine has the instructions.
            #[cfg(target_arch = "x86_64")]
            Self::Amx(tiles) => unsafe {
                amx_products::multiply(tiles, operands, group, product, fresh, results, sums);
            },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 if product == Product::Bf16 => unsafe {
                bf16_avx512(operands, group, sums);
            },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => unsafe {
                vnni::multiply(operands, group, product, sums);
            },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 if product == Product::Bf16 => unsafe { bf16_avx2(operands, group, sums) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => unsafe {
                avx2::multiply(operands, group, product, sums);
            },
            // SAFETY: as above.
            #[cfg(target_arch = "aarch64")]
            Self::Neon(neon) => unsafe { neon.multiply(operands, group, product, sums) },
        }
    }

    /// Hands results out.
    ///
    /// # Safety
    /// The group must be the task's own.
    pub unsafe fn finish(&self, finish: &Finish<'_>, part: &Finished<'_>) {
        /// # Safety
        /// The group must be the task's own, and the machine must have the instructions.
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn on_avx2(finish: &Finish<'_>, part: &Finished<'_>) {
            // SAFETY: the caller's promise.
            unsafe { finish.finish_lanes::<__m256>(part) }
        }
        /// # Safety
        /// The group must be the task's own, and the machine must have the instructions.
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
        unsafe fn on_avx512(finish: &Finish<'_>, part: &Finished<'_>) {
            // SAFETY: the caller's promise.
            unsafe { finish.finish_lanes::<__m512>(part) }
        }
        // SAFETY: the caller's promise; a value of `Unit` says that the machine has the instructions.
        unsafe {
            match self {
                Self::Oracle => finish.finish(part),
                #[cfg(target_arch = "x86_64")]
                Self::Avx2 => on_avx2(finish, part),
                #[cfg(target_arch = "x86_64")]
                Self::Avx512 | Self::Amx(_) => on_avx512(finish, part),
                #[cfg(target_arch = "aarch64")]
                Self::Neon(_) => Neon::finish(finish, part),
            }
        }
    }
}
