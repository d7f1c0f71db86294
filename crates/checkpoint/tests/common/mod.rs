//! Small model files made by code, shared by the tests.
#![allow(dead_code)] // Each test binary uses its part.

use std::path::PathBuf;

use keeve_checkpoint::gguf::{self, Array, Value};
use keeve_checkpoint::{Checkpoint, Error};
use keeve_codec::{Bytes, Codec, PackedTensor};
use serde_json::json;

/// The folder of reference data.
pub fn test_data() -> PathBuf {
    std::env::var_os("KEEVE_TEST_DATA").expect("KEEVE_TEST_DATA is not set").into()
}

/// Files by name, as a model in memory.
pub type Model = Vec<(String, Vec<u8>)>;

pub fn open(model: &Model) -> Result<Checkpoint, Error> {
    let files: Vec<(&str, Bytes)> =
        model.iter().map(|(name, bytes)| (name.as_str(), Bytes::from(bytes.clone()))).collect();
    Checkpoint::from_memory(&files)
}

/// A safetensors file with the header `header` and `data` bytes of data.
pub fn safetensors(header: &str, data: usize) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.bytes());
    file.extend((0..data).map(|byte| byte as u8));
    file
}

/// A safetensors file of tensors given as (name, type, shape, bytes).
pub fn safetensors_of(tensors: &[(&str, &str, &[usize], usize)]) -> Vec<u8> {
    let (mut header, mut at) = (serde_json::Map::new(), 0);
    for (name, dtype, shape, bytes) in tensors {
        let entry = json!({"dtype": dtype, "shape": shape, "data_offsets": [at, at + bytes]});
        header.insert((*name).into(), entry);
        at += bytes;
    }
    safetensors(&serde_json::Value::from(header).to_string(), at)
}

/// A model of these tensors with this config.
pub fn model(config: serde_json::Value, tensors: &[(&str, &str, &[usize], usize)]) -> Model {
    vec![
        ("config.json".into(), config.to_string().into_bytes()),
        ("model.safetensors".into(), safetensors_of(tensors)),
    ]
}

/// A tensor with its bytes: name, type, shape.
pub type Tensor = (String, &'static str, Vec<usize>, Vec<u8>);

pub fn tensor(name: &str, dtype: &'static str, shape: &[usize], bytes: Vec<u8>) -> Tensor {
    (name.into(), dtype, shape.into(), bytes)
}

/// A model of these tensors, whose bytes count, with this config.
pub fn model_of(config: serde_json::Value, tensors: &[Tensor]) -> Model {
    let described: Vec<(&str, &str, &[usize], usize)> = tensors
        .iter()
        .map(|(name, kind, shape, data)| (&**name, *kind, &**shape, data.len()))
        .collect();
    let mut file = safetensors_of(&described);
    let data: usize = tensors.iter().map(|(.., data)| data.len()).sum();
    file.truncate(file.len() - data);
    tensors.iter().for_each(|(.., data)| file.extend(data));
    vec![
        ("config.json".into(), config.to_string().into_bytes()),
        ("model.safetensors".into(), file),
    ]
}

/// Numbers that are the same on every run: Knuth's MMIX generator.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, end: u32) -> u32 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (((self.0 >> 32) * u64::from(end)) >> 32) as u32
    }
}

/// The tensor 'p.weight', which must be the only one.
pub fn read(model: &Model) -> Result<PackedTensor, String> {
    let checkpoint = open(model).map_err(|error| error.to_string())?;
    assert_eq!(checkpoint.tensors().len(), 1, "the others are parts");
    let tensor = checkpoint.tensor("p.weight").map_err(|error| error.to_string())?;
    let info = checkpoint.info("p.weight").unwrap();
    assert_eq!(info.shape, [tensor.rows(), tensor.cols()]);
    assert_eq!(info.codec, Some(tensor.codec()));
    assert_eq!(info.has_basis, tensor.basis().is_some());
    Ok(tensor)
}

/// Checks that both decodes of a tensor give `expected`, bit for bit but for the sign of zeros.
pub fn assert_values(tensor: &PackedTensor, expected: &[f32], what: &str) {
    assert!(keeve_codec::decode(tensor) == expected, "{what}");
    let mut row = vec![0.0; tensor.cols()];
    for (index, expected) in expected.chunks_exact(tensor.cols()).enumerate() {
        keeve_codec::row_values(tensor, index, &mut row);
        assert!(row == expected, "{what}, row {index}");
    }
}

/// A small valid GGUF of a llama with two heads of four, one kv head, and permuted q and k.
pub fn llama_gguf() -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let values: Vec<u8> = (0..8 * 32).flat_map(|n| (n as f32).to_le_bytes()).collect();
    let blocks: Vec<u8> = (0..18 * 8).map(|n| n as u8).collect();
    let tensor = |name: &str, codec, shape: &[usize]| gguf::Announced {
        name: name.into(),
        codec,
        shape: shape.into(),
    };
    let tensors = [
        (tensor("token_embd.weight", Codec::F32, &[8, 32]), &values[..]),
        (tensor("blk.0.attn_q.weight", Codec::F32, &[8, 32]), &values[..]),
        (tensor("blk.0.attn_k.weight", Codec::Q4_0, &[4, 32]), &blocks[..18 * 4]),
        (tensor("blk.0.attn_v.weight", Codec::Q4_0, &[4, 32]), &blocks[..18 * 4]),
        (tensor("blk.0.attn_q.bias", Codec::F32, &[8]), &values[..32]),
        (tensor("rope_freqs.weight", Codec::F32, &[2]), &values[4..12]),
    ];
    gguf::write(&path, &llama_metadata(), tensors).unwrap();
    std::fs::read(&path).unwrap()
}

pub fn llama_metadata() -> Vec<(&'static str, Value)> {
    vec![
        ("general.architecture", Value::string("llama")),
        ("llama.block_count", Value::u32(1)),
        ("llama.embedding_length", Value::u32(32)),
        ("llama.feed_forward_length", Value::u32(64)),
        ("llama.context_length", Value::u32(128)),
        ("llama.attention.head_count", Value::u32(2)),
        ("llama.attention.head_count_kv", Value::u32(1)),
        ("llama.attention.key_length", Value::u32(4)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
        ("llama.rope.freq_base", Value::F32(500_000.0)),
        ("tokenizer.ggml.model", Value::string("gpt2")),
        ("tokenizer.ggml.pre", Value::string("llama-bpe")),
        ("tokenizer.ggml.tokens", Value::Array(Array::of_strings(["a", "b", "ab"]))),
        ("tokenizer.ggml.token_type", Value::Array(Array::of_i32(&[1, 1, 3]))),
        ("tokenizer.ggml.merges", Value::Array(Array::of_strings(["a b"]))),
        ("tokenizer.ggml.eos_token_id", Value::u32(2)),
        ("tokenizer.ggml.add_bos_token", Value::Bool(false)),
        ("tokenizer.chat_template", Value::string("{{ messages }}")),
    ]
}

/// Bytes of a GGUF written field by field, so that they can lie.
pub struct RawGguf(pub Vec<u8>);

impl RawGguf {
    pub fn new(version: u32, tensors: u64, values: u64) -> Self {
        let mut raw = Self(b"GGUF".to_vec());
        raw.u32(version).u64(tensors).u64(values);
        raw
    }

    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    pub fn text(&mut self, text: &str) -> &mut Self {
        self.u64(text.len() as u64);
        self.0.extend(text.bytes());
        self
    }

    /// A tensor's record.
    pub fn tensor(&mut self, name: &str, ne: &[u64], kind: u32, offset: u64) -> &mut Self {
        self.text(name).u32(ne.len() as u32);
        for n in ne {
            self.u64(*n);
        }
        self.u32(kind).u64(offset)
    }

    /// Pads to 32 bytes and adds `data` bytes of data.
    pub fn data(&mut self, data: usize) -> Vec<u8> {
        self.0.resize(self.0.len().next_multiple_of(32), 0);
        self.0.resize(self.0.len() + data, 0);
        self.0.clone()
    }
}
