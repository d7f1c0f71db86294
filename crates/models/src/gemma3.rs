//! Gemma 3 (text): norms around each part with gains of 1 plus the weight, normalized queries and
//! keys, and mostly local layers, which see a window and turn by a table of their own.
//!
//! Formulas and defaults: huggingface/transformers `models/gemma3/modeling_gemma3.py` and
//! `configuration_gemma3.py`.

use keeve_graph::UnaryOp;
use serde_json::{Value, json};

use crate::config::{Config, short, wrong};
use crate::decoder::{Decoder, Local, activation};
use crate::rope::rope;
use crate::{Error, Model};

/// Gemma 3.
pub(crate) fn build(config: &Value) -> Result<Model, Error> {
    let config = Config(config);
    let mut decoder = Decoder::read(&config)?;
    if config.flag("use_bidirectional_attention", false)? {
        let problem = "is true, which keeve does not support";
        return Err(wrong("use_bidirectional_attention", problem));
    }
    if config.get("head_dim").is_none() {
        decoder.head_dim = 256;
    }
    if config.get("max_position_embeddings").is_none() {
        decoder.max_positions = 131_072;
    }
    decoder.tied_head = config.flag("tie_word_embeddings", true)?;
    decoder.activation = activation(&config, "hidden_activation")?.unwrap_or(UnaryOp::GeluTanh);
    decoder.qk_norm = true;
    decoder.sandwich = true;
    decoder.one_plus_norms = true;
    decoder.embedding_scale = Some(embedding_scale(&config, decoder.hidden));
    decoder.query_scalar = Some(moderate(&config, "query_pre_attn_scalar")?.unwrap_or(256.0));
    decoder.score_cap = cap(&config, "attn_logit_softcapping")?;
    decoder.logits_cap = cap(&config, "final_logit_softcapping")?;
    decoder.window = Some(config.width("sliding_window")?.unwrap_or(4096));
    let (global, local) = rope_settings(&config)?;
    let (dims, positions) = (decoder.head_dim, decoder.max_positions);
    let layers = local_layers(&config, decoder.layers)?;
    decoder.local = Some(Local { rope: rope(&Config(&local), dims, positions)?, layers });
    let global = rope(&Config(&global), dims, positions)?;
    decoder.build_with("gemma3_text", global)
}

/// The root of the width. Models converted by MLX are run, and so judged, with it rounded to bf16
/// (ml-explore/mlx-lm `models/gemma3_text.py`), whatever they compute in.
fn embedding_scale(config: &Config<'_>, hidden: usize) -> f32 {
    let scale = (hidden as f64).sqrt() as f32;
    let by_mlx = config.get("quantization").is_some();
    if by_mlx { half::bf16::from_f32(scale).to_f32() } else { scale }
}

/// A cap for `cap * tanh(x / cap)`.
fn cap(config: &Config<'_>, field: &'static str) -> Result<Option<f32>, Error> {
    Ok(moderate(config, field)?.map(|cap| cap as f32))
}

/// A number to divide by, such that neither it nor the quotient leaves `f32`.
fn moderate(config: &Config<'_>, field: &'static str) -> Result<Option<f64>, Error> {
    match config.number(field)? {
        Some(number) if !(1e-6..=1e6).contains(&number) => {
            Err(wrong(field, format!("is {number}, expected a number from 1e-6 to 1e6")))
        }
        number => Ok(number),
    }
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
        theta = Config(&scaling).positive("rope_theta", theta)?;
        local_theta = Config(&local_scaling).positive("rope_theta", local_theta)?;
    }
    theta = config.positive("rope_theta", theta)?;
    local_theta = config.positive("rope_local_base_freq", local_theta)?;
    Ok((
        json!({"rope_theta": theta, "rope_scaling": scaling}),
        json!({"rope_theta": local_theta, "rope_scaling": local_scaling}),
    ))
}

/// Which layers are local: as `layer_types` says, else all but each `sliding_window_pattern`-th.
fn local_layers(config: &Config<'_>, layers: usize) -> Result<Vec<bool>, Error> {
    let Some(types) = config.get("layer_types") else {
        let pattern = config.width("sliding_window_pattern")?.unwrap_or(6);
        return Ok((1..=layers).map(|layer| !layer.is_multiple_of(pattern)).collect());
    };
    let types = types.as_array().filter(|types| types.len() == layers).ok_or_else(|| {
        wrong("layer_types", format!("is {}, expected a list of {layers} types", short(types)))
    })?;
    let local = |kind: &Value| match kind.as_str() {
        Some("sliding_attention") => Ok(true),
        Some("full_attention") => Ok(false),
        _ => Err(wrong("layer_types", format!("has {}, which is not supported", short(kind)))),
    };
    types.iter().map(local).collect()
}
