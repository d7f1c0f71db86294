//! Llama 2, 3 and 3.x, Mistral, which is the same with an optional sliding window, and Mixtral, which
//! has experts as well.

use crate::config::{Config, wrong};
use crate::decoder::Decoder;
use crate::experts::{Experts, counts};
use crate::rope::rope_of_base;
use crate::{Error, Model};

/// Llama.
pub(crate) fn build(config: &Config<'_>) -> Result<Model, Error> {
    Decoder::read(config)?.build("llama", config)
}

/// Mistral.
pub(crate) fn build_mistral(config: &Config<'_>) -> Result<Model, Error> {
    let mut decoder = Decoder::read(config)?;
    // A null turns the window off; a config that says nothing means transformers' default.
    decoder.window = match config.value.get("sliding_window") {
        None => Some(4096),
        Some(_) => config.width("sliding_window")?,
    };
    decoder.build("mistral", config)
}

/// Mixtral.
pub(crate) fn build_mixtral(config: &Config<'_>) -> Result<Model, Error> {
    let mut decoder = Decoder::read(config)?;
    decoder.window = config.width("sliding_window")?;
    let (count, chosen) = counts(config)?.ok_or_else(|| wrong("num_local_experts", "is 0"))?;
    decoder.experts = Some(Experts {
        layers: vec![true; decoder.layers],
        block: "block_sparse_moe",
        count,
        chosen,
        width: decoder.feed_forward,
        normalize: true,
        shared: None,
    });
    // transformers' default is not that of its other models.
    let rope = rope_of_base(config, decoder.head_dim, decoder.max_positions, 1e6)?;
    decoder.build_with("mixtral", rope)
}
