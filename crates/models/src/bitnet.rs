//! BitNet b1.58: llama with a squared ReLU and norms before the output projections.
//!
//! Formulas and defaults: huggingface/transformers `models/bitnet/modeling_bitnet.py` and
//! `configuration_bitnet.py`.

use keeve_graph::UnaryOp;

use crate::config::Config;
use crate::decoder::{Decoder, activation};
use crate::rope::rope_of_base;
use crate::{Error, Model};

/// BitNet.
pub(crate) fn build(config: &Config<'_>) -> Result<Model, Error> {
    let mut decoder = Decoder::read(config)?;
    decoder.activation = activation(config, "hidden_act")?.unwrap_or(UnaryOp::SquaredRelu);
    decoder.eps = config.positive("rms_norm_eps", 1e-5)? as f32;
    decoder.sub_norms = true;
    let rope = rope_of_base(config, decoder.head_dim, decoder.max_positions, 5e5)?;
    decoder.build_with("bitnet", rope)
}
