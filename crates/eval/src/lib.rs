//! What low-bit weights cost: how well a model predicts a text, and how far its predictions are from
//! those of a reference.
//!
//! A [`Text`] is cut into [`Window`]s ([`windows`]); [`evaluate`] runs a model over them, and a reference
//! in step with it, and gives [`Scores`]; [`evaluate_together`] runs several models beside one run of the
//! reference. Logits are looked at as they are made, a block of rows at a
//! time: memory does not grow with the text. What rounding activations costs a model: [`rounding`].

#![forbid(unsafe_code)]

mod estimate;
mod evaluate;
pub mod rounding;
mod run;
mod text;
pub mod windows;

pub use estimate::Estimate;
pub use evaluate::{Comparison, Observer, Scores, evaluate, evaluate_together};
pub use text::Text;
pub use windows::Window;

/// Why a model could not be evaluated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] std::sync::Arc<keeve_engine::Error>),
    /// The text cannot be turned into tokens.
    #[error(transparent)]
    Tokenizer(#[from] keeve_engine::tokenizer::TokenizerError),
    /// There is nothing to predict in the text.
    #[error("the text has {tokens} tokens, expected at least {least}")]
    TooShort {
        /// Its tokens.
        tokens: usize,
        /// How many it takes.
        least: usize,
    },
    /// Window or stride make no sense.
    #[error("{0}")]
    Windows(String),
    /// The model does not hold a window.
    #[error("the window is {window} tokens, but the context of '{model}' holds {context}")]
    Context {
        /// Tokens of a window.
        window: usize,
        /// The architecture of the model.
        model: &'static str,
        /// The most tokens of a sequence.
        context: usize,
    },
    /// Model and reference give scores to different numbers of tokens.
    #[error("the vocabulary is {model} tokens, but the reference's is {reference}")]
    Vocabulary {
        /// The model's.
        model: usize,
        /// The reference's.
        reference: usize,
    },
    /// The model cannot be loaded or run.
    #[error(transparent)]
    Graph(#[from] keeve_graph::Error),
    /// A logit is infinite or NaN.
    #[error("the logits of the {which} after token {position} of the text are not finite")]
    NotFinite {
        /// Model or reference.
        which: &'static str,
        /// The token's place in the text.
        position: usize,
    },
    /// The engine gave fewer rows of logits than asked for.
    #[error("internal error: {found} rows of logits instead of {expected}")]
    Rows {
        /// Rows that came.
        found: usize,
        /// Rows that were asked for.
        expected: usize,
    },
}

impl From<keeve_engine::Error> for Error {
    fn from(error: keeve_engine::Error) -> Self {
        Self::Engine(error.into())
    }
}
