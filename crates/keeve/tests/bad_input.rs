//! Broken models and requests that cannot be honoured: each is one line that says what is wrong
//! and where, in little memory.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::fs;

use common::{Model, keeve};
use serde_json::{Value, json};

const WEIGHTS: &str = "model.safetensors";
const GATE: &str = "model.layers.3.mlp.gate_proj.weight";

/// `keeve run` on a broken model fails with a message that has all of `parts`.
fn refused(model: &Model, parts: &[&str]) {
    refused_with(model, &["--prompt-ids", "1,2,3", "-n", "1"], parts);
}

/// The same, given text.
fn refused_text(model: &Model, parts: &[&str]) {
    refused_with(model, &["--prompt", "hello", "-n", "1"], parts);
}

fn refused_with(model: &Model, args: &[&str], parts: &[&str]) {
    let message = keeve(["run", model.path()]).args(args).limited_memory().fails(1);
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in: {message}");
    }
    // The model is named, so that one knows where to look.
    assert!(message.contains(model.path()), "{message}");
}

/// The same with changed fields of `config.json`.
fn refused_config(edits: &[(&str, Value)], parts: &[&str]) {
    let model = edits.iter().fold(Model::demo(), |model, (field, value)| {
        model.json("config.json", |config| match value {
            Value::Null => {
                config.as_object_mut().unwrap().remove(*field);
            }
            value => config[field] = value.clone(),
        })
    });
    refused(&model, &[&["config.json"], parts].concat());
}

#[test]
fn truncated_weights() {
    let whole = fs::read(Model::demo().file(WEIGHTS)).unwrap();
    for length in [0, 1, 7, 8, 100, 5000, 1_000_000, whole.len() - 1] {
        let model = Model::demo().write(WEIGHTS, &whole[..length]);
        refused(&model, &[WEIGHTS]);
        let message = keeve(["inspect", model.path()]).limited_memory().fails(1);
        assert!(message.contains(WEIGHTS), "{message}");
    }
    refused(&Model::demo().write(WEIGHTS, [&whole[..], b"more"].concat()), &[WEIGHTS]);
}

#[test]
fn headers_that_lie() {
    let length = |bytes: u64| [&bytes.to_le_bytes()[..], b"{\"x\":1}"].concat();
    for bytes in [0, 7, 1000, 1 << 40, u64::MAX] {
        refused(&Model::demo().write(WEIGHTS, length(bytes)), &[WEIGHTS]);
    }
    let edits: [(&str, Value); 9] = [
        ("data_offsets", json!([0, 10])),
        ("data_offsets", json!([10, 0])),
        ("data_offsets", json!([0, u64::MAX])),
        ("data_offsets", json!([u64::MAX - 1, u64::MAX])),
        ("data_offsets", json!([-1, 10])),
        ("data_offsets", json!("everything")),
        ("shape", json!([u64::MAX, u64::MAX])),
        ("shape", json!([1u64 << 40, 1u64 << 40])),
        ("dtype", json!("F77")),
    ];
    for (field, value) in edits {
        let model = Model::demo().header(|header| header[GATE][field] = value.clone());
        refused(&model, &[WEIGHTS]);
    }
    // Two tensors in the same place.
    let model = Model::demo().header(|header| {
        header["model.layers.4.mlp.gate_proj.weight"]["data_offsets"] =
            header[GATE]["data_offsets"].clone();
    });
    refused(&model, &[WEIGHTS]);
}

#[test]
fn tensors_that_are_missing_or_do_not_fit() {
    let rename = |from: &str, to: &str| {
        Model::demo().header(|header| {
            let header = header.as_object_mut().unwrap();
            let tensor = header.remove(from).unwrap();
            header.insert(to.into(), tensor);
        })
    };
    let norm = "model.norm.weight";
    refused(&rename(norm, "model.other.weight"), &[norm, "not in the model"]);
    let model = Model::demo().header(|header| {
        let width = header[norm]["shape"][0].as_u64().unwrap();
        header[norm]["shape"] = json!([2, width / 2]);
    });
    refused(&model, &[norm, "2x256", "expected 1x512"]);
    refused_config_loosely(&[("intermediate_size", json!(1024))], &["mlp", "1024"]);
    refused_config_loosely(&[("vocab_size", json!(9000))], &["model.embed_tokens.weight", "9000"]);
    refused_config_loosely(&[("vocab_size", json!(16_000_000))], &["model.embed_tokens.weight"]);
    refused_config_loosely(&[("num_hidden_layers", json!(11))], &["model.layers.10."]);
    refused_config_loosely(&[("num_hidden_layers", json!(2048))], &["model.layers."]);
    refused_config_loosely(&[("tie_word_embeddings", json!(false))], &["lm_head"]);
    refused_config_loosely(&[("hidden_size", json!(1 << 24))], &["model.embed_tokens.weight"]);
}

/// Configs that are possible, but not those of these weights: the weights may be named.
fn refused_config_loosely(edits: &[(&str, Value)], parts: &[&str]) {
    let model = edits
        .iter()
        .fold(Model::demo(), |model, (field, value)| model.config(field, value.clone()));
    refused(&model, parts);
}

#[test]
fn configs_that_make_no_sense() {
    let billion = json!(1_000_000_000);
    let numbers = [
        "hidden_size",
        "intermediate_size",
        "num_attention_heads",
        "num_key_value_heads",
        "num_hidden_layers",
        "vocab_size",
        "head_dim",
        "max_position_embeddings",
    ];
    for field in numbers {
        for value in [json!(0), json!(-1), json!(1.5), json!("many"), json!([1]), billion.clone()] {
            refused_config(&[(field, value.clone())], &[field, &value.to_string(), "expected"]);
        }
    }
    for field in ["hidden_size", "num_attention_heads", "num_hidden_layers", "vocab_size"] {
        refused_config(&[(field, Value::Null)], &[field, "is missing"]);
    }
    refused_config(&[("num_hidden_layers", json!(u64::MAX))], &["num_hidden_layers"]);
    refused_config(&[("num_attention_heads", json!(7))], &["num_key_value_heads", "7"]);
    refused_config(&[("head_dim", json!(63))], &["head_dim", "63"]);
    for value in [json!(0), json!(-1), json!("x")] {
        refused_config(&[("rms_norm_eps", value.clone())], &["rms_norm_eps", "expected"]);
        refused_config(&[("rope_theta", value)], &["rope_theta", "expected"]);
    }
    refused_config(&[("rope_theta", json!(1e-300))], &["rope"]);
    refused_config(&[("tie_word_embeddings", json!("yes"))], &["tie_word_embeddings"]);
    refused_config(&[("attention_bias", json!(1))], &["attention_bias"]);
    refused_config(&[("hidden_act", json!("relu\n\u{1b}[2J"))], &["hidden_act", "relu"]);
    refused_config(&[("partial_rotary_factor", json!(0.5))], &["partial_rotary_factor"]);
    refused_config(&[("eos_token_id", json!("end"))], &["eos_token_id", "end"]);
    refused_config(&[("model_type", Value::Null), ("architectures", Value::Null)], &["model_type"]);
    for value in [json!("sphinx"), json!("qwen3\n"), json!(3), json!("x".repeat(100_000))] {
        refused_config(&[("model_type", value)], &["model_type"]);
    }
    let scaling = |value: Value| [("rope_scaling", value)];
    let unknown = scaling(json!({ "rope_type": "spiral", "factor": 2 }));
    refused_config(&unknown, &["rope_type", "spiral", "llama3"]);
    refused_config(&scaling(json!({ "rope_type": "linear" })), &["rope_scaling", "factor"]);
    refused_config(&scaling(json!({ "rope_type": "linear", "factor": 0 })), &["rope_scaling"]);
    refused_config(&scaling(json!({ "rope_type": "yarn", "factor": "x" })), &["factor"]);
    let llama3 = json!({ "rope_type": "llama3", "factor": 8, "low_freq_factor": 4,
        "high_freq_factor": 1, "original_max_position_embeddings": 8192 });
    refused_config(&scaling(llama3), &["high_freq_factor"]);
    refused_config(&scaling(json!("linear")), &["rope_scaling"]);
    let quantization = |value: Value| [("quantization", value)];
    let unknown = json!({ "mode": "kquant", "per_tensor": { "model.embed_tokens": "q9_z" } });
    refused_config_loosely(&quantization(unknown), &["model.embed_tokens", "q9_z"]);
    refused_config(&quantization(json!({ "mode": "origami", "bits": 4 })), &["origami"]);
    refused_config(&quantization(json!(3)), &["quantization"]);
}

#[test]
fn files_that_are_missing_or_of_another_kind() {
    refused(&Model::demo().remove("config.json"), &["config.json"]);
    refused(&Model::demo().remove(WEIGHTS), &["safetensors"]);
    for text in ["", "{", "[]", "3", "{\"a\":1}x", "\u{feff}{}"] {
        refused(&Model::demo().write("config.json", text), &["config.json"]);
    }
    refused(&Model::demo().write("config.json", "[".repeat(1_000_000)), &["config.json"]);
    refused(&Model::demo().write("generation_config.json", "{"), &["generation_config.json"]);
    let model = Model::demo().write("generation_config.json", r#"{"eos_token_id": [1, "x"]}"#);
    refused(&model, &["generation_config.json", "eos_token_id"]);

    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    for (name, bytes) in [
        ("empty.gguf", &b""[..]),
        ("short.gguf", b"GGUF"),
        ("text.gguf", b"This is no model at all."),
        (
            "lies.gguf",
            b"GGUF\x03\0\0\0\xff\xff\xff\xff\xff\xff\xff\x0f\xff\xff\xff\xff\xff\xff\xff\x0f",
        ),
        ("model.txt", b"text"),
    ] {
        fs::write(path(name), bytes).unwrap();
        let message = keeve(["run", &path(name), "--prompt-ids", "1"]).limited_memory().fails(1);
        assert!(message.contains(name), "{message}");
    }
    fs::create_dir(path("empty")).unwrap();
    for name in ["empty", "absent", "absent.gguf"] {
        for command in ["inspect", "tokenize"] {
            let message = keeve([command, &path(name)]).fails(1);
            assert!(message.contains(&path(name)), "{message}");
        }
    }
}

#[test]
fn an_index_that_leaves_the_folder() {
    for shard in ["../model.safetensors", "/etc/passwd", "a/../../b.safetensors", "..", "", "nul\0"]
    {
        let index = json!({ "weight_map": { GATE: shard } });
        let name = "model.safetensors.index.json";
        refused(&Model::demo().write(name, index.to_string()), &[name]);
    }
    let index = json!({ "weight_map": { GATE: "gone.safetensors" } });
    let model = Model::demo().write("model.safetensors.index.json", index.to_string());
    // What it names is not there, but the whole model is.
    let ran = keeve(["run", model.path(), "--prompt-ids", "1,2,3", "-n", "1"]).run();
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.stderr.contains("gone.safetensors, which is missing"), "{ran:?}");
}

/// Runs with ids, and fails as soon as text is involved.
fn unusable_for_text(model: &Model, parts: &[&str]) {
    let result = keeve(["run", model.path(), "--prompt-ids", "1,2,3", "-n", "2"]).json();
    assert_eq!(result["tokens"].as_array().unwrap().len(), 2);
    refused_text(model, parts);
}

#[test]
fn tokenizers_that_cannot_be_used_hinder_text_only() {
    let name = "tokenizer.json";
    for text in ["", "{", "[]", "{}", r#"{"model": {"type": "Sphinx"}}"#] {
        let model = Model::demo().write(name, text);
        unusable_for_text(&model, &[name]);
        let message = keeve(["tokenize", model.path(), "x"]).fails(1);
        assert!(message.contains(name), "{message}");
        // Where there is no text to show, ids are.
        let ran = keeve(["run", model.path(), "--prompt-ids", "1,2,3", "-n", "2"]).run();
        assert_eq!(ran.stdout, "16 15 \n");
        assert!(ran.stderr.starts_with("note: token ids instead of text: "), "{}", ran.stderr);
    }
    let model = Model::demo().json(name, |tokenizer| {
        let added = tokenizer["added_tokens"].as_array_mut().unwrap();
        let mut token = added[0].clone();
        token["id"] = json!(8192);
        token["content"] = json!("<|beyond|>");
        added.push(token);
    });
    unusable_for_text(&model, &["tokenizer", "8192"]);
    unusable_for_text(
        &Model::demo().json(name, |t| t["model"]["vocab"]["zz"] = json!(4_000_000_000u32)),
        &["tokenizer"],
    );
    let without = Model::demo().remove(name);
    let message = keeve(["run", without.path(), "hello"]).fails(1);
    assert!(message.contains("no tokenizer"), "{message}");
    refused(&Model::demo().write("tokenizer_config.json", "{"), &["tokenizer_config.json"]);
}

#[test]
fn chat_templates_that_cannot_be_used_hinder_only_what_needs_them() {
    let cases = [
        ("{% for %}", "template"),
        ("{{ messages[0].content", "template"),
        ("{{ raise_exception('no\nthanks') }}", "no thanks"),
        (
            "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
            "steps",
        ),
        ("{{ nothing.at.all }}", "template"),
    ];
    for (template, part) in cases {
        let model = Model::demo().write("chat_template.jinja", template);
        let args = ["--prompt", "hello", "-n", "1"];
        let message = keeve(["run", model.path()]).args(&args).fails(1);
        assert!(message.contains(part), "{template}: {message}");
        let plain = keeve(["run", model.path(), "--no-chat-template"]).args(&args).json();
        assert_eq!(plain["tokens"].as_array().unwrap().len(), 1);
    }
}

#[test]
fn requests_that_cannot_be_honoured() {
    let long = vec!["1"; 2048].join(",");
    let longer = vec!["1"; 2049].join(",");
    let out = tempfile::tempdir().unwrap();
    let inside = |name: &str| out.path().join(name).to_str().unwrap().to_owned();
    let (fine, absent) = (inside("x"), inside("no/x.safetensors"));
    let words = "word ".repeat(3000);
    let cases: &[(&[&str], &str)] = &[
        (&["run", "--prompt-ids", &long], "2048 tokens, but the context holds 2048"),
        (&["run", "--prompt-ids", &longer, "-n", "0"], "2049 tokens"),
        (&["run", "--prompt", &words], "the context holds 2048"),
        (&["run", "--prompt-ids", "1,2,3,4", "--max-context", "4"], "the context holds 4"),
        (&["run", "--no-chat-template", ""], "the prompt is empty"),
        (&["run", "--prompt-ids", "1,8192"], "token id 8192 is outside"),
        (&["run", "--prompt-ids", "4294967295"], "token id 4294967295"),
        (&["run", "absent-model", "hello"], "no model at 'absent-model'"),
        (&["logits", "--prompt-ids", "8192", "--out", &fine], "token id 8192"),
        (&["logits", "--prompt-ids", &longer, "--out", &fine], "2049 tokens"),
        (&["tensor", "model.absent"], "model.absent"),
        (&["tensor", "\u{1b}[2J"], "u{1b}"),
    ];
    for (args, part) in cases {
        let message = keeve(*args).limited_memory().fails(1);
        assert!(message.contains(part), "{args:?}: {message}");
    }
    assert!(!out.path().join("x").exists());
    // These messages have a part that is never the same twice.
    let huge = keeve(["run", "hi", "--max-context", "18446744073709551615"]).run().failure(1);
    assert!(huge.contains("not enough memory"), "{huge}");
    for args in [["logits", "--prompt-ids", "1"], ["tensor", "model.norm.weight", "--quiet"]] {
        let message = keeve(args).arg("--out").arg(&absent).run().failure(1);
        assert!(message.contains(&absent), "{message}");
    }
    // A prompt as long as the context is fine where nothing is to be generated.
    let args = ["logits", "--max-context", "3", "--prompt-ids", "1,2,3", "--out", &fine];
    assert_eq!(keeve(args).json()["shape"], json!([3, 8192]));
    let result = keeve(["run", "--max-context", "8", "--prompt-ids", "1,2,3"]).json();
    assert_eq!(result["tokens"].as_array().unwrap().len(), 5);
    assert_eq!(result["finish_reason"], "length");
}

#[cfg(unix)]
#[test]
fn input_that_is_not_utf8() {
    use std::os::unix::ffi::OsStrExt;
    let bytes = std::ffi::OsStr::from_bytes(b"\xff\xfe");
    let ran = keeve(["run", "--json"]).arg(bytes).run();
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert!(ran.json()["error"].is_string());
}
