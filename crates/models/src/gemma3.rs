//! Gemma 3 (text): norms around each part with gains of 1 plus the weight, normalized queries and
//! keys, and mostly local layers, which see a window and turn by a table of their own.
//!
//! Formulas and defaults: huggingface/transformers `models/gemma3/modeling_gemma3.py` and
//! `configuration_gemma3.py`.

use keeve_graph::UnaryOp;
use serde_json::{Value, json};

use crate::config::{Config, wrong};
use crate::decoder::{Decoder, Local, Norms, QkNorm, activation};
use crate::gemma::{cap, local_layers};
use crate::rope::rope;
use crate::{Error, Model};

/// Gemma 3.
pub(crate) fn build(config: &Config<'_>) -> Result<Model, Error> {
    let mut decoder = Decoder::read(config)?;
    config.refuse("use_bidirectional_attention")?;
    if config.get("head_dim").is_none() {
        decoder.head_dim = 256;
    }
    if config.get("max_position_embeddings").is_none() {
        decoder.max_positions = 131_072;
    }
    decoder.tied_head = config.flag("tie_word_embeddings", true)?;
    decoder.activation = activation(config, "hidden_activation")?.unwrap_or(UnaryOp::GeluTanh);
    decoder.qk_norm = Some(QkNorm::Heads);
    decoder.norms = Norms::Around;
    decoder.one_plus_norms = true;
    decoder.embedding_scale = Some(embedding_scale(config, decoder.hidden));
    let scalar = config.moderate("query_pre_attn_scalar")?.unwrap_or(256.0);
    decoder.attention_scale = Some((1.0 / scalar.sqrt()) as f32);
    decoder.score_cap = cap(config, "attn_logit_softcapping", None)?;
    decoder.logits_cap = cap(config, "final_logit_softcapping", None)?;
    decoder.window = Some(config.width("sliding_window")?.unwrap_or(4096));
    let (global, local) = rope_settings(config)?;
    let (dims, positions) = (decoder.head_dim, decoder.max_positions);
    let layers = layers_with_window(config, decoder.layers)?;
    decoder.local = Some(Local { rope: rope(&Config::new(&local), dims, positions)?, layers });
    let global = rope(&Config::new(&global), dims, positions)?;
    decoder.build_with("gemma3_text", global)
}

/// The root of the width. Models converted by MLX are run, and so judged, with it rounded to bf16
/// (ml-explore/mlx-lm `models/gemma3_text.py`), whatever they compute in.
fn embedding_scale(config: &Config<'_>, hidden: usize) -> f32 {
    let scale = (hidden as f64).sqrt() as f32;
    let by_mlx = config.get("quantization").is_some();
    if by_mlx { half::bf16::from_f32(scale).to_f32() } else { scale }
}

/// The rope settings of global and of local layers, in the classic form of a config. The factor is
/// that of global layers.
fn rope_settings(config: &Config<'_>) -> Result<(Value, Value), Error> {
    let (mut theta, mut local_theta) = (1e6, 1e4);
    let mut scaling = config.get("rope_scaling").cloned().unwrap_or_default();
    let mut local_scaling = Value::Null;
    if let Some(by_type) = config.get("rope_parameters") {
        let settings = |kind: &str| match by_type.get(kind).filter(|value| value.is_object()) {
            Some(settings) => Ok(settings.clone()),
            None => Err(wrong("rope_parameters", format!("has no object '{kind}'"))),
        };
        scaling = settings("full_attention")?;
        local_scaling = settings("sliding_attention")?;
        theta = Config::new(&scaling).positive("rope_theta", theta)?;
        local_theta = Config::new(&local_scaling).positive("rope_theta", local_theta)?;
    }
    theta = config.positive("rope_theta", theta)?;
    local_theta = config.positive("rope_local_base_freq", local_theta)?;
    Ok((
        json!({"rope_theta": theta, "rope_scaling": scaling}),
        json!({"rope_theta": local_theta, "rope_scaling": local_scaling}),
    ))
}

/// Which layers are local: as `layer_types` says, else all but each `sliding_window_pattern`-th.
fn layers_with_window(config: &Config<'_>, layers: usize) -> Result<Vec<bool>, Error> {
    if let Some(types) = local_layers(config, layers)? {
        return Ok(types);
    }
    let pattern = config.width("sliding_window_pattern")?.unwrap_or(6);
    Ok((1..=layers).map(|layer| !layer.is_multiple_of(pattern)).collect())
}
