//! What gemma3's config fields become.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use keeve_graph::{Op, UnaryOp};
use keeve_models::Model;
use serde_json::{Value, json};

fn config(change: impl FnOnce(&mut Value)) -> Value {
    let mut config = json!({
        "model_type": "gemma3_text", "hidden_size": 128, "intermediate_size": 64,
        "num_hidden_layers": 7, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
        "vocab_size": 32, "sliding_window": 8, "rope_scaling": {"rope_type": "linear", "factor": 8},
    });
    change(&mut config);
    config
}

fn windows(model: &Model) -> Vec<Option<usize>> {
    let nodes = model.graph.nodes().iter();
    nodes
        .filter_map(|node| match &node.op {
            Op::Attention { spec, .. } => Some(spec.window),
            _ => None,
        })
        .collect()
}

fn scales(model: &Model) -> Vec<f32> {
    let nodes = model.graph.nodes().iter();
    nodes
        .filter_map(|node| if let Op::Scale { by, .. } = node.op { Some(by) } else { None })
        .collect()
}

#[test]
fn each_sixth_layer_is_global_unless_the_config_says_otherwise() {
    let local = Some(8);
    let model = keeve_models::build(&config(|_| {})).unwrap();
    assert_eq!(windows(&model), [local, local, local, local, local, None, local]);
    let model = keeve_models::build(&config(|c| c["sliding_window_pattern"] = 3.into())).unwrap();
    assert_eq!(windows(&model), [local, local, None, local, local, None, local]);
    let types = ["full_attention", "sliding_attention"];
    let types: Vec<&str> = types.into_iter().cycle().take(7).collect();
    let model = keeve_models::build(&config(|c| c["layer_types"] = types.into())).unwrap();
    assert_eq!(windows(&model), [None, local, None, local, None, local, None]);
}

#[test]
fn only_global_layers_are_scaled_in_either_form_of_the_rope_settings() {
    let classic = keeve_models::build(&config(|_| {})).unwrap();
    let by_type = keeve_models::build(&config(|c| {
        c["rope_scaling"] = Value::Null;
        c["rope_parameters"] = json!({
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        });
    }))
    .unwrap();
    assert_eq!(classic.graph.ropes(), by_type.graph.ropes());
    let [global, local] = classic.graph.ropes() else { panic!("two tables") };
    assert_eq!((global.frequencies[0], local.frequencies[0]), (1.0 / 8.0, 1.0));
    let ratio = global.frequencies[8] * 8.0 / local.frequencies[8];
    assert!((ratio - 0.1).abs() < 1e-6, "thetas of 1e6 and 1e4 halfway: {ratio}");
}

#[test]
fn embeddings_and_logits_are_scaled() {
    let model = keeve_models::build(&config(|_| {})).unwrap();
    assert_eq!(scales(&model), [128f32.sqrt()]);
    assert!(model.tied_head);
    // MLX rounds the root of the width to bf16.
    let model = keeve_models::build(&config(|c| c["quantization"] = json!({"bits": 4}))).unwrap();
    assert_eq!(scales(&model), [11.3125]);
    let capped = keeve_models::build(&config(|c| {
        c["final_logit_softcapping"] = 32.0.into();
        c["attn_logit_softcapping"] = 50.0.into();
        c["query_pre_attn_scalar"] = 64.into();
    }))
    .unwrap();
    assert_eq!(scales(&capped), [128f32.sqrt(), 1.0 / 32.0, 32.0]);
    let nodes = capped.graph.nodes().iter();
    let mut specs = nodes.filter_map(|node| match &node.op {
        Op::Attention { spec, .. } => Some(*spec),
        _ => None,
    });
    assert!(specs.all(|spec| spec.soft_cap == Some(50.0) && spec.scale == 1.0 / 8.0));
    let unary =
        |function| move |op: &Op| matches!(op, Op::Unary { function: f, .. } if *f == function);
    let count = |function| {
        let is = unary(function);
        capped.graph.nodes().iter().filter(|node| is(&node.op)).count()
    };
    assert_eq!((count(UnaryOp::GeluTanh), count(UnaryOp::Tanh), count(UnaryOp::Silu)), (7, 1, 0));
}

#[test]
fn what_is_wrong_is_named() {
    type Change = fn(&mut Value);
    let cases: [(Change, &str); 8] = [
        (|c| c["layer_types"] = json!(["full_attention"]), "layer_types"),
        (|c| c["layer_types"] = vec!["chunked_attention"; 7].into(), "chunked_attention"),
        (|c| c["sliding_window_pattern"] = 0.into(), "'sliding_window_pattern' is 0"),
        (|c| c["final_logit_softcapping"] = 0.0.into(), "'final_logit_softcapping' is 0"),
        (|c| c["query_pre_attn_scalar"] = 1e-40.into(), "'query_pre_attn_scalar' is"),
        (|c| c["hidden_activation"] = "relu".into(), "'hidden_activation' is \"relu\""),
        (|c| c["rope_parameters"] = json!({"full_attention": {}}), "no object 'sliding_attention'"),
        (|c| c["use_bidirectional_attention"] = true.into(), "use_bidirectional_attention"),
    ];
    for (change, expected) in cases {
        let error = keeve_models::build(&config(change)).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}
