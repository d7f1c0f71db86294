//! The primitives of the vector tiers, written once over [`Lanes`].
//!
//! Every function here is inlined into a function that has the tier's instructions switched on
//! (see [`tier`]), which is what makes the lanes' methods single instructions.

pub(crate) mod elementwise;
pub(crate) mod ints;
pub(crate) mod lanes;
#[cfg(target_arch = "aarch64")]
pub(crate) mod neon;
#[cfg(target_arch = "aarch64")]
pub(crate) mod neon_ints;
#[cfg(target_arch = "aarch64")]
pub(crate) mod neon_products;
#[cfg(target_arch = "aarch64")]
pub(crate) mod pair;
pub(crate) mod prefetch;
pub(crate) mod tier;
pub(crate) mod unpack;

pub(crate) use crate::simd::elementwise::{exp, silu_of};
#[cfg(target_arch = "aarch64")]
pub(crate) use crate::simd::ints::IntLanes;
pub(crate) use crate::simd::lanes::Lanes;
#[cfg(target_arch = "x86_64")]
pub(crate) use crate::simd::lanes::widen_f16;
#[cfg(target_arch = "aarch64")]
pub(crate) use crate::simd::neon::widen_f16;
#[cfg(target_arch = "aarch64")]
pub(crate) use crate::simd::neon_ints::{Ints, Sdot, TileInts, Widening};
#[cfg(target_arch = "aarch64")]
pub(crate) use crate::simd::neon_products::smmla;
#[cfg(target_arch = "aarch64")]
pub(crate) use crate::simd::pair::Pair;
pub(crate) use crate::simd::prefetch::{ask_ahead, prefetch, prefetch_far};
#[cfg(target_arch = "x86_64")]
pub(crate) use crate::simd::tier::{Avx2, Avx512};
#[cfg(target_arch = "aarch64")]
pub(crate) use crate::simd::tier::{Dotprod, Neon};
