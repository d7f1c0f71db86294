//! What can go wrong in a benchmark.

use crate::shape;

/// An error of a benchmark.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No shape of that name.
    #[error("no shape '{0}' (known: {known}; or a config.json)", known = shape::names().collect::<Vec<_>>().join(", "))]
    Shape(String),
    /// The model has no such weight.
    #[error("the model has no weight '{0}'")]
    NoWeight(String),
    /// A weight cannot be made in its codec.
    #[error("{name}: {error}")]
    Tensor {
        /// Its name.
        name: String,
        /// Why.
        error: keeve_codec::Error,
    },
    /// The weights do not fit into memory.
    #[error("not enough memory: weights of {weights} bytes, but {available} bytes are free")]
    Memory {
        /// Bytes of weights.
        weights: u64,
        /// Bytes that are free.
        available: u64,
    },
    /// There is nothing to measure.
    #[error("nothing to measure: both the prompt and the generated tokens are 0")]
    Nothing,
    /// Images were asked for, and the model cannot see.
    #[error("--images needs a model that can see")]
    NoVision,
    /// A prompt that has no room for its images and some text.
    #[error(
        "the prompt is {tokens} tokens, but {images} images take {taken}, and text follows them"
    )]
    ShortPrompt {
        /// Tokens asked for.
        tokens: usize,
        /// Images asked for.
        images: usize,
        /// Tokens of the images.
        taken: usize,
    },
    /// The engine refused or failed.
    #[error(transparent)]
    Engine(#[from] keeve_engine::Error),
    /// The engine failed while it answered.
    #[error("{0}")]
    Failed(std::sync::Arc<keeve_engine::Error>),
    /// The config cannot be built.
    #[error("{name}: {source}")]
    Config {
        /// The model's or the shape's name.
        name: String,
        /// What is wrong.
        source: keeve_models::Error,
    },
    /// The backend refused or failed.
    #[error(transparent)]
    Graph(#[from] keeve_graph::Error),
    /// `KEEVE_ISA` names no tier of this machine.
    #[error(transparent)]
    Isa(#[from] keeve_cpu::UnknownIsa),
    /// The machine refused memory or threads.
    #[error("measuring the machine: {0}")]
    Machine(#[from] std::io::Error),
    /// The server cannot be measured.
    #[error("{url}: {problem}")]
    Server {
        /// Its address.
        url: String,
        /// Why not.
        problem: String,
    },
    /// A drawing failed.
    #[error("drawing: {0}")]
    Plot(String),
}
