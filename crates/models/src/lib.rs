//! Architectures: a model's config in, a [`Graph`](keeve_graph::Graph) out.
//!
//! One short file an architecture. They know operations and canonical (Hugging Face) tensor names,
//! and nothing of codecs, backends or files: the same graph serves every codec and every backend.

#![forbid(unsafe_code)]

mod bitnet;
mod config;
mod decoder;
mod error;
mod experts;
mod gemma;
mod gemma3;
mod granite;
mod layer;
mod llama;
mod long_rope;
mod olmo2;
mod phi3;
mod qwen;
mod qwen3_vl;
mod qwen3_vl_vision;
mod rope;
mod smollm3;
mod vision;

use keeve_graph::{Graph, Weight};
use serde_json::Value;

use config::{Config, quoted, wrong};
pub use error::Error;
pub use vision::{Block, PatchPlace, PositionTable, Vision};

/// What a config becomes.
#[derive(Debug, Clone)]
pub struct Model {
    /// The architecture's name, as in `model_type`.
    pub architecture: &'static str,
    /// Everything that runs. Outputs: logits and the last hidden state.
    pub graph: Graph,
    /// Token ids are below this.
    pub vocabulary: usize,
    /// Positions that the model was made for.
    pub max_positions: usize,
    /// Decoder layers.
    pub layers: usize,
    /// Width of the hidden state.
    pub hidden: usize,
    /// Whether the head is the embedding table.
    pub tied_head: bool,
    /// What turns images into rows that steps give, if the model sees.
    pub vision: Option<Vision>,
}

impl Model {
    /// All weights: the graph's, and those of what sees.
    pub fn weights(&self) -> impl Iterator<Item = &Weight> {
        self.graph.weights().iter().chain(self.vision.iter().flat_map(Vision::weights))
    }
}

type Build = fn(&Config<'_>) -> Result<Model, Error>;

/// Every architecture by `model_type`.
const ARCHITECTURES: [(&str, Build); 20] = [
    ("bitnet", bitnet::build),
    ("gemma", gemma::build),
    ("gemma2", gemma::build2),
    ("gemma3_text", gemma3::build),
    ("granite", granite::build),
    ("llama", llama::build),
    ("mistral", llama::build_mistral),
    ("mixtral", llama::build_mixtral),
    ("olmo2", olmo2::build),
    ("olmoe", olmo2::build_experts),
    ("phi3", phi3::build),
    ("qwen2", qwen::build2),
    ("qwen2_moe", qwen::build2_experts),
    ("qwen3", qwen::build3),
    ("qwen3_moe", qwen::build3_experts),
    ("qwen3_vl", qwen3_vl::build),
    ("qwen3_vl_moe", qwen3_vl::build_experts),
    ("qwen3_vl_moe_text", qwen3_vl::build_text_experts),
    ("qwen3_vl_text", qwen3_vl::build_text),
    ("smollm3", smollm3::build),
];

/// The values of `model_type` that [`build`] knows.
pub fn architectures() -> impl Iterator<Item = &'static str> {
    ARCHITECTURES.iter().map(|(name, _)| *name)
}

/// Builds the graph of a config in the canonical form of a Hugging Face `config.json` (classic
/// keys: `rope_theta`, `rope_scaling`).
///
/// # Errors
/// If the architecture is unknown, or a field is missing, of the wrong type, out of range or asks
/// for something that keeve does not do. The message names the field.
pub fn build(config: &Value) -> Result<Model, Error> {
    build_for(config, None)
}

/// [`build`] for sequences of at most `context` tokens, where that is known: models that turn
/// positions differently in long sequences are built for those that long (without it, for those that
/// they were first trained with).
///
/// # Errors
/// As [`build`].
pub fn build_for(config: &Value, context: Option<usize>) -> Result<Model, Error> {
    let config = Config { value: config, context };
    let name = config.string("model_type")?.ok_or_else(|| wrong("model_type", "is missing"))?;
    match ARCHITECTURES.iter().find(|(known, _)| *known == name) {
        Some((_, build)) => build(&config),
        None => Err(Error::Architecture(quoted(name))),
    }
}
