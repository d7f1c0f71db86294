//! OLMo 2, whose norms follow attention and feed-forward, and OLMoE, which has experts. Queries and
//! keys are normalized over all heads together.
//!
//! Formulas and defaults: huggingface/transformers `models/olmo2/modeling_olmo2.py` and
//! `models/olmoe/modeling_olmoe.py`.

use crate::config::{Config, wrong};
use crate::decoder::{Decoder, Norms, QkNorm};
use crate::experts::{Experts, counts};
use crate::{Error, Model};

/// OLMo 2.
pub(crate) fn build(config: &Config<'_>) -> Result<Model, Error> {
    let mut decoder = read(config)?;
    decoder.norms = Norms::After;
    decoder.build("olmo2", config)
}

/// OLMoE.
pub(crate) fn build_experts(config: &Config<'_>) -> Result<Model, Error> {
    let mut decoder = read(config)?;
    let (count, chosen) = counts(config)?.ok_or_else(|| wrong("num_experts", "is 0"))?;
    decoder.experts = Some(Experts {
        layers: vec![true; decoder.layers],
        block: "mlp",
        count,
        chosen,
        width: decoder.feed_forward,
        normalize: config.flag("norm_topk_prob", false)?,
        shared: None,
    });
    decoder.build("olmoe", config)
}

fn read(config: &Config<'_>) -> Result<Decoder, Error> {
    if config.get("clip_qkv").is_some() {
        return Err(wrong("clip_qkv", "is set, which keeve does not support"));
    }
    let mut decoder = Decoder::read(config)?;
    decoder.eps = config.positive("rms_norm_eps", 1e-5)? as f32;
    decoder.qk_norm = Some(QkNorm::Row);
    Ok(decoder)
}
