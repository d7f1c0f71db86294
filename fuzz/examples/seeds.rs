//! Writes small valid inputs for each target to the folders `corpus/<target>`.

use std::path::Path;

use keeve_checkpoint::gguf::{self, Array, Value, ValueType};
use keeve_codec::Codec;
use serde_json::json;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    gguf_seeds(&corpus.join("gguf"))?;
    safetensors_seeds(&corpus.join("safetensors_header"))?;
    Ok(())
}

fn gguf_seeds(folder: &Path) -> Result<(), Box<dyn std::error::Error>> {
    std::fs::create_dir_all(folder)?;
    for architecture in ["llama", "qwen3"] {
        let key = |name: &str| format!("{architecture}.{name}");
        let metadata = [
            ("general.architecture".into(), Value::string(architecture)),
            (key("block_count"), Value::u32(1)),
            (key("embedding_length"), Value::u32(32)),
            (key("attention.head_count"), Value::u32(2)),
            (key("attention.head_count_kv"), Value::u32(1)),
            (key("attention.layer_norm_rms_epsilon"), Value::F32(1e-5)),
            (key("rope.scaling.type"), Value::string("yarn")),
            (key("rope.scaling.factor"), Value::F32(4.0)),
            ("tokenizer.ggml.model".into(), Value::string("gpt2")),
            ("tokenizer.ggml.tokens".into(), Value::Array(Array::of_strings(["a", "b"]))),
            ("tokenizer.ggml.token_type".into(), Value::Array(Array::of_i32(&[1, 3]))),
            ("tokenizer.ggml.scores".into(), Value::Array(Array::of_f32(&[0.5, 1.0]))),
            ("tokenizer.ggml.merges".into(), Value::Array(Array::of_strings(["a b"]))),
            ("tokenizer.ggml.eos_token_id".into(), Value::u32(1)),
            ("tokenizer.ggml.add_bos_token".into(), Value::Bool(true)),
            ("other".into(), Value::Signed(ValueType::I16, -1)),
        ];
        let metadata: Vec<(&str, Value)> =
            metadata.iter().map(|(key, value): &(String, Value)| (&**key, value.clone())).collect();
        let tensor = |name: &str, codec: Codec, shape: &[usize]| gguf::Announced {
            name: name.into(),
            codec,
            shape: shape.into(),
        };
        let q8 = [1u8; 34 * 4];
        let tensors = [
            (tensor("token_embd.weight", Codec::Q8_0, &[4, 32]), &q8[..]),
            (tensor("blk.0.attn_q.weight", Codec::Q8_0, &[4, 32]), &q8[..]),
            (tensor("blk.0.attn_q.bias", Codec::F32, &[4]), &q8[..16]),
            (tensor("output_norm.weight", Codec::BF16, &[32]), &q8[..64]),
        ];
        gguf::write(&folder.join(architecture), &metadata, tensors)?;
    }
    Ok(())
}

fn safetensors_seeds(folder: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let headers = [
        json!({"__metadata__": {"format": "pt"},
               "a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
               "b": {"dtype": "I64", "shape": [1], "data_offsets": [16, 24]}}),
        json!({"m.weight": {"dtype": "U32", "shape": [2, 16], "data_offsets": [0, 128]},
               "m.scales": {"dtype": "BF16", "shape": [2, 2], "data_offsets": [128, 136]},
               "m.biases": {"dtype": "BF16", "shape": [2, 2], "data_offsets": [136, 144]}}),
        json!({"a.weight": {"dtype": "U8", "shape": [2, 34], "data_offsets": [0, 68]},
               "b.weight": {"dtype": "U8", "shape": [1, 144], "data_offsets": [68, 212]},
               "a.scales": {"dtype": "U8", "shape": [1], "data_offsets": [212, 213]}}),
        json!({"m.weight": {"dtype": "U32", "shape": [2, 16], "data_offsets": [0, 128]},
               "m.scales": {"dtype": "U8", "shape": [2, 4], "data_offsets": [128, 136]}}),
    ];
    for (config, (header, data)) in headers.iter().zip([24u16, 144, 213, 136]).enumerate() {
        let mut input = vec![config as u8];
        input.extend(data.to_le_bytes());
        input.extend(header.to_string().bytes());
        std::fs::write(folder.join(format!("config{config}")), input)?;
    }
    Ok(())
}
