//! Valid small files, damaged at random: whatever the bytes, opening and reading must not panic.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{Model, llama_gguf, model, open};
use proptest::prelude::*;
use serde_json::json;

/// Uses everything a checkpoint offers.
fn exercise(model: &Model) {
    let Ok(checkpoint) = open(model) else { return };
    for info in checkpoint.tensors() {
        if let Ok(tensor) = checkpoint.tensor(&info.name) {
            assert_eq!(Some(tensor.codec()), info.codec);
            assert_eq!(tensor.len(), info.shape.iter().product::<usize>());
            assert_eq!(tensor.bytes() as u64, info.bytes);
        }
    }
    let _ = checkpoint.gguf_tokenizer();
}

/// One change to a file.
#[derive(Debug, Clone)]
enum Damage {
    Set(prop::sample::Index, u8),
    Word(prop::sample::Index, u64),
    Truncate(prop::sample::Index),
    Copy(prop::sample::Index, prop::sample::Index, usize),
    Remove(prop::sample::Index, usize),
}

fn damage() -> impl Strategy<Value = Damage> {
    let index = || any::<prop::sample::Index>();
    let word = prop_oneof![
        any::<u64>(),
        0..300u64,
        Just(u64::MAX),
        Just(1 << 63),
        (0..64u32).prop_map(|bit| 1 << bit)
    ];
    prop_oneof![
        4 => (index(), any::<u8>()).prop_map(|(at, byte)| Damage::Set(at, byte)),
        3 => (index(), word).prop_map(|(at, word)| Damage::Word(at, word)),
        1 => index().prop_map(Damage::Truncate),
        2 => (index(), index(), 1..64usize).prop_map(|(from, to, n)| Damage::Copy(from, to, n)),
        1 => (index(), 1..64usize).prop_map(|(at, n)| Damage::Remove(at, n)),
    ]
}

fn apply(file: &mut Vec<u8>, damage: &[Damage]) {
    for change in damage {
        if file.is_empty() {
            return;
        }
        match change {
            Damage::Set(at, byte) => *at.get_mut(file) = *byte,
            Damage::Word(at, word) => {
                let at = at.index(file.len());
                for (byte, new) in file[at..].iter_mut().zip(word.to_le_bytes()) {
                    *byte = new;
                }
            }
            Damage::Truncate(at) => file.truncate(at.index(file.len())),
            Damage::Copy(from, to, n) => {
                let from = from.index(file.len());
                let piece = file[from..file.len().min(from + n)].to_vec();
                let to = to.index(file.len());
                file.splice(to..to, piece);
            }
            Damage::Remove(at, n) => {
                let at = at.index(file.len());
                file.drain(at..file.len().min(at + n));
            }
        }
    }
}

fn affine_model() -> Model {
    let mut model = model(
        json!({"hidden_size": 128, "rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6},
               "quantization": {"bits": 4, "group_size": 64, "m": {"bits": 8, "group_size": 32}}}),
        &[
            ("model.embed_tokens.weight", "U32", &[2, 16], 128),
            ("model.embed_tokens.scales", "F16", &[2, 2], 8),
            ("model.embed_tokens.biases", "F16", &[2, 2], 8),
            ("model.norm.weight", "BF16", &[4], 8),
        ],
    );
    let index = json!({"weight_map": {"model.norm.weight": "model.safetensors"}}).to_string();
    model.push(("model.safetensors.index.json".into(), index.into_bytes()));
    model
}

fn kquant_model() -> Model {
    let codecs = json!({"a": "q8_0", "b": "q4_k"});
    model(
        json!({"quantization": {"mode": "kquant", "per_tensor": codecs}}),
        &[
            ("a.weight", "U8", &[2, 34], 68),
            ("a.scales", "U8", &[1], 1),
            ("b.weight", "U8", &[1, 144], 144),
            ("c.weight", "F32", &[2], 8),
        ],
    )
}

#[test]
fn the_undamaged_files_are_read_whole() {
    for model in [affine_model(), kquant_model(), vec![("m.gguf".into(), llama_gguf())]] {
        let checkpoint = open(&model).unwrap();
        assert!(checkpoint.tensors().len() > 1);
        for info in checkpoint.tensors() {
            checkpoint.tensor(&info.name).unwrap();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    #[test]
    fn damaged_gguf(damage in prop::collection::vec(damage(), 1..6)) {
        let mut file = llama_gguf_once().clone();
        apply(&mut file, &damage);
        exercise(&vec![("m.gguf".into(), file)]);
    }

    #[test]
    fn damaged_safetensors(
        damage in prop::collection::vec(damage(), 1..6),
        kquant in any::<bool>(),
        which in any::<prop::sample::Index>(),
    ) {
        let mut model = if kquant { kquant_model() } else { affine_model() };
        let file = which.get_mut(&mut model);
        apply(&mut file.1, &damage);
        exercise(&model);
    }
}

fn llama_gguf_once() -> &'static Vec<u8> {
    static FILE: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    FILE.get_or_init(llama_gguf)
}
