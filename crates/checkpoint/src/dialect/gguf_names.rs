//! GGUF models: ggml's tensor names, the row order of q and k in llama, and gemma's norms, to which
//! the converter added the 1 that Hugging Face adds when it runs the model.
//!
//! Names: ggml-org/llama.cpp `gguf-py/gguf/tensor_mapping.py`. Row order: `permute` in its
//! `convert_hf_to_gguf.py`: ggml rotates neighbouring pairs for the architecture `llama`, where
//! Hugging Face rotates halves, so the converter moved the rows of q and k within each head.

use std::collections::HashSet;

use keeve_codec::{Codec, PackedTensor, Parts};

use super::gguf_architectures::{Architecture, known};
use super::{Entry, packed};
use crate::gguf::Gguf;
use crate::{Error, StoredTensor, StoredType};

/// The divisors of rope frequencies; they become part of the config.
pub(super) const ROPE_FREQS: &str = "rope_freqs.weight";

/// Modules outside layers.
const GLOBAL: [(&str, &str); 3] =
    [("token_embd", "model.embed_tokens"), ("output_norm", "model.norm"), ("output", "lm_head")];

/// Modules of a layer.
const LAYER: [(&str, &str); 11] = [
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

/// The canonical name of a ggml tensor, if there is one: `blk.3.attn_q.weight` is
/// `model.layers.3.self_attn.q_proj.weight`.
fn canonical(name: &str, architecture: &Architecture) -> Option<String> {
    let (module, kind) =
        name.rsplit_once('.').filter(|(_, kind)| matches!(*kind, "weight" | "bias"))?;
    let find = |map: &[(&str, &'static str)], module: &str| {
        map.iter().find(|(ggml, _)| *ggml == module).map(|(_, name)| *name)
    };
    if let Some(global) = find(&GLOBAL, module) {
        return Some(format!("{global}.{kind}"));
    }
    let (layer, module) = module.strip_prefix("blk.")?.split_once('.')?;
    let plain = !layer.is_empty() && layer.bytes().all(|digit| digit.is_ascii_digit());
    let own = architecture.own(module);
    let module = own.or_else(|| find(&LAYER, module)).filter(|_| plain)?;
    Some(format!("model.layers.{layer}.{module}.{kind}"))
}

/// The name that ggml's programs give the weight that Hugging Face calls `name` in a model of
/// `architecture` (ggml's name of it), if there is one.
pub fn ggml_name(name: &str, architecture: &str) -> Option<String> {
    let known = known(architecture)?;
    let (module, kind) = name.rsplit_once('.')?;
    let (place, module) = match module.strip_prefix("model.layers.") {
        None => (String::new(), module),
        Some(rest) => {
            let (layer, module) = rest.split_once('.')?;
            (format!("blk.{layer}."), module)
        }
    };
    known
        .layer_names()
        .chain(GLOBAL.iter().chain(&LAYER))
        .filter(|(_, own)| *own == module)
        .map(|(ggml, _)| format!("{place}{ggml}.{kind}"))
        // Where maps differ, reading says which one is meant.
        .find(|ggml| canonical(ggml, known).as_deref() == Some(name))
}

/// Translates the tensors of a file. Those of architectures without a name map keep ggml's names,
/// so that they can be listed.
///
/// # Errors
/// If the metadata of a model whose q and k were permuted lack the number of heads.
pub(crate) fn translate(gguf: &Gguf, architecture: &str) -> Result<Vec<Entry>, Error> {
    let known = known(architecture);
    let scaled = scaled_modules(gguf);
    let is_scaled =
        |name: &str| name.strip_suffix(".weight").is_some_and(|module| scaled.contains(module));
    let mut entries = Vec::new();
    for tensor in &gguf.tensors {
        let name = known.and_then(|known| canonical(&tensor.name, known));
        let name = name.unwrap_or_else(|| tensor.name.clone());
        let heads_key = match name.rsplit_once('.').map_or("", |(module, _)| module) {
            module if !known.is_some_and(|known| known.permuted) || module.is_empty() => None,
            module if module.ends_with(".self_attn.q_proj") => Some("head_count"),
            module if module.ends_with(".self_attn.k_proj") => Some("head_count_kv"),
            _ => None,
        };
        let is_more_by_one =
            known.is_some_and(|known| known.plus_one) && name.ends_with("norm.weight");
        entries.push(match heads_key {
            _ if tensor.kind == StoredType::Codec(Codec::Nvfp4) && is_scaled(&tensor.name) => {
                let format = tensor.kind.to_string();
                let reason = format!(
                    "is {format} with a scale in a tensor of its own, which keeve does not read"
                );
                Entry::refused(name, &[tensor], format, reason)
            }
            None if is_more_by_one => minus_one(name, tensor),
            Some(key) => {
                let heads = heads(gguf, architecture, key)?;
                permuted(name, tensor, heads)
            }
            None => Entry::whole(name, tensor),
        });
    }
    Ok(entries)
}

/// The modules whose weight is to be multiplied by `<module>.scale`, as llama.cpp writes for converted
/// NVFP4 models.
fn scaled_modules(gguf: &Gguf) -> HashSet<&str> {
    gguf.tensors.iter().filter_map(|tensor| tensor.name.strip_suffix(".scale")).collect()
}

/// `<architecture>.attention.<key>`; the number of kv heads defaults to that of heads.
fn heads(gguf: &Gguf, architecture: &str, key: &str) -> Result<usize, Error> {
    let count = format!("{architecture}.attention.head_count");
    let key = format!("{architecture}.attention.{key}");
    let found = match gguf.metadata.count(&key)? {
        Some(heads) => Some(heads),
        None => gguf.metadata.count(&count)?,
    };
    let wrong = || Error::field(gguf.metadata.path(), &count, "is missing");
    let heads = found.ok_or_else(wrong)?;
    usize::try_from(heads)
        .map_err(|_| Error::field(gguf.metadata.path(), &key, format!("is {heads}, too many")))
}

/// A norm of gemma, as Hugging Face has it: 1 less than what is stored. Exact for gains of a half
/// and more; below, the rounding is at most 2^-25.
fn minus_one(name: String, tensor: &StoredTensor) -> Entry {
    if tensor.kind != StoredType::F32 {
        let reason = format!("is a norm stored as {}, expected F32", tensor.kind);
        return Entry::refused(name, &[tensor], tensor.kind.to_string(), reason);
    }
    let (shape, source) = (tensor.shape.clone(), tensor.clone());
    Entry::new(name, &[tensor], shape, Codec::F32, move || {
        let stored = source.to_f32().map_err(|error| error.to_string())?;
        let values: Vec<f32> = stored.iter().map(|value| value - 1.0).collect();
        PackedTensor::from_f32(1, values.len(), &values)
            .map_err(|error| format!("is wrong: {error}"))
    })
}

/// A weight or bias of q or k, its rows brought to Hugging Face's order when it is read.
fn permuted(name: String, tensor: &StoredTensor, heads: usize) -> Entry {
    let StoredType::Codec(codec) = tensor.kind else { return Entry::whole(name, tensor) };
    let (shape, data) = (tensor.shape.clone(), tensor.data.clone());
    Entry::new(name, &[tensor], shape.clone(), codec, move || {
        let parts = Parts::data(data.clone());
        let is_bias = shape.len() == 1;
        if is_bias && !codec.is_float() {
            return Err(format!("is a bias stored as {codec}, expected floats"));
        }
        // The values of a bias belong to rows.
        let rows = match shape.as_slice() {
            [rows] => packed(codec, &[*rows, 1], false, parts),
            shape => packed(codec, shape, false, parts),
        }?;
        let order = halves_order(rows.rows(), heads)?;
        let moved = rows.reorder_rows(&order).map_err(|error| format!("is wrong: {error}"))?;
        if is_bias { flat(codec, &moved) } else { Ok(moved) }
    })
}

/// One row of the values of a column.
fn flat(codec: Codec, column: &PackedTensor) -> Result<PackedTensor, String> {
    PackedTensor::new(codec, 1, 1, column.rows(), column.parts().clone())
        .map_err(|error| format!("is wrong: {error}"))
}

/// For each row in Hugging Face's order, its place in ggml's: within a head of `d` rows,
/// `s * (d / 2) + j` comes from `2 * j + s` (s is 0 or 1).
fn halves_order(rows: usize, heads: usize) -> Result<Vec<usize>, String> {
    let per_head = rows.checked_div(heads).filter(|d| *d > 0 && *d * heads == rows && d % 2 == 0);
    let d = per_head.ok_or_else(|| {
        format!("has {rows} rows, which {heads} heads do not divide into even numbers")
    })?;
    let place = |row: usize| {
        let (head, within) = (row / d, row % d);
        let (s, j) = (within / (d / 2), within % (d / 2));
        head * d + 2 * j + s
    };
    Ok((0..rows).map(place).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (ggml, name) in [
            ("token_embd.weight", Some("model.embed_tokens.weight")),
            ("output.weight", Some("lm_head.weight")),
            ("blk.12.ffn_down.weight", Some("model.layers.12.mlp.down_proj.weight")),
            ("blk.0.attn_q.bias", Some("model.layers.0.self_attn.q_proj.bias")),
            ("blk.x.attn_q.bias", None),
            ("blk..attn_q.bias", None),
            ("blk.0.attn_q.scale", None),
            ("rope_freqs.weight", None),
        ] {
            let found = canonical(ggml, known("llama").unwrap());
            assert_eq!(found.as_deref(), name, "{ggml}");
            if let Some(name) = name {
                assert_eq!(ggml_name(name, "llama").as_deref(), Some(ggml));
            }
        }
        // The same name for different places.
        let place = |architecture: &str| {
            canonical("blk.1.ffn_norm.weight", known(architecture).unwrap()).unwrap()
        };
        assert_eq!(place("llama"), "model.layers.1.post_attention_layernorm.weight");
        assert_eq!(place("gemma3"), "model.layers.1.pre_feedforward_layernorm.weight");
        let up = |architecture: &str, name: &str| canonical(name, known(architecture).unwrap());
        assert_eq!(
            up("phi3", "blk.1.ffn_up.weight").unwrap(),
            "model.layers.1.mlp.gate_up_proj.weight"
        );
        assert_eq!(
            up("llama", "blk.1.ffn_up_exps.weight").unwrap(),
            "model.layers.1.block_sparse_moe.switch_mlp.up_proj.weight"
        );
        assert_eq!(up("qwen3", "blk.1.ffn_up_exps.weight"), None);
        let post = "model.layers.1.post_attention_layernorm.weight";
        assert_eq!(ggml_name(post, "llama").as_deref(), Some("blk.1.ffn_norm.weight"));
        assert_eq!(ggml_name(post, "gemma3").as_deref(), Some("blk.1.post_attention_norm.weight"));
        assert_eq!(ggml_name(post, "unknown"), None);
    }

    #[test]
    fn order_of_halves() {
        // Two heads of four rows: ggml has a0 b0 a1 b1, where a is the first half and b the second.
        assert_eq!(halves_order(8, 2), Ok(vec![0, 2, 1, 3, 4, 6, 5, 7]));
        for (rows, heads) in [(8, 0), (8, 3), (6, 2), (4, 8)] {
            let error = halves_order(rows, heads).unwrap_err();
            assert!(error.contains(&format!("{heads} heads")), "{error}");
        }
    }
}
