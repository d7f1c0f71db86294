//! Operations of the graph that are not products, and how they are merged.

pub(crate) mod elementwise;
pub(crate) mod embed;
pub(crate) mod fake_quantize;
pub(crate) mod fuse;
pub(crate) mod moe;
pub(crate) mod rope;
pub(crate) mod rows;
pub(crate) mod sample;
