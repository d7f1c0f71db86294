//! Qwen2, Qwen2.5 and Qwen3 (dense): llama with biases on queries, keys and values, or with each
//! head of queries and keys normalized.

use serde_json::Value;

use crate::config::{Config, wrong};
use crate::decoder::Decoder;
use crate::{Error, Model};

/// Qwen2 and Qwen2.5.
pub(crate) fn build2(config: &Value) -> Result<Model, Error> {
    let config = Config(config);
    refuse_window(&config)?;
    let mut decoder = Decoder::read(&config)?;
    // Not in the config: huggingface/transformers `models/qwen2/modeling_qwen2.py` has them so.
    (decoder.qkv_bias, decoder.output_bias) = (true, false);
    decoder.build("qwen2", &config)
}

/// Qwen3.
pub(crate) fn build3(config: &Value) -> Result<Model, Error> {
    let config = Config(config);
    refuse_window(&config)?;
    let mut decoder = Decoder::read(&config)?;
    decoder.qk_norm = true;
    if config.get("head_dim").is_none() {
        // transformers' default, which its config.json leaves out.
        decoder.head_dim = 128;
    }
    decoder.build("qwen3", &config)
}

fn refuse_window(config: &Config<'_>) -> Result<(), Error> {
    if config.flag("use_sliding_window", false)? && config.width("sliding_window")?.is_some() {
        return Err(wrong("use_sliding_window", "is true, which is not supported for qwen"));
    }
    Ok(())
}
