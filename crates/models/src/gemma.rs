//! Gemma 1 and 2: norms with gains of 1 plus the weight and scaled embeddings; in Gemma 2 also norms
//! after each part, capped scores and logits, and a window in every other layer.
//!
//! Formulas and defaults: huggingface/transformers `models/gemma/modeling_gemma.py`,
//! `models/gemma2/modeling_gemma2.py` and their configurations.

use keeve_graph::UnaryOp;
use serde_json::Value;

use crate::config::Config;
use crate::decoder::{Decoder, Local, Norms, activation};
use crate::rope::rope;
use crate::{Error, Model};

/// Gemma.
pub(crate) fn build(config: &Config<'_>) -> Result<Model, Error> {
    read(config)?.build("gemma", config)
}

/// Gemma 2.
pub(crate) fn build2(config: &Config<'_>) -> Result<Model, Error> {
    let mut decoder = read(config)?;
    decoder.norms = Norms::Around;
    let scalar = config.moderate("query_pre_attn_scalar")?.unwrap_or(256.0);
    decoder.attention_scale = Some((1.0 / scalar.sqrt()) as f32);
    decoder.score_cap = cap(config, "attn_logit_softcapping", Some(50.0))?;
    decoder.logits_cap = cap(config, "final_logit_softcapping", Some(30.0))?;
    decoder.window = Some(config.width("sliding_window")?.unwrap_or(4096));
    let layers = match local_layers(config, decoder.layers)? {
        Some(layers) => layers,
        None => (0..decoder.layers).map(|layer| layer.is_multiple_of(2)).collect(),
    };
    let rope = rope(config, decoder.head_dim, decoder.max_positions)?;
    decoder.local = Some(Local { rope: rope.clone(), layers });
    decoder.build_with("gemma2", rope)
}

/// What both have in common.
fn read(config: &Config<'_>) -> Result<Decoder, Error> {
    config.refuse("use_bidirectional_attention")?;
    let mut decoder = Decoder::read(config)?;
    if config.get("head_dim").is_none() {
        decoder.head_dim = 256;
    }
    if config.get("max_position_embeddings").is_none() {
        decoder.max_positions = 8192;
    }
    decoder.tied_head = config.flag("tie_word_embeddings", true)?;
    let named = match activation(config, "hidden_activation")? {
        Some(named) => Some(named),
        None => activation(config, "hidden_act")?,
    };
    decoder.activation = named.unwrap_or(UnaryOp::GeluTanh);
    decoder.one_plus_norms = true;
    decoder.embedding_scale = Some((decoder.hidden as f64).sqrt() as f32);
    Ok(decoder)
}

/// A cap for `cap * tanh(x / cap)`: `default` if the config says nothing, none if it says null.
pub(crate) fn cap(
    config: &Config<'_>,
    field: &'static str,
    default: Option<f32>,
) -> Result<Option<f32>, Error> {
    match config.value.get(field) {
        None => Ok(default),
        Some(_) => Ok(config.moderate(field)?.map(|cap| cap as f32)),
    }
}

/// Which layers are local, if `layer_types` says so.
pub(crate) fn local_layers(config: &Config<'_>, layers: usize) -> Result<Option<Vec<bool>>, Error> {
    config.by_layer("layer_types", layers, |kind: &Value| match kind.as_str() {
        Some("sliding_attention") => Some(true),
        Some("full_attention") => Some(false),
        _ => None,
    })
}
