//! Models written in other formats, and back.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

mod common;

use std::path::Path;

use common::{Quiet, data, same_tensors};
use keeve_checkpoint::Checkpoint;
use keeve_quantize::{Error, Format, Making, Options, Plan, Report, compare, make, verify};

fn converted(source: &Path, out: &Path) -> Result<Report, Error> {
    let checkpoint = Checkpoint::open(source)?;
    let format = if out.extension().is_some() { Format::Gguf } else { Format::Mlx };
    let plan = Plan::keeping(&checkpoint, format)?;
    let options = Options {
        force: false,
        making: Making { importance: None, folds: None, threads: 2 },
        file_type: None,
        observer: &Quiet,
    };
    make(&checkpoint, &plan, out, &options)
}

/// Both GGUF files have the same tensors under the same names, byte for byte.
fn same_stored(a: &Path, b: &Path) {
    let stored = |path: &Path| {
        let mut tensors = keeve_checkpoint::gguf::open(path).unwrap().tensors;
        tensors.sort_by(|a, b| a.name.cmp(&b.name));
        tensors
    };
    let (a, b) = (stored(a), stored(b));
    assert_eq!(a.len(), b.len());
    for (a, b) in a.iter().zip(&b) {
        assert_eq!((&a.name, &a.shape, &a.kind), (&b.name, &b.shape, &b.kind));
        assert!(a.data == b.data, "{}", a.name);
    }
}

#[test]
#[cfg_attr(not(keeve_test_data), ignore = "needs KEEVE_TEST_DATA")]
fn there_and_back_is_byte_identical() {
    let place = tempfile::tempdir().unwrap();
    let models = data("fixtures/gguf_models");
    for name in ["demo-qwen3-q4_k_m", "llama-q4_0", "qwen2-q4_0", "qwen3-q8_0", "qwen3-f16"] {
        let source = models.join(name).join("model.gguf");
        let (folder, file) = (place.path().join(name), place.path().join(format!("{name}.gguf")));
        let report = converted(&source, &folder).unwrap();
        assert_eq!((report.encoded, report.rewritten), (0, 0), "{name}: {report:?}");
        let report = converted(&folder, &file).unwrap();
        assert_eq!((report.encoded, report.rewritten), (0, 0), "{name}: {report:?}");
        same_tensors(&source, &file);
        // What a llama file has besides comes back too.
        same_stored(&source, &file);
    }
    let source = data("fixtures/kquant_ckpt/q4_k_m");
    let (folder, file) = (place.path().join("kquant"), place.path().join("kquant.gguf"));
    let report = converted(&source, &folder).unwrap();
    assert_eq!(report.encoded + report.rewritten, 0);
    same_tensors(&source, &folder);
    let report = converted(&folder, &file).unwrap();
    assert_eq!(report.encoded, 0, "{report:?}");
}

#[test]
#[cfg_attr(not(keeve_test_data), ignore = "needs KEEVE_TEST_DATA")]
fn tokenizers_of_gguf_files_give_the_same_ids_in_folders() {
    let place = tempfile::tempdir().unwrap();
    let source = data("fixtures/gguf_models/demo-qwen3-q4_k_m/model.gguf");
    let folder = place.path().join("folder");
    converted(&source, &folder).unwrap();
    let tokenizer = |path: &Path| {
        keeve_engine::tokenizer_of(&Checkpoint::open(path).unwrap()).unwrap().unwrap()
    };
    let (ours, theirs) = (tokenizer(&folder), tokenizer(&source));
    for text in
        ["Hello, world! 123 4567", "<|im_start|>user\nça va ? \u{1f600}<|im_end|>", "  \n\t x"]
    {
        for special in [false, true] {
            let ids = theirs.encode(text, true, special).unwrap();
            assert_eq!(ours.encode(text, true, special).unwrap(), ids, "{text:?}");
        }
    }
}

#[test]
#[cfg_attr(not(keeve_test_data), ignore = "needs KEEVE_TEST_DATA")]
fn integers_become_affine_with_the_same_values() {
    let place = tempfile::tempdir().unwrap();
    for name in ["w8a8", "w4a8", "w4a16", "w4a16_asym"] {
        let source = data("fixtures/compressed_tensors").join(name);
        let out = place.path().join(name);
        let report = converted(&source, &out).unwrap();
        assert_eq!(report.encoded, 0, "{name}: {report:?}");
        let (ours, theirs) = (Checkpoint::open(&out).unwrap(), Checkpoint::open(&source).unwrap());
        let differences = compare(&ours, &theirs, &Quiet).unwrap();
        assert!(differences.iter().all(|difference| difference.equal), "{name}: {differences:?}");
        assert_eq!(verify(&ours, 2, &Quiet).unwrap().problems, Vec::<String>::new());
    }
}

#[test]
#[cfg_attr(not(keeve_test_data), ignore = "needs KEEVE_TEST_DATA")]
fn what_no_format_holds_is_refused_or_named() {
    let place = tempfile::tempdir().unwrap();
    let source = data("fixtures/gguf_models/llama-spm-q4_k_m/model.gguf");
    let error = converted(&source, &place.path().join("spm")).unwrap_err().to_string();
    assert!(error.contains("tokenizer.json"), "{error}");
    let source = data("fixtures/ckpt/qwen3/mlx-q8g64");
    let out = place.path().join("q8.gguf");
    let report = converted(&source, &out).unwrap();
    assert_eq!(report.encoded_again.len(), report.encoded, "{report:?}");
    let error = converted(&source, &out).unwrap_err().to_string();
    assert!(error.contains("--force"), "{error}");
}

#[test]
#[cfg_attr(not(keeve_test_data), ignore = "needs KEEVE_TEST_DATA")]
fn damage_is_found() {
    let place = tempfile::tempdir().unwrap();
    let source = data("fixtures/ckpt/qwen3/hf");
    let checkpoint = Checkpoint::open(&source).unwrap();
    assert_eq!(verify(&checkpoint, 2, &Quiet).unwrap().problems, Vec::<String>::new());
    for entry in std::fs::read_dir(&source).unwrap().flatten() {
        std::fs::copy(entry.path(), place.path().join(entry.file_name())).unwrap();
    }
    // Two bytes of ones are no number in bf16; the last tensor ends the file.
    let weights = place.path().join("model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    let end = bytes.len();
    bytes[end - 2..].fill(0xff);
    std::fs::write(&weights, bytes).unwrap();
    let config = place.path().join("config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
    json["intermediate_size"] = 64.into();
    std::fs::write(&config, json.to_string()).unwrap();
    let findings = verify(&Checkpoint::open(place.path()).unwrap(), 2, &Quiet).unwrap();
    let problems = findings.problems.join("\n");
    assert!(problems.contains("NaN") && problems.contains("the config asks for"), "{problems}");
}

#[test]
#[cfg_attr(not(keeve_test_data), ignore = "needs KEEVE_TEST_DATA")]
fn experts_are_stacked_in_files_and_come_back() {
    let place = tempfile::tempdir().unwrap();
    let source = data("fixtures/ckpt/qwen3_moe/hf");
    let (file, folder) = (place.path().join("m.gguf"), place.path().join("folder"));
    let again = place.path().join("again.gguf");
    let report = converted(&source, &file).unwrap();
    assert_eq!(report.encoded, 0, "{report:?}");
    assert_eq!(converted(&file, &folder).unwrap().encoded, 0);
    assert_eq!(converted(&folder, &again).unwrap().encoded, 0);
    same_tensors(&file, &folder);
    same_stored(&file, &again);

    let theirs = Checkpoint::open(&source).unwrap();
    let ours = Checkpoint::open(&file).unwrap();
    let stored = keeve_checkpoint::gguf::open(&file).unwrap();
    for projection in ["gate", "up", "down"] {
        let name = format!("model.layers.1.mlp.switch_mlp.{projection}_proj.weight");
        assert_eq!(ours.experts(&name, 4).unwrap(), theirs.experts(&name, 4).unwrap());
        let name = format!("blk.1.ffn_{projection}_exps.weight");
        assert!(stored.tensors.iter().any(|tensor| tensor.name == name), "{name}");
    }
    let router = "model.layers.1.mlp.gate.weight";
    assert_eq!(ours.info(router).unwrap().codec, Some(keeve_codec::Codec::F32));
    assert_eq!(
        keeve_codec::decode(&ours.tensor(router).unwrap()),
        keeve_codec::decode(&theirs.tensor(router).unwrap())
    );
}

#[test]
fn experts_that_llama_cpp_has_otherwise_are_refused() {
    let place = tempfile::tempdir().unwrap();
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../engine/tests/data/architectures");
    for (name, problem) in [
        ("qwen3_moe", "field 'decoder_sparse_step' is 2"),
        ("qwen3_moe_sums", "field 'norm_topk_prob' is not true"),
        ("olmoe", "models of type 'olmoe' cannot be written as GGUF"),
    ] {
        let error = converted(&models.join(name), &place.path().join("m.gguf")).unwrap_err();
        let error = error.to_string();
        assert!(error.contains(problem) && !error.contains('\n'), "{error}");
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0);
    }
}
