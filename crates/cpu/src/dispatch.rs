//! Instruction set tiers, found and chosen at run time, and their primitives.

#[cfg(target_arch = "x86_64")]
use crate::gemm::Amx;
use crate::isa::Isa;
use crate::kernels::Kernels;
use crate::reference::Scalar;
#[cfg(target_arch = "x86_64")]
use crate::simd::{Avx2, Avx512};
#[cfg(target_arch = "aarch64")]
use crate::simd::{Dotprod, Neon};

/// `KEEVE_ISA` names no tier, or one that this machine or this build lacks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("KEEVE_ISA={name}: this machine has {found}", found = Isa::found().map(Isa::name).collect::<Vec<_>>().join(", "))]
pub struct UnknownIsa {
    name: String,
}

impl Isa {
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
}

/// The primitives of `isa`, if this machine (and this build) has them.
pub(crate) fn kernels(isa: Isa) -> Option<&'static dyn Kernels> {
    match isa {
        Isa::Scalar => Some(&Scalar),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => Avx2::detect().map(|tier| tier as &dyn Kernels),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => Avx512::detect().map(|tier| tier as &dyn Kernels),
        // The tile unit has no use for single values: these primitives are those of AVX-512.
        #[cfg(target_arch = "x86_64")]
        Isa::Amx => Amx::detect().and_then(|_| Avx512::detect()).map(|tier| tier as &dyn Kernels),
        #[cfg(not(target_arch = "x86_64"))]
        Isa::Avx2 | Isa::Avx512 | Isa::Amx => None,
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => Neon::detect().map(|tier| tier as &dyn Kernels),
        #[cfg(target_arch = "aarch64")]
        Isa::Dotprod => Dotprod::detect().map(|tier| tier as &dyn Kernels),
        // As with AMX: two rows by two are for products of many rows.
        #[cfg(target_arch = "aarch64")]
        Isa::I8mm => std::arch::is_aarch64_feature_detected!("i8mm")
            .then(Dotprod::detect)
            .flatten()
            .map(|tier| tier as &dyn Kernels),
        #[cfg(not(target_arch = "aarch64"))]
        Isa::Neon | Isa::Dotprod | Isa::I8mm => None,
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
