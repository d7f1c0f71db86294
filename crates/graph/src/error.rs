//! What can go wrong in building, loading, compiling and running.

use keeve_codec::Codec;

/// An error of the graph or of a backend.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An operation was given values that do not fit it.
    #[error("{op}: {problem}")]
    Shape {
        /// The operation.
        op: &'static str,
        /// What does not fit.
        problem: String,
    },
    /// A weight could not be had.
    #[error("{0}")]
    Weight(Box<dyn std::error::Error + Send + Sync>),
    /// A weight does not have the shape that the graph expects.
    #[error("tensor {name} is {found_rows}x{found_cols}, expected {rows}x{cols}")]
    WeightShape {
        /// The tensor's name.
        name: String,
        /// Rows it has.
        found_rows: usize,
        /// Columns it has.
        found_cols: usize,
        /// Rows expected.
        rows: usize,
        /// Columns expected.
        cols: usize,
    },
    /// The backend has no kernel for this.
    #[error("the {backend} backend does not support {what}")]
    Unsupported {
        /// The backend's name.
        backend: &'static str,
        /// The operation, codec or mode.
        what: String,
    },
    /// The backend has no kernel for this operation on this codec.
    #[error("the {backend} backend has no {op} for {codec} (tensor {name})")]
    UnsupportedCodec {
        /// The backend's name.
        backend: &'static str,
        /// The operation.
        op: &'static str,
        /// The codec.
        codec: Codec,
        /// The tensor's name.
        name: String,
    },
    /// A step that does not fit the plan or the state.
    #[error("step: {0}")]
    Step(String),
    /// Memory for a buffer or a state could not be had.
    #[error("cannot allocate {bytes} bytes for {what}")]
    OutOfMemory {
        /// What it was for.
        what: &'static str,
        /// How much.
        bytes: u64,
    },
    /// Loading was cancelled by its progress callback.
    #[error("cancelled")]
    Cancelled,
}
