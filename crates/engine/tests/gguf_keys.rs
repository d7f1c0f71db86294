//! What is wrong with a GGUF file's metadata is told by their own keys.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use keeve_checkpoint::Checkpoint;
use keeve_checkpoint::gguf::{self, Announced, Value};
use keeve_codec::Codec;
use keeve_engine::{Engine, EngineOptions};

/// What is said of a model whose metadata are these.
fn said(metadata: &[(&'static str, Value)]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    let values = [0u8; 4 * 8 * 32];
    let tensor =
        Announced { name: "token_embd.weight".into(), codec: Codec::F32, shape: [8, 32].into() };
    gguf::write(&path, metadata, [(tensor, &values[..])]).unwrap();
    let opened = Checkpoint::open(&path);
    let loaded = opened.map_err(|error| error.to_string()).and_then(|checkpoint| {
        let loaded = Engine::load(&checkpoint, &EngineOptions::default(), &|_| true);
        loaded.map(drop).map_err(|error| error.to_string())
    });
    loaded.unwrap_err()
}

#[test]
fn errors_name_the_keys_of_the_file() {
    let whole = [
        ("general.architecture", Value::string("llama")),
        ("llama.block_count", Value::u32(1)),
        ("llama.embedding_length", Value::u32(32)),
        ("llama.feed_forward_length", Value::u32(64)),
        ("llama.context_length", Value::u32(128)),
        ("llama.attention.head_count", Value::u32(2)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
    ];
    for key in [
        "llama.block_count",
        "llama.embedding_length",
        "llama.feed_forward_length",
        "llama.attention.head_count",
    ] {
        let without: Vec<_> = whole.iter().filter(|(name, _)| *name != key).cloned().collect();
        let error = said(&without);
        assert!(error.contains(&format!("m.gguf: metadata '{key}' is missing")), "{error}");
    }
    let mut other = whole.to_vec();
    other[0].1 = Value::string("unheard");
    let error = said(&other);
    assert!(error.contains("metadata 'general.architecture' is \"unheard\""), "{error}");
    let mut none = whole.to_vec();
    none[1].1 = Value::u32(0);
    let error = said(&none);
    assert!(error.contains("metadata 'llama.block_count' is 0, expected"), "{error}");
}
