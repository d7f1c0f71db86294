//! Models that see, made and opened again: their language model is packed, what sees is as it was, and
//! they answer.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "tests")]

mod common;

use std::sync::Arc;

use common::{Quiet, data, made};
use keeve_checkpoint::Checkpoint;
use keeve_engine::{Engine, EngineOptions, Event, Request};
use keeve_graph::Activations;
use keeve_quantize::{Format, Making, Options, Plan, Recipe, Scheme, make};
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
    let cases = [
        ("q4_k_m", Format::Mlx, Activations::Auto, 11),
        ("int8", Format::CompressedTensors, Activations::Int8, 12),
    ];
    for (name, format, activations, least) in cases {
        let recipe: Recipe = name.parse::<Scheme>().unwrap().into();
        let out = folder.path().join(name);
        let plan = Plan::new(&source, &recipe, format).unwrap();
        let model = made(&source, &plan, &out);
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

/// Written as ggml's programs have it: the language model, and what it sees with beside it.
#[test]
#[cfg_attr(not(keeve_test_data), ignore = "needs KEEVE_TEST_DATA")]
fn a_model_that_sees_becomes_two_gguf_files_and_comes_back() {
    let source = Checkpoint::open(&data("models/demo-qwen3-vl")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let options = Options {
        force: false,
        making: Making { importance: None, folds: None, threads: 2 },
        file_type: None,
        observer: &Quiet,
    };
    let out = folder.path().join("kept.gguf");
    let plan = Plan::keeping(&source, Format::Gguf).unwrap();
    let report = make(&source, &plan, &out, &options).unwrap();
    let mmproj = folder.path().join("mmproj-kept.gguf");
    assert_eq!(report.mmproj.as_ref(), Some(&mmproj));
    assert!(make(&source, &plan, &out, &options).unwrap_err().to_string().contains("--force"));

    // The same values under the same names, whichever way it is written again.
    let pair = Checkpoint::open(&out).unwrap();
    assert_eq!((pair.files().len(), pair.notes().len()), (2, 0));
    let again = folder.path().join("again");
    let plan = Plan::keeping(&pair, Format::Mlx).unwrap();
    make(&pair, &plan, &again, &options).unwrap();
    let twice = folder.path().join("twice.gguf");
    let again = Checkpoint::open(&again).unwrap();
    make(&again, &Plan::keeping(&again, Format::Gguf).unwrap(), &twice, &options).unwrap();
    let files = [(&out, &twice), (&mmproj, &folder.path().join("mmproj-twice.gguf"))];
    for (one, other) in files {
        let [one, other] = [one, other].map(|path| keeve_checkpoint::gguf::open(path).unwrap());
        assert_eq!(one.tensors.len(), other.tensors.len());
        for (a, b) in one.tensors.iter().zip(&other.tensors) {
            assert_eq!((&a.name, &a.shape, &a.kind), (&b.name, &b.shape, &b.kind));
            assert!(a.data == b.data, "{}", a.name);
        }
    }
    for model in [&pair, &again] {
        assert_eq!(model.tensors().len(), source.tensors().len());
        for info in source.tensors() {
            assert_eq!(model.info(&info.name).unwrap().shape, info.shape, "{}", info.name);
            let [before, after] = [&source, model].map(|model| model.tensor(&info.name).unwrap());
            let [before, after] = [before, after].map(|tensor| keeve_codec::decode(&tensor));
            assert!(before == after, "{}", info.name);
        }
    }
    assert_eq!(right(&pair, Activations::Float), (12, 12));

    // Packed; and then without what it sees with, or with another's.
    let packed = folder.path().join("packed.gguf");
    let recipe: Recipe = "q4_k_m".parse::<Scheme>().unwrap().into();
    make(&source, &Plan::new(&source, &recipe, Format::Gguf).unwrap(), &packed, &options).unwrap();
    let model = Checkpoint::open_seeing(&packed, &mmproj).unwrap();
    // 4 bits may be unlucky once, as other instructions round otherwise.
    let (count, all) = right(&model, Activations::Auto);
    println!("q4_k_m as GGUF: {count} of {all} cases");
    assert!(count >= 11, "{count} of {all}");
    let blind = folder.path().join("blind");
    std::fs::create_dir(&blind).unwrap();
    std::fs::rename(&packed, blind.join("packed.gguf")).unwrap();
    let blind = Checkpoint::open(&blind).unwrap();
    assert!(blind.notes()[0].contains("without its mmproj file"), "{:?}", blind.notes());
    let engine = Engine::load(&blind, &EngineOptions::default(), &|_| true).unwrap();
    assert!(engine.image_processor().is_none());
}
