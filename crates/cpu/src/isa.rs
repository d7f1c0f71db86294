//! Instruction set tiers, found and chosen at run time.

use std::fmt;

use crate::kernels::kernels;

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

/// `KEEVE_ISA` names no tier, or one that this machine or this build lacks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("KEEVE_ISA={name}: this machine has {found}", found = Isa::found().map(Isa::name).collect::<Vec<_>>().join(", "))]
pub struct UnknownIsa {
    name: String,
}

impl Isa {
    const ALL: [Self; 7] =
        [Self::Scalar, Self::Avx2, Self::Avx512, Self::Amx, Self::Neon, Self::Dotprod, Self::I8mm];

    /// The tiers that this machine has, slowest first.
    pub fn found() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|&isa| kernels(isa).is_some())
    }

    /// The fastest tier here, or the one that the environment variable `KEEVE_ISA` names.
    ///
    /// # Errors
    /// If it names a tier that is not here.
    pub fn choose() -> Result<Self, UnknownIsa> {
        let name = std::env::var_os("KEEVE_ISA");
        Self::named_or_best(name.map(|name| name.to_string_lossy().into_owned()))
    }

    fn named_or_best(name: Option<String>) -> Result<Self, UnknownIsa> {
        match name {
            Some(name) => Self::found().find(|isa| isa.name() == name).ok_or(UnknownIsa { name }),
            None => Ok(Self::found().last().unwrap_or(Self::Scalar)),
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_choose_and_unknown_ones_are_errors_that_say_what_there_is() {
        for isa in Isa::found() {
            assert_eq!(Isa::named_or_best(Some(isa.name().into())), Ok(isa));
            assert_eq!(Isa::named_or_best(None), Ok(Isa::found().last().unwrap_or(isa)));
        }
        assert!(Isa::found().any(|isa| isa == Isa::Scalar));
        assert_eq!(Isa::found().any(|isa| isa == Isa::Neon), cfg!(target_arch = "aarch64"));
        for wrong in ["", "AVX2", "sse9", "avx2 "] {
            let error = Isa::named_or_best(Some(wrong.into())).unwrap_err().to_string();
            assert!(error.starts_with(&format!("KEEVE_ISA={wrong}: this machine has scalar")));
        }
    }

    #[test]
    fn a_tier_that_is_not_here_cannot_be_chosen() {
        for isa in Isa::ALL.into_iter().filter(|&isa| Isa::found().all(|found| found != isa)) {
            assert!(Isa::named_or_best(Some(isa.name().into())).is_err());
        }
    }
}
