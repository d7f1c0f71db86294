//! The CPU backend.
//!
//! The scalar tier is the oracle: plain loops in `f32` that every other kernel is held to. The
//! other tiers replace its primitives by the widest instructions that the machine has, chosen at
//! run time ([`Isa`]).
//!
//! Row invariance holds by construction: every number of a result is computed by one task, in an
//! order that depends only on its own row and its own sequence.

// Where there is no vector tier, nothing asks for what only they use.
#![cfg_attr(
    not(any(target_arch = "x86_64", target_arch = "aarch64")),
    allow(dead_code, unused_imports)
)]

mod attention;
mod backend;
mod context;
mod dispatch;
mod gemm;
mod gemv;
mod isa;
mod kernels;
mod kv_cache;
mod linear;
mod loaded;
pub mod measure;
mod ops;
mod packed;
mod plan;
pub mod rates;
mod reference;
mod runtime;
mod scheme;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod simd;
mod weights;

pub use crate::backend::{Cpu, CpuOptions};
pub use crate::dispatch::UnknownIsa;
pub use crate::isa::Isa;
pub use crate::scheme::{RecipeNames, recipe_names};

#[cfg(test)]
mod tests;
