//! What sets the architectures apart that share the decoder: fused products, norms, multipliers,
//! layers that do not turn. That they compute what they should is tested with whole models.

#![allow(clippy::unwrap_used, reason = "tests")]

use keeve_graph::{Op, Rope};
use keeve_models::{Model, build, build_for};
use serde_json::{Value, json};

fn config(architecture: &str, fields: Value) -> Value {
    let mut config = json!({
        "model_type": architecture, "hidden_size": 64, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 96, "num_hidden_layers": 4,
        "vocab_size": 100, "max_position_embeddings": 4096,
    });
    for (field, value) in fields.as_object().unwrap() {
        config[field] = value.clone();
    }
    config
}

fn model(architecture: &str, fields: Value) -> Model {
    build(&config(architecture, fields)).unwrap()
}

#[track_caller]
fn refused(architecture: &str, fields: Value, part: &str) {
    let error = build(&config(architecture, fields)).unwrap_err().to_string();
    assert!(error.contains(part), "{part:?} is not in: {error}");
    assert!(error.len() < 250 && !error.contains('\n'), "{error}");
}

fn shape(model: &Model, name: &str) -> Option<(usize, usize)> {
    let weight = model.graph.weights().iter().find(|weight| weight.name == name);
    weight.map(|weight| (weight.rows, weight.cols))
}

/// A config of Phi-3 with LongRoPE.
fn long(fields: Value) -> Value {
    let mut config = config(
        "phi3",
        json!({
            "original_max_position_embeddings": 1024,
            "rope_scaling": {
                "rope_type": "longrope",
                "short_factor": [1, 1, 1, 1, 1, 1, 1, 1],
                "long_factor": [2, 2, 2, 2, 2, 2, 2, 2],
            },
        }),
    );
    for (field, value) in fields.as_object().unwrap() {
        config["rope_scaling"][field] = value.clone();
    }
    config
}

#[test]
fn phi3_has_fused_products() {
    let phi3 = model("phi3", json!({ "sliding_window": 7 }));
    assert_eq!(shape(&phi3, "model.layers.0.self_attn.qkv_proj.weight"), Some((128, 64)));
    assert_eq!(shape(&phi3, "model.layers.0.mlp.gate_up_proj.weight"), Some((192, 64)));
    assert_eq!(shape(&phi3, "model.layers.0.self_attn.q_proj.weight"), None);
    let part = model("phi3", json!({ "partial_rotary_factor": 0.75 }));
    assert_eq!(part.graph.ropes()[0].frequencies.len(), 6);
    refused("phi3", json!({ "partial_rotary_factor": 1.5 }), "partial_rotary_factor");
    refused("phi3", json!({ "partial_rotary_factor": 0.1 }), "even number");
    refused("phi3", json!({ "attention_bias": true }), "attention_bias");
    refused("llama", json!({ "partial_rotary_factor": 0.5 }), "partial_rotary_factor");
}

#[test]
fn long_rope_goes_by_the_longest_sequence() {
    let rope = |context| -> (Rope, usize) {
        let model = build_for(&long(json!({})), context).unwrap();
        (model.graph.ropes()[0].clone(), model.max_positions)
    };
    let (short, positions) = rope(None);
    assert_eq!((short.frequencies[0], positions), (1.0, 1024));
    assert_eq!(rope(Some(1024)), (short.clone(), 1024));
    let (longer, positions) = rope(Some(1025));
    assert_eq!((longer.frequencies[0], positions), (0.5, 4096));
    // sqrt(1 + ln 4 / ln 1024).
    assert!((longer.amplitude - 1.2f32.sqrt()).abs() < 1e-6);
    assert_eq!(longer.amplitude, short.amplitude);
    let model = build(&long(json!({ "attention_factor": 1.5 }))).unwrap();
    assert_eq!(model.graph.ropes()[0].amplitude, 1.5);
    for kind in ["su", "yarn"] {
        let model = build(&long(json!({ "rope_type": null, "type": kind }))).unwrap();
        assert_eq!(model.graph.ropes()[0], short);
    }
}

#[test]
fn long_rope_that_makes_no_sense_is_refused() {
    for (fields, part) in [
        (json!({ "short_factor": [1, 1] }), "'short_factor', a list of 8 numbers"),
        (json!({ "long_factor": null }), "'long_factor', a list of 8 numbers"),
        (json!({ "long_factor": [1, 1, 1, 1, 1, 1, 1, 0] }), "'long_factor'"),
        (json!({ "long_factor": [1, 1, 1, 1, 1, 1, 1, "x"] }), "'long_factor'"),
        (json!({ "attention_factor": -1 }), "an attention factor of -1"),
        (json!({ "factor": 0 }), "needs 'factor'"),
        (json!({ "original_max_position_embeddings": "x" }), "original_max_position_embeddings"),
        (json!({ "original_max_position_embeddings": 1 }), "an attention factor of inf"),
    ] {
        let error = build(&long(fields)).unwrap_err().to_string();
        assert!(error.contains(part), "{part:?} is not in: {error}");
    }
    let mut config = long(json!({}));
    config["original_max_position_embeddings"] = Value::Null;
    let error = build(&config).unwrap_err().to_string();
    assert!(error.contains("'original_max_position_embeddings' is missing"), "{error}");
}

#[test]
fn norms_are_where_the_architecture_has_them() {
    let olmo2 = model("olmo2", json!({}));
    assert_eq!(shape(&olmo2, "model.layers.0.input_layernorm.weight"), None);
    assert_eq!(shape(&olmo2, "model.layers.0.post_feedforward_layernorm.weight"), Some((1, 64)));
    // Over all heads together.
    assert_eq!(shape(&olmo2, "model.layers.0.self_attn.q_norm.weight"), Some((1, 64)));
    assert_eq!(shape(&olmo2, "model.layers.0.self_attn.k_norm.weight"), Some((1, 32)));
    refused("olmo2", json!({ "clip_qkv": 1.0 }), "clip_qkv");

    let bitnet = model("bitnet", json!({}));
    assert_eq!(shape(&bitnet, "model.layers.0.self_attn.attn_sub_norm.weight"), Some((1, 64)));
    assert_eq!(shape(&bitnet, "model.layers.0.mlp.ffn_sub_norm.weight"), Some((1, 96)));
    let rounds = |model: &Model| {
        let is_round = |op: &Op| matches!(op, Op::RoundRows { .. });
        model.graph.nodes().iter().filter(|node| is_round(&node.op)).count()
    };
    assert_eq!(rounds(&bitnet), 0);
    let quantized = json!({ "quantization_config": { "quant_method": "bitnet" } });
    assert_eq!(rounds(&model("bitnet", quantized)), 4 * 4);
    let normed = json!({ "quant_method": "bitnet", "use_rms_norm": true });
    refused("bitnet", json!({ "quantization_config": normed }), "use_rms_norm");
}

#[test]
fn granite_scales_and_gemma_caps() {
    let scales = |model: &Model| -> Vec<f32> {
        let scale = |op: &Op| match *op {
            Op::Scale { by, .. } => Some(by),
            _ => None,
        };
        model.graph.nodes().iter().filter_map(|node| scale(&node.op)).collect()
    };
    let granite = model(
        "granite",
        json!({
            "embedding_multiplier": 12.0, "residual_multiplier": 0.25, "logits_scaling": 8.0,
            "attention_multiplier": 0.125,
        }),
    );
    let expected = [&[12.0][..], &[0.25; 8], &[0.125]].concat();
    assert_eq!(scales(&granite), expected);
    for field in
        ["embedding_multiplier", "residual_multiplier", "logits_scaling", "attention_multiplier"]
    {
        for wrong in [json!(0), json!(1e30), json!("x")] {
            refused("granite", json!({ field: wrong }), field);
        }
    }

    let attention = |model: &Model| {
        let spec = |op: &Op| match op {
            Op::Attention { spec, .. } => Some((spec.window, spec.soft_cap, spec.scale)),
            _ => None,
        };
        model.graph.nodes().iter().filter_map(|node| spec(&node.op)).collect::<Vec<_>>()
    };
    assert_eq!(attention(&granite), [(None, None, 0.125); 4]);
    let gemma2 = model("gemma2", json!({ "sliding_window": 8, "query_pre_attn_scalar": 64 }));
    let [local, global] = [(Some(8), Some(50.0), 0.125), (None, Some(50.0), 0.125)];
    assert_eq!(attention(&gemma2), [local, global, local, global]);
    let uncapped = model("gemma2", json!({ "attn_logit_softcapping": null }));
    assert!(attention(&uncapped).iter().all(|(_, cap, _)| cap.is_none()));
    refused("gemma2", json!({ "layer_types": ["full_attention"] }), "a list of 4 items");
    for architecture in ["gemma", "gemma2"] {
        let bidirectional = json!({ "use_bidirectional_attention": true });
        refused(architecture, bidirectional, "use_bidirectional_attention");
        refused(architecture, json!({ "hidden_activation": "gelu" }), "hidden_activation");
    }
}

#[test]
fn some_layers_of_smollm3_do_not_turn() {
    let turned = |fields| {
        let model = model("smollm3", fields);
        let is_rope = |op: &Op| matches!(op, Op::Rope { .. });
        model.graph.nodes().iter().filter(|node| is_rope(&node.op)).count()
    };
    assert_eq!(turned(json!({})), 2 * 3);
    assert_eq!(turned(json!({ "no_rope_layer_interval": 2 })), 2 * 2);
    assert_eq!(turned(json!({ "no_rope_layers": [0, 0, 0, 1] })), 2);
    refused("smollm3", json!({ "no_rope_layers": [0, 1] }), "a list of 4 items");
    refused("smollm3", json!({ "no_rope_layers": [0, 1, 2, 1] }), "has 2");
    refused("smollm3", json!({ "layer_types": ["full_attention"] }), "a list of 4 items");
    let window = json!({ "use_sliding_window": true, "sliding_window": 8 });
    refused("smollm3", window, "use_sliding_window");
}
