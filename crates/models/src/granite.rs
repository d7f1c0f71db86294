//! Granite 3: llama with multipliers for embeddings, attention scores, residuals and logits.
//!
//! Formulas and defaults: huggingface/transformers `models/granite/modeling_granite.py` and
//! `configuration_granite.py`.

use crate::config::Config;
use crate::decoder::Decoder;
use crate::{Error, Model};

/// Granite.
pub(crate) fn build(config: &Config<'_>) -> Result<Model, Error> {
    let mut decoder = Decoder::read(config)?;
    let multiplier = |field| Ok::<_, Error>(config.moderate(field)?.unwrap_or(1.0));
    decoder.embedding_scale = Some(multiplier("embedding_multiplier")? as f32);
    decoder.residual_scale = Some(multiplier("residual_multiplier")? as f32);
    decoder.attention_scale = Some(multiplier("attention_multiplier")? as f32);
    decoder.logits_scale = Some((1.0 / multiplier("logits_scaling")?) as f32);
    decoder.build("granite", config)
}
