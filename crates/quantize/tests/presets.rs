//! Plans held to files that llama.cpp's own quantizer made.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

mod common;

use common::data;
use keeve_checkpoint::Checkpoint;
use keeve_quantize::{Format, Plan, Recipe, Scheme};

/// The plan for the float model at `float` gives each tensor the codec that it has in `packed`.
fn same_codecs(float: &str, packed: &str, scheme: &str) {
    let float = Checkpoint::open(&data(float)).unwrap();
    let packed = Checkpoint::open(&data(packed)).unwrap();
    let recipe = Recipe::from(scheme.parse::<Scheme>().unwrap());
    let plan = Plan::new(&float, &recipe, Format::Gguf).unwrap();
    // What a GGUF file has besides is made when it is written.
    let expected = packed.tensors().filter(|info| info.name != "rope_freqs.weight").count();
    assert_eq!(plan.tensors.len(), expected);
    for tensor in &plan.tensors {
        let reference = packed.info(&tensor.name).unwrap();
        assert_eq!(Some(tensor.to), reference.codec, "{scheme}: {}", tensor.name);
        assert_eq!(tensor.bytes, reference.bytes, "{scheme}: {}", tensor.name);
    }
}

#[test]
#[cfg_attr(not(keeve_test_data), ignore = "needs KEEVE_TEST_DATA")]
fn plans_are_those_of_llama_quantize() {
    let models = "fixtures/gguf_models";
    same_codecs("models/demo-qwen3", &format!("{models}/demo-qwen3-q4_k_m/model.gguf"), "q4_k_m");
    for preset in ["q3_k_m", "q4_k_m"] {
        same_codecs(
            &format!("{models}/llama-spm-bf16/model.gguf"),
            &format!("{models}/llama-spm-{preset}/model.gguf"),
            preset,
        );
    }
    same_codecs("fixtures/ckpt/qwen3/hf", &format!("{models}/qwen3-q8_0/model.gguf"), "q8");
    same_codecs("fixtures/ckpt/llama/hf", &format!("{models}/llama-q8_0/model.gguf"), "q8");
}
