//! Llama 2, 3 and 3.x, and Mistral, which is the same with an optional sliding window.

use serde_json::Value;

use crate::config::Config;
use crate::decoder::Decoder;
use crate::{Error, Model};

/// Llama.
pub(crate) fn build(config: &Value) -> Result<Model, Error> {
    let config = Config(config);
    Decoder::read(&config)?.build("llama", &config)
}

/// Mistral.
pub(crate) fn build_mistral(config: &Value) -> Result<Model, Error> {
    let config = Config(config);
    let mut decoder = Decoder::read(&config)?;
    // A null turns the window off; a config that says nothing means transformers' default.
    decoder.window = match config.0.get("sliding_window") {
        None => Some(4096),
        Some(_) => config.width("sliding_window")?,
    };
    decoder.build("mistral", &config)
}
