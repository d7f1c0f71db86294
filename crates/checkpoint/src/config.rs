//! The model's `config.json`, brought to its classic form.
//!
//! transformers 5 writes `rope_parameters`; before, `rope_theta` and `rope_scaling` stood at the
//! top (huggingface/transformers `src/transformers/modeling_rope_utils.py`). Everything downstream
//! reads the classic form.

use std::path::Path;

use serde_json::{Map, Value};

use crate::Error;

/// Rewrites the rope settings at the top of `config` in place: `rope_theta` beside `rope_scaling`,
/// which is null or an object with `rope_type`. A nested `text_config` stays as it is, and so do
/// `rope_parameters` that differ by layer type.
///
/// # Errors
/// If the config is not an object, or its rope settings are of the wrong types or contradict each
/// other.
pub(crate) fn normalize(config: &mut Value, path: &Path) -> Result<(), Error> {
    let Some(config) = config.as_object_mut() else {
        return Err(Error::file(path, "is not a JSON object"));
    };
    let mut scaling = match config.remove("rope_scaling") {
        None => None,
        Some(Value::Null) => Some(Value::Null),
        Some(Value::Object(scaling)) => Some(classic_scaling(scaling, path, "rope_scaling")?),
        Some(_) => return Err(Error::field(path, "rope_scaling", "is not an object")),
    };
    match config.remove("rope_parameters") {
        None | Some(Value::Null) => {}
        Some(Value::Object(parameters)) if parameters.values().any(Value::is_object) => {
            config.insert("rope_parameters".into(), parameters.into());
        }
        Some(Value::Object(mut parameters)) => {
            for key in ["rope_theta", "partial_rotary_factor"] {
                let Some(value) = parameters.remove(key) else { continue };
                let stored = config.entry(key).or_insert(Value::Null);
                if stored.is_null() {
                    *stored = value;
                } else if stored.as_f64() != value.as_f64() {
                    let problem = format!("is {value}, but '{key}' is {stored}");
                    return Err(Error::field(path, &format!("rope_parameters.{key}"), problem));
                }
            }
            let new = classic_scaling(parameters, path, "rope_parameters")?;
            if let Some(old) = scaling.filter(|old| !old.is_null() && *old != new) {
                let problem = format!("contradicts 'rope_scaling', which is {old}");
                return Err(Error::field(path, "rope_parameters", problem));
            }
            scaling = Some(new);
        }
        Some(_) => return Err(Error::field(path, "rope_parameters", "is not an object")),
    }
    if let Some(scaling) = scaling {
        config.insert("rope_scaling".into(), scaling);
    }
    Ok(())
}

/// Scaling with `rope_type` under that name; null where it scales nothing.
fn classic_scaling(
    mut scaling: Map<String, Value>,
    path: &Path,
    field: &str,
) -> Result<Value, Error> {
    let old = scaling.remove("type");
    let rope_type = scaling.get("rope_type").cloned().or(old).unwrap_or("default".into());
    let Some(name) = rope_type.as_str() else {
        return Err(Error::field(path, &format!("{field}.rope_type"), "is not a string"));
    };
    // Multimodal models keep the sections of their axes here, whatever the type.
    if name == "default" && !scaling.contains_key("mrope_section") {
        return Ok(Value::Null);
    }
    scaling.insert("rope_type".into(), rope_type);
    Ok(scaling.into())
}

/// The row length (inputs) that the architecture gives a text module such as
/// `model.layers.0.mlp.up_proj`, where the config tells.
pub(crate) fn expected_cols(config: &Value, module: &str) -> Option<usize> {
    let text = config.get("text_config").filter(|text| text.is_object()).unwrap_or(config);
    let number = |key: &str| text.get(key)?.as_u64().and_then(|n| usize::try_from(n).ok());
    if ["vision", "visual", "audio"].iter().any(|part| module.contains(part)) {
        return None;
    }
    let hidden = || number("hidden_size");
    let (parent, name) = module.rsplit_once('.').unwrap_or(("", module));
    if matches!(name, "embed_tokens" | "lm_head") {
        return hidden();
    }
    if !parent.contains("layers.") {
        return None;
    }
    let block = parent.rsplit_once('.').map_or(parent, |(_, block)| block);
    match (block, name) {
        ("self_attn", "q_proj" | "k_proj" | "v_proj" | "qkv_proj") => hidden(),
        ("self_attn", "o_proj") => {
            let heads = number("num_attention_heads")?;
            let head_dim = number("head_dim").or_else(|| hidden()?.checked_div(heads));
            heads.checked_mul(head_dim?)
        }
        ("mlp" | "switch_mlp" | "shared_expert", "gate_proj" | "up_proj" | "gate_up_proj")
        | ("mlp" | "block_sparse_moe", "gate" | "shared_expert_gate") => hidden(),
        ("mlp", "down_proj") => number("intermediate_size"),
        // Where experts have no width of their own, theirs is that of the feed-forward part.
        ("switch_mlp", "down_proj") => {
            number("moe_intermediate_size").or_else(|| number("intermediate_size"))
        }
        ("shared_expert", "down_proj") => number("shared_expert_intermediate_size"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn normalized(mut config: Value) -> Result<Value, String> {
        normalize(&mut config, Path::new("config.json")).map_err(|error| error.to_string())?;
        Ok(config)
    }

    #[test]
    fn rope_settings_take_the_classic_form() {
        let llama3 = json!({"rope_type": "llama3", "factor": 8.0});
        let cases = [
            (json!({"rope_theta": 1.0}), json!({"rope_theta": 1.0})),
            (json!({"rope_scaling": null}), json!({"rope_scaling": null})),
            (
                json!({"rope_scaling": {"type": "linear", "factor": 2}}),
                json!({"rope_scaling": {"rope_type": "linear", "factor": 2}}),
            ),
            (
                json!({"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}),
                json!({"rope_theta": 1e6, "rope_scaling": null}),
            ),
            (
                json!({"rope_parameters": {"rope_type": "llama3", "factor": 8.0, "rope_theta": 5e5,
                       "partial_rotary_factor": 0.5}}),
                json!({"rope_theta": 5e5, "partial_rotary_factor": 0.5, "rope_scaling": llama3}),
            ),
            // Both forms, saying the same.
            (
                json!({"rope_theta": 5e5, "rope_scaling": llama3,
                       "rope_parameters": {"rope_type": "llama3", "factor": 8.0, "rope_theta": 5e5}}),
                json!({"rope_theta": 5e5, "rope_scaling": llama3}),
            ),
            // Sections of a multimodal model survive; layer types and nested configs stay.
            (
                json!({"rope_scaling": {"rope_type": "default", "mrope_section": [1, 2]}}),
                json!({"rope_scaling": {"rope_type": "default", "mrope_section": [1, 2]}}),
            ),
            (
                json!({"rope_parameters": {"full_attention": {"rope_type": "default"}}}),
                json!({"rope_parameters": {"full_attention": {"rope_type": "default"}}}),
            ),
            (
                json!({"text_config": {"rope_parameters": {"rope_type": "default"}}}),
                json!({"text_config": {"rope_parameters": {"rope_type": "default"}}}),
            ),
        ];
        for (config, expected) in cases {
            assert_eq!(normalized(config), Ok(expected));
        }
    }

    #[test]
    fn contradictions_are_refused() {
        let cases = [
            (json!([]), "not a JSON object"),
            (json!({"rope_scaling": 3}), "'rope_scaling' is not an object"),
            (json!({"rope_parameters": "x"}), "'rope_parameters' is not an object"),
            (json!({"rope_scaling": {"type": 3}}), "'rope_scaling.rope_type' is not a string"),
            (
                json!({"rope_theta": 1e4, "rope_parameters": {"rope_theta": 1e6}}),
                "'rope_parameters.rope_theta' is 1000000.0, but 'rope_theta' is 10000.0",
            ),
            (
                json!({"rope_scaling": {"type": "yarn"}, "rope_parameters": {"rope_type": "linear"}}),
                "contradicts 'rope_scaling'",
            ),
        ];
        for (config, expected) in cases {
            let error = normalized(config).unwrap_err();
            assert!(error.starts_with("config.json: ") && error.contains(expected), "{error}");
        }
    }

    #[test]
    fn row_lengths_follow_the_architecture() {
        let config = json!({"hidden_size": 128, "num_attention_heads": 4, "head_dim": 64,
            "intermediate_size": 192, "moe_intermediate_size": 32});
        for (module, expected) in [
            ("model.embed_tokens", Some(128)),
            ("language_model.model.layers.3.self_attn.o_proj", Some(256)),
            ("model.layers.0.mlp.down_proj", Some(192)),
            ("model.layers.0.mlp.switch_mlp.down_proj", Some(32)),
            ("model.layers.0.mlp.gate", Some(128)),
            ("vision_tower.layers.0.mlp.down_proj", None),
            ("model.layers.0.linear_attn.in_proj", None),
        ] {
            assert_eq!(expected_cols(&config, module), expected, "{module}");
        }
        let nested = json!({"text_config": {"hidden_size": 96, "num_attention_heads": 4}});
        assert_eq!(expected_cols(&nested, "model.layers.0.self_attn.o_proj"), Some(96));
    }
}
