//! Hostile model files, one a line: each is refused in one line or loads, in bounded memory and time.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod common;

use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;

use common::{Model, keeve};
use serde_json::{Value, json};

/// Runs a model in little memory; it loads, or is refused in one line that is no library's panic.
fn survives(path: &str, what: &str) {
    let ran =
        keeve(["run", path, "--prompt", "hello", "-n", "1", "--quiet"]).limited_memory().run();
    match ran.code {
        Some(0) => assert!(!ran.stderr.contains("panicked"), "{what}: {ran:?}"),
        _ => {
            let message = ran.failure(1);
            assert!(message.len() < 5000, "{what}: a message of {} bytes", message.len());
        }
    }
}

/// The demo model as GGUF, made once.
fn gguf() -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        keeve(["quantize", "--preset", "q8", "--quiet", "--out", path.to_str().unwrap()]).ok();
        fs::read(path).unwrap()
    })
}

/// Where a string as GGUF stores it (length, then bytes) ends.
fn after(bytes: &[u8], name: &str) -> usize {
    let stored = [&(name.len() as u64).to_le_bytes()[..], name.as_bytes()].concat();
    let at = bytes.windows(stored.len()).position(|window| window == stored);
    at.unwrap_or_else(|| panic!("no {name}")) + stored.len()
}

/// The same with bytes replaced at a place.
fn patched(at: usize, value: &[u8]) -> Vec<u8> {
    let mut bytes = gguf().to_vec();
    bytes[at..at + value.len()].copy_from_slice(value);
    bytes
}

/// The same with a value put in front of all metadata.
fn with_metadata(value: &[u8]) -> Vec<u8> {
    let bytes = gguf();
    let count = u64::from_le_bytes(bytes[16..24].try_into().unwrap()) + 1;
    // As long as a multiple of the alignment, so that the data stay where they are.
    let key = [&3u64.to_le_bytes()[..], b"x.y", value].concat();
    let filler = vec![0; key.len().next_multiple_of(32) - key.len()];
    [&bytes[..16], &count.to_le_bytes(), &key, &filler, &bytes[24..]].concat()
}

fn survives_gguf(what: &str, bytes: &[u8]) {
    let folder = tempfile::tempdir().unwrap();
    let path: PathBuf = folder.path().join("model.gguf");
    fs::write(&path, bytes).unwrap();
    survives(path.to_str().unwrap(), what);
}

#[test]
fn gguf_heads_that_lie() {
    let huge = u64::MAX.to_le_bytes();
    survives_gguf("all tensors there could be", &patched(8, &huge));
    survives_gguf("no tensors", &patched(8, &0u64.to_le_bytes()));
    survives_gguf("all metadata there could be", &patched(16, &huge));
    survives_gguf("a key without an end", &patched(24, &(1u64 << 63).to_le_bytes()));
    survives_gguf("version 0", &patched(4, &0u32.to_le_bytes()));
    survives_gguf("big-endian", &patched(4, &3u32.to_be_bytes()));
    let array = |kind: u32, length: u64| {
        with_metadata(
            &[&9u32.to_le_bytes()[..], &kind.to_le_bytes(), &length.to_le_bytes()].concat(),
        )
    };
    survives_gguf("2^60 bytes", &array(0, 1 << 60));
    survives_gguf("2^61 numbers of 8 bytes", &array(10, 1 << 61));
    survives_gguf("2^40 strings", &array(8, 1 << 40));
    survives_gguf("an array of what is unknown", &array(77, 3));
    let nested = [&9u32.to_le_bytes()[..], &1u64.to_le_bytes()].concat().repeat(100_000);
    survives_gguf("arrays in arrays", &with_metadata(&[&9u32.to_le_bytes()[..], &nested].concat()));
    let kind = after(gguf(), "general.architecture");
    survives_gguf("a value of no known type", &patched(kind, &99u32.to_le_bytes()));
    survives_gguf("a name with escapes", &patched(kind + 12, b"\x1b[2J"));
    for keep in [24, 100, 5000, gguf().len() / 2, gguf().len() - 1] {
        survives_gguf("cut", &gguf()[..keep]);
    }
}

#[test]
fn gguf_numbers_that_make_no_sense() {
    let numbers = [
        ("qwen3.block_count", u32::MAX),
        ("qwen3.block_count", 0),
        ("qwen3.embedding_length", 0),
        ("qwen3.embedding_length", 1 << 31),
        ("qwen3.feed_forward_length", 0),
        ("qwen3.attention.head_count", 0),
        ("qwen3.attention.head_count_kv", 1 << 31),
        ("qwen3.attention.head_count_kv", 0),
        ("qwen3.context_length", 0),
        ("qwen3.context_length", u32::MAX),
        ("tokenizer.ggml.eos_token_id", u32::MAX),
    ];
    for (key, value) in numbers {
        // Behind the key stands its type, then the value.
        survives_gguf(key, &patched(after(gguf(), key) + 4, &value.to_le_bytes()));
    }
    for key in ["qwen3.rope.freq_base", "qwen3.attention.layer_norm_rms_epsilon"] {
        for value in [f32::NAN, f32::INFINITY, -1.0, 0.0] {
            survives_gguf(key, &patched(after(gguf(), key) + 4, &value.to_le_bytes()));
        }
    }
    let tensor = after(gguf(), "blk.0.ffn_up.weight");
    let wide = [&(1u64 << 40).to_le_bytes()[..], &(1u64 << 40).to_le_bytes()].concat();
    for (what, at, value) in [
        ("2^31 dimensions", 0, &(1u32 << 31).to_le_bytes()[..]),
        ("no dimensions", 0, &0u32.to_le_bytes()),
        ("a product that overflows", 4, &wide),
        ("a dimension of nothing", 4, &0u64.to_le_bytes()),
        ("an unknown type", 20, &1_000_000_000u32.to_le_bytes()),
        ("a type that is gone", 20, &4u32.to_le_bytes()),
        ("past the end", 24, &(1u64 << 62).to_le_bytes()),
        ("so far that it comes round", 24, &(u64::MAX - 31).to_le_bytes()),
        ("not aligned", 24, &33u64.to_le_bytes()),
        ("over another", 24, &0u64.to_le_bytes()),
    ] {
        survives_gguf(what, &patched(tensor + at, value));
    }
}

#[test]
fn configs_and_tokenizers_that_make_no_sense() {
    let config = [
        ("rope_scaling", json!({ "rope_type": "linear", "factor": 0 })),
        ("rope_scaling", json!({ "rope_type": "yarn", "factor": 1e308 })),
        (
            "rope_scaling",
            json!({ "rope_type": "longrope", "long_factor": [1.0], "short_factor": [] }),
        ),
        ("rope_scaling", json!([])),
        ("layer_types", json!(vec!["x"; 100])),
        ("eos_token_id", json!(vec![1_000_000_000; 100_000])),
        ("quantization", json!({ "group_size": 0, "bits": 4 })),
        ("quantization", json!({ "group_size": 7, "bits": 99 })),
        ("quantization_config", json!({ "quant_method": "gptq", "bits": 0, "group_size": 0 })),
        ("quantization_config", json!({ "quant_method": "x".repeat(100_000) })),
        (
            "quantization_config",
            json!({ "quant_method": "compressed-tensors",
            "format": "int-quantized", "config_groups": { "g": { "targets": ["re:((a{1000}){1000}){1000}"],
            "weights": { "num_bits": 8, "type": "int", "symmetric": true, "strategy": "channel" } } } }),
        ),
        ("text_config", json!({ "text_config": { "text_config": {} } })),
        ("vocab_size", json!(100_000_000)),
    ];
    for (field, value) in config {
        let model = Model::demo().config(field, value.clone());
        survives(
            model.path(),
            &format!("{field} {}", &value.to_string()[..value.to_string().len().min(60)]),
        );
    }
    let split = |regex: &str| json!({ "type": "Split", "pattern": { "Regex": regex }, "behavior": "Isolated", "invert": false });
    let padding = |multiple: Value, strategy: Value| {
        json!({ "strategy": strategy, "direction": "Right", "pad_to_multiple_of": multiple,
            "pad_id": 0, "pad_type_id": 0, "pad_token": "x" })
    };
    let tokenizer: [(&str, Value); 9] = [
        ("pre_tokenizer", split("((a{1,1000}){1,1000}){1,1000}")),
        ("pre_tokenizer", split("((((")),
        ("pre_tokenizer", split(&"(?:".repeat(20_000))),
        ("padding", padding(Value::Null, json!({ "Fixed": 1_000_000_000 }))),
        ("padding", padding(json!(1u64 << 40), json!("BatchLongest"))),
        (
            "truncation",
            json!({ "direction": "Right", "max_length": 0, "strategy": "LongestFirst", "stride": 9 }),
        ),
        (
            "decoder",
            json!({ "type": "Strip", "content": "a", "start": 1u64 << 60, "stop": 1u64 << 60 }),
        ),
        ("normalizer", json!({ "type": "Prepend", "prepend": "p".repeat(20_000_000) })),
        ("model", json!({ "type": "Unigram", "unk_id": 1_000_000_000, "vocab": [["a", -1.0]] })),
    ];
    for (field, value) in tokenizer {
        let model = Model::demo().json("tokenizer.json", |json| json[field] = value.clone());
        survives(
            model.path(),
            &format!("{field} {}", &value.to_string()[..value.to_string().len().min(60)]),
        );
    }
    let deep =
        r#"{"normalizer":"#.to_owned() + &r#"{"type":"Sequence","normalizers":["#.repeat(50_000);
    survives(Model::demo().write("tokenizer.json", deep).path(), "normalizers in normalizers");
}

#[cfg(unix)]
#[test]
fn devices_and_links_in_the_place_of_files() {
    use std::os::unix::fs::symlink;
    let names = [
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "generation_config.json",
        "model.safetensors",
        "model.safetensors.index.json",
    ];
    for name in names {
        for target in ["/dev/zero", name, "/", "/dev/null"] {
            let model = Model::demo();
            let _ = fs::remove_file(model.file(name));
            symlink(target, model.file(name)).unwrap();
            survives(model.path(), &format!("{name} -> {target}"));
        }
        let model = Model::demo();
        let _ = fs::remove_file(model.file(name));
        // As long as a disk may be, and nothing in it.
        fs::File::create(model.file(name)).unwrap().set_len(1 << 40).unwrap();
        survives(model.path(), &format!("{name} without an end"));
    }
}
