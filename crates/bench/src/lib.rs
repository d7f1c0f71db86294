//! Benchmarks: whole models ([`model`]) and single products ([`ops`]), held against limits of the
//! machine that are measured in the same run ([`bounds`]).
//!
//! A model can be a real one, or one of a well-known [`shape`] with [`random`] weights in the codecs
//! of a [`Scheme`](keeve_quantize::Scheme). A running [`server`] can be put under load. Nothing here
//! prints: progress and interruption go through an [`Observer`].

pub mod bounds;
mod codes;
pub mod cost;
mod error;
mod http;
mod images;
pub mod model;
pub mod ops;
pub mod plot;
pub mod random;
pub mod random_gguf;
pub mod server;
pub mod shape;
mod spread;
mod vocabulary;

pub use error::Error;
pub use spread::Spread;

use keeve_engine::Canceller;

/// Follows a benchmark and can end it early.
pub trait Observer: Sync {
    /// `done` of `total` parts of `what` are done.
    fn progress(&self, what: &str, done: usize, total: usize);

    /// A request runs that `canceller` would cancel.
    fn running(&self, canceller: Canceller);

    /// Whether to end with what there is.
    fn stopped(&self) -> bool;
}
