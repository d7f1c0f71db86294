//! Models that also see, read whole: under Hugging Face's names, with the config as it stands.
//!
//! Sources: huggingface/transformers `models/qwen3_vl/modeling_qwen3_vl.py`; for MLX's names and the
//! order of its patch embedding, Blaizzy/mlx-vlm `mlx_vlm/models/qwen3_vl`.

use keeve_codec::{Codec, PackedTensor, Parts};
use serde_json::Value;

use crate::dialect::Entry;

/// The values of `model_type` that are read whole.
const KINDS: [&str; 2] = ["qwen3_vl", EXPERTS];

/// The one whose experts Hugging Face stores the other way: `[experts, inputs, outputs]`
/// (`models/qwen3_vl_moe/modeling_qwen3_vl_moe.py` before version 5, and its files since).
const EXPERTS: &str = "qwen3_vl_moe";

/// The weight of the convolution that makes patches rows.
const PATCH_EMBEDDING: &str = "model.visual.patch_embed.proj.weight";

/// Whether a config is of such a model.
pub(crate) fn is_whole(config: &Value) -> bool {
    let name = config.get("model_type").and_then(Value::as_str);
    name.is_some_and(|name| KINDS.contains(&name)) && config.get("text_config").is_some()
}

/// The tensors under Hugging Face's names, the patch embedding as a matrix whose columns are ordered
/// (channel, frame, y, x), as rows of patches are.
pub(crate) fn whole_entries(config: &Value, entries: Vec<Entry>) -> Vec<Entry> {
    let channels = config.pointer("/vision_config/in_channels").and_then(Value::as_u64);
    let channels = channels.and_then(|channels| usize::try_from(channels).ok()).unwrap_or(3);
    let has_experts = config.get("model_type").and_then(Value::as_str) == Some(EXPERTS);
    let text = |field: &str| config.get("text_config").and_then(|text| text.get(field)?.as_u64());
    let (hidden, width) = (text("hidden_size"), text("moe_intermediate_size"));
    let canonical = |mut entry: Entry| {
        entry.info.name = whole_name(&entry.info.name);
        let name = &entry.info.name;
        let inputs = match name {
            _ if !has_experts => None,
            name if name.ends_with(".experts.gate_up_proj") => hidden,
            name if name.ends_with(".experts.down_proj") => width,
            _ => None,
        };
        match inputs {
            Some(inputs) => with_inputs_last(entry, inputs),
            None if *name == PATCH_EMBEDDING => patch_embedding(entry, channels),
            None => entry,
        }
    };
    entries.into_iter().map(canonical).collect()
}

/// Stacked experts whose matrices have a row for each of `inputs`, as `[experts, outputs, inputs]`.
fn with_inputs_last(mut entry: Entry, inputs: u64) -> Entry {
    let [experts, rows, cols] = entry.info.shape[..] else { return entry };
    if rows as u64 != inputs {
        return entry;
    }
    entry.info.shape = vec![experts, cols, rows];
    entry.then(move |stack| {
        // What the container checked: so many values, each of so many bytes.
        if !matches!(stack.codec(), Codec::Float(_)) || stack.len() != experts * rows * cols {
            return Err(format!("is {}, expected a stack of float matrices", stack.codec()));
        }
        let each = stack.codec().geometry().block_bytes;
        let mut data = Vec::with_capacity(stack.bytes());
        for expert in stack.parts().data.chunks_exact(rows * cols * each) {
            for column in 0..cols {
                for row in 0..rows {
                    data.extend_from_slice(&expert[(row * cols + column) * each..][..each]);
                }
            }
        }
        PackedTensor::new(stack.codec(), experts, cols, rows, Parts::data(data))
            .map_err(|error| format!("is wrong: {error}"))
    })
}

/// Hugging Face's name of a tensor that MLX may call otherwise.
fn whole_name(name: &str) -> String {
    for first in ["vision_tower.", "visual."] {
        if let Some(rest) = name.strip_prefix(first) {
            return format!("model.visual.{rest}");
        }
    }
    // As transformers named the parts of such models before 4.52.
    for own in ["layers.", "embed_tokens.", "norm."] {
        if let Some(rest) = name.strip_prefix("model.").filter(|rest| rest.starts_with(own)) {
            return format!("model.language_model.{rest}");
        }
    }
    match name.strip_prefix("language_model.") {
        Some(rest) => match rest.strip_prefix("model.") {
            Some(rest) => format!("model.language_model.{rest}"),
            // The head stands beside the model.
            None => rest.into(),
        },
        None => name.into(),
    }
}

/// A convolution over patches that do not overlap is a product with a matrix. Hugging Face stores
/// `[out, channel, frame, y, x]`, MLX `[out, frame, y, x, channel]`.
fn patch_embedding(mut entry: Entry, channels: usize) -> Entry {
    let [out, a, b, c, d] = entry.info.shape[..] else { return entry };
    if a != channels && d == channels {
        entry.info.shape = vec![out, channels, a, b, c];
        let pixels = a.saturating_mul(b).saturating_mul(c);
        return entry
            .then(move |tensor| channels_first(&as_matrix(&tensor, out)?, channels, pixels));
    }
    if a != channels {
        let problem = format!("has the shape {:?}, expected {channels} channels", entry.info.shape);
        return entry.then(move |_| Err(problem.clone()));
    }
    entry.then(move |tensor| as_matrix(&tensor, out))
}

/// A float tensor whose first dimension counts rows.
fn as_matrix(tensor: &PackedTensor, rows: usize) -> Result<PackedTensor, String> {
    let cols = tensor.len().checked_div(rows).unwrap_or(0);
    PackedTensor::new(tensor.codec(), 1, rows, cols, tensor.parts().clone())
        .map_err(|error| format!("is wrong: {error}"))
}

/// A float matrix whose rows are `[pixels, channels]`, as `[channels, pixels]`.
fn channels_first(
    matrix: &PackedTensor,
    channels: usize,
    pixels: usize,
) -> Result<PackedTensor, String> {
    let Codec::Float(_) = matrix.codec() else {
        return Err(format!("is {}, expected floats", matrix.codec()));
    };
    let each = matrix.codec().geometry().block_bytes;
    let mut data = Vec::with_capacity(matrix.bytes());
    for row in 0..matrix.rows() {
        let row = matrix.row(row).data;
        for channel in 0..channels {
            for pixel in 0..pixels {
                data.extend_from_slice(&row[(pixel * channels + channel) * each..][..each]);
            }
        }
    }
    PackedTensor::new(matrix.codec(), 1, matrix.rows(), matrix.cols(), Parts::data(data))
        .map_err(|error| format!("is wrong: {error}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_are_hugging_faces() {
        for (name, whole) in [
            ("language_model.model.layers.0.x.weight", "model.language_model.layers.0.x.weight"),
            ("model.language_model.layers.0.x.weight", "model.language_model.layers.0.x.weight"),
            ("language_model.lm_head.weight", "lm_head.weight"),
            ("lm_head.weight", "lm_head.weight"),
            ("vision_tower.blocks.0.norm1.bias", "model.visual.blocks.0.norm1.bias"),
            ("model.visual.merger.norm.bias", "model.visual.merger.norm.bias"),
            ("visual.merger.norm.bias", "model.visual.merger.norm.bias"),
            ("model.layers.0.x.weight", "model.language_model.layers.0.x.weight"),
            ("model.embed_tokens.weight", "model.language_model.embed_tokens.weight"),
        ] {
            assert_eq!(whole_name(name), whole);
        }
    }

    #[test]
    fn channels_come_first_in_a_row() {
        // Two rows of three pixels with two channels.
        let values: Vec<f32> = (0..12).map(|n| n as f32).collect();
        let matrix = PackedTensor::from_f32(2, 6, &values).unwrap();
        let moved = channels_first(&matrix, 2, 3).unwrap();
        let expected = [0.0, 2.0, 4.0, 1.0, 3.0, 5.0, 6.0, 8.0, 10.0, 7.0, 9.0, 11.0];
        assert_eq!(keeve_codec::decode(&moved), expected);
    }

    #[test]
    fn only_known_models_with_a_language_model_are_read_whole() {
        assert!(is_whole(&json!({"model_type": "qwen3_vl", "text_config": {}})));
        assert!(!is_whole(&json!({"model_type": "qwen3_vl"})));
        assert!(!is_whole(&json!({"model_type": "gemma3", "text_config": {}})));
        assert!(!is_whole(&json!({"model_type": 3, "text_config": {}})));
    }
}
