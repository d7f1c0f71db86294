//! Qwen2, Qwen2.5 and Qwen3: llama with biases on queries, keys and values, or with each head of
//! queries and keys normalized. Both may have experts.

use crate::config::{Config, wrong};
use crate::decoder::{Decoder, QkNorm};
use crate::experts::Experts;
use crate::{Error, Model};

/// Qwen2 and Qwen2.5.
pub(crate) fn build2(config: &Config<'_>) -> Result<Model, Error> {
    refuse_window(config)?;
    let mut decoder = Decoder::read(config)?;
    // Not in the config: huggingface/transformers `models/qwen2/modeling_qwen2.py` has them so.
    (decoder.qkv_bias, decoder.output_bias) = (true, false);
    decoder.build("qwen2", config)
}

/// Qwen3.
pub(crate) fn build3(config: &Config<'_>) -> Result<Model, Error> {
    refuse_window(config)?;
    let mut decoder = Decoder::read(config)?;
    decoder.qk_norm = Some(QkNorm::Heads);
    if config.get("head_dim").is_none() {
        // transformers' default, which its config.json leaves out.
        decoder.head_dim = 128;
    }
    decoder.build("qwen3", config)
}

/// Qwen1.5 and Qwen2 with experts, of which one is shared.
pub(crate) fn build2_experts(config: &Config<'_>) -> Result<Model, Error> {
    refuse_window(config)?;
    let mut decoder = Decoder::read(config)?;
    (decoder.qkv_bias, decoder.output_bias) = (config.flag("qkv_bias", true)?, false);
    if let Some(mut experts) = Experts::read(config, decoder.layers)? {
        experts.shared = Some(config.required("shared_expert_intermediate_size")?);
        decoder.experts = Some(experts);
    }
    decoder.build("qwen2_moe", config)
}

/// Qwen3 with experts.
pub(crate) fn build3_experts(config: &Config<'_>) -> Result<Model, Error> {
    refuse_window(config)?;
    let mut decoder = Decoder::read(config)?;
    decoder.qk_norm = Some(QkNorm::Heads);
    decoder.experts = Experts::read(config, decoder.layers)?;
    decoder.build("qwen3_moe", config)
}

/// Refuses layers that see a window: which they are differs by model.
pub(crate) fn refuse_window(config: &Config<'_>) -> Result<(), Error> {
    if config.flag("use_sliding_window", false)? && config.width("sliding_window")?.is_some() {
        return Err(wrong(
            "use_sliding_window",
            "is true, which keeve does not support for this architecture",
        ));
    }
    Ok(())
}
