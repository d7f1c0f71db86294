//! Instruction set tiers, found and chosen at run time.

use std::fmt;

/// A tier of kernels. Each includes the ones before it on its architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Isa {
    /// Plain Rust: the oracle.
    Scalar,
    /// x86-64 with AVX2, FMA and F16C.
    Avx2,
    /// x86-64 with AVX-512 F, BW, DQ and VL.
    Avx512,
}

/// `KEEVE_ISA` names no tier, or one that this machine or this build lacks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("KEEVE_ISA={name}: this machine has {found}", found = Isa::found().map(Isa::name).collect::<Vec<_>>().join(", "))]
pub struct UnknownIsa {
    name: String,
}

impl Isa {
    const ALL: [Self; 3] = [Self::Scalar, Self::Avx2, Self::Avx512];

    /// The tiers that this machine has, slowest first.
    pub fn found() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|isa| isa.is_here())
    }

    /// The fastest tier here, or the one that the environment variable `KEEVE_ISA` names.
    ///
    /// # Errors
    /// If it names a tier that is not here.
    pub fn choose() -> Result<Self, UnknownIsa> {
        match std::env::var("KEEVE_ISA") {
            Ok(name) => Self::found().find(|isa| isa.name() == name).ok_or(UnknownIsa { name }),
            Err(_) => Ok(Self::found().last().unwrap_or(Self::Scalar)),
        }
    }

    /// The name that `KEEVE_ISA` uses.
    pub fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
        }
    }

    #[cfg(target_arch = "x86_64")]
    fn is_here(self) -> bool {
        match self {
            Self::Scalar => true,
            Self::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c")
            }
            Self::Avx512 => {
                Self::Avx2.is_here()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            }
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn is_here(self) -> bool {
        self == Self::Scalar
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
