//! Tiny models of each architecture against the logits that transformers computed from them. Who made
//! them how is in `data/architectures/README.md`.

#![allow(clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "tests")]

use std::path::{Path, PathBuf};

use keeve_checkpoint::Checkpoint;
use keeve_engine::{Engine, EngineOptions, Event, Request};
use keeve_graph::Activations;
use safetensors::SafeTensors;

/// Relative Frobenius error that `f32` arithmetic in another order may cost.
const MOST: f64 = 1e-5;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/architectures")
}

/// The numbers of a tensor, each of four bytes.
fn numbers<T>(file: &SafeTensors<'_>, name: &str, number: fn([u8; 4]) -> T) -> Vec<T> {
    let view = file.tensor(name).expect(name);
    view.data().as_chunks::<4>().0.iter().map(|bytes| number(*bytes)).collect()
}

/// Logits of every position of a prompt.
fn logits(checkpoint: &Checkpoint, prompt: Vec<u32>, chunk: usize) -> Vec<f32> {
    let options = EngineOptions {
        max_context: Some(prompt.len()),
        prefill_chunk: chunk,
        activations: Activations::Float,
        ..EngineOptions::default()
    };
    let engine = Engine::load(checkpoint, &options, &|_| true).expect("a model");
    let request =
        Request { prompt, max_tokens: Some(0), prompt_logits: true, ..Request::default() };
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

fn relative_error(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len(), "number of logits");
    let square = |x: f32| f64::from(x) * f64::from(x);
    let error: f64 = found.iter().zip(expected).map(|(a, b)| square(a - b)).sum();
    let norm: f64 = expected.iter().map(|x| square(*x)).sum();
    (error / norm).sqrt()
}

#[test]
fn logits_are_those_of_transformers() {
    let mut models: Vec<_> = std::fs::read_dir(folder())
        .expect("the models")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.is_dir())
        .collect();
    models.sort();
    assert!(models.len() >= 18, "{} models", models.len());
    let mut wrong = vec![];
    for model in models {
        let name = model.file_name().expect("a name").to_string_lossy().into_owned();
        let reference = std::fs::read(model.join("reference.safetensors")).expect("a reference");
        let reference = SafeTensors::deserialize(&reference).expect("a reference");
        let checkpoint = Checkpoint::open(&model).expect("a model");
        let tokens = numbers(&reference, "tokens", u32::from_le_bytes);
        let expected = numbers(&reference, "logits", f32::from_le_bytes);
        let found = logits(&checkpoint, tokens.clone(), 512);
        let error = relative_error(&found, &expected);
        println!("{name}: relative error {error:.1e}");
        if error.is_nan() || error > MOST {
            wrong.push(format!("{name}: {error:.1e}"));
        }
        // However the prompt is cut.
        let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&found), bits(&logits(&checkpoint, tokens, 5)), "{name}");
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}
