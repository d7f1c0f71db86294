//! Rotary frequencies against those that transformers 5.23 computes (in `f32`, which is why they
//! are not compared to the last bit).

#![allow(clippy::unwrap_used, reason = "tests")]

use serde_json::{Value, json};

fn config(scaling: Value, theta: f64, head_dim: usize, positions: usize) -> Value {
    json!({
        "model_type": "llama", "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": head_dim, "vocab_size": 32,
        "rope_theta": theta, "max_position_embeddings": positions, "rope_scaling": scaling,
    })
}

fn check(config: &Value, frequencies: &[f64], amplitude: f64) {
    let model = keeve_models::build(config).unwrap();
    let [rope] = model.graph.ropes() else { panic!("one table") };
    assert_eq!(rope.frequencies.len(), frequencies.len());
    for (found, expected) in rope.frequencies.iter().zip(frequencies) {
        assert!((f64::from(*found) / expected - 1.0).abs() < 1e-5, "{found} is not {expected}");
    }
    assert!((f64::from(rope.amplitude) / amplitude - 1.0).abs() < 1e-6);
}

#[test]
fn yarn() {
    let scaling =
        json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768});
    let expected = [
        1.0,
        0.421696514,
        0.177827939,
        0.0749894157,
        0.0316227786,
        0.0133352149,
        0.00477990136,
        0.00165996165,
        0.000549999997,
        0.000168678613,
        4.44569851e-05,
        1.87473561e-05,
        7.90569356e-06,
        3.33380399e-06,
        1.40585337e-06,
        5.92843435e-07,
    ];
    check(&config(scaling, 1e6, 32, 131_072), &expected, 1.138629436111989);
}

#[test]
fn yarn_with_every_option() {
    let scaling = json!({
        "type": "yarn", "factor": 16.0, "original_max_position_embeddings": 64, "beta_fast": 8.0,
        "beta_slow": 2.0, "truncate": false, "mscale": 0.7, "mscale_all_dim": 1.0,
    });
    let expected = [
        1.0,
        0.1216795,
        0.00625000009,
        0.00197642366,
        0.000624999986,
        0.000197642366,
        6.2500003e-05,
        1.97642366e-05,
    ];
    check(&config(scaling, 1e4, 16, 1024), &expected, 0.9348779926481438);
}

#[test]
fn llama3() {
    let scaling = json!({
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    });
    let expected = [
        1.0,
        0.440366626,
        0.193922758,
        0.0853971019,
        0.0376060307,
        0.0165604409,
        0.00729266508,
        0.00321144611,
        0.000524846022,
        7.78465546e-05,
        3.42810235e-05,
        1.50962178e-05,
        6.64787058e-06,
        2.92749974e-06,
        1.28917316e-06,
        5.6770881e-07,
    ];
    check(&config(scaling, 5e5, 32, 131_072), &expected, 1.0);
}

#[test]
fn linear_and_factors_divide() {
    let linear = json!({"rope_type": "linear", "factor": 8.0});
    check(&config(linear, 1e4, 4, 64), &[1.0 / 8.0, 0.01 / 8.0], 1.0);
    let factors = json!({"rope_type": "factors", "factors": [2.0, 5.0]});
    check(&config(factors, 1e4, 4, 64), &[1.0 / 2.0, 0.01 / 5.0], 1.0);
}

#[test]
fn unknown_kinds_are_refused_by_name() {
    for kind in ["longrope", "su", "mrope"] {
        let scaling = json!({"rope_type": kind, "factor": 2.0});
        let error = keeve_models::build(&config(scaling, 1e4, 4, 64)).unwrap_err().to_string();
        assert!(error.contains(kind) && error.contains("rope_type"), "{error}");
    }
}
