//! Models that also see: those that are read as the language model inside them, and those that are read
//! whole (`seeing.rs`).
//!
//! Configs: huggingface/transformers `models/gemma3/configuration_gemma3.py`; names: `modeling_gemma3.py` there,
//! before and since version 5, and Blaizzy/mlx-vlm `mlx_vlm/models/gemma3`.

use serde_json::{Map, Value, json};

use crate::dialect::Entry;

/// A kind of model that also sees.
struct Kind {
    /// Its `model_type`.
    name: &'static str,
    /// That of its language model.
    text: &'static str,
    /// What a config leaves out because it is the default.
    defaults: fn() -> Value,
}

const KINDS: [Kind; 1] = [Kind {
    name: "gemma3",
    text: "gemma3_text",
    defaults: || {
        json!({"vocab_size": 262_208, "hidden_size": 2304, "intermediate_size": 9216,
            "num_hidden_layers": 26, "num_attention_heads": 8, "num_key_value_heads": 4,
            "head_dim": 256, "tie_word_embeddings": true})
    },
}];

/// Fields that the whole model has for its language model, besides those of quantization.
const SHARED: [&str; 5] =
    ["bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings", "torch_dtype"];

/// The config of the language model in a config with a `text_config`; `None` if the model is of no such kind.
pub(crate) fn text_config(config: &Value) -> Option<Value> {
    let name = config.get("model_type")?.as_str()?;
    let kind = KINDS.into_iter().find(|kind| kind.name == name)?;
    let mut text: Map<String, Value> = config.get("text_config")?.as_object()?.clone();
    text.insert("model_type".into(), kind.text.into());
    let quantization = ["quantization", "quantization_config"];
    for key in SHARED.into_iter().chain(quantization) {
        if let Some(value) = config.get(key) {
            text.entry(key).or_insert_with(|| value.clone());
        }
    }
    if let Value::Object(defaults) = (kind.defaults)() {
        for (key, value) in defaults {
            let field = text.entry(key).or_insert(Value::Null);
            if field.is_null() {
                *field = value;
            }
        }
    }
    Some(text.into())
}

/// The tensors of the language model, under the names that they have where it stands alone, and what is to be said
/// about the others.
pub(crate) fn text_entries(entries: Vec<Entry>) -> (Vec<Entry>, Option<String>) {
    let count = entries.len();
    let kept: Vec<Entry> = entries
        .into_iter()
        .filter_map(|mut entry| {
            entry.info.name = text_name(&entry.info.name)?;
            Some(entry)
        })
        .collect();
    let others = count - kept.len();
    let note =
        format!("only its language model is read: {others} tensors that serve seeing are not");
    (kept, (others > 0).then_some(note))
}

/// The name in the language model alone; `None` for tensors of other parts.
fn text_name(name: &str) -> Option<String> {
    let first = |name: &str| name.split('.').next().map(str::to_owned);
    let inner = name.strip_prefix("model.").unwrap_or(name);
    let seeing = ["vision_tower", "vision_model", "multi_modal_projector", "embed_vision"];
    if first(inner).is_some_and(|part| seeing.contains(&part.as_str())) {
        return None;
    }
    match inner.strip_prefix("language_model.") {
        // Since version 5 "model.language_model.layers", before "language_model.model.layers".
        Some(rest) if rest.starts_with("model.") || rest.starts_with("lm_head.") => {
            Some(rest.into())
        }
        Some(rest) => Some(format!("model.{rest}")),
        None => Some(name.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_language_model() {
        for (name, text) in [
            ("language_model.model.layers.0.x.weight", Some("model.layers.0.x.weight")),
            ("model.language_model.layers.0.x.weight", Some("model.layers.0.x.weight")),
            ("model.language_model.embed_tokens.weight", Some("model.embed_tokens.weight")),
            ("language_model.lm_head.weight", Some("lm_head.weight")),
            ("lm_head.weight", Some("lm_head.weight")),
            ("model.norm.weight", Some("model.norm.weight")),
            ("vision_tower.vision_model.head.weight", None),
            ("model.vision_tower.head.weight", None),
            ("multi_modal_projector.weight", None),
            ("model.multi_modal_projector.weight", None),
        ] {
            assert_eq!(text_name(name).as_deref(), text, "{name}");
        }
    }

    #[test]
    fn configs_of_the_language_model() {
        let config = json!({"model_type": "gemma3", "eos_token_id": [1, 106],
            "quantization": {"bits": 4}, "vision_config": {"hidden_size": 1152},
            "text_config": {"model_type": "gemma3_text", "hidden_size": 2560, "head_dim": null}});
        let text = text_config(&config).unwrap();
        assert_eq!(text["model_type"], "gemma3_text");
        assert_eq!((&text["hidden_size"], &text["head_dim"]), (&json!(2560), &json!(256)));
        assert_eq!(text["eos_token_id"], json!([1, 106]));
        assert_eq!(text["quantization"]["bits"], 4);
        assert!(text.get("vision_config").is_none());
        for other in [
            json!({}),
            json!({"model_type": "gemma3"}),
            json!({"model_type": "llama",
            "text_config": {}}),
        ] {
            assert!(text_config(&other).is_none(), "{other}");
        }
    }
}
