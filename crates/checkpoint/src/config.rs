//! The model's `config.json`, brought to its classic form.
//!
//! transformers 5 writes `rope_parameters`; before, `rope_theta` and `rope_scaling` stood at the
//! top (huggingface/transformers `src/transformers/modeling_rope_utils.py`). Everything downstream
//! reads the classic form.

use std::path::Path;

use serde_json::{Map, Value};

use crate::Error;

/// The classes that transformers has for language models, by `model_type`.
pub const CLASSES: [(&str, &str); 18] = [
    ("bitnet", "BitNetForCausalLM"),
    ("gemma", "GemmaForCausalLM"),
    ("gemma2", "Gemma2ForCausalLM"),
    ("gemma3_text", "Gemma3ForCausalLM"),
    ("granite", "GraniteForCausalLM"),
    ("llama", "LlamaForCausalLM"),
    ("mistral", "MistralForCausalLM"),
    ("mixtral", "MixtralForCausalLM"),
    ("olmo2", "Olmo2ForCausalLM"),
    ("olmoe", "OlmoeForCausalLM"),
    ("phi3", "Phi3ForCausalLM"),
    ("qwen2", "Qwen2ForCausalLM"),
    ("qwen2_moe", "Qwen2MoeForCausalLM"),
    ("qwen3", "Qwen3ForCausalLM"),
    ("qwen3_moe", "Qwen3MoeForCausalLM"),
    ("qwen3_vl", "Qwen3VLForConditionalGeneration"),
    ("qwen3_vl_moe", "Qwen3VLMoeForConditionalGeneration"),
    ("smollm3", "SmolLM3ForCausalLM"),
];

/// Rewrites the rope settings at the top of `config` in place: `rope_theta` beside `rope_scaling`,
/// which is null or an object with `rope_type`. A nested `text_config` stays as it is, and so do
/// `rope_parameters` that differ by layer type. Where `model_type` is missing, the class that the model was saved from
/// gives it.
///
/// As in transformers 5 (`convert_rope_params_to_dict` in `modeling_rope_utils.py`), what stands inside the settings
/// counts before what stands beside them.
///
/// # Errors
/// If the config is not an object, or its rope settings are of the wrong types or contradict each
/// other.
pub(crate) fn normalize(config: &mut Value, path: &Path) -> Result<(), Error> {
    let Some(config) = config.as_object_mut() else {
        return Err(Error::file(path, "is not a JSON object"));
    };
    if config.get("model_type").is_none_or(Value::is_null)
        && let Some(model_type) = type_of_class(config)
    {
        config.insert("model_type".into(), model_type.into());
    }
    let mut found: Option<(&str, Value)> = None;
    for field in ["rope_scaling", "rope_parameters"] {
        let scaling = match config.remove(field) {
            None => continue,
            Some(Value::Null) => Value::Null,
            Some(Value::Object(by_type)) if by_type.values().any(Value::is_object) => {
                config.insert("rope_parameters".into(), by_type.into());
                continue;
            }
            Some(Value::Object(mut scaling)) => {
                for key in ["rope_theta", "partial_rotary_factor"] {
                    if let Some(value) = scaling.remove(key).filter(|value| !value.is_null()) {
                        config.insert(key.into(), value);
                    }
                }
                classic_scaling(scaling, path, field)?
            }
            Some(_) => return Err(Error::field(path, field, "is not an object")),
        };
        found = Some(match found {
            Some((first, old)) if !old.is_null() && !scaling.is_null() && old != scaling => {
                let problem = format!("contradicts '{first}', which is {old}");
                return Err(Error::field(path, field, problem));
            }
            Some(found) if scaling.is_null() => found,
            _ => (field, scaling),
        });
    }
    if let Some((_, scaling)) = found {
        config.insert("rope_scaling".into(), scaling);
    }
    Ok(())
}

/// The `model_type` of the class in `architectures`.
fn type_of_class(config: &Map<String, Value>) -> Option<&'static str> {
    let class = config.get("architectures")?.get(0)?.as_str()?;
    CLASSES.into_iter().find(|(_, known)| *known == class).map(|(model_type, _)| model_type)
}

/// Scaling with `rope_type` under that name; null where it scales nothing.
fn classic_scaling(
    mut scaling: Map<String, Value>,
    path: &Path,
    field: &str,
) -> Result<Value, Error> {
    let old = scaling.remove("type").filter(|old| !old.is_null());
    let new = scaling.get("rope_type").filter(|new| !new.is_null()).cloned();
    let rope_type = new.or(old).unwrap_or("default".into());
    let Some(name) = rope_type.as_str() else {
        return Err(Error::field(path, &format!("{field}.rope_type"), "is not a string"));
    };
    // Multimodal models keep the sections of their axes here, whatever the type; the first of them called it "mrope"
    // (transformers `models/qwen2_vl/configuration_qwen2_vl.py`).
    let has_sections = scaling.contains_key("mrope_section");
    let rope_type = match name {
        "default" if !has_sections => return Ok(Value::Null),
        "mrope" if has_sections => "default".into(),
        // The first name of LongRoPE (`models/phi3/configuration_phi3.py`).
        "su" => "longrope".into(),
        _ => rope_type,
    };
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
            // Each in its own form: the one that scales counts, and the base of the other.
            (
                json!({"rope_scaling": {"type": "yarn", "factor": 4.0},
                       "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}),
                json!({"rope_theta": 1e6, "rope_scaling": {"factor": 4.0, "rope_type": "yarn"}}),
            ),
            (
                json!({"rope_theta": 1e4, "rope_scaling": {"rope_type": "default", "rope_theta": 1e6}}),
                json!({"rope_theta": 1e6, "rope_scaling": null}),
            ),
            (
                json!({"rope_theta": 1e4, "rope_parameters": {"rope_theta": 1e6, "type": null}}),
                json!({"rope_theta": 1e6, "rope_scaling": null}),
            ),
            (json!({"rope_scaling": {}}), json!({"rope_scaling": null})),
            (
                json!({"rope_scaling": {"type": "su", "rope_type": null}}),
                json!({"rope_scaling": {"rope_type": "longrope"}}),
            ),
            (
                json!({"rope_scaling": {"type": "mrope", "mrope_section": [1, 2]}}),
                json!({"rope_scaling": {"mrope_section": [1, 2], "rope_type": "default"}}),
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
    fn a_missing_type_comes_from_the_class() {
        let config = json!({"model_type": null, "architectures": ["SmolLM3ForCausalLM"]});
        assert_eq!(normalized(config).unwrap()["model_type"], "smollm3");
        let config = json!({"architectures": ["LlamaModel"]});
        assert_eq!(normalized(config.clone()), Ok(config));
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
