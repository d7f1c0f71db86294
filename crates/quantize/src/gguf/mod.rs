//! What a GGUF file has otherwise than the canonical form: names, the order of llama's rows, gemma's
//! norms, rope divisors. The other direction of `keeve_checkpoint`'s dialect.

mod metadata;
pub(crate) mod mmproj;
mod vocabulary;

use keeve_checkpoint::{Checkpoint, gguf};
use keeve_codec::{Codec, PackedTensor, values};
use serde_json::Value;

use crate::{Error, Planned};

pub(crate) use metadata::metadata;
pub use vocabulary::vocabulary;

/// The name of ggml for an architecture that Hugging Face calls `model_type`.
pub(crate) fn architecture(config: &Value) -> Result<&'static str, Error> {
    let name = config.get("model_type").and_then(Value::as_str).unwrap_or_default();
    Ok(match name {
        "llama" | "mistral" => "llama",
        "qwen2" => "qwen2",
        "qwen3" => "qwen3",
        "qwen3_moe" => "qwen3moe",
        "qwen3_vl" | "qwen3_vl_text" => "qwen3vl",
        "qwen3_vl_moe" | "qwen3_vl_moe_text" => "qwen3vlmoe",
        "gemma3_text" => "gemma3",
        _ => {
            let known =
                "llama, mistral, qwen2, qwen3, qwen3_moe, qwen3_vl, qwen3_vl_moe, gemma3_text";
            return Err(Error::Input(format!(
                "models of type '{name}' cannot be written as GGUF (known: {known})"
            )));
        }
    })
}

/// The config of the language model in a model's config.
pub(crate) fn text_config(config: &Value) -> &Value {
    config.get("text_config").filter(|text| text.is_object()).unwrap_or(config)
}

/// How tensors of a model are named and stored in a GGUF file.
pub(crate) struct Layout {
    architecture: &'static str,
    heads: usize,
    kv_heads: usize,
}

impl Layout {
    /// The layout of a checkpoint's model.
    pub(crate) fn of(checkpoint: &Checkpoint) -> Result<Self, Error> {
        let whole = checkpoint.config();
        let config = text_config(whole);
        let number = |field: &str| config.get(field).and_then(Value::as_u64).map(|n| n as usize);
        let heads = number("num_attention_heads").unwrap_or(0);
        Ok(Self {
            architecture: architecture(whole)?,
            heads,
            kv_heads: number("num_key_value_heads").unwrap_or(heads),
        })
    }

    /// Its architecture.
    pub(crate) fn architecture(&self) -> &'static str {
        self.architecture
    }

    /// What the file calls a tensor.
    pub(crate) fn name(&self, name: &str) -> Result<String, Error> {
        let problem = || format!("has no name in GGUF files of '{}'", self.architecture);
        // Of a model that sees, the language model is alone in its file.
        let alone = name.strip_prefix("model.language_model.").map(|rest| format!("model.{rest}"));
        gguf::tensor_name(alone.as_deref().unwrap_or(name), self.architecture)
            .ok_or_else(|| Error::tensor(name, problem()))
    }

    /// Brings a tensor to the form that the file has: its rows in ggml's order, its values with what
    /// llama.cpp's converter adds.
    pub(crate) fn stored(
        &self,
        planned: &Planned,
        tensor: PackedTensor,
    ) -> Result<PackedTensor, Error> {
        let module = planned.name.rsplit_once('.').map_or("", |(module, _)| module);
        let wrong = |problem: String| Error::tensor(&planned.name, problem);
        let heads = match self.architecture {
            "llama" if module.ends_with(".self_attn.q_proj") => self.heads,
            "llama" if module.ends_with(".self_attn.k_proj") => self.kv_heads,
            "gemma3" if planned.name.ends_with("norm.weight") => {
                let mut gains = vec![0.0; tensor.cols()];
                values(tensor.codec(), tensor.row(0), &mut gains);
                gains.iter_mut().for_each(|gain| *gain += 1.0);
                return PackedTensor::from_f32(1, gains.len(), &gains)
                    .map_err(|error| wrong(error.to_string()));
            }
            _ => return Ok(tensor),
        };
        let is_bias = planned.shape.len() < 2;
        let reshaped = |tensor: &PackedTensor, rows, cols| {
            PackedTensor::new(tensor.codec(), 1, rows, cols, tensor.parts().clone())
        };
        let moved = || {
            // The values of a bias belong to rows.
            let matrix =
                if is_bias { reshaped(&tensor, tensor.cols(), 1)? } else { tensor.clone() };
            let Some(order) = pairs_order(matrix.rows(), heads) else { return Ok(None) };
            let moved = matrix.reorder_rows(&order)?;
            Ok(Some(if is_bias { reshaped(&moved, 1, moved.rows())? } else { moved }))
        };
        match moved() {
            Ok(Some(moved)) => Ok(moved),
            Ok(None) => Err(wrong(format!("has rows that {heads} heads do not divide evenly"))),
            Err(error) => Err(wrong(keeve_codec::Error::to_string(&error))),
        }
    }

    /// Tensors that are in no canonical checkpoint, with their names.
    pub(crate) fn extra(&self, config: &Value) -> Result<Vec<(String, PackedTensor)>, Error> {
        let Some(divisors) = rope_divisors(config) else { return Ok(Vec::new()) };
        let tensor = PackedTensor::from_f32(1, divisors.len(), &divisors)
            .map_err(|error| Error::tensor(ROPE_FREQS, error))?;
        Ok(vec![(ROPE_FREQS.into(), tensor)])
    }
}

/// For each row in ggml's order, its place in Hugging Face's: within a head of `d` rows, `2 * j + s`
/// comes from `s * (d / 2) + j` (s is 0 or 1). `None` if the heads do not divide the rows evenly.
fn pairs_order(rows: usize, heads: usize) -> Option<Vec<usize>> {
    let d = rows.checked_div(heads).filter(|d| *d > 0 && *d * heads == rows && d % 2 == 0)?;
    let place = |row: usize| {
        let (head, within) = (row / d, row % d);
        head * d + within % 2 * (d / 2) + within / 2
    };
    Some((0..rows).map(place).collect())
}

/// What frequencies are divided by, where `rope_scaling` asks for Llama 3's blend or names the divisors.
///
/// Formula and `f32` order: `generate_extra_tensors` in ggml-org/llama.cpp `conversion/llama.py`.
fn rope_divisors(config: &Value) -> Option<Vec<f32>> {
    let scaling = config.get("rope_scaling")?;
    let number = |field: &str| scaling.get(field).and_then(Value::as_f64);
    match scaling.get("rope_type")?.as_str()? {
        "factors" => {
            let factors = scaling.get("factors")?.as_array()?;
            Some(factors.iter().filter_map(Value::as_f64).map(|factor| factor as f32).collect())
        }
        "llama3" => {
            let base = config.get("rope_theta").and_then(Value::as_f64).unwrap_or(10_000.0) as f32;
            let head_dim = metadata::head_dim(config)?;
            let factor = number("factor").unwrap_or(8.0) as f32;
            let low = number("low_freq_factor").unwrap_or(1.0) as f32;
            let high = number("high_freq_factor").unwrap_or(4.0) as f32;
            let original = number("original_max_position_embeddings").unwrap_or(8192.0) as f32;
            let divisor = |index: u64| {
                let frequency = 1.0 / base.powf(2.0 * index as f32 / head_dim as f32);
                let wavelength = std::f32::consts::TAU / frequency;
                if wavelength < original / high {
                    1.0
                } else if wavelength > original / low {
                    factor
                } else {
                    let smooth = (original / wavelength - low) / (high - low);
                    1.0 / ((1.0 - smooth) / factor + smooth)
                }
            };
            // A head is never near this wide; the bound is on memory.
            Some((0..(head_dim / 2).min(1 << 16)).map(divisor).collect())
        }
        _ => None,
    }
}

/// The tensor that divides rope frequencies; elsewhere its numbers are part of the config.
pub(crate) const ROPE_FREQS: &str = "rope_freqs.weight";

/// The codec of tensors that are in no plan.
pub(crate) const EXTRA: Codec = Codec::F32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_of_pairs() {
        // Two heads of four rows: a is the first half and b the second, ggml has a0 b0 a1 b1.
        assert_eq!(pairs_order(8, 2), Some(vec![0, 2, 1, 3, 4, 6, 5, 7]));
        assert_eq!(pairs_order(12, 2), Some(vec![0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]));
        for (rows, heads) in [(8, 0), (8, 3), (6, 2), (4, 8)] {
            assert_eq!(pairs_order(rows, heads), None);
        }
    }
}
