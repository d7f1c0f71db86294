//! Checkpoints as they are found: with files that do not go together, settings in other places, names of wrappers, and
//! other things in the place of files. What is right is what transformers, vLLM, mlx-lm and llama.cpp do, as the modules
//! that are tested here cite it.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::path::Path;

use common::{Model, llama_gguf, llama_metadata, model, model_of, open, safetensors_of, tensor};
use keeve_checkpoint::gguf::{self, Value, ValueType};
use keeve_checkpoint::{Checkpoint, Error};
use keeve_codec::Codec;
use serde_json::json;

const INDEX: &str = "model.safetensors.index.json";

/// A folder of these files.
fn folder(files: &Model) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    folder
}

fn problem(opened: Result<Checkpoint, Error>) -> String {
    let error = opened.map(|_| ()).unwrap_err().to_string();
    assert!(!error.contains('\n'), "{error}");
    error
}

/// A file of one F32 tensor of four equal values for each name.
fn values(tensors: &[(&str, f32)]) -> Vec<u8> {
    let tensors: Vec<_> = tensors
        .iter()
        .map(|(name, value)| tensor(name, "F32", &[4], value.to_le_bytes().repeat(4)))
        .collect();
    model_of(json!({}), &tensors).pop().unwrap().1
}

fn config() -> (String, Vec<u8>) {
    ("config.json".into(), json!({"model_type": "llama"}).to_string().into_bytes())
}

fn value(checkpoint: &Checkpoint, name: &str) -> f32 {
    keeve_codec::decode(&checkpoint.tensor(name).unwrap())[0]
}

#[test]
fn of_a_tensor_in_two_files_the_index_chooses_and_else_the_last_counts() {
    let shard = |number: usize| format!("model-0000{number}-of-00002.safetensors");
    let shards = [
        (shard(1), values(&[("a", 1.0), ("both", 1.0)])),
        (shard(2), values(&[("b", 2.0), ("both", 2.0)])),
    ];
    let with = |index: Option<serde_json::Value>| {
        let mut files: Model = shards.to_vec();
        files.push(config());
        files
            .extend(index.map(|map| (INDEX.into(), json!({"weight_map": map}).to_string().into())));
        files
    };
    let index = |of: usize| json!({"a": shard(1), "b": shard(2), "both": shard(of)});
    for (model, expected) in [
        (with(None), 2.0),
        (with(Some(index(2))), 2.0),
        (with(Some(index(1))), 1.0),
        // An index that does not list it.
        (with(Some(json!({"a": shard(1), "b": shard(2)}))), 2.0),
    ] {
        let checkpoint = open(&model).unwrap();
        assert_eq!(value(&checkpoint, "both"), expected);
        assert_eq!((value(&checkpoint, "a"), value(&checkpoint, "b")), (1.0, 2.0));
        let notes = checkpoint.notes();
        let from = shard(expected as usize);
        assert!(
            notes.len() == 1 && notes[0].contains("'both'") && notes[0].contains(&from),
            "{notes:?}"
        );
    }
}

#[test]
fn an_index_may_list_what_no_file_holds() {
    let mut model = vec![config(), ("model.safetensors".into(), values(&[("a", 1.0)]))];
    let map =
        json!({"weight_map": {"a": "model.safetensors", "model.rotary.x": "model.safetensors"}});
    model.push((INDEX.into(), map.to_string().into()));
    let checkpoint = open(&model).unwrap();
    assert_eq!(checkpoint.tensors().len(), 1);
    assert!(checkpoint.notes()[0].contains("lists 1 tensors that no file holds, 'model.rotary.x'"));
    // It never leads out of the folder.
    for name in ["../model.safetensors", "/etc/passwd", ".hidden.safetensors", "a\\b.safetensors"] {
        let map = json!({"weight_map": {"a": name}}).to_string();
        *model.last_mut().unwrap() = (INDEX.into(), map.into());
        assert!(problem(open(&model)).contains("expected the name of a file"), "{name}");
    }
}

/// A module as AutoGPTQ packs it (8 outputs, 64 inputs), and one as AutoAWQ does.
const GPTQ: [(&str, &str, &[usize], usize); 3] = [
    ("m.q_proj.qweight", "I32", &[8, 8], 256),
    ("m.q_proj.qzeros", "I32", &[1, 1], 4),
    ("m.q_proj.scales", "F16", &[1, 8], 16),
];
const AWQ: [(&str, &str, &[usize], usize); 3] = [
    ("m.q_proj.qweight", "I32", &[64, 1], 256),
    ("m.q_proj.qzeros", "I32", &[1, 1], 4),
    ("m.q_proj.scales", "F16", &[1, 8], 16),
];
const FP8: [(&str, &str, &[usize], usize); 3] = [
    ("m.q_proj.weight", "F8_E4M3", &[2, 32], 64),
    ("m.q_proj.weight_scale", "F32", &[], 4),
    ("m.q_proj.input_scale", "F32", &[], 4),
];

#[test]
fn settings_are_found_wherever_programs_put_them() {
    let gptq = json!({"bits": 4, "group_size": 64, "sym": false, "desc_act": false});
    let awq = json!({"w_bit": 4, "q_group_size": 64, "zero_point": true, "version": "GEMM"});
    let bare = json!({"bits": 4, "group_size": 64});
    let with = |settings: &serde_json::Value, method: &str| {
        let mut settings = settings.clone();
        settings["quant_method"] = method.into();
        settings
    };
    let fp8 =
        json!({"quant_algo": "FP8", "kv_cache_quant_algo": null, "exclude_modules": ["lm_head"]});
    let modelopt = json!({"producer": {"name": "modelopt"}, "quantization": fp8});
    type Tensors<'a> = &'a [(&'a str, &'a str, &'a [usize], usize)];
    let cases: [(&str, Tensors<'_>, &str, serde_json::Value); 12] = [
        ("gptq", &GPTQ, "quantize_config.json", gptq.clone()),
        ("gptq", &GPTQ, "quantize_config.json", with(&gptq, "GPTQ")),
        ("gptq", &GPTQ, "quantize_config.json", bare.clone()),
        ("awq", &AWQ, "quant_config.json", awq.clone()),
        ("awq", &AWQ, "quantize_config.json", awq.clone()),
        ("awq", &AWQ, "quantize_config.json", bare.clone()),
        ("awq", &AWQ, "", with(&awq, "awq")),
        ("awq", &AWQ, "", awq),
        ("gptq", &GPTQ, "", with(&gptq, "gptq_marlin")),
        ("gptq", &GPTQ, "", gptq),
        ("modelopt", &FP8, "hf_quant_config.json", modelopt.clone()),
        ("modelopt", &FP8, "", with(&modelopt["quantization"], "modelopt")),
    ];
    for (dialect, tensors, file, settings) in cases {
        let what = format!("{dialect} in '{file}': {settings}");
        let files = match file {
            "" => model(json!({"quantization_config": settings}), tensors),
            file => {
                let mut files = model(json!({"quantization_config": null}), tensors);
                files.push((file.into(), settings.to_string().into()));
                files
            }
        };
        let checkpoint = open(&files).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(checkpoint.format(), format!("safetensors ({dialect})"), "{what}");
        let names: Vec<_> = checkpoint.tensors().map(|info| info.name.as_str()).collect();
        assert_eq!(names, ["m.q_proj.weight"], "{what}");
        checkpoint.tensor("m.q_proj.weight").unwrap_or_else(|error| panic!("{what}: {error}"));
    }
}

#[test]
fn settings_that_are_wrong_or_missing_are_named() {
    let beside = |tensors: &[_], settings: serde_json::Value| {
        let mut files = model(json!({}), tensors);
        files.push(("quantize_config.json".into(), settings.to_string().into()));
        problem(open(&files))
    };
    let error = beside(&GPTQ, json!({"bits": 5, "group_size": 64, "desc_act": false}));
    assert!(
        error.contains("quantize_config.json: field 'bits' is 5, expected 2, 3, 4 or 8"),
        "{error}"
    );
    let error = beside(&GPTQ, json!([]));
    assert!(error.ends_with("quantize_config.json: is not a JSON object"), "{error}");
    let error = beside(&FP8, json!({"quant_algo": "W4A8_AWQ"}));
    assert!(error.contains("'quant_algo' is \"W4A8_AWQ\", expected \"FP8\""), "{error}");
    for tensors in [&GPTQ, &AWQ, &FP8] {
        let error = problem(open(&model(json!({}), tensors)));
        assert!(error.contains("belongs to packed weights, but neither"), "{error}");
    }
    // What is beside floats is about another version of the model.
    let mut files = model(json!({}), &[("a.weight", "F32", &[2, 2], 16)]);
    files.push(("quantize_config.json".into(), b"{\"bits\": 4}".to_vec()));
    assert_eq!(open(&files).unwrap().format(), "safetensors");
}

#[test]
fn what_is_stored_decides_about_frozen_weights() {
    let config = |format: serde_json::Value| {
        json!({"quantization_config": {"quant_method": "compressed-tensors", "quantization_status": "frozen",
            "format": format, "config_groups": {"group_0": {"targets": ["Linear"],
                "weights": {"num_bits": 8, "type": "int", "strategy": "channel"}}}}})
    };
    let packed = [("p.weight", "I8", &[2, 32][..], 64), ("p.weight_scale", "BF16", &[2, 1][..], 4)];
    for format in [json!("int-quantized"), json!(null)] {
        let checkpoint = open(&model(config(format), &packed)).unwrap();
        assert!(matches!(checkpoint.tensor("p.weight").unwrap().codec(), Codec::Int8 { .. }));
    }
    let error = problem(open(&model(config(json!("fakequant")), &packed)));
    assert!(error.contains("format' is \"fakequant\""), "{error}");
    let floats =
        [("p.weight", "BF16", &[2, 32][..], 128), ("p.weight_scale", "BF16", &[2, 1][..], 4)];
    let checkpoint = open(&model(config(json!("int-quantized")), &floats)).unwrap();
    let error = checkpoint.tensor("p.weight").unwrap_err().to_string();
    assert!(error.contains("is stored as BF16, expected I8"), "{error}");
}

#[test]
fn nvfp4_of_modelopt_is_read() {
    // Codes 0 to 7 twice, their even ones in the low nibbles; a scale of 2 in E4M3, and 0.5 for all.
    let codes: Vec<u8> = [0x10, 0x32, 0x54, 0x76].repeat(2);
    let config =
        json!({"quantization_config": {"quant_method": "modelopt", "quant_algo": "NVFP4"}});
    let tensors = [
        tensor("p.weight", "U8", &[1, 8], codes),
        tensor("p.weight_scale", "F8_E4M3", &[1, 1], vec![0x40]),
        tensor("p.weight_scale_2", "F32", &[], 0.5f32.to_le_bytes().to_vec()),
        tensor("p.input_scale", "F32", &[], vec![0; 4]),
        tensor("k_proj.k_scale", "F32", &[], vec![0; 4]),
    ];
    let read = common::read(&model_of(config, &tensors)).unwrap();
    let values = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0].repeat(2);
    for (found, expected) in keeve_codec::decode(&read).iter().zip(values) {
        assert!((found - expected).abs() <= 1e-6 * expected, "{found} {expected}");
    }
}

/// The files of a folder that may be something else.
const KINDS: [&str; 10] = [
    "config.json",
    "model.safetensors",
    INDEX,
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "chat_template.jinja",
    "preprocessor_config.json",
    "quantize_config.json",
];

fn whole() -> Model {
    let mut files = vec![config(), ("model.safetensors".into(), values(&[("a", 1.0)]))];
    let map = json!({"weight_map": {"a": "model.safetensors"}}).to_string();
    files.push((INDEX.into(), map.into()));
    files.extend(KINDS[3..].iter().map(|name| ((*name).into(), b"{}".to_vec())));
    files
}

#[test]
fn what_stands_in_the_place_of_a_file_is_told() {
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4976698672\n";
    let page = "<!doctype html>\n<html><head><title>Log in</title></head></html>";
    let xml = "<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code></Error>";
    for (text, expected) in [
        (pointer, "is a pointer of Git LFS instead of the file of 4976698672 bytes"),
        (page, "is a web page ('Log in') instead of the file"),
        (xml, "is an XML text"),
    ] {
        for kind in KINDS {
            let mut files = whole();
            files.iter_mut().find(|(name, _)| name == kind).unwrap().1 = text.into();
            let folder = folder(&files);
            let error = problem(Checkpoint::open(folder.path()));
            assert!(error.contains(&format!("{kind}: {expected}")), "{error}");
        }
        let folder = folder(&vec![("m.gguf".into(), text.as_bytes().to_vec())]);
        for path in [folder.path().to_path_buf(), folder.path().join("m.gguf")] {
            let error = problem(Checkpoint::open(&path));
            assert!(error.contains(&format!("m.gguf: {expected}")), "{error}");
        }
    }
    for (name, bytes, expected) in [
        ("model.safetensors", &b"PK\x03\x04"[..], "is a zip archive"),
        (
            "model.safetensors",
            b"{\"error\":\"gated\"}",
            "is a text instead of weights: '{\"error\"",
        ),
        ("model.safetensors", &[0; 4096], "begins with zeros"),
        ("config.json", b"{\"error\":\"Invalid username or password.\"}", "'Invalid username or"),
        ("config.json", b"Entry not found", "it begins 'Entry not found'"),
        ("config.json", b"", "config.json: is empty"),
    ] {
        let mut files = whole();
        files.iter_mut().find(|(other, _)| other == name).unwrap().1 = bytes.into();
        let error = problem(open(&files));
        assert!(error.contains(expected) && error.contains(name), "{error}");
    }
}

#[cfg(unix)]
#[test]
fn a_link_that_leads_nowhere_is_no_missing_file() {
    for kind in KINDS {
        let folder = folder(&whole());
        let path = folder.path().join(kind);
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("../blobs/gone", &path).unwrap();
        let error = problem(Checkpoint::open(folder.path()));
        let expected = format!("{kind}: is a link to ../blobs/gone, which is not there");
        assert!(error.ends_with(&expected), "{error}");
    }
    let folder = tempfile::tempdir().unwrap();
    let link = folder.path().join("model");
    std::os::unix::fs::symlink("gone", &link).unwrap();
    assert!(problem(Checkpoint::open(&link)).contains("is a link to gone, which is not there"));
}

#[test]
fn names_of_wrappers_are_those_of_the_model() {
    let names = [
        "lm_head.weight",
        "model.embed_tokens.weight",
        "model.layers.0.self_attn.q_proj.weight",
        "model.norm.weight",
    ];
    let inner = |prefix: &'static str| {
        move |name: &str| {
            let inner = name.strip_prefix("model.").map(|rest| format!("{prefix}{rest}"));
            inner.unwrap_or_else(|| name.into())
        }
    };
    let before = |prefix: &'static str| move |name: &str| format!("{prefix}{name}");
    type Spelling = Box<dyn Fn(&str) -> String>;
    let spellings: [(&str, Spelling); 9] = [
        ("as they are", Box::new(str::to_owned)),
        ("torch.compile", Box::new(before("_orig_mod."))),
        (
            "a compiled layer",
            Box::new(|name: &str| name.replace("layers.0.", "layers.0._orig_mod.")),
        ),
        (
            "FSDP",
            Box::new(|name: &str| name.replace("layers.0.", "layers.0._fsdp_wrapped_module.")),
        ),
        ("DDP", Box::new(before("module."))),
        ("PEFT", Box::new(before("base_model.model."))),
        ("without the outer class", Box::new(inner(""))),
        ("inside a model that sees, today", Box::new(inner("model.language_model."))),
        ("inside a model that sees, before", Box::new(before("language_model."))),
    ];
    for (what, spelling) in spellings {
        let mut tensors: Vec<_> = names.iter().map(|name| spelling(name)).collect();
        // What old files hold besides.
        tensors.push(spelling("model.layers.0.self_attn.rotary_emb.inv_freq"));
        let described: Vec<(&str, &str, &[usize], usize)> =
            tensors.iter().map(|name| (name.as_str(), "F32", &[2, 2][..], 16)).collect();
        let checkpoint = open(&model(json!({"model_type": "llama"}), &described)).unwrap();
        let found: Vec<_> = checkpoint.tensors().map(|info| info.name.as_str()).collect();
        assert_eq!(found, names, "{what}");
    }
    for (name, expected) in [
        (
            "base_model.model.model.layers.0.q_proj.lora_A.weight",
            "an adapter (LoRA) that was not merged",
        ),
        ("layers.0.attention.wq.weight", "the layout of the model's makers"),
    ] {
        let tensors = [("norm.weight", "F32", &[4][..], 16), (name, "F32", &[4][..], 16)];
        assert!(problem(open(&model(json!({}), &tensors))).contains(expected), "{name}");
    }
}

#[test]
fn a_file_of_the_folder_stands_for_it() {
    let files = whole();
    let folder = folder(&files);
    let path = |name: &str| folder.path().join(name);
    let slash = format!("{}/", folder.path().display());
    for path in [path("model.safetensors"), path("config.json"), path(INDEX), slash.into()] {
        assert_eq!(Checkpoint::open(&path).unwrap().tensors().len(), 1, "{}", path.display());
    }
    // A file that the folder's model is not made of is read alone.
    std::fs::write(path("other.safetensors"), values(&[("b", 3.0)])).unwrap();
    let other = Checkpoint::open(&path("other.safetensors")).unwrap();
    assert_eq!(value(&other, "b"), 3.0);
    assert_eq!(Checkpoint::open(folder.path()).unwrap().tensors().len(), 1);
    std::fs::remove_file(path("config.json")).unwrap();
    let error = problem(Checkpoint::open(&path("model.safetensors")));
    assert!(
        error.contains("config.json, which says what model it is, is not beside it"),
        "{error}"
    );
}

#[cfg(unix)]
#[test]
fn the_hubs_folder_of_a_model_stands_for_its_snapshot() {
    let cache = tempfile::tempdir().unwrap();
    let repo = cache.path().join("models--a--b");
    let (snapshot, blobs) = (repo.join("snapshots/0123"), repo.join("blobs"));
    for folder in [&snapshot, &blobs, &repo.join("refs")] {
        std::fs::create_dir_all(folder).unwrap();
    }
    for (number, (name, bytes)) in whole().into_iter().enumerate() {
        std::fs::write(blobs.join(number.to_string()), bytes).unwrap();
        std::os::unix::fs::symlink(format!("../../blobs/{number}"), snapshot.join(name)).unwrap();
    }
    for reference in ["0123\n", "4567"] {
        std::fs::write(repo.join("refs/main"), reference).unwrap();
        for path in [&repo, &snapshot] {
            assert_eq!(Checkpoint::open(path).unwrap().tensors().len(), 1);
        }
    }
    std::fs::create_dir(repo.join("snapshots/89ab")).unwrap();
    assert!(problem(Checkpoint::open(&repo)).contains("holds neither config.json nor a GGUF file"));
}

#[test]
fn a_folder_without_weights_says_what_it_has_instead() {
    for (name, expected) in [
        ("pytorch_model.bin", "only as pytorch_model.bin, a format that keeve does not read"),
        ("pytorch_model-00001-of-00002.bin", "save_pretrained"),
        ("consolidated.safetensors", "in the layout of its makers (consolidated.safetensors)"),
        ("model.safetensors.incomplete", "a download that is not finished"),
        ("x.txt", "holds neither model.safetensors.index.json nor model*.safetensors"),
    ] {
        let folder = folder(&vec![config(), (name.into(), b"x".to_vec())]);
        let error = problem(Checkpoint::open(folder.path()));
        assert!(error.contains(expected), "{error}");
    }
    let files = ["adapter_config.json", "adapter_model.safetensors"];
    let adapter = folder(&files.map(|name| (name.into(), b"{}".to_vec())).into());
    let error = problem(Checkpoint::open(adapter.path()));
    assert!(error.contains("an adapter (LoRA)"), "{error}");
    // Where there are both, safetensors are read.
    let mut files = whole();
    files.push(("pytorch_model.bin".into(), b"\x80\x02".to_vec()));
    files.push(("consolidated.safetensors".into(), values(&[("a", 9.0)])));
    assert_eq!(value(&open(&files).unwrap(), "a"), 1.0);
    let inside = folder(&vec![("inner/config.json".into(), b"{}".to_vec())]);
    assert!(problem(Checkpoint::open(inside.path())).contains("its folder inner does"));
}

#[test]
fn a_gguf_file_beside_a_config_is_the_model() {
    for name in ["m.gguf", "M.GGUF"] {
        let folder = folder(&vec![config(), (name.into(), llama_gguf())]);
        assert_eq!(Checkpoint::open(folder.path()).unwrap().format(), "GGUF v3");
        // Whatever it is called, its first bytes say what it is.
        let other = folder.path().join("model.bin");
        std::fs::copy(folder.path().join(name), &other).unwrap();
        assert_eq!(Checkpoint::open(&other).unwrap().format(), "GGUF v3");
    }
}

fn gguf_of(metadata: &[(&str, Value)], tensor: &str, path: &Path) {
    let announced = gguf::Announced { name: tensor.into(), codec: Codec::F32, shape: vec![32] };
    gguf::write(path, metadata, [(announced, &[0u8; 128][..])]).unwrap();
}

#[test]
fn parts_of_a_gguf_model_may_have_any_names() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let part = |number: u64, count: u64, name: &str| {
        let mut metadata = match number {
            0 => llama_metadata(),
            _ => vec![],
        };
        metadata.push(("split.no", Value::Unsigned(ValueType::U64, number)));
        metadata.push(("split.count", Value::Signed(ValueType::I32, count as i64)));
        gguf_of(
            &metadata,
            ["output_norm.weight", "blk.0.attn_norm.weight"][number as usize],
            &path(name),
        );
    };
    part(0, 2, "z.gguf");
    part(1, 2, "a.GGUF");
    gguf_of(&llama_metadata(), "output_norm.weight", &path("other.gguf"));
    std::fs::write(path("broken.gguf"), b"GGUF").unwrap();
    for name in ["z.gguf", "a.GGUF"] {
        let checkpoint = Checkpoint::open(&path(name)).unwrap();
        assert_eq!((checkpoint.tensors().len(), checkpoint.files().len()), (2, 2));
        assert_eq!(checkpoint.config()["hidden_size"], 32);
    }
    part(1, 2, "again.gguf");
    assert!(
        problem(Checkpoint::open(&path("z.gguf")))
            .contains("says that it is part 1 of 2, and so does")
    );
    std::fs::remove_file(path("again.gguf")).unwrap();
    std::fs::remove_file(path("a.GGUF")).unwrap();
    let error = problem(Checkpoint::open(&path("z.gguf")));
    assert!(error.contains("'split.count' is 2, but 1 of these files"), "{error}");
}

#[test]
fn gguf_files_that_are_no_models_say_what_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.gguf");
    for (key, value, expected) in [
        ("general.type", "adapter", "is an adapter (LoRA)"),
        ("general.type", "imatrix", "is an importance matrix"),
        ("general.type", "mmproj", "is what a model sees with"),
        ("general.type", "model", "'general.architecture' is missing"),
        ("general.architecture", "clip", "is what a model sees with"),
    ] {
        gguf_of(&[(key, Value::string(value))], "x", &path);
        let error = problem(Checkpoint::open(&path));
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn gguf_numbers_may_have_any_width() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.gguf");
    let widen = |(key, value): (&'static str, Value)| {
        let value = match value {
            Value::Unsigned(_, number) if key.ends_with("count") => {
                Value::Unsigned(ValueType::U64, number)
            }
            Value::Unsigned(_, number) => Value::Signed(ValueType::I32, number as i64),
            Value::F32(number) => Value::F64(number.into()),
            Value::Bool(flag) => Value::Unsigned(ValueType::U8, flag.into()),
            other => other,
        };
        (key, value)
    };
    gguf_of(&llama_metadata(), "output_norm.weight", &path);
    let plain = Checkpoint::open(&path).unwrap();
    let metadata: Vec<_> = llama_metadata().into_iter().map(widen).collect();
    gguf_of(&metadata, "output_norm.weight", &path);
    let wide = Checkpoint::open(&path).unwrap();
    assert_eq!(wide.gguf_tokenizer().unwrap(), plain.gguf_tokenizer().unwrap());
    for (key, value) in plain.config().as_object().unwrap() {
        let (found, expected) = (wide.config()[key].as_f64(), value.as_f64());
        match (found, expected) {
            (Some(found), Some(expected)) => {
                assert!((found - expected).abs() <= 1e-7 * expected.abs(), "{key}")
            }
            _ => assert_eq!(wide.config()[key], *value, "{key}"),
        }
    }
}

#[test]
fn headers_may_have_null_metadata_and_types_that_are_not_read() {
    let header = json!({"__metadata__": null,
        "a.weight": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]},
        "b": {"dtype": "I128", "shape": [1], "data_offsets": [16, 32]},
        "empty": {"dtype": "F16", "shape": [0, 4], "data_offsets": [32, 32]}});
    let file = common::safetensors(&header.to_string(), 32);
    let checkpoint = open(&vec![config(), ("model.safetensors".into(), file)]).unwrap();
    assert_eq!(checkpoint.tensors().len(), 3);
    checkpoint.tensor("a.weight").unwrap();
    for (name, expected) in [("b", "stored as I128"), ("empty", "is empty")] {
        let error = checkpoint.tensor(name).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    assert!(safetensors_of(&[]).len() > 8);
}
