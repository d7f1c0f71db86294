//! Instruction set tiers.

use std::fmt;

/// A tier of kernels. Each includes the ones before it on its architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Isa {
    /// Plain Rust: the oracle.
    Scalar,
    /// x86-64 with AVX2, FMA and F16C.
    Avx2,
    /// x86-64 with AVX-512 F, BW, DQ, VL and VNNI.
    Avx512,
    /// x86-64 with AVX-512 and the tile unit AMX, for int8 and bf16.
    Amx,
    /// aarch64 with NEON, which all have.
    Neon,
    /// aarch64 with NEON and `sdot`.
    Dotprod,
    /// aarch64 with NEON, `sdot` and `smmla`.
    I8mm,
}

impl Isa {
    pub(crate) const ALL: [Self; 7] =
        [Self::Scalar, Self::Avx2, Self::Avx512, Self::Amx, Self::Neon, Self::Dotprod, Self::I8mm];

    /// Whether a unit multiplies bf16 in tiles, at half the rate of int8: products of bf16 are then as fast as those
    /// of int8 with activations in two parts.
    pub(crate) fn has_bf16_tiles(self) -> bool {
        self == Self::Amx
    }

    /// The name that `KEEVE_ISA` uses.
    pub fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Amx => "amx",
            Self::Neon => "neon",
            Self::Dotprod => "dotprod",
            Self::I8mm => "i8mm",
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
