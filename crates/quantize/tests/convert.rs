//! Models written in other formats, and back.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

mod common;

use std::path::Path;

use common::{Quiet, data, qwen3_moe, same_tensors, write_made_up};
use keeve_checkpoint::Checkpoint;
use keeve_codec::{Basis, Codec};
use keeve_quantize::{Error, Format, Making, Options, Plan, Report, Scheme, compare, make, verify};

fn converted(source: &Path, out: &Path) -> Result<Report, Error> {
    let checkpoint = Checkpoint::open(source)?;
    let format = if out.extension().is_some() { Format::Gguf } else { Format::Mlx };
    converted_by(&checkpoint, &Plan::keeping(&checkpoint, format)?, out)
}

fn converted_by(checkpoint: &Checkpoint, plan: &Plan, out: &Path) -> Result<Report, Error> {
    let options = Options {
        force: false,
        making: Making { importance: None, folds: None, threads: 2 },
        file_type: None,
        observer: &Quiet,
    };
    make(checkpoint, plan, out, &options)
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

/// A model that holds experts otherwise is compared with it expert by expert.
#[test]
fn experts_apart_and_stacked_are_compared() {
    let place = tempfile::tempdir().unwrap();
    let (apart, stacked) = (place.path().join("apart"), place.path().join("stacked.gguf"));
    write_made_up(&apart, &qwen3_moe());
    converted(&apart, &stacked).unwrap();
    let [apart, stacked] = [&apart, &stacked].map(|path| Checkpoint::open(path).unwrap());
    for (a, b) in [(&apart, &stacked), (&stacked, &apart)] {
        let findings = verify(a, 2, &Quiet).unwrap();
        assert!(findings.problems.is_empty() && findings.notes.is_empty(), "{findings:?}");
        let differences = compare(a, b, &Quiet).unwrap();
        assert_eq!(differences.len(), apart.tensors().len());
        for info in apart.tensors() {
            let found = differences.iter().find(|difference| difference.name == info.name);
            assert!(found.is_some_and(|difference| difference.equal), "{}", info.name);
        }
    }

    // One value of one expert.
    let name = "model.layers.1.mlp.experts.2.up_proj.weight";
    let path = place.path().join("apart/model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let at = 8 + length + header[name]["data_offsets"][0].as_u64().unwrap() as usize;
    bytes[at + 1] ^= 0x80;
    std::fs::write(&path, bytes).unwrap();
    let changed = Checkpoint::open(&place.path().join("apart")).unwrap();
    let differences = compare(&changed, &stacked, &Quiet).unwrap();
    let unequal: Vec<_> = differences.iter().filter(|difference| !difference.equal).collect();
    assert_eq!(unequal.iter().map(|found| found.name.as_str()).collect::<Vec<_>>(), [name]);

    // Another number of experts.
    let mut config = qwen3_moe();
    config["num_experts"] = 5.into();
    write_made_up(&place.path().join("five"), &config);
    let five = Checkpoint::open(&place.path().join("five")).unwrap();
    let error = compare(&five, &stacked, &Quiet).unwrap_err().to_string();
    assert!(error.contains("has shape [5, 256, 256], the reference [4, 256, 256]"), "{error}");
}

/// A model with experts that sees, its stacks as Hugging Face has them.
#[test]
fn experts_that_see_become_two_files_and_come_back() {
    let place = tempfile::tempdir().unwrap();
    let mut text = qwen3_moe();
    text["model_type"] = "qwen3_vl_moe_text".into();
    text["rope_scaling"] = serde_json::json!({
        "rope_type": "default", "mrope_interleaved": true, "mrope_section": [12, 10, 10],
    });
    // Said or not, weights of experts are divided by their sum.
    text.as_object_mut().unwrap().remove("norm_topk_prob");
    let config = serde_json::json!({
        "model_type": "qwen3_vl_moe", "image_token_id": 8178, "video_token_id": 8179,
        "vision_start_token_id": 8175, "vision_end_token_id": 8176,
        "tie_word_embeddings": true, "text_config": text,
        "vision_config": {
            "depth": 2, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2,
            "in_channels": 3, "patch_size": 2, "temporal_patch_size": 2, "spatial_merge_size": 2,
            "out_hidden_size": 256, "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0], "hidden_act": "gelu_pytorch_tanh",
        },
    });
    let at = |name: &str| place.path().join(name);
    write_made_up(&at("source"), &config);
    assert_eq!(converted(&at("source"), &at("m.gguf")).unwrap().encoded, 0);
    assert_eq!(converted(&at("m.gguf"), &at("folder")).unwrap().encoded, 0);
    assert_eq!(converted(&at("folder"), &at("again.gguf")).unwrap().encoded, 0);
    same_stored(&at("m.gguf"), &at("again.gguf"));
    same_stored(&at("mmproj-m.gguf"), &at("mmproj-again.gguf"));
    for name in ["m.gguf", "folder", "again.gguf"] {
        let found = Checkpoint::open(&at(name)).unwrap();
        assert_eq!(found.config()["model_type"], "qwen3_vl_moe", "{name}");
        let findings = verify(&found, 2, &Quiet).unwrap();
        assert!(findings.problems.is_empty() && findings.notes.is_empty(), "{findings:?}");
        let source = Checkpoint::open(&at("source")).unwrap();
        let differences = compare(&found, &source, &Quiet).unwrap();
        assert!(differences.iter().all(|difference| difference.equal), "{name}: {differences:?}");
        let expert = "model.language_model.layers.1.mlp.experts.3.up_proj.weight";
        assert!(differences.iter().any(|difference| difference.name == expert), "{name}");
    }
    let stored = keeve_checkpoint::gguf::open(&at("m.gguf")).unwrap();
    let count = |key: &str| stored.metadata.count(&format!("qwen3vlmoe.{key}")).unwrap();
    assert_eq!(count("expert_count"), Some(4));
    assert_eq!(count("expert_used_count"), Some(2));
    assert_eq!(count("expert_feed_forward_length"), Some(256));
    assert_eq!(count("n_deepstack_layers"), Some(1));
    assert!(stored.tensors.iter().any(|tensor| tensor.name == "blk.1.ffn_gate_exps.weight"));
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

/// GPTQ's "desc_act" stores columns in another order, which no other layout says: they are put back.
#[test]
#[cfg_attr(not(keeve_test_data), ignore = "needs KEEVE_TEST_DATA")]
fn columns_in_another_order_are_put_back() {
    let place = tempfile::tempdir().unwrap();
    let source = Checkpoint::open(&data("fixtures/awq_gptq/gptq_act")).unwrap();
    for info in source.tensors() {
        let basis = source.tensor(&info.name).unwrap().basis().is_some();
        assert_eq!(info.has_basis, basis, "{}", info.name);
    }
    let ordered: Vec<_> = source
        .tensors()
        .filter(|info| source.tensor(&info.name).unwrap().basis().is_some())
        .map(|info| (info.name.clone(), info.codec.unwrap()))
        .collect();
    assert!(!ordered.is_empty());
    let plans = [
        Plan::keeping(&source, Format::Mlx).unwrap(),
        Plan::new(&source, &Scheme::uniform(Codec::Q8_0).into(), Format::Mlx).unwrap(),
        Plan::new(
            &source,
            &Scheme::uniform("int8".parse().unwrap()).into(),
            Format::CompressedTensors,
        )
        .unwrap(),
    ];
    // That is encoding, whatever the codec.
    let recipe = Scheme::uniform(ordered[0].1).into();
    assert_eq!(Plan::new(&source, &recipe, Format::Memory).unwrap().idle(&recipe), None);
    for (index, plan) in plans.iter().enumerate() {
        let out = place.path().join(index.to_string());
        let report = converted_by(&source, plan, &out).unwrap();
        assert!(report.encoded_again.len() >= ordered.len(), "{report:?}");
        let made = Checkpoint::open(&out).unwrap();
        for difference in compare(&made, &source, &Quiet).unwrap() {
            assert!(difference.relative_error < 0.2, "{index}: {difference:?}");
        }
        for (name, _) in &ordered {
            assert_eq!(made.tensor(name).unwrap().basis(), None);
        }
    }
}

/// Rotated rows are read back as the matrix that they were made from, but for what int8 costs.
#[test]
fn rotated_matrices_are_read_back() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("source");
    std::fs::create_dir(&folder).unwrap();
    let config = serde_json::json!({"model_type": "llama", "architectures": ["LlamaForCausalLM"],
        "hidden_size": 96, "intermediate_size": 256, "num_attention_heads": 3, "num_key_value_heads": 3,
        "num_hidden_layers": 2, "vocab_size": 8192, "max_position_embeddings": 64, "rms_norm_eps": 1e-6,
        "tie_word_embeddings": true});
    common::write_made_up(&folder, &config);
    let source = Checkpoint::open(&folder).unwrap();
    let plan = |codec: &str, format| {
        let plan = Plan::new(&source, &Scheme::uniform(codec.parse().unwrap()).into(), format);
        plan.unwrap().rotated()
    };
    for codec in ["int8", "int4-g32"] {
        let out = place.path().join(codec);
        let plan = plan(codec, Format::CompressedTensors).unwrap();
        let made = common::made(&source, &plan, &out);
        let mut blocks = vec![];
        for planned in plan.tensors.iter().filter(|planned| planned.hadamard.is_some()) {
            let basis = made.tensor(&planned.name).unwrap().basis().cloned();
            assert_eq!(basis, planned.hadamard.map(Basis::Hadamard), "{}", planned.name);
            blocks.extend(planned.hadamard);
        }
        assert!(blocks.len() == 14 && blocks.contains(&32) && blocks.contains(&256), "{blocks:?}");
        for difference in compare(&made, &source, &Quiet).unwrap() {
            let most = if codec == "int8" { 0.01 } else { 0.15 };
            assert!(difference.relative_error < most, "{codec}: {difference:?}");
        }
        // What has another basis is no matter of bytes alone, though the codec stays.
        let recipe = Scheme::uniform(codec.parse().unwrap()).into();
        let plain = Plan::new(&made, &recipe, Format::CompressedTensors).unwrap();
        assert_eq!(plain.idle(&recipe), None, "{codec}");
        let moved = plain.tensors.iter().filter(|tensor| !tensor.is_moved()).count();
        assert_eq!(moved, 14, "{codec}");
        let again = place.path().join(format!("{codec}-again"));
        let report = converted(&out, &again).unwrap();
        assert_eq!(report.encoded_again.len(), 14, "{report:?}");
        for difference in compare(&Checkpoint::open(&again).unwrap(), &made, &Quiet).unwrap() {
            assert!(difference.relative_error < 0.15, "{codec}: {difference:?}");
        }
    }
    let problem = plan("q4_k", Format::Gguf).unwrap_err().to_string();
    assert!(problem.contains("GGUF cannot say that rows are rotated"), "{problem}");
    let problem = plan("bf16", Format::CompressedTensors).unwrap_err().to_string();
    assert!(problem.contains("no matrix becomes int8 or int4"), "{problem}");
}
