//! Prompts with images, against what transformers and mlx-vlm computed and answered.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "tests")]

mod common;

use std::path::Path;
use std::sync::Arc;

use common::{Tensors, data_folder, images, json, relative_error, short};
use keeve_checkpoint::Checkpoint;
use keeve_engine::{Engine, EngineOptions, Event, Generation, Request};
use keeve_graph::Activations;
use keeve_image::Patches;

/// Relative Frobenius error that `f32` arithmetic in another order may cost.
const LOGITS: f64 = 1e-4;
/// Rows of prompts in a step: one, few, more than a page, all.
const CHUNKS: [usize; 4] = [1, 7, 64, 4096];
/// The token of images in the fixtures and in the demo model.
const PADS: [u32; 2] = [510, 8178];

fn engine(folder: &str, options: EngineOptions) -> Engine {
    let checkpoint = Checkpoint::open(&data_folder().join(folder)).expect(folder);
    Engine::load(&checkpoint, &options, &|_| true).expect(folder)
}

fn float(prefill_chunk: usize) -> EngineOptions {
    let activations = Activations::Float;
    EngineOptions { activations, prefill_chunk, ..EngineOptions::default() }
}

fn prompt_logits(prompt: &[u32], images: &[Arc<Patches>]) -> Request {
    Request {
        prompt: prompt.into(),
        images: images.into(),
        max_tokens: Some(0),
        prompt_logits: true,
        ..Request::default()
    }
}

fn greedy(prompt: &[u32], images: &[Arc<Patches>], max_tokens: usize) -> Request {
    let mut request = Request {
        prompt: prompt.into(),
        images: images.into(),
        max_tokens: Some(max_tokens),
        ..Request::default()
    };
    request.sampling.temperature = 0.0;
    request
}

fn logits(events: Generation) -> Vec<f32> {
    let mut all = vec![];
    for event in events {
        match event {
            Event::PromptLogits { values, .. } => all.extend(values),
            Event::Finished { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    all
}

/// The tokens of an answer, and how many tokens of its prompt were found in the prefix cache.
fn answer(events: Generation) -> (Vec<u32>, usize) {
    let (mut ids, mut cached) = (vec![], 0);
    for event in events {
        match event {
            Event::Token { id, .. } => ids.push(id),
            Event::Finished { timings, .. } => cached = timings.cached_tokens,
            other => panic!("{other:?}"),
        }
    }
    (ids, cached)
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Logits of a case of `reference` at every chunk size, and its greedy tokens where there are such.
fn check(folder: &str, reference: &Tensors, case: &str, name: &str, images: &[Arc<Patches>]) {
    let (_, ids) = reference.numbers(&format!("{case}.input_ids"));
    let ids = PADS
        .iter()
        .fold(ids, |ids, &pad| short(&ids, pad).into_iter().map(|id| id as i32).collect());
    let prompt: Vec<u32> = ids.iter().map(|&id| id as u32).collect();
    let (_, expected) = reference.floats(name);
    let mut first = None;
    for chunk in CHUNKS {
        let engine = engine(folder, float(chunk));
        let found = logits(engine.submit(prompt_logits(&prompt, images)).unwrap());
        let error = relative_error(&found, &expected);
        println!("{folder} {case}, chunks of {chunk}: relative error {error:.1e}");
        assert!(error < LOGITS, "{folder} {case}, chunks of {chunk}: {error:.1e}");
        let first = first.get_or_insert_with(|| bits(&found));
        assert!(*first == bits(&found), "{folder} {case}: chunks of {chunk} change bits");
        let greedy_name = format!("{case}.greedy");
        if reference.has(&greedy_name) && name == format!("{case}.logits") {
            let (_, expected) = reference.numbers(&greedy_name);
            let (_, margins) = reference.floats(&format!("{case}.margin"));
            let decided =
                margins.iter().position(|margin| *margin < 0.005).unwrap_or(margins.len());
            let mut request = greedy(&prompt, images, expected.len());
            request.ignore_eos = true;
            let (found, _) = answer(engine.submit(request).unwrap());
            let expected: Vec<u32> = expected.iter().map(|&id| id as u32).collect();
            assert_eq!(found[..decided], expected[..decided], "{case}: greedy tokens");
        }
    }
}

fn fixture_images(reference: &Tensors, case: &str) -> Vec<Arc<Patches>> {
    let (_, pixels) = reference.floats(&format!("{case}.pixel_values"));
    images(&pixels, &reference.numbers(&format!("{case}.image_grid_thw")).1)
}

#[test]
#[cfg_attr(not(keeve_test_data), ignore = "needs KEEVE_TEST_DATA")]
fn fixtures_of_transformers_and_mlx() {
    let reference = Tensors::open(&data_folder().join("fixtures/qwen3_vl/ref.safetensors"));
    for (folder, prefix) in [("hf", ""), ("mlx-q4g64", "mlx-q4g64.")] {
        let folder = format!("fixtures/qwen3_vl/{folder}");
        for case in ["text", "one", "two"] {
            let images = if case == "text" { vec![] } else { fixture_images(&reference, case) };
            check(&folder, &reference, case, &format!("{prefix}{case}.logits"), &images);
        }
    }
}

#[test]
#[cfg_attr(not(keeve_test_data), ignore = "needs KEEVE_TEST_DATA")]
fn references_of_the_demo_model() {
    let folder = "models/demo-qwen3-vl";
    let reference = Tensors::open(&data_folder().join(folder).join("reference.safetensors"));
    for case in ["prompt1", "prompt2"] {
        let images = fixture_images(&reference, case);
        check(folder, &reference, case, &format!("{case}.logits"), &images);
    }
}
