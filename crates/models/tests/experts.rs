//! Configs with experts: what they become, and which are refused.

#![allow(clippy::unwrap_used, reason = "tests")]

use keeve_graph::Op;
use keeve_models::{Model, build};
use serde_json::{Value, json};

fn config(architecture: &str, fields: Value) -> Value {
    let mut config = json!({
        "model_type": architecture, "hidden_size": 64, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 96, "num_hidden_layers": 4,
        "vocab_size": 100, "num_experts": 6, "num_experts_per_tok": 2,
        "moe_intermediate_size": 32, "shared_expert_intermediate_size": 48,
    });
    for (field, value) in fields.as_object().unwrap() {
        config[field] = value.clone();
    }
    config
}

fn model(architecture: &str, fields: Value) -> Model {
    build(&config(architecture, fields)).unwrap()
}

/// The layers that have experts.
fn sparse(model: &Model) -> Vec<usize> {
    let has = |layer: &usize| {
        let layer = format!("model.layers.{layer}.");
        model.graph.weights().iter().any(|w| w.experts.is_some() && w.name.starts_with(&layer))
    };
    (0..model.layers).filter(has).collect()
}

/// The routers' choices: how many, and whether their weights are divided by the sum.
fn routers(model: &Model) -> Vec<(usize, bool)> {
    let router = |op: &Op| match *op {
        Op::Router { chosen, normalize, .. } => Some((chosen, normalize)),
        _ => None,
    };
    model.graph.nodes().iter().filter_map(|node| router(&node.op)).collect()
}

#[test]
fn layers_with_experts_are_those_that_the_config_says() {
    assert_eq!(sparse(&model("qwen3_moe", json!({}))), [0, 1, 2, 3]);
    assert_eq!(sparse(&model("qwen3_moe", json!({ "decoder_sparse_step": 2 }))), [1, 3]);
    assert_eq!(sparse(&model("qwen3_moe", json!({ "mlp_only_layers": [0, 3] }))), [1, 2]);
    let both = json!({ "decoder_sparse_step": 2, "mlp_only_layers": [1] });
    assert_eq!(sparse(&model("qwen2_moe", both)), [3]);
    assert_eq!(sparse(&model("qwen3_moe", json!({ "num_experts": 0 }))), [0; 0]);
    for architecture in ["mixtral", "olmoe"] {
        assert_eq!(sparse(&model(architecture, json!({}))), [0, 1, 2, 3]);
    }
}

#[test]
fn stacks_have_the_shapes_of_the_config() {
    let shape = |model: &Model, name: &str| {
        let weight = model.graph.weights().iter().find(|weight| weight.name == name);
        weight.map(|weight| (weight.experts, weight.rows, weight.cols))
    };
    let qwen3 = model("qwen3_moe", json!({ "norm_topk_prob": true }));
    let stack = "model.layers.1.mlp.switch_mlp";
    assert_eq!(shape(&qwen3, &format!("{stack}.up_proj.weight")), Some((Some(6), 32, 64)));
    assert_eq!(shape(&qwen3, &format!("{stack}.down_proj.weight")), Some((Some(6), 64, 32)));
    assert_eq!(shape(&qwen3, "model.layers.1.mlp.gate.weight"), Some((None, 6, 64)));
    assert_eq!(routers(&qwen3), [(2, true); 4]);

    let qwen2 = model("qwen2_moe", json!({}));
    assert_eq!(routers(&qwen2), [(2, false); 4]);
    let shared = "model.layers.0.mlp.shared_expert";
    assert_eq!(shape(&qwen2, &format!("{shared}.down_proj.weight")), Some((None, 64, 48)));
    assert_eq!(shape(&qwen2, &format!("{shared}_gate.weight")), Some((None, 1, 64)));

    let mixtral = model("mixtral", json!({ "num_experts": null, "num_local_experts": 3 }));
    let stack = "model.layers.3.block_sparse_moe.switch_mlp";
    assert_eq!(shape(&mixtral, &format!("{stack}.gate_proj.weight")), Some((Some(3), 96, 64)));
    assert_eq!(routers(&mixtral), [(2, true); 4]);
}

#[test]
fn experts_that_make_no_sense_are_refused() {
    for (fields, part) in [
        (json!({ "num_experts_per_tok": 7 }), "'num_experts_per_tok' is 7, more than the 6"),
        (json!({ "num_experts_per_tok": 0 }), "'num_experts_per_tok' is 0"),
        (json!({ "num_experts_per_tok": null }), "'num_experts_per_tok' is missing"),
        (json!({ "num_experts": null }), "'num_experts' is missing"),
        (json!({ "num_experts": -1 }), "'num_experts' is -1"),
        (json!({ "num_experts": 100_000 }), "'num_experts' is 100000"),
        (json!({ "moe_intermediate_size": null }), "'moe_intermediate_size' is missing"),
        (json!({ "moe_intermediate_size": "x" }), "'moe_intermediate_size'"),
        (json!({ "decoder_sparse_step": 0 }), "'decoder_sparse_step' is 0"),
        (json!({ "mlp_only_layers": [4] }), "'mlp_only_layers' is [4], expected a list of layers"),
        (json!({ "mlp_only_layers": [-1] }), "'mlp_only_layers'"),
        (json!({ "mlp_only_layers": 1 }), "'mlp_only_layers' is 1"),
        (json!({ "norm_topk_prob": 1 }), "'norm_topk_prob'"),
        (json!({ "use_sliding_window": true, "sliding_window": 8 }), "use_sliding_window"),
    ] {
        for architecture in ["qwen2_moe", "qwen3_moe"] {
            let error = build(&config(architecture, fields.clone())).unwrap_err().to_string();
            assert!(error.contains(part), "{part:?} is not in: {error}");
        }
    }
    let shared = json!({ "shared_expert_intermediate_size": null });
    let error = build(&config("qwen2_moe", shared)).unwrap_err().to_string();
    assert!(error.contains("shared_expert_intermediate_size"), "{error}");
    for architecture in ["mixtral", "olmoe"] {
        let error = build(&config(architecture, json!({ "num_experts": 0 }))).unwrap_err();
        assert!(error.to_string().contains("is 0"), "{error}");
    }
    let error = build(&config("olmoe", json!({ "clip_qkv": 8.0 }))).unwrap_err();
    assert!(error.to_string().contains("clip_qkv"), "{error}");
}
