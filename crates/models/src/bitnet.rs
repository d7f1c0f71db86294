//! BitNet b1.58: llama with a squared ReLU and norms before the output projections. Ternary weights
//! are multiplied with activations of 8 bits, as they were trained.
//!
//! Formulas and defaults: huggingface/transformers `models/bitnet/modeling_bitnet.py`,
//! `configuration_bitnet.py` and `integrations/bitnet.py`.

use keeve_graph::UnaryOp;

use crate::config::{Config, wrong};
use crate::decoder::{Decoder, activation};
use crate::rope::rope_of_base;
use crate::{Error, Model};

/// BitNet.
pub(crate) fn build(config: &Config<'_>) -> Result<Model, Error> {
    let mut decoder = Decoder::read(config)?;
    decoder.activation = activation(config, "hidden_act")?.unwrap_or(UnaryOp::SquaredRelu);
    decoder.eps = config.positive("rms_norm_eps", 1e-5)? as f32;
    decoder.sub_norms = true;
    decoder.rounded_inputs = is_quantized(config)?;
    let rope = rope_of_base(config, decoder.head_dim, decoder.max_positions, 5e5)?;
    decoder.build_with("bitnet", rope)
}

/// Whether the layers' products are those of ternary weights.
fn is_quantized(config: &Config<'_>) -> Result<bool, Error> {
    const FIELD: &str = "quantization_config";
    let Some(block) = config.get(FIELD).filter(|block| block.is_object()) else {
        return Ok(false);
    };
    let block = Config::new(block);
    if block.string("quant_method")? != Some("bitnet") {
        return Ok(false);
    }
    if block.flag("use_rms_norm", false)? {
        let problem = "has 'use_rms_norm': true, which keeve does not support";
        return Err(wrong(FIELD, problem));
    }
    Ok(true)
}
