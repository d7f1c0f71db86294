//! Phi-3, Phi-3.5 and Phi-4 (mini): llama with queries, keys and values from one product and gate and
//! up from another, of whose heads a part may turn, by LongRoPE in models of long contexts.
//!
//! Formulas and defaults: huggingface/transformers `models/phi3/modeling_phi3.py` and
//! `configuration_phi3.py`.

use crate::config::{Config, wrong};
use crate::decoder::Decoder;
use crate::long_rope::{is_long, long_rope};
use crate::rope::rope;
use crate::{Error, Model};

/// Phi-3.
pub(crate) fn build(config: &Config<'_>) -> Result<Model, Error> {
    config.refuse("attention_bias")?;
    config.refuse("mlp_bias")?;
    let mut decoder = Decoder::read_partly_turned(config)?;
    decoder.fused = true;
    decoder.window = config.width("sliding_window")?;
    decoder.eps = config.positive("rms_norm_eps", 1e-5)? as f32;
    let turned = config.positive("partial_rotary_factor", 1.0)?;
    if turned > 1.0 {
        let problem = format!("is {turned}, expected a number from 0 to 1");
        return Err(wrong("partial_rotary_factor", problem));
    }
    let dims = (decoder.head_dim as f64 * turned) as usize;
    let table = match is_long(config)? {
        true => long_rope(config, dims, &mut decoder.max_positions)?,
        false => rope(config, dims, decoder.max_positions)?,
    };
    decoder.build_with("phi3", table)
}
