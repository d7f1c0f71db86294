//! Models made and opened again.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

mod common;

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{data, same_tensors};
use keeve_checkpoint::Checkpoint;
use keeve_quantize::{
    Error, Format, Making, Observer, Options, Pattern, Plan, Recipe, Report, Scheme, make,
};

/// Lets `.0` tensors through.
struct StopsAfter(AtomicUsize);

impl StopsAfter {
    fn never() -> Self {
        Self(AtomicUsize::new(usize::MAX))
    }
}

impl Observer for StopsAfter {
    fn progress(&self, _: u64, _: u64, _: &str) {
        let left = self.0.load(Ordering::Relaxed);
        self.0.store(left.saturating_sub(1), Ordering::Relaxed);
    }

    fn stopped(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }
}

fn made(
    source: &Path,
    recipe: &Recipe,
    out: &Path,
    observer: &StopsAfter,
) -> Result<Report, Error> {
    let checkpoint = Checkpoint::open(source)?;
    let format = match out.extension() {
        Some(_) => Format::Gguf,
        None if matches!(recipe.scheme().name(), "int8" | "int4-g128") => Format::CompressedTensors,
        None => Format::Mlx,
    };
    let plan = Plan::new(&checkpoint, recipe, format)?;
    let options = Options {
        force: false,
        making: Making { importance: None, folds: None, threads: 2 },
        file_type: recipe.scheme().file_type(),
        observer,
    };
    make(&checkpoint, &plan, out, &options)
}

fn recipe(name: &str) -> Recipe {
    name.parse::<Scheme>().unwrap().into()
}

#[test]
#[cfg_attr(not(keeve_test_data), ignore = "needs KEEVE_TEST_DATA")]
fn gguf_files_have_the_bytes_of_llama_quantize() {
    let folder = tempfile::tempdir().unwrap();
    let models = data("fixtures/gguf_models");
    // The reference was made by way of f16, which some of the smallest weights do not survive.
    let half = folder.path().join("half.gguf");
    made(&data("models/demo-qwen3"), &recipe("f16"), &half, &StopsAfter::never()).unwrap();
    for (source, scheme, reference) in [
        (half, "q4_k_m", "demo-qwen3-q4_k_m"),
        (models.join("llama-spm-bf16/model.gguf"), "q4_k_m", "llama-spm-q4_k_m"),
        (models.join("llama-spm-bf16/model.gguf"), "q3_k_m", "llama-spm-q3_k_m"),
        (data("fixtures/ckpt/qwen3/hf"), "q8", "qwen3-q8_0"),
        (data("fixtures/ckpt/llama/hf"), "q8", "llama-q8_0"),
        (data("fixtures/ckpt/llama/hf"), "f32", "llama-f32"),
        (data("fixtures/ckpt/qwen2/hf"), "f32", "qwen2-f32"),
    ] {
        let out = folder.path().join(format!("{reference}.gguf"));
        made(&source, &recipe(scheme), &out, &StopsAfter::never()).unwrap();
        same_tensors(&out, &models.join(reference).join("model.gguf"));
    }
}

#[test]
#[cfg_attr(not(keeve_test_data), ignore = "needs KEEVE_TEST_DATA")]
fn gguf_metadata_are_those_of_the_converter() {
    let folder = tempfile::tempdir().unwrap();
    let models = data("fixtures/gguf_models");
    // A name and a label of size have no bearing on how a model runs. The converter was told a name for the
    // small llama's way of splitting, which in truth merges whole words step by step.
    let is_label =
        |key: &str| matches!(key, "general.name" | "general.size_label" | "tokenizer.ggml.pre");
    for (source, scheme, reference) in [
        ("models/demo-qwen3", "q4_k_m", "demo-qwen3-q4_k_m"),
        ("fixtures/ckpt/llama/hf", "q8", "llama-q8_0"),
        ("fixtures/ckpt/qwen2/hf", "f32", "qwen2-f32"),
        ("fixtures/ckpt/qwen3/hf", "q8", "qwen3-q8_0"),
    ] {
        let out = folder.path().join(format!("{reference}.gguf"));
        made(&data(source), &recipe(scheme), &out, &StopsAfter::never()).unwrap();
        let ours = Checkpoint::open(&out).unwrap();
        let theirs = Checkpoint::open(&models.join(reference).join("model.gguf")).unwrap();
        let (ours, theirs) = (ours.gguf_metadata().unwrap(), theirs.gguf_metadata().unwrap());
        for (key, value) in theirs.iter().filter(|(key, _)| !is_label(key)) {
            assert!(ours.get(key) == Some(value), "{reference}: {key}: {:?}", ours.get(key));
        }
        for (key, value) in ours.iter().filter(|(key, _)| !is_label(key)) {
            assert!(theirs.get(key).is_some(), "{reference}: {key}: {value:?}");
        }
    }
}

#[test]
#[cfg_attr(not(keeve_test_data), ignore = "needs KEEVE_TEST_DATA")]
fn folders_hold_what_was_planned() {
    let folder = tempfile::tempdir().unwrap();
    let source = data("models/demo-qwen3");
    for scheme in ["q4_k_m", "affine4-g64", "int8", "int4-g128"] {
        let out = folder.path().join(scheme);
        let recipe = recipe(scheme).skip(Pattern::new("*.3.mlp.up_proj"));
        made(&source, &recipe, &out, &StopsAfter::never()).unwrap();
        let (float, packed) = (Checkpoint::open(&source).unwrap(), Checkpoint::open(&out).unwrap());
        assert_eq!(float.tensors().len(), packed.tensors().len());
        let codec = |name: &str| packed.info(&format!("model.layers.{name}.weight")).unwrap().codec;
        let kept = codec("3.mlp.up_proj").unwrap();
        assert!(kept.is_float(), "{kept}");
        assert_eq!(codec("3.input_layernorm"), kept.into());
        let expected = recipe.scheme().uniform_codec().unwrap_or(keeve_codec::Codec::Q4K);
        assert_eq!(codec("4.mlp.up_proj"), Some(expected), "{scheme}");
        for info in packed.tensors() {
            packed.tensor(&info.name).unwrap();
        }
        assert!(packed.tokenizer().is_some() && packed.chat_template().is_some());
    }
}

#[test]
#[cfg_attr(not(keeve_test_data), ignore = "needs KEEVE_TEST_DATA")]
fn interrupted_runs_leave_nothing_and_go_on() {
    let place = tempfile::tempdir().unwrap();
    let source = data("models/demo-qwen3");
    for (scheme, name) in
        [("q8", "model.gguf"), ("q8", "kquant"), ("int8", "ct"), ("affine4", "mlx")]
    {
        let (whole, out) = (place.path().join(format!("whole-{name}")), place.path().join(name));
        made(&source, &recipe(scheme), &whole, &StopsAfter::never()).unwrap();
        let stopped = StopsAfter(AtomicUsize::new(40));
        let error = made(&source, &recipe(scheme), &out, &stopped).unwrap_err();
        assert!(matches!(error, Error::Interrupted), "{error}");
        assert!(!out.exists());
        let report = made(&source, &recipe(scheme), &out, &StopsAfter::never()).unwrap();
        assert!((30..40).contains(&report.resumed), "{name}: {report:?}");
        same_tensors(&whole, &out);
        let read = |path: &Path| {
            let file = if path.is_dir() { path.join("model.safetensors") } else { path.into() };
            std::fs::read(file).unwrap()
        };
        assert!(read(&whole) == read(&out), "{name}");
        let error = made(&source, &recipe(scheme), &out, &StopsAfter::never()).unwrap_err();
        assert!(error.to_string().contains("--force"), "{error}");
    }
    let names: Vec<_> = std::fs::read_dir(place.path()).unwrap().flatten().collect();
    assert_eq!(names.len(), 8, "{names:?}");
}
