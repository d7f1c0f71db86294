//! What presets ask about a model.

use serde_json::Value;

/// Numbers of a model that presets depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dimensions {
    /// Decoder layers.
    pub layers: usize,
    /// Query heads that share a key head.
    pub grouped_queries: usize,
    /// Routed experts of a layer; 0 if there are none.
    pub experts: usize,
    /// Whether llama.cpp takes the model for one of 70B parameters: a llama of 80 layers with grouped
    /// heads, or a qwen2 of 80 layers.
    pub is_70b: bool,
}

impl Dimensions {
    /// From a config in Hugging Face's form. Fields that are missing or no counts are taken as one (no
    /// experts); whether the model makes sense is for its architecture to say.
    pub fn of(config: &Value) -> Self {
        let text = config.get("text_config").filter(|text| text.is_object()).unwrap_or(config);
        let number = |field: &str| {
            let count = text.get(field).and_then(Value::as_u64)?;
            Some(usize::try_from(count).unwrap_or(usize::MAX))
        };
        let layers = number("num_hidden_layers").unwrap_or(1).max(1);
        let heads = number("num_attention_heads").unwrap_or(1).max(1);
        let kv_heads = number("num_key_value_heads").unwrap_or(heads).max(1);
        let experts = number("num_local_experts").or_else(|| number("num_experts")).unwrap_or(0);
        let grouped_queries = (heads / kv_heads).max(1);
        let is_70b = layers == 80
            && match text.get("model_type").and_then(Value::as_str) {
                Some("llama" | "mistral") => grouped_queries > 1,
                Some("qwen2") => true,
                _ => false,
            };
        Self { layers, grouped_queries, experts, is_70b }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_come_from_the_config() {
        let config = json!({"text_config": {"num_hidden_layers": 80, "num_attention_heads": 64,
            "num_key_value_heads": 8, "num_experts": 8, "model_type": "llama"}});
        let expected = Dimensions { layers: 80, grouped_queries: 8, experts: 8, is_70b: true };
        assert_eq!(Dimensions::of(&config), expected);
        let least = Dimensions { layers: 1, grouped_queries: 1, experts: 0, is_70b: false };
        assert_eq!(Dimensions::of(&json!({"num_key_value_heads": 0})), least);
    }
}
