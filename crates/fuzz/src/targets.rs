//! What each target does with an input. Each gives whether the input got through everything.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use keeve_checkpoint::Checkpoint;
use keeve_checkpoint::gguf::tokenizer::GgufTokenizer;
use keeve_codec::Bytes;
use keeve_engine::{ChatTemplate, Grammar, Message, RenderOptions};
use keeve_image::{Limits, Processor};

use crate::{dialects, exercise, one_tensor, round_trip, safetensors};

/// A target.
pub type Target = fn(&[u8]) -> bool;

/// All targets, by the names of their files in `fuzz/fuzz_targets` and of their folders of inputs.
pub const TARGETS: [(&str, Target); 10] = [
    ("gguf", gguf),
    ("safetensors_header", safetensors_header),
    ("dialects", any_dialect),
    ("config", config),
    ("index", index),
    ("tokenizer_json", tokenizer_json),
    ("tokenizer_gguf", tokenizer_gguf),
    ("chat_template", chat_template),
    ("grammar", grammar),
    ("image", image),
];

/// Configs for models of safetensors files; the first byte of an input picks one.
const CONFIGS: [&str; 4] = [
    r#"{}"#,
    r#"{"hidden_size": 128, "quantization": {"bits": 4, "group_size": 64, "m": {"bits": 8, "group_size": 32}, "n": false}}"#,
    r#"{"quantization": {"mode": "kquant", "per_tensor": {"a": "q8_0", "b": "q4_k", "c": "iq4_xs"}}}"#,
    r#"{"quantization": {"mode": "mxfp4", "group_size": 32, "bits": 4}}"#,
];

/// More layers than this only take time: a graph is built layer by layer.
const MOST_LAYERS: u64 = 64;

/// The bytes of a GGUF file: the container, its config, tensors and tokenizer.
pub fn gguf(data: &[u8]) -> bool {
    exercise(&[("model.gguf", Bytes::from(data.to_vec()))]) > 0
}

/// A safetensors header. The first byte of the input picks a config, the next two say how many bytes
/// of data follow the header, the rest is the header's text; its length is put before it, so that
/// the fuzzer need not guess it. The input as a whole is tried as a file as well.
pub fn safetensors_header(data: &[u8]) -> bool {
    let raw = Bytes::from(data.to_vec());
    let _ = keeve_checkpoint::safetensors::parse("raw".as_ref(), &raw);
    let [config, low, high, header @ ..] = data else { return false };
    let config = CONFIGS[usize::from(*config) % CONFIGS.len()];
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header);
    file.resize(file.len() + usize::from(u16::from_le_bytes([*low, *high])), 7);
    exercise(&[
        ("config.json", Bytes::from(config.as_bytes().to_vec())),
        ("model.safetensors", Bytes::from(file)),
    ]) > 0
}

/// Every dialect of safetensors: a config and tensors of any names, types and shapes; see [`dialects`].
pub fn any_dialect(data: &[u8]) -> bool {
    dialects::files(data).is_some_and(|files| exercise(&files) > 0)
}

/// A `config.json`: opening a model with it, and the graph of its architecture.
pub fn config(data: &[u8]) -> bool {
    let files = [("config.json", Bytes::from(data.to_vec())), ("model.safetensors", one_tensor())];
    let Ok(checkpoint) = Checkpoint::from_memory(&files) else { return false };
    let config = checkpoint.config();
    if config["num_hidden_layers"].as_u64().is_some_and(|layers| layers > MOST_LAYERS) {
        return false;
    }
    keeve_models::build(config).is_ok()
}

/// Models in several files: an index of safetensors files and their headers, or parts of a GGUF file. The first byte of
/// the input says which; two lengths of two bytes cut the rest into three.
pub fn index(data: &[u8]) -> bool {
    let [kind, a, b, c, d, rest @ ..] = data else { return false };
    let cut = |low: &u8, high: &u8| usize::from(u16::from_le_bytes([*low, *high]));
    let Some((first, rest)) = rest.split_at_checked(cut(a, b)) else { return false };
    let Some((second, third)) = rest.split_at_checked(cut(c, d)) else { return false };
    let bytes = |part: &[u8]| Bytes::from(part.to_vec());
    let decoded = if kind % 2 == 0 {
        // Headers as text, each with as much data as it needs.
        exercise(&[
            ("config.json", bytes(b"{}")),
            ("model.safetensors.index.json", bytes(first)),
            ("model-00001-of-00002.safetensors", safetensors(second)),
            ("model-00002-of-00002.safetensors", safetensors(third)),
        ])
    } else {
        exercise(&[
            ("m-00001-of-00003.gguf", bytes(first)),
            ("m-00002-of-00003.gguf", bytes(second)),
            ("m-00003-of-00003.gguf", bytes(third)),
        ])
    };
    decoded > 0
}

/// A `tokenizer.json`: reading it, encoding a text and decoding that.
pub fn tokenizer_json(data: &[u8]) -> bool {
    let tokenizer = keeve_engine::Tokenizer::from_json(data, &["</s>"]);
    tokenizer.is_ok_and(|tokenizer| round_trip(&tokenizer))
}

/// The tokenizer in the metadata of a GGUF file: reading it, encoding a text and decoding that.
pub fn tokenizer_gguf(data: &[u8]) -> bool {
    let bytes = Bytes::from(data.to_vec());
    let tables = keeve_checkpoint::gguf::parse("fuzz".as_ref(), &bytes)
        .and_then(|file| GgufTokenizer::from_metadata(&file.metadata));
    let Ok(Some(tables)) = tables else { return false };
    let tokenizer = keeve_engine::gguf_tokenizer::build(&tables);
    tokenizer.is_ok_and(|tokenizer| round_trip(&tokenizer))
}

/// A chat template: compiling it, and rendering conversations with it.
pub fn chat_template(data: &[u8]) -> bool {
    let Ok(source) = std::str::from_utf8(data) else { return false };
    let named = BTreeMap::from([("eos_token".to_owned(), "<|im_end|>".to_owned())]);
    let special = ["<|im_start|>", "<|im_end|>", "</s>"].map(str::to_owned);
    let Ok(template) = ChatTemplate::new(source, &named, &special) else { return false };
    let messages = [
        Message::text("system", "Be brief."),
        Message::text("user", "<|im_end|> Hello, {{ world }}"),
        Message::text("assistant", "<think>\nso\n</think>\n\nHi."),
        Message::text("user", "More."),
    ];
    let options = RenderOptions { add_generation_prompt: true, ..RenderOptions::default() };
    let rendered = template.render_segments(&messages, &options);
    if let Ok(segments) = &rendered {
        for segment in segments.iter().filter(|segment| segment.trusted) {
            assert!(special.contains(&segment.text), "{segment:?}");
        }
    }
    rendered.is_ok()
}

/// What an answer must look like: a JSON schema, a regular expression or Lark text, by the first byte.
pub fn grammar(data: &[u8]) -> bool {
    let Some((kind, data)) = data.split_first() else { return false };
    let Ok(text) = std::str::from_utf8(data) else { return false };
    let grammar = match kind % 4 {
        0 => Grammar::Regex(text.to_owned()),
        1 => Grammar::Lark(text.to_owned()),
        _ => match serde_json::from_str(text) {
            Ok(schema) => Grammar::JsonSchema(schema),
            Err(_) => return false,
        },
    };
    let taken = grammar.check();
    if let Err(error) = &taken {
        assert!(!error.to_string().contains('\n'), "{error}");
    }
    taken.is_ok()
}

#[allow(clippy::expect_used, reason = "the settings are written here")]
static PROCESSOR: LazyLock<Processor> = LazyLock::new(|| {
    const SETTINGS: &str = r#"{"patch_size": 4, "min_pixels": 64, "max_pixels": 1024}"#;
    // Small, so that most of the time goes into reading files.
    let limits = Limits { bytes: 1 << 16, side: 256, pixels: 1 << 14, allocation: 1 << 20 };
    Processor::from_json(SETTINGS, "settings").expect("sound settings").with_limits(limits)
});

/// An image file: its header, and its pixels as patches.
pub fn image(data: &[u8]) -> bool {
    let grid = PROCESSOR.grid(data);
    let patches = PROCESSOR.process(data);
    if let Ok(patches) = &patches {
        assert_eq!(grid.as_ref(), Ok(&patches.grid));
        assert_eq!(patches.pixels.len(), patches.rows() * PROCESSOR.width());
    }
    patches.is_ok()
}
