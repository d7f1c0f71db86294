//! SmolLM 3: llama, of whose layers some do not turn queries and keys.
//!
//! Defaults: huggingface/transformers `models/smollm3/configuration_smollm3.py`.

use serde_json::Value;

use crate::config::Config;
use crate::decoder::Decoder;
use crate::gemma::local_layers;
use crate::qwen::refuse_window;
use crate::rope::rope_of_base;
use crate::{Error, Model};

/// SmolLM 3.
pub(crate) fn build(config: &Config<'_>) -> Result<Model, Error> {
    refuse_window(config)?;
    let mut decoder = Decoder::read(config)?;
    decoder.tied_head = config.flag("tie_word_embeddings", true)?;
    // No layer is local without a window, but the list must be one of layers.
    local_layers(config, decoder.layers)?;
    decoder.unturned = Some(unturned_layers(config, decoder.layers)?);
    let rope = rope_of_base(config, decoder.head_dim, decoder.max_positions, 2e6)?;
    decoder.build_with("smollm3", rope)
}

/// The layers that do not turn: those of 0 in `no_rope_layers` (which 1 names as turning), or each
/// `no_rope_layer_interval`-th.
fn unturned_layers(config: &Config<'_>, layers: usize) -> Result<Vec<bool>, Error> {
    let unturned = |item: &Value| match item.as_u64() {
        Some(turned @ (0 | 1)) => Some(turned == 0),
        _ => None,
    };
    if let Some(listed) = config.by_layer("no_rope_layers", layers, unturned)? {
        return Ok(listed);
    }
    let interval = config.width("no_rope_layer_interval")?.unwrap_or(4);
    Ok((1..=layers).map(|layer| layer.is_multiple_of(interval)).collect())
}
