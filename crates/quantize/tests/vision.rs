//! Models that see, made and opened again: their language model is packed, what sees is as it was, and
//! they answer.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "tests")]

mod common;

use std::sync::Arc;

use common::{Quiet, data};
use keeve_checkpoint::Checkpoint;
use keeve_engine::{Engine, EngineOptions, Event, Request};
use keeve_graph::Activations;
use keeve_quantize::{Format, Making, Options, Plan, Recipe, Scheme, make, verify};
use serde_json::Value;

/// How many of the shared questions `model` answers as transformers does the float model.
fn right(model: &Checkpoint, activations: Activations) -> (usize, usize) {
    let options = EngineOptions { activations, ..EngineOptions::default() };
    let engine = Engine::load(model, &options, &|_| true).unwrap();
    let folder = data("data/vlm-cases");
    let file: Value =
        serde_json::from_slice(&std::fs::read(folder.join("cases.json")).unwrap()).unwrap();
    let cases = file["cases"].as_array().unwrap();
    let processor = engine.image_processor().unwrap();
    let answered = |case: &&Value| {
        let image = |name: &Value| {
            let bytes = std::fs::read(folder.join(name.as_str().unwrap())).unwrap();
            Arc::new(processor.process(&bytes).unwrap())
        };
        let prompt = case["prompt"].as_str().unwrap();
        let mut request = Request {
            prompt: engine.tokenizer().unwrap().encode(prompt, false, true).unwrap(),
            images: case["images"].as_array().unwrap().iter().map(image).collect(),
            max_tokens: Some(20),
            ..Request::default()
        };
        request.sampling.temperature = 0.0;
        let mut text = String::new();
        for event in engine.submit(request).unwrap() {
            match event {
                Event::Token { text: more, .. } | Event::Finished { text: more, .. } => {
                    text.push_str(&more);
                }
                other => panic!("{other:?}"),
            }
        }
        text == case["expected"].as_str().unwrap()
    };
    (cases.iter().filter(answered).count(), cases.len())
}

#[test]
#[cfg_attr(not(keeve_test_data), ignore = "needs KEEVE_TEST_DATA")]
fn a_model_that_sees_is_made_and_answers() {
    let source = Checkpoint::open(&data("models/demo-qwen3-vl")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    // 4 bits may be unlucky once, as other instructions round otherwise.
    let made = [
        ("q4_k_m", Format::Mlx, Activations::Auto, 11),
        ("int8", Format::CompressedTensors, Activations::Int8, 12),
    ];
    for (name, format, activations, least) in made {
        let recipe: Recipe = name.parse::<Scheme>().unwrap().into();
        let out = folder.path().join(name);
        let plan = Plan::new(&source, &recipe, format).unwrap();
        let options = Options {
            force: false,
            making: Making { importance: None, folds: None, threads: 2 },
            file_type: None,
            observer: &Quiet,
        };
        make(&source, &plan, &out, &options).unwrap();
        let model = Checkpoint::open(&out).unwrap();
        let findings = verify(&model, 2, &Quiet).unwrap();
        assert!(findings.problems.is_empty() && findings.notes.is_empty(), "{findings:?}");
        for info in source.tensors() {
            let (before, after) = (source.tensor(&info.name), model.tensor(&info.name));
            let (before, after) = (before.unwrap(), after.unwrap());
            assert_eq!(model.info(&info.name).unwrap().shape, info.shape, "{}", info.name);
            if info.name.starts_with("model.visual.") {
                assert!(before == after, "{name}: {}", info.name);
            } else if info.name.ends_with("_proj.weight") {
                assert!(!after.codec().is_float(), "{name}: {}", info.name);
            }
        }
        let (count, all) = right(&model, activations);
        println!("{name}: {count} of {all} cases");
        assert!(count >= least, "{name}: {count} of {all}");
    }
}
