//! Qwen3 (dense): llama with each head of queries and keys normalized.

use serde_json::Value;

use crate::config::{Config, wrong};
use crate::decoder::Decoder;
use crate::{Error, Model};

/// Qwen3.
pub(crate) fn build(config: &Value) -> Result<Model, Error> {
    let config = Config(config);
    if config.flag("use_sliding_window", false)? && config.width("sliding_window")?.is_some() {
        return Err(wrong(
            "use_sliding_window",
            "is true, which keeve does not support for qwen3".into(),
        ));
    }
    let mut decoder = Decoder::read(&config)?;
    decoder.qk_norm = true;
    if config.get("head_dim").is_none() {
        // transformers' default, which its config.json leaves out.
        decoder.head_dim = 128;
    }
    decoder.build("qwen3", &config)
}
