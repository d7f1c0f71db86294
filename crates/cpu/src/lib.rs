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

mod arena;
mod attention;
mod backend;
mod bf16_tiles;
mod embed;
mod experts;
mod few_rows;
mod fused;
mod gemm;
mod inputs;
mod isa;
mod kernels;
mod key_values;
mod linear;
pub mod measure;
mod memory;
mod numbers;
mod packed;
mod panel;
mod plan;
mod pool;
mod profile;
mod quantize;
pub mod rates;
mod recipe;
mod rope;
mod round;
mod row_wise;
mod scalar;
mod scratch;
mod shared_out;
mod state;
mod stored;
#[cfg(test)]
mod tests;
mod tiles;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod vector;
mod weights;

pub use backend::{Cpu, CpuOptions};
pub use isa::{Isa, UnknownIsa};
pub use recipe::{RecipeNames, recipe_names};
