//! Shapes of well-known models, as configs.

use serde_json::{Value, json};

use crate::Error;

/// The dimensions in which the shapes differ.
struct Shape {
    name: &'static str,
    /// Other names that people use.
    also: &'static [&'static str],
    family: Family,
    hidden: usize,
    layers: usize,
    feed_forward: usize,
    heads: usize,
    kv_heads: usize,
    tied_head: bool,
}

#[derive(Clone, Copy)]
enum Family {
    Qwen3,
    Qwen3Experts,
    Qwen3Vl,
    Llama32,
}

/// From the `config.json` of Qwen/Qwen3-0.6B, -1.7B, -4B, -8B, -30B-A3B, Qwen3-VL-2B and -4B (Instruct) and
/// meta-llama/Llama-3.2-1B.
const SHAPES: [Shape; 10] = [
    Shape {
        name: "qwen3-0.6b",
        also: &["0.6b"],
        family: Family::Qwen3,
        hidden: 1024,
        layers: 28,
        feed_forward: 3072,
        heads: 16,
        kv_heads: 8,
        tied_head: true,
    },
    Shape {
        name: "qwen3-1.7b",
        also: &["1.7b"],
        family: Family::Qwen3,
        hidden: 2048,
        layers: 28,
        feed_forward: 6144,
        heads: 16,
        kv_heads: 8,
        tied_head: true,
    },
    Shape {
        name: "qwen3-4b",
        also: &["4b"],
        family: Family::Qwen3,
        hidden: 2560,
        layers: 36,
        feed_forward: 9728,
        heads: 32,
        kv_heads: 8,
        tied_head: true,
    },
    Shape {
        name: "qwen3-8b",
        also: &["8b"],
        family: Family::Qwen3,
        hidden: 4096,
        layers: 36,
        feed_forward: 12288,
        heads: 32,
        kv_heads: 8,
        tied_head: false,
    },
    Shape {
        name: "qwen3-vl-2b",
        also: &["vl-2b"],
        family: Family::Qwen3Vl,
        hidden: 2048,
        layers: 28,
        feed_forward: 6144,
        heads: 16,
        kv_heads: 8,
        tied_head: true,
    },
    Shape {
        name: "qwen3-vl-4b",
        also: &["vl-4b"],
        family: Family::Qwen3Vl,
        hidden: 2560,
        layers: 36,
        feed_forward: 9728,
        heads: 32,
        kv_heads: 8,
        tied_head: true,
    },
    Shape {
        name: "llama-3.2-1b",
        also: &[],
        family: Family::Llama32,
        hidden: 2048,
        layers: 16,
        feed_forward: 8192,
        heads: 32,
        kv_heads: 8,
        tied_head: true,
    },
    // The 4B shape, small enough to be measured in minutes.
    Shape {
        name: "4b-12l",
        also: &["qwen3-4b-12l"],
        family: Family::Qwen3,
        hidden: 2560,
        layers: 12,
        feed_forward: 9728,
        heads: 32,
        kv_heads: 8,
        tied_head: true,
    },
    QWEN3_30B_A3B,
    // Its shape in 3 GB.
    Shape { name: "qwen3-30b-a3b-4l", also: &["30b-a3b-4l"], layers: 4, ..QWEN3_30B_A3B },
];

/// 128 experts, of which each token goes to 8.
const QWEN3_30B_A3B: Shape = Shape {
    name: "qwen3-30b-a3b",
    also: &["30b-a3b"],
    family: Family::Qwen3Experts,
    hidden: 2048,
    layers: 48,
    feed_forward: 6144,
    heads: 32,
    kv_heads: 4,
    tied_head: false,
};

/// The names that [`named`] knows, without the short forms.
pub fn names() -> impl Iterator<Item = &'static str> {
    SHAPES.iter().map(|shape| shape.name)
}

/// The config of the shape `name`, as [`keeve_models::build`] takes it, and the shape's full name.
///
/// # Errors
/// If there is no such shape; the message lists those that there are.
pub fn named(name: &str) -> Result<(&'static str, Value), Error> {
    let lower = name.to_ascii_lowercase();
    SHAPES
        .iter()
        .find(|shape| shape.name == lower || shape.also.contains(&lower.as_str()))
        .map(|shape| (shape.name, shape.config()))
        .ok_or_else(|| Error::Shape(name.into()))
}

impl Shape {
    fn config(&self) -> Value {
        let mut config = match self.family {
            Family::Qwen3 => json!({
                "model_type": "qwen3",
                "head_dim": 128,
                "vocab_size": 151_936,
                "max_position_embeddings": 40_960,
                "rms_norm_eps": 1e-6,
                "rope_theta": 1e6,
            }),
            Family::Qwen3Experts => json!({
                "model_type": "qwen3_moe",
                "head_dim": 128,
                "vocab_size": 151_936,
                "max_position_embeddings": 40_960,
                "rms_norm_eps": 1e-6,
                "rope_theta": 1e6,
                "num_experts": 128,
                "num_experts_per_tok": 8,
                "moe_intermediate_size": 768,
                "norm_topk_prob": true,
            }),
            Family::Qwen3Vl => json!({
                "model_type": "qwen3_vl_text",
                "head_dim": 128,
                "vocab_size": 151_936,
                "max_position_embeddings": 262_144,
                "rms_norm_eps": 1e-6,
                "rope_theta": 5e6,
                "rope_scaling": {
                    "mrope_interleaved": true,
                    "mrope_section": [24, 20, 20],
                    "rope_type": "default",
                },
                "hidden_act": "silu",
            }),
            Family::Llama32 => json!({
                "model_type": "llama",
                "head_dim": 64,
                "vocab_size": 128_256,
                "max_position_embeddings": 131_072,
                "rms_norm_eps": 1e-5,
                "rope_theta": 5e5,
                "rope_scaling": {
                    "rope_type": "llama3",
                    "factor": 32.0,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 8192,
                },
            }),
        };
        config["hidden_size"] = json!(self.hidden);
        config["num_hidden_layers"] = json!(self.layers);
        config["intermediate_size"] = json!(self.feed_forward);
        config["num_attention_heads"] = json!(self.heads);
        config["num_key_value_heads"] = json!(self.kv_heads);
        config["tie_word_embeddings"] = json!(self.tied_head);
        match self.family {
            Family::Qwen3Vl => self.seeing(config),
            _ => config,
        }
    }
}

impl Shape {
    /// The config of a model that sees, around that of its language model. Both sizes see alike.
    fn seeing(&self, text: Value) -> Value {
        json!({
            "model_type": "qwen3_vl",
            "tie_word_embeddings": self.tied_head,
            "image_token_id": 151_655,
            "video_token_id": 151_656,
            "vision_start_token_id": 151_652,
            "vision_end_token_id": 151_653,
            "text_config": text,
            "vision_config": {
                "model_type": "qwen3_vl",
                "depth": 24,
                "hidden_size": 1024,
                "intermediate_size": 4096,
                "num_heads": 16,
                "out_hidden_size": self.hidden,
                "num_position_embeddings": 2304,
                "deepstack_visual_indexes": [5, 11, 17],
                "patch_size": 16,
                "temporal_patch_size": 2,
                "spatial_merge_size": 2,
                "in_channels": 3,
                "hidden_act": "gelu_pytorch_tanh",
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Weights of the layers and of the embedding table, as the models' cards add up.
    #[test]
    fn shapes_have_the_weights_of_the_models_that_they_are_named_after() {
        for (name, layers, table) in [
            ("qwen3-0.6b", 440_401_920, 155_582_464),
            ("1.7b", 1_409_286_144, 311_164_928),
            ("4B", 3_633_315_840, 388_956_160),
            ("8b", 6_945_767_424, 622_329_856),
            ("qwen3-vl-2b", 1_409_286_144, 311_164_928),
            ("qwen3-vl-4b", 3_633_315_840, 388_956_160),
            ("llama-3.2-1b", 973_078_528, 262_668_288),
            ("4b-12l", 3_633_315_840 / 3, 388_956_160),
            ("30b-a3b", 29_909_581_824, 311_164_928),
            ("30b-a3b-4l", 29_909_581_824 / 12, 311_164_928),
        ] {
            let (_, config) = named(name).unwrap();
            let model = keeve_models::build(&config).unwrap();
            let weights = model.graph.weights().iter().filter(|weight| weight.rows > 1);
            let (tables, linears): (Vec<_>, Vec<_>) =
                weights.partition(|weight| !weight.name.contains("layers"));
            let count = |weight: &&keeve_graph::Weight| weight.values();
            assert_eq!(linears.iter().map(count).sum::<u64>(), layers, "{name}");
            assert_eq!(count(&tables[0]), table, "{name}");
            assert_eq!(
                tables.len(),
                if name.starts_with("30b") || name == "8b" { 2 } else { 1 },
                "{name}"
            );
        }
    }

    #[test]
    fn unknown_shapes_are_errors_that_list_the_known_ones() {
        let error = named("qwen9-1t").unwrap_err().to_string();
        for name in names() {
            assert!(error.contains(name), "{error}");
        }
    }
}
