//! What runs tasks and where they put things.

pub(crate) mod arena;
pub(crate) mod bytes;
pub(crate) mod disjoint;
pub(crate) mod memory;
pub(crate) mod pool;
pub(crate) mod profile;
pub(crate) mod scratch;
