//! What configs become, and which are refused.

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

fn rope(fields: Value) -> Rope {
    let model = model("llama", fields);
    assert_eq!(model.graph.ropes().len(), 1);
    model.graph.ropes()[0].clone()
}

fn assert_close(found: &Rope, frequencies: &[f64], amplitude: f64) {
    assert_eq!(found.frequencies.len(), frequencies.len());
    assert!(found.axes.iter().all(|&axis| axis == 0));
    let close = |found: f32, expected: f64| (f64::from(found) / expected - 1.0).abs() < 1e-6;
    let all =
        found.frequencies.iter().zip(frequencies).all(|(&found, &expected)| close(found, expected));
    assert!(all, "{:?} and {frequencies:?}", found.frequencies);
    assert!(close(found.amplitude, amplitude), "{}", found.amplitude);
}

// Expected frequencies were computed apart, from the formulas in huggingface/transformers
// `src/transformers/modeling_rope_utils.py`.
#[test]
fn rotary_frequencies_follow_the_scaling() {
    let plain = [1.0, 0.1, 0.01, 0.001];
    assert_close(&rope(json!({})), &plain, 1.0);
    assert_close(&rope(json!({ "rope_scaling": null })), &plain, 1.0);
    assert_close(&rope(json!({ "rope_scaling": { "rope_type": "default" } })), &plain, 1.0);
    let linear = json!({ "rope_scaling": { "rope_type": "linear", "factor": 4 } });
    assert_close(&rope(linear), &plain.map(|frequency| frequency / 4.0), 1.0);
    let factors = json!({ "rope_scaling": { "rope_type": "factors", "factors": [1, 2, 4, 8] } });
    assert_close(&rope(factors), &[1.0, 0.05, 0.0025, 0.000125], 1.0);
    let llama3 = json!({ "head_dim": 16, "rope_theta": 500_000, "rope_scaling": {
        "rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4,
        "original_max_position_embeddings": 8192 } });
    let expected = [
        1.0,
        0.193_922_744_748_685_76,
        0.037_606_030_930_863_94,
        0.007_292_664_737_217_109,
        0.000_524_846_160_992_954_7,
        3.428_102_195_952_591e-5,
        6.647_869_871_181_236e-6,
        1.289_173_172_151_557_4e-6,
    ];
    assert_close(&rope(llama3), &expected, 1.0);
    let yarn = json!({ "head_dim": 16, "rope_scaling": { "rope_type": "yarn", "factor": 4,
        "original_max_position_embeddings": 2048 } });
    let expected = [
        1.0,
        0.316_227_766_016_837_94,
        0.1,
        0.025_693_505_988_868_08,
        0.006_25,
        0.001_383_496_476_323_665_7,
        0.000_25,
        7.905_694_150_420_948e-5,
    ];
    assert_close(&rope(yarn), &expected, 1.138_629_436_111_989);
}

#[test]
fn rotary_scalings_that_make_no_sense_are_refused() {
    let cases = [
        (json!("linear"), "an object"),
        (json!({ "rope_type": "dynamic" }), "'rope_scaling.rope_type' is \"dynamic\""),
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
            assert!(error.len() < 250 && !error.contains(char::is_control), "{error}");
        }
    }
    for wrong in [json!(null), json!([]), json!(3), json!("llama"), json!({})] {
        assert!(build(&wrong).unwrap_err().to_string().contains("model_type"));
    }
}
