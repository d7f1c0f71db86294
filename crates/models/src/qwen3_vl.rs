//! Qwen3-VL, dense and with experts: qwen3 that is given rows for images, at its beginning and after its first
//! layers.
//!
//! huggingface/transformers `models/qwen3_vl/modeling_qwen3_vl.py` and
//! `models/qwen3_vl_moe/modeling_qwen3_vl_moe.py`.

use keeve_graph::Rope;
use serde_json::Value;

use crate::config::{Config, short, wrong};
use crate::decoder::{Decoder, QkNorm};
use crate::experts::Experts;
use crate::qwen3_vl_vision::vision;
use crate::rope::rope;
use crate::{Error, Model};

/// The model of a whole config: `text_config`, `vision_config`, and the token that stands for images.
pub(crate) fn build(config: &Config<'_>) -> Result<Model, Error> {
    whole("qwen3_vl", config, decoder)
}

/// The same with experts in the language model.
pub(crate) fn build_experts(config: &Config<'_>) -> Result<Model, Error> {
    whole("qwen3_vl_moe", config, decoder_experts)
}

fn whole(
    name: &'static str,
    config: &Config<'_>,
    decoder: fn(&Config<'_>) -> Result<Decoder, Error>,
) -> Result<Model, Error> {
    let part = |field: &'static str| {
        let value = config.get(field).filter(|value| value.is_object());
        value.map(Config::new).ok_or_else(|| wrong(field, "is missing, expected an object"))
    };
    let (text, seeing) = (part("text_config")?, part("vision_config")?);
    let mut decoder = decoder(&text)?;
    decoder.prefix = "model.language_model";
    decoder.tied_head = config.flag("tie_word_embeddings", decoder.tied_head)?;
    let image_token = config.integer("image_token_id", 0..=u64::from(u32::MAX))?;
    let image_token = image_token.unwrap_or(151_655) as u32;
    let vision = vision(&seeing, decoder.hidden, decoder.layers, image_token)?;
    decoder.added_layers = vision.blocks.iter().filter(|block| block.features.is_some()).count();
    let rope = by_three_axes(&text, rope(&text, decoder.head_dim, decoder.max_positions)?)?;
    let model = decoder.build_with(name, rope)?;
    if image_token as usize >= model.vocabulary {
        let problem = format!("is {image_token}, but the vocabulary is {}", model.vocabulary);
        return Err(wrong("image_token_id", problem));
    }
    Ok(Model { vision: Some(vision), ..model })
}

/// The language model alone, as it is where nothing that sees was given.
pub(crate) fn build_text(config: &Config<'_>) -> Result<Model, Error> {
    text("qwen3_vl_text", config, decoder(config)?)
}

/// The same with experts.
pub(crate) fn build_text_experts(config: &Config<'_>) -> Result<Model, Error> {
    text("qwen3_vl_moe_text", config, decoder_experts(config)?)
}

fn text(name: &'static str, config: &Config<'_>, decoder: Decoder) -> Result<Model, Error> {
    let rope = by_three_axes(config, rope(config, decoder.head_dim, decoder.max_positions)?)?;
    decoder.build_with(name, rope)
}

/// The decoder of a `text_config` with experts, whose weights are always divided by their sum.
fn decoder_experts(text: &Config<'_>) -> Result<Decoder, Error> {
    let mut decoder = decoder(text)?;
    let experts = Experts::read(text, decoder.layers)?;
    decoder.experts = experts.map(|experts| Experts { normalize: true, ..experts });
    Ok(decoder)
}

/// The decoder of a `text_config`.
fn decoder(text: &Config<'_>) -> Result<Decoder, Error> {
    let mut decoder = Decoder::read(text)?;
    decoder.qk_norm = Some(QkNorm::Heads);
    decoder.head_dim = text.width("head_dim")?.unwrap_or(128);
    Ok(decoder)
}

/// Frequencies driven by height and width as `mrope_section` says: of each three, the second by height and
/// the third by width, up to three times the section's length; all others by time.
fn by_three_axes(config: &Config<'_>, rope: Rope) -> Result<Rope, Error> {
    const FIELD: &str = "rope_scaling";
    let scaling = config.get(FIELD).filter(|value| value.is_object());
    let scaling = scaling.map(Config::new);
    let sections = scaling.as_ref().and_then(|scaling| scaling.get("mrope_section"));
    let Some(sections) = sections else {
        return Err(wrong(FIELD, "has no 'mrope_section', expected three lengths"));
    };
    if scaling.as_ref().is_some_and(|s| !s.flag("mrope_interleaved", true).unwrap_or(false)) {
        return Err(wrong(
            FIELD,
            "has 'mrope_interleaved' other than true, which is not supported",
        ));
    }
    let numbers = sections.as_array().map(Vec::as_slice).unwrap_or_default();
    let numbers: Vec<u64> = numbers.iter().filter_map(Value::as_u64).collect();
    let frequencies = rope.frequencies.len() as u64;
    let lengths = <[u64; 3]>::try_from(numbers).ok().filter(|lengths| {
        let sum = lengths.iter().try_fold(0u64, |sum, &length| sum.checked_add(length));
        sum == Some(frequencies)
    });
    let Some([_, height, width]) = lengths else {
        let found = short(sections);
        let problem = format!(
            "has 'mrope_section' {found}, expected three lengths of {frequencies} together"
        );
        return Err(wrong(FIELD, problem));
    };
    let axis = |index: u64| match index % 3 {
        1 if index / 3 < height => 1,
        2 if index / 3 < width => 2,
        _ => 0,
    };
    Ok(Rope { axes: (0..frequencies).map(axis).collect(), ..rope })
}
