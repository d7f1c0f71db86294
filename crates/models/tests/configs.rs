//! What configs become, and which are refused. Rotary frequencies are in `rope.rs`.

#![allow(clippy::unwrap_used, reason = "tests")]

use keeve_graph::{Op, Rope};
use keeve_models::{Model, build};
use serde_json::{Value, json};

/// A small config of `architecture` with some fields changed; null removes one.
fn config(architecture: &str, fields: Value) -> Value {
    let mut config = json!({
        "model_type": architecture, "hidden_size": 64, "num_attention_heads": 8,
        "num_key_value_heads": 2, "intermediate_size": 96, "num_hidden_layers": 3,
        "vocab_size": 100, "max_position_embeddings": 8192, "head_dim": 8,
    });
    for (field, value) in fields.as_object().unwrap() {
        config[field] = value.clone();
    }
    config
}

fn model(architecture: &str, fields: Value) -> Model {
    build(&config(architecture, fields)).unwrap()
}

fn refusal(architecture: &str, fields: Value) -> String {
    build(&config(architecture, fields)).unwrap_err().to_string()
}

#[test]
fn rotary_scalings_that_make_no_sense_are_refused() {
    let cases = [
        (json!("linear"), "an object"),
        (json!({ "rope_type": "other" }), "'rope_scaling.rope_type' is \"other\""),
        (json!({ "rope_type": 3 }), "'rope_type' is 3"),
        (json!({ "rope_type": "linear" }), "needs 'factor'"),
        (json!({ "rope_type": "linear", "factor": -1 }), "needs 'factor'"),
        (json!({ "rope_type": "factors", "factors": [1, 2, 3] }), "expected 4"),
        (json!({ "rope_type": "factors", "factors": [1, 2, 3, "x"] }), "expected 4"),
        (json!({ "rope_type": "factors", "factors": [1, 2, 3, 0] }), "expected 4"),
        (json!({ "rope_type": "llama3", "factor": 8 }), "low_freq_factor"),
        (json!({ "rope_type": "yarn", "factor": 1e300, "beta_fast": 0 }), "beta_fast"),
        (json!({ "rope_type": "yarn", "factor": 4, "attention_factor": "x" }), "attention_factor"),
    ];
    for (scaling, part) in cases {
        let error = refusal("llama", json!({ "rope_scaling": scaling }));
        assert!(error.contains(part), "{error}");
    }
    // Base 1 has no wavelengths to tell apart.
    let yarn = json!({ "rope_type": "yarn", "factor": 4, "original_max_position_embeddings": 64 });
    let outcome = build(&config("llama", json!({ "rope_theta": 1, "rope_scaling": yarn })));
    let finite = |rope: &Rope| rope.frequencies.iter().all(|frequency| frequency.is_finite());
    assert!(outcome.map_or(true, |model| model.graph.ropes().iter().all(finite)));
}

/// The sliding windows of a model's attention.
fn windows(model: &Model) -> Vec<Option<usize>> {
    let attention = |op: &Op| match op {
        Op::Attention { spec, .. } => Some(spec.window),
        _ => None,
    };
    model.graph.nodes().iter().filter_map(|node| attention(&node.op)).collect()
}

#[test]
fn architectures_differ_where_they_should() {
    let names = |model: &Model| -> Vec<String> {
        model.graph.weights().iter().map(|weight| weight.name.clone()).collect()
    };
    let llama = model("llama", json!({}));
    assert_eq!((llama.architecture, llama.layers, llama.vocabulary), ("llama", 3, 100));
    assert_eq!(names(&llama).len(), 3 + 3 * 9);
    assert!(!names(&llama).iter().any(|name| name.contains("q_norm") || name.ends_with("bias")));
    assert_eq!(windows(&llama), [None; 3]);

    let qwen3 = model("qwen3", json!({ "tie_word_embeddings": true }));
    assert_eq!(names(&qwen3).len(), 2 + 3 * 11);
    assert!(names(&qwen3).contains(&"model.layers.2.self_attn.k_norm.weight".into()));
    assert!(!names(&qwen3).contains(&"lm_head.weight".into()));
    let wide = model("qwen3", json!({ "head_dim": null }));
    let q = wide.graph.weights().iter().find(|weight| weight.name.contains("q_proj")).unwrap();
    assert_eq!((q.rows, q.cols), (8 * 128, 64));
    let narrow = model("llama", json!({ "head_dim": null }));
    let q = narrow.graph.weights().iter().find(|weight| weight.name.contains("q_proj")).unwrap();
    assert_eq!((q.rows, q.cols), (64, 64));

    let biased = model("llama", json!({ "attention_bias": true, "mlp_bias": true }));
    assert_eq!(names(&biased).iter().filter(|name| name.ends_with(".bias")).count(), 3 * 7);

    assert_eq!(windows(&model("mistral", json!({ "sliding_window": 16 }))), [Some(16); 3]);
    assert_eq!(windows(&model("mistral", json!({ "sliding_window": null }))), [None; 3]);
    assert_eq!(windows(&model("mistral", json!({}))), [Some(4096); 3]);
    let error = refusal("qwen3", json!({ "use_sliding_window": true, "sliding_window": 16 }));
    assert!(error.contains("use_sliding_window"), "{error}");
}

#[test]
fn every_field_of_a_wrong_kind_is_named_on_one_short_line() {
    let fields = [
        "model_type",
        "hidden_size",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "intermediate_size",
        "num_hidden_layers",
        "vocab_size",
        "max_position_embeddings",
        "rms_norm_eps",
        "rope_theta",
        "tie_word_embeddings",
        "attention_bias",
        "mlp_bias",
        "hidden_act",
        "partial_rotary_factor",
    ];
    for field in fields {
        for value in [json!({ "a": vec!["\n"; 1000] }), json!(-7), json!("\u{1b}[2J\n".repeat(100))]
        {
            let error = refusal("llama", json!({ field: value }));
            assert!(error.contains(field), "{error}");
            // What is known takes most of it.
            assert!(error.len() < 400 && !error.contains(char::is_control), "{error}");
        }
    }
    for wrong in [json!(null), json!([]), json!(3), json!("llama"), json!({})] {
        assert!(build(&wrong).unwrap_err().to_string().contains("model_type"));
    }
}
