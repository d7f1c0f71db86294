//! Whole models against logits and tokens that other programs computed from them.
//!
//! The models live in the folder that `KEEVE_TEST_DATA` names; its README says who made what.

#![allow(clippy::expect_used, clippy::print_stdout, reason = "tests")]

use std::path::{Path, PathBuf};

use keeve::{
    Activations, Checkpoint, Engine, EngineOptions, Event, KvCodec, Request, SamplingParams,
};
use safetensors::SafeTensors;

/// Relative Frobenius error that `f32` arithmetic in another order may cost.
const LOGITS: f64 = 1e-4;
/// The same where activations are rounded.
const ROUNDED: f64 = 4e-2;
/// Greedy tokens are compared up to the first step whose best two logits are closer than this.
const MARGIN: f32 = 0.005;

fn data(path: &str) -> PathBuf {
    Path::new(&std::env::var_os("KEEVE_TEST_DATA").expect("KEEVE_TEST_DATA")).join(path)
}

fn engine(model: &str) -> Engine {
    let checkpoint = Checkpoint::open(&data(model)).expect(model);
    let options = EngineOptions { activations: Activations::Float, ..EngineOptions::default() };
    Engine::load(&checkpoint, &options, &|_| true).expect(model)
}

fn f32s(file: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    let view = file.tensor(name).expect(name);
    view.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

fn ids(file: &SafeTensors<'_>, name: &str) -> Vec<u32> {
    let view = file.tensor(name).expect(name);
    let width = view.data().len() / view.shape().iter().product::<usize>();
    view.data()
        .chunks_exact(width)
        .map(|bytes| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
        .collect()
}

/// Logits of every position of `prompt`.
fn logits(engine: &Engine, prompt: &[u32]) -> Vec<f32> {
    let request = Request {
        prompt: prompt.into(),
        max_tokens: Some(0),
        prompt_logits: true,
        ..Default::default()
    };
    let mut all = vec![];
    for event in engine.submit(request).expect("a request") {
        match event {
            Event::PromptLogits { values, .. } => all.extend(values),
            Event::Finished { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    all
}

/// `count` greedy tokens after `prompt`, end tokens or not.
fn greedy(engine: &Engine, prompt: &[u32], count: usize) -> Vec<u32> {
    let sampling = SamplingParams { temperature: 0.0, ..Default::default() };
    let request = Request {
        prompt: prompt.into(),
        sampling,
        max_tokens: Some(count),
        ignore_eos: true,
        ..Default::default()
    };
    let events = engine.submit(request).expect("a request");
    events
        .filter_map(|event| if let Event::Token { id, .. } = event { Some(id) } else { None })
        .collect()
}

fn relative_error(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len(), "number of logits");
    let square = |x: f32| f64::from(x) * f64::from(x);
    let error: f64 = found.iter().zip(expected).map(|(a, b)| square(a - b)).sum();
    let norm: f64 = expected.iter().map(|x| square(*x)).sum();
    (error / norm).sqrt()
}

fn check_greedy(found: &[u32], expected: &[u32], margins: &[f32], what: &str) {
    let decided = margins.iter().position(|margin| *margin < MARGIN).unwrap_or(expected.len());
    assert_eq!(found[..decided], expected[..decided], "{what}: greedy tokens");
}

/// Compares `model` with `{prefix}logits_f32`, `{prefix}greedy_f32` and `{prefix}margin_f32`.
fn check(model: &str, reference: &str, prefix: &str) {
    let (engine, file) = check_logits(model, reference, &format!("{prefix}logits_f32"));
    let file = SafeTensors::deserialize(&file).expect(reference);
    let expected = ids(&file, &format!("{prefix}greedy_f32"));
    let found = greedy(&engine, &ids(&file, "tokens"), expected.len());
    check_greedy(&found, &expected, &f32s(&file, &format!("{prefix}margin_f32")), model);
}

/// Compares the logits of `model` with those called `name`; gives the model and the reference's bytes.
fn check_logits(model: &str, reference: &str, name: &str) -> (Engine, Vec<u8>) {
    let bytes = std::fs::read(data(reference)).expect(reference);
    let file = SafeTensors::deserialize(&bytes).expect(reference);
    let engine = engine(model);
    let tokens = ids(&file, "tokens");
    let error = relative_error(&logits(&engine, &tokens), &f32s(&file, name));
    println!("{model} ({}): relative error {error:.1e}", engine.info().isa);
    assert!(error < LOGITS, "{model}: relative error {error:.1e}");
    (engine, bytes)
}

#[test]
#[cfg_attr(not(keeve_test_data), ignore = "needs KEEVE_TEST_DATA")]
fn checkpoints_of_transformers_and_mlx() {
    let models = [
        ("qwen3", "hf", "hf."),
        ("qwen3", "mlx-q4g64", "q4g64."),
        ("qwen3", "mlx-q8g64", "q8g64."),
        ("qwen3", "mlx-mixed_3_6", "mixed_3_6."),
        ("qwen3", "mlx-mxfp4", "mxfp4."),
        ("llama", "hf", "hf."),
        ("llama", "mlx-q4g64", "q4g64."),
        ("llama", "mlx-q8g64", "q8g64."),
        ("llama", "mlx-nvfp4", "nvfp4."),
        ("qwen3_moe", "hf", "hf."),
        ("qwen3_moe", "mlx-q4g64", "q4g64."),
        ("qwen2", "hf", "hf."),
        ("qwen2", "mlx-q4g64", "q4g64."),
        ("gemma3", "hf", "hf."),
        ("gemma3", "mlx-q4g64", "q4g64."),
    ];
    for (architecture, folder, prefix) in models {
        let folder = format!("fixtures/ckpt/{architecture}/{folder}");
        check(&folder, &format!("fixtures/ckpt/{architecture}/ref.safetensors"), prefix);
    }
}

/// The weights alone: the reference's greedy tokens are those of rounded activations where it rounds them.
#[test]
#[cfg_attr(not(keeve_test_data), ignore = "needs KEEVE_TEST_DATA")]
fn checkpoints_of_compressed_tensors() {
    for scheme in ["w8a8", "w4a8", "w4a16", "w4a16_asym"] {
        let folder = format!("fixtures/compressed_tensors/{scheme}");
        let (engine, bytes) =
            check_logits(&folder, &format!("{folder}/ref.safetensors"), "logits_w");
        if scheme.ends_with("a8") {
            continue;
        }
        let file = SafeTensors::deserialize(&bytes).expect(scheme);
        let expected = ids(&file, "greedy");
        let found = greedy(&engine, &ids(&file, "tokens"), expected.len());
        check_greedy(&found, &expected, &f32s(&file, "margin"), scheme);
    }
}

/// Rounded activations. Attention is in bf16 under `int8`, so that many of them become a neighbour of what the
/// reference has; with scales of a 127th, which are Cider's, the error is 4.7e-2.
#[test]
#[cfg_attr(not(keeve_test_data), ignore = "needs KEEVE_TEST_DATA")]
fn activations_of_compressed_tensors() {
    for scheme in ["w8a8", "w4a8"] {
        let folder = format!("fixtures/compressed_tensors/{scheme}");
        let checkpoint = Checkpoint::open(&data(&folder)).expect(scheme);
        let options = EngineOptions {
            activations: Activations::Int8,
            kv_codec: Some(KvCodec::F32),
            ..EngineOptions::default()
        };
        let engine = Engine::load(&checkpoint, &options, &|_| true).expect(scheme);
        let bytes = std::fs::read(data(&format!("{folder}/ref.safetensors"))).expect(scheme);
        let file = SafeTensors::deserialize(&bytes).expect(scheme);
        let found = logits(&engine, &ids(&file, "tokens"));
        let error = relative_error(&found, &f32s(&file, "logits"));
        println!("{folder} ({}): relative error {error:.1e}", engine.info().isa);
        assert!(error < ROUNDED, "{folder}: relative error {error:.1e}");
    }
}

/// "gptq_act" has columns in another order.
#[test]
#[cfg_attr(not(keeve_test_data), ignore = "needs KEEVE_TEST_DATA")]
fn checkpoints_of_awq_and_gptq() {
    for variant in ["awq", "gptq", "gptq_act"] {
        let folder = format!("fixtures/awq_gptq/{variant}");
        check_logits(&folder, &format!("{folder}/ref.safetensors"), "logits_f32");
    }
}

#[test]
#[cfg_attr(not(keeve_test_data), ignore = "needs KEEVE_TEST_DATA")]
fn checkpoints_of_mlx_kquant() {
    let folder = "fixtures/kquant_ckpt/q4_k_m";
    check(folder, &format!("{folder}/ref.safetensors"), "");
}

#[test]
#[cfg_attr(not(keeve_test_data), ignore = "needs KEEVE_TEST_DATA")]
fn gguf_files_of_llama_cpp() {
    let models = [
        "llama-f32",
        "llama-q8_0",
        "llama-q4_0",
        "llama-spm-bf16",
        "llama-spm-q4_k_m",
        "llama-spm-q3_k_m",
        "qwen2-f32",
        "qwen2-q4_0",
        "gemma3-2l-f32",
        "gemma3-7l-f32",
        "gemma3-7l-q8_0",
        "gemma3-7l-q4_0",
        "qwen3-f32",
        "qwen3-f16",
        "qwen3-q8_0",
        "demo-qwen3-q4_k_m",
    ];
    for model in models {
        let folder = format!("fixtures/gguf_models/{model}");
        check(&format!("{folder}/model.gguf"), &format!("{folder}/ref.safetensors"), "");
    }
}

#[test]
#[cfg_attr(not(keeve_test_data), ignore = "needs KEEVE_TEST_DATA")]
fn float_original_of_the_demo_model() {
    let folder = "models/demo-qwen3";
    let engine = engine(folder);
    let bytes = std::fs::read(data(&format!("{folder}/reference.safetensors"))).expect("logits");
    let file = SafeTensors::deserialize(&bytes).expect("logits");
    let prompt = ids(&file, "input_ids");
    let error = relative_error(&logits(&engine, &prompt), &f32s(&file, "logits"));
    println!("{folder}: relative error {error:.1e}");
    assert!(error < LOGITS, "relative error {error:.1e}");

    let text = std::fs::read(data(&format!("{folder}/reference.json"))).expect("continuations");
    let reference: serde_json::Value = serde_json::from_slice(&text).expect("continuations");
    let numbers = |value: &serde_json::Value| -> Vec<f64> {
        value.as_array().expect("a list").iter().filter_map(serde_json::Value::as_f64).collect()
    };
    let cases = reference["generations"].as_array().expect("a list");
    assert!(!cases.is_empty());
    for case in cases {
        let prompt: Vec<u32> = numbers(&case["prompt_ids"]).iter().map(|id| *id as u32).collect();
        let expected: Vec<u32> =
            numbers(&case["greedy_ids_48"]).iter().map(|id| *id as u32).collect();
        let margins: Vec<f32> =
            numbers(&case["top1_top2_margin"]).iter().map(|margin| *margin as f32).collect();
        assert_eq!(margins.len(), expected.len());
        let found = greedy(&engine, &prompt, expected.len());
        check_greedy(&found, &expected, &margins, &case["prompt"].to_string());
    }
}
